package scheduler

import (
	"fmt"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"

	"github.com/longshore-project/longshore/controlplane/store"
	"github.com/longshore-project/longshore/controlplane/task"
)

func constrained(expr string) func(*types.Service) {
	return func(s *types.Service) {
		s.PlacementConstraints = []types.PlacementConstraint{{Type: types.PlacementConstraintTypeMemberOf, Expression: aws.String(expr)}}
	}
}

func minimum(percent int32) func(*types.Service) {
	return func(s *types.Service) { s.DeploymentConfiguration.MinimumHealthyPercent = aws.Int32(percent) }
}

func TestANewServiceGetsOneTaskOnEachInstanceAtOnce(t *testing.T) {
	w := newWorld(t, 5)
	w.create(w.define())
	w.settle()
	w.expect("1 1 1 1 1")
	w.expectSteady(t)
	if w.svc.Object.DesiredCount != 5 {
		t.Errorf("desiredCount is %d", w.svc.Object.DesiredCount)
	}
	w.expectTold(1, "has reached a steady state.")
	w.expectTold(1, "deployment completed.")
	own := w.own("host-1")
	if own.Service != "agent" || own.Deployment != *w.svc.Object.Deployments[0].Id || *own.Object.Group != "service:agent" || *own.Object.StartedBy != own.Deployment {
		t.Errorf("the task is %+v", own)
	}
}

func TestAnInstanceThatJoinsGetsItsTask(t *testing.T) {
	w := newWorld(t, 1)
	w.create(w.define())
	w.settle()
	w.join("host-2")
	w.connect("host-2", false)
	w.settle()
	w.expect("1 -")
	w.connect("host-2", true)
	w.settle()
	w.expect("1 1")
	w.expectTold(2, "has reached a steady state.")
	w.expectTold(0, "unable to place")
}

func TestAServiceWithoutInstancesIsSteadyAndWaits(t *testing.T) {
	w := newWorld(t, 0)
	w.create(w.define())
	w.settle()
	w.expectSteady(t)
	w.join("host-1")
	w.settle()
	w.expect("1")
	w.expectSteady(t)
}

func TestATaskIsStoppedWhereTheConstraintsNoLongerHold(t *testing.T) {
	w := newWorld(t, 2)
	w.create(w.define(), constrained("attribute:env==prod"))
	w.settle()
	w.expect("1 1")
	w.setAttribute("host-2", "dev")
	w.settle()
	w.expect("1 -")
	w.expectTold(1, "was stopped because (container-instance host-2) no longer satisfies the placement constraints: attribute:env==prod does not hold.")
	w.expectSteady(t)
	if w.svc.Object.DesiredCount != 1 {
		t.Errorf("desiredCount is %d", w.svc.Object.DesiredCount)
	}
	w.setAttribute("host-2", "prod")
	w.settle()
	w.expect("1 1")
}

func TestADaemonIsNotCountedAgainstItsOwnConstraints(t *testing.T) {
	w := newWorld(t, 2)
	w.create(w.define(), constrained("runningTasksCount==0"))
	w.settle()
	w.expect("1 1")
}

func TestADisconnectedHostKeepsItsTaskWhateverHappens(t *testing.T) {
	w := newWorld(t, 2)
	w.create(w.define(), constrained("agentConnected==true and attribute:env==prod"))
	w.settle()
	w.connect("host-2", false)
	w.settle()
	w.expect("1 1")
	w.setAttribute("host-2", "dev")
	w.after(time.Hour)
	w.expect("1 1")
	w.expectSteady(t)
	w.connect("host-2", true)
	w.settle()
	w.expect("1 -")
}

func TestARequiredAttributeThatGoesAwayStopsNothing(t *testing.T) {
	w := newWorld(t, 2)
	w.create(w.define(func(d *types.TaskDefinition) {
		d.RequiresAttributes = []types.Attribute{{Name: aws.String("env")}}
	}))
	w.settle()
	inst := *w.hosts["host-2"].inst
	inst.Object.Attributes = nil
	w.hosts["host-2"].inst = &inst
	w.settle()
	w.expect("1 1")
	w.expectSteady(t)
	w.replace(task.Lost(w.own("host-2"), "", "gone", w.now))
	w.settle()
	w.expect("1 -")
	w.expectTold(1, "The closest matching (container-instance host-2) is missing an attribute required by your task.")
	if w.svc.Object.DesiredCount != 1 {
		t.Errorf("desiredCount is %d", w.svc.Object.DesiredCount)
	}
}

