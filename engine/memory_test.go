package engine_test

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/longshore-project/longshore/engine"
	"github.com/longshore-project/longshore/engine/enginetest"
	"github.com/longshore-project/longshore/protocol/acs"
)

// forgets ends the agent's life and begins one whose state file is lost.
func (w *world) forgets() {
	w.t.Helper()
	w.stop()
	w.disk = newDisk()
	w.cfg.State = w.disk
	w.start()
	w.settled()
}

func TestAfterALossOfTheStateNothingIsStartedBeforeThePayloadComesAgain(t *testing.T) {
	for name, wanted := range map[string]bool{"it comes": true, "the task is to be stopped": false} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, w *world) {
				created := task("created")
				ended := task("ended", container("app", func(c *acs.Container) { c.RestartPolicy = &acs.RestartPolicy{Enabled: true, RestartAttemptPeriod: 1} }))
				w.accept(ended)
				pass(10 * time.Second)
				w.accept(stopOf(ended))
				w.settled()
				w.want(ended.Arn, "PENDING", "RUNNING", "STOPPED")
				w.fake.Hang("Start")
				w.accept(created)
				w.settled()
				before := w.fake.Calls("Restart") + w.fake.Starts(w.status(created.Arn).Containers[0].RuntimeName)
				w.stop()
				w.fake.Heal("Start")
				w.forgets()
				pass(time.Minute)
				if n := w.fake.Calls("Restart") + w.fake.Starts(w.status(created.Arn).Containers[0].RuntimeName) - before; n != 0 {
					t.Errorf("%d starts were ordered for tasks of which it is not known whether they are wanted", n)
				}
				if waits := strings.Join(w.status(ended.Arn).Waits, "; "); !strings.Contains(waits, "not known whether container app is still to run") {
					t.Errorf("it waits for %q", waits)
				}
				for _, a := range []*acs.Task{created, ended} {
					if !wanted {
						a = stopOf(a)
					}
					w.accept(a)
					pass(time.Minute)
					if w.running(a, "app") != wanted {
						t.Errorf("%s runs: %v", a.Arn, !wanted)
					}
				}
				if last := w.disk.last(ended.Arn); !wanted && (last.Status != "STOPPED" || exitOf(last, "app") != 143) {
					t.Errorf("%+v", last)
				}
			}, func(c *engine.Config) { c.Runtime = enginetest.Restarter{Fake: c.Runtime.(*enginetest.Fake)} })
		})
	}
}

func TestAfterALossOfTheStateNothingIsMadeBeforeThePayloadComesAgain(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		a := task("a", container("first"), container("second", notEssential))
		w.accept(a)
		w.settled()
		second := w.status(a.Arn).Containers[1].RuntimeName
		w.stop()
		w.fake.Vanish(w.id(a, "second"))
		images := w.fake.Calls("Image") + w.fake.Calls("Pull")
		w.forgets()
		pass(time.Minute)
		if n := w.fake.Calls("Image") + w.fake.Calls("Pull") - images; w.fake.Creates(second) != 1 || n != 0 || !w.running(a, "first") {
			t.Errorf("an image was asked for %d times, and the container made %d times\n%s", n, w.fake.Creates(second), w.explain(a.Arn))
		}
		w.accept(a)
		w.settled()
		if w.fake.Creates(second) != 2 || !w.running(a, "second") || !w.running(a, "first") {
			t.Error(w.explain(a.Arn))
		}
	})
}

func TestAClockThatIsSetBackDelaysNoCleanUpAndNoEnd(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		a := task("a")
		w.accept(a)
		w.settled()
		w.accept(stopOf(a))
		w.settled()
		w.disk.accept()
		w.fake.Hang("List")
		w.restart() // so that what comes now is not settled
		unknown := task("unknown")
		w.accept(stopOf(unknown))
		w.stop()
		records, err := w.disk.Load()
		if err != nil || len(records) != 2 {
			t.Fatal(records, err)
		}
		for _, rec := range records {
			rec.AcceptedAt = rec.AcceptedAt.Add(100 * 24 * time.Hour)
			if !rec.StoppedAt.IsZero() {
				rec.StoppedAt = rec.StoppedAt.Add(100 * 24 * time.Hour)
			}
			if err := w.disk.Save(rec); err != nil {
				t.Fatal(err)
			}
		}
		w.fake.Heal("List")
		w.start()
		pass(4 * time.Hour)
		w.want(unknown.Arn, "STOPPED")
		w.disk.accept()
		pass(4 * time.Hour)
		if tasks := w.engine.Tasks(); len(tasks) != 0 {
			t.Errorf("these are not cleaned up: %+v", tasks)
		}
	})
}

// holdBack has f asked before each save.
func (d *disk) holdBack(f func(*engine.TaskRecord) error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.before = f
}

func TestNoContainerIsRemovedBeforeTheEndOfItsOutputIsOnRecord(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.behave(map[string]enginetest.Behaviour{"app": {Exits: true, Output: "last words\n"}})
		a := task("a")
		w.accept(a)
		w.settled()
		w.disk.accept()
		w.disk.fail(errors.New("no space left on device"))
		pass(4 * time.Hour)
		if _, left := w.fake.Container(a.Arn, "app"); !left {
			t.Fatal("the container was removed, and with it what it said")
		}
		w.disk.fail(nil)
		pass(time.Hour)
		if _, left := w.fake.Container(a.Arn, "app"); left {
			t.Error("the container is left")
		}
		if past := w.engine.Past(); len(past) != 1 || past[0].Containers[0].Log == nil || past[0].Containers[0].Log.Text != "last words\n" {
			t.Errorf("%+v", past)
		}
	}, func(c *engine.Config) { c.KeepPerFamily = 1 })
}

