package scheduler

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"

	"github.com/longshore-project/longshore/controlplane/scheduler/placement"
	"github.com/longshore-project/longshore/controlplane/store"
	"github.com/longshore-project/longshore/controlplane/task"
)

func itoa(n int32) string { return strconv.Itoa(int(n)) }

// object is a deployment in the service's record.
func (p *pass) object(d *deployment) *types.Deployment {
	for i := range p.svc.Object.Deployments {
		if aws.ToString(p.svc.Object.Deployments[i].Id) == d.id {
			return &p.svc.Object.Deployments[i]
		}
	}
	return &types.Deployment{}
}

// rollOut decides which deployment each place should run, and stops the tasks that are next to be replaced.
func (p *pass) rollOut() {
	if p.base == nil {
		for _, pl := range p.places {
			pl.target = p.primary
		}
		return
	}
	p.spare = p.mayStop()
	r := p.svc.Rollouts[p.primary.id]
	reached := p.requeue(&r) // of the places that are looked at
	for _, pl := range p.places {
		if pl.of == p.primary && pl.task != nil {
			reached[pl.id] = true
		}
	}
	p.askAllAgain(reached)
	if !r.Continued && !p.cfg.RolloutParallel {
		p.tryBefore(reached)
	}
	if r.Held = p.heldUnlessContinued(&r, reached); r.Held == "" {
		p.catchUp(&r, reached)
	} else {
		p.sayHeld(&r, reached)
	}
	next, size := p.judge(&r, reached)
	if next && p.wave(&r, reached, size) { // it may have come to a place where the new task has failed before
		if r.Held = p.heldUnlessContinued(&r, reached); r.Held != "" {
			p.sayHeld(&r, reached)
		}
	}
	for _, pl := range p.places {
		pl.target = p.base
		if reached[pl.id] && !p.trying[pl.id] {
			pl.target = p.primary
		}
	}
	if p.svc.Rollouts == nil {
		p.svc.Rollouts = map[string]store.Rollout{}
	}
	p.svc.Rollouts[p.primary.id] = r
}

// mayStop is how many healthy tasks the deployment configuration lets us stop now.
func (p *pass) mayStop() int {
	healthy, percent := p.calm.served(), 0
	for _, pl := range p.places {
		if pl.belongs && p.served(pl) {
			healthy++
		}
	}
	if c := p.svc.Object.DeploymentConfiguration; c != nil {
		percent = int(aws.ToInt32(c.MinimumHealthyPercent))
	}
	return max(healthy-(p.desired()*percent+99)/100, 0)
}

// requeue takes out of the waves the instances that are gone, and those that can't get the new task now. The others go on
// without these; they keep, or get back, the deployment before until a later wave.
func (p *pass) requeue(r *store.Rollout) (reached map[string]bool) {
	in, out := p.inWaves, maps.Clone(p.gone)
	if in == nil {
		in, out = set(r.Instances), set(r.Instances)
		for _, pl := range p.places {
			delete(out, pl.id)
		}
	}
	reached = make(map[string]bool, len(p.places))
	for _, pl := range p.places {
		if !in[pl.id] {
			continue
		}
		why := ""
		if pl.belongs {
			why = p.hindrance(pl)
		}
		if pl.belongs && why == "" {
			reached[pl.id] = true
			continue
		}
		if out[pl.id] = true; why != "" {
			p.sayOnce("(service %s) (deployment %s) goes on without (container-instance %s) for now: %s.", p.name, p.primary.id, pl.id, why)
		}
	}
	r.Instances = without(r.Instances, out)
	return reached
}

func set(ids []string) map[string]bool {
	in := make(map[string]bool, len(ids))
	for _, id := range ids {
		in[id] = true
	}
	return in
}

// without are the ids that are not out; when none is, they are not looked at.
func without(ids []string, out map[string]bool) []string {
	if len(out) == 0 {
		return ids
	}
	return slices.DeleteFunc(slices.Clone(ids), func(id string) bool { return out[id] })
}

// catchUp stops the old tasks that a wave was to stop, and that was not written. What minimumHealthyPercent keeps is left
// to a later wave.
func (p *pass) catchUp(r *store.Rollout, reached map[string]bool) {
	out := map[string]bool{}
	if p.spare -= p.calm.of[fetching]; p.spare < 0 { // some of them have to wait, and this look chooses which
		p.plan.all = true
	}
	for _, pl := range p.places {
		if !reached[pl.id] {
			continue
		}
		p.replace(pl)
		if pl.belongs && pl.host.Connected && pl.runs() && pl.of != p.primary && !p.waiting[pl.id] {
			delete(reached, pl.id)
			out[pl.id] = true
		}
	}
	r.Instances = without(r.Instances, out)
}

