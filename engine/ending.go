package engine

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"go.uber.org/zap"

	"github.com/longshore-project/longshore/internal/failpoint"
)

// How a container is ended, and how the agent knows that it has.
//
// An engine can leave a single call without an answer, for minutes or for good, and answer all others: dockerd holds a
// container's lock while it waits for containerd, and it can miss the end of a process. So while a call that ends a container is
// at work the agent looks for itself: the kernel is asked each second whether the first process is still there, and the
// engine's inspect says how it ended. What is not over Config.AnswerMargin after the grace period is killed (VerbKill): through
// the engine first, and if that is not answered within the same time either, with the kernel's own signal, which goes to
// processes in the container's control group and to nothing else.
//
// A process that the kernel has not had for that time is gone, whatever the engine shows. Its exit code is then not known, and the
// container stays until the engine has noticed. The kernel counts only for a container whose process it has shown before: an
// engine of another host, or an agent in a process namespace of its own, has to do with the engine's word. An engine that
// answers nothing at all is waited for and nothing is killed past it: it may be just being replaced, and it is what tells the agent
// how things are.
const (
	stopTurn      = 500 * time.Millisecond // for how long a stop keeps others waiting
	stopQueue     = 5 * time.Minute        // for how long a stop waits for its turn, at most
	kernelPeriod  = time.Second            // between looks at the kernel
	hearsay       = 3 * time.Second        // in which the engine usually hears of a process's end
	inspectPeriod = 10 * time.Second       // between looks at an engine that does not answer another call about the same container
	inspectLimit  = 5 * time.Second        // of such a look
)

// ending is the end of one container.
type ending struct {
	w    *worker
	name string
	id   string
	pid  int // of its first process; 0: the kernel has not shown it
	look deed
}

func (w *worker) ending(c *Container, id string) *ending {
	d := &ending{w: w, name: c.Name, id: id, look: w.inspect(id, true, true)}
	if co := w.obs.of(c.Name); co.Seen && co.exists() {
		d.pid = co.State.Pid
	}
	return d
}

// shutDown is VerbStop. Stops begin some at a time: an engine that ends many containers at once takes longer for all of them, and dockerd
// can lock itself up over it. One that takes its time gives its turn to the next.
func (w *worker) shutDown(c *Container, id string, grace time.Duration) deed {
	d, cfg := w.ending(c, id), &w.e.cfg
	return func(ctx context.Context) (func(*ContainerObserved), error) {
		next, err := w.e.stopping.enter(ctx, false, stopTurn)
		if err != nil {
			return nil, err
		}
		defer next()
		failpoint.Hit("engine/stop-before")
		defer failpoint.Hit("engine/stop-after")
		ctx, cancel := context.WithTimeout(ctx, grace+cfg.AnswerMargin)
		defer cancel()
		return d.await(ctx, func(ctx context.Context) error { return cfg.Runtime.Stop(ctx, id, grace) })
	}
}

// kill is VerbKill: the end of a container whose stop was not answered.
func (w *worker) kill(c *Container, id string) deed {
	d, margin := w.ending(c, id), w.e.cfg.AnswerMargin
	return func(ctx context.Context) (func(*ContainerObserved), error) {
		failpoint.Hit("engine/kill-before")
		defer failpoint.Hit("engine/kill-after")
		limited, cancel := context.WithTimeout(ctx, margin)
		defer cancel()
		apply, err := d.await(limited, func(ctx context.Context) error { return w.e.cfg.Runtime.Stop(ctx, id, 0) })
		if !isDeadline(err) || ctx.Err() != nil {
			return apply, err
		}
		if d.pid == 0 {
			return apply, fmt.Errorf("the engine did not kill it within %s, and its process is not one that the kernel shows: %w", margin, err)
		}
		if err := w.e.cfg.Processes.Kill(id); err != nil {
			w.remarkLater(c.Name, VerbKill, err.Error())
		}
		w.remarkLater(c.Name, VerbKill, fmt.Sprintf("the engine did not kill it within %s; its processes were sent SIGKILL", margin))
		apply, err = d.await(ctx, func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() })
		if pids, perr := w.e.cfg.Processes.Of(id); isDeadline(err) && perr == nil && len(pids) > 0 {
			err = fmt.Errorf("processes %v do not end although they were sent SIGKILL, as when they wait for a disk or a network file system that does not answer: %w", pids, err)
		}
		return apply, err
	}
}

