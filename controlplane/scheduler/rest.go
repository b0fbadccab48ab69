package scheduler

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/longshore-project/longshore/controlplane/scheduler/placement"
	"github.com/longshore-project/longshore/controlplane/store"
)

// Most of a large cluster is as it should be. A place of a DAEMON service rests when a look found nothing to do there, and
// nothing that time alone would change: its task is healthy and of the only deployment, or the service does not belong
// there and has no task there. Resting places are left out of the next looks, until something changes there; what a look
// needs of them is their number. So a look costs what changed and not what exists.

// rests are the places of a service that rest, and those that don't.
type rests struct {
	shape  string          // of the service that was looked at: another one rests nowhere
	at     map[string]bool // by instance that rests: whether the service belongs there
	belong int             // on how many of them
	awake  map[string]bool // all other instances
}

// shape is what of a service decides where it belongs, and which deployment's tasks are the right ones.
func shape(svc *store.Service) string {
	var b strings.Builder
	fmt.Fprint(&b, aws.ToTime(svc.Object.CreatedAt).UnixNano(), aws.ToString(svc.Object.Status))
	for _, d := range svc.Object.Deployments {
		fmt.Fprintf(&b, "\x00%s %s", aws.ToString(d.Id), aws.ToString(d.TaskDefinition))
	}
	for _, c := range svc.Object.PlacementConstraints {
		fmt.Fprintf(&b, "\x00%s %s", c.Type, aws.ToString(c.Expression))
	}
	return b.String()
}

// restOf are the places of a service, as far as they are known for its shape.
func (w *worker) restOf(svc *store.Service) *rests {
	name, is := aws.ToString(svc.Object.ServiceName), shape(svc)
	if svc.Object.NetworkConfiguration != nil {
		is += fmt.Sprint("\x00network ", w.cfg.Network.Version())
	}
	r := w.rests[name]
	if r == nil || r.shape != is {
		r = &rests{shape: is, at: map[string]bool{}, awake: make(map[string]bool, len(w.hosts))}
		for id := range w.hosts {
			r.awake[id] = true
		}
		w.rests[name] = r
	}
	return r
}

// rouse has an instance looked at again.
func (r *rests) rouse(id string) {
	if r.at[id] {
		r.belong--
	}
	delete(r.at, id)
	r.awake[id] = true
}

// settle takes over where a look found rest.
func (r *rests) settle(at map[string]bool) {
	for id, belongs := range at {
		if r.awake[id] {
			delete(r.awake, id)
			if r.at[id] = belongs; belongs {
				r.belong++
			}
		}
	}
}

// places puts into a snapshot of a DAEMON service the hosts that don't rest, and the tasks there.
func (w *worker) places(v *store.View, s *snapshot, ended []*store.Task) {
	name := aws.ToString(s.service.Object.ServiceName)
	r := w.restOf(s.service)
	for _, t := range ended { // its end may have been seen before the mark of its host was taken
		r.rouse(t.Instance)
	}
	s.resting = r.belong
	all := len(r.at) == 0
	if all {
		s.tasks = slices.Collect(v.LiveOf(w.cluster, name))
	}
	for _, id := range slices.Sorted(maps.Keys(r.awake)) {
		h := w.hosts[id]
		if h == nil {
			delete(r.awake, id)
			continue
		}
		s.hosts = append(s.hosts, h)
		if all {
			continue
		}
		for t := range v.LiveOn(w.cluster, id) {
			if t.Service == name {
				s.tasks = append(s.tasks, t)
			}
		}
	}
	s.tasks = append(s.tasks, ended...)
}

// restful are the places that the next looks may leave out, by instance: whether the service belongs there.
func (p *pass) restful() map[string]bool {
	if len(p.older) > 0 || p.plan.problem != nil {
		return nil
	}
	at := map[string]bool{}
	for _, pl := range p.places {
		_, failed := p.svc.Failures[pl.id]
		if failed || !pl.host.Connected || p.plan.waits[pl.id] || aws.ToString(pl.host.Instance.Object.Status) != active {
			continue
		}
		switch {
		case pl.old != nil:
		case pl.belongs && pl.of == p.primary && pl.healthy():
			at[pl.id] = true
		case !pl.belongs && pl.task == nil:
			at[pl.id] = false
		}
	}
	return at
}

// looked counts the hosts that looks at DAEMON services had to do with, for tests.
func (w *worker) looked(hosts []*placement.Host) {
	if w.s.cfg.looked != nil {
		w.s.cfg.looked(len(hosts))
	}
}
