package engine

import (
	"context"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"
)

// An orphan is a container that carries our labels and that no task on record has: it was made by an order of the agent that
// took effect after the task was given up, it came back with a restored disk, or its labels can't be read. It is found by the
// looks at all containers, the second time it is seen. What happens to it is the policy's to say; what does not carry
// LabelTask was made by somebody else, and is never touched.

// The policies for orphans.
const (
	OrphansKeep   = "keep"   // leave them; say so
	OrphansStop   = "stop"   // end their processes
	OrphansRemove = "remove" // end their processes and remove them
)

// Orphan is a container of ours that no task has.
type Orphan struct {
	ID      string
	Name    string
	TaskArn string
	Running bool
	Since   time.Time // when it was first seen
	Why     string    // why no task has it
	Done    string    // what was done about it; empty: nothing
}

type orphans struct {
	e *Engine

	mu    sync.Mutex
	found map[string]*orphanage // by container id
}

type orphanage struct {
	Orphan
	looks int
	busy  bool
	tries int
	next  time.Time // of the next try
}

const orphanLooks = 2

// Orphans returns the containers of ours that no task has, as the last looks found them.
func (e *Engine) Orphans() []Orphan {
	e.orphans.mu.Lock()
	defer e.orphans.mu.Unlock()
	var out []Orphan
	for _, id := range sortedKeys(e.orphans.found) {
		if o := e.orphans.found[id]; o.looks >= orphanLooks {
			out = append(out, o.Orphan)
		}
	}
	return out
}

// look compares a list with what the tasks have. unwanted says of tasks without a worker, or with one that has no such
// container, why nobody wants it; the observer alone calls it.
func (o *orphans) look(ctx context.Context, strays []stray) {
	o.mu.Lock()
	defer o.mu.Unlock()
	now, seen := time.Now(), map[string]bool{}
	for _, s := range strays {
		seen[s.ID] = true
		f := o.found[s.ID]
		if f == nil {
			f = &orphanage{Orphan: Orphan{ID: s.ID, Name: s.Name, TaskArn: s.Labels[LabelTaskArn], Since: now}}
			o.found[s.ID] = f
		}
		f.Running, f.Why = s.Status == StatusRunning, s.why
		if f.looks++; f.looks == orphanLooks {
			o.e.cfg.Log.Warn("A container carries the agent's labels and belongs to no task on record", zap.String("task", f.TaskArn), zap.String("step", "orphan"),
				zap.String("name", f.Name), zap.String("id", shortID(f.ID)), zap.Bool("running", f.Running), zap.String("why", f.Why), zap.String("policy", o.policy(s)))
		}
		if f.looks >= orphanLooks && !f.busy && !now.Before(f.next) {
			o.act(ctx, f, o.policy(s))
		}
	}
	for id, f := range o.found {
		if !seen[id] && !f.busy {
			delete(o.found, id)
		}
	}
}

// policy is the configured one, except that a task which the control plane wants stopped is stopped.
func (o *orphans) policy(s stray) string {
	if s.stop && o.e.cfg.OrphanPolicy == OrphansKeep {
		return OrphansStop
	}
	return o.e.cfg.OrphanPolicy
}

// act does what the policy says, in a goroutine of its own. The mutex is held.
func (o *orphans) act(ctx context.Context, f *orphanage, policy string) {
	if policy == OrphansKeep || policy == OrphansStop && !f.Running {
		return
	}
	f.busy = true
	id := f.ID
	o.e.running.Go(func() {
		ctx, cancel := context.WithTimeout(ctx, o.e.cfg.StopTimeout+o.e.cfg.AnswerMargin)
		defer cancel()
		err := o.e.cfg.Runtime.Stop(ctx, id, o.e.cfg.StopTimeout)
		if err == nil && policy == OrphansRemove {
			err = o.e.cfg.Runtime.Remove(ctx, id)
		}
		o.mu.Lock()
		defer o.mu.Unlock()
		f.busy = false
		log := o.e.cfg.Log.With(zap.String("task", f.TaskArn), zap.String("step", "orphan"), zap.String("name", f.Name), zap.String("id", shortID(id)))
		if err != nil {
			f.tries++
			f.next = time.Now().Add(backOff(f.tries))
			log.Error("An orphan could not be handled; it is tried again", zap.String("policy", policy), zap.Error(err), zap.Time("next try", f.next))
			return
		}
		f.Running, f.tries = false, 0
		f.Done = map[string]string{OrphansStop: "stopped", OrphansRemove: "stopped and removed"}[policy]
		log.Warn("An orphan was " + f.Done)
		o.e.observer.suspect()
	})
}

// stray is a container of a list that no task has.
type stray struct {
	State
	why  string
	stop bool // the control plane wants its task stopped
}

// strays finds them. The engine's mutex is held. Containers of another cluster, and those without LabelTask, are somebody
// else's.
func (e *Engine) strays(byTask map[string][]State) []stray {
	var out []stray
	for _, arn := range sortedKeys(byTask) {
		w := e.workers[arn]
		var s *TaskStatus
		if w != nil {
			if s = w.status.Load(); s == nil {
				continue // it is just being accepted
			}
		}
		for _, st := range byTask[arn] {
			if st.Labels[LabelTask] == "" || !sameCluster(st.Labels[LabelCluster], e.cfg.Host.Cluster) {
				continue
			}
			switch {
			case s != nil && Internal(st.Labels[LabelContainerName]):
			case s == nil && e.disowned(st) != "":
				out = append(out, stray{State: st, why: e.disowned(st)})
			case s == nil && e.past.get(arn) != nil:
				out = append(out, stray{State: st, why: "its task has ended and was cleaned up"})
			case s == nil:
				out = append(out, stray{State: st, why: "no such task is on record"})
			case !s.has(st.Name):
				out = append(out, stray{State: st, why: "its task is on record and has no container of this name", stop: s.Desired == statusStopped})
			}
		}
	}
	return out
}

// has reports whether a container of that name on the engine is one of the task's.
func (s *TaskStatus) has(name string) bool {
	for _, c := range s.Containers {
		if c.RuntimeName == name {
			return true
		}
	}
	return false
}

func toText(b []byte) string { return strings.ToValidUTF8(string(b), "\uFFFD") }
