package scheduler

import (
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"

	"github.com/longshore-project/longshore/controlplane/store"
	"github.com/longshore-project/longshore/controlplane/task"
)

// updated is a world whose service was steady on its first definition and is updated to a second.
func updated(t *testing.T, hosts int, change ...func(*types.Service)) *world {
	t.Helper()
	w := newWorld(t, hosts)
	w.create(w.define(), change...)
	w.settle()
	w.after(time.Hour)
	w.expectSteady(t)
	w.deploy(w.define())
	return w
}

func TestAnUpdateGoesInWavesOfOneTwoFour(t *testing.T) {
	w := updated(t, 8)
	w.settle()
	w.expect("2 1 1 1 1 1 1 1")
	w.after(9 * time.Second)
	w.expect("2 1 1 1 1 1 1 1")
	w.after(time.Second)
	w.expect("2 2 2 1 1 1 1 1")
	w.after(10 * time.Second)
	w.expect("2 2 2 2 2 2 2 1")
	if o := w.svc.Object; len(o.Deployments) != 2 || o.Deployments[0].RolloutState != types.DeploymentRolloutStateInProgress || o.DesiredCount != 8 {
		t.Errorf("deployments %+v, desiredCount %d", o.Deployments, o.DesiredCount)
	}
	w.after(10 * time.Second)
	w.expect("2 2 2 2 2 2 2 2")
	w.expectSteady(t)
	w.expectTold(2, "deployment completed.")
	if r := w.svc.Rollouts[*w.svc.Object.Deployments[0].Id]; len(r.Instances) != 0 || len(w.svc.Rollouts) != 1 {
		t.Errorf("roll-outs %+v", w.svc.Rollouts)
	}
	for _, old := range w.tasks {
		if revisionOf(old) == "1" && !strings.HasPrefix(*old.Object.StoppedReason, "Scaling activity initiated by (deployment "+*w.svc.Object.Deployments[0].Id) {
			t.Errorf("stopped because %q", *old.Object.StoppedReason)
		}
	}
}

func TestTheNewTaskWaitsUntilTheOldOneIsStopped(t *testing.T) {
	w := updated(t, 2)
	w.stubborn[w.own("host-1").ID] = true
	w.settle()
	w.expect("(1) 1")
	w.stubborn = map[string]bool{}
	w.settle()
	w.expect("2 1")
}

func TestInParallelAllAreReplacedAtOnce(t *testing.T) {
	w := updated(t, 5)
	w.cfg.RolloutParallel = true
	w.agents = bad("2")
	w.settle()
	w.expect("- - - - -")
	w.agents = nil
	w.after(time.Minute)
	w.expect("2 2 2 2 2")
	w.after(2 * time.Minute)
	w.expectSteady(t)
}

func TestACrashingImageReachesOneHostAndNoMore(t *testing.T) {
	w := updated(t, 4)
	w.agents = bad("2")
	w.settle()
	w.after(time.Hour)
	for _, task := range w.tasks {
		if revisionOf(task) == "2" && task.Instance != "host-1" {
			t.Fatalf("the crashing image reached %s", task.Instance)
		}
	}
	w.expect("- 1 1 1")
	w.expectTold(1, "holds at wave 1: task ")
	w.expectTold(1, "on container instance host-1 failed: Essential container in task exited (container agent: exit code 1). 0 of 4 container instances run it healthily, 3 keep what they have")
	if d := w.svc.Object.Deployments[0]; !strings.HasPrefix(*d.RolloutStateReason, "ECS deployment "+*d.Id+" in progress. It holds: task ") || d.FailedTasks == 0 {
		t.Errorf("the deployment says %q, failedTasks %d", *d.RolloutStateReason, d.FailedTasks)
	}

	t.Run("an old task that ends meanwhile is replaced by one of the old deployment", func(t *testing.T) {
		w.replace(task.Stop(w.own("host-3"), types.TaskStopCodeUserInitiated, "", w.now))
		w.settle()
		w.expect("- 1 1 1")
	})
	t.Run("an instance that joins gets the old deployment", func(t *testing.T) {
		w.join("host-5")
		w.settle()
		w.expect("- 1 1 1 1")
	})
	t.Run("a new deployment goes on, first where nothing is healthy", func(t *testing.T) {
		w.deploy(w.define())
		w.settle()
		w.expect("3 1 1 1 1")
		w.after(20 * time.Second)
		w.expect("3 3 3 3 3")
		w.after(2 * time.Minute)
		w.expectSteady(t)
	})
}

