package containerd

import (
	"context"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/containerd/api/events"
	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/errdefs"
	"github.com/containerd/typeurl/v2"
	"go.uber.org/zap"

	"github.com/longshore-project/longshore/internal/failpoint"
)

// settle writes down the end of a container's process if it has ended, and releases what it had. It returns the task that is left, and
// what is remembered now.
func (r *Runtime) settle(ctx context.Context, b box) (*tasktypes.Process, run, error) {
	r.shims.await(ctx, b.ID)
	unlock, err := r.known.lock(ctx, b.ID)
	if err != nil {
		return nil, run{}, err
	}
	t, err := r.task(ctx, b.ID)
	var was run
	if err == nil {
		was, err = r.readRun(b.ID)
	}
	if err != nil || alive(t) || t == nil && !was.running() {
		unlock()
		return t, was, err
	}
	if was, err = r.note(ctx, b, was, t); err != nil || was.running() {
		unlock()
		return nil, was, err
	}
	r.depart(b, unlock)
	return nil, was, nil
}

// note is settle's work, for a task that does not run. The lock is held. What it returns is running if there are processes all the same.
func (r *Runtime) note(ctx context.Context, b box, was run, t *tasktypes.Process) (run, error) {
	switch {
	case t == nil && !was.running():
		return was, nil
	case t == nil:
		if !endOrphans(ctx, b) {
			r.log.Warn("a container's shim is gone, and its processes do not end; it counts as running", zap.String("container", b.rec.Spec.Name), zap.Ints("processes", processesOf(b)))
			return was, nil
		}
		was.FinishedAt, was.ExitCode = now(), 255
		was.Error = "how the process ended is not known: containerd has lost it, because its shim was killed, the host was restarted, or it ended while containerd and the agent were away"
		if e := was.End; e != nil {
			was.FinishedAt, was.ExitCode, was.OOMKilled, was.Error = e.At, e.Code, e.OOM, ""
		}
	case t.Status == tasktypes.Status_STOPPED && !was.StartedAt.IsZero():
		was.FinishedAt, was.ExitCode = t.ExitedAt.AsTime(), int(t.ExitStatus)
		was.OOMKilled = was.ExitCode != 0 && killedForMemory(cgroupOf(b.rec, b.ID))
	default: // it was made and never ran
		was = run{}
	}
	was.Pid, was.Network, was.Bundle, was.Group, was.End = 0, nil, "", "", nil
	if was.FinishedAt.Before(was.StartedAt) {
		was.FinishedAt = was.StartedAt
	}
	failpoint.Hit("containerd/note-before")
	if err := r.writeRun(b.ID, was); err != nil {
		return was, err
	}
	failpoint.Hit("containerd/note-after")
	if t != nil {
		if err := r.release(ctx, b.ID); err != nil {
			return was, err
		}
	}
	return was, nil
}

const (
	firstPause = 50 * time.Millisecond
	lastPause  = 2 * time.Second
)

// keep follows containerd until ctx ends: what happened while nobody followed is found by looking at everything.
func (r *Runtime) keep(ctx context.Context) {
	defer r.health.end()
	var asked func() // ends what asks the shims
	back := func() {
		if asked != nil {
			asked()
		}
		asked = nil
	}
	defer back()
	pause := firstPause
	for ctx.Err() == nil {
		began := time.Now()
		err := r.follow(ctx, back)
		if ctx.Err() != nil {
			return
		}
		if time.Since(began) > lastPause {
			pause = firstPause
		}
		if asked == nil {
			asked = r.askShims(ctx)
		}
		r.log.Debug("containerd's events are not heard; they are asked for again", zap.Duration("after", pause), zap.Error(err))
		t := time.NewTimer(pause)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
		}
		pause = min(2*pause, lastPause)
	}
}

// follow subscribes, looks at everything, says that containerd is there, and looks then at what events speak of.
func (r *Runtime) follow(ctx context.Context, back func()) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	heard, failed := r.client.Subscribe(ctx, `topic=="/tasks/exit"`)
	if err := r.lookAtAll(ctx); err != nil {
		return err
	}
	back()
	for {
		select {
		case e := <-heard:
			if e == nil {
				continue
			}
			any, err := typeurl.UnmarshalAny(e.Event)
			if exit, is := any.(*events.TaskExit); err == nil && is && exit.ID == exit.ContainerID && e.Namespace == r.cfg.Namespace {
				r.work.Go(func() { r.ended(ctx, exit.ContainerID) })
			}
		case err := <-failed:
			return err
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// ended writes down an end that was heard of.
func (r *Runtime) ended(ctx context.Context, id string) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	r.health.forget(id)
	b, err := r.find(ctx, id)
	if err != nil {
		return
	}
	if _, _, err := r.settle(ctx, b); err != nil && ctx.Err() == nil && !errdefs.IsNotFound(err) {
		r.log.Warn("the end of a container could not be written down; it is when somebody looks at it", zap.String("container", id), zap.Error(err))
	}
}

// lookAtAll writes down the ends that nobody heard of, and takes up the health checks of what runs.
func (r *Runtime) lookAtAll(ctx context.Context) error {
	tasks, list, err := r.everything(ctx)
	if err != nil {
		return err
	}
	r.sweep(list)
	for _, c := range list {
		b, err := open(c)
		if err != nil {
			continue
		}
		if _, err := r.look(ctx, b, tasks[b.ID]); err != nil {
			return err
		}
		if alive(tasks[b.ID]) {
			r.watch(b)
		}
	}
	return nil
}

// sweep removes the folders that a crash has left of containers that there are not. Those that this process made are its own affair.
func (r *Runtime) sweep(list []containers.Container) {
	there := map[string]bool{}
	for _, c := range list {
		there[c.ID] = true
	}
	entries, err := os.ReadDir(filepath.Join(r.cfg.Root, "containers"))
	if err != nil {
		return
	}
	for _, e := range entries {
		if info, err := e.Info(); err == nil && !there[e.Name()] && info.ModTime().Before(r.began) {
			_ = os.Remove(r.dir(e.Name())) // which has nothing in it
		}
	}
}
