package scheduler

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"

	"github.com/longshore-project/longshore/controlplane/network"
	"github.com/longshore-project/longshore/controlplane/scheduler/placement"
	"github.com/longshore-project/longshore/controlplane/store"
	"github.com/longshore-project/longshore/controlplane/task"
)

// The statuses of services, deployments and instances.
const (
	active   = "ACTIVE"
	draining = "DRAINING"
	inactive = "INACTIVE"
	primary  = "PRIMARY"
)

// snapshot is all that a decision about a service is made from.
type snapshot struct {
	service     *store.Service
	definitions map[string]*store.TaskDefinition // of its deployments, by ARN
	hosts       []*placement.Host                // of the cluster, INACTIVE ones excluded, by id
	tasks       []*store.Task                    // of the service, STOPPED ones included
	daemon      func(service string) bool        // whether a service of the cluster is a DAEMON service
	away        func(id string) time.Time        // since when an instance that is not connected was seen so
	said        func(message string) bool        // whether an event that begins like this was made in the last six hours
	now         time.Time
	revision    int64 // of the view
	// Of a DAEMON service: what is to be known of the instances that are not in hosts, since they rest; which instances its
	// roll-out has reached, nil: that is to be made out; and which of these are gone.
	calm    calm
	next    func() string // the first of those that no wave has reached; empty: there is none
	inWaves map[string]bool
	gone    map[string]bool
	// Of a REPLICA service: how many healthy tasks of its only deployment there are beside those in tasks, where, and one of them.
	resting      int
	restingZones map[string]int
	oneResting   *store.Task
	// preparations of the service, by instance.
	preparations map[string]*store.Preparation

	// Of a REPLICA service, which looks at no host that it need not:
	find  func(id string) *placement.Host                  // a host, nil when it is INACTIVE
	room  func() (hosts []*placement.Host, wake time.Time) // as they are for tasks that are no daemons, and when the first gate opens
	zones func() map[string]int                            // how many hosts are in each availability zone
	// line is a picker that is kept, of the hosts as they are in room; nil: there is none.
	line func(*placement.Request, []types.PlacementStrategy) (*placement.Picker, time.Time)
	// lostAfter is how long tasks of an instance whose agent is away count; 0: as long as it is registered.
	lostAfter time.Duration
}

// plan is a decision.
type plan struct {
	service *store.Service // the changed record; nil: it stays
	stops   []*store.Task  // changed records
	starts  []start
	moves   []*store.Task // changed records of other services' tasks, which are to make room
	// prepares are preparations to be written, unprepares those to be deleted.
	prepares, unprepares []*store.Preparation
	events               []string
	wake                 time.Time       // when to look again though nothing changed; zero: never
	waits                map[string]bool // instances on which any change of tasks or resources matters
	network              bool            // an address that comes free anywhere matters
	problem              error           // why nothing could be decided
	rests                map[string]rest // places that the next looks may leave out
	all                  bool            // nothing was decided: tasks at rest have to be looked at too
	more                 int             // nothing was decided: so many more places have to be looked at that no wave has reached
}

type start struct {
	host *placement.Host
	task *store.Task
}

// empty tells whether there is nothing to be done now.
func (p *plan) empty() bool {
	return p.service == nil && len(p.stops) == 0 && len(p.starts) == 0 && len(p.moves) == 0 && len(p.events) == 0 &&
		len(p.prepares) == 0 && len(p.unprepares) == 0
}

