package scheduler

import (
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/longshore-project/longshore/controlplane/store"
	"github.com/longshore-project/longshore/controlplane/task"
)

// replicasOf puts into a snapshot of a REPLICA service its tasks that don't rest, and what is to be known of those that do.
func (w *worker) replicasOf(v *store.View, s *snapshot, ended []*store.Task) {
	name, is := aws.ToString(s.service.Object.ServiceName), shape(s.service)
	r := w.replicas[name]
	if r == nil || r.shape != is {
		r = newRests(is)
		for t := range v.LiveOf(w.cluster, name) {
			r.awake[t.Instance] = true
		}
		w.replicas[name] = r
	}
	for _, t := range ended { // its end may have been seen before the mark of its host was taken
		r.rouse(t.Instance)
	}
	for id := range r.awake {
		n := len(s.tasks)
		for t := range v.LiveOn(w.cluster, id) {
			if t.Service == name {
				s.tasks = append(s.tasks, t)
			}
		}
		if n == len(s.tasks) {
			delete(r.awake, id)
		}
	}
	slices.SortFunc(s.tasks, func(a, b *store.Task) int { return strings.Compare(a.ID, b.ID) })
	s.tasks = append(s.tasks, ended...)
	s.resting, s.restingZones = r.tasks, r.zones
	for _, x := range r.at {
		s.oneResting = x.one
		break
	}
}

// oversleeps tells whether tasks that rest have to be looked at one by one, because some are to be chosen.
func (r *replicaPass) oversleeps() bool {
	return r.resting > 0 && (r.frozen || r.count(r.old) > 0 || r.count(r.keeper) > r.desired)
}

// atRest tells whether nothing is to be done about a task, and time alone changes nothing.
func (r *replicaPass) atRest(x *replica) bool {
	return x.state == healthy && x.of == r.primary && task.Healthy(x.task, &x.of.def.Object) && !x.drains() && x.task.ProtectedUntil.IsZero() &&
		x.host != nil && x.host.Connected && aws.ToString(x.host.Instance.Object.Status) == active
}

// restful are the places that the next looks may leave out: all of the service's tasks there are at rest.
func (r *replicaPass) restful() map[string]rest {
	if len(r.older) > 0 || r.frozen || r.plan.problem != nil || r.svc.Rollouts[r.primary.id].Ahead != "" {
		return nil
	}
	for _, f := range r.svc.Failures {
		if f.Count > 0 { // tasks that stay healthy end them
			return nil
		}
	}
	quiet := map[string]bool{}
	at := map[string]rest{}
	for _, x := range r.replicas {
		if x.stands == 0 && r.atRest(x) {
			quiet[x.task.ID] = true
			here := at[x.task.Instance]
			at[x.task.Instance] = rest{tasks: here.tasks + 1, zone: zone(x.host), one: x.task}
		}
	}
	for _, t := range r.tasks {
		if !task.IsStopped(t) && !quiet[t.ID] {
			delete(at, t.Instance)
		}
	}
	for _, st := range r.plan.starts {
		delete(at, st.task.Instance)
	}
	return at
}