func TestDaemonsStopLastOnAnInstanceThatIsDrained(t *testing.T) {
	w := newWorld(t, 2)
	w.create(w.define())
	w.others["web"], w.others["second"] = false, true
	w.settle()
	for i, service := range []string{"", "web", "second"} {
		o := &store.Task{Cluster: "c", ID: fmt.Sprint("other-", i), Instance: "host-2", Service: service, Object: types.Task{DesiredStatus: aws.String(task.Running), LastStatus: aws.String(task.Running)}}
		w.tasks = append(w.tasks, o)
	}
	w.setStatus("host-2", draining)
	w.settle()
	w.expect("1 1")
	if w.svc.Object.DesiredCount != 2 || !w.last.waits["host-2"] {
		t.Errorf("desiredCount is %d, it waits for %v", w.svc.Object.DesiredCount, w.last.waits)
	}
	w.stubborn["other-1"] = true
	for _, o := range w.live("host-2") {
		if o.Service != "agent" && o.Service != "second" {
			w.replace(task.Stop(o, types.TaskStopCodeUserInitiated, "", w.now))
		}
	}
	w.settle()
	w.expect("1 1")
	w.stubborn = map[string]bool{}
	w.settle()
	w.expect("1 -")
	w.expectSteady(t)
	if w.svc.Object.DesiredCount != 1 {
		t.Errorf("desiredCount is %d", w.svc.Object.DesiredCount)
	}
	w.setStatus("host-2", active)
	w.settle()
	w.expect("1 1")
}

func TestAPendingDaemonOnADrainedInstanceStopsAtOnce(t *testing.T) {
	w := newWorld(t, 1)
	w.create(w.define())
	w.agents = func(*store.Task) string { return "" }
	w.settle()
	w.expect("(1)")
	w.tasks = append(w.tasks, &store.Task{Cluster: "c", ID: "other", Instance: "host-1", Object: types.Task{DesiredStatus: aws.String(task.Running), LastStatus: aws.String(task.Running)}})
	w.setStatus("host-1", draining)
	w.settle()
	w.expect("-")
	if reason := *w.tasks[0].Object.StoppedReason; reason != "Container instance host-1 is draining" {
		t.Errorf("stopped because %q", reason)
	}
}

func TestAFailedTaskIsReplacedAfterAGrowingDelay(t *testing.T) {
	w := newWorld(t, 2)
	w.create(w.define())
	w.agents = func(t *store.Task) string {
		if t.Instance == "host-2" {
			return task.Stopped
		}
		return task.Running
	}
	w.settle()
	var starts []time.Duration
	for at := w.now; w.now.Before(at.Add(20 * time.Minute)); {
		n := len(w.tasks)
		w.after(time.Second)
		if len(w.tasks) > n {
			starts = append(starts, w.now.Sub(at))
			at = w.now
		}
		if len(starts) == 11 {
			break
		}
	}
	want := []time.Duration{1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300}
	for i := range starts {
		if starts[i] != want[i]*time.Second {
			t.Fatalf("start %d came after %s, want %d s (all: %v)", i, starts[i], want[i], starts)
		}
	}
	w.expectTold(1, "is unable to consistently start tasks successfully.")
	if f := w.svc.Object.Deployments[0].FailedTasks; f < 9 {
		t.Errorf("failedTasks is %d", f)
	}
	if w.svc.Object.Deployments[0].RolloutState != types.DeploymentRolloutStateInProgress {
		t.Errorf("the deployment is %s", w.svc.Object.Deployments[0].RolloutState)
	}
	w.deploy(w.define())
	w.settle()
	if f := w.svc.Failures["host-2"]; f.Count != 1 || f.Deployment != *w.svc.Object.Deployments[0].Id {
		t.Errorf("with a new deployment the failures are %+v", f)
	}
	w.agents = nil
	w.deploy(w.define())
	w.settle()
	w.after(20 * time.Second)
	w.expect("3 3")
	w.expectSteady(t)
}

