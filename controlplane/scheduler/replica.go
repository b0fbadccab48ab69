package scheduler

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"

	"github.com/longshore-project/longshore/controlplane/scheduler/placement"
	"github.com/longshore-project/longshore/controlplane/store"
	"github.com/longshore-project/longshore/controlplane/task"
)

// mostReplicas is how many surplus tasks of a REPLICA service one pass stops, and mostStarted how many it starts; the next
// pass follows at once.
const mostReplicas, mostStarted = 512, 2048

// reasonFailing refuses an instance on which tasks of the service failed, for a while.
const reasonFailing = "FAILING"

// A replica is one wanted task of a REPLICA service.
type replica struct {
	task  *store.Task
	of    *deployment     // nil: of none that the service has
	host  *placement.Host // nil: the instance is INACTIVE
	state health
	// stands is not 0 where this is one of that many tasks that are at rest.
	stands int
}

// health is how far a replica has come.
type health uint8

const (
	pending health = iota
	sick           // RUNNING, and its health checks fail
	warming        // RUNNING, and not yet known to be healthy
	healthy
)

// A replicaPass is a decision about a REPLICA service being made.
type replicaPass struct {
	*pass
	desired, lower, upper int
	target                *deployment // what is started; nil: nothing
	frozen                bool        // no task is replaced by another deployment's: the newest has FAILED and is not rolled back, or its images come first

	replicas []*replica // the wanted ones; those that this pass stops leave it
	stopping int        // tasks on connected instances that are to stop and have not
	started  int
	short    bool // more tasks are needed than could be placed
	gate     time.Time
	before   *placement.Picker // which has picked in this pass; nil: none has
	delayed  bool              // more are needed, and failures delay them
}

// replicate decides about an ACTIVE REPLICA service.
func (p *pass) replicate() {
	r := &replicaPass{pass: p}
	r.limits()
	r.classify()
	r.countEnds()
	if p.breakCircuit(r.desired) { // with another PRIMARY, from the beginning
		if p.plan.problem = p.readDeployments(); p.plan.problem != nil {
			return
		}
		r.classify()
		r.countEnds()
	}
	r.aim()
	if r.oversleeps() {
		p.plan.all = true
		return
	}
	r.stopPendingOnDraining()
	r.stopSurplus()
	r.stopReplaced()
	r.startMissing()
	if r.makeRoom() {
		r.startMissing()
	}
	r.complainOfRoom()
	r.settleReplicas()
	r.forgetAnswers()
	r.rebalance()
	p.plan.rests = r.restful()
}

// limits are those of the deployment configuration: minimumHealthyPercent rounded up, maximumPercent rounded down.
func (r *replicaPass) limits() {
	minimum, maximum := 100, 200
	if c := r.svc.Object.DeploymentConfiguration; c != nil {
		if c.MinimumHealthyPercent != nil {
			minimum = int(*c.MinimumHealthyPercent)
		}
		if c.MaximumPercent != nil {
			maximum = int(*c.MaximumPercent)
		}
	}
	r.desired = int(r.svc.Object.DesiredCount)
	r.lower = (r.desired*minimum + 99) / 100
	r.upper = max(r.desired*maximum/100, r.desired)
}

// classify looks at each task that is not STOPPED.
func (r *replicaPass) classify() {
	r.replicas, r.stopping = nil, 0
	for _, t := range r.tasks {
		if task.IsStopped(t) {
			continue
		}
		h := r.find(t.Instance)
		if !task.Wanted(t) {
			if h != nil && h.Connected {
				r.stopping++
			}
			continue
		}
		if r.lost(t, h) {
			continue
		}
		x := &replica{task: t, of: r.deployment(t.Deployment), host: h}
		x.state = r.healthOf(x)
		r.replicas = append(r.replicas, x)
	}
	if t := r.oneResting; r.resting > 0 && t != nil {
		r.replicas = append(r.replicas, &replica{task: t, of: r.deployment(t.Deployment), host: r.find(t.Instance), state: healthy, stands: r.resting})
	}
}

