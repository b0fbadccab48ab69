package scheduler

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/longshore-project/longshore/controlplane/store"
	"github.com/longshore-project/longshore/controlplane/task"
)

// scale sets the desired count, as UpdateService does.
func (s *stage) scale(name string, n int32) {
	s.commit(func(v *store.View, txn *store.Txn) {
		svc := *v.Service("c", name)
		svc.Object.DesiredCount = n
		txn.Update(&svc)
	})
}

// replicasOf counts the RUNNING and wanted tasks of a service's newest definition, and those of any that are not STOPPED.
func replicasOf(v *store.View, name string) (running, live int) {
	svc := v.Service("c", name)
	for t := range v.LiveOf("c", name) {
		live++
		if task.LastStatus(t) == task.Running && task.Wanted(t) && *t.Object.TaskDefinitionArn == *svc.Object.TaskDefinition {
			running++
		}
	}
	return running, live
}

func TestAReplicaServiceLivesThroughItsDaysOnARealStore(t *testing.T) {
	s := newStage(t, 3)
	s.cfg.HealthyAfter = 20 * time.Millisecond
	s.schedule()
	s.create("web", s.define(300), replicas(0))
	s.scale("web", 4)
	all := func(n int) func(v *store.View) bool {
		return func(v *store.View) bool {
			running, live := replicasOf(v, "web")
			return running == n && live == n && steady(v, "web")
		}
	}
	s.wait("four run", all(4))
	s.scale("web", 7)
	s.wait("seven run", all(7))
	s.scale("web", 2)
	s.wait("two are left", all(2))
	s.update("web", s.define(200))
	s.wait("two of the second revision run", all(2))
	s.setStatus("host-1", draining)
	s.wait("the drained host is left", func(v *store.View) bool {
		return all(2)(v) && !strings.Contains(runs(v, "web"), "host-1") && len(v.Allocation("c", "host-1").Tasks) == 0
	})
	s.commit(func(v *store.View, txn *store.Txn) {
		svc := *v.Service("c", "web")
		svc.Object.Status = aws.String(draining)
		txn.Update(&svc)
	})
	s.wait("the deleted service is INACTIVE", func(v *store.View) bool {
		return *v.Service("c", "web").Object.Status == inactive
	})
}

func TestManyReplicasArePlacedInBatchesWithinCapacity(t *testing.T) {
	s := newStage(t, 20)
	s.schedule()
	s.create("web", s.define(100), replicas(0))
	s.scale("web", 200)
	s.wait("all run", func(v *store.View) bool {
		running, live := replicasOf(v, "web")
		return running == 200 && live == 200 && steady(v, "web")
	})
}

func TestARandomHistoryOfReplicasAndDaemonsOnARealStoreConverges(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	const gate = 300 * time.Millisecond
	s := newStage(t, 4)
	s.mu.Lock()
	s.gate, s.seen.gate, s.seen.needs = gate, gate, 300
	s.mu.Unlock()
	s.cfg.HealthyAfter = 10 * time.Millisecond
	s.cfg.InstanceLostAfter = time.Second
	s.cfg.RolloutPatience = 300 * time.Millisecond
	s.schedule() // two control planes on one etcd
	cancel := s.schedule()
	s.create("agent", s.define(200), surging("true"), gated(gate))
	s.create("web", s.define(100), replicas(4, percents(50, 200)))
	hosts := []string{"host-1", "host-2", "host-3", "host-4"}
	for i := range 60 {
		host := hosts[r.IntN(len(hosts))]
		switch r.IntN(8) {
		case 0:
			s.connect(host, false)
		case 1, 2:
			s.connect(host, true)
		case 3:
			s.setStatus(host, []string{active, draining}[r.IntN(2)])
		case 4:
			arn := s.define(int32(100 + r.IntN(200)))
			s.fail(itoa(s.defs), r.IntN(3) == 0)
			s.update([]string{"web", "agent"}[r.IntN(2)], arn)
		case 5:
			s.scale("web", int32(r.IntN(10)))
		case 6:
			if len(hosts) < 8 {
				hosts = append(hosts, fmt.Sprintf("host-%d", len(hosts)+1))
				s.join(hosts[len(hosts)-1])
			}
		case 7:
			if i%3 == 0 {
				cancel()
				cancel = s.schedule()
			}
		}
	}
	for _, host := range hosts {
		s.connect(host, true)
		s.setStatus(host, active)
	}
	for range 2 {
		hosts = append(hosts, fmt.Sprintf("host-%d", len(hosts)+1))
		s.join(hosts[len(hosts)-1])
	}
	s.scale("web", 5)
	s.update("web", s.define(100))
	s.update("agent", s.define(200))
	s.wait("both services run what they should", func(v *store.View) bool {
		running, live := replicasOf(v, "web")
		belongs := 0
		for i := range v.Instances("c") {
			if *i.Object.Status == active {
				belongs++
			}
		}
		daemons, _ := replicasOf(v, "agent")
		return running == 5 && live == 5 && steady(v, "web") && daemons == belongs && steady(v, "agent")
	})
	s.st.Peek(func(v *store.View) {
		for i := range v.Instances("c") {
			for id := range v.Allocation("c", i.ID).Tasks {
				if own := v.Task("c", id); own == nil || task.IsStopped(own) {
					t.Errorf("%s reserves for task %s, which is over", i.ID, id)
				}
			}
		}
	})
}
