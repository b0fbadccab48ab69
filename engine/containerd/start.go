package containerd

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	runcoptions "github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/errdefs"
	"github.com/containerd/typeurl/v2"
	"github.com/moby/sys/signal"
	"golang.org/x/sys/unix"

	"github.com/longshore-project/longshore/engine"
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
	if was, err = r.note(ctx, b.ID, was, t); err != nil {
		return err
	}
	if !again && !was.StartedAt.IsZero() {
		return refuse(errdefs.ErrFailedPrecondition, "container %s has run already and ended with exit code %d", b.rec.Spec.Name, was.ExitCode)
	}
	return r.begin(ctx, b, run{Network: was.Network})
}

// begin makes everything that the process needs and starts it. The lock is held. What fails is remembered as the reason.
func (r *Runtime) begin(ctx context.Context, b box, next run) error {
	err := r.tryBegin(ctx, b, &next)
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
	_ = r.disconnect(undo, b.ID)
	failed := run{Error: err.Error(), ExitCode: exitCodeOf(err)}
	if werr := r.writeRun(b.ID, failed); werr != nil {
		return fmt.Errorf("%w; nor could that be written down: %w", err, werr)
	}
	return err
}

func (r *Runtime) tryBegin(ctx context.Context, b box, next *run) error {
	f, err := r.facts(ctx, b, next)
	if err != nil {
		return err
	}
	oci, err := compose(b.rec, f)
	if err != nil {
		return err
	}
	any, err := typeurl.MarshalAny(oci)
	if err != nil {
		return err
	}
	b.Spec = any
	if _, err := r.client.ContainerService().Update(ctx, b.Container, "spec"); err != nil {
		return classify(ctx, err)
	}
	c, err := r.client.LoadContainer(ctx, b.ID)
	if err != nil {
		return classify(ctx, err)
	}
	out, err := r.output(b)
	if err != nil {
		return err
	}
	task, err := c.NewTask(ctx, out)
	if err == nil {
		err = r.logged(b)
	}
	if err != nil {
		return startError(ctx, err)
	}
	// From here on there may be a process. That it was started is written before it runs.
	next.StartedAt, next.Pid = now(), int(task.Pid())
	if err := r.writeRun(b.ID, *next); err != nil {
		return err
	}
	if err := task.Start(ctx); err != nil {
		return startError(ctx, err)
	}
	return nil
}

