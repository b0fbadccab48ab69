package scheduler

import (
	"slices"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/ecs/types"

	"github.com/longshore-project/longshore/controlplane/scheduler/policy"
	"github.com/longshore-project/longshore/controlplane/store"
	"github.com/longshore-project/longshore/controlplane/task"
)

func TestABrokenHostDelaysItsOwnDaemonOnly(t *testing.T) {
	w := updated(t, 8)
	broken := map[string]bool{"host-4": true}
	w.agents = func(t *store.Task) string {
		if broken[t.Instance] && revisionOf(t) == "2" {
			return task.Stopped
		}
		return task.Running
	}
	w.settle()
	w.after(21 * time.Second)
	w.expect("2 2 2 - 2 2 2 1")
	if r := w.svc.Rollouts[*w.svc.Object.Deployments[0].Id]; r.Held == "" {
		t.Error("a failure holds the roll-out until it is known to be the host's")
	}
	w.after(time.Minute)
	w.expect("2 2 2 - 2 2 2 2")
	w.expectTold(1, "goes on without (container-instance host-4) for now: its task fails there again and again, and is healthy elsewhere.")
	if d := w.svc.Object.Deployments[0]; d.RolloutState != types.DeploymentRolloutStateInProgress || !w.svc.SteadySince.IsZero() {
		t.Errorf("the deployment is %s, steady since %s", d.RolloutState, w.svc.SteadySince)
	}
	broken = nil
	w.after(time.Hour)
	w.expect("2 2 2 2 2 2 2 2")
	w.expectSteady(t)
}

func TestAHostInTheFirstWaveOnWhichNothingRunsDelaysItsOwnDaemonOnly(t *testing.T) {
	for name, since := range map[string]string{"since before the roll-out": "1", "since the roll-out": "2"} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, 8)
			w.create(w.define())
			w.settle()
			broken := func(l *store.Task) string {
				if l.Instance == "host-1" {
					return task.Stopped
				}
				return task.Running
			}
			if since == "1" {
				w.agents = broken
				ended, _ := task.Apply(w.own("host-1"), task.StateChange{Status: task.Stopped}, w.now)
				w.replace(ended)
				w.settle()
				w.after(time.Minute)
				w.expect("- 1 1 1 1 1 1 1")
			}
			w.deploy(w.define())
			w.agents = broken
			deployed := len(w.tasks)
			w.settle()
			w.after(5 * time.Minute)
			w.expect("- 2 2 2 2 2 2 2")
			w.expectTold(1, "goes on without (container-instance host-1) for now: its task fails there again and again, and so does that of the deployment before.")
			tried := 0
			for _, l := range w.tasks[deployed:] {
				if l.Instance == "host-1" && revisionOf(l) == "1" {
					tried++
				}
			}
			if want := map[string]int{"1": 0, "2": 1}[since]; tried != want { // what failed there before is known
				t.Errorf("the deployment before was tried %d times, not %d", tried, want)
			}
			w.agents = nil
			w.after(time.Hour)
			w.expect("2 2 2 2 2 2 2 2")
			w.expectSteady(t)
		})
	}
}

