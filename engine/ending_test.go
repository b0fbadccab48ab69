package engine_test

import (
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/longshore-project/longshore/engine"
	"github.com/longshore-project/longshore/engine/enginetest"
	"github.com/longshore-project/longshore/protocol/acs"
)

// grace is the stopTimeout of the tasks that are stopped here.
const grace = 30 * time.Second

// withKernel lets the engine under test ask a kernel that shows the processes of its containers.
func withKernel(change ...func(*enginetest.Kernel)) func(*engine.Config) {
	return func(c *engine.Config) {
		k := enginetest.Kernel{Fake: c.Runtime.(*enginetest.Fake)}
		for _, f := range change {
			f(&k)
		}
		c.Processes = k
	}
}

func foreign(k *enginetest.Kernel)  { k.Foreign = true }
func immortal(k *enginetest.Kernel) { k.Immortal = true }

// stopping runs a task and orders its stop, after hang has ordered what the engine does not answer.
func (w *world) stopping(hang ...string) *acs.Task {
	w.t.Helper()
	a := task("a")
	w.accept(a)
	w.settled()
	w.want(a.Arn, "PENDING", "RUNNING")
	for _, m := range hang {
		w.fake.Hang(m)
	}
	w.accept(stopOf(a))
	w.settled()
	return a
}

func (w *world) stopped(a *acs.Task, within time.Duration) {
	w.t.Helper()
	began := time.Now()
	for time.Since(began) < within && w.status(a.Arn).Known != "STOPPED" {
		pass(time.Second)
	}
	w.want(a.Arn, "PENDING", "RUNNING", "STOPPED")
}

func TestAStopThatIsNotAnsweredIsOverOnceTheProcessIs(t *testing.T) {
	for name, c := range map[string]struct {
		kernel []func(*enginetest.Kernel)
		within time.Duration
	}{"the kernel shows it": {nil, 5 * time.Second}, "the kernel knows nothing of it": {[]func(*enginetest.Kernel){foreign}, 12 * time.Second}} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, w *world) {
				a := w.stopping("Stop")
				w.fake.DropEvents(true)
				w.fake.Exit(w.id(a, "app"), 7)
				w.stopped(a, c.within)
				if last := w.disk.last(a.Arn); exitOf(last, "app") != 7 {
					t.Errorf("%+v", last)
				}
			}, withKernel(c.kernel...))
		})
	}
}

func TestAContainerThatTheEngineDoesNotStopIsKilledByTheKernel(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		a := w.stopping("Stop")
		pass(grace + 5*time.Second)
		if n := w.fake.Calls("kernel's Kill"); n != 0 || !w.running(a, "app") {
			t.Fatalf("killed before the engine had its time\n%s", w.explain(a.Arn))
		}
		w.stopped(a, 20*time.Second)
		if last := w.disk.last(a.Arn); exitOf(last, "app") != 137 {
			t.Errorf("%+v\n%s", last, w.explain(a.Arn))
		}
		if h := w.engine.Health(); h.Impaired {
			t.Errorf("%+v", h)
		}
	}, withKernel())
}

func TestAnEngineThatKillsWhatItDidNotStopIsEnough(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		a := w.stopping("Stop")
		pass(grace + 5*time.Second)
		w.fake.Delay("Stop", 6*time.Second) // of the calls from now on
		w.fake.Heal("Stop")
		w.stopped(a, 20*time.Second)
		if n := w.fake.Calls("kernel's Kill"); n != 0 {
			t.Error(w.explain(a.Arn))
		}
	}, withKernel())
}

