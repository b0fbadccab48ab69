package scheduler

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"time"
	"unsafe"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"

	"github.com/longshore-project/longshore/controlplane/scheduler/placement"
	"github.com/longshore-project/longshore/controlplane/scheduler/policy"
	"github.com/longshore-project/longshore/controlplane/store"
	"github.com/longshore-project/longshore/controlplane/task"
)

// A replicaWorld is a world whose service "agent" is a REPLICA one. Its tasks need 512 of a host's 1024 MiB.
type replicaWorld struct {
	*world
	revision int64
	resting  map[string]restingPlace // as a worker remembers them, by instance
}

func newReplicaWorld(t tester, hosts int) *replicaWorld {
	return &replicaWorld{world: newWorld(t, hosts)}
}

func replicas(n int32, change ...func(*types.Service)) func(*types.Service) {
	return func(s *types.Service) {
		s.SchedulingStrategy, s.DesiredCount = types.SchedulingStrategyReplica, n
		s.DeploymentConfiguration = &types.DeploymentConfiguration{MaximumPercent: aws.Int32(200), MinimumHealthyPercent: aws.Int32(100)}
		for _, f := range change {
			f(s)
		}
	}
}

func percents(minimum, maximum int32) func(*types.Service) {
	return func(s *types.Service) {
		s.DeploymentConfiguration.MinimumHealthyPercent, s.DeploymentConfiguration.MaximumPercent = aws.Int32(minimum), aws.Int32(maximum)
	}
}

func (w *replicaWorld) scale(n int32) {
	svc := *w.svc
	svc.Object.DesiredCount = n
	w.svc = &svc
}

// inZone puts a host into an availability zone.
func (w *replicaWorld) inZone(id, zone string) {
	inst := *w.hosts[id].inst
	inst.Object.Attributes = append(slices.Clone(inst.Object.Attributes), types.Attribute{Name: aws.String("ecs.availability-zone"), Value: aws.String(zone)})
	w.hosts[id].inst = &inst
}

// size changes what a host registered with.
func (w *replicaWorld) size(id string, memory int32) {
	inst := *w.hosts[id].inst
	inst.Object.RegisteredResources = []types.Resource{{Name: aws.String("CPU"), IntegerValue: 4096}, {Name: aws.String("MEMORY"), IntegerValue: memory}}
	w.hosts[id].inst = &inst
}

// written gives a record the revision that the store would.
func written(r any, revision int64) {
	f := reflect.ValueOf(r).Elem().FieldByName("Meta").FieldByName("revision")
	*(*int64)(unsafe.Pointer(f.UnsafeAddr())) = revision
}

func (w *replicaWorld) snapshot() snapshot {
	for _, t := range w.tasks {
		if t.Revision() == 0 {
			w.revision++
			written(t, w.revision)
		}
	}
	s := w.world.snapshot()
	hosts, zones := s.hosts, map[string]int{}
	s.hosts = nil
	for _, h := range hosts {
		zones[zone(h)]++
	}
	s.lostAfter = policy.LostAfter(nil, w.svc.Object.Tags)
	s.room = func() ([]*placement.Host, time.Time) { return hosts, time.Time{} }
	s.zones = func() map[string]int { return zones }
	s.find = func(id string) *placement.Host {
		for _, h := range hosts {
			if h.Instance.ID == id {
				return h
			}
		}
		return nil
	}
	return s
}

// replace is the next version of a task's record.
func (w *replicaWorld) replace(n *store.Task) {
	w.revision++
	written(n, w.revision)
	w.world.replace(n)
}

// report has the agents report, each change at a revision of its own.
func (w *replicaWorld) report() bool {
	before := map[string]*store.Task{}
	for _, t := range w.tasks {
		before[t.ID] = t
	}
	changed := w.world.report()
	for _, t := range w.tasks {
		if before[t.ID] != t {
			w.revision++
			written(t, w.revision)
		}
	}
	return changed
}

// counts of the service's tasks.
func (w *replicaWorld) counts() (wanted, well, stopping int) {
	r := &replicaPass{pass: newPass(w.snapshot(), &w.cfg)}
	if r.readDeployments() != nil {
		return 0, 0, 0
	}
	r.limits()
	r.classify()
	return len(r.replicas), r.count(isHealthy), r.stopping
}

