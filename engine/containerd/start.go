package containerd

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"syscall"
	"time"

	tasksapi "github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"
	"github.com/containerd/typeurl/v2"
	"github.com/moby/sys/signal"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// Start starts a container.
func (r *Runtime) Start(ctx context.Context, ref string) error { return r.start(ctx, ref, false) }

// Restart starts a container whose process has ended once more, on the same file system.
func (r *Runtime) Restart(ctx context.Context, ref string) error { return r.start(ctx, ref, true) }

func (r *Runtime) start(ctx context.Context, ref string, again bool) error {
	ctx = r.ns(ctx)
	b, err := r.find(ctx, ref)
	if err != nil {
		return err
	}
	r.shims.await(ctx, b.ID)
	unlock, err := r.known.lock(ctx, b.ID)
	if err != nil {
		return err
	}
	defer unlock()
	t, err := r.task(ctx, b.ID)
	if err != nil {
		return err
	}
	was, err := r.readRun(b.ID)
	switch {
	case err != nil:
		return err
	case alive(t) && was.running():
		return nil
	}
	if t != nil || was.running() {
		if was, err = r.note(ctx, b, was, t); err != nil {
			return err
		}
		if was.running() {
			return refuse(errdefs.ErrUnavailable, "container %s has processes that do not end, and no shim", b.rec.Spec.Name)
		}
		if err := r.disconnect(ctx, b); err != nil {
			return err
		}
	}
	if !again && !was.StartedAt.IsZero() {
		return refuse(errdefs.ErrFailedPrecondition, "container %s has run already and ended with exit code %d", b.rec.Spec.Name, was.ExitCode)
	}
	return r.begin(ctx, b)
}

// begin makes everything that the process needs and starts it. The lock is held. What fails is remembered as the reason.
func (r *Runtime) begin(ctx context.Context, b box) error {
	err := r.tryBegin(ctx, b)
	if err == nil {
		r.watch(b)
		return nil
	}
	if ctx.Err() != nil || errdefs.IsUnavailable(err) {
		return err // nothing is known of the outcome; who looks next decides
	}
	undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	_ = r.release(undo, b.ID)
	_ = r.disconnect(undo, b)
	failed := run{Error: err.Error(), ExitCode: exitCodeOf(err)}
	if werr := r.writeRun(b.ID, failed); werr != nil {
		return fmt.Errorf("%w; nor could that be written down: %w", err, werr)
	}
	return err
}

// tryBegin makes the process while the network that it will have is made, and starts it when both are there.
func (r *Runtime) tryBegin(ctx context.Context, b box) error {
	f, err := r.facts(ctx, b)
	if err != nil {
		return err
	}
	if err := r.configure(ctx, &b, f); err != nil {
		return err
	}
	var next run
	var group errgroup.Group
	group.Go(func() (err error) {
		next.Network, err = r.furnish(ctx, b)
		return err
	})
	pid, err := r.makeProcess(ctx, b)
	if ferr := group.Wait(); err == nil {
		err = ferr
	}
	if err != nil {
		return err
	}
	// From here on there may be a process. That it was started is written before it runs.
	next.StartedAt, next.Pid, next.Bundle, next.Group = now(), pid, bundleOf(pid), cgroupOf(b.rec, b.ID)
	if err := r.writeRun(b.ID, next); err != nil {
		return err
	}
	if _, err := r.client.TaskService().Start(ctx, &tasksapi.StartRequest{ContainerID: b.ID}); err != nil {
		return startError(ctx, err)
	}
	return nil
}

// configure gives the container the configuration that its facts make, if it has another one. What was known when it was made is in it
// already, and that is mostly everything.
func (r *Runtime) configure(ctx context.Context, b *box, f facts) error {
	oci, err := compose(b.rec, f)
	if err != nil {
		return err
	}
	any, err := typeurl.MarshalAny(oci)
	if err != nil {
		return err
	}
	if b.Spec != nil && bytes.Equal(b.Spec.GetValue(), any.GetValue()) {
		return nil
	}
	b.Spec = any
	_, err = r.client.ContainerService().Update(ctx, b.Container, "spec")
	return classify(ctx, err)
}

