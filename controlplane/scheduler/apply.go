package scheduler

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/longshore-project/longshore/controlplane/store"
)

// lanes is how many parts of a decision are written at the same time.
const lanes = 6

// work is what is left to be written of a decision.
type work struct {
	service *store.Service // as it was decided on, or written
	record  *store.Service // to be written first, so that what was begun is known; nil: it stays
	stops   []*store.Task
	starts  []start
	moves   []*store.Task
	events  []string
	// prepares are to be written, unprepares to be deleted.
	prepares, unprepares []*store.Preparation
	// allocations are those that were written, by instance.
	allocations map[string]*store.Allocation
}

// besides tells whether there is more than tasks to stop and to start.
func (w *work) besides() bool {
	return w.record != nil || len(w.moves) > 0 || len(w.events) > 0 || len(w.prepares)+len(w.unprepares) > 0
}

// apply writes a decision, in as many transactions as it takes: first what there is besides tasks to stop and to start, then
// these, side by side. A store that is nearly full takes no new tasks, but the rest.
func (w *worker) apply(ctx context.Context, s *snapshot, p *plan) error {
	starts := slices.Clone(p.starts)
	slices.SortStableFunc(starts, func(a, b start) int { return strings.Compare(a.task.Instance, b.task.Instance) })
	job := work{service: s.service, record: p.service, stops: p.stops, starts: starts, moves: p.moves, events: p.events,
		prepares: p.prepares, unprepares: p.unprepares, allocations: map[string]*store.Allocation{}}
	var full error
	for first := true; job.besides() || first && len(job.stops)+len(job.starts) > 0 && full == nil; first = false {
		rest, tell, err := w.step(ctx, job, full == nil)
		switch {
		case err == nil:
			job = rest
			tell()
		case errors.Is(err, store.ErrFull) && full == nil:
			full = err
		default:
			return err
		}
	}
	if full != nil {
		job.starts = nil
	}
	err := w.sideBySide(ctx, w.parts(job))
	if err != nil && !errors.Is(err, store.ErrFull) {
		return err
	}
	w.batch = min(2*w.batch, mostStarts)
	return errors.Join(full, err)
}

// parts divides what is left into rows that have nothing to do with each other. The tasks that are started on one instance
// are in one row, since each allocation follows the one before.
func (w *worker) parts(job work) (rows [][]work) {
	for stops := range slices.Chunk(job.stops, mostStops) {
		rows = append(rows, []work{{service: job.service, stops: stops}})
	}
	batch := w.batchOf(job.starts)
	for left := job.starts; len(left) > 0; {
		n := min(batch, len(left))
		for n < len(left) && left[n].task.Instance == left[n-1].task.Instance {
			n++
		}
		row := []work{}
		allocations := map[string]*store.Allocation{}
		for _, st := range left[:n] {
			if a := job.allocations[st.task.Instance]; a != nil {
				allocations[st.task.Instance] = a
			}
		}
		for starts := range slices.Chunk(left[:n], batch) {
			row = append(row, work{service: job.service, starts: starts, allocations: allocations})
		}
		rows = append(rows, row)
		left = left[n:]
	}
	return rows
}

// batchOf is how many of the tasks are started in one transaction: fewer when addresses are claimed too.
func (w *worker) batchOf(starts []start) int {
	if slices.ContainsFunc(starts, func(st start) bool { return len(st.task.Interfaces) > 0 }) {
		return min(w.batch, mostAwsvpcStarts)
	}
	return w.batch
}

// sideBySide writes rows of work; its error is the first one's.
func (w *worker) sideBySide(ctx context.Context, rows [][]work) error {
	var (
		wg    sync.WaitGroup
		mu    sync.Mutex
		first error
		told  []func()
	)
	turns := make(chan struct{}, lanes)
	for _, row := range rows {
		turns <- struct{}{}
		wg.Go(func() {
			defer func() { <-turns }()
			for _, part := range row {
				_, tell, err := w.step(ctx, part, true)
				mu.Lock()
				if err == nil {
					told = append(told, tell)
				} else if first == nil {
					first = err
				}
				mu.Unlock()
				if err != nil {
					return
				}
			}
		})
	}
	wg.Wait()
	for _, tell := range told {
		tell()
	}
	return first
}

// step writes a part of the work in one transaction, whose condition is the service as it was decided on. tell is to be
// called when it was written.
func (w *worker) step(ctx context.Context, job work, begin bool) (rest work, tell func(), err error) {
	txn := w.s.cfg.Store.Txn().Guard(w.lead)
	rest = work{service: job.service, allocations: job.allocations}
	if job.record != nil {
		rest.service = job.record
		txn.Update(job.record)
		w.s.cfg.Store.Peek(func(v *store.View) { RecordHistory(v, txn, job.record, w.cfg.Now()) })
	} else {
		txn.Unchanged(job.service)
	}
	now, later := min(len(job.stops), mostStops), min(len(job.starts), w.batchOf(job.starts))
	if !begin {
		later = 0
	}
	stops, starts := job.stops[:now], job.starts[:later]
	rest.stops, rest.starts = job.stops[now:], job.starts[later:]
	moves := job.moves[:min(len(job.moves), mostMoves)]
	rest.moves = job.moves[len(moves):]
	for _, t := range slices.Concat(stops, moves) {
		txn.Update(t)
	}
	asked, over := job.prepares[:min(len(job.prepares), mostPrepares)], job.unprepares[:min(len(job.unprepares), mostPrepares)]
	rest.prepares, rest.unprepares = job.prepares[len(asked):], job.unprepares[len(over):]
	for _, r := range asked {
		txn.Update(r)
	}
	for _, r := range over {
		txn.Delete(r)
	}
	placed := w.place(txn, job, starts)
	events := w.tellOf(job, stops, starts)
	if len(starts) == 0 {
		txn.StateChange()
	}
	for i, message := range events {
		txn.Create(w.event(*job.service.Object.ServiceName, message, i))
	}
	if err := w.commit(ctx, txn); err != nil {
		return job, nil, err
	}
	maps.Copy(job.allocations, placed)
	return rest, func() { w.tell(job.service, stops, starts, events) }, nil
}
