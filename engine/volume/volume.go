// Package volume answers one question before a container starts: will the user that it runs as be able to use the host
// paths that are mounted in it?
//
// # Model
//
// A [subject] is the process of the container as the host's kernel will see it: user and group ids after
// user-namespace remapping, supplementary groups, and the two capabilities that override file permissions. It is
// derived from the user string of the definition (else of the image), the passwd and group files inside the image, and
// the container's capabilities: a uid other than 0 has none, and uid 0 without CAP_DAC_OVERRIDE is an ordinary user.
//
// The kernel is asked, not imitated. An [asker] is a thread that takes the subject's ids and capabilities, answers
// faccessat2(2) questions about open descriptors, and is thrown away. So modes, ACLs, read-only file systems and network
// file systems that squash root count exactly as they will count for the container; stat(2) only words the message.
// Descriptors are opened with O_PATH, once, and everything is asked about the descriptor: a path that is exchanged
// meanwhile cannot make the check answer for two different objects. Beneath a mount nothing is followed: every step is
// openat2(2) with RESOLVE_BENEATH and RESOLVE_NO_SYMLINKS.
//
// What counts are the mounted object and what lies beneath it. The host's directories above the source are not on the
// container's path, so they don't count. The directories above the container path inside the image do: they come from the
// image's metadata, because no mounted image exists yet, or from another mount of the container where the path leads
// through one.
//
//	usable      a directory that can be entered and read or written, a file that can be read, a socket that can be
//	            connected to (w), a device or FIFO that can be read or written
//	refused     nothing in the mount is usable: the container must not start
//	warned      the mount is usable in part: not writable though mounted read-write, entries of a bounded sample that can't be
//	            used, symlinks that lead out of the mount
//
// A question that the kernel does not answer in time, as network file systems do, or that this host can't ask (no
// faccessat2 before Linux 5.8) is a warning, never a refusal. Not considered: SELinux and AppArmor rules, and file
// capabilities of the program.
package volume

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/longshore-project/longshore/engine"
)

// Options configures a [Checker]; the zero value of a field means its default.
type Options struct {
	// CreateAsUser makes a missing source path belong to the container's user instead of root.
	CreateAsUser bool
	// Timeout bounds one check, default 2 s. A file system that does not answer in that time yields a warning.
	Timeout time.Duration
	// Sample is how many entries beneath a mount are looked at, default 256.
	Sample int
	// Depth is how deep the sample goes, default 3.
	Depth int
}

// maxHung bounds the checks that wait for a file system which does not answer. Beyond it mounts are not checked.
const maxHung = 16

// Checker implements [engine.VolumeChecker]. It is safe for concurrent use.
type Checker struct {
	opts  Options
	slots chan struct{}
	users *userCache
}

var _ engine.VolumeChecker = (*Checker)(nil)

// New makes a Checker.
func New(opts Options) *Checker {
	if opts.Timeout <= 0 {
		opts.Timeout = 2 * time.Second
	}
	if opts.Sample <= 0 {
		opts.Sample = 256
	}
	if opts.Depth <= 0 {
		opts.Depth = 3
	}
	return &Checker{opts: opts, slots: make(chan struct{}, maxHung), users: newUserCache()}
}

// Check asks about every bind mount of req. It returns when ctx or its own deadline ends at the latest; a check that hangs
// in the kernel is left behind and keeps one of a bounded number of slots until the kernel lets it go. The user is resolved
// once per image and user string.
func (c *Checker) Check(ctx context.Context, req engine.VolumeRequest) engine.VolumeResult {
	if len(req.Mounts) == 0 {
		return engine.VolumeResult{}
	}
	who, err := c.users.resolve(ctx, req)
	switch {
	case errors.Is(err, errImage):
		return engine.VolumeResult{Warnings: []string{fmt.Sprintf("host volumes %s were not checked: %v", sources(req.Mounts), err)}}
	case err != nil:
		return engine.VolumeResult{Refusal: err.Error()}
	}
	select {
	case c.slots <- struct{}{}:
	default:
		return engine.VolumeResult{Warnings: []string{fmt.Sprintf("host volumes were not checked: %d earlier checks still wait for file systems that do not answer", maxHung)}}
	}
	ctx, cancel := context.WithTimeout(ctx, c.opts.Timeout)
	defer cancel() // not in the goroutine: the end of ctx and an answer at once would be a toss-up
	done := make(chan engine.VolumeResult, 1)
	go func() {
		defer func() { <-c.slots }()
		done <- c.check(ctx, req, who)
	}()
	select {
	case res := <-done:
		return res
	case <-ctx.Done():
		return engine.VolumeResult{Warnings: []string{fmt.Sprintf("host volumes %s were not checked: no answer within %v; is a network file system down?", sources(req.Mounts), c.opts.Timeout)}}
	}
}

