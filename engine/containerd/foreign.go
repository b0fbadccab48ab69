package containerd

import (
	"context"
	"slices"

	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/errdefs"

	tasktypes "github.com/containerd/containerd/api/types/task"

	"github.com/longshore-project/longshore/engine"
)

// Foreign lists containers of the namespace that are not ours and do not run, the oldest first, at most most of them.
func (r *Runtime) Foreign(ctx context.Context, most int) ([]engine.State, error) {
	ctx = r.ns(ctx)
	tasks, list, err := r.everything(ctx)
	if err != nil {
		return nil, err
	}
	var all []engine.State
	for _, c := range list {
		if c.Labels[engine.LabelTaskArn] == "" && !alive(tasks[c.ID]) {
			all = append(all, strange(c, tasks[c.ID]))
		}
	}
	slices.SortFunc(all, func(a, b engine.State) int { return a.CreatedAt.Compare(b.CreatedAt) })
	return all[:min(most, len(all))], nil
}

// strange is the state of a container that is not ours.
func strange(c containers.Container, t *tasktypes.Process) engine.State {
	st := engine.State{ID: c.ID, Name: c.ID, Labels: c.Labels, Image: c.Image, CreatedAt: c.CreatedAt, Status: engine.StatusCreated}
	if t != nil && t.Status == tasktypes.Status_STOPPED {
		st.Status, st.FinishedAt, st.ExitCode = engine.StatusExited, t.ExitedAt.AsTime(), int(t.ExitStatus)
	}
	return st
}

// RemoveForeign removes one of them, if it still is what was seen.
func (r *Runtime) RemoveForeign(ctx context.Context, seen engine.State) error {
	ctx = r.ns(ctx)
	c, err := r.client.ContainerService().Get(ctx, seen.ID)
	if err = classify(ctx, err); errdefs.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	t, err := r.task(ctx, c.ID)
	if err != nil {
		return err
	}
	if now := strange(c, t); c.Labels[engine.LabelTaskArn] != "" || alive(t) || !now.CreatedAt.Equal(seen.CreatedAt) || now.Status != seen.Status || !now.FinishedAt.Equal(seen.FinishedAt) {
		return refuse(errdefs.ErrFailedPrecondition, "container %s is not what it was", seen.Name)
	}
	if t != nil {
		if err := r.release(ctx, c.ID); err != nil {
			return err
		}
	}
	if err := classify(ctx, r.client.ContainerService().Delete(ctx, c.ID)); err != nil {
		return ignoreMissing(err)
	}
	if c.SnapshotKey == "" {
		return nil
	}
	return ignoreMissing(classify(ctx, r.client.SnapshotService(c.Snapshotter).Remove(ctx, c.SnapshotKey)))
}