// pass reconciles once and applies the plan, checking what must hold for every plan.
func (w *replicaWorld) pass() *plan {
	w.t.Helper()
	r := &replicaPass{pass: newPass(w.snapshot(), &w.cfg)}
	r.limits()
	_, before, _ := w.counts()
	p := reconcile(w.snapshot(), &w.cfg)
	w.last = p
	if p.problem != nil {
		w.t.Fatalf("the service can't be scheduled: %v", p.problem)
	}
	w.compareWithResting(p)
	defer w.rest(w.snapshot(), p)
	if p.service != nil {
		w.svc = p.service
		w.revision++
		written(w.svc, w.revision)
	}
	for _, s := range p.stops {
		w.replace(s)
	}
	if wanted, after, _ := w.counts(); before >= r.lower && after < r.lower {
		w.t.Fatalf("never below minimumHealthyPercent by our own doing: %d of %d are healthy, %d must be, and %d were before; events: %s", after, wanted, r.lower, before, w.history())
	}
	for _, s := range p.starts {
		h := w.host(s.task.Instance)
		if h.Free.CPU < s.task.Reserved.CPU || h.Free.Memory < s.task.Reserved.Memory {
			w.t.Fatalf("never over capacity: %s has %+v free and gets %+v", s.task.Instance, h.Free, s.task.Reserved)
		}
		if *h.Instance.Object.Status != active || !h.Connected {
			w.t.Fatalf("never a task on an instance that can't take it: %s is %s, connected %t", s.task.Instance, *h.Instance.Object.Status, h.Connected)
		}
		w.tasks = append(w.tasks, s.task)
	}
	if wanted, _, _ := w.counts(); len(p.starts) > 0 && wanted > r.upper {
		w.t.Fatalf("never more than maximumPercent: %d tasks are wanted, %d may be; events: %s", wanted, r.upper, w.history())
	}
	for _, n := range p.unprepares {
		delete(w.preparations, n.Instance)
	}
	for _, n := range p.prepares {
		w.preparations[n.Instance] = n
	}
	for _, message := range p.events {
		w.events = append(w.events, types.ServiceEvent{Message: aws.String(message), CreatedAt: aws.Time(w.now)})
	}
	if again := reconcile(w.snapshot(), &w.cfg); !again.empty() {
		w.t.Fatalf("a second pass changes nothing: it made %d stops, %d starts, %q, record\n%s\nafter\n%s; events: %s", len(again.stops), len(again.starts), again.events, show(again.service), show(w.svc), w.history())
	}
	return p
}

func (w *replicaWorld) settle() {
	w.t.Helper()
	for range 300 {
		p := w.pass()
		if !w.report() && p.empty() {
			return
		}
	}
	w.t.Fatalf("it converges: after 300 rounds there is still something to do; events: %s", w.history())
}

func (w *replicaWorld) after(d time.Duration) {
	w.t.Helper()
	end := w.now.Add(d)
	for range 10000 {
		next := end
		if w.last != nil && !w.last.wake.IsZero() && w.last.wake.Before(end) && w.last.wake.After(w.now) {
			next = w.last.wake
		}
		w.now = next
		w.settle()
		if !w.now.Before(end) {
			return
		}
	}
	w.t.Fatalf("it does not spin: it asked to be woken 10000 times within %s", d)
}

// where counts the wanted tasks on each host: "host-1:2 host-2:1".
func (w *replicaWorld) where() string {
	n := map[string]int{}
	for _, t := range w.tasks {
		if t.Service == "agent" && task.Wanted(t) && !task.IsStopped(t) {
			n[t.Instance]++
		}
	}
	out := ""
	for _, id := range slices.Sorted(maps.Keys(n)) {
		out += fmt.Sprintf(" %s:%d", id, n[id])
	}
	return out
}

// revisions counts the wanted tasks of each revision of the definition: "1:2 2:2".
func (w *replicaWorld) revisions() string {
	n := map[string]int{}
	for _, t := range w.tasks {
		if t.Service == "agent" && task.Wanted(t) && !task.IsStopped(t) {
			n[revisionOf(t)]++
		}
	}
	out := ""
	for _, r := range slices.Sorted(maps.Keys(n)) {
		out += fmt.Sprintf(" %s:%d", r, n[r])
	}
	return out
}

// health has the agents report the health of a task.
func (w *replicaWorld) health(t *store.Task, s types.HealthStatus) {
	if n, ok := task.SetHealth(t, &w.defs[*t.Object.TaskDefinitionArn].Object, map[string]types.HealthStatus{"agent": s}); ok {
		w.replace(n)
	}
}

// wanted are the wanted tasks, in order of age.
func (w *replicaWorld) wanted() (tasks []*store.Task) {
	for _, t := range w.tasks {
		if t.Service == "agent" && task.Wanted(t) && !task.IsStopped(t) {
			tasks = append(tasks, t)
		}
	}
	return tasks
}