func sources(mounts []engine.Mount) string {
	paths := make([]string, len(mounts))
	for i, m := range mounts {
		paths[i] = m.Source
	}
	return strings.Join(paths, ", ")
}

// check does the work of Check; it may hang where the file system hangs.
func (c *Checker) check(ctx context.Context, req engine.VolumeRequest, who identity) engine.VolumeResult {
	var res engine.VolumeResult
	ask, err := newAsker(who.onHost(req))
	if err != nil {
		res.Warnings = append(res.Warnings, fmt.Sprintf("host volumes %s were not checked: %v", sources(req.Mounts), err))
		return res
	}
	defer ask.close()
	opened := make([]*object, len(req.Mounts)) // nil: could not be asked
	for i, m := range req.Mounts {
		o, warning, err := c.open(m, who, req)
		if warning != "" {
			res.Warnings = append(res.Warnings, warning)
		}
		if err != nil {
			res.Refusal = err.Error()
			return res
		}
		if o == nil {
			continue
		}
		defer o.close()
		opened[i] = o
	}
	for i, m := range req.Mounts {
		if opened[i] == nil {
			continue
		}
		v := verdictOf(ctx, ask, opened[i], m, c.opts)
		c.parents(ctx, v, ask, req, who, m, opened)
		res.Warnings = append(res.Warnings, v.warnings...)
		if v.refused() {
			res.Refusal = v.refusal(m, opened[i], who)
			return res
		}
	}
	return res
}

// open opens a mount's source, and makes it as Docker would if it is missing. The object is nil, without an error, when the agent
// itself may not look, as on a file system that squashes root.
func (c *Checker) open(m engine.Mount, who identity, req engine.VolumeRequest) (*object, string, error) {
	o, err := openPath(m.Source)
	if err == nil {
		return o, "", nil
	}
	switch {
	case errors.Is(err, unix.ENOENT):
	case errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ENAMETOOLONG), errors.Is(err, errRelative):
		return nil, "", fmt.Errorf("host volume %s (mounted at %s) can't be mounted: %w; correct sourcePath", m.Source, m.Target, err)
	default:
		return nil, fmt.Sprintf("host volume %s at %s was not checked: opening it: %v", m.Source, m.Target, err), nil
	}
	uid, gid := rootOnHost(req.UserNS)
	owner := "root"
	if c.opts.CreateAsUser {
		s := who.onHost(req)
		uid, gid, owner = s.uid, s.gid, who.name()
	}
	if err := makeDirectories(m.Source, uid, gid); err != nil {
		return nil, "", fmt.Errorf("host volume %s (mounted at %s) does not exist and can't be made: %w", m.Source, m.Target, err)
	}
	o, err = openPath(m.Source)
	if err != nil {
		return nil, "", fmt.Errorf("host volume %s (mounted at %s) was made and can't be opened: %w", m.Source, m.Target, err)
	}
	warning := fmt.Sprintf("host volume %s did not exist; made as a directory of %s (%d:%d, mode 0755)", m.Source, owner, uid, gid)
	return o, warning, nil
}

// makeDirectories makes path and what is missing above it, mode 0755; what it made belongs to uid:gid.
func makeDirectories(path string, uid, gid uint32) error {
	var missing []string
	for p := path; ; p = parentOf(p) {
		if _, err := os.Stat(p); err == nil {
			break
		} else if !errors.Is(err, os.ErrNotExist) {
			return err
		}
		missing = append(missing, p)
		if p == "/" {
			break
		}
	}
	for i := len(missing) - 1; i >= 0; i-- {
		if err := os.Mkdir(missing[i], 0o755); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
		if err := os.Chmod(missing[i], 0o755); err != nil { // the umask does not count
			return err
		}
		if err := os.Lchown(missing[i], int(uid), int(gid)); err != nil {
			return err
		}
	}
	return nil
}

func parentOf(path string) string {
	i := strings.LastIndexByte(strings.TrimRight(path, "/"), '/')
	if i <= 0 {
		return "/"
	}
	return path[:i]
}
