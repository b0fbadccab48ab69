package engine_test

import (
	"strings"
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
