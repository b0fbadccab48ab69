package agent

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/longshore-project/longshore/agent/depart"
	"github.com/longshore-project/longshore/engine"
	"github.com/longshore-project/longshore/engine/enginetest"
)

// restarting is an engine that outlives the agent, and starts containers again.
type restarting struct{ enginetest.Restarter }

// Close does nothing.
func (restarting) Close() error { return nil }

// playedLogind is one that a test shuts down.
type playedLogind struct {
	going chan bool
	held  chan *os.File // the other end of each lock: it ends when the lock is let go
}

func newPlayedLogind() *playedLogind {
	return &playedLogind{going: make(chan bool), held: make(chan *os.File, 10)}
}

func (l *playedLogind) Hold() (*os.File, error) {
	r, w, err := os.Pipe()
	if err == nil {
		l.held <- r
	}
	return w, err
}

func (l *playedLogind) Going() <-chan bool { return l.going }
func (l *playedLogind) Close()             {}

// released waits until a lock was let go.
func released(t *testing.T, lock *os.File) {
	t.Helper()
	if err := lock.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	if _, err := lock.Read(make([]byte, 1)); err == nil || os.IsTimeout(err) {
		t.Fatalf("the lock is held still: %v", err)
	}
	_ = lock.Close()
}

// boots starts an agent whose host is held up by a logind; leave returns what Run did.
func (h *testHost) boots(l *playedLogind) (leave func() error, done <-chan error) {
	opt := h.options()
	opt.Logind = func() (depart.Logind, error) { return l, nil }
	opt.Runtime = restarting{enginetest.Restarter{Fake: h.engine}}
	opt.Engine = func(c *engine.Config) { c.RelistInterval = 100 * time.Millisecond }
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		ended <- Run(ctx, opt)
	}()
	h.t.Cleanup(func() { cancel(); <-gone })
	return func() error { cancel(); return <-ended }, ended
}

func (h *testHost) reboot(boot string) {
	h.t.Helper()
	h.engine.Restart(false)
	name := filepath.Join(h.root, "proc/sys/kernel/random/boot_id")
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		h.t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(boot+"\n"), 0o600); err != nil {
		h.t.Fatal(err)
	}
}

const daemonTask = `"schedulingStrategy":"DAEMON","serviceName":"d",`

func TestAShutdownWaitsForTheTasksAndTheHostComesBackAsItWas(t *testing.T) {
	c := newControlPlane(t)
	h, l := newTestHost(t, c), newPlayedLogind()
	h.reboot("boot-1")
	leave, _ := h.boots(l)
	lock := <-l.held
	c.expect("connected " + first)
	h.untilLogged("Connected to the control plane")
	c.sendWith(first, task1, "RUNNING", daemonTask)
	c.expect("submit " + task1 + " RUNNING")
	c.send(first, anotherTask, "RUNNING")
	c.expect("submit " + anotherTask + " RUNNING")

	l.going <- true
	released(t, lock)
	if n := h.engine.Running(); n != 0 {
		t.Errorf("%d containers run after the lock was let go", n)
	}
	got := c.expect("submit "+anotherTask+" STOPPED", "state DRAINING")
	if slices.Contains(got, "submit "+task1+" STOPPED") {
		t.Errorf("the daemon is reported as STOPPED: %q", got)
	}
	log := h.log()
	if replica, daemon := strings.Index(log, "Stopping a task, as this host leaves\",\"task\":\""+anotherTask), strings.Index(log, "Stopping a task, as this host leaves\",\"task\":\""+task1); replica >= 0 && daemon < replica {
		t.Errorf("the daemon was stopped before the replica:\n%s", log)
	}
	if err := leave(); err != nil {
		t.Fatal(err)
	}

	h.reboot("boot-2")
	l = newPlayedLogind()
	leave, _ = h.boots(l)
	c.expect("connected "+first, "state ACTIVE")
	waitFor(t, func() bool { return h.engine.Running() == 1 })
	waitFor(t, func() bool {
		_, err := os.Stat(filepath.Join(h.dir, departureName))
		return err != nil
	})
	if err := leave(); err != nil {
		t.Fatal(err)
	}
}

func TestAHostThatAnOperatorDrainedStaysSoOverAReboot(t *testing.T) {
	c := newControlPlane(t)
	h, l := newTestHost(t, c), newPlayedLogind()
	h.reboot("boot-1")
	leave, _ := h.boots(l)
	lock := <-l.held
	c.expect("connected " + first)
	h.untilLogged("Connected to the control plane")
	c.drained.Store(true)
	l.going <- true
	released(t, lock)
	h.untilLogged("was taken out of service before")
	if _, err := os.Stat(filepath.Join(h.dir, departureName)); err == nil {
		t.Error("the host would make itself ACTIVE")
	}
	if err := leave(); err != nil {
		t.Fatal(err)
	}
	if got := c.quiet(); slices.ContainsFunc(got, func(e string) bool { return strings.HasPrefix(e, "state ") }) {
		t.Errorf("%q", got)
	}
}

func TestWithoutItsControlPlaneAHostGoesDownInOrderAllTheSame(t *testing.T) {
	c := newControlPlane(t)
	h, l := newTestHost(t, c), newPlayedLogind()
	h.reboot("boot-1")
	leave, _ := h.boots(l)
	lock := <-l.held
	c.expect("connected " + first)
	h.untilLogged("Connected to the control plane")
	c.sendWith(first, task1, "RUNNING", daemonTask)
	c.expect("submit " + task1 + " RUNNING")
	c.server.CloseClientConnections()
	c.server.Close()
	l.going <- true
	released(t, lock)
	if n := h.engine.Running(); n != 0 {
		t.Errorf("%d containers run after the lock was let go", n)
	}
	if err := leave(); err != nil {
		t.Fatal(err)
	}
}

func TestAShutdownThatIsCalledOffHasTheAgentStartOver(t *testing.T) {
	c := newControlPlane(t)
	h, l := newTestHost(t, c), newPlayedLogind()
	h.reboot("boot-1")
	_, done := h.boots(l)
	lock := <-l.held
	c.expect("connected " + first)
	h.untilLogged("Connected to the control plane")
	l.going <- true
	released(t, lock)
	c.expect("state DRAINING")
	l.going <- false
	select {
	case err := <-done:
		if !strings.Contains(err.Error(), ErrReload.Error()) {
			t.Fatal(err)
		}
	case <-time.After(patience):
		t.Fatal("the agent does not start over")
	}
	leave, _ := h.boots(newPlayedLogind())
	c.expect("state ACTIVE")
	if err := leave(); err != nil {
		t.Fatal(err)
	}
}
