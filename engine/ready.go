package engine

import (
	"errors"
	"fmt"
	"time"

	"github.com/longshore-project/longshore/protocol/acs"
)

// Ready says what this host lacks for now to create a container of a task, nil if nothing: the container waits for it, at most
// Config.ReadyTimeout from when its image is there. It is asked often, does no I/O, and may be called for several at once.
type Ready func(t *acs.Task, container string) error

// ErrNotReady is in what a [Prepare] returns that finds lacking what [Ready] says was there a moment ago.
var ErrNotReady = errors.New("this host is not ready for it")

// readyLook is how often is looked again for what a container waits for.
const readyLook = time.Second

// lookReady asks what the host lacks for containers that could be created otherwise. The timeline has one step for each wait.
func (w *worker) lookReady(now time.Time) {
	if w.e.cfg.Ready == nil {
		return
	}
	for _, c := range w.task.Containers {
		cr, co := w.rec.container(c.Name), w.obs.of(c.Name)
		var lack error
		if !c.internal() && cr.Final == nil && cr.Fault == "" && !co.exists() && co.Image != nil && w.obs.Grant.State == GrantHeld && w.rec.Desired == statusRunning && w.rec.Reason == "" {
			lack = w.e.cfg.Ready(w.task.payload, c.Name)
		}
		step := w.lacking[c.Name]
		switch {
		case lack != nil && co.Lacks == nil:
			co.LacksSince = now
			if w.lacking == nil {
				w.lacking = map[string]*Step{}
			}
			w.lacking[c.Name] = w.timeline.begin(c.Name, "wait-for-host", lack.Error(), now)
		case lack == nil && step != nil:
			var failed error
			if cr.Fault != "" {
				failed = co.Lacks
			}
			w.timeline.end(step, failed, now)
			delete(w.lacking, c.Name)
		}
		if lack != nil || co.Lacks != nil {
			co.Lacks = lack
		}
	}
}

// lackFault is why a container can't wait any longer for what the host lacks; empty if it can, or lacks nothing.
func (v *view) lackFault(c *Container) string {
	co := v.obs.of(c.Name)
	if co.Lacks == nil || co.exists() || v.stopping() || v.now.Before(co.LacksSince.Add(v.set.ReadyTimeout)) {
		return ""
	}
	for _, d := range c.DependsOn {
		if !v.met(d).ok {
			return ""
		}
	}
	return fmt.Sprintf("ResourceInitializationError: container %s has waited %s for what this host lacks: %v", c.Name, v.set.ReadyTimeout, co.Lacks)
}
