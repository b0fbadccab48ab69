package scheduler

import (
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"

	"github.com/longshore-project/longshore/controlplane/task"
)

func breaker(rollback bool) func(*types.Service) {
	return func(s *types.Service) {
		s.DeploymentConfiguration.DeploymentCircuitBreaker = &types.DeploymentCircuitBreaker{Enable: true, Rollback: rollback}
	}
}

func TestTheCircuitBreakerEndsADeployment(t *testing.T) {
	w := updated(t, 4, breaker(false))
	w.agents = bad("2")
	w.settle()
	w.after(time.Hour)
	w.expect("- 1 1 1")
	failed := 0
	for _, l := range w.tasks {
		if revisionOf(l) == "2" {
			failed++
		}
	}
	d := w.svc.Object.Deployments[0]
	if failed != 3 || d.RolloutState != types.DeploymentRolloutStateFailed || *d.RolloutStateReason != "ECS deployment circuit breaker: tasks failed to start." || d.FailedTasks != 3 {
		t.Errorf("after %d tasks the deployment is %s (%s), failedTasks %d", failed, d.RolloutState, *d.RolloutStateReason, d.FailedTasks)
	}
	w.expectTold(1, "deployment failed: tasks failed to start.")
	w.deploy(w.define())
	w.settle()
	w.after(time.Minute)
	w.expect("3 3 3 3")
	w.after(time.Minute)
	w.expectSteady(t)
}

func TestTheCircuitBreakerRollsBack(t *testing.T) {
	w := updated(t, 4, breaker(true))
	good := *w.svc.Object.Deployments[1].Id
	w.agents = bad("2")
	w.settle()
	w.after(5 * time.Minute)
	w.expect("1 1 1 1")
	w.expectSteady(t)
	if *w.svc.Object.Deployments[0].Id != good || !strings.HasSuffix(*w.svc.Object.TaskDefinition, ":1") || aws.ToString(w.svc.Object.Deployments[0].Status) != primary {
		t.Errorf("the service is %s with %s", show(w.svc), *w.svc.Object.TaskDefinition)
	}
	w.expectTold(1, "deployment failed: tasks failed to start.")
	w.expectTold(1, "rolling back to deployment "+good+".")
}

// A daemon that fails, runs for a while and fails again, while its deployment is not complete since another host is away.
func TestAHealthyTaskEndsTheCircuitBreakersCountUnlessItSaysOtherwise(t *testing.T) {
	for resets, want := range map[bool]types.DeploymentRolloutState{true: types.DeploymentRolloutStateInProgress, false: types.DeploymentRolloutStateFailed} {
		w := newWorld(t, 2)
		w.connect("host-2", false)
		w.create(w.define(), func(s *types.Service) {
			s.DeploymentConfiguration.DeploymentCircuitBreaker = &types.DeploymentCircuitBreaker{Enable: true, ResetOnHealthyTask: aws.Bool(resets),
				ThresholdConfiguration: &types.ThresholdConfiguration{Type: types.ThresholdTypeCount, Value: 3}}
		})
		w.settle()
		for i := range 3 {
			d := w.svc.Object.Deployments[0]
			if counted := map[bool]int32{true: 0, false: int32(i)}[resets]; d.RolloutState != types.DeploymentRolloutStateInProgress || d.FailedTasks != counted {
				t.Errorf("resetOnHealthyTask %t: after %d failures the deployment is %s with failedTasks %d", resets, i, d.RolloutState, d.FailedTasks)
			}
			n, _ := task.Apply(w.own("host-1"), task.StateChange{Status: task.Stopped}, w.now)
			w.replace(n)
			w.settle()
			w.after(2 * time.Minute)
		}
		if d := w.svc.Object.Deployments[0]; d.RolloutState != want {
			t.Errorf("resetOnHealthyTask %t: after 3 failures with healthy tasks in between the deployment is %s with failedTasks %d", resets, d.RolloutState, d.FailedTasks)
		}
	}
}

func TestACountThatNothingEndsIsKeptWhenTheDeploymentIsComplete(t *testing.T) {
	w := newWorld(t, 1)
	w.create(w.define(), func(s *types.Service) {
		s.DeploymentConfiguration.DeploymentCircuitBreaker = &types.DeploymentCircuitBreaker{Enable: true, ResetOnHealthyTask: aws.Bool(false)}
	})
	w.agents = bad("1")
	w.settle()
	w.agents = nil
	w.after(time.Hour)
	w.expectSteady(t)
	if d := w.svc.Object.Deployments[0]; d.RolloutState != types.DeploymentRolloutStateCompleted || d.FailedTasks != 1 {
		t.Errorf("the deployment is %s with failedTasks %d", d.RolloutState, d.FailedTasks)
	}
}

func TestTheCircuitBreakersThreshold(t *testing.T) {
	for _, c := range []struct {
		kind                 types.ThresholdType
		value, desired, want int
	}{
		{"", 0, 1, 3}, {"", 0, 10, 5}, {"", 0, 1000, 200},
		{types.ThresholdTypeBoundedPercent, 20, 10, 3}, {types.ThresholdTypeBoundedPercent, 90, 10, 9},
		{types.ThresholdTypeUnboundedPercent, 10, 5, 1}, {types.ThresholdTypeUnboundedPercent, 50, 1000, 500},
		{types.ThresholdTypeCount, 7, 1000, 7},
	} {
		b := &types.DeploymentCircuitBreaker{}
		if c.kind != "" {
			b.ThresholdConfiguration = &types.ThresholdConfiguration{Type: c.kind, Value: int32(c.value)}
		}
		if got := threshold(b, c.desired); got != c.want {
			t.Errorf("%s %d of %d: got %d, want %d", c.kind, c.value, c.desired, got, c.want)
		}
	}
}
