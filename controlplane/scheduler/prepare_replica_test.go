package scheduler

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"

	"github.com/longshore-project/longshore/controlplane/scheduler/policy"
	"github.com/longshore-project/longshore/controlplane/store"
	"github.com/longshore-project/longshore/protocol/acs"
)

// imagesFirst tags a REPLICA service.
func imagesFirst(s *types.Service) {
	s.Tags = []types.Tag{{Key: aws.String(policy.PrepareImages), Value: aws.String("true")}}
}

// prepares has the agent of a host make images local when it is asked.
func (w *world) prepares(id string) {
	inst := *w.hosts[id].inst
	inst.Object.Attributes = append(slices.Clone(inst.Object.Attributes), types.Attribute{Name: aws.String(acs.CapabilityPrepareImages)})
	w.hosts[id].inst = &inst
}

// updatedReplicas is a steady service of n tasks, tagged, that was updated.
func updatedReplicas(t *testing.T, hosts int, n int32, change ...func(*types.Service)) *replicaWorld {
	t.Helper()
	w := newReplicaWorld(t, hosts)
	for id := range w.hosts {
		w.prepares(id)
	}
	w.create(w.define(), replicas(n, append(change, imagesFirst)...))
	w.settle()
	w.after(time.Hour)
	w.expectSteady(t)
	w.deploy(w.define())
	w.settle()
	return w
}

func TestReplicasAreReplacedWhenTheImagesAreWhereTasksMayLand(t *testing.T) {
	w := updatedReplicas(t, 4, 3, percents(0, 100))
	if len(w.preparations) != 4 {
		t.Errorf("asked are %+v", w.preparations)
	}
	w.expectTold(1, "has its images made local on 4 container instances before it replaces tasks")
	w.after(5 * time.Minute)
	w.expectRevisions("1:3")
	w.images = func(p *store.Preparation) string {
		return map[bool]string{true: store.PreparationFailed, false: store.PreparationReady}[p.Instance == "host-2"]
	}
	w.settle()
	w.after(time.Minute)
	w.expectRevisions("2:3")
	w.expectTold(1, "goes on, though the images can't be had on (container-instance host-2): no such image")
	w.expectSteady(t)
	if len(w.preparations) != 0 {
		t.Errorf("left are %+v", w.preparations)
	}
}

func TestAReplicaRollOutWaitsWithinABoundForAgentsThatSayNothing(t *testing.T) {
	w := updatedReplicas(t, 2, 2)
	w.after(9 * time.Minute)
	w.expectRevisions("1:2")
	w.after(2 * time.Minute)
	w.expectRevisions("2:2")
	w.expectTold(1, "goes on, though the agents of (container-instance host-1, host-2) have not said within 10m0s whether the images are there")
	w.expectSteady(t)
}

func TestImagesThatCanBeHadNowhereHoldAReplicaRollOut(t *testing.T) {
	w := updatedReplicas(t, 2, 2, percents(0, 100))
	w.images = always(store.PreparationFailed)
	w.settle()
	w.after(20 * time.Minute)
	w.expectRevisions("1:2")
	o := w.svc.Object.Deployments[0]
	if o.FailedTasks < 4 || !strings.Contains(*o.RolloutStateReason, "It holds: none of the container instances that were asked can have the images") {
		t.Errorf("%d failures, %s", o.FailedTasks, *o.RolloutStateReason)
	}
	w.expectTold(1, "was unable to have the images of its tasks on (container-instance host-1, host-2)")
	w.images = always(store.PreparationReady) // somebody has pushed it
	w.after(10 * time.Minute)
	w.expectRevisions("2:2")
	w.expectSteady(t)
	if o := w.svc.Object.Deployments[0]; o.FailedTasks != 0 || strings.Contains(*o.RolloutStateReason, "holds") {
		t.Errorf("%d failures, %s", o.FailedTasks, *o.RolloutStateReason)
	}
}

func TestImagesThatCanBeHadNowhereBreakTheCircuitBeforeAnyTaskIsReplaced(t *testing.T) {
	w := updatedReplicas(t, 3, 3, percents(0, 100), breakerOn(true))
	before := w.wanted()
	w.images = always(store.PreparationFailed)
	w.settle()
	w.after(time.Minute)
	w.expectRevisions("1:3")
	w.expectTold(1, "deployment failed: tasks failed to start.")
	w.expectTold(1, "rolling back to deployment ecs-svc/1")
	if !slices.Equal(before, w.wanted()) || len(w.preparations) != 0 {
		t.Errorf("%s, %+v", w.where(), w.preparations)
	}
	w.expectSteady(t)
}

