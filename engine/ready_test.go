package engine_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/longshore-project/longshore/engine"
	"github.com/longshore-project/longshore/protocol/acs"
)

// waitsFor are the steps of a task's timeline that were spent waiting for the host, by outcome.
func waitsFor(s engine.TaskStatus) (outcomes []string) {
	for _, step := range s.Timeline {
		if step.Name == "wait-for-host" {
			outcomes = append(outcomes, step.Outcome+": "+step.Detail)
		}
	}
	return outcomes
}

func TestAContainerWaitsForWhatTheHostLacks(t *testing.T) {
	var there atomic.Bool
	inBubble(t, func(t *testing.T, w *world) {
		a := task("a", container("app"), container("other"))
		w.accept(a)
		w.settled()
		pass(4 * time.Minute)
		s := w.status(a.Arn)
		if !slices.Contains(s.Waits, "container app waits for what this host lacks: nobody answers") || len(waitsFor(s)) != 1 || s.Known == "STOPPED" {
			t.Fatal(w.explain(a.Arn))
		}
		if !w.running(a, "other") {
			t.Errorf("what lacks nothing waits too\n%s", w.explain(a.Arn))
		}
		there.Store(true)
		pass(2 * time.Second)
		w.settled()
		if s := w.status(a.Arn); !w.running(a, "app") || !slices.Equal(waitsFor(s), []string{"done: nobody answers"}) {
			t.Errorf("%q\n%s", waitsFor(s), w.explain(a.Arn))
		}
		w.want(a.Arn, "PENDING", "PENDING", "RUNNING")
	}, func(c *engine.Config) {
		c.Ready = func(_ *acs.Task, container string) error {
			if container == "other" || there.Load() {
				return nil
			}
			return errors.New("nobody answers")
		}
	})
}

func TestWhatTheHostLacksForTooLongEndsTheTaskAndAStopEndsTheWait(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		a, b := task("a"), task("b")
		w.accept(a)
		w.settled()
		pass(5*time.Minute + 2*time.Second)
		w.settled()
		want := "ResourceInitializationError: container app has waited 5m0s for what this host lacks: the port is taken"
		if s := w.status(a.Arn); s.Known != "STOPPED" || s.Containers[0].Reason != want || !slices.Equal(waitsFor(s), []string{"failed: the port is taken"}) {
			t.Errorf("%s %q %q\n%s", s.Known, s.Containers[0].Reason, waitsFor(s), w.explain(a.Arn))
		}
		w.accept(b)
		w.settled()
		pass(time.Minute)
		b.DesiredStatus = "STOPPED"
		w.accept(b)
		w.settled()
		if s := w.status(b.Arn); s.Known != "STOPPED" || strings.Contains(fmt.Sprint(s.Containers[0].Reason), "lacks") {
			t.Error(w.explain(b.Arn))
		}
	}, func(c *engine.Config) {
		c.Ready = func(*acs.Task, string) error { return errors.New("the port is taken") }
	})
}

func TestWhatIsLackingOnlyWhenTheContainerIsMadeIsWaitedForToo(t *testing.T) {
	tries := 0
	inBubble(t, func(t *testing.T, w *world) {
		a := task("a")
		w.accept(a)
		pass(10 * time.Second)
		w.settled()
		if tries != 3 || !w.running(a, "app") {
			t.Errorf("%d tries\n%s", tries, w.explain(a.Arn))
		}
	}, func(c *engine.Config) {
		c.Ready = func(*acs.Task, string) error { return nil }
		c.Prepare = []engine.Prepare{func(*acs.Task, string, *engine.Spec) error {
			if tries++; tries < 3 {
				return fmt.Errorf("it went a moment ago: %w", engine.ErrNotReady)
			}
			return nil
		}}
	})
}