func TestATaskThatRanForAWhileEndsTheRowOfFailures(t *testing.T) {
	w := newWorld(t, 1)
	w.create(w.define())
	fail := true
	w.agents = func(*store.Task) string {
		if fail {
			return task.Stopped
		}
		return task.Running
	}
	w.settle()
	w.after(10 * time.Second)
	if n := w.svc.Failures["host-1"].Count; n < 3 {
		t.Fatalf("%d failures were counted", n)
	}
	fail = false
	w.after(30 * time.Second)
	w.expect("1")
	if !w.svc.SteadySince.IsZero() {
		t.Error("a service that failed a moment ago is steady")
	}
	w.after(time.Minute)
	if len(w.svc.Failures) != 0 {
		t.Errorf("failures are still counted: %+v", w.svc.Failures)
	}
	w.expectSteady(t)
	fail = true
	w.settle()
	if f := w.svc.Failures["host-1"]; f.Count != 1 || !f.NotBefore.Equal(f.At.Add(time.Second)) {
		t.Errorf("the next failure is %+v", f)
	}
}

func TestATaskThatRanForAWhileEndsTheRowThoughNobodyLooked(t *testing.T) {
	w := newWorld(t, 1)
	w.create(w.define())
	w.agents = bad("1")
	w.settle()
	w.after(10 * time.Second)
	w.agents = nil
	w.after(10 * time.Second)
	w.expect("1")
	if n := w.svc.Failures["host-1"].Count; n < 3 {
		t.Fatalf("%d failures were counted", n)
	}
	w.now = w.now.Add(2 * time.Minute) // the control plane is down
	w.agents = bad("1")
	own := w.own("host-1")
	n, _ := task.Apply(own, task.StateChange{Status: task.Stopped}, w.now)
	w.replace(n)
	w.pass()
	if f := w.svc.Failures["host-1"]; f.Count != 1 {
		t.Errorf("the next failure is %+v", f)
	}
}

func TestATaskThatAUserStopsIsReplacedAtOnce(t *testing.T) {
	w := newWorld(t, 1)
	w.create(w.define())
	w.settle()
	w.replace(task.Stop(w.own("host-1"), types.TaskStopCodeUserInitiated, "", w.now))
	w.settle()
	w.expect("1")
	if len(w.tasks) != 2 || len(w.svc.Failures) != 0 {
		t.Errorf("%d tasks, failures %+v", len(w.tasks), w.svc.Failures)
	}
}

func TestAnUnhealthyTaskIsReplacedAndCounted(t *testing.T) {
	w := newWorld(t, 1)
	w.create(w.define(healthChecked), func(s *types.Service) { s.HealthCheckGracePeriodSeconds = aws.Int32(30) })
	w.settle()
	w.expect("1")
	if w.svc.Object.Deployments[0].RolloutState != types.DeploymentRolloutStateInProgress {
		t.Error("the deployment is completed before the task is HEALTHY")
	}
	w.health("host-1", types.HealthStatusUnhealthy)
	w.settle()
	w.expect("1") // within the grace period
	w.after(30 * time.Second)
	w.expectTold(1, "failed container health checks.")
	if f := w.svc.Failures["host-1"]; f.Count != 1 || f.Reason != task.ReasonUnhealthy {
		t.Errorf("failures %+v", w.svc.Failures)
	}
	w.after(time.Second)
	w.health("host-1", types.HealthStatusHealthy)
	w.after(2 * time.Minute)
	w.expect("1")
	w.expectSteady(t)
}

func (w *world) health(host string, status types.HealthStatus) {
	t := w.own(host)
	n, _ := task.SetHealth(t, &w.defs[*t.Object.TaskDefinitionArn].Object, map[string]types.HealthStatus{"agent": status})
	w.replace(n)
}

