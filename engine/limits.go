package engine

import "context"

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
}

// taskLimits are the limits of a task as its payload says them.
func taskLimits(t *Task) TaskLimits {
	l := TaskLimits{CPU: t.payload.CPU, Memory: t.payload.Memory << 20}
	for _, c := range t.Containers {
		l.Shares += max(c.payload.CPU, leastShares)
	}
	return l
}
