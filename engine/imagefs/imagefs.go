// Package imagefs reads files of an image from the directories of its layers on this host, without mounting anything.
package imagefs

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/longshore-project/longshore/engine"
)

// Layers are the directories of an image's layers on this host, the top one first. The file system that the kernel would
// make of them is walked as the kernel does (Documentation/filesystems/overlayfs.rst): a name is what the highest layer
// that has it says; directories of the same name merge downwards until a file, a whiteout or an opaque directory.
type Layers []string

// ErrNotPlain says that the layers use something that is not walked here, so somebody else must look.
var ErrNotPlain = errors.New("layers are not plain")

// node is a path of the merged tree: for a directory one descriptor for each layer that takes part, else one.
type node struct {
	fds  []int
	stat unix.Stat_t
	link string
}

func (n node) isDir() bool { return n.stat.Mode&unix.S_IFMT == unix.S_IFDIR }

// walker opens nodes and closes them all at the end.
type walker struct{ open []int }

func (w *walker) close() {
	for _, fd := range w.open {
		_ = unix.Close(fd)
	}
}

func (w *walker) openat(dir int, name string) (int, unix.Stat_t, error) {
	var st unix.Stat_t
	fd, err := unix.Openat(dir, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, st, err
	}
	w.open = append(w.open, fd)
	return fd, st, unix.Fstat(fd, &st)
}

// find walks to a path, following symlinks, of the last component only if follow.
func (w *walker) find(dirs Layers, name string, follow bool) (node, error) {
	root := node{}
	for i, d := range dirs {
		fd, st, err := w.openat(unix.AT_FDCWD, d)
		if err != nil {
			return node{}, ErrNotPlain
		}
		root.fds = append(root.fds, fd)
		if i == 0 {
			root.stat = st
		}
	}
	above, here, hops := []node{}, root, 0
	for todo := strings.Split(path.Clean("/"+name), "/"); len(todo) > 0; {
		part := todo[0]
		todo = todo[1:]
		switch {
		case part == "" || part == ".":
			continue
		case !here.isDir():
			return node{}, unix.ENOTDIR
		case part == "..":
			if len(above) > 0 {
				here, above = above[len(above)-1], above[:len(above)-1]
			}
			continue
		}
		next, err := w.child(here, part)
		if err != nil {
			return node{}, err
		}
		if next.link == "" || !follow && len(todo) == 0 {
			above, here = append(above, here), next
			continue
		}
		if hops++; hops > 40 {
			return node{}, unix.ELOOP
		}
		if path.IsAbs(next.link) {
			above, here = nil, root
		}
		todo = append(strings.Split(next.link, "/"), todo...)
	}
	return here, nil
}

// child is what a name in a merged directory is.
func (w *walker) child(dir node, name string) (node, error) {
	var n node
	for _, layer := range dir.fds {
		fd, st, err := w.openat(layer, name)
		switch {
		case errors.Is(err, unix.ENOENT):
			continue
		case errors.Is(err, unix.ENAMETOOLONG):
			return node{}, unix.ENOENT
		case err != nil:
			return node{}, ErrNotPlain
		}
		kind := st.Mode & unix.S_IFMT
		if len(n.fds) == 0 && kind != unix.S_IFDIR && !whiteout(st) {
			return leaf(fd, st)
		}
		if kind != unix.S_IFDIR {
			break
		}
		if len(n.fds) == 0 {
			n.stat = st
		}
		n.fds = append(n.fds, fd)
		if xattr(fd, "trusted.overlay.redirect") != "" {
			return node{}, ErrNotPlain
		}
		if xattr(fd, "trusted.overlay.opaque") == "y" {
			break
		}
	}
	if len(n.fds) == 0 {
		return node{}, unix.ENOENT
	}
	return n, nil
}

func whiteout(st unix.Stat_t) bool { return st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == 0 }

func leaf(fd int, st unix.Stat_t) (node, error) {
	n := node{fds: []int{fd}, stat: st}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFLNK:
		buf := make([]byte, unix.PathMax)
		size, err := unix.Readlinkat(fd, "", buf)
		if err != nil || size == 0 {
			return node{}, ErrNotPlain
		}
		n.link = string(buf[:size])
	case unix.S_IFREG:
		if xattr(fd, "trusted.overlay.metacopy") != "" {
			return node{}, ErrNotPlain
		}
	}
	return n, nil
}

func procPath(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }

// xattr is an extended attribute; empty if there is none. An attribute without a value is shown as a space.
func xattr(fd int, name string) string {
	buf := make([]byte, 256)
	n, err := unix.Getxattr(procPath(fd), name, buf)
	switch {
	case err != nil && !errors.Is(err, unix.ERANGE):
		return ""
	case err != nil || n == 0:
		return " "
	}
	return string(buf[:n])
}

// ReadFile reads a regular file of an image, following symlinks inside the image only; at most limit bytes. NotFound, FailedPrecondition
// if it is not a regular file, OutOfRange if it is larger; [ErrNotPlain] if it can't tell.
func (dirs Layers) ReadFile(imageID, name string, limit int64) ([]byte, error) {
	w := &walker{}
	defer w.close()
	n, err := w.find(dirs, name, true)
	switch {
	case err != nil:
		return nil, walkError(imageID, name, err)
	case n.stat.Mode&unix.S_IFMT != unix.S_IFREG:
		return nil, NotRegular(imageID, name)
	case n.stat.Size > limit:
		return nil, TooLarge(imageID, name, n.stat.Size, limit)
	}
	f, err := os.Open(procPath(n.fds[0]))
	if err != nil {
		return nil, ErrNotPlain
	}
	defer func() { _ = f.Close() }()
	data, err := io.ReadAll(io.LimitReader(f, limit))
	if err != nil {
		return nil, ErrNotPlain
	}
	return data, nil
}

// Stat describes a path of an image, without following its last component. NotFound; [ErrNotPlain] if it can't tell.
func (dirs Layers) Stat(imageID, name string) (engine.FileInfo, error) {
	w := &walker{}
	defer w.close()
	n, err := w.find(dirs, name, false)
	if err != nil {
		return engine.FileInfo{}, walkError(imageID, name, err)
	}
	return engine.FileInfo{Mode: n.stat.Mode, UID: n.stat.Uid, GID: n.stat.Gid, Link: n.link}, nil
}

func walkError(imageID, name string, err error) error {
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR):
		return NoFile(imageID, name)
	case errors.Is(err, unix.ELOOP):
		return TooManyLinks(imageID, name)
	}
	return err
}

// NoFile is the error about a path that an image does not have.
func NoFile(imageID, name string) error {
	return refuse(errdefs.ErrNotFound, "no %s in image %s", name, imageID)
}

// NotRegular is the error about a path that is read and is no regular file.
func NotRegular(imageID, name string) error {
	return refuse(errdefs.ErrFailedPrecondition, "%s in image %s is not a regular file", name, imageID)
}

// TooLarge is the error about a file that has more bytes than were asked for.
func TooLarge(imageID, name string, size, limit int64) error {
	return refuse(errdefs.ErrOutOfRange, "%s in image %s has %d bytes, more than %d", name, imageID, size, limit)
}

// TooManyLinks is the error about a path that leads in circles.
func TooManyLinks(imageID, name string) error {
	return refuse(errdefs.ErrFailedPrecondition, "too many symlinks at %s in image %s", name, imageID)
}

type refusal struct {
	class error
	text  string
}

func (r *refusal) Error() string { return r.text }
func (r *refusal) Unwrap() error { return r.class }

func refuse(class error, format string, args ...any) error {
	return &refusal{class, fmt.Sprintf(format, args...)}
}