func TestARollOutThatHeldGoesOnWhenTheTaskBecomesHealthy(t *testing.T) {
	w := updated(t, 4)
	w.agents = bad("2")
	w.settle()
	w.after(time.Minute)
	w.expectTold(1, "holds at wave 1")
	w.agents = nil
	w.after(5 * time.Minute)
	w.expect("2 2 2 2")
	w.expectSteady(t)
}

func TestALaterWaveHoldsToo(t *testing.T) {
	w := updated(t, 8)
	w.agents = func(t *store.Task) string {
		if revisionOf(t) == "2" && t.Instance == "host-3" {
			return task.Stopped
		}
		return task.Running
	}
	w.settle()
	w.after(time.Hour)
	if got := strings.Count(w.running(), "2"); got != 2 || strings.Count(w.running(), "1") != 5 {
		t.Errorf("it did not hold at the second wave: %s", w.running())
	}
	w.expectTold(1, "holds at wave 2")
}

func TestARollOutThatIsToldToGoOnDoesNotHoldAnyMore(t *testing.T) {
	w := updated(t, 8)
	w.agents = func(t *store.Task) string {
		if revisionOf(t) == "2" && t.Instance == "host-3" {
			return task.Stopped
		}
		return task.Running
	}
	w.settle()
	w.after(time.Hour)
	if got := strings.Count(w.running(), "2"); got != 2 {
		t.Fatalf("it did not hold: %s", w.running())
	}
	for id, r := range w.svc.Rollouts {
		r.Continued = true
		w.svc.Rollouts[id] = r
	}
	w.settle()
	w.after(time.Hour)
	if got := strings.Count(w.running(), "2"); got != 7 || strings.Contains(w.running(), "1") {
		t.Errorf("it did not go on with the other seven: %s", w.running())
	}
}

func TestMinimumHealthyPercentIsKept(t *testing.T) {
	w := updated(t, 4, minimum(50))
	w.agents = func(t *store.Task) string {
		if revisionOf(t) == "2" {
			return "" // still PENDING
		}
		return task.Running
	}
	w.cfg.RolloutParallel = true
	w.settle()
	w.expect("(2) (2) 1 1")
	w.agents = nil
	w.settle()
	w.expect("2 2 2 2")
}

func TestMinimumHealthyPercentIsKeptForWhatWasBegunAndNotWritten(t *testing.T) {
	w := updated(t, 2, minimum(50))
	w.svc = reconcile(w.snapshot(), &w.cfg).service // the wave is recorded, the stop was not
	w.agents = func(t *store.Task) string {
		if t.Instance == "host-2" && revisionOf(t) == "1" {
			return task.Stopped
		}
		return task.Running
	}
	n, _ := task.Apply(w.own("host-2"), task.StateChange{Status: task.Stopped}, w.now)
	w.replace(n)
	w.settle()
	w.expect("1 2") // what has no healthy task comes first
	w.after(10 * time.Second)
	w.expect("2 2")
	w.expectSteady(t)
}

func TestMinimumHealthyPercentCountsEachStopOfAPass(t *testing.T) {
	w := updated(t, 4, minimum(50))
	w.cfg.RolloutParallel = true
	w.svc = reconcile(w.snapshot(), &w.cfg).service // a wave of two is recorded, the stops were not
	w.replace(task.Stop(w.own("host-4"), types.TaskStopCodeUserInitiated, "", w.now))
	w.pass()
	w.expect("(1) 1 1 (1)")
}

func TestAWaveBeginsWhereNothingIsHealthy(t *testing.T) {
	w := newWorld(t, 3)
	w.create(w.define())
	w.agents = func(t *store.Task) string {
		if t.Instance == "host-3" && revisionOf(t) == "1" {
			return task.Stopped
		}
		return task.Running
	}
	w.settle()
	w.after(10 * time.Minute)
	w.expect("1 1 -")
	w.deploy(w.define())
	w.settle()
	w.expect("1 1 2")
}