// reconcile decides about a service. It is pure but for the ids of the tasks it makes.
func reconcile(s snapshot, cfg *Config) *plan {
	p := newPass(s, cfg)
	switch aws.ToString(s.service.Object.Status) {
	case draining:
		p.drain()
		p.forgetPreparations()
	case active:
		if p.plan.problem = p.readDeployments(); p.plan.problem != nil || p.takeAdopted() {
			return p.plan
		}
		if s.service.Object.SchedulingStrategy != types.SchedulingStrategyDaemon {
			p.replicate()
			break
		}
		p.notYet(p.calm.until)
		p.locate()
		p.countFailures()
		if p.breakCircuit(p.desired()) { // with another PRIMARY, from the beginning
			if p.plan.all = p.calm.belong() > 0; p.plan.all {
				return p.plan
			}
			if p.plan.problem = p.readDeployments(); p.plan.problem != nil {
				return p.plan
			}
			p.locate()
			p.countFailures()
		}
		p.handOver()
		p.evict()
		p.rollOut()
		p.start()
		p.forgetPreparations()
		p.complain()
		p.settle()
		p.plan.rests = p.restful()
	}
	if !reflect.DeepEqual(p.svc, s.service) {
		p.plan.service = p.svc
	}
	return p.plan
}

// A pass is one decision being made.
type pass struct {
	snapshot
	cfg  *Config
	name string
	svc  *store.Service // a copy, as it will be
	plan *plan

	primary  *deployment
	older    []*deployment // newest first
	base     *deployment   // of the older ones that which is kept up where no wave has been; nil: the primary goes everywhere
	places   []*place
	refusals []*placement.Refusal // why tasks could not be placed
	later    []*placement.Refusal // why tasks could not be replaced in the wave that this pass begins
	spare    int                  // how many healthy tasks may be stopped for the roll-out
	rooms    map[string]bool      // places where room was to be made, and whether there will be
	waiting  map[string]bool      // places whose old task runs until the images of the new one are there
	trying   map[string]bool      // places where the deployment before is tried
}

// A deployment of the service, ready to place tasks.
type deployment struct {
	id     string
	object types.Deployment
	def    *store.TaskDefinition
	req    *placement.Request
}

// A place is the service on one instance.
type place struct {
	host    *placement.Host
	id      string
	task    *store.Task // the one that is not STOPPED; nil: none
	old     *store.Task // another one that is not, beside which task was started, or that was started beside it and stops; nil: none
	of      *deployment // whose task it is; nil: of none that the service has
	last    *store.Task // the newest, STOPPED or not
	belongs bool
	target  *deployment // what should run here
}

func (pl *place) runs() bool { return pl.task != nil && task.Wanted(pl.task) }

// healthy tells whether the task that is there does what it should.
func (pl *place) healthy() bool {
	return pl.runs() && pl.of != nil && task.Healthy(pl.task, &pl.of.def.Object)
}

func newPass(s snapshot, cfg *Config) *pass {
	svc := *s.service
	svc.Object.Deployments = slices.Clone(s.service.Object.Deployments)
	svc.Rollouts, svc.Failures = maps.Clone(s.service.Rollouts), maps.Clone(s.service.Failures)
	s.preparations = maps.Clone(s.preparations)
	if s.preparations == nil {
		s.preparations = map[string]*store.Preparation{}
	}
	return &pass{snapshot: s, cfg: cfg, name: aws.ToString(s.service.Object.ServiceName), svc: &svc, plan: &plan{waits: map[string]bool{}}, waiting: map[string]bool{}, rooms: map[string]bool{}, trying: map[string]bool{}}
}

// readDeployments finds the service's deployments and compiles what they need.
func (p *pass) readDeployments() error {
	p.primary, p.older, p.base = nil, nil, nil
	for i := range p.svc.Object.Deployments {
		object := p.svc.Object.Deployments[i]
		d := &deployment{id: aws.ToString(object.Id), object: object, def: p.definitions[aws.ToString(object.TaskDefinition)]}
		if d.def == nil {
			return fmt.Errorf("deployment %s: task definition %s can't be found", d.id, aws.ToString(object.TaskDefinition))
		}
		var err error
		if d.req, err = placement.ForService(p.cfg.Network, p.svc, d.def, d.object.NetworkConfiguration); err != nil {
			return fmt.Errorf("deployment %s: %w", d.id, err)
		}
		if aws.ToString(object.Status) == primary {
			p.primary = d
		} else {
			p.older = append(p.older, d)
		}
	}
	if p.primary == nil {
		return fmt.Errorf("none of its %d deployments is PRIMARY", len(p.older))
	}
	slices.SortStableFunc(p.older, func(a, b *deployment) int {
		return aws.ToTime(b.object.CreatedAt).Compare(aws.ToTime(a.object.CreatedAt))
	})
	for _, d := range p.older {
		if p.base == nil || p.base.object.RolloutState != types.DeploymentRolloutStateCompleted && d.object.RolloutState == types.DeploymentRolloutStateCompleted {
			p.base = d
		}
	}
	return nil
}