func TestAProcessThatOnlyTheKernelKnowsToBeGoneEndsItsTask(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.fake.Deaf(true)
		a := w.stopping("Stop", "Inspect")
		id := w.id(a, "app")
		w.fake.Exit(id, 0)
		w.stopped(a, 20*time.Second)
		last := w.disk.last(a.Arn)
		if cc := last.Containers[0]; cc.ExitCode != nil || !strings.HasPrefix(cc.Reason, "ContainerEngineError: the kernel no longer has") {
			t.Errorf("%+v", cc)
		}
		w.disk.accept()
		pass(time.Minute)
		if h := w.engine.Health(); !h.Impaired || !strings.Contains(fmt.Sprint(h.Causes), "the stop of container app") {
			t.Errorf("%+v", h)
		}
		w.restart() // its next life finds the container running again, and comes to the same end
		w.settled()
		w.want(a.Arn, "PENDING", "RUNNING", "STOPPED")
		w.fake.Heal("")
		w.fake.Deaf(false)
		pass(10 * time.Minute)
		if h := w.engine.Health(); h.Impaired {
			t.Errorf("%+v", h)
		}
		pass(4 * time.Hour)
		if _, there := w.fake.Container(a.Arn, "app"); there {
			t.Errorf("the container was not removed\n%s", w.explain(a.Arn))
		}
		w.want(a.Arn, "PENDING", "RUNNING", "STOPPED")
	}, withKernel())
}

func TestAContainerOfAnUnwillingEngineIsRemovedOnceTheEngineHasNoticed(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.fake.Deaf(true)
		a := w.stopping("Stop", "Inspect")
		w.fake.Exit(w.id(a, "app"), 0)
		w.stopped(a, 20*time.Second)
		w.disk.accept()
		w.fake.Heal("")
		pass(4 * time.Hour)
		if _, there := w.fake.Container(a.Arn, "app"); !there || !w.engine.Health().Impaired {
			t.Fatalf("%+v", w.engine.Health())
		}
		w.fake.Deaf(false)
		pass(2 * time.Minute)
		if _, there := w.fake.Container(a.Arn, "app"); there || w.engine.Health().Impaired {
			t.Errorf("%+v\n%s", w.engine.Health(), w.explain(a.Arn))
		}
	}, withKernel())
}

func TestAProcessThatNothingEndsIsNamedAndItsTaskIsNotSaidToHaveStopped(t *testing.T) {
	for name, c := range map[string]struct {
		kernel func(*enginetest.Kernel)
		says   string
	}{
		"it survives SIGKILL":     {immortal, "do not end although they were sent SIGKILL"},
		"it is another machine's": {foreign, "its process is not one that the kernel shows"},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, w *world) {
				a := w.stopping("Stop")
				pass(10 * time.Minute)
				w.want(a.Arn, "PENDING", "RUNNING")
				if text := w.explain(a.Arn); !strings.Contains(text, c.says) || !w.running(a, "app") {
					t.Error(text)
				}
				if h := w.engine.Health(); !h.Impaired || !strings.Contains(fmt.Sprint(h.Causes), "the kill of container app") {
					t.Errorf("%+v", h)
				}
				w.fake.Heal("Stop")
				w.stopped(a, time.Minute)
				if h := w.engine.Health(); h.Impaired {
					t.Errorf("%+v", h)
				}
			}, withKernel(c.kernel))
		})
	}
}

func TestAContainerThatCannotBeInspectedIsStoppedAllTheSame(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		a := task("a")
		w.accept(a)
		w.settled()
		w.fake.Hang("Inspect")
		w.fake.SetHealth(w.id(a, "app"), "UNHEALTHY", 1, "") // so that it is looked at
		pass(15 * time.Second)
		w.accept(stopOf(a))
		pass(15 * time.Second)
		if w.running(a, "app") {
			t.Fatal(w.explain(a.Arn))
		}
		w.fake.Heal("Inspect")
		w.stopped(a, time.Minute)
		if exitOf(w.disk.last(a.Arn), "app") != 143 {
			t.Errorf("%+v", w.disk.last(a.Arn))
		}
	}, withKernel())
}

func TestOneContainerThatCannotBeInspectedKeepsNoOtherFromBeingLookedAt(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		var hung []*acs.Task
		for i := range 20 {
			x := task(fmt.Sprintf("hung%d", i))
			hung = append(hung, x)
			w.accept(x)
		}
		w.settled()
		for _, x := range hung {
			w.fake.HangFor("Inspect", w.id(x, "app"))
			w.fake.SetHealth(w.id(x, "app"), "UNHEALTHY", 1, "")
		}
		pass(5 * time.Minute)
		b := task("b")
		w.accept(b)
		pass(time.Second)
		w.want(b.Arn, "PENDING", "RUNNING")
	}, withKernel())
}