func TestWherePercentagesAllowNothingAnEventSaysSo(t *testing.T) {
	w := updated(t, 1, minimum(50))
	w.settle()
	w.after(time.Hour)
	w.expect("1")
	w.expectTold(1, "was unable to stop or start tasks during a deployment because of the service deployment configuration.")
	svc := *w.svc
	svc.Object.DeploymentConfiguration = &types.DeploymentConfiguration{MinimumHealthyPercent: aws.Int32(0)}
	w.svc = &svc
	w.settle()
	w.expect("2")
}

func TestAHostThatIsAwayIsLeftOutAndCaughtUp(t *testing.T) {
	w := updated(t, 4)
	w.connect("host-1", false)
	w.settle()
	w.after(time.Minute)
	w.expect("1 2 2 2")
	if len(w.svc.Object.Deployments) != 2 {
		t.Errorf("%d deployments", len(w.svc.Object.Deployments))
	}
	w.connect("host-1", true)
	w.settle()
	w.expect("2 2 2 2")
	w.expectSteady(t)
}

func TestARestartOfTheControlPlaneDoesNotDisturbARollOut(t *testing.T) {
	w := updated(t, 4)
	stopping := w.own("host-1")
	w.stubborn[stopping.ID] = true
	w.settle()
	w.expect("(1) 1 1 1")
	w.replace(task.Lost(stopping, "", "stopped", w.now)) // reported while nobody is connected
	for id := range w.hosts {
		w.connect(id, false)
	}
	w.settle()
	w.after(5 * time.Second)
	w.expect("- 1 1 1")
	for id := range w.hosts {
		w.connect(id, true)
	}
	w.settle()
	w.expect("2 1 1 1")
	w.expectTold(0, "goes on without")
	w.expectTold(0, "unable to place")
}

func TestAHostThatGoesWhileItsOldTaskStopsDoesNotHoldTheOthers(t *testing.T) {
	w := updated(t, 3)
	w.stubborn[w.own("host-1").ID] = true
	w.settle()
	w.connect("host-1", false)
	w.settle()
	w.after(time.Minute)
	w.expect("(1) 1 1")
	w.after(10 * time.Minute)
	w.expect("(1) 2 2")
	w.expectTold(1, "goes on without (container-instance host-1) for now: its old task")
	delete(w.hosts, "host-1") // given up
	for _, left := range w.live("host-1") {
		w.replace(task.Lost(left, "", "gone", w.now))
	}
	w.settle()
	w.expect("2 2")
	w.expectSteady(t)
}

func TestASlowlyStoppingTaskDelaysItsOwnHostOnly(t *testing.T) {
	w := updated(t, 3)
	slow := w.own("host-1")
	w.stubborn[slow.ID] = true
	w.settle()
	w.after(time.Minute)
	w.expect("(1) 1 1")
	w.after(2 * time.Minute)
	w.expect("(1) 2 2")
	w.stubborn = map[string]bool{}
	w.settle()
	w.after(10 * time.Second)
	w.expect("2 2 2")
	w.expectSteady(t)
}

func TestAnImageThatNeverStartsHoldsUnlessItIsKnownToStart(t *testing.T) {
	w := updated(t, 4)
	never := map[string]bool{"host-1": true}
	w.agents = func(t *store.Task) string {
		if revisionOf(t) == "2" && never[t.Instance] {
			return ""
		}
		return task.Running
	}
	w.settle()
	w.after(time.Hour)
	w.expect("(2) 1 1 1")
	w.expectTold(1, "holds at wave 1: task ")
	w.expectTold(1, "is not healthy 2m0s after it was placed: it is PENDING")
	never = map[string]bool{"host-2": true}
	w.settle()
	w.after(time.Hour)
	w.expect("2 (2) 2 2")
}

func TestAHostThatTheNewTaskCutsOffHoldsTheOthers(t *testing.T) {
	w := updated(t, 3)
	w.settle()
	w.expect("2 1 1")
	w.connect("host-1", false)
	w.settle()
	w.after(time.Hour)
	w.expect("2 1 1")
	w.expectTold(1, "holds at wave 1")
}

