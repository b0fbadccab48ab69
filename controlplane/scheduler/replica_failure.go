package scheduler

import (
	"cmp"
	"slices"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"

	"github.com/longshore-project/longshore/controlplane/store"
	"github.com/longshore-project/longshore/controlplane/task"
)

// mostFailures bounds the instances of which failures are remembered.
const mostFailures = 100

// failedOn is what is known about failed tasks of the target on an instance.
func (r *replicaPass) failedOn(instance string) store.Failure {
	d := r.target
	if d == nil {
		d = r.primary
	}
	if f := r.svc.Failures[instance]; f.Deployment == d.id && instance != "" {
		return f
	}
	return store.Failure{}
}

// countEnds brings the record of failures up to date: for each instance, so that a broken one delays only itself, and for
// all, so that tasks which fail everywhere are retried with growing delay. Each end counts once: it is known by the
// revision at which it was written.
func (r *replicaPass) countEnds() {
	r.forgetFailures()
	f := r.svc.Failures[""]
	since := f.Seen
	if f.Deployment == "" {
		since = r.service.Revision()
	}
	var ends []*store.Task
	for _, t := range r.tasks {
		if failed(t) && r.deployment(t.Deployment) != nil && t.Revision() > since {
			ends = append(ends, t)
		}
	}
	slices.SortFunc(ends, func(a, b *store.Task) int { return cmp.Compare(a.Revision(), b.Revision()) })
	for _, t := range ends {
		r.countEnd(t)
	}
	r.countUnpreparedAnywhere()
	r.object(r.primary).FailedTasks = 0
	if f := r.svc.Failures[""]; f.Deployment == r.primary.id {
		r.object(r.primary).FailedTasks = f.Count
	}
}

func (r *replicaPass) countEnd(t *store.Task) {
	at, ran := cmp.Or(aws.ToTime(t.Object.StoppedAt), r.now), time.Duration(0)
	if t.Object.StartedAt != nil {
		ran = at.Sub(*t.Object.StartedAt)
	}
	if r.svc.Failures == nil {
		r.svc.Failures = map[string]store.Failure{}
	}
	all := r.svc.Failures[""]
	all.Seen = t.Revision()
	current := t.Deployment == r.primary.id || r.object(r.primary).RolloutState == types.DeploymentRolloutStateFailed
	if !current { // what is being replaced is replaced by something else
		if all.Deployment == "" {
			all.Deployment = r.primary.id
		}
		r.svc.Failures[""] = all
		return
	}
	if all.Deployment != t.Deployment {
		all = store.Failure{Deployment: t.Deployment, Seen: all.Seen}
	}
	if ran >= r.cfg.RestartReset {
		all.Rounds = 0
		if r.resets() {
			all.Count = 0
		}
	}
	// Those that were started together are one round, however many failed.
	if all.Rounds == 0 || !aws.ToTime(t.Object.CreatedAt).Before(all.NotBefore.Truncate(time.Millisecond)) {
		all.Rounds++
		all.NotBefore = at.Add(r.delay(all.Rounds))
		if all.Rounds == inconsistent {
			r.sayOnce("(service %s) is unable to consistently start tasks successfully. For more information, see the Troubleshooting section of the Amazon ECS Developer Guide.", r.name)
		}
	}
	all.Count++
	all.Task, all.At, all.Reason = t.ID, at, whyStopped(t)
	r.svc.Failures[""] = all

	here, known := r.svc.Failures[t.Instance]
	if here.Deployment != t.Deployment || ran >= r.cfg.RestartReset {
		here = store.Failure{Deployment: t.Deployment}
	}
	here.Count++
	here.Task, here.At, here.Reason = t.ID, at, all.Reason
	here.NotBefore = at.Add(r.delay(here.Count))
	if known || len(r.svc.Failures) <= mostFailures {
		r.svc.Failures[t.Instance] = here
	}
}

// forgetFailures ends rows of failures: by a task that was started after the last one and has been healthy for
// RestartReset, and on an instance also by time.
func (r *replicaPass) forgetFailures() {
	for id, f := range r.svc.Failures {
		if r.deployment(f.Deployment) == nil || id != "" && f.At.Add(2*r.cfg.RestartDelayMax).Before(r.now) {
			delete(r.svc.Failures, id)
		}
	}
	for _, x := range r.replicas {
		if x.of == nil || !task.Healthy(x.task, &x.of.def.Object) {
			continue
		}
		long := aws.ToTime(x.task.Object.StartedAt).Add(r.cfg.RestartReset)
		for _, id := range []string{"", x.task.Instance} {
			f, ok := r.svc.Failures[id]
			if !ok || f.Deployment != x.of.id || f.Count == 0 || aws.ToTime(x.task.Object.CreatedAt).Before(f.At.Truncate(time.Millisecond)) || r.notYet(long) {
				continue
			}
			switch {
			case id != "":
				delete(r.svc.Failures, id)
			case r.resets():
				r.svc.Failures[id] = store.Failure{Deployment: f.Deployment, Seen: f.Seen}
			case f.Rounds > 0:
				f.Rounds, f.NotBefore = 0, time.Time{}
				r.svc.Failures[id] = f
			}
		}
	}
}