func TestWhatTookEffectWithoutAnAnswerIsSeen(t *testing.T) {
	for _, method := range []string{"Create", "Start", "Remove"} {
		t.Run(method, func(t *testing.T) {
			inBubble(t, func(t *testing.T, w *world) {
				w.fake.Mute(method)
				a := task("a")
				w.accept(a)
				pass(12 * time.Second)
				w.want(a.Arn, "PENDING", "RUNNING")
				w.accept(stopOf(a))
				w.settled()
				w.disk.accept()
				pass(3*time.Hour + 12*time.Second)
				if _, there := w.fake.Container(a.Arn, "app"); there || w.status(a.Arn).Known != "" {
					t.Errorf("%s is still known as %s\n%s", a.Arn, w.status(a.Arn).Known, w.explain(a.Arn))
				}
			})
		})
	}
}

func TestARemovalWithoutAnAnswerKeepsOthersWaitingForHalfAMinuteAtMost(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		a, b := task("a"), task("b")
		for i, x := range []*acs.Task{a, b} {
			w.accept(x)
			w.settled()
			w.accept(stopOf(x))
			w.settled()
			if i == 0 {
				w.fake.HangFor("Remove", w.id(x, "app"))
			}
			pass(time.Second)
		}
		w.disk.accept()
		pass(3*time.Hour + time.Minute)
		if _, there := w.fake.Container(b.Arn, "app"); there {
			t.Error(w.explain(b.Arn))
		}
	})
}

func TestStartsTakeTurnsAndOneWithoutAnAnswerGivesItsPlaceUp(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.fake.Hang("Start")
		atOnce := 4 * runtime.NumCPU()
		for i := range atOnce + 3 {
			w.accept(task(fmt.Sprintf("t%d", i)))
		}
		w.settled()
		if n := w.fake.Calls("Start"); n != atOnce {
			t.Errorf("%d starts at once, want %d", n, atOnce)
		}
		pass(11 * time.Second)
		if n := w.fake.Calls("Start"); n != atOnce+3 {
			t.Errorf("%d starts after the first had their turn, want %d", n, atOnce+3)
		}
		w.fake.Heal("Start")
		w.settled()
		if n := w.fake.Running(); n != atOnce+3 {
			t.Errorf("%d run", n)
		}
	})
}

func TestAnEngineThatSaysThatItHasStoppedWhatItShowsAsRunningIsNotAskedAgainAtOnce(t *testing.T) {
	for name, c := range map[string]struct {
		kernel func(*enginetest.Kernel)
		within time.Duration
	}{"the kernel has no process of it": {func(*enginetest.Kernel) {}, 20 * time.Second}, "the kernel knows nothing of it": {foreign, 0}} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, w *world) {
				w.fake.Deaf(true)
				a := w.stopping()
				if c.within > 0 {
					w.stopped(a, c.within)
				} else {
					pass(10 * time.Minute)
					w.want(a.Arn, "PENDING", "RUNNING")
				}
				if n := w.fake.Calls("Stop"); n > 30 {
					t.Errorf("%d stops", n)
				}
				w.fake.Deaf(false)
				w.stopped(a, time.Minute)
			}, withKernel(c.kernel))
		})
	}
}

func TestStopsThatTakeTheirTimeLetOthersBegin(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.behave(map[string]enginetest.Behaviour{"app": {StopAfter: 20 * time.Second}})
		var all []*acs.Task
		for i := range 10 * runtime.NumCPU() {
			x := task(fmt.Sprintf("t%d", i))
			x.Containers[0].CPU, x.Containers[0].Memory = 0, 4
			all = append(all, x)
			w.accept(x)
		}
		w.settled()
		for _, x := range all {
			w.accept(stopOf(x))
		}
		w.settled()
		if n := w.fake.Calls("Stop"); n != 4*runtime.NumCPU() {
			t.Errorf("%d stops at once", n)
		}
		pass(3 * time.Second)
		if n := w.fake.Calls("Stop"); n != len(all) {
			t.Errorf("%d of %d stops have begun", n, len(all))
		}
		pass(20 * time.Second)
		for _, x := range all {
			if exitOf(w.disk.last(x.Arn), "app") != 143 {
				t.Errorf("%+v", w.disk.last(x.Arn))
			}
		}
	}, withKernel())
}