func TestAnOldTaskIsNotStoppedWhereTheNewOneHasNoRoom(t *testing.T) {
	w := newWorld(t, 3)
	w.create(w.define())
	w.settle()
	for _, id := range []string{"host-1", "host-3"} {
		w.tasks = append(w.tasks, &store.Task{Cluster: "c", ID: "other-" + id, Instance: id, Reserved: store.Resources{Memory: 500}, Object: types.Task{DesiredStatus: aws.String(task.Running), LastStatus: aws.String(task.Running)}})
	}
	w.deploy(w.define(func(d *types.TaskDefinition) { d.ContainerDefinitions[0].Memory = aws.Int32(600) }))
	w.settle()
	w.after(time.Minute)
	w.expect("1 2 1")
	w.expectTold(1, "has insufficient memory available")
	w.expectTold(1, "1 instance refused it: 1 short of 600 MiB of memory. Nearest is host-1: it has 524 of 1024 MiB of memory free, 600 are needed (76 more).")
	if d := w.svc.Object.Deployments[0]; !strings.Contains(*d.RolloutStateReason, "nowhere is room for it") {
		t.Errorf("the deployment says %q", *d.RolloutStateReason)
	}
	for _, id := range []string{"other-host-1", "other-host-3"} {
		for _, o := range w.tasks {
			if o.ID == id {
				w.replace(task.Stop(o, types.TaskStopCodeUserInitiated, "", w.now))
			}
		}
	}
	w.settle()
	w.after(20 * time.Second)
	w.expect("2 2 2")
	w.expectSteady(t)
}

// What keeps the wave from one host, and what keeps any task from another, are told at once, and not the one after the other.
func TestWhatAWaveMetIsToldBesideWhatIsMissing(t *testing.T) {
	w := newWorld(t, 2)
	w.create(w.define())
	w.settle()
	w.after(time.Hour)
	w.take("host-1", 500)
	w.join("host-3")
	w.connect("host-3", false)
	w.now = w.now.Add(time.Hour)
	w.deploy(w.define(func(d *types.TaskDefinition) { d.ContainerDefinitions[0].Memory = aws.Int32(600) }))
	w.pass()
	w.expectTold(1, "The closest matching (container-instance host-1) has insufficient memory available")
	w.expectTold(1, `The closest matching (container-instance host-3) encountered error "AGENT"`)
	if p := w.pass(); !p.empty() {
		t.Errorf("a second pass changes nothing: it told %q", p.events)
	}
}

func TestAWaveThatComesBackToWhereItFailedHoldsAtOnce(t *testing.T) {
	w := updated(t, 2, constrained("attribute:env==prod"))
	w.connect("host-2", false) // where the old one runs on
	w.agents = bad("2")
	w.settle()
	w.setAttribute("host-1", "dev")
	w.settle()
	w.setAttribute("host-1", "prod")
	w.pass()
	if r := w.svc.Rollouts[*w.svc.Object.Deployments[0].Id]; r.Held == "" || len(r.Instances) != 1 {
		t.Errorf("%+v", r)
	}
	if p := w.pass(); !p.empty() {
		t.Errorf("a second pass changes nothing: it makes %s", show(p.service))
	}
}

func TestADefinitionThatNoHostCanRunStopsNothing(t *testing.T) {
	w := newWorld(t, 3)
	w.create(w.define())
	w.settle()
	w.deploy(w.define(func(d *types.TaskDefinition) {
		d.RequiresAttributes = []types.Attribute{{Name: aws.String("com.amazonaws.ecs.capability.logging-driver.unheard-of")}}
	}))
	w.settle()
	w.after(time.Hour)
	w.expect("1 1 1")
	w.expectTold(1, "is missing an attribute required by your task")
	if w.svc.Object.DesiredCount != 3 {
		t.Errorf("desiredCount is %d", w.svc.Object.DesiredCount)
	}
}

func TestAWaveWaitsForHealthChecks(t *testing.T) {
	w := newWorld(t, 3)
	w.create(w.define())
	w.settle()
	w.deploy(w.define(healthChecked))
	w.settle()
	w.after(time.Minute)
	w.expect("2 1 1")
	w.health("host-1", types.HealthStatusHealthy)
	w.settle()
	w.after(10 * time.Second)
	w.expect("2 2 2")
	w.health("host-2", types.HealthStatusUnhealthy)
	w.settle()
	w.expectTold(1, "failed container health checks.")
}

