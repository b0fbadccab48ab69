package scheduler

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"

	"github.com/longshore-project/longshore/controlplane/scheduler/placement"
	"github.com/longshore-project/longshore/controlplane/store"
	"github.com/longshore-project/longshore/controlplane/store/storetest"
	"github.com/longshore-project/longshore/controlplane/task"
)

// A stage is a cluster in a real store, with agents that are played: each host whose connection is there does what its
// tasks are to do, at once.
type stage struct {
	t       *testing.T
	client  *clientv3.Client
	st      *store.Store
	session *store.Session
	cfg     Config
	defs    int32
	seq     int

	changed chan struct{} // of one: the view changed

	mu    sync.Mutex
	fails map[string]bool            // revisions whose tasks fail
	live  map[string]map[string]bool // by service and instance: tasks that are not STOPPED
	wrong []string                   // promises that were broken
}

func newStage(t *testing.T, hosts int) *stage {
	t.Helper()
	client := storetest.Etcd(t)
	s := &stage{
		t: t, client: client, st: storetest.Open(t, client), changed: make(chan struct{}, 1),
		fails: map[string]bool{}, live: map[string]map[string]bool{},
		cfg: Config{RolloutWait: 50 * time.Millisecond, RestartDelay: 20 * time.Millisecond, RestartDelayMax: 200 * time.Millisecond, RestartReset: 200 * time.Millisecond},
	}
	var err error
	if s.session, err = s.st.Session(t.Context(), 10*time.Second); err != nil {
		t.Fatal(err)
	}
	cancel := s.st.OnChange(s.watch)
	t.Cleanup(cancel)
	s.commit(func(_ *store.View, txn *store.Txn) {
		txn.Create(&store.Cluster{Object: types.Cluster{ClusterName: aws.String("c"), Status: aws.String(active)}})
	})
	for i := range hosts {
		s.join(fmt.Sprintf("host-%d", i+1))
	}
	s.background(s.agents)
	return s
}

// background runs f until the test ends.
func (s *stage) background(f func(context.Context)) (cancel func()) {
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		f(ctx)
	}()
	cancel = sync.OnceFunc(func() {
		stop()
		<-done
	})
	s.t.Cleanup(cancel)
	return cancel
}

// schedule runs a scheduler on a store of its own, as another replica would.
func (s *stage) schedule() (cancel func()) { return s.scheduleOn(storetest.Open(s.t, s.client)) }

func (s *stage) scheduleOn(st *store.Store) (cancel func()) {
	cfg := s.cfg
	cfg.Store = st
	cfg.Log = zaptest.NewLogger(s.t, zaptest.Level(zap.ErrorLevel))
	scheduler := New(cfg)
	return s.background(func(ctx context.Context) {
		if err := scheduler.Run(ctx); err != nil {
			s.t.Errorf("the scheduler ended: %v", err)
		}
	})
}

// commit makes a transaction until it does not conflict.
func (s *stage) commit(f func(v *store.View, txn *store.Txn)) {
	s.t.Helper()
	err := store.Retry(s.t.Context(), func() error {
		txn := s.st.Txn()
		s.st.Peek(func(v *store.View) { f(v, txn) })
		return txn.Commit(s.t.Context())
	})
	if err != nil {
		s.t.Fatalf("commit: %v", err)
	}
}

// watch checks at each revision what must never be otherwise.
func (s *stage) watch(revision int64, changes []store.Change) {
	s.mu.Lock()
	for _, c := range changes {
		n, ok := c.New.(*store.Task)
		if !ok || n.Service == "" {
			continue
		}
		at := n.Service + " on " + n.Instance
		if s.live[at] == nil {
			s.live[at] = map[string]bool{}
		}
		if task.IsStopped(n) {
			delete(s.live[at], n.ID)
		} else if s.live[at][n.ID] = true; len(s.live[at]) > 1 {
			s.wrong = append(s.wrong, fmt.Sprintf("revision %d: never two daemons of a service on an instance: %s has %d", revision, at, len(s.live[at])))
		}
	}
	for _, c := range changes {
		a, ok := c.New.(*store.Allocation)
		if !ok {
			continue
		}
		var memory int64
		for _, r := range a.Tasks {
			memory += r.Memory
		}
		if memory > 1024 {
			s.wrong = append(s.wrong, fmt.Sprintf("revision %d: never over capacity: %d MiB of 1024 are taken on %s", revision, memory, a.Instance))
		}
	}
	s.mu.Unlock()
	select {
	case s.changed <- struct{}{}:
	default:
	}
}

