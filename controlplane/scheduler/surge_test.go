package scheduler

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"
	"go.uber.org/zap"

	"github.com/longshore-project/longshore/controlplane/scheduler/placement"
	"github.com/longshore-project/longshore/controlplane/scheduler/policy"
	"github.com/longshore-project/longshore/controlplane/store"
	"github.com/longshore-project/longshore/controlplane/task"
)

func surging(value string) func(*types.Service) { return tagged(policy.DaemonSurge, value) }

func tagged(key, value string) func(*types.Service) {
	return func(s *types.Service) {
		s.Tags = append(s.Tags, types.Tag{Key: aws.String(key), Value: aws.String(value)})
	}
}

// surge is a steady service that is rolled out start-first, and was updated.
func surge(t *testing.T, hosts int, define ...func(*types.TaskDefinition)) *world {
	t.Helper()
	w := newWorld(t, hosts)
	w.create(w.define(), surging("true"), minimum(100))
	w.settle()
	w.after(time.Hour)
	w.expectSteady(t)
	w.deploy(w.define(define...))
	return w
}

// on are the service's tasks on a host, the older one first: "1 RUNNING, 2 PENDING".
func (w *world) on(host string) string {
	var out []string
	for _, t := range w.daemons(host) {
		status := task.LastStatus(t)
		if !task.Wanted(t) {
			status = "STOPPING"
		}
		out = append(out, revisionOf(t)+" "+status)
	}
	return strings.Join(out, ", ")
}

func (w *world) expectOn(host, want string) {
	w.t.Helper()
	if got := w.on(host); got != want {
		w.t.Fatalf("%s has %q, want %q; events: %s", host, got, want, w.history())
	}
}

func TestANewDaemonIsStartedBesideTheOldOneOnRequest(t *testing.T) {
	w := surge(t, 3)
	w.agents = func(t *store.Task) string {
		if revisionOf(t) == "2" {
			return ""
		}
		return task.Running
	}
	w.settle()
	w.expectOn("host-1", "1 RUNNING, 2 PENDING")
	w.expectOn("host-2", "1 RUNNING")
	w.agents = nil
	w.report()
	w.expectOn("host-1", "1 RUNNING, 2 RUNNING")
	w.pass()
	w.expectOn("host-1", "1 STOPPING, 2 RUNNING")
	w.settle()
	w.expectOn("host-1", "2 RUNNING")
	w.after(time.Hour)
	w.expect("2 2 2")
	w.expectSteady(t)
	w.expectTold(0, "before it starts the new one")
}

func TestTheOldDaemonStaysUntilTheNewOneIsHealthy(t *testing.T) {
	w := surge(t, 1, healthChecked)
	w.settle()
	w.after(time.Minute)
	w.expectOn("host-1", "1 RUNNING, 2 RUNNING")
	n := *w.daemons("host-1")[1]
	n.Object.HealthStatus = types.HealthStatusHealthy
	w.replace(&n)
	w.settle()
	w.expectOn("host-1", "2 RUNNING")
}

func TestANewDaemonThatFailsLeavesTheOldOneAndHolds(t *testing.T) {
	w := surge(t, 3)
	w.agents = bad("2")
	w.settle()
	w.after(10 * time.Minute)
	for i := range 3 {
		if own := w.daemons(fmt.Sprint("host-", i+1)); len(own) == 0 || revisionOf(own[0]) != "1" || task.LastStatus(own[0]) != task.Running {
			t.Errorf("host-%d: %s", i+1, w.on(fmt.Sprint("host-", i+1)))
		}
	}
	o := w.svc.Object.Deployments[0]
	if o.FailedTasks < 3 || !strings.Contains(*o.RolloutStateReason, "It holds: task ") {
		t.Errorf("%d failures, %s", o.FailedTasks, *o.RolloutStateReason)
	}
	if f := w.svc.Failures["host-1"]; f.NotBefore.Sub(f.At) < time.Minute {
		t.Errorf("it is tried again after %s", f.NotBefore.Sub(f.At))
	}
	w.agents = nil // somebody has mended what it needs
	w.after(time.Hour)
	w.expect("2 2 2")
	w.expectSteady(t)
}

