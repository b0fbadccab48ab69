package engine

import (
	"strings"
	"time"
)

// report derives the state changes that the control plane must learn from a settled record, marks them in it as
// reported, and returns them in order. It is level-triggered: called again it returns nothing, and what was missed is in
// the next one. While the task is stopping, news of single containers wait for its end.
func report(t *Task, rec *TaskRecord, obs *Observed, now time.Time) []*StateChange {
	var changes []*StateChange
	say := func(status string) {
		changes = append(changes, change(t, rec, obs, status, now))
		rec.Known = status
	}
	if rec.Known == statusStopped {
		return nil
	}
	if rec.Known != statusRunning && allRan(t, rec) {
		say(statusRunning)
	}
	if !rec.StoppedAt.IsZero() {
		if rec.Reason == "" && len(rec.Containers) == 0 {
			rec.Reason = "TaskStateError: Agent could not progress task's state to stopped"
		}
		say(statusStopped)
		return changes
	}
	if v := (view{t: t, rec: rec}); len(changes) == 0 && !v.stopping() && newsOf(t, rec) {
		status := rec.Known
		if status == "" {
			status = statusPending
		}
		say(status)
	}
	return changes
}

// allRan reports whether every container has reached RUNNING. One that ended counts if it ran, or, while the task goes on
// without it, if it never could.
func allRan(t *Task, rec *TaskRecord) bool {
	v := view{t: t, rec: rec}
	ran := false
	for _, cr := range rec.Containers {
		switch {
		case !cr.StartedAt.IsZero():
			ran = true
		case cr.Final == nil || v.stopping():
			return false
		}
	}
	return ran
}

// newsOf reports whether a container has come further than was said, or nothing was said yet and a digest is known by the
// time of the first start. Further digests are in whatever is said next.
func newsOf(t *Task, rec *TaskRecord) bool {
	begun, digest := false, false
	for _, cr := range rec.Containers {
		if Internal(cr.Name) {
			continue
		}
		c := t.container(cr.Name)
		if s := reportedStatus(cr); s != statusPending && s != cr.Reported {
			return true
		}
		begun = begun || cr.Intent != nil
		digest = digest || cr.ImageDigest != "" && cr.ReportedDigest == "" && c != nil && !strings.Contains(c.Image, "@")
	}
	return rec.Known == "" && begun && digest
}

func reportedStatus(cr *ContainerRecord) string {
	switch {
	case cr.Final != nil:
		return statusStopped
	case !cr.StartedAt.IsZero():
		return statusRunning
	}
	return statusPending
}

func change(t *Task, rec *TaskRecord, obs *Observed, status string, now time.Time) *StateChange {
	c := &StateChange{TaskArn: t.Arn, Status: status, PullStartedAt: rec.PullStartedAt, PullStoppedAt: rec.PullStoppedAt,
		ExecutionStoppedAt: rec.ExecutionStoppedAt, Time: now}
	if status == statusStopped {
		c.Reason = cut(rec.Reason, 1024)
	}
	for _, cr := range rec.Containers {
		if Internal(cr.Name) {
			continue
		}
		cc := ContainerChange{Name: cr.Name, RuntimeID: cr.RuntimeID, ImageDigest: cr.ImageDigest, Status: reportedStatus(cr), NetworkBindings: cr.Bindings}
		if f := cr.Final; f != nil {
			cc.ExitCode, cc.Reason = f.ExitCode, cut(f.Reason, 1024)
		}
		if co := obs.of(cr.Name); co.State != nil {
			cc.Health = co.State.Health.Status
		}
		c.Containers = append(c.Containers, cc)
		cr.Reported, cr.ReportedDigest = cc.Status, cr.ImageDigest
	}
	return c
}

// cut shortens a reason to what ECS takes, on a character's boundary.
func cut(s string, limit int) string {
	if len(s) <= limit {
		return s
	}
	return strings.ToValidUTF8(s[:limit], "")
}
