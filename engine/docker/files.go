package docker

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/filters"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"github.com/longshore-project/longshore/engine"
	"github.com/longshore-project/longshore/engine/imagefs"
)

// Files of an image are read in one of two ways. Where its layers are plain directories on this host ([imagefs.Layers]) it costs
// one request to the engine and some microseconds, 0.5 ms. Everywhere else, with other storage drivers, remapped
// users or an engine on another machine, a container is made of the image and never started, and the engine copies files
// out of it: 15 ms for the container and, because Docker starts a program to pack each file, 45 ms for each question. One
// container is kept for a moment for the next question about the same image.
const (
	labelReader = "longshore.image-reader" // the image id
	readerIdle  = 3 * time.Second
	readerStale = 2 * time.Minute // older ones were left by a process that was killed
	maxLinks    = 4               // the engine follows chains itself, so a second one means a moving target
)

// readers are the helper containers, one for each image that was asked about lately.
type readers struct {
	link  *link
	log   *zap.Logger
	mu    sync.Mutex
	byID  map[string]*reader
	swept bool
	done  bool
	work  sync.WaitGroup // removals under way
}

type reader struct {
	making chan struct{} // of capacity 1: held while container is made or replaced
	id     string        // of the container; empty before it is made. Guarded by making.
	users  int
	idle   *time.Timer
}

func (rs *readers) init(link *link, log *zap.Logger) {
	rs.link, rs.log, rs.byID = link, log, map[string]*reader{}
}

// with calls f with the helper of an image, and once more with a new one if somebody has removed it.
func (rs *readers) with(ctx context.Context, imageID string, f func(id string) error) error {
	h, err := rs.take(imageID)
	if err != nil {
		return err
	}
	defer rs.give(imageID, h)
	bad := ""
	for range 2 {
		id, err := rs.made(ctx, imageID, h, bad)
		if err != nil {
			return err
		}
		err = f(id)
		var gone goneError
		if !errors.As(err, &gone) {
			return err
		}
		bad = id
	}
	return refuse(errdefs.ErrUnavailable, "the helper container for files of image %s disappears", imageID)
}

// goneError says that the helper container does not exist.
type goneError struct{ error }

func (rs *readers) take(imageID string) (*reader, error) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	if rs.done {
		return nil, refuse(errdefs.ErrUnavailable, "the connection to the engine is closed")
	}
	h := rs.byID[imageID]
	if h == nil {
		h = &reader{making: make(chan struct{}, 1)}
		rs.byID[imageID] = h
	}
	if h.idle != nil {
		h.idle.Stop()
		h.idle = nil
	}
	h.users++
	return h, nil
}

func (rs *readers) give(imageID string, h *reader) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	if h.users--; h.users > 0 || rs.byID[imageID] != h {
		return
	}
	if rs.done {
		rs.discard(imageID, h)
		return
	}
	h.idle = time.AfterFunc(readerIdle, func() {
		rs.mu.Lock()
		defer rs.mu.Unlock()
		if h.users == 0 && rs.byID[imageID] == h {
			rs.discard(imageID, h)
		}
	})
}

// discard removes a helper that nobody uses, in the background. The mutex is held.
func (rs *readers) discard(imageID string, h *reader) {
	delete(rs.byID, imageID)
	if h.id != "" {
		rs.work.Go(func() { rs.remove(h.id) })
	}
}

func (rs *readers) remove(id string) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	err := rs.link.api(ctx).ContainerRemove(ctx, id, container.RemoveOptions{RemoveVolumes: true, Force: true})
	if err != nil && !errdefs.IsNotFound(err) && !errdefs.IsConflict(err) {
		rs.log.Warn("a helper container for reading an image's files could not be removed; it never runs, remove it with docker rm",
			zap.String("container", id), zap.Error(err))
	}
}

