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

// Most of a large cluster is as it should be. A place of a service (an instance, and the service's tasks there) rests when a
// look found nothing to do there, and nothing that time alone would change: its tasks are healthy and of the only
// deployment, or a DAEMON service does not belong there and has no task there. Resting places are left out of the next
// looks, until something changes there; what a look needs of them is how many tasks rest, of a REPLICA service by
// availability zone. One that is to choose among tasks at rest looks at all. So a look costs what changed and not what
// exists.

// rests are the places of a service that rest, and those that don't. Instances without a task of it are no places of a REPLICA
// service.
type rests struct {
	shape string          // of the service that was looked at: another one rests nowhere
	at    map[string]rest // by instance
	tasks int             // on all of them
	zones map[string]int  // by availability zone
	awake map[string]bool // all other places
}

// rest is a place that rests.
type rest struct {
	tasks int // of a DAEMON service 1 where it belongs
	zone  string
	one   *store.Task // one of them
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
		r = &rests{shape: is, at: map[string]rest{}, zones: map[string]int{}, awake: make(map[string]bool, len(w.hosts))}
		for id := range w.hosts {
			r.awake[id] = true
		}
		w.rests[name] = r
	}
	return r
}

// rouse has an instance looked at again.
func (r *rests) rouse(id string) {
	if x, ok := r.at[id]; ok {
		r.tasks -= x.tasks
		r.zones[x.zone] -= x.tasks
		delete(r.at, id)
	}
	r.awake[id] = true
}

// settle takes over where a look found rest.
func (r *rests) settle(at map[string]rest) {
	for id, x := range at {
		if r.awake[id] {
			delete(r.awake, id)
			r.at[id] = x
			r.tasks += x.tasks
			r.zones[x.zone] += x.tasks
		}
	}
}

// rouse has an instance looked at again by the services that it concerns: by all DAEMON services, and by those that have
// tasks there, as it was and as it is.
func (w *worker) rouse(id string, was, is *placement.Host) {
	for _, r := range w.rests {
		r.rouse(id)
	}
	for _, h := range []*placement.Host{was, is} {
		if h == nil {
			continue
		}
		for _, t := range h.Tasks {
			if r := w.replicas[t.Service]; r != nil {
				r.rouse(id)
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
	s.resting = r.tasks
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

// restful are the places of a DAEMON service that the next looks may leave out.
func (p *pass) restful() map[string]rest {
	if len(p.older) > 0 || p.plan.problem != nil {
		return nil
	}
	at := map[string]rest{}
	for _, pl := range p.places {
		_, failed := p.svc.Failures[pl.id]
		if failed || !pl.host.Connected || p.plan.waits[pl.id] || aws.ToString(pl.host.Instance.Object.Status) != active {
			continue
		}
		switch {
		case pl.old != nil:
		case pl.belongs && pl.of == p.primary && pl.healthy():
			at[pl.id] = rest{tasks: 1}
		case !pl.belongs && pl.task == nil:
			at[pl.id] = rest{}
		}
	}
	return at
}

// looked counts the records that looks had to do with, for tests.
func (w *worker) looked(records int) {
	if w.s.cfg.looked != nil {
		w.s.cfg.looked(records)
	}
}
