package scheduler

import (
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"

	"github.com/longshore-project/longshore/controlplane/store"
	"github.com/longshore-project/longshore/protocol/acs"
)

// preparing is updated, on hosts whose agents prepare images.
func preparing(t *testing.T, hosts int, change ...func(*types.Service)) *world {
	t.Helper()
	w := newWorld(t, hosts)
	for _, h := range w.hosts {
		h.inst.Object.Attributes = append(h.inst.Object.Attributes, types.Attribute{Name: aws.String(acs.CapabilityPrepareImages)})
	}
	w.create(w.define(), change...)
	w.settle()
	w.after(time.Hour)
	w.expectSteady(t)
	w.deploy(w.define())
	return w
}

func always(status string) func(*store.Preparation) string {
	return func(*store.Preparation) string { return status }
}

func TestTheOldDaemonRunsUntilTheNewImageIsThere(t *testing.T) {
	w := preparing(t, 3)
	w.settle()
	w.after(5 * time.Minute)
	w.expect("1 1 1")
	if len(w.preparations) != 1 || w.preparations["host-1"].Attempt != 1 {
		t.Errorf("%+v", w.preparations)
	}
	w.images = always(store.PreparationReady)
	w.settle()
	w.expect("2 1 1")
	w.after(time.Minute)
	w.expect("2 2 2")
	w.after(time.Minute)
	w.expectSteady(t)
	if len(w.preparations) != 0 {
		t.Errorf("preparations are left: %+v", w.preparations)
	}
}

func TestAnAgentThatSaysNothingIsWaitedForWithinABound(t *testing.T) {
	w := preparing(t, 1)
	w.settle()
	w.after(9 * time.Minute)
	w.expect("1")
	w.after(time.Minute)
	w.expect("2")
	w.expectTold(1, "though its agent has not said within 10m0s")
	if len(w.preparations) != 0 {
		t.Errorf("%+v", w.preparations)
	}
}

func TestImagesThatCannotBeHadLeaveTheOldDaemonsAndCountAsFailures(t *testing.T) {
	w := preparing(t, 2)
	w.images = always(store.PreparationFailed)
	w.settle()
	w.after(2 * time.Second)
	w.expect("1 1")
	o := w.svc.Object.Deployments[0]
	if o.FailedTasks < 2 || !strings.Contains(*o.RolloutStateReason, "It holds: container instance host-1 can't have the images") || !strings.Contains(*o.RolloutStateReason, "no such image") {
		t.Errorf("%d failures, %s", o.FailedTasks, *o.RolloutStateReason)
	}
	w.expectTold(1, "was unable to have the images of its task on (container-instance host-1); the old (task "+w.own("host-1").ID+") keeps running there: no such image")
	w.images = always(store.PreparationReady) // somebody has pushed it
	w.after(10 * time.Minute)
	w.expect("2 2")
	w.after(time.Hour)
	w.expectSteady(t)
	if len(w.svc.Failures) != 0 || w.svc.Object.Deployments[0].FailedTasks != 0 {
		t.Errorf("%+v", w.svc.Failures)
	}
}

func TestImagesThatCannotBeHadBreakTheCircuit(t *testing.T) {
	w := preparing(t, 2, func(s *types.Service) {
		s.DeploymentConfiguration.DeploymentCircuitBreaker = &types.DeploymentCircuitBreaker{Enable: true, Rollback: true}
	})
	before := w.own("host-1").ID
	w.images = always(store.PreparationFailed)
	w.settle()
	w.after(time.Minute)
	w.expect("1 1")
	w.expectTold(1, "deployment failed: tasks failed to start.")
	if w.own("host-1").ID != before || len(w.preparations) != 0 || *w.svc.Object.Deployments[0].Id != "ecs-svc/1" {
		t.Errorf("%s, %+v, %s", w.own("host-1").ID, w.preparations, show(w.svc))
	}
}

func TestAnUpdateWhileImagesArePreparedAsksForTheNewOnes(t *testing.T) {
	w := preparing(t, 2)
	w.settle()
	w.deploy(w.define())
	w.settle()
	if r := w.preparations["host-1"]; len(w.preparations) != 1 || r.Deployment != "ecs-svc/3" || r.Status != "" {
		t.Errorf("%+v", w.preparations)
	}
	w.images = always(store.PreparationReady)
	w.settle()
	w.after(time.Minute)
	w.expect("3 3")
}

func TestMinimumHealthyPercentHoldsWhileImagesArePrepared(t *testing.T) {
	w := preparing(t, 4, func(s *types.Service) { s.DeploymentConfiguration.MinimumHealthyPercent = aws.Int32(75) })
	w.cfg.RolloutParallel = true
	w.settle()
	if len(w.preparations) != 1 {
		t.Errorf("%d hosts prepare, and one task may be stopped", len(w.preparations))
	}
	w.images = always(store.PreparationReady)
	w.settle()
	w.after(time.Minute)
	w.expect("2 2 2 2")
}
