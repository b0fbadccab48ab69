package scheduler

import (
	"cmp"
	"context"
	"errors"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"go.uber.org/zap"

	"github.com/longshore-project/longshore/controlplane/store"
	"github.com/longshore-project/longshore/controlplane/task"
)

// giveUp deregisters an instance that has been without a connection for too long, and says when it will have been; zero:
// there is nothing to wait for.
func (w *worker) giveUp(ctx context.Context, id string) (due time.Time) {
	now := w.cfg.Now()
	if due = w.gone[id].Add(w.cfg.InstanceLostAfter); due.After(now) {
		return due
	}
	txn := w.s.cfg.Store.Txn().Guard(w.lead).StateChange()
	var lost *store.Instance
	w.s.cfg.Store.Peek(func(v *store.View) {
		inst := v.Instance(w.cluster, id)
		if inst == nil || v.Connection(w.cluster, id) != nil || aws.ToString(inst.Object.Status) == inactive {
			return
		}
		lost = new(*inst)
		since := cmp.Or(inst.DisconnectedSince, w.gone[id])
		lost.Object.Status, lost.Object.AgentConnected = aws.String(inactive), false
		lost.Object.StatusReason = aws.String(task.HostLost(inst, now.Sub(since)))
		lost.InactiveSince = now
		txn.Update(lost).Unchanged(&store.Connection{Cluster: w.cluster, Instance: id})
		// Nothing that was decided before may be placed there afterwards.
		task.Fence(txn, v.Allocation(w.cluster, id))
	})
	if lost == nil {
		w.marks.add(false, "", id)
		return time.Time{}
	}
	if err := w.commit(ctx, txn); err != nil {
		return w.again(ctx, id, "give up a container instance that has no connection", err)
	}
	w.log.Warn("a container instance was lost: it is INACTIVE, and its tasks are STOPPED", zap.String("instance", id), zap.String("reason", *lost.Object.StatusReason))
	delete(w.gone, id)
	delete(w.hosts, id)
	w.doomed[id] = true
	w.marks.add(true, "", "")
	return time.Time{}
}

// bury makes the tasks of an INACTIVE instance STOPPED: nobody is left to report it.
func (w *worker) bury(ctx context.Context, id string) (due time.Time) {
	for {
		txn := w.s.cfg.Store.Txn().Guard(w.lead)
		var tasks []*store.Task
		w.s.cfg.Store.Peek(func(v *store.View) {
			inst := v.Instance(w.cluster, id)
			if inst == nil || aws.ToString(inst.Object.Status) != inactive {
				return
			}
			reason := cmp.Or(aws.ToString(inst.Object.StatusReason), task.ReasonForced)
			for t := range v.LiveOn(w.cluster, id) {
				if n := task.Lost(t, "", reason, w.cfg.Now()); n != nil && len(tasks) < task.MaxFinish {
					tasks = append(tasks, n)
				}
			}
			if len(tasks) > 0 {
				task.Finish(txn, v, tasks...)
			}
		})
		if len(tasks) == 0 {
			delete(w.doomed, id)
			return time.Time{}
		}
		if err := w.commit(ctx, txn); err != nil {
			return w.again(ctx, id, "stop the tasks of an INACTIVE container instance", err)
		}
		for _, t := range tasks {
			w.log.Info("a task ended with its host", zap.String("task", aws.ToString(t.Object.TaskArn)), zap.String("instance", id))
		}
	}
}

// again says when to try again what the store refused.
func (w *worker) again(ctx context.Context, id, what string, err error) time.Time {
	if errors.Is(err, store.ErrConflict) {
		return w.cfg.Now().Add(10 * time.Millisecond)
	}
	if ctx.Err() == nil {
		w.log.Warn(what+"; trying again", zap.String("instance", id), zap.Duration("after", retryAfter), zap.Error(err))
	}
	return w.cfg.Now().Add(retryAfter)
}
