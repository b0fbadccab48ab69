package scheduler

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"
	"go.uber.org/zap"

	"github.com/longshore-project/longshore/controlplane/scheduler/placement"
	"github.com/longshore-project/longshore/controlplane/store"
	"github.com/longshore-project/longshore/controlplane/store/storetest"
	"github.com/longshore-project/longshore/controlplane/task"
)

func TestADaemonServiceLivesThroughItsDaysOnARealStore(t *testing.T) {
	s := newStage(t, 3)
	s.schedule()
	s.create("agent", s.define(512), constrained("attribute:env==prod"))
	s.st.Peek(func(v *store.View) {
		if n := v.Service("c", "agent").Object.DesiredCount; n != 3 {
			t.Errorf("desiredCount is %d when the service is created", n)
		}
	})
	s.wait("each host runs it", func(v *store.View) bool {
		return runs(v, "agent") == "host-1:1 host-2:1 host-3:1" && steady(v, "agent")
	})
	s.st.Peek(func(v *store.View) {
		for i := range v.Instances("c") {
			for own := range v.TasksOn("c", i.ID) {
				if slot := v.DaemonSlot("c", "agent", i.ID); slot == nil || slot.Task != own.ID || v.Allocation("c", i.ID).Tasks[own.ID].Memory != 512 {
					t.Errorf("%s has slot %+v, allocation %+v", i.ID, slot, v.Allocation("c", i.ID))
				}
			}
		}
	})
	s.join("host-4")
	s.wait("the host that joined runs it", func(v *store.View) bool { return strings.HasSuffix(runs(v, "agent"), "host-4:1") })
	s.setAttribute("host-2", "dev")
	s.wait("it is gone where the attribute changed", func(v *store.View) bool {
		return runs(v, "agent") == "host-1:1 host-3:1 host-4:1" && v.DaemonSlot("c", "agent", "host-2") == nil && len(v.Allocation("c", "host-2").Tasks) == 0
	})
	s.setAttribute("host-2", "prod")
	s.place("other", "host-3", "", 100)
	s.setStatus("host-3", draining)
	s.wait("it is back, and last on the drained host", func(v *store.View) bool {
		return runs(v, "agent") == "host-1:1 host-2:1 host-3:1 host-4:1" && steady(v, "agent")
	})
	s.stop("other")
	s.wait("it is gone from the drained host", func(v *store.View) bool {
		return runs(v, "agent") == "host-1:1 host-2:1 host-4:1" && v.Service("c", "agent").Object.DesiredCount == 3
	})
	s.setStatus("host-3", active)
	s.update("agent", s.define(512))
	s.wait("all run the second revision", func(v *store.View) bool {
		return runs(v, "agent") == "host-1:2 host-2:2 host-3:2 host-4:2" && steady(v, "agent")
	})
	s.commit(func(v *store.View, txn *store.Txn) {
		svc := *v.Service("c", "agent")
		svc.Object.Status = aws.String(draining)
		txn.Update(&svc)
	})
	s.wait("the deleted service is INACTIVE", func(v *store.View) bool {
		return runs(v, "agent") == "" && *v.Service("c", "agent").Object.Status == inactive
	})
	s.create("agent", s.define(512))
	s.wait("a new one of its name runs", func(v *store.View) bool { return runs(v, "agent") == "host-1:3 host-2:3 host-3:3 host-4:3" })
}

func TestALostHostIsGivenUpWithItsTasks(t *testing.T) {
	s := newStage(t, 2)
	s.cfg.InstanceLostAfter = 300 * time.Millisecond
	s.schedule()
	s.create("agent", s.define(512))
	s.wait("each host runs it", func(v *store.View) bool { return runs(v, "agent") == "host-1:1 host-2:1" })
	s.place("standalone", "host-2", "", 100)
	s.connect("host-2", false)
	s.wait("the host is INACTIVE and its tasks are STOPPED", func(v *store.View) bool {
		inst := v.Instance("c", "host-2")
		if *inst.Object.Status != inactive || v.DaemonSlot("c", "agent", "host-2") != nil || len(v.Allocation("c", "host-2").Tasks) != 0 {
			return false
		}
		for own := range v.TasksOn("c", "host-2") {
			if !task.IsStopped(own) {
				return false
			}
			if reason := aws.ToString(own.Object.StoppedReason); !strings.Contains(reason, "host-2 was lost") || own.Object.Connectivity != types.ConnectivityDisconnected {
				t.Errorf("task %s was stopped because %q", own.ID, reason)
			}
		}
		return !inst.InactiveSince.IsZero() && v.Service("c", "agent").Object.DesiredCount == 1 && steady(v, "agent")
	})
}

