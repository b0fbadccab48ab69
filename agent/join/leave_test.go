package join

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/longshore-project/longshore/agent/local"
	"github.com/longshore-project/longshore/protocol/agentapi"
	"github.com/longshore-project/longshore/protocol/join"
)

// parting is a host that has joined, and its control plane.
type parting struct {
	t       *testing.T
	status  string // of the instance
	tasks   int32
	key     bool // is known
	running bool // the agent
	parts   []string
	calls   []string
	away    error // of the control plane
	out     bytes.Buffer
	dir     string
	file    string
	joined  bool // the identity file is there
}

func newParting(t *testing.T) *parting {
	p := &parting{t: t, status: "ACTIVE", tasks: 3, key: true, running: true, parts: []string{"containers", "network", "groups"}, joined: true}
	p.dir, p.file = filepath.Join(t.TempDir(), "data"), filepath.Join(t.TempDir(), "ecs.config")
	if err := os.Mkdir(p.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		filepath.Join(p.dir, "identity.json"): "{}", filepath.Join(p.dir, "agent.db"): "x", filepath.Join(p.dir, "agent.db.corrupt-1"): "x",
		p.file: "ECS_LOGLEVEL=debug\n" + blockBegin + "\nECS_CLUSTER=daemonset\n" + blockEnd + "\nB=2\n", p.file + ".ca": "a CA",
	} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return p
}

func refusal(code, message string) error { return &agentapi.APIError{Code: code, Message: message} }

// leaving is a command that is run now.
func (p *parting) leaving() *Leaving {
	l := &Leaving{
		Dir: p.dir, File: p.file, CAFile: p.file + ".ca",
		Identity: func() (string, string, error) {
			if _, err := os.Stat(filepath.Join(p.dir, "identity.json")); err != nil {
				return "", "", nil
			}
			return "daemonset", testArn, nil
		},
		Ask: func(context.Context) (*local.Status, error) {
			if !p.running {
				return nil, &local.NotRunningError{Err: os.ErrNotExist}
			}
			return &local.Status{PID: 77}, nil
		},
		Host: func(context.Context, string, string) (*join.HostOutput, error) {
			if err := p.answers(); err != nil {
				return nil, err
			}
			if p.status == "DRAINING" && p.tasks > 0 && p.running {
				p.tasks--
			}
			reason := fmt.Sprintf("%d tasks", p.tasks)
			return &join.HostOutput{Instance: &join.HostInstance{Status: &p.status, StatusReason: &reason, Tasks: &p.tasks}}, nil
		},
		Call: p.call,
		EndKey: func(context.Context) error {
			if err := p.answers(); err != nil {
				return err
			}
			if p.status != "INACTIVE" {
				p.t.Error("the key ends before the instance")
			}
			p.key = false
			return nil
		},
		Stop: func(_ context.Context, pid int) (string, error) {
			if p.running != (pid == 77) {
				p.t.Errorf("process %d is to be ended", pid)
			}
			p.running = false
			return "", nil
		},
		Files: []string{"agent.db*", "identity.json*"}, Left: func(context.Context) []string { return []string{"the logs"} },
		Wait: time.Minute, Poll: time.Millisecond, Now: time.Now, Out: &p.out,
	}
	for _, name := range []string{"containers", "network", "groups"} {
		l.Parts = append(l.Parts, Part{name, func(_ context.Context, say func(string)) error {
			if p.running {
				p.t.Errorf("the %s go while the agent runs", name)
			}
			if i := slices.Index(p.parts, name); i >= 0 {
				p.parts = slices.Delete(p.parts, i, i+1)
				say("removed")
			}
			return nil
		}})
	}
	return l
}

func (p *parting) answers() error {
	if p.away != nil {
		return p.away
	}
	if !p.key {
		return refusal("UnrecognizedClientException", "The security token included in the request is invalid.")
	}
	return nil
}

