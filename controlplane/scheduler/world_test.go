package scheduler

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"

	"github.com/longshore-project/longshore/controlplane/scheduler/placement"
	"github.com/longshore-project/longshore/controlplane/store"
	"github.com/longshore-project/longshore/controlplane/store/storetest"
	"github.com/longshore-project/longshore/controlplane/task"
)

func TestMain(m *testing.M) { storetest.Main(m) }

const arnPrefix = "arn:aws:ecs:us-west-2:123456789012:"

// testing.TB and rapid.T.
type tester interface {
	Helper()
	Fatalf(string, ...any)
	Errorf(string, ...any)
}

// A world is a cluster with one DAEMON service, in memory: it makes snapshots, applies plans and plays the agents.
type world struct {
	t      tester
	cfg    Config
	now    time.Time
	svc    *store.Service
	defs   map[string]*store.TaskDefinition
	hosts  map[string]*worldHost
	tasks  []*store.Task
	events []types.ServiceEvent
	others map[string]bool // names of further services: whether they are DAEMON services
	last   *plan
	// deployed counts the deployments.
	deployed int

	// agents decide what becomes of a task that is to run: RUNNING, STOPPED (it fails) or "" (nothing yet). Default RUNNING.
	agents func(t *store.Task) string
	// preparations of images, by instance; images says what becomes of one: READY, FAILED or "" (nothing yet).
	preparations map[string]*store.Preparation
	images       func(p *store.Preparation) string
	// rests are the places that rest, as a worker remembers them, and rested what they were then, by instance.
	rests  *rests
	rested map[string]restingPlace
	looked int // hosts that a worker's looks would have had to do with
	// stubborn tasks do not stop.
	stubborn map[string]bool
}

type worldHost struct {
	inst      *store.Instance
	connected bool
	away      time.Time // since when it is not connected
}

func newWorld(t tester, hosts int) *world {
	w := &world{
		t: t, cfg: Config{}.withDefaults(), now: time.Date(2026, 11, 20, 8, 0, 0, 0, time.UTC),
		defs: map[string]*store.TaskDefinition{}, hosts: map[string]*worldHost{}, others: map[string]bool{}, stubborn: map[string]bool{},
		preparations: map[string]*store.Preparation{},
	}
	for i := range hosts {
		w.join(fmt.Sprintf("host-%d", i+1))
	}
	return w
}

func (w *world) join(id string) *worldHost {
	h := &worldHost{connected: true, inst: &store.Instance{Cluster: "c", ID: id, Object: types.ContainerInstance{
		ContainerInstanceArn: aws.String(arnPrefix + "container-instance/c/" + id), Status: aws.String(active), RegisteredAt: aws.Time(w.now),
		Attributes: []types.Attribute{{Name: aws.String("env"), Value: aws.String("prod")}},
		RegisteredResources: []types.Resource{
			{Name: aws.String("CPU"), IntegerValue: 1024}, {Name: aws.String("MEMORY"), IntegerValue: 1024},
		},
	}}}
	w.hosts[id] = h
	return h
}

func (w *world) connect(id string, connected bool) {
	w.hosts[id].connected, w.hosts[id].away = connected, w.now
}

func (w *world) setAttribute(id, value string) {
	inst := *w.hosts[id].inst
	inst.Object.Attributes = []types.Attribute{{Name: aws.String("env"), Value: aws.String(value)}}
	w.hosts[id].inst = &inst
}

func (w *world) setStatus(id, status string) {
	inst := *w.hosts[id].inst
	inst.Object.Status = aws.String(status)
	w.hosts[id].inst = &inst
}

// define makes the next revision of the definition, which needs 512 MiB.
func (w *world) define(change ...func(*types.TaskDefinition)) string {
	revision := int32(len(w.defs) + 1)
	arn := fmt.Sprintf("%stask-definition/agent:%d", arnPrefix, revision)
	def := &store.TaskDefinition{Object: types.TaskDefinition{
		TaskDefinitionArn: aws.String(arn), Family: aws.String("agent"), Revision: revision,
		ContainerDefinitions: []types.ContainerDefinition{{Name: aws.String("agent"), Image: aws.String("agent"), Essential: aws.Bool(true), Cpu: 100, Memory: aws.Int32(512)}},
	}}
	for _, f := range change {
		f(&def.Object)
	}
	w.defs[arn] = def
	return arn
}

func healthChecked(d *types.TaskDefinition) {
	d.ContainerDefinitions[0].HealthCheck = &types.HealthCheck{Command: []string{"CMD", "true"}}
}

// create makes the service.
func (w *world) create(arn string, change ...func(*types.Service)) {
	w.svc = &store.Service{Cluster: "c", Object: types.Service{
		ServiceName: aws.String("agent"), Status: aws.String(active), SchedulingStrategy: types.SchedulingStrategyDaemon, CreatedAt: aws.Time(w.now),
		DeploymentConfiguration: &types.DeploymentConfiguration{MaximumPercent: aws.Int32(100), MinimumHealthyPercent: aws.Int32(0)},
	}}
	for _, f := range change {
		f(&w.svc.Object)
	}
	w.deploy(arn)
}