func TestTheClockOfLostHostsStartsAnewWithTheControlPlane(t *testing.T) {
	s := newStage(t, 2)
	s.cfg.InstanceLostAfter = time.Hour
	s.connect("host-2", false)
	s.commit(func(v *store.View, txn *store.Txn) {
		inst := *v.Instance("c", "host-2")
		inst.DisconnectedSince = time.Now().Add(-2 * time.Hour)
		txn.Update(&inst)
	})
	s.schedule()
	s.create("agent", s.define(512))
	s.wait("the connected host runs it", func(v *store.View) bool { return runs(v, "agent") == "host-1:1" })
	s.join("host-3")
	s.wait("further passes were made", func(v *store.View) bool { return runs(v, "agent") == "host-1:1 host-3:1" })
	s.st.Peek(func(v *store.View) {
		if status := *v.Instance("c", "host-2").Object.Status; status != active {
			t.Errorf("an instance that was away while nobody looked is %s", status)
		}
	})
	s.connect("host-2", true)
	s.wait("it is used when it comes back", func(v *store.View) bool { return runs(v, "agent") == "host-1:1 host-2:1 host-3:1" })
}

func TestTasksOfAnInactiveInstanceAreStopped(t *testing.T) {
	s := newStage(t, 1)
	cancel := s.schedule()
	s.create("agent", s.define(512))
	s.wait("it runs", func(v *store.View) bool { return runs(v, "agent") == "host-1:1" })
	cancel()
	s.change("host-1", func(o *types.ContainerInstance) { o.Status = aws.String(inactive) })
	s.schedule()
	s.wait("its task is STOPPED", func(v *store.View) bool { return runs(v, "agent") == "" && v.DaemonSlot("c", "agent", "host-1") == nil })
}

func TestACrashingImageReachesOneHostOnARealStore(t *testing.T) {
	s := newStage(t, 4)
	s.schedule()
	s.create("agent", s.define(512))
	s.wait("it runs", func(v *store.View) bool {
		return steady(v, "agent") && v.Service("c", "agent").Object.DesiredCount == 4
	})
	s.fail("2", true)
	s.update("agent", s.define(512))
	s.wait("the roll-out holds and the task was tried three times", func(v *store.View) bool {
		svc := v.Service("c", "agent")
		return svc.Rollouts[*svc.Object.Deployments[0].Id].Held != "" && svc.Object.Deployments[0].FailedTasks >= 3
	})
	s.st.Peek(func(v *store.View) {
		hosts := map[string]bool{}
		for own := range v.TasksOf("c", "agent") {
			if revisionOf(own) == "2" {
				hosts[own.Instance] = true
			}
		}
		if len(hosts) != 1 || strings.TrimPrefix(runs(v, "agent"), "host-1:1 ") != "host-2:1 host-3:1 host-4:1" { // the deployment before may be tried there
			t.Errorf("the crashing image reached %v; %s", hosts, s.state(v))
		}
	})
	s.update("agent", s.define(512))
	s.wait("the repaired image is everywhere", func(v *store.View) bool {
		return runs(v, "agent") == "host-1:3 host-2:3 host-3:3 host-4:3" && steady(v, "agent")
	})
}

func TestRoomIsKeptForDaemonsThatAreNotPlacedYet(t *testing.T) {
	s := newStage(t, 1)
	small, large := s.define(400), s.define(2000)
	s.create("agent", small, constrained("attribute:env==prod"))
	s.create("elsewhere", small, constrained("attribute:env==dev"))
	s.create("too-large", large)
	req, err := placement.NewRequest(placement.Request{Definition: &types.TaskDefinition{}, Need: store.Resources{Memory: 700}})
	if err != nil {
		t.Fatal(err)
	}
	check := func(kept string, free int64) {
		t.Helper()
		s.st.Peek(func(v *store.View) {
			for _, h := range append(placement.HostsOf(v, nil, "c", time.Now()), placement.HostOf(v, nil, "c", "host-1")) {
				r := req.Check(h)
				if want := fmt.Sprintf("it has %d of 1024 MiB of memory free, 700 are needed (%d more)%s", free, 700-free, kept); r == nil || r.Detail != want {
					t.Errorf("got %+v, want %s", r, want)
				}
			}
		})
	}
	check("; kept are 400 for the daemon of service agent", 624)
	s.st.Peek(func(v *store.View) {
		if h := placement.HostForDaemons(v, "c", "host-1"); req.Check(h) != nil {
			t.Error("room is kept from daemons")
		}
	})
	s.schedule()
	s.wait("the daemon runs", func(v *store.View) bool { return runs(v, "agent") == "host-1:1" })
	check("", 624)
	s.wait("an event tells about the one that is too large", func(v *store.View) bool {
		for e := range v.Events("c", "too-large") {
			return strings.Contains(*e.Object.Message, "(container-instance host-1) has insufficient memory available")
		}
		return false
	})
}

