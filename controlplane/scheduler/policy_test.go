package scheduler

import (
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"

	"github.com/longshore-project/longshore/controlplane/scheduler/policy"
	"github.com/longshore-project/longshore/controlplane/task"
)

func losing(after string) func(*types.Service) {
	return func(s *types.Service) {
		s.Tags = []types.Tag{{Key: aws.String(policy.LostHost), Value: aws.String(after)}}
	}
}

// What becomes of replicas on a host that is away is the service's policy, and ECS's way when it has none.
func TestReplicasOfAHostThatIsAwayAreKeptOrReplaced(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*types.Service)
		during string
	}{
		"nothing said": {func(*types.Service) {}, "host-1:1 host-2:1"},
		"keep":         {losing("keep"), "host-1:1 host-2:1"},
		"replace":      {losing("5m"), "host-1:1 host-2:1 host-3:1"},
	} {
		w := newReplicaWorld(t, 3)
		w.connect("host-3", false)
		w.create(w.define(), replicas(2, c.change))
		w.settle()
		w.after(time.Minute)
		w.expectWhere("host-1:1 host-2:1")
		w.connect("host-3", true)
		w.connect("host-2", false)
		w.settle()
		w.after(4 * time.Minute)
		w.expectWhere("host-1:1 host-2:1")
		w.after(10 * time.Minute)
		if w.expectWhere(c.during); t.Failed() {
			t.Fatal(name)
		}
		w.connect("host-2", true)
		w.settle()
		w.after(10 * time.Minute)
		if n := len(w.wanted()); n != 2 {
			t.Errorf("%s: %d tasks are wanted when the host is back", name, n)
		}
	}
}

func TestAProtectedReplicaStaysWhenItsHostIsDrained(t *testing.T) {
	w := newReplicaWorld(t, 3)
	w.create(w.define(), replicas(2))
	w.settle()
	w.after(time.Minute)
	host := w.wanted()[0].Instance
	w.replace(task.Protect(w.wanted()[0], w.now.Add(time.Hour)))
	w.setStatus(host, draining)
	w.settle()
	w.after(30 * time.Minute)
	if w.own(host) == nil || len(w.wanted()) != 3 {
		t.Errorf("a protected task stays, and its replacement is there: %s", w.where())
	}
	w.after(time.Hour)
	if w.own(host) != nil || len(w.wanted()) != 2 {
		t.Errorf("it goes when its protection ends: %s", w.where())
	}
}
