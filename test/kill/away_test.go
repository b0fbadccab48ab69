package kill

import (
	"context"
	"fmt"
	"os"
	"slices"
	"syscall"
	"testing"
	"time"
)

// TestAControlPlaneThatWasAwayIsToldEachChangeOnce ends the control plane, has containers end meanwhile, before and after the agent is killed,
// and counts what the agent tells when the control plane is back. It is away until the agent has tried often enough, and for at
// least KILL_AWAY, for long runs.
func TestAControlPlaneThatWasAwayIsToldEachChangeOnce(t *testing.T) {
	t.Parallel()
	least, _ := time.ParseDuration(os.Getenv("KILL_AWAY")) // not set is none
	w := newWorld(t, "aw", 101)
	w.define("daemon", 1)
	w.startAgent()
	bystander := w.daemon("bystander")
	w.running(bystander)
	var ends []*task
	for range 4 {
		s := w.run("serving")
		w.await(s, "RUNNING")
		w.running(s)
		ends = append(ends, s)
	}

	w.end(w.control, syscall.SIGTERM)
	away := time.Now()
	for i, s := range ends {
		if i == len(ends)/2 {
			w.kill(w.agent)
		}
		if err := w.engine.ContainerKill(t.Context(), w.events.of(s.arn, "create")[0].Container, "KILL"); err != nil {
			t.Fatal(err)
		}
	}
	told := func(s *task, status string, answered bool) (n int) {
		w.calls.mu.Lock()
		defer w.calls.mu.Unlock()
		for _, c := range w.calls.list {
			if c.Operation == "SubmitTaskStateChange" && c.Task == s.arn && c.Status == status && (c.Code == 200) == answered {
				n++
			}
		}
		return n
	}
	for end := time.Now().Add(least); time.Now().Before(end); {
		select {
		case <-time.After(time.Second):
		case <-t.Context().Done():
		}
	}
	w.until("the agent has tried again and again to tell that the first task ended", func(context.Context) error {
		if n := told(ends[0], "STOPPED", false); n < 3 {
			return fmt.Errorf("%d times", n)
		}
		return nil
	})
	t.Logf("the control plane was away for %s; the agent tried %d times to tell it of the first task", time.Since(away).Round(time.Second), told(ends[0], "STOPPED", false))

	w.startControl()
	w.ready()
	for _, s := range ends {
		w.await(s, "STOPPED")
	}
	after := w.run("serving") // what is told of it comes after all the rest
	w.await(after, "RUNNING")
	for _, s := range ends {
		for _, status := range []string{"RUNNING", "STOPPED"} {
			if n := told(s, status, true); n != 1 {
				t.Errorf("%s of %s was told %d times", status, s.arn, n)
			}
		}
		if code := s.last.Containers[0].ExitCode; code == nil || *code != 137 {
			t.Errorf("the exit code of %s is %v", s.arn, code)
		}
		if made, died := w.events.of(s.arn, "create"), w.events.of(s.arn, "die"); len(made) != 1 || len(died) != 1 {
			t.Errorf("%d containers were made for %s, and %d ended", len(made), s.arn, len(died))
		}
	}
	w.running(bystander)
	if touched := slices.Concat(w.events.of(bystander.arn, "die", "kill", "stop", "restart"), w.events.of(after.arn, "die", "kill")); len(touched) != 0 {
		t.Errorf("containers that nobody asked to end were touched: %v", touched)
	}
}