// deploy is UpdateService with a task definition.
func (w *world) deploy(arn string) {
	svc := *w.svc
	w.deployed++
	id := fmt.Sprintf("ecs-svc/%d", w.deployed)
	deployments := []types.Deployment{{
		Id: aws.String(id), Status: aws.String(primary), TaskDefinition: aws.String(arn), CreatedAt: aws.Time(w.now), UpdatedAt: aws.Time(w.now),
		RolloutState: types.DeploymentRolloutStateInProgress,
	}}
	for _, d := range svc.Object.Deployments {
		d.Status = aws.String(active)
		deployments = append(deployments, d)
	}
	svc.Object.Deployments = deployments
	svc.Object.TaskDefinition = aws.String(arn)
	w.svc = &svc
}

func (w *world) live(host string) (tasks []*store.Task) {
	for _, t := range w.tasks {
		if t.Instance == host && !task.IsStopped(t) {
			tasks = append(tasks, t)
		}
	}
	return tasks
}

// own is the service's task on a host, nil when there is none.
func (w *world) own(host string) *store.Task {
	for _, t := range w.live(host) {
		if t.Service == "agent" {
			return t
		}
	}
	return nil
}

// daemons are the service's tasks on a host.
func (w *world) daemons(host string) []*store.Task {
	return slices.DeleteFunc(w.live(host), func(t *store.Task) bool { return t.Service != "agent" })
}

// besides tells whether a task was started beside an older one of another deployment.
func besides(old, n *store.Task) bool { return n.Beside == old.ID && n.Deployment != old.Deployment }

func (w *world) host(id string) *placement.Host {
	h, alloc := w.hosts[id], &store.Allocation{Cluster: "c", Instance: id, Tasks: map[string]store.Resources{}}
	for _, t := range w.live(id) {
		alloc.Tasks[t.ID] = t.Reserved
	}
	return placement.NewHost(h.inst, alloc, h.connected, w.live(id))
}

func (w *world) snapshot() snapshot {
	s := snapshot{
		service: w.svc, definitions: w.defs, now: w.now, preparations: w.preparations,
		daemon: func(name string) bool { return name == "agent" || w.others[name] },
		away:   func(id string) time.Time { return w.hosts[id].away },
		said: func(message string) bool {
			return slices.ContainsFunc(w.events, func(e types.ServiceEvent) bool {
				return strings.HasPrefix(*e.Message, message) && w.now.Sub(*e.CreatedAt) < silence
			})
		},
	}
	for _, id := range slices.Sorted(maps.Keys(w.hosts)) {
		s.hosts = append(s.hosts, w.host(id))
	}
	for _, t := range w.tasks {
		if t.Service == "agent" {
			s.tasks = append(s.tasks, t)
		}
	}
	return s
}

// pass reconciles once and applies the plan, checking what must hold for every plan.
func (w *world) pass() *plan {
	w.t.Helper()
	p := reconcile(w.snapshot(), &w.cfg)
	w.last = p
	if p.problem != nil {
		w.t.Fatalf("the service can't be scheduled: %v", p.problem)
	}
	if aws.ToString(w.svc.Object.Status) == active {
		w.compareWithResting(p)
	}
	if p.service != nil {
		w.svc = p.service
	}
	for _, s := range p.stops {
		w.replace(s)
	}
	for _, m := range p.moves {
		w.replace(m)
	}
	for _, s := range p.starts {
		if others := w.daemons(s.task.Instance); len(others) > 1 || len(others) == 1 && !besides(others[0], s.task) {
			w.t.Fatalf("never two daemons of a service on an instance, but for an old and a new one on request: %s has %d, the first %s, and gets %s", s.task.Instance, len(others), others[0].ID, s.task.ID)
		}
		h := w.host(s.task.Instance)
		if h.Free.CPU < s.task.Reserved.CPU || h.Free.Memory < s.task.Reserved.Memory {
			w.t.Fatalf("never over capacity: %s has %+v free and gets %+v", s.task.Instance, h.Free, s.task.Reserved)
		}
		if *h.Instance.Object.Status != active || !h.Connected {
			w.t.Fatalf("never a task on an instance that can't take it: %s is %s, connected %t", s.task.Instance, *h.Instance.Object.Status, h.Connected)
		}
		w.tasks = append(w.tasks, s.task)
	}
	for _, r := range p.unprepares {
		delete(w.preparations, r.Instance)
	}
	for _, r := range p.prepares {
		w.preparations[r.Instance] = r
	}
	for _, message := range p.events {
		w.events = append(w.events, types.ServiceEvent{Message: aws.String(message), CreatedAt: aws.Time(w.now)})
	}
	if again := reconcile(w.snapshot(), &w.cfg); !again.empty() {
		w.t.Fatalf("a second pass changes nothing: it made %d stops, %d starts, %q, record\n%s\nafter\n%s", len(again.stops), len(again.starts), again.events, show(again.service), show(w.svc))
	}
	return p
}