func (p *parting) call(_ context.Context, operation string, in, _ any) error {
	if err := p.answers(); err != nil {
		return err
	}
	p.calls = append(p.calls, operation)
	switch in := in.(type) {
	case *stateInput:
		p.status = *in.Status
	case *deregisterInput:
		if p.tasks > 0 && !*in.Force {
			return refusal("InvalidParameterException", "Found running tasks on the instance.")
		}
		if LoadMark(p.dir) == nil {
			p.t.Error("deregistered without a mark: an agent that starts now registers again")
		}
		p.status = "INACTIVE"
	}
	return nil
}

// gone says what is not as it must be after a leave.
func (p *parting) gone() error {
	var errs []error
	if p.status != "INACTIVE" || p.key && p.away == nil || p.running || len(p.parts) > 0 {
		errs = append(errs, fmt.Errorf("%+v", p))
	}
	if text, err := os.ReadFile(p.file); err != nil || string(text) != "ECS_LOGLEVEL=debug\nB=2\n" {
		errs = append(errs, fmt.Errorf("ecs.config: %q, %w", text, err))
	}
	for _, path := range []string{p.dir, p.file + ".ca"} {
		if _, err := os.Stat(path); err == nil {
			errs = append(errs, fmt.Errorf("%s is there", path))
		}
	}
	return errors.Join(errs...)
}

func TestAHostLeavesAndSaysWhatStays(t *testing.T) {
	p := newParting(t)
	if err := errors.Join(p.leaving().Run(t.Context()), p.gone()); err != nil {
		t.Fatal(err)
	}
	if want := []string{"UpdateContainerInstancesState", "DeregisterContainerInstance"}; !slices.Equal(p.calls, want) {
		t.Errorf("%q", p.calls)
	}
	for _, want := range []string{"instance     " + testArn, "drain        2 tasks are left: 2 tasks", "drain        no task is left", "deregister   the control plane does not know", "containers   removed", "settings     taken out of", "state        removed", "left         the logs"} {
		if !strings.Contains(p.out.String(), want) {
			t.Errorf("it does not say %q:\n%s", want, p.out.String())
		}
	}
	p.out.Reset()
	if err := errors.Join(p.leaving().Run(t.Context()), p.gone()); err != nil || len(p.calls) != 2 || !strings.Contains(p.out.String(), "instance     none") {
		t.Errorf("a second time: %v, %q: %s", err, p.calls, p.out.String())
	}
}

// the process is killed at each instant that matters, and at two of them one after the other.
func TestALeaveThatIsKilledGoesOnWhereItWas(t *testing.T) {
	var instants []string
	p := newParting(t)
	l := p.leaving()
	l.crash = func(at string) { instants = append(instants, at) }
	if err := l.Run(t.Context()); err != nil || len(instants) < 10 {
		t.Fatalf("%v: %q", err, instants)
	}
	for first := range instants {
		for _, second := range []int{0, 1, len(instants)} {
			p := newParting(t)
			for _, nth := range []int{first, second} {
				func() {
					defer func() { _ = recover() }()
					l, n := p.leaving(), 0
					l.crash = func(string) {
						if n++; n > nth {
							panic("killed")
						}
					}
					if err := l.Run(t.Context()); err != nil {
						t.Errorf("killed at %s, %d: %v", instants[first], second, err)
					}
				}()
			}
			if err := errors.Join(p.leaving().Run(t.Context()), p.gone()); err != nil {
				t.Errorf("killed at %s, %d: %v", instants[first], second, err)
			}
		}
	}
}

