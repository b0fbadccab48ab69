package engine

import (
	"context"
	"fmt"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/longshore-project/longshore/protocol/acs"
)

// handOut gives each worker its part of a look. The first look that succeeds also finds the containers that have our
// labels but no record, because the state file was lost.
func (e *Engine) handOut(ctx context.Context, engine EngineObserved, states []State, listed bool) {
	byTask := map[string][]State{}
	for _, st := range states {
		byTask[st.Labels[LabelTaskArn]] = append(byTask[st.Labels[LabelTaskArn]], st)
	}
	if listed && !e.adopted {
		if e.adopted = e.adopt(byTask); e.adopted {
			e.sweepGroups()
			defer close(e.ready)
		}
	}
	short := e.cfg.DiskPressure()
	e.health.set("disk", short)
	e.ledger.review()
	e.mu.Lock()
	var urgent map[string]bool
	if short != "" {
		urgent = e.urgent()
	}
	for arn, w := range e.workers {
		w.look(engine, byTask[arn], listed, urgent[arn])
	}
	var unclaimed []stray
	if listed {
		unclaimed = e.strays(byTask)
	}
	e.mu.Unlock()
	if listed {
		e.orphans.look(ctx, unclaimed)
	}
}

// adopt rebuilds tasks without a record from their containers. It reports whether it is done; what could not be saved is
// tried again at the next look.
func (e *Engine) adopt(byTask map[string][]State) bool {
	done := true
	for arn, states := range byTask {
		ours := states[:0:0]
		for _, st := range states {
			if st.Labels[LabelTask] != "" && sameCluster(st.Labels[LabelCluster], e.cfg.Host.Cluster) && e.disowned(st) == "" {
				ours = append(ours, st)
			}
		}
		w := e.worker(arn)
		if w != nil && w.status.Load().StoppedAt.IsZero() && slices.ContainsFunc(ours, func(st State) bool { return st.Status == StatusRunning }) {
			e.ledger.force(arn, *w.need.Load()) // what runs is accounted for before others are admitted, whoever started it
		}
		if len(ours) == 0 || w != nil && !w.bare() {
			continue
		}
		log := e.cfg.Log.With(zap.String("task", arn), zap.String("step", "rebuild"))
		t, rec, err := rebuild(arn, ours, time.Now())
		if err != nil {
			log.Error("containers of a task that is not on record are left alone, because their labels can't be read", zap.Error(err))
			continue
		}
		e.ledger.force(arn, t.Need)
		if w != nil {
			err = w.join(t, rec)
		} else {
			_, err = e.begin(t, rec, "rebuild")
		}
		if err != nil {
			log.Error("a task was found by its containers and could not be saved", zap.Error(err))
			e.ledger.release(arn)
			done = false
			continue
		}
		log.Warn("the task is not on record; it was rebuilt from the labels of its containers, which run on", zap.Int("containers", len(ours)))
	}
	return done
}

// disowned says why a container is not this host's; empty when nothing says so.
func (e *Engine) disowned(st State) string {
	if e.cfg.Disowned == nil {
		return ""
	}
	return e.cfg.Disowned(st)
}

// bare reports whether nothing is known of the task but that it is to be stopped.
func (w *worker) bare() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return !w.gone && len(w.rec.Containers) == 0 && w.rec.StoppedAt.IsZero()
}

// join gives a bare task the containers that were found of it.
func (w *worker) join(t *Task, rec *TaskRecord) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.gone || !w.rec.StoppedAt.IsZero() {
		return nil
	}
	rec.Desired, rec.AcceptedAt = w.rec.Desired, w.rec.AcceptedAt
	if err := w.e.cfg.State.Save(rec); err != nil {
		return err
	}
	w.task, w.rec = t, rec
	w.prepare()
	w.timeline.note("", "rebuild", OutcomeDone, "from the labels of its containers", time.Now())
	return nil
}

// sameCluster compares clusters given by name or ARN.
func sameCluster(a, b string) bool { return b == "" || clusterName(a) == clusterName(b) }

func clusterName(s string) string {
	for i := len(s) - 1; i >= 0; i-- {
		if s[i] == '/' {
			return s[i+1:]
		}
	}
	return s
}

// bareTask is a task of which only the record is known.
func bareTask(rec *TaskRecord) *Task {
	p := rec.Task
	t := &Task{Arn: p.Arn, Cluster: p.TaskClusterArn, Family: p.Family, Version: p.Version, volumes: map[string]*acs.Volume{}, payload: p}
	for i, pc := range p.Containers {
		t.Containers = append(t.Containers, &Container{Name: pc.Name, Image: pc.Image, Essential: pc.Essential, index: i, payload: pc})
	}
	return t
}

// accept takes what a payload says about a known task. gone says that the task was forgotten meanwhile.
func (w *worker) accept(p *acs.Task, desired string) (gone bool, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.gone {
		return true, nil
	}
	if w.parked != nil {
		return false, w.heardParked(desired)
	}
	next := w.rec.clone()
	task := w.task
	if w.rec.Rebuilt && len(p.Containers) > 0 {
		if t, err := ParseTask(p, w.e.cfg.Host); err == nil {
			task = t
			next.Task, next.Rebuilt = t.payload, false
			next.Containers = rejoin(t, w.rec)
		}
	}
	if desiredRank[desired] > desiredRank[next.Desired] {
		next.Desired = desired
	}
	if next.Desired == w.rec.Desired && next.Rebuilt == w.rec.Rebuilt {
		return false, nil
	}
	if err := w.e.cfg.State.Save(next); err != nil {
		w.e.health.saved(err)
		return false, fmt.Errorf("the new desiredStatus %s of task %s could not be saved: %w", desired, w.arn, err)
	}
	if next.Desired != w.rec.Desired {
		w.timeline.note("", "desired", OutcomeDone, fmt.Sprintf("desiredStatus %s, was %s", next.Desired, w.rec.Desired), time.Now())
	}
	w.rec, w.task = next, task
	w.prepare()
	w.publish()
	w.wake()
	return false, nil
}

// rejoin matches the records of a rebuilt task with the containers of its payload.
func rejoin(t *Task, old *TaskRecord) []*ContainerRecord {
	var records []*ContainerRecord
	for _, c := range t.Containers {
		cr := &ContainerRecord{Name: c.Name, Attempt: 1}
		if o := old.container(c.Name); o != nil {
			copied := *o
			cr = &copied
		}
		records = append(records, cr)
	}
	return records
}
