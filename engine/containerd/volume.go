package containerd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	iofs "io/fs"
	"net"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/continuity/fs"
	"github.com/containerd/errdefs"
	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/longshore-project/longshore/engine"
)

// A volume is a folder of its name: volume.json says what it is, _data has its files, or is where it is mounted. Volumes with options are
// file systems (Docker's local driver: type, device, o), which are mounted while a container uses them.

// anonymous is the name of a volume that no definition names: an id. It goes with the last container that has it.
var anonymous = regexp.MustCompile(`^[0-9a-f]{64}$`)

var volumeName = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]+$`)

func (r *Runtime) volumeDir(name string) string { return filepath.Join(r.cfg.Root, "volumes", name) }

func (r *Runtime) volumeData(name string) string { return filepath.Join(r.volumeDir(name), "_data") }

// CreateVolume makes a named volume.
func (r *Runtime) CreateVolume(ctx context.Context, v engine.EngineVolume) error {
	if err := r.reachable(ctx); err != nil {
		return err
	}
	if !volumeName.MatchString(v.Name) || len(v.Name) > 255 {
		return refuse(errdefs.ErrInvalidArgument, "%q is no name of a volume: letters, digits, _, . and - only, at least two", v.Name)
	}
	if v.Driver != "" && v.Driver != "local" {
		return refuse(errdefs.ErrInvalidArgument, "there is no volume driver %s with containerd; local is", v.Driver)
	}
	for o := range v.Options {
		if !slices.Contains([]string{"type", "device", "o"}, o) {
			return refuse(errdefs.ErrInvalidArgument, "option %q of volume %s: the local driver has type, device and o", o, v.Name)
		}
	}
	unlock, err := r.known.lock(ctx, "volume "+v.Name)
	if err != nil {
		return err
	}
	defer unlock()
	if _, err := r.readVolume(v.Name); !errdefs.IsNotFound(err) {
		return err
	}
	v.Driver = "local"
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(r.volumeData(v.Name), 0o755); err != nil {
		return err
	}
	return replaceFile(filepath.Join(r.volumeDir(v.Name), "volume.json"), b, 0o600)
}

// reachable makes the volumes behave as the rest of the engine does: they are not changed while containerd is away.
func (r *Runtime) reachable(ctx context.Context) error { return r.Reach(ctx) }

func (r *Runtime) readVolume(name string) (engine.EngineVolume, error) {
	var v engine.EngineVolume
	missing := refuse(errdefs.ErrNotFound, "no such volume: %s", name)
	if !volumeName.MatchString(name) {
		return v, missing
	}
	b, err := os.ReadFile(filepath.Join(r.volumeDir(name), "volume.json"))
	if errors.Is(err, iofs.ErrNotExist) {
		return v, missing
	}
	if err != nil {
		return v, err
	}
	if err := json.Unmarshal(b, &v); err != nil {
		return v, refuse(errdefs.ErrDataLoss, "what volume %s is can't be read: %v", name, err)
	}
	return v, nil
}

// InspectVolume returns a named volume.
func (r *Runtime) InspectVolume(ctx context.Context, name string) (engine.EngineVolume, error) {
	if err := r.reachable(ctx); err != nil {
		return engine.EngineVolume{}, err
	}
	if name == "" {
		return engine.EngineVolume{}, refuse(errdefs.ErrInvalidArgument, "no volume name given")
	}
	return r.readVolume(name)
}

// RemoveVolume removes a named volume.
func (r *Runtime) RemoveVolume(ctx context.Context, name string) error {
	ctx = r.ns(ctx)
	unlock, err := r.known.lock(ctx, "volume "+name)
	if err != nil {
		return err
	}
	defer unlock()
	list, err := r.client.ContainerService().List(ctx)
	if err != nil {
		return classify(ctx, err)
	}
	for _, c := range list {
		b, err := open(c)
		if _, used := volumesOf(b.rec)[name]; err == nil && used {
			return refuse(errdefs.ErrFailedPrecondition, "volume %s is in use by container %s", name, b.rec.Spec.Name)
		}
	}
	if _, err := r.readVolume(name); err != nil {
		return ignoreMissing(err)
	}
	return r.dropVolume(name)
}

// dropVolume removes a volume that nobody uses.
func (r *Runtime) dropVolume(name string) error {
	if mounted, err := isMount(r.volumeData(name)); err == nil && mounted {
		if err := unix.Unmount(r.volumeData(name), 0); err != nil {
			return fmt.Errorf("unmount volume %s: %w", name, err)
		}
	}
	return os.RemoveAll(r.volumeDir(name))
}

func isMount(at string) (bool, error) {
	mounted, err := mountinfo.Mounted(at)
	if errors.Is(err, iofs.ErrNotExist) {
		return false, nil
	}
	return mounted, err
}

// inherit are the mounts of a Spec with those of the containers that its volumesFrom names; its own come first, and win.
func (r *Runtime) inherit(ctx context.Context, spec engine.Spec) ([]engine.Mount, error) {
	all := slices.Clone(spec.Mounts)
	for _, from := range spec.VolumesFrom {
		name, mode, _ := strings.Cut(from, ":")
		o, err := r.find(ctx, name)
		if errdefs.IsNotFound(err) {
			return nil, refuse(errdefs.ErrInvalidArgument, "the container %s, whose volumes are wanted, does not exist", name)
		}
		if err != nil {
			return nil, err
		}
		theirs := slices.Clone(o.rec.Spec.Mounts)
		for at, volume := range o.rec.Anonymous {
			theirs = append(theirs, engine.Mount{Type: "volume", Source: volume, Target: at})
		}
		for _, m := range theirs {
			if m.Type == "tmpfs" || slices.ContainsFunc(all, func(have engine.Mount) bool { return path.Clean(have.Target) == path.Clean(m.Target) }) {
				continue
			}
			m.ReadOnly = m.ReadOnly || mode == "ro"
			all = append(all, m)
		}
	}
	return all, nil
}

// volumesOf are the volumes of a container by name, with their places in it.
func volumesOf(rec record) map[string]string {
	at := map[string]string{}
	for place, name := range rec.Anonymous {
		at[name] = place
	}
	for _, m := range rec.Spec.Mounts {
		if m.Type == "volume" {
			at[m.Source] = m.Target
		}
	}
	return at
}

// makeVolumes makes the volumes of a container that there are not yet.
func (r *Runtime) makeVolumes(ctx context.Context, rec record) error {
	for name := range volumesOf(rec) {
		if err := r.CreateVolume(ctx, engine.EngineVolume{Name: name}); err != nil {
			return err
		}
	}
	return nil
}

// mountVolumes makes the volumes of a container ready. A new and empty one gets what the image has at its place.
func (r *Runtime) mountVolumes(ctx context.Context, b box) error {
	if err := r.makeVolumes(ctx, b.rec); err != nil { // somebody may have removed one
		return err
	}
	for name, place := range volumesOf(b.rec) {
		v, err := r.readVolume(name)
		if err != nil {
			return err
		}
		if len(v.Options) > 0 {
			err = r.mountVolume(ctx, v)
		} else {
			err = r.fill(ctx, b, r.volumeData(name), place)
		}
		if err != nil {
			return fmt.Errorf("volume %s: %w", name, err)
		}
	}
	return nil
}

// mountVolume mounts a volume with options. It stays mounted until the volume is removed: others may use it too.
func (r *Runtime) mountVolume(ctx context.Context, v engine.EngineVolume) error {
	unlock, err := r.known.lock(ctx, "volume "+v.Name)
	if err != nil {
		return err
	}
	defer unlock()
	at := r.volumeData(v.Name)
	if mounted, err := isMount(at); err != nil || mounted {
		return err
	}
	m := mount.Mount{Type: v.Options["type"], Source: v.Options["device"]}
	for _, o := range strings.Split(v.Options["o"], ",") {
		if host, is := strings.CutPrefix(o, "addr="); is && m.Type == "nfs" { // the kernel's NFS takes addresses only
			found, err := net.DefaultResolver.LookupHost(ctx, host)
			if err != nil {
				return refuse(errdefs.ErrInvalidArgument, "the address of the NFS server: %v", err)
			}
			o = "addr=" + found[0]
		}
		if o != "" {
			m.Options = append(m.Options, o)
		}
	}
	if err := m.Mount(at); err != nil {
		return refuse(errdefs.ErrInvalidArgument, "mount %s of type %q with options %q: %v", m.Source, m.Type, v.Options["o"], err)
	}
	return nil
}

// fill copies what the container's file system has at a place into an empty volume, with its owner, as Docker does.
func (r *Runtime) fill(ctx context.Context, b box, dir, place string) error {
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) > 0 {
		return err
	}
	mounts, err := r.client.SnapshotService(b.Snapshotter).Mounts(ctx, b.SnapshotKey)
	if err != nil {
		return classify(ctx, err)
	}
	return mount.WithReadonlyTempMount(ctx, mounts, func(root string) error {
		from, err := fs.RootPath(root, place)
		if err != nil {
			return err
		}
		info, err := os.Stat(from)
		if errors.Is(err, iofs.ErrNotExist) || err == nil && !info.IsDir() {
			return nil
		}
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Stat(from, &st); err != nil {
			return err
		}
		if err := fs.CopyDir(dir, from); err != nil {
			return err
		}
		return errors.Join(os.Chown(dir, int(st.Uid), int(st.Gid)), os.Chmod(dir, info.Mode()))
	})
}
