package docker

import (
	"cmp"
	"context"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/filters"

	"github.com/longshore-project/longshore/engine"
)

// foreign tells whether nobody here, nor another ECS agent, made a container.
func foreign(labels map[string]string) bool {
	for label := range labels {
		if strings.HasPrefix(label, "longshore.") || strings.HasPrefix(label, "com.amazonaws.ecs.") {
			return false
		}
	}
	return true
}

// Foreign lists the containers of others that do not run. It makes Runtime an engine.ForeignContainers.
func (r *Runtime) Foreign(ctx context.Context, most int) ([]engine.State, error) {
	list, err := r.link.api(ctx).ContainerList(ctx, container.ListOptions{All: true, Filters: filters.NewArgs(
		filters.Arg("status", string(engine.StatusCreated)), filters.Arg("status", string(engine.StatusExited)), filters.Arg("status", string(engine.StatusDead)))})
	if err != nil {
		return nil, classify(ctx, err)
	}
	list = slices.DeleteFunc(list, func(c container.Summary) bool { return !foreign(c.Labels) })
	slices.SortFunc(list, func(a, b container.Summary) int { return cmp.Compare(a.Created, b.Created) })
	var out []engine.State
	for _, c := range list[:min(len(list), most)] {
		st, err := r.lookAtForeign(ctx, c.ID)
		if errdefs.IsNotFound(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		out = append(out, st)
	}
	return out, nil
}

func (r *Runtime) lookAtForeign(ctx context.Context, id string) (engine.State, error) {
	c, err := r.link.api(ctx).ContainerInspect(ctx, id)
	if err != nil {
		return engine.State{}, classify(ctx, err)
	}
	if c.ContainerJSONBase == nil || c.Config == nil || c.State == nil || !foreign(c.Config.Labels) {
		return engine.State{}, refuse(errdefs.ErrNotFound, "no such container of others: %s", id)
	}
	return fromInspect(c), nil
}

// RemoveForeign removes a container of others that is as it was seen: two requests.
func (r *Runtime) RemoveForeign(ctx context.Context, seen engine.State) error {
	now, err := r.lookAtForeign(ctx, seen.ID)
	if errdefs.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	if now.Status != seen.Status || !now.StartedAt.Equal(seen.StartedAt) || !now.FinishedAt.Equal(seen.FinishedAt) {
		return refuse(errdefs.ErrFailedPrecondition, "container %s is %s now: it is somebody's", now.Name, now.Status)
	}
	err = classify(ctx, r.link.api(ctx).ContainerRemove(ctx, now.ID, container.RemoveOptions{RemoveVolumes: true}))
	if errdefs.IsNotFound(err) {
		return nil
	}
	return err
}
