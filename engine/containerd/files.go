package containerd

import (
	"context"
	"errors"
	"strings"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"

	"github.com/longshore-project/longshore/engine"
	"github.com/longshore-project/longshore/engine/imagefs"
)

// layersOf returns where an image's layers are on this host.
func (r *Runtime) layersOf(ctx context.Context, imageID string) (imagefs.Layers, error) {
	l, err := r.local(ctx, imageID)
	if err != nil {
		return nil, err
	}
	ctx, done, err := r.client.WithLease(ctx)
	if err != nil {
		return nil, classify(ctx, err)
	}
	defer func() { _ = done(context.WithoutCancel(ctx)) }()
	s, key := r.client.SnapshotService(r.cfg.Snapshotter), "look-"+newID()
	mounts, err := s.View(ctx, key, l.chain.String())
	if err != nil {
		return nil, classify(ctx, err)
	}
	defer func() { _ = s.Remove(context.WithoutCancel(ctx), key) }()
	return layersIn(mounts), nil
}

// layersIn reads the folders out of a mount: a single layer is bound, several are overlaid.
func layersIn(mounts []mount.Mount) imagefs.Layers {
	if len(mounts) != 1 {
		return nil
	}
	switch m := mounts[0]; m.Type {
	case "bind":
		return imagefs.Layers{m.Source}
	case "overlay":
		for _, o := range m.Options {
			if dirs, is := strings.CutPrefix(o, "lowerdir="); is {
				return strings.Split(dirs, ":")
			}
		}
	}
	return nil
}

// ReadFile reads a file of an image.
func (r *Runtime) ReadFile(ctx context.Context, imageID, name string, limit int64) ([]byte, error) {
	dirs, err := r.layersOf(r.ns(ctx), imageID)
	if err != nil {
		return nil, err
	}
	data, err := dirs.ReadFile(imageID, name, limit)
	return data, r.plain(dirs, err)
}

// Stat describes a path of an image.
func (r *Runtime) Stat(ctx context.Context, imageID, name string) (engine.FileInfo, error) {
	dirs, err := r.layersOf(r.ns(ctx), imageID)
	if err != nil {
		return engine.FileInfo{}, err
	}
	info, err := dirs.Stat(imageID, name)
	return info, r.plain(dirs, err)
}

// plain names what keeps files from being read.
func (r *Runtime) plain(dirs imagefs.Layers, err error) error {
	if len(dirs) == 0 || errors.Is(err, imagefs.ErrNotPlain) {
		return refuse(errdefs.ErrNotImplemented, "files of images can't be read with containerd's snapshotter %s: its layers are no plain folders", r.cfg.Snapshotter)
	}
	return err
}
