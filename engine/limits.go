package engine

import (
	"context"
	"fmt"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/longshore-project/longshore/internal/failpoint"
)

// TaskLimits are what a task as a whole may use; a member that is zero limits nothing.
type TaskLimits struct {
	CPU    float64 // vCPUs, a hard limit
	Shares int64   // CPU shares, the sum of the containers'; they count where there is no CPU
	Memory int64   // bytes, a hard limit
}

// TaskGroups keeps a control group per task (engine/cgroup implements it). id is the last part of the task's ARN. All
// methods may be called concurrently and again; each goes on from what it finds.
type TaskGroups interface {
	// Ensure makes the group, and its limits what they must be, and returns the cgroup parent for the task's containers.
	// The error names the file and the value that could not be had.
	Ensure(ctx context.Context, id string, limits TaskLimits) (parent string, err error)
	// Remove removes the group and what dead containers left in it. A group with a process in it is an error.
	Remove(ctx context.Context, id string) error
	// Sweep removes the groups that this agent made and whose tasks nobody knows, and returns their ids.
	Sweep(ctx context.Context, known func(id string) bool) (removed []string, err error)
	// Killed is how many processes of a running container the kernel has ended for want of memory; false where it does not
	// say. container is the engine's id.
	Killed(id, container string) (int, bool)
}

// taskLimits are the limits of a task as its payload says them.
func taskLimits(t *Task) TaskLimits {
	l := TaskLimits{CPU: t.payload.CPU, Memory: t.payload.Memory << 20}
	for _, c := range t.Containers {
		l.Shares += max(c.payload.CPU, leastShares)
	}
	return l
}

// groupID names a task's control group: the last part of its ARN.
func groupID(arn string) string { return arn[strings.LastIndexByte(arn, '/')+1:] }

// ensureGroup makes a task's control group what it must be, and returns the cgroup parent of its containers; empty where
// there are no groups.
func (e *Engine) ensureGroup(ctx context.Context, t *Task) (string, error) {
	if e.cfg.Groups == nil {
		return "", nil
	}
	failpoint.Hit("engine/group-before")
	parent, err := e.cfg.Groups.Ensure(ctx, groupID(t.Arn), taskLimits(t))
	failpoint.Hit("engine/group-after")
	if err != nil {
		return "", fmt.Errorf("ResourceInitializationError: the task's limits can't be set: %w", err)
	}
	return parent, nil
}

// limit puts a container into its task's group. The task's memory limits the containers together there, so that only their
// own memory limits each.
func (e *Engine) limit(ctx context.Context, t *Task, c *Container, spec *Spec) error {
	parent, err := e.ensureGroup(ctx, t)
	if err != nil || parent == "" {
		return err
	}
	spec.CgroupParent = parent
	if c.payload.Memory == 0 && !e.cfg.Host.PropagateMemory {
		spec.Memory = 0
	}
	return nil
}

// unlimited says what of a task's limits is none on this host.
func (e *Engine) unlimited(t *Task) []string {
	if t.payload.CPU == 0 || e.cfg.Groups != nil {
		return nil
	}
	return []string{fmt.Sprintf("the task's cpu %.3g is reserved on the host and given to the containers as shares; it is not a hard limit, because this host sets none (ECS_ENABLE_TASK_CPU_MEM_LIMIT)", t.payload.CPU)}
}

// victim asks the kernel whether a running container has lost a process for want of memory.
func (e *Engine) victim(t *Task, container string) Victim {
	switch n, ok := e.cfg.Groups.Killed(groupID(t.Arn), container); {
	case !ok:
		return VictimUnknown
	case n > 0:
		return VictimHit
	}
	return VictimSpared
}

// removeGroup removes the group of a task that is about to be forgotten. Until then the record is what finds it again.
func (e *Engine) removeGroup(arn string) error {
	if e.cfg.Groups == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), groupTimeout)
	defer cancel()
	failpoint.Hit("engine/remove-group-before")
	err := e.cfg.Groups.Remove(ctx, groupID(arn))
	failpoint.Hit("engine/remove-group-after")
	return err
}

// groupTimeout bounds what the process waits for while groups are removed.
const groupTimeout = 30 * time.Second

// sweepGroups removes the groups of tasks that no record and no container is left of. A task is known before its group
// is made, so that a group which is found has its task among those that are known, or none.
func (e *Engine) sweepGroups() {
	if e.cfg.Groups == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), groupTimeout)
	defer cancel()
	removed, err := e.cfg.Groups.Sweep(ctx, func(id string) bool {
		e.mu.Lock()
		defer e.mu.Unlock()
		for arn := range e.workers {
			if groupID(arn) == id {
				return true
			}
		}
		return false
	})
	if len(removed) > 0 {
		e.cfg.Log.Info("control groups of tasks that are gone were removed", zap.Strings("groups", removed))
	}
	if err != nil {
		e.cfg.Log.Warn("a control group of a task that is gone could not be removed", zap.Error(err))
	}
}
