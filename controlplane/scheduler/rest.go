package scheduler

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"

	"github.com/longshore-project/longshore/controlplane/scheduler/placement"
	"github.com/longshore-project/longshore/controlplane/scheduler/policy"
	"github.com/longshore-project/longshore/controlplane/store"
	"github.com/longshore-project/longshore/controlplane/task"
)

// Most of a large cluster is as it should be, or waits for its turn. A place of a service (an instance, and the service's tasks
// there) rests when a look found nothing to do there until something changes there or a known time has come. Of a REPLICA
// service, its tasks are healthy and of the only deployment; of a DAEMON service see standing. Resting places are left out of the
// next looks; what a look needs of them is how many there are, of a REPLICA service by availability zone, of a DAEMON service by
// standing. A look at a REPLICA service that is to choose among tasks at rest looks at all; where a wave of a DAEMON service
// begins, as many places as it takes are looked at again, in the order in which it would choose them. So a look costs what changed
// and not what exists.

// rests are the places of a service that rest, and those that don't. Instances without a task of it are no places of a REPLICA
// service.
type rests struct {
	shape string          // of the service that was looked at: another one rests nowhere
	at    map[string]rest // by instance
	tasks int             // of a REPLICA service, on all of them
	zones map[string]int  // by availability zone
	calm  calm            // of a DAEMON service
	awake map[string]bool // all other places

	line     []string        // places of a DAEMON service that no wave has reached, in order of id, and some that are awake; nil: not known
	inWaves  map[string]bool // what its roll-out has reached
	revision int64           // of the service's record that says so
}

// rest is a place that rests.
type rest struct {
	tasks int // of a REPLICA service
	zone  string
	one   *store.Task // one of them

	standing standing  // of a DAEMON service
	old      string    // the older deployment of which a task is there; empty: none is
	until    time.Time // when it has rested long enough, since the roll-out does not wait longer; zero: never
}

// newRests are places that don't rest.
func newRests(shape string) *rests {
	return &rests{shape: shape, at: map[string]rest{}, zones: map[string]int{}, calm: calm{tasks: map[string]int{}}, awake: map[string]bool{}}
}

// standing is how a place of a DAEMON service stands that rests.
type standing uint8

const (
	elsewhere standing = iota // the service does not belong there, and has no task there
	arrived                   // the new task is healthy, and an old one beside it stops
	coming                    // the old task stops, or the new one is not healthy yet
	relieved                  // the new task is not healthy yet, and the old one beside it is
	fetching                  // the old task is healthy, and is stopped when the images of the new one are there
	joining                   // the same, but the new one is started beside it then
	before                    // no wave has reached it, and the task of the deployment before is healthy
	standings
)

// calm sums the places of a DAEMON service up that rest.
type calm struct {
	of    [standings]int
	tasks map[string]int // of older deployments, by deployment
	until time.Time      // when the first of them has rested long enough, or sooner; zero: none ever has
}

func (c *calm) count(x rest, n int) {
	c.of[x.standing] += n
	if x.old != "" {
		c.tasks[x.old] += n
	}
}

// belong is how many of them the service belongs to.
func (c *calm) belong() int { return c.of[arrived] + c.underWay() + c.of[before] }

// underWay is how many of them a wave has reached whose new task is not healthy yet.
func (c *calm) underWay() int {
	return c.of[coming] + c.of[relieved] + c.of[fetching] + c.of[joining]
}

// served is on how many of them a healthy task is.
func (c *calm) served() int { return c.belong() - c.of[coming] }

// shape is what of a service decides where it belongs, and which deployment's tasks are the right ones.
func shape(svc *store.Service) string {
	var b strings.Builder
	fmt.Fprint(&b, aws.ToTime(svc.Object.CreatedAt).UnixNano(), aws.ToString(svc.Object.Status), policy.Surges(svc.Object.Tags))
	for _, d := range svc.Object.Deployments {
		fmt.Fprintf(&b, "\x00%s %s %s", aws.ToString(d.Id), aws.ToString(d.Status), aws.ToString(d.TaskDefinition))
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
		r = newRests(is)
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
		r.calm.count(x, -1)
		delete(r.at, id)
	}
	r.awake[id] = true
}

// settle takes over where a look found rest.
func (r *rests) settle(at map[string]rest) {
	for id, x := range at {
		if !r.awake[id] {
			continue
		}
		delete(r.awake, id)
		r.at[id] = x
		r.tasks += x.tasks
		r.zones[x.zone] += x.tasks
		r.calm.count(x, 1)
		r.calm.until = sooner(r.calm.until, x.until)
		if _, known := slices.BinarySearch(r.line, id); x.standing == before && !known {
			r.line = nil
		}
	}
}

// rouseDue has the places looked at again that have rested long enough.
func (r *rests) rouseDue(now time.Time) {
	if r.calm.until.IsZero() || r.calm.until.After(now) {
		return
	}
	r.calm.until = time.Time{}
	for id, x := range r.at {
		if !x.until.IsZero() && !x.until.After(now) {
			r.rouse(id)
		} else {
			r.calm.until = sooner(r.calm.until, x.until)
		}
	}
}