func TestWhereOnlyTheNewTaskFailsOneMoreHostIsTriedOnRequest(t *testing.T) {
	for _, surge := range []string{"false", "true"} {
		rolled := func(broken ...string) *world {
			w := newWorld(t, 6)
			w.create(w.define(), tagged(policy.SecondHost, "true"), tagged(policy.DaemonSurge, surge))
			w.settle()
			w.after(time.Hour)
			w.deploy(w.define())
			w.agents = func(l *store.Task) string {
				if revisionOf(l) == "2" && slices.Contains(broken, l.Instance) {
					return task.Stopped
				}
				return task.Running
			}
			w.settle()
			w.after(10 * time.Minute)
			return w
		}
		t.Run("one host is broken for it, surge "+surge, func(t *testing.T) {
			w := rolled("host-1")
			w.expectTold(1, "is tried on one more container instance: its task fails again and again on (container-instance host-1), where that of the deployment before runs.")
			w.expectTold(1, "goes on without (container-instance host-1) for now: its task fails there again and again, and is healthy elsewhere.")
			for _, id := range []string{"host-2", "host-3", "host-4", "host-5", "host-6"} {
				if own := w.own(id); own == nil || revisionOf(own) != "2" {
					t.Errorf("%s does not run the new task: %s", id, w.history())
				}
			}
			w.agents = nil
			w.after(time.Hour)
			w.expect("2 2 2 2 2 2")
			w.expectSteady(t)
		})
		t.Run("the image is broken, surge "+surge, func(t *testing.T) {
			w := rolled("host-1", "host-2", "host-3", "host-4", "host-5", "host-6")
			reached := map[string]bool{}
			for _, l := range w.tasks {
				if revisionOf(l) == "2" {
					reached[l.Instance] = true
				}
			}
			if len(reached) != 2 {
				t.Errorf("the broken image reached %v", reached)
			}
			w.expectTold(1, "holds at wave 1: task ")
			for _, id := range []string{"host-3", "host-4", "host-5", "host-6"} {
				if own := w.own(id); own == nil || revisionOf(own) != "1" {
					t.Errorf("%s does not run the task before: %s", id, w.history())
				}
			}
		})
	}
}

func TestTwoBrokenHostsOfFewHoldARollOut(t *testing.T) {
	w := updated(t, 8)
	w.agents = func(t *store.Task) string {
		if (t.Instance == "host-4" || t.Instance == "host-5") && revisionOf(t) == "2" {
			return task.Stopped
		}
		return task.Running
	}
	w.settle()
	w.after(time.Hour)
	w.expect("2 2 2 - - 2 2 1")
	w.expectTold(1, "holds at wave 3")
}

// The try of the deployment before ends with a stop, and that counts as any other.
func TestATryEndsWhenMinimumHealthyPercentAllowsIt(t *testing.T) {
	w := newWorld(t, 2)
	w.create(w.define(), minimum(50))
	w.settle()
	w.after(time.Hour)
	w.deploy(w.define())
	silent := false
	w.agents = func(l *store.Task) string {
		switch {
		case revisionOf(l) == "2":
			return task.Stopped
		case silent && l.Instance == "host-2":
			return ""
		}
		return task.Running
	}
	w.settle()
	w.after(8 * time.Second)
	w.expect("1 1")
	w.expectTold(1, "fails again and again on (container-instance host-1): the deployment before is tried there")
	silent = true
	w.replace(task.Stop(w.own("host-2"), types.TaskStopCodeUserInitiated, "", w.now))
	w.report()
	w.settle()
	w.after(10 * time.Minute)
	if own := w.own("host-1"); own == nil || revisionOf(own) != "1" || !task.Wanted(own) {
		t.Fatalf("the only healthy daemon of two was stopped, of which one has to be: %s", w.history())
	}
	silent = false
	w.report()
	w.settle()
	w.after(time.Minute)
	w.expect("- 1")
	w.agents = nil
	w.after(time.Hour)
	w.expect("2 2")
	w.expectSteady(t)
}

// An old task that is slow to stop sets its instance aside, and the next one is reached: not where the new task is known to fail.
func TestATryThatIsSlowToStopSendsABrokenImageNowhereElse(t *testing.T) {
	w := updated(t, 4)
	w.agents = bad("2")
	w.settle()
	w.after(8 * time.Second)
	w.expect("1 1 1 1")
	w.stubborn[w.own("host-1").ID] = true
	w.after(time.Hour)
	for _, l := range w.tasks {
		if revisionOf(l) == "2" && l.Instance != "host-1" {
			t.Fatalf("the broken image reached %s: %s", l.Instance, w.history())
		}
	}
	if own := w.own("host-1"); own == nil || revisionOf(own) != "1" || task.Wanted(own) {
		t.Errorf("the try is not being stopped: %s", w.history())
	}
}