func TestAnUpdateOfAServiceThatNeverWorkedGoesOn(t *testing.T) {
	w := newWorld(t, 3)
	w.create(w.define())
	w.agents = bad("1")
	w.settle()
	w.after(10 * time.Minute)
	w.expect("- - -")
	w.deploy(w.define())
	w.settle()
	w.after(3 * time.Minute)
	w.expect("2 2 2")
	w.expectSteady(t)
}

func TestADrainedHostDoesNotHoldARollOut(t *testing.T) {
	w := updated(t, 4)
	w.agents = func(t *store.Task) string {
		if revisionOf(t) == "2" && t.Instance == "host-1" {
			return ""
		}
		return task.Running
	}
	w.settle()
	w.expect("(2) 1 1 1")
	w.setStatus("host-1", draining)
	w.settle()
	w.after(time.Minute)
	w.expect("- 2 2 2")
	w.expectSteady(t)
}

func TestAProtectedDaemonIsReplacedWhenItsProtectionEnds(t *testing.T) {
	w := newWorld(t, 3)
	w.create(w.define())
	w.settle()
	n := task.Protect(w.own("host-2"), w.now.Add(time.Hour))
	w.replace(n)
	w.deploy(w.define())
	w.settle()
	w.after(10 * time.Minute)
	if got := w.running(); got != "2 1 2" {
		t.Fatalf("a roll-out goes around a protected task: %s", got)
	}
	w.after(time.Hour)
	if got := w.running(); got != "2 2 2" {
		t.Errorf("a roll-out goes on when the protection ends: %s", got)
	}
}

func TestARolloutInParallelDoesNotSayThatThereIsRoomNowhereWhileItGoesOn(t *testing.T) {
	w := newWorld(t, 2)
	w.cfg.RolloutParallel = true
	w.create(w.define())
	w.settle()
	w.tasks = append(w.tasks, &store.Task{Cluster: "c", ID: "other", Instance: "host-2", Reserved: store.Resources{Memory: 500}, Object: types.Task{DesiredStatus: aws.String(task.Running), LastStatus: aws.String(task.Running)}})
	w.deploy(w.define(func(d *types.TaskDefinition) { d.ContainerDefinitions[0].Memory = aws.Int32(600) }))
	w.pass() // it checks that a second one changes nothing
	held := func() string { return w.svc.Rollouts[*w.svc.Object.Deployments[0].Id].Held }
	if why := held(); why != "" {
		t.Errorf("while host-1 is replaced it holds: %s", why)
	}
	w.settle()
	w.expect("2 1")
	if why := held(); !strings.HasPrefix(why, "nowhere is room") {
		t.Errorf("when only host-2 is left, which has no room, it holds: %q", why)
	}
}

func TestARolloutThatWaitsForImagesGivesWayWhenFewerTasksMayStop(t *testing.T) {
	w := newWorld(t, 4)
	w.cfg.RolloutParallel = true
	for id := range w.hosts {
		w.prepares(id)
	}
	w.create(w.define(), minimum(50))
	w.settle()
	w.images = always("")
	w.deploy(w.define())
	w.settle()
	waits := func(want string) {
		t.Helper()
		if got := strings.Join(slices.Sorted(maps.Keys(w.preparations)), " "); got != want {
			t.Fatalf("images are made local on %q, want %q; events: %s", got, want, w.history())
		}
	}
	waits("host-1 host-2")
	w.pass() // each pass checks that what rests can be left out
	if n := w.rests.calm.of[fetching]; n != 2 {
		t.Errorf("%d places rest while their images are made local", n)
	}
	w.agents = func(l *store.Task) string { // the next one stays PENDING
		if l.Instance == "host-4" && task.LastStatus(l) != task.Running {
			return ""
		}
		return task.Running
	}
	w.replace(task.Stop(w.own("host-4"), types.TaskStopCodeUserInitiated, "", w.now))
	w.settle()
	waits("host-1") // host-4 serves no longer
	w.agents = nil
	w.images = always(store.PreparationReady)
	w.settle()
	w.after(time.Hour)
	w.expect("2 2 2 2")
}
