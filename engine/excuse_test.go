package engine_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/longshore-project/longshore/engine"
	"github.com/longshore-project/longshore/engine/enginetest"
)

// comesAndGoes is an engine that is away for a moment at each of the first creates.
type comesAndGoes struct {
	*enginetest.Fake
	mu   sync.Mutex
	left int
	away bool
}

var errAway = fmt.Errorf("the engine is just being restarted: %w", errdefs.ErrUnavailable)

func (c *comesAndGoes) Create(ctx context.Context, spec engine.Spec) (string, error) {
	c.mu.Lock()
	c.left--
	c.away = c.left >= 0
	away := c.away
	c.mu.Unlock()
	if away {
		return "", errAway
	}
	return c.Fake.Create(ctx, spec)
}

func (c *comesAndGoes) List(ctx context.Context) ([]engine.State, error) {
	c.mu.Lock()
	away := c.away
	c.away = false
	c.mu.Unlock()
	if away {
		return nil, errAway
	}
	return c.Fake.List(ctx)
}

func TestWhatTheAbsenceOfTheEngineMadeFailDoesNotCountHoweverOftenItWasAway(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		a := task("a")
		w.accept(a)
		pass(time.Minute)
		w.want(a.Arn, "PENDING", "RUNNING")
	}, func(c *engine.Config) { c.Runtime = &comesAndGoes{Fake: c.Runtime.(*enginetest.Fake), left: 10} })
}

func TestWhatSomebodyElseStartedWhileTheAgentWasAwayIsAccountedForBeforeOthersAreAdmitted(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		a := task("a", container("app"))
		a.CPU = 1.5
		w.fake.Delay("Create", time.Second)
		w.accept(a)
		w.settled()
		w.disk.fail(errors.New("no space left on device")) // so that it is made, and its start is not on record
		pass(2 * time.Second)
		w.stop()
		w.disk.fail(nil)
		w.fake.Heal("")
		if err := w.fake.Start(t.Context(), w.id(a, "app")); err != nil {
			t.Fatal(err)
		}
		w.start()
		for i := range 20 {
			b := task(fmt.Sprintf("b%d", i))
			b.CPU = 1.5
			w.accept(b)
		}
		w.settled()
		if n := w.fake.Running(); n != 1 || !w.running(a, "app") {
			t.Errorf("%d run on a host that has room for one\n%s", n, w.explain(a.Arn))
		}
	})
}
