package scheduler

import (
	"fmt"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"

	"github.com/longshore-project/longshore/controlplane/store"
	"github.com/longshore-project/longshore/protocol/acs"
)

// The images of a new daemon are on its host before the old one is stopped, where the host's agent can do that: the old task
// of a place that a wave reached is stopped when a [store.Preparation] is READY. One that FAILED counts as a failed task of the
// deployment, and is tried again as such; the old task runs on. An agent that says nothing for Config.PrepareWait is not
// waited for any longer. A task that is not healthy is not worth that.

// prepares tells whether an instance's agent makes images local when it is asked.
func prepares(i *store.Instance) bool {
	return slices.ContainsFunc(i.Object.Attributes, func(a types.Attribute) bool { return aws.ToString(a.Name) == acs.CapabilityPrepareImages })
}

// preparation is that of the primary deployment on a place, nil if there is none.
func (p *pass) preparation(pl *place) *store.Preparation {
	if r := p.preparations[pl.id]; r != nil && r.Deployment == p.primary.id {
		return r
	}
	return nil
}

// prepared tells whether the images of the new task are on the place as far as can be known. If they are not, somebody is
// asked to see to it.
func (p *pass) prepared(pl *place) bool {
	if p.cfg.PrepareWait < 0 || !pl.healthy() || !prepares(pl.host.Instance) {
		return true
	}
	r := p.preparation(pl)
	switch {
	case r == nil:
		p.ask(pl.id, 1)
		return false
	case r.Status == store.PreparationReady:
		return true
	case r.Status == store.PreparationFailed:
		p.askAgain(pl)
		return false
	case p.notYet(r.Since.Add(p.cfg.PrepareWait)):
		return false
	}
	p.sayOnce("(service %s) (deployment %s) goes on with (container-instance %s), though its agent has not said within %s whether the images are there.",
		p.name, p.primary.id, pl.id, p.cfg.PrepareWait)
	return true
}

// ask asks for the images once more.
func (p *pass) ask(instance string, attempt int32) {
	n := &store.Preparation{Cluster: p.svc.Cluster, Service: p.name, Instance: instance}
	if old := p.preparations[instance]; old != nil {
		copied := *old
		n = &copied
	}
	n.Deployment, n.Attempt, n.Since, n.Status, n.Reason = p.primary.id, attempt, p.now, "", ""
	p.preparations[instance] = n
	p.plan.prepares = append(p.plan.prepares, n)
	p.notYet(n.Since.Add(p.cfg.PrepareWait))
}

// askAgain asks for images that could not be had, when the time for it has come.
func (p *pass) askAgain(pl *place) {
	r := p.preparation(pl)
	if r == nil || r.Status != store.PreparationFailed || p.notYet(p.failure(pl, p.primary).NotBefore) {
		return
	}
	p.ask(pl.id, r.Attempt+1)
}

// askAllAgain is askAgain for all places that a wave reached: a roll-out that holds goes on when they succeed.
func (p *pass) askAllAgain(reached map[string]bool) {
	if p.object(p.primary).RolloutState == types.DeploymentRolloutStateFailed {
		return
	}
	for _, pl := range p.places {
		if reached[pl.id] && pl.belongs && pl.runs() && pl.host.Connected && pl.of != p.primary {
			p.askAgain(pl)
		}
	}
}

// unpreparedPrefix begins what stands in a [store.Failure] in place of a task's id.
const unpreparedPrefix = "images, attempt "

// countUnprepared counts images that could not be had as a failed task. It reports whether there is nothing else to count.
func (p *pass) countUnprepared(pl *place) bool {
	f, r := p.svc.Failures[pl.id], p.preparation(pl)
	if r == nil {
		return false
	}
	id := fmt.Sprintf("%s%d", unpreparedPrefix, r.Attempt)
	switch {
	case r.Status == store.PreparationReady && strings.HasPrefix(f.Task, unpreparedPrefix):
		delete(p.svc.Failures, pl.id)
	case r.Status == store.PreparationFailed && (f.Deployment != r.Deployment || f.Task != id):
		n := store.Failure{Deployment: r.Deployment, Task: id, Count: 1, At: p.now, Reason: r.Reason}
		if f.Deployment == n.Deployment {
			n.Count = f.Count + 1
		}
		n.NotBefore = n.At.Add(p.delay(n.Count))
		if p.svc.Failures == nil {
			p.svc.Failures = map[string]store.Failure{}
		}
		p.svc.Failures[pl.id] = n
		p.tally(n.Deployment)
		p.sayOnce("(service %s) (deployment %s) was unable to have the images of its task on (container-instance %s); the old (task %s) keeps running there: %s",
			p.name, r.Deployment, pl.id, pl.last.ID, r.Reason)
	default:
		return r.Status == store.PreparationFailed
	}
	return true
}

// unprepared tells why the new task can't have its images on a place whose old task runs on.
func (p *pass) unprepared(pl *place) string {
	r := p.preparation(pl)
	if r == nil || r.Status != store.PreparationFailed || !pl.runs() || pl.of == p.primary {
		return ""
	}
	return fmt.Sprintf("container instance %s can't have the images, and its old task %s keeps running: %s", pl.id, pl.task.ID, r.Reason)
}

// forgetPreparations drops those that nobody waits for any more.
func (p *pass) forgetPreparations() {
	waits := map[string]bool{}
	if p.primary != nil && aws.ToString(p.svc.Object.Status) == active {
		for _, pl := range p.places {
			waits[pl.id] = pl.belongs && pl.runs() && pl.of != p.primary && pl.target == p.primary && p.preparation(pl) != nil
		}
	}
	for id, r := range p.preparations {
		fresh := r.Revision() == 0 && slices.Contains(p.plan.prepares, r) // nobody has written it
		if !waits[id] && !fresh {
			p.plan.unprepares = append(p.plan.unprepares, r)
		}
	}
	p.plan.prepares = slices.DeleteFunc(p.plan.prepares, func(r *store.Preparation) bool { return !waits[r.Instance] })
	slices.SortFunc(p.plan.unprepares, func(a, b *store.Preparation) int { return strings.Compare(a.Instance, b.Instance) })
}