// remarkLater writes a warning into the timeline from outside of the worker's goroutine.
func (w *worker) remarkLater(container string, verb Verb, text string) {
	at := time.Now()
	w.note(func(w *worker) { w.timeline.note(container, string(verb), OutcomeWarning, text, at) })
}

// await makes a call that ends the container, and returns when it is answered, or before if it is seen that the container has ended.
func (d *ending) await(ctx context.Context, call func(context.Context) error) (func(*ContainerObserved), error) {
	limited, cancel := context.WithCancel(ctx)
	answer := make(chan error, 1)
	var calling sync.WaitGroup
	calling.Go(func() { answer <- call(limited) })
	defer calling.Wait()
	defer cancel()
	period := inspectPeriod
	if d.pid != 0 {
		period = kernelPeriod
	}
	tick := time.NewTicker(period)
	defer tick.Stop()
	margin := d.w.e.cfg.AnswerMargin
	var gone, next time.Time // since when the kernel has no longer its first process; when to ask the engine again
	for {
		select {
		case err := <-answer:
			apply, err := d.w.lookAfter(ctx, d.look, err)
			var seen ContainerObserved
			if apply(&seen); err != nil || !seen.alive() {
				return apply, err
			}
			answer = nil // the engine says that it has ended and shows it as running
		case <-ctx.Done():
			if answer != nil {
				return d.w.lookAfter(ctx, d.look, <-answer)
			}
			return func(co *ContainerObserved) { co.Stale = true }, fmt.Errorf("the engine says that the container has stopped, and shows it as running: %w", ctx.Err())
		case <-tick.C:
		}
		now := time.Now()
		switch {
		case d.pid == 0:
		case d.w.e.cfg.Processes.Has(d.id, d.pid):
			gone = time.Time{}
			continue
		case gone.IsZero():
			gone, next = now, now.Add(min(hearsay, margin))
		}
		if now.Before(next) { // the engine is just hearing of it, and is not asked by each of the many that may be ending
			continue
		}
		if apply := d.over(ctx); apply != nil {
			return apply, nil
		}
		if next = now.Add(hearsay); !gone.IsZero() && now.Sub(gone) >= margin && d.gone() {
			d.w.timeline.log.Warn("the kernel has no process of a container that the engine shows as running; it counts as ended",
				zap.String("container", d.name), zap.String("id", shortID(d.id)), zap.Int("pid", d.pid))
			return func(co *ContainerObserved) { co.Gone = true }, nil
		}
	}
}

// gone reports whether the kernel has no process of the container any more, be it the first one or another.
func (d *ending) gone() bool {
	left, err := d.w.e.cfg.Processes.Of(d.id)
	return err == nil && len(left) == 0
}

// over asks the engine whether the container has ended; nil: it does not say so.
func (d *ending) over(ctx context.Context) func(*ContainerObserved) {
	ctx, cancel := context.WithTimeout(ctx, inspectLimit)
	defer cancel()
	apply, err := d.look(ctx)
	if err != nil {
		return nil
	}
	var seen ContainerObserved
	if apply(&seen); seen.alive() {
		return nil
	}
	return apply
}

// watch makes a call that brings about something that can be seen. As long as it is not answered, done looks for it in each
// period, and once it is seen the call is given up.
func watch(ctx context.Context, call func(context.Context) error, done func(context.Context) bool) error {
	limited, cancel := context.WithCancel(ctx)
	answer := make(chan error, 1)
	var calling sync.WaitGroup
	calling.Go(func() { answer <- call(limited) })
	defer calling.Wait()
	defer cancel()
	tick := time.NewTicker(inspectPeriod)
	defer tick.Stop()
	for {
		select {
		case err := <-answer:
			return err
		case <-tick.C:
			looking, end := context.WithTimeout(ctx, inspectLimit)
			seen := done(looking)
			end()
			if seen {
				return nil
			}
		}
	}
}

// shows reports whether the engine shows a container in a state; nil is shown for one that is not there.
func (w *worker) shows(ctx context.Context, id string, wanted func(*State) bool) bool {
	st, err := w.e.cfg.Runtime.Inspect(ctx, id)
	if errdefs.IsNotFound(err) {
		return wanted(nil)
	}
	return err == nil && wanted(&st)
}
