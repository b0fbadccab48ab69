package policy

import (
	"errors"
	"os"
	"path"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Resolver implements [Places] with this host's file system. A file system that does not answer keeps it waiting.
type Resolver struct {
	// Sockets are where container engines listen.
	Sockets []string
}

// DefaultSockets are the usual places of the engines' sockets.
var DefaultSockets = []string{"/run/docker.sock", "/var/run/docker.sock", "/run/containerd/containerd.sock", "/run/docker/containerd/containerd.sock"}

// Request follows a task's path.
func (r Resolver) Request(p string) Place {
	where, ok := resolve(path.Clean("/" + p))
	if !ok {
		return Place{Path: "/", Socket: true}
	}
	place := Place{Path: where, Sure: true}
	info, err := os.Stat(where)
	for _, s := range r.Sockets {
		socket, ok := resolve(path.Clean(s))
		if !ok {
			continue
		}
		if mine, statErr := os.Stat(socket); socket == where || err == nil && statErr == nil && os.SameFile(info, mine) {
			place.Socket, place.Self = true, true
		}
		if where == "/" || strings.HasPrefix(socket, where+"/") {
			place.Socket = true
		}
	}
	return place
}

// Rule follows a rule's path as far as it is no pattern.
func (r Resolver) Rule(p string) string {
	plain, rest := p, ""
	for strings.ContainsAny(plain, `*?[\`) {
		rest = path.Join(path.Base(plain), rest)
		plain = path.Dir(plain)
	}
	where, ok := resolve(path.Clean(plain))
	if !ok {
		where = path.Clean(plain)
	}
	return path.Join(where, rest)
}

// resolve follows a path as far as it exists: the kernel opens it, and tells what was opened. It is not sure about links
// that the kernel makes up for each process (/proc/self/root), because the engine would follow them to somewhere else.
func resolve(p string) (string, bool) {
	rest := ""
	for {
		fd, err := unix.Openat2(unix.AT_FDCWD, p, &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_MAGICLINKS})
		if err == nil {
			where, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(fd))
			_ = unix.Close(fd)
			if err != nil || !strings.HasPrefix(where, "/") || strings.HasSuffix(where, " (deleted)") {
				return "", false
			}
			return path.Join(where, rest), true
		}
		if !errors.Is(err, unix.ENOENT) || p == "/" {
			return "", false
		}
		if _, err := os.Lstat(p); err == nil { // a symlink to what does not exist: an engine would make its target
			target, err := os.Readlink(p)
			if err != nil {
				return "", false
			}
			if !path.IsAbs(target) {
				target = path.Join(path.Dir(p), target)
			}
			p = path.Clean(target)
			if len(p)+len(rest) > unix.PathMax {
				return "", false
			}
			continue
		}
		rest = path.Join(path.Base(p), rest)
		p = path.Dir(p)
	}
}
