package containerd

import (
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// What the kernel knows of a container, by its control group.

const cgroups = "/sys/fs/cgroup"

// killedForMemory asks the kernel whether it has ended a process of the container for want of memory. The control group is there as
// long as the task is.
func killedForMemory(at string) bool {
	for _, file := range []string{filepath.Join(cgroups, "memory", at, "memory.oom_control"), filepath.Join(cgroups, at, "memory.events")} {
		b, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(b)) {
			key, value, _ := strings.Cut(strings.TrimSpace(line), " ")
			if n, err := strconv.Atoi(value); key == "oom_kill" && err == nil && n > 0 {
				return true
			}
		}
	}
	return false
}

// orphanWait is how long it is waited for the end of processes that were killed.
const orphanWait = 3 * time.Second

// endOrphans ends what is left of a container without a task, and reports whether nothing is left. A shim that is killed leaves its process
// to nobody; containerd ends that when it sees the shim's end, but it may have been away.
func endOrphans(ctx context.Context, b box) bool {
	ctx, cancel := context.WithTimeout(ctx, orphanWait)
	defer cancel()
	again := time.NewTicker(5 * time.Millisecond)
	defer again.Stop()
	for {
		left := processesOf(b)
		if len(left) == 0 {
			return true
		}
		for _, pid := range left {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			return false
		}
	}
}

// processesOf are the processes in a container's control group and those beneath it, in whichever hierarchy has it.
func processesOf(b box) (pids []int) {
	at := cgroupOf(b.rec, b.ID)
	for _, hierarchy := range []string{"", "pids", "memory", "cpu"} {
		_ = filepath.WalkDir(filepath.Join(cgroups, hierarchy, at), func(file string, d fs.DirEntry, err error) error {
			if err != nil || d.Name() != "cgroup.procs" {
				return nil // it goes while it is looked at
			}
			list, _ := os.ReadFile(file)
			for _, f := range strings.Fields(string(list)) {
				if pid, err := strconv.Atoi(f); err == nil && pid > 0 { // 0 is of another namespace
					pids = append(pids, pid)
				}
			}
			return nil
		})
		if len(pids) > 0 {
			return pids
		}
	}
	return nil
}