func TestABrokenCircuitGoesBackToTheOldDaemonsThatAreThere(t *testing.T) {
	w := newWorld(t, 2)
	w.create(w.define(), surging("true"), func(s *types.Service) {
		s.DeploymentConfiguration.DeploymentCircuitBreaker = &types.DeploymentCircuitBreaker{Enable: true, Rollback: true}
	})
	w.settle()
	w.after(time.Hour)
	before := w.own("host-1").ID
	w.deploy(w.define())
	w.agents = bad("2")
	w.settle()
	w.after(time.Hour)
	w.expect("1 1")
	w.expectSteady(t)
	if w.own("host-1").ID != before {
		t.Error("the old daemon was replaced")
	}
}

func TestAnUpdateDuringASurgeNeverMakesThree(t *testing.T) {
	w := surge(t, 1)
	w.agents = func(t *store.Task) string {
		if revisionOf(t) == "2" {
			return ""
		}
		return task.Running
	}
	w.settle()
	w.expectOn("host-1", "1 RUNNING, 2 PENDING")
	w.deploy(w.define())
	w.pass()
	w.expectOn("host-1", "1 RUNNING, 2 STOPPING")
	w.settle()
	w.after(time.Minute)
	w.expect("3")
}

func TestADaemonWithoutRoomForTwoIsStoppedFirstAndThatIsSaid(t *testing.T) {
	w := newWorld(t, 1)
	w.create(w.define(), surging("true"))
	w.settle()
	w.after(time.Hour)
	w.deploy(w.define(func(d *types.TaskDefinition) { d.ContainerDefinitions[0].Memory = aws.Int32(600) }))
	w.pass()
	w.expectOn("host-1", "1 STOPPING")
	w.expectTold(1, "stops the old task on (container-instance host-1) before it starts the new one, since both can't be there: RESOURCE:MEMORY: ")
	w.settle()
	w.expect("2")
}

func TestADaemonThatMayNotStopAndHasNoRoomForTwoWaitsForRoom(t *testing.T) {
	w := surge(t, 2)
	other := &store.Task{Cluster: "c", ID: "other", Instance: "host-2", Reserved: store.Resources{Memory: 300}, Object: types.Task{DesiredStatus: aws.String(task.Running), LastStatus: aws.String(task.Running)}}
	w.tasks = append(w.tasks, other)
	w.settle()
	w.after(time.Hour)
	w.expect("2 1")
	w.expectTold(1, "(container-instance host-2) has insufficient memory available")
	if !w.last.waits["host-2"] {
		t.Error("nobody would see that there is room")
	}
	w.replace(task.Lost(other, "", "", w.now))
	w.settle()
	w.after(time.Minute)
	w.expect("2 2")
}

func TestASurgeWaitsForTheImages(t *testing.T) {
	w := newWorld(t, 2)
	for id := range w.hosts {
		w.prepares(id)
	}
	w.create(w.define(), surging("true"))
	w.settle()
	w.after(time.Hour)
	w.deploy(w.define())
	w.images = always(store.PreparationFailed)
	w.settle()
	w.after(2 * time.Second)
	w.expectOn("host-1", "1 RUNNING")
	if o := w.svc.Object.Deployments[0]; o.FailedTasks < 2 || !strings.Contains(*o.RolloutStateReason, "can't have the images") {
		t.Errorf("%d failures, %s", o.FailedTasks, *o.RolloutStateReason)
	}
	w.images = nil
	w.after(time.Minute)
	w.expectOn("host-1", "1 RUNNING")
	w.images = always(store.PreparationReady)
	w.agents = func(t *store.Task) string {
		if revisionOf(t) == "2" {
			return ""
		}
		return task.Running
	}
	w.settle()
	w.expectOn("host-1", "1 RUNNING, 2 PENDING")
	w.agents = nil
	w.settle()
	w.after(time.Hour)
	w.expect("2 2")
	w.expectSteady(t)
	w.expectTold(0, "before it starts the new one")
	if len(w.preparations) != 0 {
		t.Errorf("preparations are left: %+v", w.preparations)
	}
}

