package enginetest

import (
	"bytes"
	"context"
	"crypto/rand"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/longshore-project/longshore/engine"
	"github.com/longshore-project/longshore/protocol/acs"
)

// Subject is a Runtime under test and the world that the suite needs around it.
type Subject struct {
	Runtime engine.Runtime
	// Images are local images, built as [Images] describes them; by the names given there.
	Images map[string]string
	// Open is pullable without credentials and holds Images' "base"; OpenDigest is the digest of its manifest.
	Open, OpenDigest string
	// Closed is pullable with Auth only.
	Closed string
	Auth   engine.RegistryAuth
	// Missing is a reference to a registry that answers, but has no such image; Unreachable to one that does not answer.
	Missing, Unreachable string
	// Foreign makes a running container that is not ours; untouched reports whether it still runs.
	Foreign func(t *testing.T) (id, name string, untouched func() bool)
	// Down and Hung return Runtimes for an engine that does not answer, and for one that accepts calls and never answers.
	Down, Hung func(t *testing.T) engine.Runtime
}

// Scripts that the suite runs in containers as sh -c <script>. An engine without a shell, as Fake is, recognises them.
const (
	ScriptServe    = "trap 'exit 143' TERM; echo serving; while :; do sleep 1000 & wait $!; done"
	ScriptStubborn = "trap '' TERM; echo stubborn; while :; do sleep 1; done"
	ScriptUSR1     = "trap 'exit 5' USR1; echo waiting; while :; do sleep 1000 & wait $!; done"
	ScriptExit7    = "exit 7"
	ScriptCount    = "echo x >>/count; wc -l </count; exit 3"
	ScriptOOM      = "x=0123456789; while :; do x=$x$x; done"
	ScriptLines    = "echo one; echo two; echo three"
	ScriptReport   = "echo user=$(id -u):$(id -g) dir=$(pwd) from=$FROM mine=$MINE"
	ScriptRoot     = "touch /new 2>/dev/null && echo writable || echo read-only"
	ScriptSlow     = "echo first; sleep 0.3; echo second; sleep 0.3; exit 4"
	ScriptMounts   = "cat /in/file; touch /in/x 2>/dev/null && echo in writable || echo in read-only; echo new >/out/file; touch /tmpfs/x && echo tmpfs writable"
)

// Scripts that the suite runs in a container that runs, by Exec.
const (
	ExecEcho    = "echo out; echo err >&2; exit 7"
	ExecCopy    = "cat; echo end"
	ExecReport  = ScriptReport
	ExecSignal  = "trap 'echo caught; exit 9' INT; echo ready; while :; do sleep 0.05; done"
	ExecForever = "echo ready; while :; do sleep 0.05; done"
	ExecOrphan  = "sleep 30 & echo parent; exit 3"
	ExecSize    = "until [ \"$(stty size)\" = '24 80' ]; do sleep 0.05; done; stty size; while [ \"$(stty size)\" = '24 80' ]; do sleep 0.05; done; stty size"
	ExecKeys    = "stty -echo; echo ready; cat; echo end" // with a terminal
	// ExecCountMarked counts the processes that have ExecMark among their arguments, but for itself.
	ExecCountMarked = "grep -l longshore-[m]ark /proc/[0-9]*/cmdline 2>/dev/null | wc -l"
	ExecMark        = "longshore-mark"
)

// orphanLives is how long ExecOrphan's child holds its output.
const orphanLives = 30 * time.Second

// Images describes the images that the suite needs, by name.
func Images() map[string]FakeImage {
	base := engine.ImageConfig{Env: []string{"PATH=/bin", "FROM=image", "MINE=image"}, WorkingDir: "/work", Labels: map[string]string{"made.by": "image"}}
	entry := engine.ImageConfig{
		Env: []string{"PATH=/bin"}, User: "app", EntryPoint: []string{"echo", "entry"}, Command: []string{"command"}, StopSignal: "SIGUSR1",
	}
	files := map[string]FakeFile{
		"/etc/passwd":  {Data: "root:x:0:0:root:/:/bin/sh\napp:x:1000:1001::/:/bin/sh\n"},
		"/etc/group":   {Data: "root:x:0:\napp:x:1001:\n"},
		"/work":        {Mode: typeDir | 0o755, UID: 1000, GID: 1001},
		"/files/own":   {Data: "secret", Mode: typeReg | 0o4640, UID: 1000, GID: 1001},
		"/files/link":  {Link: "own"},
		"/files/abs":   {Link: "/etc/group"},
		"/files/out":   {Link: "../../../../etc/passwd"},
		"/files/loop":  {Link: "loop"},
		"/files/dead":  {Link: "nothing"},
		"/files/deep":  {Link: "sub/../abs"},
		"/files/sub":   {Link: "/far/away"},
		"/far/away/up": {Link: "../near"},
		"/far/near":    {Data: "near"},
		"/far/abs":     {Data: "far"},
	}
	return map[string]FakeImage{
		"base":  {Config: base, Files: files, Size: 2 << 20},
		"entry": {Config: entry, Files: map[string]FakeFile{"/etc/passwd": files["/etc/passwd"], "/etc/group": files["/etc/group"]}, Size: 2 << 20},
	}
}