// made returns the id of h's container, making one if there is none or it is bad.
func (rs *readers) made(ctx context.Context, imageID string, h *reader, bad string) (string, error) {
	select {
	case h.making <- struct{}{}:
		defer func() { <-h.making }()
	case <-ctx.Done():
		return "", ctx.Err()
	}
	if h.id != "" && h.id != bad {
		return h.id, nil
	}
	made, err := rs.link.api(ctx).ContainerCreate(ctx, &container.Config{
		Image: imageID, Entrypoint: []string{"/"}, Labels: map[string]string{labelReader: imageID}, NetworkDisabled: true,
		Healthcheck: &container.HealthConfig{Test: []string{"NONE"}},
	}, &container.HostConfig{NetworkMode: "none", LogConfig: container.LogConfig{Type: "none"}}, nil, nil, "")
	if err != nil {
		return "", createError(ctx, err)
	}
	h.id = made.ID
	return made.ID, nil
}

// drop removes the helper of an image that is about to be removed, and waits for it.
func (rs *readers) drop(ctx context.Context, imageID string) {
	rs.mu.Lock()
	h := rs.byID[imageID]
	if h == nil || h.users > 0 {
		rs.mu.Unlock()
		return
	}
	if h.idle != nil {
		h.idle.Stop()
	}
	delete(rs.byID, imageID)
	rs.mu.Unlock()
	if h.id != "" {
		_ = rs.link.api(ctx).ContainerRemove(ctx, h.id, container.RemoveOptions{RemoveVolumes: true, Force: true})
	}
}

// sweep removes, once, the helpers that an earlier process left.
func (rs *readers) sweep(ctx context.Context) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	if rs.swept || rs.done {
		return
	}
	rs.swept = true
	rs.work.Go(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
		defer cancel()
		left, err := rs.link.api(ctx).ContainerList(ctx, container.ListOptions{All: true, Filters: filters.NewArgs(filters.Arg("label", labelReader))})
		if err != nil {
			return
		}
		for _, c := range left {
			if time.Since(time.Unix(c.Created, 0)) > readerStale {
				rs.remove(c.ID)
			}
		}
	})
}

// close removes all helpers and waits for that.
func (rs *readers) close() {
	rs.mu.Lock()
	rs.done = true
	for imageID, h := range rs.byID {
		if h.idle != nil {
			h.idle.Stop()
		}
		if h.users == 0 {
			rs.discard(imageID, h)
		}
	}
	rs.mu.Unlock()
	rs.work.Wait()
}

// ReadFile reads a file of an image.
func (r *Runtime) ReadFile(ctx context.Context, imageID, name string, limit int64) ([]byte, error) {
	dirs, err := r.layersOf(ctx, imageID)
	if err != nil {
		return nil, err
	}
	if dirs != nil {
		data, err := dirs.ReadFile(imageID, name, limit)
		if !errors.Is(err, imagefs.ErrNotPlain) {
			return data, err
		}
	}
	var data []byte
	err = r.images.with(ctx, imageID, func(id string) error {
		data, err = r.readBy(ctx, id, imageID, name, limit)
		return err
	})
	return data, err
}

// readBy reads a file through the helper container id.
func (r *Runtime) readBy(ctx context.Context, id, imageID, name string, limit int64) (data []byte, err error) {
	at := path.Clean("/" + name)
	for range maxLinks {
		next := ""
		err := r.entry(ctx, id, imageID, at, func(h *tar.Header, target string, body io.Reader) (err error) {
			switch {
			case h.Typeflag == tar.TypeSymlink:
				next = target
				return nil
			case h.Typeflag != tar.TypeReg:
				return imagefs.NotRegular(imageID, name)
			case h.Size > limit:
				return imagefs.TooLarge(imageID, name, h.Size, limit)
			}
			data, err = io.ReadAll(body)
			return classify(ctx, err)
		})
		if err != nil || next == "" {
			return data, err
		}
		at = next
	}
	return nil, imagefs.TooManyLinks(imageID, name)
}

