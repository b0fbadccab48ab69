package cgroup

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/longshore-project/longshore/engine"
)

// kernel is this machine's control groups v1.
func kernel(t *testing.T, opt Options) *Groups {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("the tests of control groups need root: sudo go test ./engine/cgroup")
	}
	opt.Driver, opt.Version = "cgroupfs", 1
	if opt.Owner == "" {
		opt.Owner = "test " + rand.Text()
	}
	g, err := New(opt)
	if err != nil {
		t.Fatalf("these tests need control groups v1 at /sys/fs/cgroup: %v", err)
	}
	return g
}

// group ensures a group for the time of a test and returns its id.
func group(t *testing.T, g *Groups, l engine.TaskLimits) string {
	t.Helper()
	id := "test_" + rand.Text()
	parent, err := g.Ensure(t.Context(), id, l)
	t.Cleanup(func() {
		if err := g.Remove(context.WithoutCancel(t.Context()), id); err != nil {
			t.Error(err)
		}
	})
	if err != nil || parent != "/ecs/"+id {
		t.Fatalf("%q %v", parent, err)
	}
	return id
}

func (g *Groups) file(controller, id, name string) string {
	return filepath.Join(g.layout.group(g.layout.Controllers[controller], id), name)
}

func show(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(data))
}

// number reads one figure out of a file: the whole of it, or what stands behind key.
func number(t *testing.T, path, key string) int64 {
	t.Helper()
	text := show(t, path)
	for line := range strings.Lines(text) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), " "); ok && name == key {
			text = value
		}
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return n
}

// within is a shell command that runs in the group from its first instruction on.
func within(t *testing.T, g *Groups, id, script string) *exec.Cmd {
	var enter strings.Builder
	for _, c := range []string{"cpu", "cpuacct", "memory", "pids"} {
		dir := g.layout.group(g.layout.Controllers[c], id)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		enter.WriteString("echo $$ >" + dir + "/cgroup.procs && ")
	}
	cmd := exec.CommandContext(t.Context(), "sh", "-c", enter.String()+script)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGKILL) }
	return cmd
}

func TestTheKernelHoldsWhatWasWantedAndAProbeLeavesNothing(t *testing.T) {
	g := kernel(t, Options{Pids: 50})
	if err := g.Probe(t.Context()); err != nil {
		t.Fatal(err)
	}
	if left, _ := filepath.Glob("/sys/fs/cgroup/*/ecs/probe_*"); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	id := group(t, g, engine.TaskLimits{CPU: 0.25, Memory: 64 << 20})
	for path, want := range map[string]string{
		g.file("cpu", id, "cpu.cfs_quota_us"): "25000", g.file("cpu", id, "cpu.shares"): "256",
		g.file("memory", id, "memory.limit_in_bytes"): "67108864", g.file("pids", id, "pids.max"): "50",
	} {
		if got := show(t, path); got != want {
			t.Errorf("%s shows %s, not %s", path, got, want)
		}
	}
}

func TestEnsuringAgainRepairsWhatDiffersAndTouchesNothingElse(t *testing.T) {
	g := kernel(t, Options{})
	limits := engine.TaskLimits{CPU: 1, Memory: 64 << 20}
	id := group(t, g, limits)
	if err := os.WriteFile(g.file("memory", id, "memory.limit_in_bytes"), []byte("-1"), 0); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(g.file("memory", id, "memory.soft_limit_in_bytes"), []byte("4194304"), 0); err != nil { // not ours to judge
		t.Fatal(err)
	}
	if _, err := g.Ensure(t.Context(), id, limits); err != nil {
		t.Fatal(err)
	}
	if got := show(t, g.file("memory", id, "memory.limit_in_bytes")); got != "67108864" {
		t.Error(got)
	}
	if got := show(t, g.file("memory", id, "memory.soft_limit_in_bytes")); got != "4194304" {
		t.Error(got)
	}
}

