package scheduler

import (
	"context"
	"errors"
	"fmt"
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
	gate    time.Duration // of the DAEMON service agent on instances that join; 0: they joined long ago

	changed chan struct{} // of one: the view changed

	mu    sync.Mutex
	fails map[string]bool                   // revisions whose tasks fail
	live  map[string]map[string]*store.Task // by service and instance: tasks that are not STOPPED
	seen  mirror
	wrong []string // promises that were broken
}

func newStage(t *testing.T, hosts int) *stage {
	t.Helper()
	client := storetest.Etcd(t)
	s := &stage{
		t: t, client: client, st: storetest.Open(t, client), changed: make(chan struct{}, 1),
		fails: map[string]bool{}, live: map[string]map[string]*store.Task{},
		cfg: Config{RolloutWait: 50 * time.Millisecond, RestartDelay: 20 * time.Millisecond, RestartDelayMax: 200 * time.Millisecond, RestartReset: 200 * time.Millisecond},
	}
	s.cfg.decided = func(snap *snapshot, p *plan) {
		cfg := s.cfg.withDefaults()
		if wrong := belowMinimum(*snap, p, &cfg); wrong != "" {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.wrong = append(s.wrong, wrong)
		}
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
	for _, w := range s.seen.follow(changes) {
		s.wrong = append(s.wrong, fmt.Sprintf("revision %d: %s", revision, w))
	}
	for _, c := range changes {
		n, ok := c.New.(*store.Task)
		if !ok || n.Service == "" || n.Service == "web" { // web is the REPLICA service
			continue
		}
		at := n.Service + " on " + n.Instance
		if s.live[at] == nil {
			s.live[at] = map[string]*store.Task{}
		}
		if task.IsStopped(n) {
			delete(s.live[at], n.ID)
		} else if s.live[at][n.ID] = n; !fewEnough(s.live[at]) {
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

// fewEnough tells whether of a service's tasks on an instance there is one, or an old one and a new one beside it.
func fewEnough(live map[string]*store.Task) bool {
	if len(live) < 2 {
		return true
	}
	for _, n := range live {
		if old := live[n.Beside]; old != nil && besides(old, n) {
			return len(live) == 2
		}
	}
	return false
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
	var job []*store.Task
	s.st.Peek(func(v *store.View) {
		for t := range v.Tasks("c") {
			if !task.IsStopped(t) && v.Connection("c", t.Instance) != nil && (!task.Wanted(t) || task.LastStatus(t) == task.Pending) {
				job = append(job, t)
			}
		}
	})
	for _, t := range job {
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
	if s.gate > 0 {
		inst.JoinedAt = time.Now().Truncate(time.Millisecond) // as it is stored
	}
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
		w.svc.Object.DesiredCount = DaemonDesired(v, nil, w.svc)
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