// crowded is a service that is rolled out start-first, with room made for it, on hosts where a replica leaves no room for two.
func crowded(t *testing.T, hosts int, change ...func(*types.Service)) *world {
	t.Helper()
	w := newWorld(t, hosts)
	w.create(w.define(), append(change, func(s *types.Service) {
		s.Tags = []types.Tag{{Key: aws.String(policy.DaemonSurge), Value: aws.String("true")}, {Key: aws.String(policy.MakeRoom), Value: aws.String("true")}}
	})...)
	w.settle()
	w.after(time.Hour)
	for i := range hosts {
		w.take(fmt.Sprint("host-", i+1), 300)
		w.tasks[len(w.tasks)-1].Service = "web"
	}
	w.deploy(w.define())
	w.settle()
	return w
}

// leave has the replicas leave that are to make room, and counts them.
func (w *world) leave() (n int) {
	for _, o := range w.tasks {
		if o.MakesRoomFor == "agent" && !task.IsStopped(o) {
			w.replace(task.Lost(o, "", "", w.now))
			n++
		}
	}
	return n
}

func TestReplicasMakeRoomForASurge(t *testing.T) {
	for _, least := range []int32{0, 100} {
		w := crowded(t, 2, minimum(least))
		w.after(time.Minute)
		w.expectOn("host-1", "1 RUNNING")
		w.expectTold(1, "has 1 tasks of other services replaced elsewhere to find room on (container-instance host-1).")
		kept := placement.Daemons{Services: []*store.Service{w.svc}, Definition: func(arn string) *store.TaskDefinition { return w.defs[arn] },
			Connection: func(string) *store.Connection { return nil }}
		if hosts, _ := kept.First([]*placement.Host{w.host("host-1"), w.host("host-2")}, w.now); hosts[0].Free.Memory != 1024-512-300-512 || hosts[1].Free.Memory != 1024-512-300 {
			t.Errorf("room is kept for the new task where a wave has been: %d and %d are free", hosts[0].Free.Memory, hosts[1].Free.Memory)
		}
		if n := w.leave(); n != 1 {
			t.Fatalf("%d replicas are to leave for the first wave", n)
		}
		w.agents = func(t *store.Task) string {
			if revisionOf(t) == "2" {
				return ""
			}
			return task.Running
		}
		w.settle()
		w.expectOn("host-1", "1 RUNNING, 2 PENDING")
		w.agents = nil
		w.settle()
		w.after(time.Minute)
		w.leave()
		w.settle()
		w.after(time.Minute)
		w.expect("2 2")
		w.expectSteady(t)
		w.expectTold(0, "before it starts the new one")
	}
}

func TestASurgeWaitsForReplicasNoLongerThanItMust(t *testing.T) {
	w := crowded(t, 1, minimum(0))
	w.after(119 * time.Second)
	w.expectOn("host-1", "1 RUNNING")
	w.after(time.Second)
	w.expect("2")
	w.expectTold(1, "stops the old task on (container-instance host-1) before it starts the new one")
	w = crowded(t, 1, minimum(100))
	w.after(time.Hour)
	w.expectOn("host-1", "1 RUNNING")
}