// healthOf is how far a task has come. Where nothing checks, a task counts as healthy when it has been RUNNING for
// HealthyAfter.
func (r *replicaPass) healthOf(x *replica) health {
	t := x.task
	checked := x.of == nil && t.Object.HealthStatus != types.HealthStatusUnknown || x.of != nil && task.Checked(&x.of.def.Object)
	switch {
	case task.LastStatus(t) != task.Running:
		return pending
	case !checked && r.notYet(aws.ToTime(t.Object.StartedAt).Add(r.cfg.HealthyAfter)):
		return warming
	case !checked || t.Object.HealthStatus == types.HealthStatusHealthy:
		return healthy
	case t.Object.HealthStatus == types.HealthStatusUnhealthy && x.host != nil && x.host.Connected && !r.inGrace(t):
		r.sayOnce("(service %s) (task %s) failed container health checks.", r.name, t.ID)
		return sick
	}
	return warming
}

// aim decides what is started.
func (r *replicaPass) aim() {
	r.target, r.frozen = r.primary, false
	if r.object(r.primary).RolloutState == types.DeploymentRolloutStateFailed {
		r.target, r.frozen = nil, true
		if r.base != nil && r.base.object.RolloutState == types.DeploymentRolloutStateCompleted {
			r.target = r.base
		}
		return
	}
	r.frozen = r.prepare()
}

// drains tells whether a task has to leave its instance: that is being drained, or a daemon needs the room.
func (x *replica) drains() bool {
	return x.host != nil && (aws.ToString(x.host.Instance.Object.Status) == draining || x.task.MakesRoomFor != "")
}

// old tells whether a task is of a deployment that is being replaced.
func (r *replicaPass) old(x *replica) bool { return !r.frozen && x.of != r.primary }

// keeper tells whether a task is one of those that the service wants in the end.
func (r *replicaPass) keeper(x *replica) bool { return !r.old(x) && x.state != sick && !x.drains() }

func (r *replicaPass) count(f func(*replica) bool) (n int) {
	for _, x := range r.replicas {
		if f(x) {
			n += max(x.stands, 1)
		}
	}
	return n
}

// wanted is how many tasks there are.
func (r *replicaPass) wanted() int { return r.count(func(*replica) bool { return true }) }

func (r *replicaPass) filter(f func(*replica) bool) (xs []*replica) {
	for _, x := range r.replicas {
		if f(x) {
			xs = append(xs, x)
		}
	}
	return xs
}

func isHealthy(x *replica) bool { return x.state == healthy }

// stopTask stops a task of the service, for the reason given.
func (r *replicaPass) stopTask(x *replica, reason string) {
	t := task.Stop(x.task, types.TaskStopCodeServiceSchedulerInitiated, reason, r.now)
	if t == nil {
		return
	}
	r.plan.stops = append(r.plan.stops, t)
	r.replicas = slices.DeleteFunc(r.replicas, func(o *replica) bool { return o == x })
	if x.host != nil && x.host.Connected {
		r.stopping++
	}
}

// lost tells whether a task does not count any more, because the agent of its instance has been away for too long. It stays
// as it is: when the agent is back it counts again, and what is too much then is stopped.
func (r *replicaPass) lost(t *store.Task, h *placement.Host) bool {
	return r.lostAfter > 0 && h != nil && !h.Connected && !r.notYet(r.away(t.Instance).Add(r.lostAfter))
}

// protected tells whether a task is safe from scale-in and roll-outs now.
func (r *replicaPass) protected(x *replica) bool {
	return !x.task.ProtectedUntil.IsZero() && r.notYet(x.task.ProtectedUntil)
}

// why is the stoppedReason of a task that another one replaces.
func (r *replicaPass) why(x *replica) string {
	switch {
	case x.state == sick:
		return task.ReasonUnhealthy
	case x.task.MakesRoomFor != "" && !r.old(x):
		return "It makes room for the daemon of service " + x.task.MakesRoomFor + " on container instance " + x.task.Instance
	case x.drains() && !r.old(x):
		return "Container instance " + x.task.Instance + " is draining"
	}
	return task.Deployed(r.primary.id)
}

func (r *replicaPass) stopPendingOnDraining() {
	for _, x := range r.filter(func(x *replica) bool { return x.state == pending && x.drains() }) {
		r.stopTask(x, r.why(x))
	}
}

// strategies are the service's, or the default ones.
func (r *replicaPass) strategies() []types.PlacementStrategy {
	if s := r.svc.Object.PlacementStrategy; len(s) > 0 {
		return s
	}
	return placement.DefaultStrategies()
}