// hindrance tells why a place that a wave reached can't get the new task now, though that has not been tried there.
func (p *pass) hindrance(pl *place) string {
	switch t, f := pl.task, p.failure(pl, p.primary); {
	case t != nil && pl.of == p.primary, t == nil && f.Count > 0, p.failedBeside(pl), f.Count >= inconsistent:
		return ""
	case t != nil && !task.Wanted(t):
		if p.notYet(aws.ToTime(t.Object.StoppingAt).Add(p.cfg.RolloutPatience)) {
			return ""
		}
		return fmt.Sprintf("its old task %s has been stopping since %s", t.ID, aws.ToTime(t.Object.StoppingAt).Format(time.RFC3339))
	}
	if p.protected(pl) {
		return fmt.Sprintf("its old task %s is protected until %s", pl.task.ID, pl.task.ProtectedUntil.UTC().Format(time.RFC3339))
	}
	if !pl.host.Connected && p.notYet(p.away(pl.id).Add(p.cfg.AgentGrace)) {
		return ""
	}
	refusal := p.primary.req.Check(pl.after())
	if refusal == nil {
		return ""
	}
	if pl.host.Connected {
		p.refuse(pl, refusal)
	}
	return refusal.Detail
}

// protected tells whether the task of a place may not be replaced now.
func (p *pass) protected(pl *place) bool {
	return pl.runs() && p.protectedTask(pl.task)
}

// after is the host without the service's tasks.
func (pl *place) after() *placement.Host {
	h := pl.host
	for _, t := range []*store.Task{pl.task, pl.old} {
		if t != nil {
			h = h.Without(t)
		}
	}
	return h
}

// outcome is what has become of a place that a wave reached.
type outcome uint8

const (
	ready   outcome = iota // the new task is healthy
	busy                   // not yet, and there is time
	slow                   // not yet, and there was time
	failing                // the new task failed
)

// look tells what has become of a place that a wave reached, and why for slow and failing.
func (p *pass) look(pl *place) (outcome, string) {
	f, t := p.failure(pl, p.primary), pl.task
	why := p.unprepared(pl)
	switch {
	case why != "":
		return failing, why
	case t == nil && f.Count > 0, p.failedBeside(pl), t != nil && pl.of == p.primary && !pl.healthy() && f.Count > 0, t != nil && pl.of != p.primary && f.Count >= inconsistent:
		return failing, fmt.Sprintf("task %s on container instance %s failed: %s", f.Task, pl.id, f.Reason)
	case t == nil || pl.of != p.primary:
		return busy, ""
	case pl.healthy() && pl.host.Connected:
		return ready, ""
	case aws.ToString(t.Object.StoppedReason) == task.ReasonUnhealthy:
		return failing, fmt.Sprintf("task %s on container instance %s failed: %s", t.ID, pl.id, task.ReasonUnhealthy)
	case p.notYet(aws.ToTime(t.Object.CreatedAt).Add(p.cfg.RolloutPatience)):
		return busy, ""
	}
	return slow, fmt.Sprintf("task %s on container instance %s is not healthy %s after it was placed: it is %s, its health %s, its agent connected: %t",
		t.ID, pl.id, p.cfg.RolloutPatience, task.LastStatus(t), t.Object.HealthStatus, pl.host.Connected)
}

// heldUnlessContinued is held, of which nothing counts but the circuit breaker when somebody has said so.
func (p *pass) heldUnlessContinued(r *store.Rollout, reached map[string]bool) string {
	if r.Continued && p.object(p.primary).RolloutState != types.DeploymentRolloutStateFailed {
		return ""
	}
	return p.held(reached)
}