// Stat describes a path of an image.
func (r *Runtime) Stat(ctx context.Context, imageID, name string) (engine.FileInfo, error) {
	dirs, err := r.layersOf(ctx, imageID)
	if err != nil {
		return engine.FileInfo{}, err
	}
	if dirs != nil {
		info, err := dirs.Stat(imageID, name)
		if !errors.Is(err, imagefs.ErrNotPlain) {
			return info, err
		}
	}
	var info engine.FileInfo
	err = r.images.with(ctx, imageID, func(id string) error {
		return r.entry(ctx, id, imageID, path.Clean("/"+name), func(h *tar.Header, _ string, _ io.Reader) error {
			info = engine.FileInfo{Mode: statMode(h), UID: uint32(h.Uid), GID: uint32(h.Gid), Link: h.Linkname}
			return nil
		})
	})
	return info, err
}

// remapped matches the root of an engine with remapped users, whose layers have the host's ids and not the container's.
var remapped = regexp.MustCompile(`/[0-9]+\.[0-9]+/overlay2/`)

// layersOf returns where an image's layers are, nil if they can't be read here: with another storage driver, remapped
// users, an engine elsewhere or without root's rights, or no right to look.
func (r *Runtime) layersOf(ctx context.Context, imageID string) (imagefs.Layers, error) {
	img, err := r.link.api(ctx).ImageInspect(ctx, imageID)
	if err != nil {
		err = classify(ctx, err)
		if errdefs.IsInvalidArgument(err) {
			return nil, withClass(err, errdefs.ErrNotFound)
		}
		return nil, err
	}
	if r.remote || img.GraphDriver.Name != "overlay2" {
		return nil, nil
	}
	dirs := imagefs.Layers{img.GraphDriver.Data["UpperDir"]}
	if lower := img.GraphDriver.Data["LowerDir"]; lower != "" {
		dirs = append(dirs, strings.Split(lower, ":")...)
	}
	for _, d := range dirs {
		if !path.IsAbs(d) || remapped.MatchString(d) {
			return nil, nil
		}
		// An engine without root's rights owns its directories itself, and its layers too have ids that are not the container's.
		var st unix.Stat_t
		if unix.Stat(path.Dir(d), &st) != nil || st.Uid != 0 || unix.Stat(d, &st) != nil {
			return nil, nil
		}
	}
	return dirs, nil
}

// entry asks the engine for one path of a container, whose parents it resolves inside the container, and calls f with
// its head, for a symlink the path that it leads to in the end, and the contents; the rest of a directory is not read.
func (r *Runtime) entry(ctx context.Context, id, imageID, at string, f func(h *tar.Header, target string, body io.Reader) error) error {
	body, stat, err := r.link.api(ctx).CopyFromContainer(ctx, id, at)
	if err != nil {
		err = classify(ctx, err)
		if !errdefs.IsNotFound(err) && !strings.Contains(err.Error(), "not a directory") && !strings.Contains(err.Error(), "file name too long") {
			return err
		}
		if strings.Contains(strings.ToLower(err.Error()), "no such container") {
			return goneError{err}
		}
		return imagefs.NoFile(imageID, at)
	}
	defer func() { _ = body.Close() }()
	t := tar.NewReader(body)
	h, err := t.Next()
	if err != nil {
		return classify(ctx, fmt.Errorf("%s of image %s: %w", at, imageID, err))
	}
	if h.Typeflag != tar.TypeSymlink {
		h.Linkname = ""
	}
	return f(h, stat.LinkTarget, t)
}

// statMode is st_mode of what a tar header describes.
func statMode(h *tar.Header) uint32 {
	mode := uint32(h.Mode) & 0o7777
	switch h.Typeflag {
	case tar.TypeDir:
		return mode | unix.S_IFDIR
	case tar.TypeSymlink:
		return mode | unix.S_IFLNK
	case tar.TypeChar:
		return mode | unix.S_IFCHR
	case tar.TypeBlock:
		return mode | unix.S_IFBLK
	case tar.TypeFifo:
		return mode | unix.S_IFIFO
	}
	return mode | unix.S_IFREG
}
