package engine

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

const someID = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

// proc writes what the kernel would show of a process.
func proc(t *testing.T, dir string, pid int, group, state string, threads int) {
	t.Helper()
	at := filepath.Join(dir, strconv.Itoa(pid))
	for i := range threads {
		if err := os.MkdirAll(filepath.Join(at, "task", strconv.Itoa(pid+i)), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range map[string]string{"cgroup": group, "stat": strconv.Itoa(pid) + " (a ) Z (b) " + state + " 1 2 3"} {
		if err := os.WriteFile(filepath.Join(at, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func TestAContainersProcessesAreThoseInItsControlGroupThatHaveNotEnded(t *testing.T) {
	k := kernel{t.TempDir()}
	v1, v2, other := "9:memory:/ecs/x/"+someID+"\n0::/\n", "0::/system.slice/docker-"+someID+".scope\n", "0::/docker/"+strings.Repeat("f", 64)+"\n"
	proc(t, k.proc, 10, v1, "S", 1)
	proc(t, k.proc, 11, v2, "D", 1)
	proc(t, k.proc, 12, other, "S", 1)
	proc(t, k.proc, 13, v2, "Z", 1)
	proc(t, k.proc, 14, v2, "Z", 2) // its first thread has ended, and another one runs on
	if err := os.WriteFile(filepath.Join(k.proc, "uptime"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	got, err := k.Of(someID)
	if err != nil || len(got) != 3 || got[0] != 10 || got[1] != 11 || got[2] != 14 {
		t.Errorf("%v, %v", got, err)
	}
	for _, pid := range []int{0, -1, 12, 13, 99} {
		if k.Has(someID, pid) {
			t.Errorf("%d counts as its process", pid)
		}
	}
	if k.Has("", 10) || k.Has(someID[:12], 10) {
		t.Error("a part of an id is taken for it")
	}
}

func TestAProcessOfSomethingElseIsNotKilled(t *testing.T) {
	cmd := exec.Command("sleep", "100")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	if err := (kernel{"/proc"}).Kill(someID); err != nil {
		t.Error(err)
	}
	if err := (kernel{"/proc"}).kill(someID, cmd.Process.Pid); err != nil {
		t.Error(err)
	}
	// What was a container's when it was looked at, and is not when it is held, is left alone.
	k := kernel{t.TempDir()}
	proc(t, k.proc, cmd.Process.Pid, "0::/docker/"+strings.Repeat("f", 64)+"\n", "S", 1)
	if err := k.kill(someID, cmd.Process.Pid); err != nil {
		t.Error(err)
	}
	if (kernel{"/proc"}).ended(cmd.Process.Pid) {
		t.Fatal("a foreign process was killed")
	}
	// The same process held as the container's own is.
	proc(t, k.proc, cmd.Process.Pid, "0::/docker/"+someID+"\n", "S", 1)
	if err := k.Kill(someID); err != nil {
		t.Error(err)
	}
	if err := cmd.Wait(); err == nil || err.Error() != "signal: killed" {
		t.Errorf("it ended with %v", err)
	}
}
