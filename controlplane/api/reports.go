package api

import (
	"context"
	"errors"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/longshore-project/longshore/controlplane/scheduler/placement"
	"github.com/longshore-project/longshore/controlplane/store"
	"github.com/longshore-project/longshore/controlplane/task"
)

// What an instance's agent reports about several tasks at once is written together: each end of a task changes the instance's
// allocation, so that one by one they would conflict with each other. While one transaction is under way, what comes gathers
// for the next. Who waits at the head of the queue writes for all, and then hands on.

// reports are the queues, by cluster and instance.
type reports struct {
	s  *Server
	mu sync.Mutex
	of map[string][]*report
}

// A report is a call about one task, on its way into the store.
type report struct {
	c       *call
	cluster *string
	ref     string
	change  task.StateChange

	err  error
	done chan struct{} // closed when err is what the agent is told
	head chan struct{} // closed when it is at the head of the queue
}

// record returns when the report is in the store, or can't be. That takes no longer than a call may.
func (q *reports) record(r *report) error {
	r.done, r.head = make(chan struct{}), make(chan struct{})
	at := q.place(r)
	q.mu.Lock()
	first := len(q.of[at]) == 0
	q.of[at] = append(q.of[at], r)
	q.mu.Unlock()
	if !first {
		select { // never both: the head has not been written
		case <-r.done:
			return r.err
		case <-r.head:
		}
	}
	q.mu.Lock()
	batch := q.of[at][:min(len(q.of[at]), task.MaxFinish)]
	q.mu.Unlock()
	// Others' reports are in it: they don't end with this one's caller.
	ctx, cancel := context.WithTimeout(context.Background(), q.s.cfg.CallTimeout)
	for left := batch; len(left) > 0; { // what a report makes of a task with an interface may be two steps; an agent that hears no answer repeats it
		left = q.step(ctx, left)
	}
	cancel()
	q.mu.Lock()
	rest := q.of[at][len(batch):]
	if q.of[at] = rest; len(rest) == 0 {
		delete(q.of, at)
	} else {
		close(rest[0].head)
	}
	q.mu.Unlock()
	for _, other := range batch[1:] {
		close(other.done)
	}
	return r.err
}

// place is the queue of a report: its task's instance, as far as that is known.
func (q *reports) place(r *report) (at string) {
	at = "?" + r.ref
	cluster, err := q.s.clusterRef(r.cluster)
	if err != nil {
		return at
	}
	q.s.store.Peek(func(v *store.View) {
		if t := v.Task(cluster, r.ref[strings.LastIndexByte(r.ref, '/')+1:]); t != nil {
			at = cluster + "/" + t.Instance
		}
	})
	return at
}

// step writes a step of each report, sets the errors of those that can't be, and returns those that make another step.
func (q *reports) step(ctx context.Context, batch []*report) (left []*report) {
	now := q.s.cfg.Now().UTC().Truncate(time.Millisecond)
	err := q.s.change(ctx, func(v *store.View, txn *store.Txn) error {
		left = nil
		changed := map[string]*store.Task{}
		fixed := map[*store.ServiceRevision]*store.ServiceRevision{}
		var order []string
		for _, r := range batch {
			t, err := q.s.reportedTask(v, r.c, r.cluster, r.ref)
			if r.err = err; err != nil {
				continue
			}
			was, again := changed[t.ID]
			if !again {
				was = t
			}
			n, ok := task.Apply(was, r.change, now)
			if !ok {
				continue
			}
			if !again {
				order = append(order, t.ID)
			}
			changed[t.ID] = n
			if task.LastStatus(n) == task.Deprovisioning {
				left = append(left, r)
			}
			fixImages(v, n, fixed)
		}
		if len(order) == 0 {
			return errNothingToDo
		}
		tasks := make([]*store.Task, len(order))
		for i, id := range order {
			tasks[i] = changed[id]
		}
		task.Finish(txn, v, tasks...)
		for _, n := range fixed {
			txn.Update(n)
		}
		return nil
	})
	switch {
	case err == nil:
		return left
	case errors.Is(err, store.ErrInvalid) && len(batch) > 1: // because of one of them
		left = nil
		for _, r := range batch {
			left = append(left, q.step(ctx, []*report{r})...)
		}
		return left
	}
	for _, r := range batch {
		if r.err == nil {
			r.err = err
		}
	}
	return nil
}

// fixImages fixes the digests that a task reports in its service's revision, by which they are known from then on.
func fixImages(v *store.View, t *store.Task, fixed map[*store.ServiceRevision]*store.ServiceRevision) {
	def, revision := placement.Definition(v, aws.ToString(t.Object.TaskDefinitionArn)), task.RevisionOf(v, t.Cluster, t.Service, t.Deployment)
	if def == nil || revision == nil {
		return
	}
	is := revision
	if n := fixed[revision]; n != nil {
		is = n
	}
	if n := task.FixImages(is, &def.Object, t); n != nil {
		fixed[revision] = n
	}
}