func (p *pass) deployment(id string) *deployment {
	if id == p.primary.id {
		return p.primary
	}
	for _, d := range p.older {
		if d.id == id {
			return d
		}
	}
	return nil
}

// locate finds the service's tasks on the hosts, and where it belongs.
func (p *pass) locate() {
	p.places, p.refusals, p.later = nil, nil, nil
	at := make(map[string]*place, len(p.hosts))
	for _, h := range p.hosts {
		pl := &place{host: h, id: h.Instance.ID}
		at[pl.id] = pl
		p.places = append(p.places, pl)
	}
	for _, t := range p.tasks {
		pl := at[t.Instance]
		if pl == nil {
			continue
		}
		switch {
		case task.IsStopped(t):
		case pl.task != nil:
			pl.pair(t)
			pl.of = p.deployment(pl.task.Deployment)
		default:
			pl.task, pl.of = t, p.deployment(t.Deployment)
		}
		if pl.last == nil || newer(t, pl.last) {
			pl.last = t
		}
	}
	tried := p.failedBesides()
	for _, pl := range p.places {
		p.lastBeside(pl, tried)
		var refusal *placement.Refusal
		host := pl.host
		if pl.old != nil {
			host = host.Without(pl.old)
		}
		pl.belongs, refusal = belongs(p.primary.req, host, pl.task)
		if refusal != nil && refusal.Reason == placement.ReasonAttribute && (pl.of != p.primary || !pl.runs()) {
			p.refuse(pl, refusal)
		}
	}
}

// newer tells whether a was made after b. One that is not STOPPED always was; of two that are, the one whose end was
// written later, whatever the clocks said.
func newer(a, b *store.Task) bool {
	switch {
	case task.IsStopped(a) != task.IsStopped(b):
		return !task.IsStopped(a)
	case a.Revision() != b.Revision():
		return a.Revision() > b.Revision()
	}
	return !aws.ToTime(a.Object.CreatedAt).Before(aws.ToTime(b.Object.CreatedAt))
}

// belongs tells whether a service, with its task own (nil: none) on h, belongs there, and if not, why. The refusal comes
// with true too, where a task may stay though none could be started.
func belongs(req *placement.Request, h *placement.Host, own *store.Task) (bool, *placement.Refusal) {
	runs := own != nil && task.Wanted(own)
	if runs && !own.AdoptedAt.IsZero() {
		return true, nil // what the instance was told by attributes may be forgotten
	}
	if aws.ToString(h.Instance.Object.Status) != active {
		return false, nil
	}
	if !h.Connected && runs {
		return true, nil
	}
	if r := req.Satisfies(h, own); r != nil {
		return false, r
	}
	if r := req.HasAttributes(h); r != nil {
		return runs, r
	}
	return true, nil
}

