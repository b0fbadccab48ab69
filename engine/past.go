package engine

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/containerd/errdefs"
)

// What is left of a stopped task once its containers are removed is its record: how each container ended, the tail of its
// output, and the end of the timeline. The last Config.KeepPerFamily of each family are kept, in the place in which the
// record always was. Such a task has no worker; a payload that names it again is answered from the record, and runs nothing.

const (
	pastLimit    = 200     // records of all families
	pastTimeline = 40      // steps of a record's timeline
	tailLines    = 50      // of a container's output…
	tailBytes    = 8 << 10 // …that are kept, at most so many bytes of them
	logTries     = 3       // of reading it
	logTimeout   = 20 * time.Second
)

// LogTail is the end of a container's output, read before the container was removed.
type LogTail struct {
	Text string `json:"text,omitempty"`
	Note string `json:"note,omitempty"` // why there is none
}

// past holds the records of tasks whose containers are removed.
type past struct {
	perFamily int

	mu      sync.Mutex
	records map[string]*TaskRecord // by task ARN
}

// get returns a record, nil if there is none.
func (p *past) get(arn string) *TaskRecord {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.records[arn]
}

func (p *past) drop(arn string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.records, arn)
}

// add takes in a record and returns the ARNs of those that are too many now, the given one perhaps among them.
func (p *past) add(rec *TaskRecord) (tooMany []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.records[rec.Task.Arn] = rec
	family := 0
	for i, r := range newestFirst(p.records) {
		if r.Task.Family == rec.Task.Family {
			family++
		}
		if r.Task.Family == rec.Task.Family && family > p.perFamily || i >= pastLimit {
			tooMany = append(tooMany, r.Task.Arn)
			delete(p.records, r.Task.Arn)
		}
	}
	return tooMany
}

func (p *past) all() []*TaskRecord {
	p.mu.Lock()
	defer p.mu.Unlock()
	return newestFirst(p.records)
}

func newestFirst(records map[string]*TaskRecord) []*TaskRecord {
	var all []*TaskRecord
	for _, arn := range sortedKeys(records) {
		all = append(all, records[arn])
	}
	slices.SortStableFunc(all, func(a, b *TaskRecord) int { return b.StoppedAt.Compare(a.StoppedAt) })
	return all
}

// Past returns the tasks whose containers are removed and whose records are kept, the newest first.
func (e *Engine) Past() []TaskStatus {
	var tasks []TaskStatus
	for _, rec := range e.past.all() {
		tasks = append(tasks, StatusOf(rec))
	}
	return tasks
}

// StatusOf is a task as its record alone tells it, for who has no engine.
func StatusOf(rec *TaskRecord) TaskStatus {
	s := statusOf(bareTask(rec), rec, &Observed{})
	s.Timeline = rec.Timeline
	return *s
}

// revive answers a payload for a task that has ended here: the control plane does not know that, and is told once more.
func (e *Engine) revive(rec *TaskRecord) (taken bool, err error) {
	again := rec.clone()
	again.Desired, again.Known, again.CleanedAt, again.Timeline = statusStopped, statusRunning, time.Time{}, nil
	t, err := ParseTask(again.Task, e.cfg.Host)
	if err != nil || len(t.Containers) != len(again.Containers) {
		t = bareTask(again)
	}
	if taken, err = e.begin(t, again, "revive"); err == nil {
		e.past.drop(t.Arn)
	}
	return taken, err
}

// keepPast puts what is left of a task whose containers are removed on record.
func (w *worker) keepPast(now time.Time) error {
	if w.e.past.perFamily == 0 || len(w.rec.Containers) == 0 {
		return w.e.cfg.State.Delete(w.arn)
	}
	rec := w.rec.clone()
	rec.CleanedAt = now
	steps := w.timeline.snapshot()
	rec.Timeline = steps[max(len(steps)-pastTimeline, 0):]
	if err := w.e.cfg.State.Save(rec); err != nil {
		return err
	}
	for _, arn := range w.e.past.add(rec) {
		if err := w.e.cfg.State.Delete(arn); err != nil {
			w.timeline.log.Error(fmt.Sprintf("the record of task %s, which ended long ago, could not be removed; the next start of the agent tries again: %v", arn, err))
		}
	}
	return nil
}

// spared are the stopped tasks whose containers stay as long as they may although the disk is short: the newest of each family.
func spared(stopped []*worker, perFamily int) map[string]bool {
	slices.SortFunc(stopped, func(a, b *worker) int {
		x, y := a.status.Load(), b.status.Load()
		return cmp.Or(y.StoppedAt.Compare(x.StoppedAt), cmp.Compare(x.Arn, y.Arn))
	})
	out, seen := map[string]bool{}, map[string]int{}
	for _, w := range stopped {
		family := w.status.Load().Family
		if seen[family]++; seen[family] <= perFamily {
			out[w.arn] = true
		}
	}
	return out
}

// urgentAtOnce is how many tasks are cleaned up early at each look, as long as the disk is short.
const urgentAtOnce = 5

// urgent chooses the stopped tasks that are cleaned up before their time because the disk is short: the oldest first, a few
// at each look, so that no more goes than is needed. The engine's mutex is held.
func (e *Engine) urgent() map[string]bool {
	var stopped []*worker
	for _, w := range e.workers {
		if s := w.status.Load(); s != nil && !s.StoppedAt.IsZero() {
			stopped = append(stopped, w)
		}
	}
	keep := spared(stopped, e.past.perFamily)
	out := map[string]bool{}
	for _, w := range slices.Backward(stopped) {
		if !keep[w.arn] && len(out) < urgentAtOnce && w.status.Load().containersLeft() {
			out[w.arn] = true
		}
	}
	return out
}

// containersLeft reports whether the engine may still have containers of the task.
func (s *TaskStatus) containersLeft() bool {
	return slices.ContainsFunc(s.Containers, func(c ContainerStatus) bool { return c.RuntimeID != "" && !c.Removed })
}

// readTail reads the end of a container's output.
func (w *worker) readTail(id string) deed {
	return func(ctx context.Context) (func(*ContainerObserved), error) {
		var out tail
		err := w.e.cfg.Runtime.Logs(ctx, id, LogOptions{Lines: tailLines}, &out)
		switch {
		case errdefs.IsNotFound(err):
			return func(co *ContainerObserved) {
				co.Log = &LogTail{Note: "the container is gone, or its log driver can't be read back"}
			}, nil
		case err != nil:
			return nil, err
		}
		return func(co *ContainerObserved) { co.Log = &LogTail{Text: out.String()} }, nil
	}
}

// tail keeps the last tailBytes of what is written to it.
type tail struct{ kept []byte }

// Write never fails.
func (t *tail) Write(p []byte) (int, error) {
	t.kept = append(t.kept, p...)
	if extra := len(t.kept) - tailBytes; extra > 0 {
		t.kept = append(t.kept[:0], t.kept[extra:]...)
	}
	return len(p), nil
}

// String is what is kept, as text.
func (t *tail) String() string { return toText(t.kept) }