// release deletes a container's task, with the process if there is one. The lock is held.
func (r *Runtime) release(ctx context.Context, id string) error {
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
	_, _, err = r.settle(ctx, b.ID)
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

// runtimeOptions name the OCI runtime where it is not containerd's own.
func (r *Runtime) runtimeOptions() (typeurl.Any, error) {
	if r.cfg.OCIRuntime == "" {
		return nil, nil
	}
	return typeurl.MarshalAny(&runcoptions.Options{BinaryName: r.cfg.OCIRuntime})
}

// facts finds out and makes what a container needs now: namespaces, files, volumes.
func (r *Runtime) facts(ctx context.Context, b box, next *run) (facts, error) {
	rec := b.rec
	f := r.input(b.ID, rec)
	var err error
	if f.User, err = r.user(ctx, rec); err != nil {
		return f, err
	}
	if f.Devices, err = devices(rec); err != nil {
		return f, err
	}
	if rec.Spec.HostConfig.Privileged {
		if f.Privileged, err = hostDevices(); err != nil {
			return f, err
		}
	}
	if f.PID, err = r.namespaceOf(ctx, rec.Spec.HostConfig.PidMode, "pid"); err != nil {
		return f, err
	}
	if f.IPC, err = r.namespaceOf(ctx, rec.Spec.HostConfig.IpcMode, "ipc"); err != nil {
		return f, err
	}
	if f.Shm, err = r.shm(ctx, b); err != nil {
		return f, err
	}
	if f.Network, err = r.namespaceOf(ctx, networkMode(rec.Spec), "net"); err != nil {
		return f, err
	}
	if networkMode(rec.Spec) == "bridge" && !rec.Spec.Config.NetworkDisabled {
		if r.cfg.Networks == nil {
			return f, refuse(errdefs.ErrNotImplemented, "the bridge network mode is not available: the agent makes no networks here")
		}
		c, err := r.cfg.Networks.Connect(ctx, b.ID, rec.Spec.Labels[engine.LabelTaskArn], rec.Spec.Ports)
		if err != nil {
			return f, err
		}
		next.Network, f.Network = &c, c.Namespace
	}
	if f.Volumes, err = r.mountVolumes(ctx, b); err != nil {
		return f, err
	}
	if err := makeBindSources(rec); err != nil {
		return f, err
	}
	f.Files, err = r.files(ctx, b, next)
	return f, err
}

// input is what is known of a container without asking anybody.
func (r *Runtime) input(id string, rec record) facts {
	f := facts{ID: id, Hostname: cmp.Or(rec.Spec.Config.Hostname, id[:12]), CgroupV2: unified(), Capabilities: possibleCapabilities()}
	if networkMode(rec.Spec) == "host" {
		f.Hostname, _ = os.Hostname()
	}
	if apparmorEnabled() {
		f.AppArmor = appArmorProfile
	}
	if wantsInit(rec) {
		f.Init = initProgram()
	}
	return f
}

// namespaceOf is the file of a namespace of another container, where a mode names one.
func (r *Runtime) namespaceOf(ctx context.Context, mode, kind string) (string, error) {
	ref, joins := other(mode)
	if !joins {
		return "", nil
	}
	_, t, err := r.running(ctx, ref)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("/proc/%d/ns/%s", t, kind), nil
}

// running is a container whose namespaces others join, and its process.
func (r *Runtime) running(ctx context.Context, ref string) (box, int, error) {
	b, err := r.find(ctx, ref)
	if errdefs.IsNotFound(err) {
		return b, 0, refuse(errdefs.ErrInvalidArgument, "the container %s, whose namespace is to be joined, does not exist", ref)
	}
	if err != nil {
		return b, 0, err
	}
	t, err := r.task(ctx, b.ID)
	if err != nil {
		return b, 0, err
	}
	if !alive(t) {
		return b, 0, refuse(errdefs.ErrInvalidArgument, "the container %s, whose namespace is to be joined, does not run", ref)
	}
	return b, int(t.Pid), nil
}

// shm is the folder of a shared memory file system that others may join, or that is another container's.
func (r *Runtime) shm(ctx context.Context, b box) (string, error) {
	host := b.rec.Spec.HostConfig
	if ref, joins := other(host.IpcMode); joins {
		o, _, err := r.running(ctx, ref)
		if err != nil {
			return "", err
		}
		return filepath.Join(r.dir(o.ID), "shm"), nil
	}
	if host.IpcMode == "host" {
		return "/dev/shm", nil
	}
	if host.IpcMode != "shareable" {
		return "", nil
	}
	at := filepath.Join(r.dir(b.ID), "shm")
	size := host.ShmSize
	if size == 0 {
		size = defaultShm
	}
	return at, mountShm(at, fmt.Sprintf("mode=1777,size=%d", size))
}

// mountShm mounts a shared memory file system, unless it is.
func mountShm(at, data string) error {
	if err := os.MkdirAll(at, 0o755); err != nil {
		return err
	}
	if mounted, err := isMount(at); err != nil || mounted {
		return err
	}
	if err := unix.Mount("shm", at, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, data); err != nil {
		return refuse(errdefs.ErrInvalidArgument, "mount shared memory at %s with options %q: %v", at, data, err)
	}
	return nil
}

// disconnect takes away what a process that is gone had of the host: its place on the bridge, and mounts.
func (r *Runtime) disconnect(ctx context.Context, id string) error {
	if r.cfg.Networks != nil {
		if err := r.cfg.Networks.Disconnect(ctx, id); err != nil {
			return err
		}
	}
	was, err := r.readRun(id)
	if err != nil {
		return err
	}
	at := filepath.Join(r.dir(id), "shm")
	if mounted, err := isMount(at); err == nil && mounted {
		if err := unix.Unmount(at, unix.MNT_DETACH); err != nil {
			return fmt.Errorf("unmount %s: %w", at, err)
		}
	}
	if was.Network == nil {
		return nil
	}
	was.Network = nil
	return r.writeRun(id, was)
}

func makeBindSources(rec record) error {
	for _, m := range rec.Spec.Mounts {
		if m.Type != "bind" {
			continue
		}
		if _, err := os.Stat(m.Source); err == nil {
			continue
		}
		if err := os.MkdirAll(m.Source, 0o755); err != nil {
			return refuse(errdefs.ErrInvalidArgument, "the host path of %s can't be made: %v", strings.TrimSpace(m.Target), err)
		}
	}
	return nil
}