// DaemonDesired is the number of instances that a DAEMON service belongs on now: its desiredCount.
func DaemonDesired(v *store.View, net *network.Network, svc *store.Service) int32 {
	def := placement.Definition(v, aws.ToString(svc.Object.TaskDefinition))
	if def == nil {
		return 0
	}
	req, err := placement.ForService(net, svc, def, svc.Object.NetworkConfiguration)
	if err != nil {
		return 0
	}
	own := map[string]*store.Task{}
	for t := range v.LiveOf(svc.Cluster, aws.ToString(svc.Object.ServiceName)) {
		if had := own[t.Instance]; had == nil || task.Wanted(t) {
			own[t.Instance] = t
		}
	}
	var n int32
	for _, h := range placement.HostsForDaemons(v, svc.Cluster) {
		t := own[h.Instance.ID]
		if ok, _ := belongs(req, h, t); ok || remains(h, t) {
			n++
		}
	}
	return n
}

// remains tells whether the task still runs on an instance that is being drained.
func remains(h *placement.Host, t *store.Task) bool {
	return t != nil && task.Wanted(t) && aws.ToString(h.Instance.Object.Status) == draining
}

// drain stops the tasks of a deleted service. It is INACTIVE when they are STOPPED; a task that can't be reached, because
// its host is away, has been told to stop and does not keep the service.
func (p *pass) drain() {
	hosts := map[string]*placement.Host{}
	for _, h := range p.hosts {
		hosts[h.Instance.ID] = h
	}
	left := 0
	for _, t := range p.tasks {
		if task.IsStopped(t) {
			continue
		}
		if stopped := task.Stop(t, types.TaskStopCodeServiceSchedulerInitiated, task.Deployed(t.Deployment), p.now); stopped != nil {
			p.plan.stops = append(p.plan.stops, stopped)
			left++
		} else if h := hosts[t.Instance]; h != nil && h.Connected {
			left++
		}
	}
	p.svc.Object.DesiredCount = 0
	if left == 0 {
		p.svc.Object.Status = aws.String(inactive)
		p.svc.InactiveSince = p.now
		p.svc.Object.Deployments = []types.Deployment{}
		p.svc.Rollouts, p.svc.Failures, p.svc.SteadySince = nil, nil, time.Time{}
	}
}

// evict stops what should not run where it is.
func (p *pass) evict() {
	for _, pl := range p.places {
		if !pl.runs() {
			continue
		}
		switch {
		case aws.ToString(pl.host.Instance.Object.Status) == draining:
			p.evictDraining(pl)
		case pl.of == nil:
			p.stop(pl, task.Deployed(p.primary.id))
		case !pl.belongs:
			refusal := p.primary.req.Satisfies(pl.host, pl.task)
			why := "the container instance is " + aws.ToString(pl.host.Instance.Object.Status)
			if refusal != nil {
				why = refusal.Detail
			}
			p.say("(service %s) (task %s) was stopped because (container-instance %s) no longer satisfies the placement constraints: %s.", p.name, pl.task.ID, pl.id, why)
			p.stop(pl, "Container instance "+pl.id+" no longer satisfies the placement constraints of the service: "+why)
		case pl.host.Connected && pl.task.Object.HealthStatus == types.HealthStatusUnhealthy && task.Checked(&pl.of.def.Object) && !p.inGrace(pl.task):
			p.say("(service %s) (task %s) failed container health checks.", p.name, pl.task.ID)
			p.stop(pl, task.ReasonUnhealthy)
		}
	}
}

// evictDraining stops a daemon on an instance that is being drained, after every other task there; the instance's own agent does where it
// is what drains it.
func (p *pass) evictDraining(pl *place) {
	if !task.Starting(pl.task) && pl.host.Instance.DrainedItself {
		p.plan.waits[pl.id] = true
		return
	}
	if !task.Starting(pl.task) {
		for _, t := range pl.host.Tasks {
			if !task.IsStopped(t) && (t.Service == "" || !p.daemon(t.Service)) {
				p.plan.waits[pl.id] = true
				return
			}
		}
	}
	p.stop(pl, "Container instance "+pl.id+" is draining")
}