// makeProcess has the shim and the process made, which waits for its start.
func (r *Runtime) makeProcess(ctx context.Context, b box) (int, error) {
	root, err := r.client.SnapshotService(b.Snapshotter).Mounts(ctx, b.SnapshotKey)
	if err != nil {
		return 0, classify(ctx, err)
	}
	request := &tasksapi.CreateTaskRequest{ContainerID: b.ID, Rootfs: mount.ToProto(root)}
	if err := r.output(b, request); err != nil {
		return 0, err
	}
	made, err := r.client.TaskService().Create(ctx, request)
	if err != nil {
		return 0, startError(ctx, err)
	}
	return int(made.Pid), r.logged(b)
}

// release deletes a container's task, with the process if there is one. The lock is held.
func (r *Runtime) release(ctx context.Context, id string) error {
	_, err := r.client.TaskService().Delete(ctx, &tasksapi.DeleteTaskRequest{ContainerID: id})
	if err = native(err); err == nil || errdefs.IsNotFound(err) {
		return nil
	}
	// There is a process, or one that was made and not started.
	c, err := r.client.LoadContainer(ctx, id)
	if err != nil {
		return ignoreMissing(classify(ctx, err))
	}
	task, err := c.Task(ctx, nil)
	if err != nil {
		return ignoreMissing(classify(ctx, err))
	}
	_, err = task.Delete(ctx, client.WithProcessKill)
	return ignoreMissing(classify(ctx, err))
}

func ignoreMissing(err error) error {
	if errdefs.IsNotFound(err) {
		return nil
	}
	return err
}

// Stop sends the stop signal, waits, kills, and returns when the process is gone.
func (r *Runtime) Stop(ctx context.Context, ref string, grace time.Duration) error {
	ctx = r.ns(ctx)
	b, err := r.find(ctx, ref)
	if errdefs.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	c, err := r.client.LoadContainer(ctx, b.ID)
	if err != nil {
		return ignoreMissing(classify(ctx, err))
	}
	task, err := c.Task(ctx, nil)
	if err != nil {
		return ignoreMissing(classify(ctx, err))
	}
	t, err := r.task(ctx, b.ID)
	if err != nil || t == nil {
		return err
	}
	if alive(t) {
		if err := r.endProcess(ctx, b, task, grace); err != nil {
			return err
		}
	}
	_, _, err = r.settle(ctx, b)
	return err
}

func (r *Runtime) endProcess(ctx context.Context, b box, task client.Task, grace time.Duration) error {
	wait, cancel := context.WithCancel(ctx)
	defer cancel()
	gone, err := task.Wait(wait)
	if err != nil {
		return ignoreMissing(classify(ctx, err))
	}
	number := unix.SIGTERM
	if name := cmp.Or(b.rec.Spec.Config.StopSignal, b.rec.Image.StopSignal); name != "" {
		if number, err = signal.ParseSignal(name); err != nil {
			return refuse(errdefs.ErrInvalidArgument, "stop signal %q: %v", name, err)
		}
	}
	if grace > 0 {
		if err := r.kill(ctx, task, number); err != nil {
			return err
		}
		if over, err := await(ctx, gone, grace); over || err != nil {
			return err
		}
	}
	if err := r.kill(ctx, task, unix.SIGKILL); err != nil {
		return err
	}
	for {
		if over, err := await(ctx, gone, 10*time.Second); over || err != nil {
			return err
		}
		if t, err := r.task(ctx, b.ID); err != nil || !alive(t) {
			return err
		}
	}
}

func (r *Runtime) kill(ctx context.Context, task client.Task, number syscall.Signal) error {
	var all []client.KillOpts
	if number == unix.SIGKILL {
		all = append(all, client.WithKillAll) // with a pid namespace that is not its own, its children would stay
	}
	err := task.Kill(ctx, number, all...)
	if err = native(err); errdefs.IsNotFound(err) || errdefs.IsFailedPrecondition(err) {
		return nil // it has ended
	}
	return classify(ctx, err)
}

// await waits until the process is gone or the time is over.
func await(ctx context.Context, gone <-chan client.ExitStatus, d time.Duration) (bool, error) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case status := <-gone:
		if err := status.Error(); err != nil {
			return false, classify(ctx, err)
		}
		return true, nil
	case <-t.C:
		return false, nil
	case <-ctx.Done():
		return false, ctx.Err()
	}
}
