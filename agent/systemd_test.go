package agent

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// reloading runs an agent, and gives what it is told a change of its configuration with.
func (h *testHost) reloading() (change func(text string), ended <-chan error) {
	h.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	opt, reload, done := h.options(), make(chan struct{}), make(chan error, 1)
	opt.Reload = reload
	go func() { done <- Run(ctx, opt) }()
	h.t.Cleanup(cancel)
	return func(text string) {
		h.t.Helper()
		if err := os.WriteFile(opt.Config.File, []byte(text), 0o600); err != nil {
			h.t.Fatal(err)
		}
		select {
		case reload <- struct{}{}:
		case <-time.After(patience):
			h.t.Fatal("the agent does not hear that its configuration is to be read again")
		}
	}, done
}

func (h *testHost) untilLogged(want string) {
	h.t.Helper()
	log := ""
	for end := time.Now().Add(patience); !strings.Contains(log, want); {
		if data, err := os.ReadFile(filepath.Join(h.dir, "agent.log")); err == nil { // it is not there at first
			log = string(data)
		}
		if time.Now().After(end) {
			h.t.Fatalf("the log does not say %q:\n%s", want, log)
		}
		<-time.After(5 * time.Millisecond)
	}
}

func TestAChangedConfigurationIsTakenWithoutLosingContainersAndABrokenOneIsNot(t *testing.T) {
	c := newControlPlane(t)
	h := newTestHost(t, c)
	change, ended := h.reloading()
	c.expect("connected " + first)
	c.send(first, "arn:aws:ecs:us-west-2:123456789012:task/daemonset/1", "RUNNING")
	c.expect("submit arn:aws:ecs:us-west-2:123456789012:task/daemonset/1 RUNNING")

	change("ECS_INSTANCE_ATTRIBUTES={broken\n")
	h.untilLogged("the agent goes on with the old one")
	change("# a remark\n")
	h.untilLogged("nothing in it has changed")
	change("ECS_LOGLEVEL=debug\n")
	h.untilLogged("the level of the log has changed")
	change("ECS_LOGLEVEL=debug\nECS_INSTANCE_NAME=rack-7\n")
	select {
	case err := <-ended:
		if !errors.Is(err, ErrReload) {
			t.Fatalf("it ended with %v", err)
		}
	case <-time.After(patience):
		t.Fatal("another name of the instance did not have the agent start over")
	}
	if states, err := h.engine.List(t.Context()); err != nil || len(states) != 1 || states[0].Status != "running" {
		t.Errorf("after the reload there are %v, %v", states, err)
	}
	if got := h.log(); !strings.Contains(got, `settings=["ECS_LOGLEVEL","ECS_INSTANCE_NAME"]`) && !strings.Contains(got, "ECS_INSTANCE_NAME") {
		t.Error(got)
	}
}
