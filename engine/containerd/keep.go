package containerd

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/containerd/api/events"
	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/errdefs"
	"github.com/containerd/typeurl/v2"
	"go.uber.org/zap"

	"github.com/longshore-project/longshore/internal/failpoint"
)

// settle writes down the end of a container's process if it has ended, and releases what it had. It returns the task that is left, and
// what is remembered now.
func (r *Runtime) settle(ctx context.Context, id string) (*tasktypes.Process, run, error) {
	unlock, err := r.known.lock(ctx, id)
	if err != nil {
		return nil, run{}, err
	}
	defer unlock()
	t, err := r.task(ctx, id)
	if err != nil {
		return nil, run{}, err
	}
	was, err := r.readRun(id)
	if err != nil || alive(t) || t == nil && !was.running() {
		return t, was, err
	}
	was, err = r.note(ctx, id, was, t)
	return nil, was, err
}

// note is settle's work, for a task that does not run. The lock is held.
func (r *Runtime) note(ctx context.Context, id string, was run, t *tasktypes.Process) (run, error) {
	switch {
	case t == nil && !was.running():
		return was, nil
	case t == nil:
		was.FinishedAt, was.ExitCode = now(), 255
		was.Error = "how the process ended is not known: containerd has lost it, because its shim was killed or the host was restarted"
	case t.Status == tasktypes.Status_STOPPED && !was.StartedAt.IsZero():
		was.FinishedAt, was.ExitCode = t.ExitedAt.AsTime(), int(t.ExitStatus)
		was.OOMKilled = was.ExitCode != 0 && r.killedForMemory(ctx, id)
	default: // it was made and never ran
		was = run{Network: was.Network}
	}
	was.Pid = 0
	if was.FinishedAt.Before(was.StartedAt) {
		was.FinishedAt = was.StartedAt
	}
	failpoint.Hit("containerd/note-before")
	if err := r.writeRun(id, was); err != nil {
		return was, err
	}
	failpoint.Hit("containerd/note-after")
	if t != nil {
		if err := r.release(ctx, id); err != nil {
			return was, err
		}
	}
	if err := r.disconnect(ctx, id); err != nil { // its removal tries again
		r.log.Warn("what an ended container had of the host's network could not be taken away yet", zap.String("container", id), zap.Error(err))
	}
	was.Network = nil
	return was, nil
}

// killedForMemory asks the kernel whether it has ended a process of the container for want of memory. The control group is there as
// long as the task is.
func (r *Runtime) killedForMemory(ctx context.Context, id string) bool {
	c, err := r.client.LoadContainer(ctx, id)
	if err != nil {
		return false
	}
	spec, err := c.Spec(ctx)
	if err != nil || spec.Linux == nil {
		return false
	}
	for _, file := range []string{filepath.Join("/sys/fs/cgroup/memory", spec.Linux.CgroupsPath, "memory.oom_control"), filepath.Join("/sys/fs/cgroup", spec.Linux.CgroupsPath, "memory.events")} {
		b, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(b)) {
			key, value, _ := strings.Cut(strings.TrimSpace(line), " ")
			if n, err := strconv.Atoi(value); key == "oom_kill" && err == nil && n > 0 {
				return true
			}
		}
	}
	return false
}

const (
	firstPause = 50 * time.Millisecond
	lastPause  = 2 * time.Second
)

// keep follows containerd until ctx ends: what happened while nobody followed is found by looking at everything.
func (r *Runtime) keep(ctx context.Context) {
	defer r.health.end()
	pause := firstPause
	for ctx.Err() == nil {
		began := time.Now()
		err := r.follow(ctx)
		if ctx.Err() != nil {
			return
		}
		if time.Since(began) > lastPause {
			pause = firstPause
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

// follow subscribes, looks at everything, and then at what events speak of.
func (r *Runtime) follow(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	heard, failed := r.client.Subscribe(ctx, `topic=="/tasks/exit"`)
	if err := r.lookAtAll(ctx); err != nil {
		return err
	}
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
	if _, err := r.find(ctx, id); err != nil {
		return
	}
	if _, _, err := r.settle(ctx, id); err != nil && ctx.Err() == nil && !errdefs.IsNotFound(err) {
		r.log.Warn("the end of a container could not be written down; it is when somebody looks at it", zap.String("container", id), zap.Error(err))
	}
}

// lookAtAll writes down the ends that nobody heard of, and takes up the health checks of what runs.
func (r *Runtime) lookAtAll(ctx context.Context) error {
	tasks, list, err := r.everything(ctx)
	if err != nil {
		return err
	}
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