// stopSurplus stops what is more than desiredCount: what is not RUNNING first, then the mirror of placement.
func (r *replicaPass) stopSurplus() {
	surplus := r.count(r.keeper) - r.desired
	if surplus <= r.ahead() {
		return
	}
	r.noneAhead() // what was started to balance the zones is the first to go when there are more than that one too many
	if surplus > mostReplicas {
		surplus, r.plan.wake = mostReplicas, r.now
	}
	for _, state := range []health{pending, warming, healthy} {
		of := r.filter(func(x *replica) bool { return r.keeper(x) && x.state == state && !r.protected(x) })
		n := min(surplus, len(of))
		for _, x := range r.mirror(of, n) {
			r.stopTask(x, task.Deployed(r.primary.id))
		}
		surplus -= n
	}
	if kept := r.filter(func(x *replica) bool { return r.keeper(x) && r.protected(x) }); surplus > 0 && len(kept) > 0 {
		r.sayOnce("(service %s) was unable to scale in: %d tasks more than it wants are protected, (task %s) until %s.",
			r.name, min(surplus, len(kept)), kept[0].task.ID, kept[0].task.ProtectedUntil.UTC().Format(time.RFC3339))
	}
}

// mirror picks n of the replicas as the mirror of placement.
func (r *replicaPass) mirror(of []*replica, n int) []*replica {
	if n <= 0 {
		return nil
	}
	byID := make(map[string]*replica, len(of))
	tasks, all := make([]*store.Task, 0, len(of)), make([]*store.Task, 0, len(r.replicas))
	for _, x := range of {
		byID[x.task.ID] = x
		tasks = append(tasks, x.task)
	}
	for _, x := range r.replicas {
		all = append(all, x.task)
	}
	hosts := map[string]*placement.Host{}
	for _, x := range r.replicas {
		hosts[x.task.Instance] = x.host
	}
	var picked []*replica
	for _, t := range placement.Surplus(tasks, all, n, r.strategies(), func(t *store.Task) *placement.Host { return hosts[t.Instance] }) {
		picked = append(picked, byID[t.ID])
	}
	return picked
}

// stopReplaced stops what others replace, as far as that takes nothing below minimumHealthyPercent.
func (r *replicaPass) stopReplaced() {
	if r.count(r.old) > 0 {
		r.stopOld()
		return
	}
	cover := r.count(isHealthy) - r.desired
	unwell := r.filter(func(x *replica) bool { return x.state == sick })
	for _, x := range unwell[:min(max(len(unwell)+cover, 0), len(unwell))] {
		r.stopTask(x, r.why(x))
	}
	leaving := r.filter(func(x *replica) bool { return x.drains() && x.state != sick && !r.protected(x) })
	slices.SortStableFunc(leaving, func(a, b *replica) int { return int(a.state) - int(b.state) }) // healthy ones last
	cover = r.count(func(x *replica) bool { return isHealthy(x) && !x.drains() }) - r.desired
	for _, x := range leaving[:min(max(len(leaving)+cover, 0), len(leaving))] {
		r.stopTask(x, r.why(x))
	}
}

// stopOld stops tasks during a rolling update: those that fail their checks or have not started first, then as many as
// minimumHealthyPercent leaves.
func (r *replicaPass) stopOld() {
	for _, x := range r.filter(func(x *replica) bool { return x.state == sick || x.state == pending && r.old(x) && !r.protected(x) }) {
		r.stopTask(x, r.why(x))
	}
	gone := func(x *replica) bool { return (r.old(x) || x.drains()) && !r.protected(x) }
	well := r.count(isHealthy)
	if well >= r.lower {
		for _, x := range r.filter(func(x *replica) bool { return x.state == warming && gone(x) }) {
			r.stopTask(x, r.why(x))
		}
	}
	of := r.filter(func(x *replica) bool { return isHealthy(x) && gone(x) })
	n := min(max(well-r.lower, 0), len(of), mostReplicas)
	if n < len(of) && n == mostReplicas {
		r.plan.wake = r.now
	}
	slices.SortStableFunc(of, func(a, b *replica) int { return drainedFirst(a) - drainedFirst(b) })
	drained := min(n, len(r.filter(func(x *replica) bool { return isHealthy(x) && gone(x) && x.drains() })))
	for _, x := range of[:drained] {
		r.stopTask(x, r.why(x))
	}
	for _, x := range r.mirror(of[drained:], n-drained) {
		r.stopTask(x, r.why(x))
	}
}