func show(svc *store.Service) string {
	if svc == nil {
		return "unchanged"
	}
	var deployments []string
	for _, d := range svc.Object.Deployments {
		deployments = append(deployments, fmt.Sprint(*d.Id, " ", *d.Status, " ", d.RolloutState, " ", aws.ToString(d.RolloutStateReason), " failed ", d.FailedTasks))
	}
	return fmt.Sprintf("%s, desired %d, %q, rollouts %+v, failures %+v, steady since %s", *svc.Object.Status, svc.Object.DesiredCount, deployments, svc.Rollouts, svc.Failures, svc.SteadySince)
}

func (w *world) replace(n *store.Task) {
	for i, t := range w.tasks {
		if t.ID == n.ID {
			w.tasks[i] = n
		}
	}
}

// report has the connected agents do and report what they are to; whether anything changed.
func (w *world) report() (changed bool) {
	for id, r := range w.preparations {
		if h := w.hosts[id]; w.images == nil || h == nil || !h.connected || r.Status != "" {
			continue
		}
		if status := w.images(r); status != "" {
			n := *r
			n.Status, n.Reason = status, map[string]string{store.PreparationFailed: "no such image"}[status]
			w.preparations[id], changed = &n, true
		}
	}
	for _, t := range slices.Clone(w.tasks) {
		h := w.hosts[t.Instance]
		if h == nil || !h.connected || task.IsStopped(t) || w.stubborn[t.ID] {
			continue
		}
		status := task.Running
		if w.agents != nil {
			status = w.agents(t)
		}
		if !task.Wanted(t) {
			status = task.Stopped
		}
		if status == "" || status == task.LastStatus(t) {
			continue
		}
		change := task.StateChange{Status: status}
		if status == task.Stopped && task.Wanted(t) {
			change.Containers = []types.ContainerStateChange{{ContainerName: aws.String("agent"), Status: aws.String(task.Stopped), ExitCode: aws.Int32(1)}}
		}
		n, ok := task.Apply(t, change, w.now)
		if ok {
			w.replace(n)
			changed = true
		}
	}
	return changed
}

// settle lets scheduler and agents work until nothing happens without time passing.
func (w *world) settle() {
	w.t.Helper()
	for range 200 {
		p := w.pass()
		if !w.report() && p.empty() {
			return
		}
	}
	w.t.Fatalf("it converges: after 200 rounds there is still something to do")
}

// after lets time pass, in steps to each moment the scheduler asked for, and settles at each.
func (w *world) after(d time.Duration) {
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

// running are the revisions of the definitions that run on the hosts, in order: "2 2 1 -".
func (w *world) running() string {
	var out []string
	for _, id := range slices.Sorted(maps.Keys(w.hosts)) {
		t := w.own(id)
		switch {
		case t == nil:
			out = append(out, "-")
		case task.LastStatus(t) == task.Running && task.Wanted(t):
			out = append(out, revisionOf(t))
		default:
			out = append(out, "("+revisionOf(t)+")")
		}
	}
	return strings.Join(out, " ")
}

func revisionOf(t *store.Task) string {
	return revisionIn(aws.ToString(t.Object.TaskDefinitionArn))
}

func revisionIn(arn string) string { return arn[strings.LastIndexByte(arn, ':')+1:] }

func (w *world) expect(running string) {
	w.t.Helper()
	if got := w.running(); got != running {
		w.t.Fatalf("the hosts run %q, want %q; events: %s", got, running, w.history())
	}
}

func (w *world) history() string {
	var lines []string
	for _, e := range w.events {
		lines = append(lines, e.CreatedAt.Format("15:04:05 ")+*e.Message)
	}
	return "\n" + strings.Join(lines, "\n")
}

// told counts the events that contain text.
func (w *world) told(text string) (n int) {
	for _, e := range w.events {
		if strings.Contains(*e.Message, text) {
			n++
		}
	}
	return n
}

func (w *world) expectTold(n int, text string) {
	w.t.Helper()
	if got := w.told(text); got != n {
		w.t.Fatalf("told %q %d times, want %d; events: %s", text, got, n, w.history())
	}
}

func (w *world) expectSteady(t testing.TB) {
	t.Helper()
	o := w.svc.Object
	if len(o.Deployments) != 1 || o.Deployments[0].RolloutState != types.DeploymentRolloutStateCompleted || w.svc.SteadySince.IsZero() {
		t.Fatalf("the service is not steady: %d deployments, the first %s (%s), steady since %s; events: %s", len(o.Deployments), o.Deployments[0].RolloutState, aws.ToString(o.Deployments[0].RolloutStateReason), w.svc.SteadySince, w.history())
	}
}

func bad(revision string) func(*store.Task) string {
	return func(t *store.Task) string {
		if revisionOf(t) == revision {
			return task.Stopped
		}
		return task.Running
	}
}
