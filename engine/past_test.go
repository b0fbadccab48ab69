package engine_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/longshore-project/longshore/engine"
	"github.com/longshore-project/longshore/engine/enginetest"
)

func TestWhatIsLeftOfACleanedTaskIsItsRecordWithTheEndOfItsOutput(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.fake.Behave(func(engine.Spec) enginetest.Behaviour {
			return enginetest.Behaviour{Exits: true, ExitCode: 3, After: time.Second, Output: strings.Repeat("x", 20<<10) + "the last words\n"}
		})
		for i := range 4 {
			w.accept(task(fmt.Sprint(i)))
			pass(2 * time.Second)
		}
		w.disk.accept()
		pass(4 * time.Hour)
		past := w.engine.Past()
		if len(past) != 2 || len(w.engine.Tasks()) != 0 || past[0].Arn != arnPrefix+"3" || past[1].Arn != arnPrefix+"2" {
			t.Fatalf("%+v", past)
		}
		c := past[0].Containers[0]
		if c.ExitCode == nil || *c.ExitCode != 3 || c.Log == nil || len(c.Log.Text) != 8<<10 || !strings.HasSuffix(c.Log.Text, "the last words\n") || len(past[0].Timeline) == 0 {
			t.Errorf("%+v", past[0])
		}
		w.restart()
		w.settled()
		if records, _ := w.disk.Load(); len(w.engine.Past()) != 2 || len(records) != 2 {
			t.Errorf("after a restart %d are known and %d on record", len(w.engine.Past()), len(records))
		}
		w.accept(task("3")) // the control plane lost its memory
		w.settled()
		if last := w.disk.last(arnPrefix + "3"); last.Status != "STOPPED" || exitOf(last, "app") != 3 || w.fake.Creates(c.RuntimeName) != 1 {
			t.Errorf("%+v", last)
		}
	}, func(c *engine.Config) { c.KeepPerFamily = 2 })
}

func TestAShortDiskTakesStoppedTasksBeforeTheirTimeButNotTheLastOfAFamily(t *testing.T) {
	var short atomic.Value
	short.Store("")
	inBubble(t, func(t *testing.T, w *world) {
		for i := range 8 {
			a := task(fmt.Sprint(i))
			a.Containers[0].CPU = 1
			w.accept(a)
			w.settled()
			w.accept(stopOf(a))
			w.settled()
		}
		short.Store("the disk is short")
		pass(11 * time.Second)
		if h := w.engine.Health(); !h.Impaired || h.Causes[0] != "the disk is short" {
			t.Errorf("%+v", h)
		}
		left := func() (left string) {
			for i := range 8 {
				if _, ok := w.fake.Container(arnPrefix+fmt.Sprint(i), "app"); ok {
					left += fmt.Sprint(i)
				}
			}
			return left
		}
		if got := left(); got != "567" {
			t.Errorf("after one look %s are left", got)
		}
		pass(time.Minute)
		if got := left(); got != "67" {
			t.Errorf("%s are left", got)
		}
		if len(w.engine.Tasks()) != 8 {
			t.Error("a task was forgotten before its time")
		}
		short.Store("")
		pass(15 * time.Second)
		if w.engine.Health().Impaired {
			t.Errorf("%+v", w.engine.Health())
		}
	}, func(c *engine.Config) {
		c.KeepPerFamily = 2
		c.DiskPressure = func() string { return short.Load().(string) }
	})
}

func TestOrphansAreFoundByLaterLooksAndHandledByPolicy(t *testing.T) {
	for policy, want := range map[string]string{"keep": "running", "stop": "exited", "remove": "gone"} {
		t.Run(policy, func(t *testing.T) {
			inBubble(t, func(t *testing.T, w *world) {
				foreign := w.fake.AddForeign("somebody's")
				a := task("a")
				w.accept(a)
				w.settled()
				spec, _ := w.fake.Spec(w.id(a, "app"))
				spec.Name = "late"
				spec.Labels[engine.LabelTaskArn] = arnPrefix + "forgotten"
				id, err := w.fake.Create(context.Background(), spec)
				if err != nil {
					t.Fatal(err)
				}
				if err := w.fake.Start(context.Background(), id); err != nil {
					t.Fatal(err)
				}
				w.fake.Fail("Stop", 1, errors.New("not now"))
				pass(2 * time.Minute)
				got := "gone"
				if st, ok := w.fake.Container(arnPrefix+"forgotten", "app"); ok {
					got = string(st.Status)
				}
				if got != want || !w.running(a, "app") {
					t.Errorf("it is %s, want %s", got, want)
				}
				if o := w.engine.Orphans(); policy != "remove" && (len(o) != 1 || o[0].ID != id || o[0].Running != (policy == "keep")) {
					t.Errorf("%+v", o)
				}
				if exists, running := w.fake.Foreign(foreign); !exists || !running {
					t.Error("the foreign container was touched")
				}
			}, func(c *engine.Config) { c.OrphanPolicy = policy })
		})
	}
}

func TestATaskWhoseLabelsCannotBeReadIsNotSaidToHaveNeverRun(t *testing.T) {
	for _, bare := range []bool{false, true} {
		t.Run(fmt.Sprint(bare), func(t *testing.T) {
			inBubble(t, func(t *testing.T, w *world) {
				a := task("a")
				w.accept(a)
				w.settled()
				spec, _ := w.fake.Spec(w.id(a, "app"))
				w.stop()
				w.fake.Vanish(w.id(a, "app"))
				spec.Labels[engine.LabelTask] = "{"
				id, err := w.fake.Create(context.Background(), spec)
				if err != nil {
					t.Fatal(err)
				}
				if err := w.fake.Start(context.Background(), id); err != nil {
					t.Fatal(err)
				}
				w.disk = newDisk()
				w.cfg.State = w.disk
				w.start()
				w.settled()
				<-w.engine.Ready()
				if !bare {
					w.accept(a)
				}
				w.accept(stopOf(a))
				pass(time.Minute)
				last := w.disk.last(a.Arn)
				if last.Status != "STOPPED" || w.fake.Running() != 0 {
					t.Fatalf("%+v, %d run", last, w.fake.Running())
				}
				if !bare && exitOf(last, "app") != 143 {
					t.Errorf("%+v", last)
				}
			})
		})
	}
}
