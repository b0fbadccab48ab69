package scheduler

import (
	"cmp"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/longshore-project/longshore/controlplane/store"
	"github.com/longshore-project/longshore/controlplane/task"
)

// inconsistent is how many failures in a row make the event "unable to consistently start tasks".
const inconsistent = 3

// failure is what is known about failed starts of a deployment on an instance.
func (p *pass) failure(pl *place, d *deployment) store.Failure {
	if f := p.svc.Failures[pl.id]; f.Deployment == d.id {
		return f
	}
	return store.Failure{}
}

// countFailures brings the record of failures up to date. Only the newest task of an instance counts: it is counted before
// the next is started, and known by its id afterwards.
func (p *pass) countFailures() {
	known := map[string]bool{}
	for _, pl := range p.places {
		known[pl.id] = true
		f, had := p.svc.Failures[pl.id]
		switch t := pl.last; {
		case t == nil, p.countUnprepared(pl):
		case failed(t) && p.deployment(t.Deployment) != nil && t.ID != f.Task:
			p.countFailure(pl, t, f)
		case had && pl.healthy() && pl.task.Deployment == f.Deployment && !p.notYet(aws.ToTime(t.Object.StartedAt).Add(p.cfg.RestartReset)):
			delete(p.svc.Failures, pl.id)
		}
	}
	var consecutive int32
	for id, f := range p.svc.Failures {
		if !known[id] {
			delete(p.svc.Failures, id)
		} else if f.Deployment == p.primary.id {
			consecutive += f.Count
		}
	}
	p.object(p.primary).FailedTasks = consecutive
	if !p.resets() {
		p.object(p.primary).FailedTasks = p.svc.Rollouts[p.primary.id].Failed
	}
}

func (p *pass) countFailure(pl *place, t *store.Task, before store.Failure) {
	if p.countTry(pl, t, before) {
		return
	}
	f := store.Failure{Deployment: t.Deployment, Task: t.ID, Count: 1, At: cmp.Or(aws.ToTime(t.Object.StoppedAt), p.now), Reason: whyStopped(t)}
	ran := time.Duration(0)
	if t.Object.StartedAt != nil {
		ran = f.At.Sub(*t.Object.StartedAt)
	}
	if before.Deployment == f.Deployment && ran < p.cfg.RestartReset {
		f.Count = before.Count + 1
	}
	if f.NotBefore = f.At.Add(p.delay(f.Count)); before.Deployment == f.Deployment {
		f.Tried, f.Before = before.Tried, before.Before
	} else {
		f.Before = before.Count >= inconsistent
	}
	if p.svc.Failures == nil {
		p.svc.Failures = map[string]store.Failure{}
	}
	p.svc.Failures[pl.id] = f
	p.tally(f.Deployment)
	if f.Count == inconsistent {
		p.sayOnce("(service %s) is unable to consistently start tasks successfully. For more information, see the Troubleshooting section of the Amazon ECS Developer Guide.", p.name)
	}
}

// delay is how long after the count-th failure in a row the next start is.
func (p *pass) delay(count int32) time.Duration {
	d := p.cfg.RestartDelay
	for range count - 1 {
		if d *= 2; d >= p.cfg.RestartDelayMax {
			return p.cfg.RestartDelayMax
		}
	}
	return min(d, p.cfg.RestartDelayMax)
}

// failed tells whether a task ended as no service wants it: by itself, or because it was unhealthy.
func failed(t *store.Task) bool {
	return task.Failed(t) || task.IsStopped(t) && aws.ToString(t.Object.StoppedReason) == task.ReasonUnhealthy
}

// whyStopped is a stopped task's reason, with that of the container which gave one.
func whyStopped(t *store.Task) string {
	reason := aws.ToString(t.Object.StoppedReason)
	for _, c := range t.Object.Containers {
		switch why := aws.ToString(c.Reason); {
		case why != "" && why != reason:
			return reason + " (container " + aws.ToString(c.Name) + ": " + why + ")"
		case aws.ToInt32(c.ExitCode) != 0:
			return reason + " (container " + aws.ToString(c.Name) + ": exit code " + itoa(*c.ExitCode) + ")"
		}
	}
	return reason
}