// inGrace tells whether a task's health checks don't count yet.
func (p *pass) inGrace(t *store.Task) bool {
	grace := time.Duration(aws.ToInt32(p.svc.Object.HealthCheckGracePeriodSeconds)) * time.Second
	if grace <= 0 || t.Object.StartedAt == nil {
		return false
	}
	return p.notYet(t.Object.StartedAt.Add(grace))
}

func (p *pass) stop(pl *place, reason string) {
	if t := task.Stop(pl.task, types.TaskStopCodeServiceSchedulerInitiated, reason, p.now); t != nil {
		pl.task = t
		p.plan.stops = append(p.plan.stops, t)
	}
}

// start starts a task wherever one is missing.
func (p *pass) start() {
	for _, pl := range p.places {
		surge := pl.target == p.primary && p.asked(pl)
		if !pl.belongs || pl.task != nil && !surge || pl.target == nil {
			continue
		}
		if !pl.host.Connected {
			if !p.notYet(p.away(pl.id).Add(p.cfg.AgentGrace)) {
				p.refuse(pl, pl.target.req.Check(pl.host))
			}
			continue
		}
		if pl.target.object.RolloutState == types.DeploymentRolloutStateFailed {
			continue // its circuit breaker has ended it
		}
		if f := p.failure(pl, pl.target); f.Count > 0 && p.notYet(f.NotBefore) {
			continue
		}
		if surge && p.beside(pl) && !p.prepared(pl) {
			continue
		}
		interfaces, refusal := pl.target.req.Take(pl.host)
		if refusal != nil {
			if surge { // the old one stays, until there is room or the roll-out stops it first
				p.plan.waits[pl.id] = true
				continue
			}
			p.refuse(pl, refusal)
			p.makeRoom(pl, pl.target.req)
			continue
		}
		made := task.ForService(p.svc, &pl.target.object, pl.target.def, pl.host.Instance, p.now)
		made.Interfaces = interfaces
		t, err := task.New(made)
		if err != nil {
			p.plan.problem = err
			continue
		}
		t.Reserved.GPUs = pl.host.GPUs(&pl.target.def.Object, nil)
		if surge {
			t.Beside, pl.old = pl.task.ID, pl.task
		}
		pl.task, pl.of, pl.last = t, pl.target, t
		p.plan.starts = append(p.plan.starts, start{pl.host, t})
	}
}

// refuse notes why no task could be placed, and that any change there is to be looked at.
func (p *pass) refuse(pl *place, r *placement.Refusal) {
	if r != nil {
		p.refusals = append(p.refusals, r)
		p.plan.waits[pl.id] = true
		p.plan.network = p.plan.network || r.OfNetwork()
	}
}

// complain tells why tasks could not be placed or replaced: once for all of them, and not again while ECS's part of the text is
// the same. What only the begin of a wave tells is apart from what each pass does.
func (p *pass) complain() {
	for _, refusals := range [][]*placement.Refusal{p.refusals, p.later} {
		if len(refusals) == 0 {
			continue
		}
		message := placement.Event(p.name, refusals)
		same := strings.TrimSuffix(message, placement.Explain(refusals))
		if !p.said(same) && !slices.ContainsFunc(p.plan.events, func(e string) bool { return strings.HasPrefix(e, same) }) {
			p.say("%s", message)
		}
		p.complainHostByHost(refusals)
	}
}

func (p *pass) say(format string, args ...any) {
	p.plan.events = append(p.plan.events, fmt.Sprintf(format, args...))
}

// sayOnce says what is not said again within six hours.
func (p *pass) sayOnce(format string, args ...any) {
	if message := fmt.Sprintf(format, args...); !p.said(message) && !slices.Contains(p.plan.events, message) {
		p.plan.events = append(p.plan.events, message)
	}
}

// notYet tells whether t is in the future, and has the service looked at again then.
func (p *pass) notYet(t time.Time) bool {
	if !t.After(p.now) {
		return false
	}
	if p.plan.wake.IsZero() || t.Before(p.plan.wake) {
		p.plan.wake = t
	}
	return true
}