// held tells why the roll-out may not go on: the new deployment fails somewhere, or has not been healthy anywhere in time. Where
// it fails again and again it is the instance that is broken, when it is the only one and three others run the new deployment
// healthily, or one of ten such, or when the deployment before fails there too: that delays its own task only. Where the deployment
// before runs, one more instance may be tried.
func (p *pass) held(reached map[string]bool) string {
	if p.object(p.primary).RolloutState == types.DeploymentRolloutStateFailed {
		return "its circuit breaker has ended it"
	}
	if p.cfg.RolloutParallel {
		return ""
	}
	why := map[outcome]string{}
	healthy := p.calm.of[arrived]
	var broken []*place // where the new task failed again and again
	for _, pl := range p.places {
		if !pl.belongs || !reached[pl.id] {
			continue
		}
		o, reason := p.look(pl)
		if o == failing && p.brokenBefore(pl) {
			continue
		}
		if o == failing && p.failure(pl, p.primary).Count >= inconsistent {
			broken = append(broken, pl)
			continue
		}
		if why[o] == "" {
			why[o] = reason
		}
		if o == ready {
			healthy++
		}
	}
	alone := len(broken) == 1 && (healthy >= inconsistent || p.trySecond(broken[0], healthy)) || len(broken)*10 <= healthy
	switch {
	case why[failing] != "":
	case !alone:
		_, why[failing] = p.look(broken[0])
	case healthy > 0:
		for _, pl := range broken {
			p.sayOnce("(service %s) (deployment %s) goes on without (container-instance %s) for now: its task fails there again and again, and is healthy elsewhere.", p.name, p.primary.id, pl.id)
		}
	}
	if why[failing] == "" && healthy == 0 {
		return why[slow]
	}
	return why[failing]
}

// judge tells whether the next wave may begin, and of how many instances. It keeps the time of the current wave.
func (p *pass) judge(r *store.Rollout, reached map[string]bool) (next bool, size int) {
	if p.cfg.RolloutParallel {
		return true, len(p.places) + p.calm.of[before]
	}
	count := map[outcome]int{ready: p.calm.of[arrived], busy: p.calm.underWay()}
	for _, pl := range p.places {
		if pl.belongs && reached[pl.id] {
			o, _ := p.look(pl)
			count[o]++
		}
	}
	switch {
	case r.Held != "" || count[busy] > 0:
		r.HealthyAt = time.Time{}
		return false, 0
	case count[ready] == 0: // nothing was learned yet
		r.Wave = 0
		return true, 1
	}
	if r.HealthyAt.IsZero() {
		r.HealthyAt = p.now
	}
	return !p.notYet(r.HealthyAt.Add(p.cfg.RolloutWait)), 2 << min(r.Wave, 20)
}

// sayHeld tells that the roll-out holds, if there is anywhere left to go.
func (p *pass) sayHeld(r *store.Rollout, reached map[string]bool) {
	healthy, left := p.calm.of[arrived], p.calm.of[before]
	for _, pl := range p.places {
		switch {
		case !pl.belongs:
		case !reached[pl.id]:
			left++
		case pl.of == p.primary && pl.healthy():
			healthy++
		}
	}
	head := fmt.Sprintf("(service %s) (deployment %s) holds at wave %d: ", p.name, p.primary.id, r.Wave+1)
	if left == 0 || p.said(head) {
		return
	}
	p.say("%s%s. %d of %d container instances run it healthily, %d keep what they have until it becomes healthy or the service is updated.",
		head, r.Held, healthy, len(reached)+p.calm.belong()-p.calm.of[before]+left, left)
}

// wave begins the next wave, of up to size instances: those first that have no healthy task to lose. It tells whether there
// were any.
func (p *pass) wave(r *store.Rollout, reached map[string]bool, size int) bool {
	var candidates []*place
	for _, pl := range p.places {
		if pl.belongs && pl.host.Connected && !reached[pl.id] && (pl.task == nil || task.Wanted(pl.task)) && pl.old == nil && !p.protected(pl) {
			candidates = append(candidates, pl)
		}
	}
	slices.SortStableFunc(candidates, func(a, b *place) int { return cmp.Compare(rank(a), rank(b)) })
	var (
		picked  int
		limited bool
		refused []*placement.Refusal
	)
	r.Instances = slices.Clip(r.Instances) // the record's own stays as it is
	for _, pl := range candidates {
		if picked == size || pl.healthy() && p.calm.of[before] > 0 && p.next() < pl.id {
			break
		}
		if pl.healthy() && p.spare == 0 && !p.beside(pl) && !p.roomComes(pl) {
			limited = true
			if p.asked(pl) { // it goes on when there is room for both
				p.later = append(p.later, p.primary.req.Check(pl.host))
			}
			continue
		}
		if refusal := p.primary.req.Check(pl.after()); refusal != nil {
			refused = append(refused, refusal)
			continue
		}
		reached[pl.id] = true
		r.Instances = append(r.Instances, pl.id)
		p.replace(pl)
		picked++
	}
	if picked < size && p.calm.of[before] > 0 {
		switch {
		case p.surges():
			p.plan.more = size - picked
		case p.spare > 0:
			p.plan.more = min(size-picked, p.spare)
		default:
			limited = true
		}
	}
	p.later = append(p.later, refused...)
	for _, r := range p.later {
		p.plan.waits[r.Host.Instance.ID] = true
	}
	switch {
	case picked > 0:
		if size > 1 && !p.cfg.RolloutParallel {
			r.Wave++
		}
		r.HealthyAt = time.Time{}
	case limited && !p.underWay(reached):
		p.sayOnce("(service %s) was unable to stop or start tasks during a deployment because of the service deployment configuration. Update the minimumHealthyPercent or maximumPercent value and try again.", p.name)
	case len(refused) > 0 && !(p.cfg.RolloutParallel && p.underWay(reached)): // there, a wave begins in each pass
		r.Held = "nowhere is room for it. " + placement.Explain(refused)
	}
	return picked > 0
}

