package scheduler

import (
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"

	"github.com/longshore-project/longshore/controlplane/store"
	"github.com/longshore-project/longshore/controlplane/task"
)

// counted are the looks of a scheduler, by how many records each had to do with.
type counted struct {
	mu   sync.Mutex
	most int
	sum  int
	n    int
}

func (c *counted) look(records int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.most, c.sum, c.n = max(c.most, records), c.sum+records, c.n+1
}

func (c *counted) reset() (most, sum int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	most, sum = c.most, c.sum
	c.most, c.sum, c.n = 0, 0, 0
	return most, sum
}

func (c *counted) times() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.n
}

func TestALookCostsWhatChangedAndNotWhatExists(t *testing.T) {
	const hosts = 60
	s := newStage(t, hosts)
	var looks counted
	s.cfg.looked = looks.look
	s.create("agent", s.define(64))
	s.schedule()
	s.wait("it runs everywhere", func(v *store.View) bool {
		return steady(v, "agent") && v.Service("c", "agent").Object.DesiredCount == hosts
	})
	if most, _ := looks.reset(); most != hosts {
		t.Errorf("the first look had to do with %d of %d hosts", most, hosts)
	}
	s.join("another")
	s.wait("it runs there too", func(v *store.View) bool {
		return steady(v, "agent") && v.DaemonSlot("c", "agent", "another") != nil && v.Service("c", "agent").Object.DesiredCount == hosts+1
	})
	s.stop(s.taskOn("agent", "host-7"))
	s.wait("it runs there again", func(v *store.View) bool {
		slot := v.DaemonSlot("c", "agent", "host-7")
		return slot != nil && steady(v, "agent") && v.Service("c", "agent").Object.DesiredCount == hosts+1
	})
	s.setStatus("host-9", draining)
	s.wait("it has left one that is drained", func(v *store.View) bool {
		return v.DaemonSlot("c", "agent", "host-9") == nil && steady(v, "agent") && v.Service("c", "agent").Object.DesiredCount == hosts
	})
	// Three places changed, one after the other. That others are looked at with them is a matter of luck, when their last
	// change was seen in the same look.
	if most, sum := looks.reset(); most > 5 {
		t.Errorf("a look after that had to do with %d of %d hosts, all looks with %d", most, hosts, sum)
	}
	s.update("agent", s.define(96))
	s.wait("the new one runs everywhere", func(v *store.View) bool {
		return steady(v, "agent") && v.Service("c", "agent").Object.DesiredCount == hosts && len(v.Service("c", "agent").Object.Deployments) == 1
	})
}

// rollouts are the ways in which a DAEMON service is rolled out.
var rollouts = map[string]struct {
	parallel bool
	surge    string
}{"in waves": {false, "false"}, "in waves, start-first": {false, "true"}, "in parallel": {true, "false"}, "in parallel, start-first": {true, "true"}}

func TestAPassOfARolloutCostsWhatChangedAndNotWhatExists(t *testing.T) {
	for name, how := range rollouts {
		for images, prepares := range map[string]bool{"": false, ", images first": true} {
			t.Run(name+images, func(t *testing.T) {
				const hosts = 24
				w := newWorld(t, hosts)
				w.cfg.RolloutParallel = how.parallel
				for id := range w.hosts {
					if prepares {
						w.prepares(id)
					}
				}
				w.create(w.define(small), surging(how.surge))
				w.settle()
				w.deploy(w.define(small))
				w.looked = 0
				passes := 0
				for w.reportOne() || len(w.svc.Object.Deployments) > 1 || w.svc.SteadySince.IsZero() {
					if passes++; passes > 10*hosts {
						t.Fatalf("it does not end; the service is %s", show(w.svc))
					}
					if p := w.pass(); p.empty() && p.wake.After(w.now) && w.next() == nil {
						w.now = p.wake
					}
				}
				// All twice, when there are two deployments and when there is one again, and then each a few times: it is chosen, its
				// images are there, the old task stops, it has stopped, the new one is started, it runs.
				if passes < 2*hosts || w.looked > 11*hosts {
					t.Errorf("%d passes had to do with %d places, of %d hosts", passes, w.looked, hosts)
				}
			})
		}
	}
}

// small is a definition of which two tasks fit on a host.
func small(d *types.TaskDefinition) { d.ContainerDefinitions[0].Memory = aws.Int32(100) }

