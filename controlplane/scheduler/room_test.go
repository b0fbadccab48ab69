package scheduler

import (
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"

	"github.com/longshore-project/longshore/controlplane/scheduler/policy"
	"github.com/longshore-project/longshore/controlplane/store"
	"github.com/longshore-project/longshore/controlplane/task"
)

func makingRoom(o *types.Service) {
	o.Tags = []types.Tag{{Key: aws.String(policy.MakeRoom), Value: aws.String("true")}}
}

func TestEachHostWithoutRoomHasItsEvent(t *testing.T) {
	w := newWorld(t, 8)
	for id := range w.hosts {
		w.take(id, 800)
	}
	w.create(w.define())
	w.settle()
	w.after(1)
	told := 0
	for _, e := range w.events {
		if strings.Contains(*e.Message, ") has no room on (container-instance host-") && strings.Contains(*e.Message, "RESOURCE:MEMORY: it has 224 of 1024 MiB of memory free, 512 are needed (288 more).") {
			told++
		}
	}
	if told != 8 {
		t.Errorf("%d of 8 hosts without room have an event with the shortfall", told)
	}
}

func TestAsFewReplicasAsEnoughMakeRoomForADaemon(t *testing.T) {
	w := newWorld(t, 2)
	for _, memory := range []int32{300, 300, 300} {
		w.take("host-1", memory)
	}
	w.take("host-2", 800) // of no service: it is not moved
	for i := range w.tasks[:3] {
		w.tasks[i].Service = "web"
	}
	w.create(w.define(), makingRoom)
	w.settle()
	moved := 0
	for _, o := range w.tasks {
		if o.MakesRoomFor == "agent" {
			moved++
			w.replace(task.Stop(o, types.TaskStopCodeServiceSchedulerInitiated, "", w.now))
		}
	}
	if moved != 2 {
		t.Fatalf("%d tasks are to make room, two are enough", moved)
	}
	w.settle()
	if got := w.running(); got != "1 -" {
		t.Errorf("it runs where room was made: %s", got)
	}
}

func TestReplicasMakeRoomForANewDaemonOnARealStore(t *testing.T) {
	s := newStage(t, 2)
	s.cfg.HealthyAfter = 1
	s.schedule()
	s.create("web", s.define(400), replicas(2), func(o *types.Service) {
		o.PlacementStrategy = []types.PlacementStrategy{{Type: types.PlacementStrategyTypeBinpack, Field: aws.String("memory")}}
	})
	s.wait("both replicas are on one host", func(v *store.View) bool {
		return runs(v, "web") == "host-1:1 host-1:1" || runs(v, "web") == "host-2:1 host-2:1"
	})
	s.create("agent", s.define(512), makingRoom)
	s.wait("the daemon runs on both hosts, and the replicas run", func(v *store.View) bool {
		return runs(v, "agent") == "host-1:2 host-2:2" && runs(v, "web") == "host-1:1 host-2:1"
	})
}