func TestADecisionOnAnOldStateIsRefusedAsAWhole(t *testing.T) {
	for name, meddle := range map[string]func(s *stage, lead *store.Leadership){
		"the service was updated":                     func(s *stage, _ *store.Leadership) { s.update("agent", s.define(512)) },
		"the service was updated, whose record stays": func(s *stage, _ *store.Leadership) { s.update("agent", s.define(512)) },
		"the instance was drained":                    func(s *stage, _ *store.Leadership) { s.setStatus("host-1", draining) },
		"something was placed there":                  func(s *stage, _ *store.Leadership) { s.place("other", "host-2", "", 700) },
		"another replica is the leader":               func(s *stage, lead *store.Leadership) { _ = lead.Resign(s.t.Context()) },
	} {
		t.Run(name, func(t *testing.T) {
			s := newStage(t, 2)
			s.create("agent", s.define(512))
			cfg := s.cfg
			cfg.Store = s.st
			scheduler := New(cfg)
			lead, err := s.st.Lead(t.Context(), s.session, "scheduler-c")
			if err != nil {
				t.Fatal(err)
			}
			w := newWorker(scheduler, "c", lead, zap.NewNop())
			w.begin()
			w.read(w.marks.take())
			var snap *snapshot
			var p *plan
			s.st.Peek(func(v *store.View) {
				snap = w.snapshot(v, "agent")
				p = reconcile(*snap, w.cfg)
			})
			if len(p.starts) != 2 {
				t.Fatalf("%d starts", len(p.starts))
			}
			if strings.HasSuffix(name, "whose record stays") {
				p.service = nil
			}
			meddle(s, lead)
			if err := w.apply(t.Context(), snap, p); !errors.Is(err, store.ErrConflict) {
				t.Errorf("applied: %v", err)
			}
			s.st.Peek(func(v *store.View) {
				for own := range v.TasksOf("c", "agent") {
					t.Errorf("task %s was placed on %s", own.ID, own.Instance)
				}
			})
			s.schedule()
			if name == "another replica is the leader" {
				s.wait("it decides anew", func(v *store.View) bool { return steady(v, "agent") })
			}
		})
	}
}

func TestRoomThatBecomesFreeIsUsed(t *testing.T) {
	s := newStage(t, 1)
	s.place("other", "host-1", "", 700)
	s.schedule()
	s.create("agent", s.define(512))
	s.wait("an event tells that there is no room", func(v *store.View) bool {
		for e := range v.Events("c", "agent") {
			return strings.Contains(*e.Object.Message, "it has 324 of 1024 MiB of memory free, 512 are needed")
		}
		return false
	})
	s.stop("other")
	s.wait("it runs", func(v *store.View) bool { return runs(v, "agent") == "host-1:1" })
}

func TestANearlyFullStoreTakesStopsButNoStarts(t *testing.T) {
	s := newStage(t, 2)
	cancel := s.schedule()
	s.create("agent", s.define(512), constrained("attribute:env==prod"))
	s.wait("it runs", func(v *store.View) bool { return runs(v, "agent") == "host-1:1 host-2:1" && steady(v, "agent") })
	cancel()
	full := storetest.OpenWith(t, store.Config{Client: s.client, FullAt: 1e-9, SpaceInterval: time.Millisecond, Log: zap.NewNop()})
	s.full(full)
	s.setAttribute("host-2", "dev")
	s.join("host-3")
	cancel = s.scheduleOn(full)
	s.wait("the task that no longer belongs is stopped, and the record is kept", func(v *store.View) bool {
		return runs(v, "agent") == "host-1:1" && v.DaemonSlot("c", "agent", "host-2") == nil && v.Service("c", "agent").Object.DesiredCount == 2
	})
	cancel()
	s.schedule()
	s.wait("with room the new host gets its task", func(v *store.View) bool { return runs(v, "agent") == "host-1:1 host-3:1" })
}

// full waits until st has seen that it is full.
func (s *stage) full(st *store.Store) {
	s.t.Helper()
	for range 1000 {
		if st.Space().Full {
			return
		}
		txn := st.Txn().Put(&store.Connection{Cluster: "c", Instance: "probe"}, s.session.Lease()) // any write: one more look
		if err := txn.Commit(s.t.Context()); errors.Is(err, store.ErrFull) {
			return
		}
	}
	s.t.Fatal("the store never was full")
}

