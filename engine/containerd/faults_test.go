package containerd_test

import (
	"context"
	"crypto/rand"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/longshore-project/longshore/engine"
	"github.com/longshore-project/longshore/engine/containerd"
	"github.com/longshore-project/longshore/engine/enginetest"
	"github.com/longshore-project/longshore/protocol/acs"
	"github.com/longshore-project/longshore/test/images"
)

// world is a containerd with a Runtime and an image.
type world struct {
	*containerd.Runtime
	t        *testing.T
	d        *daemon
	root     string
	image    string
	networks containerd.Networks
	runtime  string // OCI
	logs     string // the program that takes output; empty: longshore-log
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, d: start(t), root: t.TempDir(), networks: bridged(t), runtime: os.Getenv("TEST_OCI_RUNTIME")}
	t.Cleanup(func() { _ = w.Close() })
	w.connect()
	w.image, _ = images.NewRegistry(t).MustPush(t, "base:1", images.Spec{})
	w.retry("pull", func(ctx context.Context) error { _, err := w.Pull(ctx, w.image, nil, nil); return err })
	return w
}

// connect makes a Runtime, as another agent would.
func (w *world) connect() {
	w.t.Helper()
	program, err := logProgram()
	if err != nil {
		w.t.Fatal(err)
	}
	if w.logs != "" {
		program = w.logs
	}
	if w.Runtime, err = containerd.New(containerd.Config{Address: w.d.socket(), Root: w.root, Namespace: "longshore-test", LogProgram: program, Networks: w.networks, OCIRuntime: w.runtime}); err != nil {
		w.t.Fatal(err)
	}
}

// retry does something until it succeeds: containerd may just be coming up.
func (w *world) retry(what string, f func(context.Context) error) {
	w.t.Helper()
	w.until(what, func() bool {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(w.t.Context()), 30*time.Second)
		defer cancel()
		return f(ctx) == nil
	})
}

func (w *world) until(what string, ok func() bool) {
	w.t.Helper()
	limit := time.Now().Add(60 * time.Second)
	for !ok() {
		if time.Now().After(limit) {
			w.t.Fatalf("waited in vain for %s", what)
		}
		<-time.After(10 * time.Millisecond)
	}
}

// run starts a container with a script, and takes it away at the end.
func (w *world) run(script string, change func(*engine.Spec)) string {
	w.t.Helper()
	name := "longshore-test-" + rand.Text()
	spec := engine.Spec{Name: name, Image: w.image, NetworkMode: "none", Labels: map[string]string{engine.LabelTaskArn: "arn:" + name}, EntryPoint: []string{"sh", "-c"}, Command: []string{script}}
	if change != nil {
		change(&spec)
	}
	id, err := w.Create(w.t.Context(), spec)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		w.retry("the end of "+name, func(ctx context.Context) error { return errors.Join(w.Stop(ctx, id, 0), w.Remove(ctx, id)) })
	})
	if err := w.Start(w.t.Context(), id); err != nil {
		w.t.Fatal(err)
	}
	return id
}

func (w *world) look(id string) engine.State {
	w.t.Helper()
	st, err := w.Inspect(context.WithoutCancel(w.t.Context()), id)
	if err != nil {
		w.t.Fatal(err)
	}
	return st
}

func (w *world) output(id string) string {
	var out strings.Builder
	_ = w.Logs(w.t.Context(), id, engine.LogOptions{}, &out)
	return out.String()
}