func TestALeaveThatFailsSaysWhatToDo(t *testing.T) {
	for name, c := range map[string]struct {
		arrange            func(p *parting, l *Leaving)
		step, says, remedy string
	}{
		"the control plane is away": {func(p *parting, _ *Leaving) { p.away = io.EOF }, "drain", "EOF", "--without-control-plane"},
		"its key was revoked":       {func(p *parting, _ *Leaving) { p.key = false }, "drain", "token included in the request is invalid", "--without-control-plane"},
		"no agent is there to stop": {func(p *parting, _ *Leaving) { p.running, p.status = false, "DRAINING" }, "drain", "3 tasks are left, and no agent", "systemctl start longshore-agent"},
		"the drain takes too long":  {func(p *parting, l *Leaving) { p.tasks, l.Wait = 1000, 0 }, "drain", "999 tasks are left", "--wait"},
		"a part can't be removed": {func(_ *parting, l *Leaving) {
			l.Parts[1].Remove = func(context.Context, func(string)) error { return io.EOF }
		}, "network", "EOF", "run the same command again"},
		"a task came after the drain": {tasksAgain, "deregister", "Found running tasks", "leave again"},
		"an agent that does not reply": {func(_ *parting, l *Leaving) {
			l.Force, l.Ask = true, func(context.Context) (*local.Status, error) { return nil, io.EOF }
		}, "agent", "does not answer", "systemctl disable"},
	} {
		t.Run(name, func(t *testing.T) {
			p := newParting(t)
			l := p.leaving()
			c.arrange(p, l)
			var f *Failure
			if err := l.Run(t.Context()); !errors.As(err, &f) || f.Step != c.step || !strings.Contains(f.Err.Error(), c.says) || !strings.Contains(f.Remedy, c.remedy) {
				t.Errorf("got %v", err)
			}
			if _, err := os.Stat(filepath.Join(p.dir, "identity.json")); err != nil {
				t.Error("the state is gone")
			}
			if marked := LoadMark(p.dir) != nil; marked != (p.status == "INACTIVE") {
				t.Errorf("marked %t, %s", marked, p.status)
			}
		})
	}
}

// tasksAgain has a task come between the drain and the deregistration.
func tasksAgain(p *parting, l *Leaving) {
	call := l.Call
	l.Call = func(ctx context.Context, operation string, in, out any) error {
		if operation == "DeregisterContainerInstance" {
			p.tasks = 1
		}
		return call(ctx, operation, in, out)
	}
}

func TestAHostLeavesAtOnceOrAlone(t *testing.T) {
	p := newParting(t)
	l := p.leaving()
	l.Force = true
	if err := errors.Join(l.Run(t.Context()), p.gone()); err != nil || !slices.Equal(p.calls, []string{"DeregisterContainerInstance"}) {
		t.Errorf("%v: %q", err, p.calls)
	}
	p = newParting(t)
	p.away = io.EOF
	l = p.leaving()
	l.Alone = true
	if err := l.Run(t.Context()); err != nil || !strings.Contains(p.out.String(), "aws ecs deregister-container-instance --force") {
		t.Errorf("%v: %s", err, p.out.String())
	}
	p.status = "INACTIVE"
	if err := p.gone(); err != nil {
		t.Error(err)
	}
}

func TestWhatIsNotTheAgentsStays(t *testing.T) {
	p := newParting(t)
	other := filepath.Join(p.dir, "notes.txt")
	if err := errors.Join(os.WriteFile(other, nil, 0o600), os.WriteFile(p.file, []byte("ECS_CLUSTER=daemonset\n"), 0o600)); err != nil {
		t.Fatal(err)
	}
	if err := p.leaving().Run(t.Context()); err != nil || !strings.Contains(p.out.String(), "where something else is left") {
		t.Errorf("%v: %s", err, p.out.String())
	}
	if _, err := os.Stat(other); err != nil {
		t.Error(err)
	}
	if text, err := os.ReadFile(p.file); err != nil || string(text) != "ECS_CLUSTER=daemonset\n" {
		t.Errorf("%q, %v", text, err)
	}
}

func TestAMarkThatCantBeReadIsOne(t *testing.T) {
	dir := t.TempDir()
	if LoadMark(dir) != nil {
		t.Error("there is none")
	}
	if err := os.WriteFile(filepath.Join(dir, MarkName), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if m := LoadMark(dir); m == nil || m.Arn != "" {
		t.Errorf("%+v", m)
	}
}

func FuzzCut(f *testing.F) {
	f.Add([]byte("A=1\n" + blockBegin + "\nB=2\n" + blockEnd + "\nC=3\n"))
	f.Add([]byte(blockBegin))
	f.Fuzz(func(t *testing.T, text []byte) {
		rest, had := cut(text)
		if !had && !bytes.Equal(rest, text) || len(rest) > len(text) {
			t.Errorf("%q became %q", text, rest)
		}
	})
}
