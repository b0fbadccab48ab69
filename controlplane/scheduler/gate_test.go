package scheduler

import (
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"

	"github.com/longshore-project/longshore/controlplane/scheduler/placement"
	"github.com/longshore-project/longshore/controlplane/scheduler/policy"
	"github.com/longshore-project/longshore/controlplane/store"
)

func TestADaemonThatAlwaysFailsCostsAJoiningHostAtMostTheLimit(t *testing.T) {
	s := newStage(t, 0)
	s.schedule()
	s.fail("1", true)
	const limit = 600 * time.Millisecond
	s.create("agent", s.define(100), func(o *types.Service) {
		o.Tags = []types.Tag{{Key: aws.String(policy.DaemonGate), Value: aws.String(limit.String())}}
	})
	joined := time.Now().Truncate(time.Millisecond) // as it is stored
	s.commit(func(_ *store.View, txn *store.Txn) {
		inst := newWorld(t, 0).join("host-1").inst
		inst.JoinedAt = joined
		txn.Create(inst).Create(&store.Allocation{Cluster: "c", Instance: "host-1"})
		txn.Put(&store.Connection{Cluster: "c", Instance: "host-1", Replica: "r"}, s.session.Lease())
	})
	req, err := placement.NewRequest(placement.Request{Definition: &types.TaskDefinition{}, Group: "family:job"})
	if err != nil {
		t.Fatal(err)
	}
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for range tick.C {
		now := time.Now()
		var refusal *placement.Refusal
		s.st.Peek(func(v *store.View) { refusal = req.Check(placement.HostsOf(v, nil, "c", now)[0]) })
		after := now.Sub(joined)
		switch {
		case refusal == nil && after < limit:
			t.Fatalf("no replica before a matching daemon within the limit: the host takes one %s after it joined", after)
		case refusal == nil:
			return
		case after >= limit:
			t.Fatalf("a daemon that always fails costs a joining host at most the limit: %s after joining it refuses: %s", after, refusal.Detail)
		}
	}
}

func TestReplicasComeToAHostThatJoinsAfterItsDaemons(t *testing.T) {
	s := newStage(t, 0)
	s.schedule()
	s.create("agent", s.define(100))
	s.create("web", s.define(100), replicas(4))
	s.commit(func(v *store.View, txn *store.Txn) {
		svc := *v.Service("c", "web")
		svc.Object.DesiredCount = 4
		txn.Update(&svc)
	})
	for i := range 3 {
		id := []string{"host-1", "host-2", "host-3"}[i]
		s.commit(func(_ *store.View, txn *store.Txn) {
			inst := newWorld(t, 0).join(id).inst
			inst.JoinedAt = time.Now()
			txn.Create(inst).Create(&store.Allocation{Cluster: "c", Instance: id})
			txn.Put(&store.Connection{Cluster: "c", Instance: id, Replica: "r"}, s.session.Lease())
		})
	}
	s.wait("all run", func(v *store.View) bool {
		n := 0
		for o := range v.TasksOf("c", "web") {
			if n++; o.Object.CreatedAt.Before(startOf(v, "agent", o.Instance)) {
				t.Errorf("no replica before a matching daemon within the limit: %s got one first", o.Instance)
			}
		}
		return n >= 4 && runs(v, "agent") == "host-1:1 host-2:1 host-3:1"
	})
}

// startOf is when the service's task on an instance was started; the end of days when it was not.
func startOf(v *store.View, service, instance string) time.Time {
	for o := range v.TasksOf("c", service) {
		if o.Instance == instance && o.Object.StartedAt != nil {
			return o.Object.StartedAt.Truncate(time.Millisecond)
		}
	}
	return time.Now().AddDate(100, 0, 0)
}
