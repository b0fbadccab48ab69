package containerd

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"github.com/longshore-project/longshore/engine"
)

// facts finds out and makes what a container's process needs to be made: namespaces, files, volumes. What these are filled with is
// furnish's.
func (r *Runtime) facts(ctx context.Context, b box) (facts, error) {
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
	if ref, joins := other(networkMode(rec.Spec)); joins { // with the network goes the name, as with Docker
		o, pid, err := r.running(ctx, ref)
		if err != nil {
			return f, err
		}
		f.Network, f.Hostname = fmt.Sprintf("/proc/%d/ns/net", pid), r.input(o.ID, o.rec).Hostname
	}
	if bridged(rec) {
		if r.cfg.Networks == nil {
			return f, refuse(errdefs.ErrNotImplemented, "the bridge network mode is not available: the agent makes no networks here")
		}
		if err := r.cfg.Networks.Make(b.ID); err != nil {
			return f, err
		}
	}
	if err := r.mountVolumes(ctx, b); err != nil {
		return f, err
	}
	if err := makeBindSources(rec); err != nil {
		return f, err
	}
	return f, r.makeFiles(ctx, b, &f)
}

// furnish connects the container to the bridge if it is to be on it, and writes its files of /etc, which say its addresses.
func (r *Runtime) furnish(ctx context.Context, b box) (*Connection, error) {
	var c *Connection
	if bridged(b.rec) {
		made, err := r.connect(ctx, b)
		if err != nil {
			return nil, err
		}
		c = &made
	}
	if _, joins := other(networkMode(b.rec.Spec)); joins {
		return nil, nil
	}
	return c, r.writeFiles(ctx, b, c)
}

// bridged reports whether a container is on the host's bridge.
func bridged(rec record) bool {
	return networkMode(rec.Spec) == "bridge" && !rec.Spec.Config.NetworkDisabled
}

// connect puts a container's namespace on the bridge. A port may be held by one that is leaving it.
func (r *Runtime) connect(ctx context.Context, b box) (Connection, error) {
	try := func() (Connection, error) {
		return r.cfg.Networks.Connect(ctx, b.ID, b.rec.Spec.Labels[engine.LabelTaskArn], b.rec.Spec.Ports)
	}
	c, err := try()
	if errdefs.IsResourceExhausted(err) {
		r.leaving.Lock() // now nobody is leaving
		defer r.leaving.Unlock()
		return try()
	}
	return c, err
}

// depart takes away what an ended process had of the host, beside whatever comes next: the kernel takes some tens of milliseconds to take
// an interface down. unlock is called when it is done.
func (r *Runtime) depart(b box, unlock func()) {
	r.leaving.RLock()
	r.work.Go(func() {
		defer unlock()
		defer r.leaving.RUnlock()
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		if err := r.disconnect(ctx, b); err != nil { // its removal tries again
			r.log.Warn("what an ended container had of the host's network could not be taken away yet", zap.String("container", b.rec.Spec.Name), zap.Error(err))
		}
	})
}

// input is what is known of a container without asking anybody.
func (r *Runtime) input(id string, rec record) facts {
	f := facts{ID: id, Hostname: cmp.Or(rec.Spec.Config.Hostname, id[:12]), CgroupV2: unified(), Capabilities: possibleCapabilities(), X32: kernelHasX32(), AppArmor: r.appArmor()}
	if networkMode(rec.Spec) == "host" {
		f.Hostname, _ = os.Hostname()
	}
	if wantsInit(rec) {
		f.Init = initProgram()
	}
	if bridged(rec) && r.cfg.Networks != nil {
		f.Network = r.cfg.Networks.File(id)
	}
	f.Files, f.Volumes = r.filesOf(id), map[string]string{}
	for name := range volumesOf(rec) {
		f.Volumes[name] = r.volumeData(name)
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

// disconnect takes away what a process that is gone had of the host: its place on the bridge, and its shared memory.
func (r *Runtime) disconnect(ctx context.Context, b box) error {
	if bridged(b.rec) && r.cfg.Networks != nil {
		if err := r.cfg.Networks.Disconnect(ctx, b.ID); err != nil {
			return err
		}
	}
	if b.rec.Spec.HostConfig.IpcMode != "shareable" {
		return nil
	}
	at := filepath.Join(r.dir(b.ID), "shm")
	if mounted, err := isMount(at); err != nil || !mounted {
		return err
	}
	if err := unix.Unmount(at, unix.MNT_DETACH); err != nil {
		return fmt.Errorf("unmount %s: %w", at, err)
	}
	return nil
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