func TestNothingIsConcludedOfAnEngineThatDoesNotAnswerBeforeItWasLookedAtAgain(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.fake.Hang("Create")
		a := task("a")
		w.accept(a)
		pass(4*time.Minute - time.Second) // a second later the time for a create is over, and nobody knows yet that it is the whole engine
		for _, m := range []string{"List", "Inspect", "Info"} {
			w.fake.Hang(m)
		}
		pass(30 * time.Minute)
		w.want(a.Arn)
		w.fake.Heal("")
		pass(time.Minute)
		w.want(a.Arn, "PENDING", "RUNNING")
	})
}

func TestASaveThatFailsIsTriedAgainLaterAndLaterHoweverOftenTheTaskIsWoken(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		a := task("a", container("first"), container("second", notEssential))
		w.accept(a)
		w.settled()
		var tries atomic.Int32
		w.disk.holdBack(func(*engine.TaskRecord) error {
			tries.Add(1)
			return errors.New("no space left on device")
		})
		w.fake.Exit(w.id(a, "second"), 0)
		for range 600 { // a minute of events
			w.fake.SetHealth(w.id(a, "first"), "HEALTHY", 0, "")
			pass(100 * time.Millisecond)
		}
		if n := tries.Load(); n < 3 || n > 7 { // at once, and after 1, 2, 4, 8, 16 and 30 s
			t.Errorf("%d tries in a minute", n)
		}
		w.disk.holdBack(nil)
		pass(time.Minute)
		if last := w.disk.last(a.Arn); last.Status != "RUNNING" || last.Containers[1].Status != "STOPPED" {
			t.Errorf("%+v", last)
		}
	})
}

func TestDesiredStatusOnlyMovesForward(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.behave(map[string]enginetest.Behaviour{"app": {StopAfter: 20 * time.Second}})
		a := task("a")
		w.accept(a)
		w.settled()
		w.accept(stopOf(a))
		pass(time.Second)
		for _, status := range []string{"RUNNING", "CREATED", "NONE"} { // payloads that are late, or come again
			late := *a
			late.DesiredStatus = status
			w.accept(&late)
			pass(time.Second)
			if s := w.status(a.Arn); s.Desired != "STOPPED" {
				t.Errorf("after a payload with %s desiredStatus is %s", status, s.Desired)
			}
		}
		w.restart()
		pass(time.Minute)
		w.want(a.Arn, "PENDING", "RUNNING", "STOPPED")
	})
}

func TestAStopThatCannotBeSavedIsNotAcceptedAndStopsNothing(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		a := task("a")
		w.accept(a)
		w.settled()
		w.disk.fail(errors.New("no space left on device"))
		if err := w.engine.Accept(context.Background(), stopOf(a)); err == nil {
			t.Error("it was accepted, and a crash would lose it")
		}
		pass(time.Minute)
		w.disk.fail(nil)
		pass(time.Minute)
		if s := w.status(a.Arn); s.Desired != "RUNNING" || !w.running(a, "app") {
			t.Errorf("desiredStatus %s", s.Desired)
		}
		w.accept(stopOf(a))
		w.settled()
		w.want(a.Arn, "PENDING", "RUNNING", "STOPPED")
	})
}

// late is an engine whose answers to Inspect are old when they arrive.
type late struct {
	*enginetest.Fake
	by time.Duration
}

func (l late) Inspect(ctx context.Context, id string) (engine.State, error) {
	st, err := l.Fake.Inspect(ctx, id)
	select {
	case <-time.After(l.by):
	case <-ctx.Done():
		return st, ctx.Err()
	}
	return st, err
}

func TestAnEventThatComesWhileAContainerIsLookedAtIsNotLost(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		a := task("a")
		w.accept(a)
		for !w.running(a, "app") {
			pass(100 * time.Millisecond)
		}
		pass(time.Second) // the look after the start is on its way
		w.fake.Exit(w.id(a, "app"), 3)
		pass(10 * time.Second)
		w.want(a.Arn, "PENDING", "RUNNING", "STOPPED")
	}, func(c *engine.Config) {
		c.Runtime, c.RelistInterval = late{c.Runtime.(*enginetest.Fake), 2 * time.Second}, time.Hour
	})
}

func TestAContainerThatVanishesWithoutAnEventIsMissedAtTheNextLook(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		a := task("a")
		w.accept(a)
		w.settled()
		w.fake.DropEvents(true)
		w.fake.Vanish(w.id(a, "app"))
		pass(11 * time.Second)
		w.want(a.Arn, "PENDING", "RUNNING", "STOPPED")
		if reason := reasonOf(w.disk.last(a.Arn), "app"); !strings.HasPrefix(reason, "ContainerVanishedError") {
			t.Error(reason)
		}
	})
}

func TestAnOrphanIsHandledWhenItIsSeenTheSecondTime(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		a := task("a")
		w.accept(a)
		w.settled()
		spec, _ := w.fake.Spec(w.id(a, "app"))
		spec.Name, spec.Labels[engine.LabelTaskArn] = "late", arnPrefix+"forgotten"
		if _, err := w.fake.Create(context.Background(), spec); err != nil {
			t.Fatal(err)
		}
		for look, left := range []bool{true, false} { // a list may be older than the task that has the container
			pass(10 * time.Second)
			if _, ok := w.fake.Container(arnPrefix+"forgotten", "app"); ok != left {
				t.Errorf("after look %d it is there: %v", look+1, ok)
			}
		}
	}, func(c *engine.Config) { c.OrphanPolicy = engine.OrphansRemove })
}
