package scheduler

import (
	"maps"
	"reflect"
	"regexp"
	"slices"

	"github.com/longshore-project/longshore/controlplane/scheduler/placement"
	"github.com/longshore-project/longshore/controlplane/store"
	"github.com/longshore-project/longshore/controlplane/task"
)

// A restingPlace is what a worker knows of a place that rests, and all on which that depends.
type restingPlace struct {
	rest
	shape     string
	tasks     []*store.Task
	inst      *store.Instance
	connected bool
	prepares  *store.Preparation
}

// place is a place of the service as it is.
func (w *replicaWorld) place(s *snapshot, id string) restingPlace {
	x := restingPlace{shape: shape(s.service)}
	if h := w.hosts[id]; h != nil {
		x.inst, x.connected = h.inst, h.connected
	}
	for _, t := range w.world.tasks {
		if t.Instance == id {
			x.tasks = append(x.tasks, t)
		}
	}
	return x
}

// rest remembers where a look found rest.
func (w *replicaWorld) rest(s snapshot, p *plan) {
	if w.resting == nil {
		w.resting = map[string]restingPlace{}
	}
	for id, x := range p.rests {
		at := w.place(&s, id)
		at.rest = x
		w.resting[id] = at
	}
}

var taskID = regexp.MustCompile(`[0-9a-f]{32}`)

// compareWithResting checks that a look which leaves out what rests decides as one that looks at all.
func (w *replicaWorld) compareWithResting(all *plan) {
	w.t.Helper()
	s := w.snapshot()
	s.restingZones = map[string]int{}
	for id, x := range w.resting {
		now := w.place(&s, id)
		now.rest = x.rest
		if !reflect.DeepEqual(now, x) {
			delete(w.resting, id)
			continue
		}
		s.resting += x.rest.tasks
		s.restingZones[x.zone] += x.rest.tasks
		s.oneResting = x.one
	}
	if s.resting == 0 {
		return
	}
	var awake []*store.Task
	for _, t := range s.tasks {
		if _, rests := w.resting[t.Instance]; !rests || task.IsStopped(t) {
			awake = append(awake, t)
		}
	}
	s.tasks = awake
	p := reconcile(s, &w.cfg)
	if p.all {
		return // it looks at all
	}
	why := differs(p, all)
	if why == "" && !p.wake.Equal(all.wake) {
		why = "the time of the next look"
	}
	if why != "" {
		w.t.Fatalf("a look that leaves out %d tasks at rest decides as one that looks at all: %s differ: %d stops, %d starts, wake %s, %q, record\n%s\nwithout them, and %d stops, %d starts, wake %s, %q, record\n%s\nwith them; events: %s",
			s.resting, why, len(p.stops), len(p.starts), p.wake, p.events, show(p.service), len(all.stops), len(all.starts), all.wake, all.events, show(all.service), w.history())
	}
}

// differs says in what two decisions about the same differ.
func differs(p, all *plan) string {
	switch {
	case len(p.stops) != len(all.stops):
		return "the stops"
	case len(p.starts) != len(all.starts):
		return "the starts"
	case len(p.starts) == 0 && !reflect.DeepEqual(p.service, all.service):
		return "the record"
	case len(p.events) != len(all.events):
		return "the events"
	}
	for i, t := range p.stops {
		if t.ID != all.stops[i].ID {
			return "what is stopped"
		}
	}
	for i := range p.events {
		if taskID.ReplaceAllString(p.events[i], "") != taskID.ReplaceAllString(all.events[i], "") {
			return "the events"
		}
	}
	return ""
}

// place is a place of the service as it is.
func (w *world) place(id string) (x restingPlace) {
	x.prepares = w.preparations[id]
	if h := w.hosts[id]; h != nil {
		x.inst, x.connected = h.inst, h.connected
	}
	for _, t := range w.tasks {
		if t.Instance == id {
			x.tasks = append(x.tasks, t)
		}
	}
	return x
}

// leaveOut puts the places that rest out of a snapshot, as a worker does.
func (w *world) leaveOut(s snapshot) snapshot {
	r := w.rests
	r.rouseDue(s.now)
	r.inWaves = nil // there are no revisions here
	r.leaveOut(&s, func(id string) bool { return w.hosts[id] != nil })
	s.hosts = slices.DeleteFunc(slices.Clone(s.hosts), func(h *placement.Host) bool { return !r.awake[h.Instance.ID] })
	w.looked += len(s.hosts)
	s.preparations = maps.Clone(s.preparations)
	maps.DeleteFunc(s.preparations, func(id string, _ *store.Preparation) bool { _, rests := r.at[id]; return rests })
	s.tasks = slices.DeleteFunc(slices.Clone(s.tasks), func(t *store.Task) bool { _, rests := r.at[t.Instance]; return rests })
	return s
}

// compareWithResting checks that a look which leaves out what rests decides as one that looks at all.
func (w *world) compareWithResting(all *plan) {
	w.t.Helper()
	s := w.snapshot()
	whole := func() {
		w.rests, w.rested = newRests(shape(s.service)), map[string]restingPlace{}
		for id := range w.hosts {
			w.rests.awake[id] = true
		}
	}
	if w.rests == nil || w.rests.shape != shape(s.service) {
		whole()
	}
	for id := range w.hosts {
		if _, rests := w.rests.at[id]; !rests {
			w.rests.rouse(id)
		}
	}
	for id, was := range w.rested {
		if !reflect.DeepEqual(was, w.place(id)) {
			w.rests.rouse(id)
			delete(w.rested, id)
		}
	}
	part := w.leaveOut(s)
	p := reconcile(part, &w.cfg)
	for more := 0; p.all || p.more > 0; p = reconcile(part, &w.cfg) {
		if more = max(2*more, p.more); p.all || !w.rests.choose(more) {
			whole()
		}
		part = w.leaveOut(s)
	}
	why := differs(p, all)
	for i := range p.starts {
		if why == "" && (p.starts[i].task.Instance != all.starts[i].task.Instance || p.starts[i].task.Deployment != all.starts[i].task.Deployment) {
			why = "what is started"
		}
	}
	switch {
	case why != "":
	case !reflect.DeepEqual(p.service, all.service):
		why = "the record"
	case len(p.prepares) != len(all.prepares) || len(p.unprepares) != len(all.unprepares):
		why = "the preparations"
	case !reflect.DeepEqual(p.waits, all.waits):
		why = "what is waited for"
	case !p.wake.Equal(all.wake) && (p.wake.IsZero() || !p.wake.Equal(part.calm.until)): // one that stood until then may have been roused since
		why = "the time of the next look"
	}
	if why != "" {
		w.t.Fatalf("a look that leaves out %d places at rest (%+v) decides as one that looks at all: %s differ: %d stops, %d starts, wake %s, %q, record\n%s\nwithout them, and %d stops, %d starts, wake %s, %q, record\n%s\nwith them; was %s; events: %s",
			len(w.rests.at), part.calm, why, len(p.stops), len(p.starts), p.wake, p.events, show(p.service), len(all.stops), len(all.starts), all.wake, all.events, show(all.service), show(w.svc), w.history())
	}
	w.rests.settle(p.rests)
	for id := range p.rests {
		w.rested[id] = w.place(id)
	}
}
