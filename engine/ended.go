package engine

import (
	"context"
	"fmt"
	"time"
)

// What ended a container: its process, the kernel for want of memory, or an engine that took its containers along.

// Reacher is a Runtime that can tell an engine which is ending: it answers on the connections that it has, takes no new ones,
// and ends its containers meanwhile.
type Reacher interface {
	// Reach makes a new connection to the engine and closes it. Unavailable when the engine takes none.
	Reach(ctx context.Context) error
}

// reach asks a Runtime that can tell; others are taken at their word.
func reach(ctx context.Context, r Runtime) error {
	if r, ok := r.(Reacher); ok {
		return r.Reach(ctx)
	}
	return nil
}

// Outage is a time in which the container engine did not answer.
type Outage struct {
	From, To    time.Time // To is zero while it lasts
	Engine      string    // name and version, as they were before it
	Gone        bool      // nobody listened: the engine had ended, and did not just hang
	LiveRestore bool      // the engine leaves its containers alone when it ends
}

// outageSlack is how long before the agent saw it an outage may have begun.
const outageSlack = 5 * time.Second

// begin notes that the engine did not answer a look that began at the given time.
func (o Outage) begin(at time.Time, gone bool, was Info) Outage {
	if o.From.IsZero() || !o.To.IsZero() {
		o = Outage{From: at.Add(-outageSlack), Engine: was.Name + " " + was.Version, LiveRestore: was.LiveRestore}
	}
	o.Gone = o.Gone || gone
	return o
}

// end notes that it answers.
func (o Outage) end(at time.Time) Outage {
	if !o.From.IsZero() && o.To.IsZero() {
		o.To = at
	}
	return o
}

// took reports whether the engine's end was that of a container which ended at the given time.
func (o Outage) took(at time.Time) bool {
	return o.Gone && !o.LiveRestore && !o.To.IsZero() && !at.Before(o.From) && !at.After(o.To)
}

// wentWithEngine is why a container has ended that the engine's own end took along; empty if it did not, or if its restart
// policy starts it again.
func (v *view) wentWithEngine(c *Container, cr *ContainerRecord, co *ContainerObserved) string {
	away := v.obs.Engine.Away
	if co.Ordered || v.rec.Desired == statusStopped || !co.ended() || !performed(cr, co.State) || !away.took(co.State.FinishedAt) || v.rebooted(cr, co) || v.restarts(c, cr, co.State) {
		return ""
	}
	return fmt.Sprintf("ContainerEngineStoppedError: the container engine (%s) stopped or was restarted between %s and %s, and it ends its containers when it does; with live-restore it would not",
		away.Engine, away.From.Add(outageSlack).UTC().Format(time.RFC3339), away.To.UTC().Format(time.RFC3339))
}

// exitOf is the end of a container whose process has ended.
func (v *view) exitOf(cr *ContainerRecord, co *ContainerObserved) *Final {
	st := co.State
	code := st.ExitCode
	f := &Final{ExitCode: &code, Reason: cr.Fault, FinishedAt: st.FinishedAt}
	switch {
	case v.lackedMemory(cr, co):
		f.Reason = "OutOfMemoryError: Container killed due to memory usage"
	case f.Reason == "" && st.Error != "":
		f.Reason = "CannotStartContainerError: " + st.Error
	}
	return f
}

// killed is the exit code of a process that was ended by SIGKILL.
const killed = 128 + 9

// Victim is what is known about a container whose engine says that memory ran out.
type Victim int

// The values of a [Victim].
const (
	VictimUnknown Victim = iota
	VictimSpared         // it had lost no process when it was looked at last
	VictimHit            // it has lost a process
)

// lackedMemory reports whether the kernel ended a process of the container for want of memory. Where a task's containers
// share a limit and the kernel tells all of them when it is reached (control groups v1), the engine's word alone does not
// say whose process it was.
func (v *view) lackedMemory(cr *ContainerRecord, co *ContainerObserved) bool {
	certain := co.State.ExitCode == killed && !co.Ordered
	switch {
	case !co.State.OOMKilled:
		return false
	case !v.obs.Engine.SharedOOM || co.Victim == VictimHit || certain:
		return true
	case co.Victim == VictimSpared:
		return false
	}
	for _, other := range v.rec.Containers { // somebody's process it was
		if o := v.obs.of(other.Name); other.Name != cr.Name && (o.Victim == VictimHit || o.ended() && o.State.OOMKilled && o.State.ExitCode == killed && !o.Ordered) {
			return false
		}
	}
	return true
}