// wait looks at each change until ok, and says what it waited for when that does not come.
func (s *stage) wait(what string, ok func(v *store.View) bool) {
	s.t.Helper()
	changed := make(chan struct{}, 1)
	cancel := s.st.OnChange(func(int64, []store.Change) {
		select {
		case changed <- struct{}{}:
		default:
		}
	})
	defer cancel()
	deadline := time.NewTimer(20 * time.Second)
	defer deadline.Stop()
	for {
		done, state := false, ""
		s.st.Peek(func(v *store.View) { done, state = ok(v), s.state(v) })
		if done {
			s.promises()
			return
		}
		select {
		case <-changed:
		case <-deadline.C:
			s.t.Fatalf("waited 20 s until %s; %s", what, state)
		}
	}
}

func (s *stage) promises() {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, w := range s.wrong {
		s.t.Error(w)
	}
}

func (s *stage) state(v *store.View) string {
	var lines []string
	for svc := range v.Services("c") {
		lines = append(lines, *svc.Object.ServiceName+": "+show(svc))
		for e := range v.Events("c", *svc.Object.ServiceName) {
			lines = append(lines, "  "+*e.Object.Message)
		}
	}
	for i := range v.Instances("c") {
		line := i.ID + " " + *i.Object.Status + ", connected " + fmt.Sprint(v.Connection("c", i.ID) != nil) + ":"
		for t := range v.TasksOn("c", i.ID) {
			if !task.IsStopped(t) {
				line += " " + t.Service + ":" + revisionOf(t) + " " + task.LastStatus(t) + "→" + *t.Object.DesiredStatus
			}
		}
		lines = append(lines, line)
	}
	return strings.Join(lines, "\n")
}

// agents play every connected host until ctx ends.
func (s *stage) agents(ctx context.Context) {
	for {
		for s.act(ctx) {
		}
		select {
		case <-ctx.Done():
			return
		case <-s.changed:
		}
	}
}

// act makes the next report of each task; whether there was one.
func (s *stage) act(ctx context.Context) (acted bool) {
	var todo []*store.Task
	s.st.Peek(func(v *store.View) {
		for t := range v.Tasks("c") {
			if !task.IsStopped(t) && v.Connection("c", t.Instance) != nil && (!task.Wanted(t) || task.LastStatus(t) == task.Pending) {
				todo = append(todo, t)
			}
		}
	})
	for _, t := range todo {
		s.mu.Lock()
		change := task.StateChange{Status: task.Running}
		if !task.Wanted(t) || s.fails[revisionOf(t)] {
			change = task.StateChange{Status: task.Stopped, Containers: []types.ContainerStateChange{{ContainerName: aws.String("agent"), Status: aws.String(task.Stopped), ExitCode: aws.Int32(1)}}}
		}
		s.mu.Unlock()
		n, _ := task.Apply(t, change, time.Now())
		txn := s.st.Txn()
		s.st.Peek(func(v *store.View) { task.Finish(txn, v, n) })
		switch err := txn.Commit(ctx); {
		case err == nil, errors.Is(err, store.ErrConflict):
			acted = true
		case ctx.Err() == nil:
			s.t.Errorf("report: %v", err)
			return false
		default:
			return false
		}
	}
	return acted
}

func (s *stage) fail(revision string, fails bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fails[revision] = fails
}

func (s *stage) join(id string) {
	inst := newWorld(s.t, 0).join(id).inst
	inst.Object.RegisteredAt = aws.Time(time.Now())
	s.commit(func(_ *store.View, txn *store.Txn) {
		txn.Create(inst).Create(&store.Allocation{Cluster: "c", Instance: id})
		txn.Put(&store.Connection{Cluster: "c", Instance: id, Replica: "r"}, s.session.Lease())
	})
}

func (s *stage) connect(id string, connected bool) {
	s.commit(func(v *store.View, txn *store.Txn) {
		if c := v.Connection("c", id); c != nil && !connected {
			txn.Delete(c)
		} else if c == nil && connected {
			txn.Put(&store.Connection{Cluster: "c", Instance: id, Replica: "r"}, s.session.Lease())
		} else {
			txn.Unchanged(v.Instance("c", id))
		}
	})
}