func TestADrainDuringASurgeKeepsTheOldDaemonUntilTheEnd(t *testing.T) {
	w := surge(t, 1)
	w.agents = func(t *store.Task) string {
		if revisionOf(t) == "2" {
			return ""
		}
		return task.Running
	}
	w.settle()
	w.tasks = append(w.tasks, &store.Task{Cluster: "c", ID: "other", Instance: "host-1", Object: types.Task{DesiredStatus: aws.String(task.Running), LastStatus: aws.String(task.Running)}})
	w.setStatus("host-1", draining)
	w.settle()
	w.expectOn("host-1", "1 RUNNING")
	for _, l := range w.live("host-1") {
		if l.ID == "other" {
			w.replace(task.Lost(l, "", "", w.now))
		}
	}
	w.settle()
	w.expectOn("host-1", "")
	w.setStatus("host-1", active)
	w.settle()
	w.expectOn("host-1", "2 PENDING")
}

func TestAHostThatComesBackDuringASurgeHasNeverThree(t *testing.T) {
	w := surge(t, 2)
	w.agents = func(*store.Task) string { return "" }
	w.settle()
	w.connect("host-1", false)
	w.agents = nil
	w.after(time.Hour)
	if len(w.daemons("host-1")) != 2 {
		t.Errorf("%s", w.on("host-1"))
	}
	w.connect("host-1", true)
	w.settle()
	w.after(time.Hour)
	w.expect("2 2")
	w.expectSteady(t)
}

func TestADeletedServiceStopsBoth(t *testing.T) {
	w := surge(t, 1)
	w.agents = func(*store.Task) string { return "" }
	w.settle()
	w.expectOn("host-1", "1 RUNNING, 2 PENDING")
	svc := *w.svc
	svc.Object.Status = aws.String(draining)
	w.svc = &svc
	w.settle()
	w.expectOn("host-1", "")
	if *w.svc.Object.Status != inactive {
		t.Error(*w.svc.Object.Status)
	}
}

