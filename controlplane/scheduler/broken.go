package scheduler

import (
	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/longshore-project/longshore/controlplane/scheduler/policy"
	"github.com/longshore-project/longshore/controlplane/store"
	"github.com/longshore-project/longshore/controlplane/task"
)

// Where the new task of a roll-out fails again and again it is the task that is broken, or the instance. Instances that run it
// healthily show which, see held. While there are none, the deployment before shows it: where that fails too it is the
// instance, which then delays its own task and no other; where that runs, the new task is not tried on more instances. What
// failed there before the roll-out came is known. Otherwise the deployment before gets one try on the instance, after the
// new task has failed there three times. A broken image reaches one instance so, and no more; a service may be tagged
// for a try on a second one.

// tryBefore has the deployment before tried, and judges those tries.
func (p *pass) tryBefore(reached map[string]bool) {
	if p.calm.of[arrived] > 0 {
		return
	}
	for _, pl := range p.places {
		if reached[pl.id] && pl.of == p.primary && pl.healthy() {
			return // it shows more
		}
	}
	for _, pl := range p.places {
		f := p.failure(pl, p.primary)
		if !reached[pl.id] || !pl.belongs || !pl.host.Connected || f.Count < inconsistent || f.Tried || f.Before || p.surges() || p.preparation(pl) != nil {
			continue
		}
		switch t := pl.task; {
		case t == nil:
			p.trying[pl.id] = true
			p.sayOnce("(service %s) (deployment %s) fails again and again on (container-instance %s): the deployment before is tried there, to see which of them is broken.", p.name, p.primary.id, pl.id)
		case pl.of == p.primary || !task.Wanted(t):
		case !pl.healthy(), p.notYet(aws.ToTime(t.Object.StartedAt).Add(p.cfg.RolloutWait)), p.spare == 0:
			p.trying[pl.id] = true
		default:
			f.Tried = true
			p.svc.Failures[pl.id] = f
			p.spare--
			p.stop(pl, task.Deployed(p.primary.id))
		}
	}
}

// trySecond tells whether the roll-out goes on though its task fails again and again on an instance on which that of the deployment
// before runs, to see on one more which of them is broken. Whoever tagged the service for it takes that a broken image
// reaches two instances.
func (p *pass) trySecond(pl *place, healthy int) bool {
	if !policy.TriesSecondHost(p.svc.Object.Tags) || !p.failure(pl, p.primary).Tried && !p.oldServes(pl) {
		return false
	}
	if healthy == 0 {
		p.sayOnce("(service %s) (deployment %s) is tried on one more container instance: its task fails again and again on (container-instance %s), where that of the deployment before runs.", p.name, p.primary.id, pl.id)
	}
	return true
}

// oldServes tells whether the task of the deployment before is healthy on an instance on which the new one is started beside it.
func (p *pass) oldServes(pl *place) bool {
	if pl.old != nil {
		return pl.old.Deployment != p.primary.id && p.served(pl)
	}
	return p.surges() && pl.task != nil && pl.of != p.primary && pl.healthy()
}

// countTry counts the failure of a task that was such a try.
func (p *pass) countTry(pl *place, t *store.Task, f store.Failure) (was bool) {
	if f.Deployment != p.primary.id || f.Count < inconsistent || t.Deployment == p.primary.id {
		return false
	}
	f.Task, f.Tried, f.Before = t.ID, true, true
	p.svc.Failures[pl.id] = f
	return true
}

// brokenBefore tells whether a failure is the instance's own, whatever the task.
func (p *pass) brokenBefore(pl *place) bool {
	if !p.failure(pl, p.primary).Before {
		return false
	}
	p.sayOnce("(service %s) (deployment %s) goes on without (container-instance %s) for now: its task fails there again and again, and so does that of the deployment before.", p.name, p.primary.id, pl.id)
	return true
}