func TestContainersLiveThroughARestartOfContainerdAndOfTheAgent(t *testing.T) {
	w := newWorld(t)
	stays := w.run(enginetest.ScriptServe, nil)
	talks := w.run("trap 'exit 3' TERM; i=0; while :; do i=$((i+1)); echo $i; sleep 0.02; done", nil)
	w.until("some lines", func() bool { return strings.Count(w.output(talks), "\n") > 3 })
	before, talking := w.look(stays), w.look(talks)
	w.d.down()
	if _, err := w.Info(t.Context()); err == nil {
		t.Error("a containerd that is away answers")
	}
	if err := syscall.Kill(talking.Pid, syscall.SIGTERM); err != nil { // its end comes while nobody looks
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Error(err)
	}
	w.connect()
	w.until("the shim to say how it ended", func() bool { return w.told(talks) })
	if err := w.Close(); err != nil { // what was said is known to the next agent
		t.Error(err)
	}
	w.d.up(t)
	w.connect()
	w.retry("containerd", func(ctx context.Context) error { _, err := w.List(ctx); return err })
	if after := w.look(stays); after.Pid != before.Pid || !after.StartedAt.Equal(before.StartedAt) || after.Status != engine.StatusRunning {
		t.Errorf("before %+v, after %+v", before, after)
	}
	w.until("the end to be known", func() bool { return w.look(talks).Status == engine.StatusExited })
	if st := w.look(talks); st.FinishedAt.IsZero() || st.ExitCode != 3 || st.Error != "" {
		t.Errorf("ended as %+v", st)
	}
	lines := strings.Fields(w.output(talks))
	for i, l := range lines {
		if l != strconv.Itoa(i+1) {
			t.Fatalf("line %d is %s: a line is lost", i+1, l)
		}
	}
	if len(lines) < 4 {
		t.Errorf("of more than three lines %d are there", len(lines))
	}
}

// told reports whether a container's end was written down that its shim has told.
func (w *world) told(id string) bool {
	b, err := os.ReadFile(filepath.Join(w.root, "containers", id, "run.json"))
	return err == nil && strings.Contains(string(b), `"end":`)
}

