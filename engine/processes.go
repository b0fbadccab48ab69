package engine

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Processes is what the kernel shows of containers' processes. It is asked where the engine's word does not come: what it says is
// of use only for a container of which it has shown a process before, because the engine may be another host's.
type Processes interface {
	// Has reports whether pid is a process of the container, and has not ended.
	Has(containerID string, pid int) bool
	// Of returns all of the container's processes that have not ended.
	Of(containerID string) ([]int, error)
	// Kill ends all processes of the container with SIGKILL. A process is held before it is asked whose it is, so that a pid that
	// is given away anew meanwhile can't be meant. Having none is no error.
	Kill(containerID string) error
}

// kernel finds processes by their control groups: every engine puts a container's into a group whose name has the container's
// id, which is 64 random digits and not to be mistaken. Processes of containers inside of it are its own, too.
type kernel struct{ proc string }

// Has reads one file.
func (k kernel) Has(id string, pid int) bool { return pid > 0 && k.within(id, pid) && !k.ended(pid) }

func (k kernel) within(id string, pid int) bool {
	groups, err := os.ReadFile(filepath.Join(k.proc, strconv.Itoa(pid), "cgroup"))
	return err == nil && len(id) == 64 && bytes.Contains(groups, []byte(id))
}

// ended reports whether a process is a zombie without threads: it has ended, and its parent has not heard of it.
func (k kernel) ended(pid int) bool {
	stat, err := os.ReadFile(filepath.Join(k.proc, strconv.Itoa(pid), "stat"))
	if err != nil {
		return errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH)
	}
	_, rest, _ := strings.Cut(string(stat[bytes.LastIndexByte(stat, ')')+1:]), " ")
	if !strings.HasPrefix(rest, "Z") && !strings.HasPrefix(rest, "X") {
		return false
	}
	threads, _ := os.ReadDir(filepath.Join(k.proc, strconv.Itoa(pid), "task"))
	return len(threads) <= 1
}

// Of looks at every process of the host.
func (k kernel) Of(id string) (pids []int, err error) {
	entries, err := os.ReadDir(k.proc)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil && k.Has(id, pid) {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// Kill looks at every process of the host.
func (k kernel) Kill(id string) error {
	pids, err := k.Of(id)
	for _, pid := range pids {
		err = errors.Join(err, k.kill(id, pid))
	}
	return err
}

func (k kernel) kill(id string, pid int) error {
	fd, err := unix.PidfdOpen(pid, 0)
	switch {
	case errors.Is(err, unix.ESRCH):
		return nil
	case err != nil:
		return fmt.Errorf("process %d can't be held, and is left alone: pidfd_open: %w", pid, err)
	}
	defer func() { _ = unix.Close(fd) }()
	if !k.within(id, pid) {
		return nil
	}
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("process %d could not be killed: %w", pid, err)
	}
	return nil
}
