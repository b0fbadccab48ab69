package scheduler

import (
	"reflect"
	"regexp"

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
	why := ""
	switch {
	case len(p.stops) != len(all.stops):
		why = "the stops"
	case len(p.starts) != len(all.starts):
		why = "the starts"
	case !p.wake.Equal(all.wake):
		why = "the time of the next look"
	case len(p.starts) == 0 && !reflect.DeepEqual(p.service, all.service):
		why = "the record"
	}
	for i, t := range p.stops {
		if why == "" && t.ID != all.stops[i].ID {
			why = "what is stopped"
		}
	}
	for i := range max(len(p.events), len(all.events)) {
		if why == "" && (len(p.events) != len(all.events) || taskID.ReplaceAllString(p.events[i], "") != taskID.ReplaceAllString(all.events[i], "")) {
			why = "the events"
		}
	}
	if why != "" {
		w.t.Fatalf("a look that leaves out %d tasks at rest decides as one that looks at all: %s differ: %d stops, %d starts, wake %s, %q, record\n%s\nwithout them, and %d stops, %d starts, wake %s, %q, record\n%s\nwith them; events: %s",
			s.resting, why, len(p.stops), len(p.starts), p.wake, p.events, show(p.service), len(all.stops), len(all.starts), all.wake, all.events, show(all.service), w.history())
	}
}