// next is the first of the places that no wave has reached; empty: there is none.
func (r *rests) next() string {
	if r.line == nil {
		for id, x := range r.at {
			if x.standing == before {
				r.line = append(r.line, id)
			}
		}
		slices.Sort(r.line)
	}
	for ; len(r.line) > 0; r.line = r.line[1:] {
		if r.at[r.line[0]].standing == before {
			return r.line[0]
		}
	}
	return ""
}

// choose has the first n of the places looked at again that no wave has reached, and tells whether there were any.
func (r *rests) choose(n int) (some bool) {
	for id := r.next(); id != "" && n > 0; id = r.next() {
		r.rouse(id)
		some = true
		n--
	}
	return some
}

// leaveOut puts into a snapshot of a DAEMON service what it has to know of the places that rest. It keeps in awake what is gone
// until the roll-out knows that.
func (r *rests) leaveOut(s *snapshot, exists func(id string) bool) {
	s.calm, s.next = r.calm, r.next
	if newest := primaryOf(s.service); len(r.at) > 0 && len(s.service.Object.Deployments) > 1 && newest != nil {
		if r.inWaves == nil || r.revision != s.service.Revision() {
			r.inWaves, r.revision = set(s.service.Rollouts[aws.ToString(newest.Id)].Instances), s.service.Revision()
		}
		s.inWaves, s.gone = r.inWaves, map[string]bool{}
	}
	for id := range r.awake {
		switch {
		case exists(id):
		case s.inWaves[id]:
			s.gone[id] = true
		default:
			delete(r.awake, id)
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
	r.rouseDue(s.now)
	r.leaveOut(s, func(id string) bool { return w.hosts[id] != nil })
	all := len(r.at) == 0
	if all {
		s.tasks = slices.Collect(v.LiveOf(w.cluster, name))
		s.preparations = preparationsOf(v, w.cluster, name)
	}
	for _, id := range slices.Sorted(maps.Keys(r.awake)) {
		h := w.hosts[id]
		if h != nil {
			s.hosts = append(s.hosts, h)
		}
		if all {
			continue
		}
		for t := range v.LiveOn(w.cluster, id) {
			if h != nil && t.Service == name {
				s.tasks = append(s.tasks, t)
			}
		}
		for x := range v.PreparationsOn(w.cluster, id) {
			if x.Service == name {
				s.preparations[id] = x
			}
		}
	}
	s.tasks = append(s.tasks, ended...)
}

// preparationsOf are the preparations of a service, by instance.
func preparationsOf(v *store.View, cluster, service string) map[string]*store.Preparation {
	by := map[string]*store.Preparation{}
	for x := range v.Preparations(cluster, service) {
		by[x.Instance] = x
	}
	return by
}

// restful are the places of a DAEMON service that the next looks may leave out. Where something was done just now there will
// be news.
func (p *pass) restful() map[string]rest {
	if p.plan.problem != nil {
		return nil
	}
	news := map[string]bool{}
	for _, t := range p.plan.stops {
		news[t.Instance] = true
	}
	for _, st := range p.plan.starts {
		news[st.task.Instance] = true
	}
	for _, x := range p.plan.prepares {
		news[x.Instance] = true
	}
	at := map[string]rest{}
	for _, pl := range p.places {
		_, failed := p.svc.Failures[pl.id]
		if failed || news[pl.id] || !pl.host.Connected || p.plan.waits[pl.id] || aws.ToString(pl.host.Instance.Object.Status) != active {
			continue
		}
		if x, rests := p.restAt(pl); rests && (x.until.IsZero() || x.until.After(p.now)) {
			at[pl.id] = x
		}
	}
	return at
}

// restAt tells whether a place rests, if its agent is connected and its task has not failed.
func (p *pass) restAt(pl *place) (x rest, rests bool) {
	for _, t := range []*store.Task{pl.task, pl.old} {
		if t != nil && t.Deployment != p.primary.id {
			x.old = t.Deployment
		}
	}
	t := pl.task
	switch {
	case t == nil || !pl.belongs:
		return x, t == nil && !pl.belongs
	case pl.of == p.primary && pl.healthy():
		x.standing = arrived
		return x, pl.old == nil || !task.Wanted(pl.old)
	case pl.of == p.primary:
		if x.standing = coming; p.served(pl) {
			x.standing = relieved
		}
		if p.base != nil && !p.cfg.RolloutParallel {
			x.until = aws.ToTime(t.Object.CreatedAt).Add(p.cfg.RolloutPatience)
		}
		return x, pl.runs() && t.Object.HealthStatus != types.HealthStatusUnhealthy && (pl.old == nil || task.Wanted(pl.old))
	case p.base == nil || pl.old != nil:
		return x, false
	case p.waiting[pl.id]:
		r := p.preparation(pl)
		if r == nil || r.Status != "" || !pl.healthy() || !t.ProtectedUntil.IsZero() {
			return x, false
		}
		if x.standing, x.until = fetching, r.Since.Add(p.cfg.PrepareWait); p.beside(pl) {
			x.standing = joining
		}
		return x, true
	case pl.target == p.primary:
		x.standing, x.until = coming, aws.ToTime(t.Object.StoppingAt).Add(p.cfg.RolloutPatience)
		return x, !pl.runs()
	}
	x.standing = before
	return x, pl.of == p.base && pl.healthy() && t.ProtectedUntil.IsZero()
}

// looked counts the records that looks had to do with, for tests.
func (w *worker) looked(records int) {
	if w.s.cfg.looked != nil {
		w.s.cfg.looked(records)
	}
}