func TestAnotherReplicaTakesOver(t *testing.T) {
	s := newStage(t, 2)
	first := s.schedule()
	s.create("agent", s.define(256))
	s.wait("the first replica schedules", func(v *store.View) bool { return runs(v, "agent") == "host-1:1 host-2:1" })
	s.schedule()
	s.join("host-3")
	s.wait("with two replicas there is one task", func(v *store.View) bool { return runs(v, "agent") == "host-1:1 host-2:1 host-3:1" })
	first()
	s.join("host-4")
	s.wait("the second one goes on", func(v *store.View) bool { return runs(v, "agent") == "host-1:1 host-2:1 host-3:1 host-4:1" })
}

func TestALostSessionCostsLatencyOnly(t *testing.T) {
	s := newStage(t, 1)
	st := storetest.Open(t, s.client)
	session, err := st.Session(t.Context(), 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	s.cfg.Session = session
	s.scheduleOn(st)
	s.create("agent", s.define(256))
	s.wait("it runs", func(v *store.View) bool { return runs(v, "agent") == "host-1:1" })
	if err := session.Close(); err != nil {
		t.Fatal(err)
	}
	s.join("host-2")
	s.wait("it goes on with a session of its own", func(v *store.View) bool { return runs(v, "agent") == "host-1:1 host-2:1" })
}

func TestManyHostsGetTheirTasksInBatches(t *testing.T) {
	s := newStage(t, 0)
	for i := range 60 {
		s.join(fmt.Sprintf("host-%02d", i))
	}
	s.create("one", s.define(256))
	s.create("two", s.define(256))
	s.schedule()
	s.wait("all run both", func(v *store.View) bool {
		return strings.Count(runs(v, "one"), "host") == 60 && strings.Count(runs(v, "two"), "host") == 60 && steady(v, "one") && steady(v, "two")
	})
}

func TestARandomHistoryOnARealStoreConverges(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	s := newStage(t, 4)
	s.cfg.InstanceLostAfter = time.Second
	s.cfg.RolloutPatience = 300 * time.Millisecond
	cancel := s.schedule()
	services := []string{"one", "two"}
	for i, name := range services {
		s.create(name, s.define(300), constrained("attribute:env==prod"), minimum(int32(50*i)))
	}
	hosts := []string{"host-1", "host-2", "host-3", "host-4"}
	for i := range 60 {
		host, service := hosts[r.IntN(len(hosts))], services[r.IntN(len(services))]
		switch r.IntN(9) {
		case 0:
			s.connect(host, false)
		case 1, 2:
			s.connect(host, true)
		case 3:
			s.setAttribute(host, []string{"prod", "dev"}[r.IntN(2)])
		case 4:
			s.setStatus(host, []string{active, draining}[r.IntN(2)])
		case 5:
			arn := s.define(int32(100 + r.IntN(400)))
			s.fail(itoa(s.defs), r.IntN(3) == 0)
			s.update(service, arn)
		case 6:
			if len(hosts) < 8 {
				hosts = append(hosts, fmt.Sprintf("host-%d", len(hosts)+1))
				s.join(hosts[len(hosts)-1])
			}
		case 7:
			s.commit(func(v *store.View, txn *store.Txn) {
				for own := range v.TasksOf("c", service) {
					if n := task.Stop(own, types.TaskStopCodeUserInitiated, "", time.Now()); n != nil {
						txn.Update(n)
						return
					}
				}
				txn.Unchanged(v.Service("c", service))
			})
		case 8:
			if i%3 == 0 {
				cancel()
				cancel = s.schedule()
			}
		}
	}
	for _, host := range hosts {
		s.connect(host, true)
	}
	for i := range 2 { // where only one belongs, half of that is one
		s.join(fmt.Sprintf("host-9%d", i))
	}
	for _, name := range services {
		s.update(name, s.define(300))
	}
	s.wait("both services run where they belong, and nowhere else", func(v *store.View) bool {
		for _, name := range services {
			svc := v.Service("c", name)
			var want []string
			for i := range v.Instances("c") {
				if *i.Object.Status == active && *i.Object.Attributes[0].Value == "prod" {
					want = append(want, i.ID+":"+revisionIn(*svc.Object.TaskDefinition))
				}
			}
			if runs(v, name) != strings.Join(want, " ") || !steady(v, name) || int(svc.Object.DesiredCount) != len(want) {
				return false
			}
		}
		return true
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