// underWay tells whether some place that a wave reached has not arrived yet.
func (p *pass) underWay(reached map[string]bool) bool {
	return p.calm.underWay() > 0 || slices.ContainsFunc(p.places, func(pl *place) bool { return pl.belongs && reached[pl.id] && (!pl.healthy() || p.waiting[pl.id]) })
}

func rank(pl *place) int {
	if pl.healthy() {
		return 1
	}
	return 0
}

// replace stops the old task of a place that a wave reached. The new one is known to find room.
func (p *pass) replace(pl *place) {
	if !pl.belongs || !pl.runs() || pl.of == p.primary || !pl.host.Connected || p.protected(pl) {
		return
	}
	if pl.old != nil || p.beside(pl) || p.roomComes(pl) {
		p.waiting[pl.id] = true
		return
	}
	if pl.healthy() && p.spare == 0 {
		p.plan.all = p.plan.all || p.calm.of[fetching] > 0
		return
	}
	p.stopsFirst(pl)
	ready := p.prepared(pl)
	if pl.healthy() {
		p.spare--
	}
	if !ready {
		p.waiting[pl.id] = true
		return
	}
	p.stop(pl, task.Deployed(p.primary.id))
}

// settle brings the record's account of deployments, desiredCount and steady state up to date.
func (p *pass) settle() {
	desired := int32(p.desired())
	all, unreached, stopping := p.calm.of[arrived] == p.calm.belong(), p.calm.of[before] > 0, false
	for _, pl := range p.places {
		stopping = stopping || pl.task != nil && !task.Wanted(pl.task) || pl.old != nil
		switch {
		case pl.belongs:
			all = all && pl.healthy() && pl.of == p.primary
			unreached = unreached || pl.target == p.base && (pl.task != nil || pl.host.Connected)
		case remains(pl.host, pl.task):
			desired++
		}
	}
	p.svc.Object.DesiredCount = desired
	p.object(p.primary).DesiredCount = desired
	p.dropOlder(unreached && p.base != nil)

	o := p.object(p.primary)
	alone := len(p.svc.Object.Deployments) == 1
	if o.RolloutState == types.DeploymentRolloutStateInProgress && alone && all {
		o.RolloutState = types.DeploymentRolloutStateCompleted
		o.UpdatedAt = aws.Time(p.now.UTC().Truncate(time.Millisecond))
		p.svc.Rollouts = map[string]store.Rollout{p.primary.id: {Failed: p.svc.Rollouts[p.primary.id].Failed}}
		p.say("(service %s) (deployment %s) deployment completed.", p.name, p.primary.id)
	}
	if reason := p.reasonOf(o); aws.ToString(o.RolloutStateReason) != reason {
		o.RolloutStateReason = aws.String(reason)
	}

	steady := alone && all && !stopping && len(p.svc.Failures) == 0
	switch {
	case !steady:
		p.svc.SteadySince = time.Time{}
	case p.svc.SteadySince.IsZero():
		p.svc.SteadySince = p.now
		p.say("(service %s) has reached a steady state.", p.name)
	}
}

// dropOlder removes the older deployments that have no task any more, but for the one that places still run, and what was
// known about their failures.
func (p *pass) dropOlder(keepBase bool) {
	live := map[string]bool{p.primary.id: true}
	if keepBase {
		live[p.base.id] = true
	}
	for id, n := range p.calm.tasks {
		live[id] = live[id] || n > 0
	}
	for _, t := range p.tasks {
		if !task.IsStopped(t) {
			live[t.Deployment] = true
		}
	}
	p.svc.Object.Deployments = slices.DeleteFunc(p.svc.Object.Deployments, func(d types.Deployment) bool {
		return !live[aws.ToString(d.Id)]
	})
	maps.DeleteFunc(p.svc.Rollouts, func(id string, _ store.Rollout) bool { return !live[id] })
	maps.DeleteFunc(p.svc.Failures, func(_ string, f store.Failure) bool { return !live[f.Deployment] })
}