func drainedFirst(x *replica) int {
	if x.drains() {
		return 0
	}
	return 1
}

// missing is how many tasks are still to be started, and how many of them maximumPercent allows now.
func (r *replicaPass) missing() (need, room int) {
	return r.desired - r.count(r.keeper), r.upper - r.wanted()
}

// startMissing starts what is missing.
func (r *replicaPass) startMissing() {
	need, room := r.missing()
	n := min(need, room)
	if n <= 0 || r.target == nil || r.started >= mostStarted {
		return
	}
	if f := r.svc.Failures[""]; f.Deployment == r.target.id && r.notYet(f.NotBefore) {
		r.delayed = true
		return
	}
	if n > mostStarted-r.started {
		n, r.plan.wake = mostStarted-r.started, r.now
	}
	picker, gate := r.pickerOfAll()
	for range n {
		if !r.startOne(picker) {
			r.short = true
			if !gate.IsZero() {
				r.notYet(gate)
			}
			r.refuseAll(picker.Refusals())
			return
		}
	}
}

// look looks at the hosts, once, and says when the first gate opens though nothing changes; zero: there is none.
func (r *replicaPass) look() (gate time.Time) {
	switch {
	case r.before != nil: // who picks next in this pass sees what is taken
		r.hosts, r.before = r.before.Hosts(), nil
	case r.hosts == nil:
		r.hosts, r.gate = r.room()
	}
	return r.gate
}

// nowhere tells whether there are no hosts.
func (r *replicaPass) nowhere() bool {
	r.look()
	return len(r.hosts) == 0
}

// pickerOfAll is the picker for what is missing. Where nothing but placement decides it is one that is kept, so that not all
// hosts are looked at. gate is when the first gate opens though nothing changes; zero: there is none.
func (r *replicaPass) pickerOfAll() (picker *placement.Picker, gate time.Time) {
	special := r.line == nil || r.target.req.Claim != nil || len(r.svc.Rollouts[r.target.id].Instances) > 0
	for id, f := range r.svc.Failures {
		special = special || id != "" && f.Count > 0
	}
	if special {
		r.look()
		r.before = r.picker(nil)
	} else if r.before == nil {
		r.before, r.gate = r.line(r.target.req, r.strategies())
	}
	return r.before, r.gate
}

// picker picks instances for the target's tasks: those last on which its tasks failed. only is a further filter, or nil.
func (r *replicaPass) picker(only func(*placement.Host) *placement.Refusal) *placement.Picker {
	has := r.hasImages()
	return placement.NewPicker(r.hosts, r.target.req, r.strategies(), placement.Options{
		Tie: func(h *placement.Host) uint64 {
			if has(h) {
				return rand.Uint64() >> 1
			}
			return rand.Uint64() | 1<<63
		},
		Refuse: func(h *placement.Host) *placement.Refusal {
			if f := r.failedOn(h.Instance.ID); f.Count > 0 && f.NotBefore.After(r.now) {
				return placement.Refuse(h, reasonFailing, fmt.Sprintf("%d tasks of the service failed there in a row, and the next attempt is at %s", f.Count, f.NotBefore.UTC().Format(time.RFC3339)))
			}
			if only != nil {
				return only(h)
			}
			return nil
		},
		Rank: func(h *placement.Host) int64 {
			if r.failedOn(h.Instance.ID).Count > 0 {
				return 1
			}
			return 0
		},
	})
}

// startOne starts a task on the instance that is picked next; false when there is none.
func (r *replicaPass) startOne(picker *placement.Picker) bool {
	h, reserved := picker.Pick()
	if h == nil {
		return false
	}
	made := task.ForService(r.svc, &r.target.object, r.target.def, h.Instance, r.now)
	made.Interfaces = r.target.req.Claim.Give(h.Instance.ID)
	t, err := task.New(made)
	if err != nil {
		r.plan.problem = err
		return true
	}
	t.Reserved = reserved
	r.started++
	r.plan.starts = append(r.plan.starts, start{h, t})
	r.replicas = append(r.replicas, &replica{task: t, of: r.target, host: h, state: pending})
	return true
}

// refuseAll notes why no task could be placed, and that any change there is to be looked at.
func (r *replicaPass) refuseAll(refusals []*placement.Refusal) {
	for _, refusal := range refusals {
		id := refusal.Host.Instance.ID
		r.plan.waits[id] = true
		r.plan.network = r.plan.network || refusal.OfNetwork()
		if refusal.Reason == reasonFailing {
			r.notYet(r.failedOn(id).NotBefore)
			continue
		}
		r.refusals = append(r.refusals, refusal)
	}
}