func TestAnEndWhileContainerdIsAwayIsHeardFromTheShim(t *testing.T) {
	w := newWorld(t)
	dir := t.TempDir()
	waits := "while [ ! -e /dir/now ]; do sleep 0.02; done; "
	shared := func(s *engine.Spec) {
		s.Memory, s.Mounts = 16<<20, []engine.Mount{{Type: "bind", Source: dir, Target: "/dir"}}
	}
	fails, hungry := w.run(waits+"exit 7", shared), w.run(waits+"x=x; while :; do x=$x$x; done", shared)
	w.d.down()
	if err := os.WriteFile(filepath.Join(dir, "now"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{fails, hungry} {
		w.until("the shim to say how it ended", func() bool { return w.told(id) })
	}
	w.d.up(t)
	for id, code := range map[string]int{fails: 7, hungry: 137} {
		w.retry("the end to be known", func(ctx context.Context) error {
			st, err := w.Inspect(ctx, id)
			if err == nil && st.Status != engine.StatusExited {
				err = errors.New("not yet")
			}
			return err
		})
		if st := w.look(id); st.ExitCode != code || st.Error != "" || st.OOMKilled != (id == hungry) || st.FinishedAt.IsZero() || st.Pid != 0 {
			t.Errorf("ended as %+v", st)
		}
	}
	if err := w.Restart(t.Context(), fails); err != nil {
		t.Error(err)
	}
}

// parent is the process that a process was made by.
func parent(t *testing.T, pid int) int {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "status"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if v, is := strings.CutPrefix(line, "PPid:"); is {
			n, _ := strconv.Atoi(strings.TrimSpace(v))
			return n
		}
	}
	return 0
}

func TestAShimThatIsKilledTakesItsProcessWithItAndTheEndIsNamed(t *testing.T) {
	w := newWorld(t)
	id := w.run(enginetest.ScriptServe, nil)
	pid := w.look(id).Pid
	shim := parent(t, pid)
	if shim <= 1 {
		t.Fatalf("the parent of process %d is %d", pid, shim)
	}
	if err := syscall.Kill(shim, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	w.until("the end to be known", func() bool { return w.look(id).Status == engine.StatusExited })
	if st := w.look(id); st.ExitCode == 0 || st.FinishedAt.IsZero() || st.Pid != 0 {
		t.Errorf("ended as %+v", st)
	}
	w.until("the process to be gone", func() bool { return errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) })
}

func TestALogProcessThatIsKilledCostsLinesAndNotTheContainer(t *testing.T) {
	w := newWorld(t)
	id := w.run("trap 'exit 0' TERM; trap '' PIPE; while :; do echo x 2>/dev/null; sleep 0.05; done", nil)
	w.until("output", func() bool { return w.output(id) != "" })
	logger := logProcess(t, id)
	pid := w.look(id).Pid
	if err := syscall.Kill(logger, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	w.until("the log process to be gone", func() bool { return errors.Is(syscall.Kill(logger, 0), syscall.ESRCH) || zombie(logger) })
	if st := w.look(id); st.Status != engine.StatusRunning || st.Pid != pid {
		t.Errorf("afterwards: %+v", st)
	}
	if err := w.Stop(t.Context(), id, 20*time.Second); err != nil {
		t.Fatal(err)
	}
	if st := w.look(id); st.Status != engine.StatusExited || st.ExitCode != 0 {
		t.Errorf("ended as %+v", st)
	}
}

// logProcess is the process that takes a container's output.
func logProcess(t *testing.T, id string) (pid int) {
	t.Helper()
	procs, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, p := range procs {
		if b, err := os.ReadFile(p); err == nil && strings.Contains(string(b), "longshore-log\x00settings\x00") && strings.Contains(string(b), id) {
			pid, _ = strconv.Atoi(strings.Split(p, "/")[2])
		}
	}
	if pid == 0 {
		t.Fatal("there is no log process")
	}
	return pid
}

func zombie(pid int) bool {
	b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	return err == nil && strings.Contains(string(b), ") Z ")
}

// A log process may wait for a service that is away when its container ends; shims give it twelve seconds, and answer nobody meanwhile.
func TestTheEndOfAContainerDoesNotWaitForItsLogProcess(t *testing.T) {
	w := newWorld(t)
	dir := t.TempDir()
	w.logs = filepath.Join(dir, "slow-log")
	there := func(name string) bool { _, err := os.Stat(filepath.Join(dir, name)); return err == nil }
	if err := os.WriteFile(w.logs, []byte("#!/bin/sh\ntrap '' TERM\nexec 5<&-\ncat <&3 >/dev/null\nwhile [ ! -e "+dir+"/go ]; do sleep 0.02; done\necho over >"+dir+"/over\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	w.connect()
	id := w.run("exit 4", nil)
	w.until("the end to be known", func() bool { return w.look(id).Status == engine.StatusExited })
	if st := w.look(id); st.ExitCode != 4 || there("over") {
		t.Errorf("it waited for its log: %+v", st)
	}
	if err := os.WriteFile(filepath.Join(dir, "go"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := w.Remove(t.Context(), id); err != nil {
		t.Error(err)
	}
}

func TestAfterARebootWhatRanHasEnded(t *testing.T) {
	w := newWorld(t)
	id := w.run(enginetest.ScriptServe, nil)
	pid := w.look(id).Pid
	shim := parent(t, pid)
	// What a reboot does: containerd, shim and process are gone at once, and what containerd keeps in its state folder as well.
	w.d.down()
	for _, p := range []int{shim, pid} {
		_ = syscall.Kill(p, syscall.SIGKILL)
	}
	w.until("both to be gone", func() bool { return errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) || zombie(pid) })
	w.unmount()
	for _, dir := range []string{filepath.Join(w.d.dir, "state"), filepath.Join("/run/containerd/runc/longshore-test", id)} {
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
	}
	w.d.up(t)
	w.retry("containerd", func(ctx context.Context) error { _, err := w.List(ctx); return err })
	st := w.look(id)
	if st.Status != engine.StatusExited || st.ExitCode != 255 || !strings.Contains(st.Error, "how the process ended is not known") || st.FinishedAt.IsZero() {
		t.Errorf("afterwards: %+v", st)
	}
	if err := w.Restart(t.Context(), id); err != nil {
		t.Error(err)
	}
	if st := w.look(id); st.Status != engine.StatusRunning || st.Error != "" {
		t.Errorf("started again: %+v", st)
	}
}

// unmount takes away the mounts of containerd's state folder.
func (w *world) unmount() {
	b, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		w.t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if at := strings.Fields(line)[1]; strings.HasPrefix(at, filepath.Join(w.d.dir, "state")) {
			_ = syscall.Unmount(at, syscall.MNT_DETACH)
		}
	}
}

func TestVolumesFromAnotherContainerAreItsOwnAndAnonymousOnesGoWithTheLastThatHasThem(t *testing.T) {
	w := newWorld(t)
	w.image, _ = images.NewRegistry(t).MustPush(t, "volumes:1", images.Spec{Volumes: []string{"/anon"}})
	w.retry("pull", func(ctx context.Context) error { _, err := w.Pull(ctx, w.image, nil, nil); return err })
	dir := t.TempDir()
	first := w.run("echo mine >/anon/file; echo ours >/host/file; "+enginetest.ScriptServe, func(s *engine.Spec) {
		s.Mounts = []engine.Mount{{Type: "bind", Source: dir, Target: "/host"}}
	})
	w.until("it to serve", func() bool { return strings.Contains(w.output(first), "serving") })
	name := w.look(first).Name
	second := w.run("cat /anon/file /host/file; touch /anon/x 2>/dev/null && echo writable || echo read-only; "+enginetest.ScriptServe, func(s *engine.Spec) { s.VolumesFrom = []string{name + ":ro"} })
	w.until("it to have read", func() bool { return strings.Contains(w.output(second), "serving") })
	if got := w.output(second); !strings.HasPrefix(got, "mine\nours\nread-only\n") {
		t.Errorf("it wrote %q", got)
	}
	volumes := func() int { entries, _ := os.ReadDir(filepath.Join(w.root, "volumes")); return len(entries) }
	for i, id := range []string{first, second} {
		if err := errors.Join(w.Stop(t.Context(), id, 0), w.Remove(t.Context(), id)); err != nil {
			t.Fatal(err)
		}
		if got := volumes(); got != 1-i {
			t.Errorf("after %d of both are gone there are %d volumes", i+1, got)
		}
	}
	_, err := w.Create(t.Context(), engine.Spec{Name: "x", Image: w.image, Labels: map[string]string{engine.LabelTaskArn: "a"}, EntryPoint: []string{"sh"}, VolumesFrom: []string{name}})
	if !errdefs.IsInvalidArgument(err) {
		t.Errorf("volumes of a container that is gone: %v", err)
	}
}

func TestAContainerWhoseLogCanNotBeHadDoesNotStartAndSaysWhy(t *testing.T) {
	w := newWorld(t)
	name := "longshore-test-" + rand.Text()
	id, err := w.Create(t.Context(), engine.Spec{Name: name, Image: w.image, NetworkMode: "none", Labels: map[string]string{engine.LabelTaskArn: "arn:" + name}, EntryPoint: []string{"sh"}, Env: []string{"PASSWORD=planted"},
		HostConfig: acs.HostConfig{LogConfig: &acs.LogConfig{Type: "syslog", Config: map[string]string{"syslog-address": "tcp://127.0.0.1:1"}}}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.Remove(context.WithoutCancel(t.Context()), id) })
	if err := w.Start(t.Context(), id); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "the log driver syslog: syslog server 127.0.0.1:1") {
		t.Errorf("started: %v", err)
	}
	if b, err := os.ReadFile(filepath.Join(w.root, "containers", id, "log.json")); err != nil || strings.Contains(string(b), "planted") {
		t.Errorf("the log's settings hold variables that it was not to have: %v", err)
	}
}

func TestWhatIsRememberedOfImagesGoesWithThem(t *testing.T) {
	w := newWorld(t)
	registry := images.NewRegistry(t)
	for i := range 5 {
		ref, _ := registry.MustPush(t, "changing:1", images.Spec{Env: []string{"I=" + strconv.Itoa(i)}})
		img, err := w.Pull(t.Context(), ref, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		w.image = ref
		id := w.run(enginetest.ScriptServe, nil)
		if err := errors.Join(w.Stop(t.Context(), id, 0), w.Remove(t.Context(), id), w.RemoveImage(t.Context(), img.ID)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.Images(t.Context()); err != nil {
		t.Fatal(err)
	}
	if manifests, users := w.Remembered(); manifests != 1 || users != 0 { // the world's own, of which there was no container
		t.Errorf("%d manifests and %d users are remembered", manifests, users)
	}
}