func TestConcurrentEnsuresOfOneTaskAgree(t *testing.T) {
	g := kernel(t, Options{})
	limits := engine.TaskLimits{CPU: 1, Memory: 64 << 20}
	id := group(t, g, limits)
	if err := g.Remove(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	errs := make(chan error)
	for range 8 {
		go func() {
			_, err := g.Ensure(t.Context(), id, limits)
			errs <- err
		}()
	}
	for range 8 {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
}

func TestAMemoryHogIsKilledByTheTasksLimit(t *testing.T) {
	g := kernel(t, Options{})
	id := group(t, g, engine.TaskLimits{Memory: 32 << 20})
	err := within(t, g, id, "exec tail /dev/zero").Run()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Fatalf("the hog ended with %v", err)
	}
	if n := number(t, g.file("memory", id, "memory.oom_control"), "oom_kill"); n == 0 {
		t.Error("the kernel counts no kill for memory")
	}
}

func TestTheKernelSaysWhichContainerLostAProcess(t *testing.T) {
	g := kernel(t, Options{})
	id := group(t, g, engine.TaskLimits{Memory: 32 << 20})
	hog, neighbour := strings.Repeat("a", 64), strings.Repeat("b", 64)
	for _, c := range []string{hog, neighbour} {
		if err := os.Mkdir(g.file("memory", id, c), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	enter := "echo $$ >" + g.file("memory", id, hog) + "/cgroup.procs && exec tail /dev/zero"
	if err := exec.CommandContext(t.Context(), "sh", "-c", enter).Run(); err == nil {
		t.Fatal("the hog lived")
	}
	for container, want := range map[string]string{hog: "1 true", neighbour: "0 true", strings.Repeat("c", 64): "0 false", "../../x": "0 false"} {
		n, ok := g.Killed(id, container)
		if got := fmt.Sprint(n, " ", ok); got != want {
			t.Errorf("%.8s: %s, want %s", container, got, want)
		}
	}
}

func TestTheQuotaHoldsForAllProcessesTogether(t *testing.T) {
	g := kernel(t, Options{})
	id := group(t, g, engine.TaskLimits{CPU: 0.2})
	cmd := within(t, g, id, "while :; do :; done & while :; do :; done")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	stat := g.file("cpu", id, "cpu.stat")
	for number(t, stat, "nr_periods") < 15 { // the kernel's own clock, however busy the machine is
		if err := unix.Nanosleep(&unix.Timespec{Nsec: 20e6}, nil); err != nil && err != unix.EINTR {
			t.Fatal(err)
		}
	}
	used := float64(number(t, g.file("cpuacct", id, "cpuacct.usage"), ""))
	periods, throttled := float64(number(t, stat, "nr_periods")), number(t, stat, "nr_throttled")
	_ = cmd.Cancel()
	_ = cmd.Wait()
	if ratio := used / (periods * 100e6); ratio > 0.2*1.5 {
		t.Errorf("%.3f of a CPU was used; 0.2 is allowed", ratio)
	}
	if throttled == 0 {
		t.Error("the kernel throttled nobody")
	}
}

func TestAForkBombIsBounded(t *testing.T) {
	g := kernel(t, Options{Pids: 12})
	id := group(t, g, engine.TaskLimits{})
	out, err := within(t, g, id, `bomb() { bomb & bomb; }; bomb`).CombinedOutput()
	if err == nil || !strings.Contains(strings.ToLower(string(out)), "fork") {
		t.Errorf("the bomb was not stopped by a failing fork: %v %.200s", err, out)
	}
	if n := number(t, g.file("pids", id, "pids.events"), "max"); n == 0 {
		t.Error("the kernel counts no refused fork")
	}
	kill(t, g.file("pids", id, "cgroup.procs"))
}

// kill ends every process of a group, and waits until they are gone.
func kill(t *testing.T, procs string) {
	t.Helper()
	for pids := strings.Fields(show(t, procs)); len(pids) > 0; pids = strings.Fields(show(t, procs)) {
		for _, p := range pids {
			if pid, err := strconv.Atoi(p); err == nil && pid > 1 {
				_ = unix.Kill(pid, unix.SIGKILL)
			}
		}
	}
}

func TestRemovingTakesWhatDeadContainersLeftAndIsRefusedWhileAProcessIsThere(t *testing.T) {
	g := kernel(t, Options{})
	id := group(t, g, engine.TaskLimits{Memory: 32 << 20})
	for _, c := range []string{"memory", "devices", "freezer"} { // as runc does
		if err := os.MkdirAll(g.file(c, id, "container/inner"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	cmd := within(t, g, id, "echo in; exec sleep 1000")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	if err := g.Remove(t.Context(), id); !errors.Is(err, unix.EBUSY) || !strings.Contains(err.Error(), "a process is in it") {
		t.Errorf("with a process in it: %v", err)
	}
	_ = cmd.Cancel()
	_ = cmd.Wait()
	for range 2 { // again is nothing
		if err := g.Remove(t.Context(), id); err != nil {
			t.Fatal(err)
		}
	}
	if left, _ := filepath.Glob("/sys/fs/cgroup/*/ecs/" + id); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestASweepRemovesTheOwnOrphansOnly(t *testing.T) {
	mine, other := kernel(t, Options{}), kernel(t, Options{})
	kept, orphan, foreign := group(t, mine, engine.TaskLimits{}), group(t, mine, engine.TaskLimits{Memory: 32 << 20}), group(t, other, engine.TaskLimits{})
	removed, err := mine.Sweep(t.Context(), func(id string) bool { return id == kept })
	if err != nil || len(removed) != 1 || removed[0] != orphan {
		t.Errorf("removed %v, %v", removed, err)
	}
	for _, id := range []string{kept, foreign} {
		if _, err := os.Stat(mine.file("cpu", id, "")); err != nil {
			t.Error(err)
		}
	}
}

func TestAFailureNamesTheFileAndTheValue(t *testing.T) {
	g := kernel(t, Options{})
	id := "test_" + rand.Text()
	t.Cleanup(func() { _ = g.Remove(context.WithoutCancel(t.Context()), id) })
	g.opt.Pids = 1 << 62
	_, err := g.Ensure(t.Context(), id, engine.TaskLimits{})
	if err == nil || !strings.Contains(err.Error(), "/sys/fs/cgroup/pids/ecs/"+id+`/pids.max can't be set to "4611686018427387904"`) {
		t.Error(err)
	}
	for _, id := range []string{"", "..", "a/b", "-x", strings.Repeat("a", 200)} {
		if _, err := g.Ensure(t.Context(), id, engine.TaskLimits{}); err == nil {
			t.Errorf("the id %q was taken", id)
		}
	}
}

// This machine's v2 hierarchy has none of the controllers, which v1 holds. What can be tried on it is the refusal.
func TestAV2HierarchyWithoutControllersIsFoundOutByTheProbe(t *testing.T) {
	g, err := New(Options{Root: "/sys/fs/cgroup/unified", Driver: "cgroupfs", Version: 2})
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Probe(t.Context()); err == nil || !strings.Contains(err.Error(), `/sys/fs/cgroup/unified/cgroup.subtree_control can't be set to "+cpu +memory +pids"`) {
		t.Error(err)
	}
	if left, _ := filepath.Glob("/sys/fs/cgroup/unified/ecs/probe_*"); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// A v2 tree of ordinary files: what is written where, and that a value which the kernel does not take is an error.
func TestV2FilesAreWrittenAndReadBack(t *testing.T) {
	root := t.TempDir()
	mounts := filepath.Join(t.TempDir(), "mountinfo")
	if err := os.WriteFile(mounts, []byte("26 22 0:24 / "+root+" rw - cgroup2 cgroup2 rw\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	g, err := New(Options{Root: root, Driver: "cgroupfs", Version: 2, Mounts: mounts, Pids: 7})
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(root, "ecs", "t1")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	files := map[string]string{"cpu.max": "max 100000", "cpu.weight": "100", "memory.max": "max", "pids.max": "max", "cgroup.subtree_control": "cpu memory pids"}
	for name, value := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(value+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, d := range []string{root, filepath.Join(root, "ecs")} {
		if err := os.WriteFile(filepath.Join(d, "cgroup.subtree_control"), []byte("cpuset cpu io memory pids\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if parent, err := g.Ensure(t.Context(), "t1", engine.TaskLimits{CPU: 1.5, Memory: 1 << 30}); err != nil || parent != "/ecs/t1" {
		t.Fatalf("%q %v", parent, err)
	}
	for name, want := range map[string]string{"cpu.max": "150000 100000", "cpu.weight": "59", "memory.max": "1073741824", "pids.max": "7"} {
		if got := show(t, filepath.Join(dir, name)); got != want {
			t.Errorf("%s shows %q, not %q", name, got, want)
		}
	}
	if err := os.Remove(filepath.Join(dir, "memory.max")); err != nil {
		t.Fatal(err)
	}
	if _, err := g.Ensure(t.Context(), "t1", engine.TaskLimits{CPU: 1.5, Memory: 1 << 30}); err == nil || !strings.Contains(err.Error(), `memory.max can't be set to "1073741824": no such file`) {
		t.Error(err)
	}
}