// complainOfRoom tells why tasks could not be placed.
func (r *replicaPass) complainOfRoom() {
	switch {
	case !r.short:
	case len(r.refusals) > 0:
		r.complain()
	case r.nowhere():
		r.sayOnce("%s", placement.Event(r.name, nil))
	}
}

// makeRoom stops tasks that are to be replaced, where no replacement can be started before: of those that fail their
// checks one at a time, of those on instances that are drained as many as minimumHealthyPercent leaves.
func (r *replicaPass) makeRoom() (stopped bool) {
	need, room := r.missing()
	if need <= 0 || room > 0 && !r.short || r.delayed {
		return false
	}
	if r.count(r.old) == 0 {
		idle := r.stopping == 0 && r.count(func(x *replica) bool { return r.keeper(x) && !isHealthy(x) }) == 0
		if failing := r.filter(func(x *replica) bool { return x.state == sick }); idle && len(failing) > 0 {
			r.stopTask(failing[0], r.why(failing[0]))
			stopped = true
		}
		spare := r.count(isHealthy) - r.lower
		for _, x := range r.filter(func(x *replica) bool { return x.drains() && x.state != sick && !r.protected(x) }) {
			if isHealthy(x) {
				if spare--; spare < 0 {
					break
				}
			} else if spare < 0 {
				break
			}
			r.stopTask(x, r.why(x))
			stopped = true
		}
	}
	if !stopped && room <= 0 && r.stopping == 0 && r.count(func(x *replica) bool { return x.state == pending || x.state == warming }) == 0 {
		r.sayOnce("(service %s) was unable to stop or start tasks during a deployment because of the service deployment configuration. Update the minimumHealthyPercent or maximumPercent value and try again.", r.name)
	}
	return stopped
}

// settleReplicas brings the record's account of deployments and steady state up to date.
func (r *replicaPass) settleReplicas() {
	p := r.pass
	o := p.object(p.primary)
	o.DesiredCount = int32(r.desired)
	live := map[string]bool{p.primary.id: true}
	for _, x := range r.replicas {
		live[x.task.Deployment] = true
	}
	for _, t := range p.tasks { // one that can't be reached has been told to stop, and does not keep its deployment
		if h := p.find(t.Instance); !task.IsStopped(t) && h != nil && h.Connected {
			live[t.Deployment] = true
		}
	}
	olderLive := false
	for _, d := range p.older {
		olderLive = olderLive || live[d.id]
	}
	arrived := !olderLive && r.wanted() == r.desired && r.count(func(x *replica) bool {
		return x.of == p.primary && !x.drains() && task.Healthy(x.task, &p.primary.def.Object)
	}) == r.desired
	if o.RolloutState == types.DeploymentRolloutStateInProgress && arrived {
		o.RolloutState = types.DeploymentRolloutStateCompleted
		o.UpdatedAt = aws.Time(p.now.UTC().Truncate(time.Millisecond))
		p.say("(service %s) (deployment %s) deployment completed.", p.name, p.primary.id)
	}
	if o.RolloutState != types.DeploymentRolloutStateCompleted && p.base != nil && p.base.object.RolloutState == types.DeploymentRolloutStateCompleted {
		live[p.base.id] = true
	}
	p.svc.Object.Deployments = slices.DeleteFunc(p.svc.Object.Deployments, func(d types.Deployment) bool { return !live[aws.ToString(d.Id)] })
	maps.DeleteFunc(p.svc.Rollouts, func(id string, _ store.Rollout) bool { return !live[id] })
	maps.DeleteFunc(p.svc.Failures, func(_ string, f store.Failure) bool { return !live[f.Deployment] })
	if reason := p.reasonOf(p.object(p.primary)); aws.ToString(p.object(p.primary).RolloutStateReason) != reason {
		p.object(p.primary).RolloutStateReason = aws.String(reason)
	}
	steady := len(p.svc.Object.Deployments) == 1 && arrived && r.stopping == 0
	switch {
	case !steady:
		p.svc.SteadySince = time.Time{}
	case p.svc.SteadySince.IsZero():
		p.svc.SteadySince = p.now
		p.say("(service %s) has reached a steady state.", p.name)
	}
}