// next is a task of which an agent has something to report, nil when there is none.
func (w *world) next() *store.Task {
	for _, t := range w.tasks {
		if !task.IsStopped(t) && (!task.Wanted(t) || task.LastStatus(t) == task.Pending) {
			return t
		}
	}
	return nil
}

// reportOne has one agent do and report what it is to; whether there was one.
func (w *world) reportOne() bool {
	for id, r := range w.preparations {
		if r.Status == "" {
			n := *r
			n.Status = store.PreparationReady
			w.preparations[id] = &n
			return true
		}
	}
	t := w.next()
	if t == nil {
		return false
	}
	change := task.StateChange{Status: task.Running}
	if !task.Wanted(t) {
		change.Status = task.Stopped
	}
	n, _ := task.Apply(t, change, w.now)
	w.replace(n)
	return true
}

func TestALookDuringARolloutCostsWhatChangedAndNotWhatExists(t *testing.T) {
	for name, how := range rollouts {
		t.Run(name, func(t *testing.T) {
			const hosts = 40
			s := newStage(t, hosts)
			s.cfg.RolloutParallel = how.parallel
			s.cfg.RolloutWait = time.Millisecond
			var looks counted
			s.cfg.looked = looks.look
			s.create("agent", s.define(64), surging(how.surge))
			s.schedule()
			s.wait("it runs everywhere", func(v *store.View) bool {
				return steady(v, "agent") && v.Service("c", "agent").Object.DesiredCount == hosts
			})
			looks.reset()
			s.update("agent", s.define(96))
			s.wait("the new one runs everywhere", func(v *store.View) bool {
				return steady(v, "agent") && v.Service("c", "agent").Object.DesiredCount == hosts && v.Service("c", "agent").Object.Deployments[0].RolloutState == types.DeploymentRolloutStateCompleted
			})
			n := looks.times()
			most, sum := looks.reset()
			t.Logf("%d looks had to do with %d hosts, the largest with %d", n, sum, most)
			if sum > 20*hosts {
				t.Errorf("%d looks had to do with %d places, of %d hosts", n, sum, hosts)
			}
		})
	}
}

// taskOn is the id of a service's task on an instance.
func (s *stage) taskOn(service, host string) (id string) {
	s.st.Peek(func(v *store.View) {
		if slot := v.DaemonSlot("c", service, host); slot != nil {
			id = slot.Task
		}
	})
	return id
}

func TestALookAtAReplicaServiceCostsWhatChangedAndNotWhatExists(t *testing.T) {
	const hosts, tasks = 40, 120
	s := newStage(t, hosts)
	s.cfg.HealthyAfter = time.Millisecond
	var looks counted
	s.cfg.looked = looks.look
	s.create("web", s.define(64), replicas(0))
	s.scale("web", tasks)
	s.schedule()
	rests := func(v *store.View) bool {
		running, live := replicasOf(v, "web")
		return running == tasks && live == tasks && steady(v, "web")
	}
	s.wait("all run", rests)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	// In the end a look at nothing but the service itself has to do with none.
	for deadline := time.Now().Add(30 * time.Second); ; {
		looks.reset()
		s.scale("web", tasks)
		for looks.times() == 0 && time.Now().Before(deadline) {
			<-tick.C
		}
		most, sum := looks.reset()
		if time.Now().After(deadline) {
			t.Fatalf("its tasks do not rest: a look has to do with %d, all with %d", most, sum)
		}
		if most == 0 {
			break
		}
	}
	for range 5 {
		var lost string
		s.st.Peek(func(v *store.View) {
			for x := range v.LiveOf("c", "web") {
				lost = x.ID
			}
		})
		s.stop(lost)
		s.wait("it is replaced", func(v *store.View) bool { return v.Task("c", lost).Object.StoppedAt != nil && rests(v) })
		// A task that stopped, its successor, and their neighbours on their hosts; a line of all hosts is made once.
		if most, sum := looks.reset(); most > hosts || sum > tasks {
			t.Errorf("one task was replaced, and a look had to do with %d of %d tasks and %d hosts; all looks with %d", most, tasks, hosts, sum)
		}
	}
	s.scale("web", tasks/2)
	s.wait("half of them are left, chosen among all", func(v *store.View) bool {
		running, live := replicasOf(v, "web")
		return running == tasks/2 && live == tasks/2 && steady(v, "web")
	})
	s.scale("web", tasks)
	s.wait("all run again", rests)
	s.update("web", s.define(96))
	s.wait("the new ones run", func(v *store.View) bool { return rests(v) && len(v.Service("c", "web").Object.Deployments) == 1 })
}