func TestWhatTwoDaemonsCanNotShareIsNamed(t *testing.T) {
	ports := func(d *types.TaskDefinition, host int32) {
		d.ContainerDefinitions[0].PortMappings = []types.PortMapping{{ContainerPort: aws.Int32(8125), HostPort: aws.Int32(host), Protocol: types.TransportProtocolUdp}}
	}
	volume := func(d *types.TaskDefinition, v types.Volume, readOnly bool) {
		v.Name = aws.String("v")
		d.Volumes = []types.Volume{v}
		d.ContainerDefinitions[0].MountPoints = []types.MountPoint{{SourceVolume: v.Name, ContainerPath: aws.String("/v"), ReadOnly: aws.Bool(readOnly)}}
	}
	path := types.Volume{Host: &types.HostVolumeProperties{SourcePath: aws.String("/var/lib/agent")}}
	for name, c := range map[string]struct {
		tag    string
		change func(*types.TaskDefinition)
		want   string
	}{
		"nothing shared":    {"true", func(*types.TaskDefinition) {}, ""},
		"nothing asked":     {"false", func(d *types.TaskDefinition) { ports(d, 8125) }, ""},
		"a dynamic port":    {"true", func(d *types.TaskDefinition) { ports(d, 0) }, ""},
		"a static port":     {"true", func(d *types.TaskDefinition) { ports(d, 8125) }, "the static host ports 8125/udp"},
		"the host's port":   {"true", func(d *types.TaskDefinition) { d.NetworkMode = types.NetworkModeHost; ports(d, 0) }, "its network mode is host and it declares 8125/udp"},
		"a path to read":    {"true", func(d *types.TaskDefinition) { volume(d, path, true) }, ""},
		"a path to write":   {"true", func(d *types.TaskDefinition) { volume(d, path, false) }, "container agent writes to volume v"},
		"a path for two":    {"writable-volumes", func(d *types.TaskDefinition) { volume(d, path, false) }, ""},
		"a port and a path": {"writable-volumes", func(d *types.TaskDefinition) { volume(d, path, false); ports(d, 1) }, "1/udp"},
		"a task's volume": {"true", func(d *types.TaskDefinition) {
			volume(d, types.Volume{DockerVolumeConfiguration: &types.DockerVolumeConfiguration{Scope: types.ScopeTask}}, false)
		}, ""},
		"a shared volume": {"true", func(d *types.TaskDefinition) {
			volume(d, types.Volume{DockerVolumeConfiguration: &types.DockerVolumeConfiguration{Scope: types.ScopeShared}}, false)
		}, "volume v"},
		"an attached volume": {"writable-volumes", func(d *types.TaskDefinition) { volume(d, types.Volume{ConfiguredAtLaunch: aws.Bool(true)}, true) }, "one task only"},
	} {
		w := newWorld(t, 0)
		def := w.defs[w.define(c.change)]
		svc := &types.Service{}
		surging(c.tag)(svc)
		if got := SurgeRefusal(svc.Tags, &def.Object); (got == "") != (c.want == "") || !strings.Contains(got, c.want) {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

func TestASurgeOnARealStoreHandsTheSlotOver(t *testing.T) {
	s := newStage(t, 3)
	s.schedule()
	s.create("agent", s.define(300), surging("true"))
	s.wait("each host runs it", func(v *store.View) bool {
		return runs(v, "agent") == "host-1:1 host-2:1 host-3:1" && steady(v, "agent")
	})
	s.update("agent", s.define(300))
	s.wait("all run the second revision", func(v *store.View) bool {
		return runs(v, "agent") == "host-1:2 host-2:2 host-3:2" && steady(v, "agent")
	})
	s.fail("3", true)
	s.update("agent", s.define(300))
	s.wait("the third fails beside the second", func(v *store.View) bool {
		d := v.Service("c", "agent").Object.Deployments
		return len(d) > 1 && d[0].FailedTasks > 0 && runs(v, "agent") == "host-1:2 host-2:2 host-3:2"
	})
	s.fail("3", false)
	s.wait("it succeeds", func(v *store.View) bool {
		return runs(v, "agent") == "host-1:3 host-2:3 host-3:3" && steady(v, "agent")
	})
	beside := 0
	s.st.Peek(func(v *store.View) {
		for own := range v.TasksOf("c", "agent") {
			if own.Beside != "" {
				beside++
			}
		}
		for slot := range v.DaemonSlots("c", "agent") {
			if own := v.Task("c", slot.Task); own == nil || task.IsStopped(own) || slot.Beside != "" {
				t.Errorf("the slot %+v is for the task %+v", slot, own)
			}
		}
	})
	if beside < 6 {
		t.Errorf("%d tasks were started beside another", beside)
	}
}

func TestASurgeOnARealStoreHasReplicasMakeRoom(t *testing.T) {
	s := newStage(t, 2)
	s.cfg.HealthyAfter = 1
	s.schedule()
	s.create("agent", s.define(400), minimum(100), func(o *types.Service) {
		o.Tags = []types.Tag{{Key: aws.String(policy.DaemonSurge), Value: aws.String("true")}, {Key: aws.String(policy.MakeRoom), Value: aws.String("true")}}
	})
	s.wait("each host runs it", func(v *store.View) bool { return runs(v, "agent") == "host-1:1 host-2:1" && steady(v, "agent") })
	s.create("web", s.define(300), replicas(1))
	s.scale("web", 1)
	s.wait("a replica is on one of them", func(v *store.View) bool { return steady(v, "web") && runs(v, "web") != "" })
	s.update("agent", s.define(400))
	s.wait("both run the new one, and the replica runs", func(v *store.View) bool {
		return runs(v, "agent") == "host-1:3 host-2:3" && steady(v, "agent") && strings.HasSuffix(runs(v, "web"), ":2") && steady(v, "web")
	})
	s.st.Peek(func(v *store.View) {
		for own := range v.TasksOf("c", "agent") {
			if revisionOf(own) == "3" && own.Beside == "" {
				t.Errorf("the new daemon on %s was not started beside the old one", own.Instance)
			}
		}
	})
}

func TestASlotOfTwoIsLeftByEachAndByBothAtOnce(t *testing.T) {
	for name, ends := range map[string][]string{"the new one fails": {"new"}, "the old one ends": {"old"}, "the host is lost": {"old", "new"}, "both, the new one first": {"new", "old"}} {
		s := newStage(t, 1)
		s.connect("host-1", false)
		s.create("agent", s.define(100))
		def := &types.TaskDefinition{Family: aws.String("agent"), TaskDefinitionArn: aws.String(arnPrefix + "task-definition/agent:1"), ContainerDefinitions: []types.ContainerDefinition{{Name: aws.String("agent"), Memory: aws.Int32(100)}}}
		s.commit(func(v *store.View, txn *store.Txn) {
			var both []*store.Task
			for _, id := range []string{"old", "new"} {
				n, err := task.New(task.Params{Cluster: "c", Definition: def, Instance: v.Instance("c", "host-1"), Service: "agent", Deployment: "ecs-svc/" + id, ID: id, Now: time.Now()})
				if err != nil {
					t.Fatal(err)
				}
				txn.Create(n)
				both = append(both, n)
			}
			both[1].Beside = "old"
			txn.Create(&store.DaemonSlot{Cluster: "c", Service: "agent", Instance: "host-1", Task: "new", Beside: "old"}).Update(task.Reserve(v.Allocation("c", "host-1"), both...))
		})
		s.commit(func(v *store.View, txn *store.Txn) {
			var ended []*store.Task
			for _, id := range ends {
				ended = append(ended, task.Lost(v.Task("c", id), "", "gone", time.Now()))
			}
			task.Finish(txn, v, ended...)
		})
		s.st.Peek(func(v *store.View) {
			slot, left := v.DaemonSlot("c", "agent", "host-1"), len(v.Allocation("c", "host-1").Tasks)
			switch {
			case len(ends) == 2 && (slot != nil || left != 0):
				t.Errorf("%s: slot %+v, %d allocated", name, slot, left)
			case len(ends) == 1 && (slot == nil || slot.Beside != "" || slot.Task == ends[0] || slot.Task == "" || left != 1):
				t.Errorf("%s: slot %+v, %d allocated", name, slot, left)
			}
		})
	}
}

// A decision to start a task beside another is written as it was decided, or not at all.
func TestASurgeThatWasDecidedOnAnOldStateIsRefused(t *testing.T) {
	for name, meddle := range map[string]func(s *stage, again func() error){
		"the old task ended": func(s *stage, _ func() error) {
			s.commit(func(v *store.View, txn *store.Txn) {
				task.Finish(txn, v, task.Lost(v.Task("c", v.DaemonSlot("c", "agent", "host-1").Task), "", "gone", time.Now()))
			})
		},
		"another replica was faster": func(s *stage, again func() error) {
			if err := again(); err != nil {
				s.t.Fatal(err)
			}
		},
	} {
		s := newStage(t, 1)
		stop := s.schedule()
		s.create("agent", s.define(300), surging("true"))
		s.wait("it runs", func(v *store.View) bool { return runs(v, "agent") == "host-1:1" && steady(v, "agent") })
		stop()
		s.update("agent", s.define(300))
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
		if len(p.starts) != 1 || p.starts[0].task.Beside == "" || len(p.stops) != 0 {
			t.Fatalf("%s: %d starts, %d stops", name, len(p.starts), len(p.stops))
		}
		p.service = nil // its record would be refused by itself
		meddle(s, func() error { return w.apply(t.Context(), snap, p) })
		second := *p
		second.starts = []start{p.starts[0]}
		another := *p.starts[0].task
		another.ID = "another"
		second.starts[0].task = &another
		if err := w.apply(t.Context(), snap, &second); !errors.Is(err, store.ErrConflict) {
			t.Errorf("%s: applied: %v", name, err)
		}
		s.promises()
	}
}
