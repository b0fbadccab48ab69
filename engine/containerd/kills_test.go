package containerd_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/longshore-project/longshore/engine"
	"github.com/longshore-project/longshore/engine/enginetest"
)

// TestKillsOfEverythingAtOnce kills containerd, and with it what belongs to containers: nothing, the log process, the shim, both. Whose
// shim lives goes on; whose does not has ended, its process is gone, and it leaves nothing behind.
func TestKillsOfEverythingAtOnce(t *testing.T) {
	w := newWorld(t)
	for _, c := range []struct {
		name             string
		shim, log, agent bool
	}{
		{name: "containerd"},
		{name: "containerd and the log process", log: true},
		{name: "containerd and the shim", shim: true},
		{name: "all three", shim: true, log: true},
		{name: "all three, and the agent", shim: true, log: true, agent: true},
	} {
		t.Log(c.name)
		id := w.run(enginetest.ScriptServe+" & trap '' PIPE; trap 'exit 0' TERM; while :; do echo x 2>/dev/null; sleep 0.05; done", func(s *engine.Spec) {
			s.NetworkMode, s.HostConfig.IpcMode = "bridge", "shareable"
		})
		w.until("output", func() bool { return strings.Contains(w.output(id), "x") })
		before := w.look(id)
		shim, logger := parent(t, before.Pid), logProcess(t, id)
		victims := []int{w.d.cmd.Process.Pid}
		if c.shim {
			victims = append(victims, shim)
		}
		if c.log {
			victims = append(victims, logger)
		}
		for _, pid := range victims {
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
		}
		_ = w.d.cmd.Wait()
		if c.agent {
			_ = w.Close()
		}
		w.d.up(t)
		if c.agent {
			w.connect()
		}
		w.retry("containerd", func(ctx context.Context) error { _, err := w.List(ctx); return err })
		if !c.shim {
			if st := w.look(id); st.Status != engine.StatusRunning || st.Pid != before.Pid || !st.StartedAt.Equal(before.StartedAt) || len(st.Addresses) == 0 {
				t.Errorf("afterwards %+v, before %+v", st, before)
			}
			if err := w.Stop(t.Context(), id, 20*time.Second); err != nil {
				t.Fatal(err)
			}
			if st := w.look(id); st.Status != engine.StatusExited || st.ExitCode != 0 {
				t.Errorf("stopped: %+v", st)
			}
		} else {
			w.until("the end to be known", func() bool { return w.look(id).Status == engine.StatusExited })
			if err := syscall.Kill(before.Pid, 0); err == nil && !zombie(before.Pid) {
				t.Error("it is said to have ended, and its process runs")
			}
			if st := w.look(id); st.ExitCode != 255 && st.ExitCode != 137 || st.FinishedAt.IsZero() {
				t.Errorf("ended as %+v", st)
			}
			if err := w.Restart(t.Context(), id); err != nil {
				t.Fatal(err)
			}
			if st := w.look(id); st.Status != engine.StatusRunning || st.Error != "" {
				t.Errorf("started again: %+v", st)
			}
		}
		w.retry("its removal", func(ctx context.Context) error { return errors.Join(w.Stop(ctx, id, 0), w.Remove(ctx, id)) })
		w.nothingOf(id)
	}
}

// nothingOf waits until the host has nothing of a container that was removed.
func (w *world) nothingOf(id string) {
	w.t.Helper()
	left := ""
	defer func() {
		if left != "" {
			w.t.Error("left:", left)
		}
	}()
	w.until("nothing to be left of the container", func() bool {
		left = ""
		if mounts, err := os.ReadFile("/proc/self/mounts"); err != nil || strings.Contains(string(mounts), id) {
			left += " mounts"
		}
		procs, _ := filepath.Glob("/proc/[0-9]*/cmdline")
		for _, p := range procs {
			if b, err := os.ReadFile(p); err == nil && strings.Contains(string(b), id) {
				left += " " + p
			}
		}
		for _, pattern := range []string{filepath.Join(w.root, "containers", id), "/sys/fs/cgroup/*/longshore/" + id, "/sys/fs/cgroup/longshore/" + id, filepath.Join(w.d.dir, "state/io.containerd.runtime.v2.task/longshore-test", id)} {
			if found, _ := filepath.Glob(pattern); len(found) > 0 {
				left += " " + found[0]
			}
		}
		return left == ""
	})
}