// Run runs the suite. factory is called once for each test and may register clean-up with it. Other users of the same
// engine do not disturb the suite, nor does it them.
func Run(t *testing.T, factory func(t *testing.T) Subject) {
	groups := []struct {
		name string
		test func(*testing.T, *suite)
	}{
		{"the engine", engineTests}, {"create", createTests}, {"start", startTests}, {"restart", restartTests}, {"stop", stopTests}, {"remove", removeTests},
		{"foreign containers", foreignTests}, {"output", logsTests}, {"further processes", execTests}, {"events", eventsTests}, {"processes", processTests},
		{"settings", settingsTests}, {"named volumes", volumeTests}, {"imported images", importTests}, {"loaded images", loadTests}, {"shared namespaces", namespaceTests}, {"networks", networkTests}, {"local images", imageTests}, {"pulls", pullTests},
		{"files of images", fileTests}, {"an engine that fails", failureTests},
	}
	for _, g := range groups {
		t.Run(g.name, func(t *testing.T) {
			g.test(t, &suite{Subject: factory(t)})
		})
	}
}

type suite struct{ Subject }

// patience is how long the suite waits for what must come; nothing waits that long unless it fails.
const patience = 60 * time.Second

func (s *suite) ctx(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// spec is a container of a new task that runs script.
func (s *suite) spec(script string) engine.Spec {
	task := rand.Text()
	return engine.Spec{
		Name:  "longshore-test-" + task,
		Image: s.Images["base"],
		Labels: map[string]string{
			engine.LabelTaskArn: "arn:aws:ecs:us-west-2:123456789012:task/test/" + task, engine.LabelContainerName: "main",
		},
		EntryPoint: []string{"sh", "-c"}, Command: []string{script},
	}
}

// create makes a container and removes it with the test.
func (s *suite) create(t *testing.T, spec engine.Spec) string {
	t.Helper()
	s.cleanUp(t, spec.Name)
	id, err := s.Runtime.Create(s.ctx(t), spec)
	if err != nil {
		t.Fatalf("create: %v", err)
	}
	return id
}

func (s *suite) cleanUp(t *testing.T, name string) {
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), patience)
		defer cancel()
		if err := s.Runtime.Stop(ctx, name, 0); err != nil {
			t.Errorf("clean-up: stop %s: %v", name, err)
		}
		if err := s.Runtime.Remove(ctx, name); err != nil {
			t.Errorf("clean-up: remove %s: %v", name, err)
		}
	})
}

// start creates and starts a container.
func (s *suite) start(t *testing.T, spec engine.Spec) string {
	t.Helper()
	id := s.create(t, spec)
	if err := s.Runtime.Start(s.ctx(t), id); err != nil {
		t.Fatalf("start: %v", err)
	}
	return id
}

func (s *suite) inspect(t *testing.T, id string) engine.State {
	t.Helper()
	st, err := s.Runtime.Inspect(s.ctx(t), id)
	if err != nil {
		t.Fatalf("inspect: %v", err)
	}
	return st
}

// until looks at a container until ok says so.
func (s *suite) until(t *testing.T, id, what string, ok func(engine.State) bool) engine.State {
	t.Helper()
	var st engine.State
	eventually(t, what, func() bool {
		st = s.inspect(t, id)
		return ok(st)
	})
	return st
}

func (s *suite) ended(t *testing.T, id string) engine.State {
	t.Helper()
	return s.until(t, id, "the process to end", func(st engine.State) bool { return st.Status == engine.StatusExited })
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	limit := time.NewTimer(patience)
	defer limit.Stop()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-limit.C:
			t.Fatalf("waited %s in vain for %s", patience, what)
		}
	}
}

// output runs a container to its end and returns what it wrote.
func (s *suite) output(t *testing.T, spec engine.Spec) string {
	t.Helper()
	id := s.start(t, spec)
	s.ended(t, id)
	return s.logs(t, id, 0)
}

// saying waits until a container has written text, and so has reached a known place in its script.
func (s *suite) saying(t *testing.T, id, text string) {
	t.Helper()
	eventually(t, "the container to say "+text, func() bool { return strings.Contains(s.logs(t, id, 0), text) })
}

func (s *suite) logs(t *testing.T, id string, lines int) string {
	t.Helper()
	var buf bytes.Buffer
	if err := s.Runtime.Logs(s.ctx(t), id, engine.LogOptions{Lines: lines}, &buf); err != nil {
		t.Fatalf("logs: %v", err)
	}
	return buf.String()
}

func (s *suite) listed(t *testing.T, id string) (engine.State, bool) {
	t.Helper()
	all, err := s.Runtime.List(s.ctx(t))
	if err != nil {
		t.Fatalf("list: %v", err)
	}
	i := slices.IndexFunc(all, func(st engine.State) bool { return st.ID == id })
	if i < 0 {
		return engine.State{}, false
	}
	return all[i], true
}

// class fails the test unless err is of a class.
func class(t *testing.T, what string, err error, is func(error) bool, name string) {
	t.Helper()
	if !is(err) {
		t.Errorf("%s: got %v (%T), want an error of class %s", what, err, err, name)
	}
}

func ok(t *testing.T, what string, err error) {
	t.Helper()
	if err != nil {
		t.Errorf("%s: %v", what, err)
	}
}

// together calls f n times at once and waits.
func together(n int, f func(i int)) {
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { f(i) })
	}
	wg.Wait()
}

func check(test ...string) *acs.HealthConfig {
	return &acs.HealthConfig{Test: test, Interval: int64(500 * time.Millisecond), Timeout: int64(10 * time.Second), Retries: 1}
}