func TestWhereIsNoRoomAnEventSaysWhyOnce(t *testing.T) {
	w := newWorld(t, 2)
	other := &store.Task{Cluster: "c", ID: "other", Instance: "host-2", Reserved: store.Resources{Memory: 600}, Object: types.Task{DesiredStatus: aws.String(task.Running), LastStatus: aws.String(task.Running)}}
	w.tasks = append(w.tasks, other)
	w.create(w.define())
	w.settle()
	w.expect("1 -")
	w.after(5 * time.Hour)
	w.expectTold(1, "(service agent) was unable to place a task because no container instance met all of its requirements. The closest matching (container-instance host-2) has insufficient memory available.")
	w.expectTold(1, "it has 424 of 1024 MiB of memory free, 512 are needed (88 more).")
	if !w.last.waits["host-2"] {
		t.Error("a change on the full host is not looked at")
	}
	w.after(2 * time.Hour)
	w.svc.Failures = map[string]store.Failure{} // any reason to look
	w.settle()
	w.expectTold(2, "has insufficient memory available")
	w.replace(task.Stop(other, types.TaskStopCodeUserInitiated, "", w.now))
	w.settle()
	w.expect("1 1")
	w.expectSteady(t)
}

func TestAnAgentThatStaysAwayIsTold(t *testing.T) {
	w := newWorld(t, 1)
	w.join("host-2")
	w.connect("host-2", false)
	w.create(w.define())
	w.settle()
	w.expectTold(0, "unable to place")
	w.after(time.Minute)
	w.expectTold(1, `encountered error "AGENT"`)
}

func TestADeletedServiceIsInactiveWhenItsTasksAreStopped(t *testing.T) {
	w := newWorld(t, 2)
	w.create(w.define())
	w.settle()
	w.stubborn[w.own("host-2").ID] = true
	svc := *w.svc
	svc.Object.Status = aws.String(draining)
	w.svc = &svc
	w.settle()
	w.expect("- (1)")
	if *w.svc.Object.Status != draining || w.svc.Object.DesiredCount != 0 {
		t.Fatalf("the service is %s, desiredCount %d", *w.svc.Object.Status, w.svc.Object.DesiredCount)
	}
	w.stubborn = map[string]bool{}
	w.settle()
	if *w.svc.Object.Status != inactive || w.svc.InactiveSince.IsZero() || len(w.svc.Object.Deployments) != 0 {
		t.Errorf("the service is %s with %d deployments", *w.svc.Object.Status, len(w.svc.Object.Deployments))
	}
}

func TestAHostThatIsAwayDoesNotKeepADeletedService(t *testing.T) {
	w := newWorld(t, 2)
	w.create(w.define())
	w.settle()
	w.connect("host-2", false)
	svc := *w.svc
	svc.Object.Status = aws.String(draining)
	w.svc = &svc
	w.settle()
	w.expect("- (1)")
	if *w.svc.Object.Status != inactive {
		t.Errorf("the service is %s", *w.svc.Object.Status)
	}
}

func TestAServiceThatCannotBeDecidedOnIsLeftAlone(t *testing.T) {
	w := newWorld(t, 1)
	arn := w.define()
	w.create(arn)
	w.settle()
	delete(w.defs, arn)
	if p := reconcile(w.snapshot(), &w.cfg); p.problem == nil || !p.empty() {
		t.Errorf("a service without its definition got %+v", p)
	}
	w.defs[arn] = &store.TaskDefinition{Object: types.TaskDefinition{PlacementConstraints: []types.TaskDefinitionPlacementConstraint{{Type: "memberOf", Expression: aws.String("nonsense")}}}}
	if p := reconcile(w.snapshot(), &w.cfg); p.problem == nil || !p.empty() {
		t.Errorf("a service with a wrong expression got %+v", p)
	}
}

func TestADaemonOfAHostThatDrainsItselfIsTheHostsOwnToStop(t *testing.T) {
	w := newWorld(t, 2)
	w.create(w.define())
	w.settle()
	w.expect("1 1")
	w.setStatus("host-1", draining)
	itself := *w.hosts["host-1"].inst
	itself.DrainedItself = true
	w.hosts["host-1"].inst = &itself
	w.setStatus("host-2", draining)
	w.settle()
	w.expect("1 -")
}