func TestAnOperatorHasAReplicaRollOutGoOnWithoutItsImages(t *testing.T) {
	w := updatedReplicas(t, 2, 2)
	w.images = always(store.PreparationFailed)
	w.settle()
	svc := *w.svc
	rollout := svc.Rollouts["ecs-svc/2"]
	rollout.Continued, rollout.Held = true, ""
	svc.Rollouts = map[string]store.Rollout{"ecs-svc/2": rollout}
	w.svc = &svc
	w.after(10 * time.Minute)
	w.expectRevisions("2:2")
}

func TestWhatIsMissingIsStartedWhileImagesAreMadeLocal(t *testing.T) {
	w := updatedReplicas(t, 3, 2)
	w.scale(3)
	w.settle()
	w.expectRevisions("1:2 2:1")
	w.images = always(store.PreparationReady)
	w.settle()
	w.after(time.Minute)
	w.expectRevisions("2:3")
}

func TestAnotherUpdateWhileImagesAreMadeLocalAsksForTheNewOnes(t *testing.T) {
	w := updatedReplicas(t, 2, 2)
	w.deploy(w.define())
	w.settle()
	for id, p := range w.preparations {
		if p.Deployment != "ecs-svc/3" || p.Attempt != 1 {
			t.Errorf("%s: %+v", id, p)
		}
	}
	w.images = always(store.PreparationReady)
	w.settle()
	w.after(time.Minute)
	w.expectRevisions("3:2")
}

func TestAHostThatIsLostOrUntaggedServicesAreNotWaitedFor(t *testing.T) {
	for name, lose := range map[string]func(*replicaWorld){
		"agents that leave": func(w *replicaWorld) {
			w.connect("host-1", false)
			w.connect("host-2", false)
			w.connect("host-3", false)
		},
		"the tag": func(w *replicaWorld) { svc := *w.svc; svc.Object.Tags = nil; w.svc = &svc },
	} {
		t.Run(name, func(t *testing.T) {
			w := updatedReplicas(t, 3, 2)
			lose(w)
			w.settle()
			for id := range w.hosts {
				w.connect(id, true)
			}
			w.settle()
			w.after(time.Minute)
			w.expectRevisions("2:2")
			if len(w.preparations) != 0 {
				t.Errorf("%+v", w.preparations)
			}
		})
	}
}

func TestAnInstanceThatCannotPrepareIsNotAsked(t *testing.T) {
	w := newReplicaWorld(t, 2)
	w.create(w.define(), replicas(2, imagesFirst))
	w.settle()
	w.after(time.Minute)
	w.deploy(w.define())
	w.settle()
	w.after(time.Minute)
	w.expectRevisions("2:2")
	w.expectTold(1, "replaces tasks without its images being made local before")
}

func TestOfManyInstancesThoseAreAskedThatPlacementWouldPickAndTasksLandThere(t *testing.T) {
	w := updatedReplicas(t, 40, 6)
	if len(w.preparations) != mostPrepared {
		t.Fatalf("%d of 40 were asked", len(w.preparations))
	}
	asked := fmt.Sprint(w.svc.Rollouts)
	w.images = always(store.PreparationReady)
	has := map[string]bool{}
	for id := range w.preparations {
		has[id] = true
	}
	w.settle()
	w.after(time.Minute)
	w.expectRevisions("2:6")
	for _, l := range w.wanted() {
		if !has[l.Instance] {
			t.Errorf("a task landed on %s; asked were %s", l.Instance, asked)
		}
	}
}

func TestAHeldRollOutThatHasNothingLeftToDoIsCompleteAndHeldNoMore(t *testing.T) {
	w := updatedReplicas(t, 2, 2)
	w.images = always(store.PreparationFailed)
	w.settle()
	w.scale(0)
	w.settle()
	w.expectSteady(t)
	if len(w.preparations) != 0 || w.svc.Rollouts["ecs-svc/2"].Held != "" {
		t.Errorf("%+v, %+v", w.preparations, w.svc.Rollouts)
	}
}
