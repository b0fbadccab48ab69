package imagecache

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"go.uber.org/zap"
)

// Container is a container that nobody here made, and that does not run.
type Container struct {
	ID, Name, Image, Status string
	Created                 time.Time
	Ended                   time.Time // zero: its process never ran
	Seen                    any       // what the Containers saw, for its removal
}

// Containers are the engine's containers of others (ECS_ENABLE_UNTRACKED_IMAGE_CLEANUP is about them too).
type Containers interface {
	// Foreign lists those that do not run, the oldest first; at most most.
	Foreign(ctx context.Context, most int) ([]Container, error)
	// RemoveForeign removes one that still is as it was listed, and is an error if it is not.
	RemoveForeign(ctx context.Context, c Container) error
}

// ContainerVerdict is what becomes of a container of others.
type ContainerVerdict struct {
	Container
	Delete bool
	Reason string
	Age    time.Duration // since its process ended; of one that never ran, since it was made
}

// mostForeign is how many containers of others one collection looks at.
const mostForeign = 200

// DecideContainers says of each container of others whether it goes and why: those that have not run for the age, the ones
// that ended first before the others, a bounded number in a cycle. A disk that is short changes neither: what is in a
// container can't be had again. It is pure.
func DecideContainers(now time.Time, list []Container, r Rules) []ContainerVerdict {
	verdicts := make([]ContainerVerdict, 0, len(list))
	for _, c := range list {
		v := ContainerVerdict{Container: c, Age: now.Sub(c.Created), Reason: "it was made and never ran"}
		if !c.Ended.IsZero() {
			v.Age, v.Reason = now.Sub(c.Ended), "its process has ended"
		}
		switch {
		case c.Status != "created" && c.Status != "exited" && c.Status != "dead":
			v.Reason = "it is " + c.Status
		case c.Ended.IsZero() && c.Status != "created":
			v.Reason = "the engine does not say when it ended"
		case v.Age < r.ContainerAge:
			v.Reason += fmt.Sprintf(" %s ago, less than %s", v.Age.Round(time.Second), r.ContainerAge)
			if c.Ended.IsZero() {
				v.Reason = fmt.Sprintf("it was made %s ago, less than %s", v.Age.Round(time.Second), r.ContainerAge)
			}
		default:
			v.Delete = true
			v.Reason += fmt.Sprintf("; no task is behind it, and that was %s ago", v.Age.Round(time.Second))
		}
		verdicts = append(verdicts, v)
	}
	slices.SortStableFunc(verdicts, func(a, b ContainerVerdict) int {
		if a.Delete != b.Delete {
			return order(a.Delete)
		}
		return cmp.Compare(b.Age, a.Age)
	})
	for i := range verdicts {
		if v := &verdicts[i]; v.Delete && i >= r.ContainersPerCycle {
			v.Delete, v.Reason = false, fmt.Sprintf("its turn comes in a later cycle, each removes %d", r.ContainersPerCycle)
		}
	}
	return verdicts
}

// collectContainers removes containers of others where that is asked for, before the images that they keep. What could not be
// listed or removed is in the report.
func (c *Cache[I]) collectContainers(ctx context.Context, out *Report) {
	store, rules := c.collector.cfg.Containers, c.collector.cfg.Rules
	if store == nil || !rules.Foreign {
		return
	}
	list, err := store.Foreign(ctx, mostForeign)
	if err != nil {
		out.Failures = append(out.Failures, fmt.Sprintf("the containers of others: %v", err))
		c.cfg.Log.Warn("containers of others can't be listed; none is removed", zap.Error(err))
		return
	}
	out.Containers = DecideContainers(time.Now(), list, rules)
	if out.DryRun {
		return
	}
	for i := range out.Containers {
		v := &out.Containers[i]
		if !v.Delete || ctx.Err() != nil {
			return
		}
		fields := []zap.Field{zap.String("step", "collect"), zap.String("container", v.Name), zap.String("id", v.ID), zap.String("image", v.Image), zap.String("status", v.Status),
			zap.String("reason", v.Reason), zap.Duration("age", v.Age.Round(time.Second))}
		if err := store.RemoveForeign(ctx, v.Container); err != nil {
			v.Delete, v.Reason = false, err.Error()
			out.Failures = append(out.Failures, fmt.Sprintf("container %s: %v", v.Name, err))
			c.cfg.Log.Warn("a container that no task has could not be removed", append(fields, zap.Error(err))...)
			continue
		}
		c.cfg.Log.Info("removed a container that no task has", fields...)
	}
}
