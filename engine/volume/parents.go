package volume

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/longshore-project/longshore/engine"
)

// maxSteps bounds the walk to a container path, symlinks included.
const maxSteps = 255

// parents judges the directories above the container path: each must let the user through. They are those of the image, or
// lie in another mount of the container where the path leads through one. A directory that is missing will be made by the
// engine, for root, mode 0755.
func (c *Checker) parents(ctx context.Context, v *verdict, ask *asker, req engine.VolumeRequest, who identity, m engine.Mount, opened []*object) {
	if v.refused() || who.uid == 0 && capabilities(0, req) != 0 {
		return
	}
	w := walker{req: req, who: who, ask: ask, mounts: req.Mounts, opened: opened, users: c.users}
	blocked, err := w.walk(ctx, path.Dir(path.Clean("/"+m.Target)))
	switch {
	case err != nil:
		v.warn("the directories above the container path %s could not be checked: %v", m.Target, err)
	case blocked != "":
		v.missing = "it may not pass a directory above the container path (no x)"
		v.where = blocked
		v.hint = fmt.Sprintf("mount it at another path than %s, change that directory in the image (chmod o+x), or change the container's user", m.Target)
	}
}

type walker struct {
	req    engine.VolumeRequest
	who    identity
	ask    *asker
	mounts []engine.Mount
	opened []*object
	users  *userCache
	steps  int
}

// walk follows dir as the container's kernel will, and returns a description of the directory that does not let the user through, if
// there is one.
func (w *walker) walk(ctx context.Context, dir string) (blocked string, err error) {
	at := "/"
	rest := strings.Split(strings.Trim(dir, "/"), "/")
	for {
		blocked, gone, err := w.through(ctx, at)
		if err != nil || gone || blocked != "" {
			return blocked, err
		}
		for len(rest) > 0 && (rest[0] == "" || rest[0] == ".") {
			rest = rest[1:]
		}
		if len(rest) == 0 {
			return "", nil
		}
		if w.steps++; w.steps > maxSteps {
			return "", errors.New("too many steps or symlinks")
		}
		name := rest[0]
		rest = rest[1:]
		if name == ".." {
			at = path.Dir(at)
			continue
		}
		next := path.Join(at, name)
		link, err := w.link(ctx, next)
		if err != nil {
			return "", err
		}
		if link == "" {
			at = next
			continue
		}
		if path.IsAbs(link) {
			at = "/"
		}
		rest = append(strings.Split(strings.Trim(link, "/"), "/"), rest...)
	}
}

// mountAt returns the innermost mount that holds a container path, and the path beneath it.
func (w *walker) mountAt(p string) (*object, string) {
	best, rel := -1, ""
	for i, m := range w.mounts {
		if w.opened[i] == nil {
			continue
		}
		t := path.Clean("/" + m.Target)
		if p != t && !strings.HasPrefix(p, t+"/") {
			continue
		}
		if best < 0 || len(t) > len(path.Clean("/"+w.mounts[best].Target)) {
			best, rel = i, "."+strings.TrimPrefix(p, t)
		}
	}
	if best < 0 {
		return nil, ""
	}
	return w.opened[best], rel
}

// link returns where p leads if it is a symlink of the image.
func (w *walker) link(ctx context.Context, p string) (string, error) {
	if o, _ := w.mountAt(p); o != nil {
		return "", nil // followed by the kernel in through
	}
	a, err := w.users.stat(ctx, w.req, p)
	if err != nil || a.missing || a.info.Mode&unix.S_IFMT != unix.S_IFLNK {
		return "", err
	}
	return a.info.Link, nil
}

// through tells whether the user can pass the directory p. gone: it does not exist, so the engine will make it.
func (w *walker) through(ctx context.Context, p string) (blocked string, gone bool, err error) {
	if mount, rel := w.mountAt(p); mount != nil {
		o, err := mount.within(rel)
		if errors.Is(err, unix.ENOENT) {
			return "", true, nil
		}
		if err != nil {
			return "", false, err
		}
		defer o.close()
		if err := w.ask.access(o, unix.X_OK); err != nil {
			return fmt.Sprintf("%s in the container, which another mount puts there, is a %s", p, o.describe()), false, nil
		}
		return "", false, nil
	}
	a, err := w.users.stat(ctx, w.req, p)
	if err != nil || a.missing {
		return "", a.missing, err
	}
	if !mayEnter(a.info, w.who) {
		return fmt.Sprintf("%s in the image belongs to %d:%d with mode %04o", p, a.info.UID, a.info.GID, a.info.Mode&0o7777), false, nil
	}
	return "", false, nil
}

// unknownID is the owner of a path whose engine does not tell it.
const unknownID = ^uint32(0)

// mayEnter is the mode check of a directory in an image for a user without capabilities. An owner that is not known counts in
// the user's favour.
func mayEnter(f engine.FileInfo, who identity) bool {
	const ux, gx, ox = 0o100, 0o010, 0o001
	if f.UID == unknownID {
		return f.Mode&(ux|gx|ox) != 0
	}
	if f.UID == who.uid {
		return f.Mode&ux != 0
	}
	if f.GID == who.gid || slices.Contains(who.groups, f.GID) {
		return f.Mode&gx != 0
	}
	return f.Mode&ox != 0
}