// change updates an instance, as the API does: nothing decided before may be placed there afterwards.
func (s *stage) change(id string, f func(*types.ContainerInstance)) {
	s.commit(func(v *store.View, txn *store.Txn) {
		inst := *v.Instance("c", id)
		if aws.ToString(inst.Object.Status) == inactive {
			txn.Unchanged(&inst)
			return
		}
		f(&inst.Object)
		txn.Update(&inst)
		task.Fence(txn, v.Allocation("c", id))
	})
}

func (s *stage) setAttribute(id, value string) {
	s.change(id, func(o *types.ContainerInstance) {
		o.Attributes = []types.Attribute{{Name: aws.String("env"), Value: aws.String(value)}}
	})
}

func (s *stage) setStatus(id, status string) {
	s.change(id, func(o *types.ContainerInstance) { o.Status = aws.String(status) })
}

// define registers the next revision, which needs memory MiB.
func (s *stage) define(memory int32) string {
	s.defs++
	w := newWorld(s.t, 0)
	w.defs = map[string]*store.TaskDefinition{}
	for i := range s.defs - 1 {
		w.defs[fmt.Sprint(i)] = nil
	}
	arn := w.define(func(d *types.TaskDefinition) { d.ContainerDefinitions[0].Memory = aws.Int32(memory) })
	s.commit(func(_ *store.View, txn *store.Txn) { txn.Create(w.defs[arn]) })
	return arn
}

// place places a task as RunTask does.
func (s *stage) place(id, host, service string, memory int32) {
	def := &types.TaskDefinition{Family: aws.String("other"), TaskDefinitionArn: aws.String(arnPrefix + "task-definition/other:1"),
		ContainerDefinitions: []types.ContainerDefinition{{Name: aws.String("other"), Memory: aws.Int32(memory)}}}
	s.commit(func(v *store.View, txn *store.Txn) {
		n, err := task.New(task.Params{Cluster: "c", Definition: def, Instance: v.Instance("c", host), Service: service, ID: id, Now: time.Now()})
		if err != nil {
			s.t.Fatal(err)
		}
		task.Place(txn, v.Allocation("c", host), false, n)
	})
}

func (s *stage) stop(id string) {
	s.commit(func(v *store.View, txn *store.Txn) {
		txn.Update(task.Stop(v.Task("c", id), types.TaskStopCodeUserInitiated, "", time.Now()))
	})
}

func (s *stage) create(name, arn string, change ...func(*types.Service)) {
	w := newWorld(s.t, 0)
	w.now = time.Now().UTC().Truncate(time.Millisecond)
	s.seq++
	w.deployed = 100 * s.seq
	w.create(arn, change...)
	w.svc.Object.ServiceName = aws.String(name)
	s.commit(func(v *store.View, txn *store.Txn) {
		w.svc.Object.DesiredCount = DaemonDesired(v, w.svc)
		txn.Create(w.svc)
	})
}

func (s *stage) update(name, arn string) {
	s.seq++
	s.commit(func(v *store.View, txn *store.Txn) {
		w := newWorld(s.t, 0)
		w.now, w.deployed, w.svc = time.Now().UTC().Truncate(time.Millisecond), 100*s.seq, v.Service("c", name)
		w.deploy(arn)
		txn.Update(w.svc)
	})
}

// runs are the RUNNING and wanted tasks of a service: "host-1:2".
func runs(v *store.View, service string) string {
	var out []string
	for t := range v.TasksOf("c", service) {
		if task.LastStatus(t) == task.Running && task.Wanted(t) {
			out = append(out, t.Instance+":"+revisionOf(t))
		}
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

func steady(v *store.View, service string) bool {
	svc := v.Service("c", service)
	return len(svc.Object.Deployments) == 1 && !svc.SteadySince.IsZero()
}

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
		if len(hosts) != 1 || runs(v, "agent") != "host-2:1 host-3:1 host-4:1" {
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
			for _, h := range append(placement.HostsOf(v, "c"), placement.HostOf(v, "c", "host-1")) {
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
	for _, name := range services {
		s.create(name, s.define(300), constrained("attribute:env==prod"))
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
