package volume

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/longshore-project/longshore/engine"
)

// subject is the container's process as the host's kernel sees it.
type subject struct {
	uid, gid uint32
	groups   []uint32
	caps     uint64 // of CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH, those in effect
	ns       *engine.UserNS
}

// onHost maps the identity through the engine's user namespace, if it has one.
func (i identity) onHost(req engine.VolumeRequest) subject {
	s := subject{uid: i.uid, gid: i.gid, groups: slices.Clone(i.groups), caps: capabilities(i.uid, req), ns: req.UserNS}
	if s.ns == nil {
		return s
	}
	s.uid += s.ns.UIDFirst
	s.gid += s.ns.GIDFirst
	for n := range s.groups {
		s.groups[n] += s.ns.GIDFirst
	}
	return s
}

// rootOnHost is what uid 0 and gid 0 of a container are on the host.
func rootOnHost(ns *engine.UserNS) (uid, gid uint32) {
	if ns == nil {
		return 0, 0
	}
	return ns.UIDFirst, ns.GIDFirst
}

// capsOver are the capabilities in effect over an object. In a user namespace they count only for objects whose owner and
// group are mapped in it (capabilities(7), "Interaction of user namespaces and capabilities").
func (s subject) capsOver(st *unix.Stat_t) uint64 {
	if s.ns == nil {
		return s.caps
	}
	mapped := func(id, first, size uint32) bool { return id >= first && uint64(id) < uint64(first)+uint64(size) }
	if mapped(st.Uid, s.ns.UIDFirst, s.ns.UIDSize) && mapped(st.Gid, s.ns.GIDFirst, s.ns.GIDSize) {
		return s.caps
	}
	return 0
}

// asker is a thread with the subject's ids and capabilities. It serves one check and is thrown away: the goroutine ends
// locked to the thread, and the Go runtime ends the thread with it.
type asker struct {
	questions chan question
	subject   subject
}

type question struct {
	fd     int
	mode   uint32
	caps   uint64
	answer chan error
}

// newAsker starts the thread. It fails where the process may not change its ids.
func newAsker(s subject) (*asker, error) {
	a := &asker{questions: make(chan question), subject: s}
	ready := make(chan error)
	go a.serve(ready)
	if err := <-ready; err != nil {
		return nil, err
	}
	return a, nil
}

// close ends the thread.
func (a *asker) close() { close(a.questions) }

// access asks whether the subject may access the object in all of the ways in mode (unix.R_OK, W_OK, X_OK): nil, or the kernel's errno.
func (a *asker) access(o *object, mode uint32) error {
	q := question{fd: o.fd, mode: mode, caps: a.subject.capsOver(&o.stat), answer: make(chan error, 1)}
	a.questions <- q
	return <-q.answer
}

// serve runs on its own thread, which it never gives back.
func (a *asker) serve(ready chan<- error) {
	runtime.LockOSThread()
	if unix.Gettid() == unix.Getpid() {
		// The main thread can't be thrown away. Keep it busy while another one serves.
		defer runtime.UnlockOSThread()
		done := make(chan struct{})
		go func() {
			defer close(done)
			a.serve(ready)
		}()
		<-done
		return
	}
	if err := become(a.subject); err != nil {
		ready <- err
		return
	}
	ready <- nil
	effective := a.subject.caps
	for q := range a.questions {
		if q.caps != effective {
			if err := setEffective(q.caps); err != nil {
				q.answer <- err
				continue
			}
			effective = q.caps
		}
		q.answer <- unix.Faccessat2(q.fd, "", q.mode, unix.AT_EACCESS|unix.AT_EMPTY_PATH)
	}
}

// become gives the calling thread, and it alone, the subject's groups, file-system ids and capabilities. The raw system
// calls change one thread, unlike the functions of package syscall, which change all. The process's real ids stay, so that
// the capability sets can be chosen freely.
func become(s subject) error {
	var groups unsafe.Pointer
	if len(s.groups) > 0 {
		groups = unsafe.Pointer(&s.groups[0])
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_SETGROUPS, uintptr(len(s.groups)), uintptr(groups), 0); errno != 0 {
		return fmt.Errorf("taking the container user's groups: %w; is the agent root with CAP_SETGID?", errno)
	}
	if err := setFSID(unix.SYS_SETFSGID, s.gid); err != nil {
		return fmt.Errorf("taking gid %d: %w; is the agent root with CAP_SETGID?", s.gid, err)
	}
	if err := setFSID(unix.SYS_SETFSUID, s.uid); err != nil {
		return fmt.Errorf("taking uid %d: %w; is the agent root with CAP_SETUID?", s.uid, err)
	}
	return setEffective(s.caps)
}

// setFSID sets a file-system id. The call reports no error; asking again with an invalid id tells what is in force.
func setFSID(trap uintptr, id uint32) error {
	_, _, _ = unix.RawSyscall(trap, uintptr(id), 0, 0)
	if now, _, _ := unix.RawSyscall(trap, ^uintptr(0), 0, 0); uint32(now) != id {
		return unix.EPERM
	}
	return nil
}

// setEffective makes caps the only effective capabilities of the calling thread.
func setEffective(caps uint64) error {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&hdr, &data[0]); err != nil {
		return fmt.Errorf("reading capabilities: %w", err)
	}
	data[0].Effective, data[1].Effective = uint32(caps), uint32(caps>>32)
	if err := unix.Capset(&hdr, &data[0]); err != nil {
		return fmt.Errorf("taking the container's capabilities: %w; the agent lacks one that the container will have", err)
	}
	return nil
}

// object is an open file, directory or special file, and what stat said of it.
type object struct {
	fd   int
	stat unix.Stat_t
}

func (o *object) close() { _ = unix.Close(o.fd) }

func (o *object) format() uint32 { return o.stat.Mode & unix.S_IFMT }
func (o *object) isDir() bool    { return o.format() == unix.S_IFDIR }

// describe is the object's owner and mode in words.
func (o *object) describe() string {
	kind := map[uint32]string{unix.S_IFDIR: "directory", unix.S_IFREG: "file", unix.S_IFSOCK: "socket", unix.S_IFIFO: "FIFO",
		unix.S_IFCHR: "character device", unix.S_IFBLK: "block device", unix.S_IFLNK: "symlink"}[o.format()]
	acl := ""
	if n, err := unix.Getxattr("/proc/self/fd/"+strconv.Itoa(o.fd), "system.posix_acl_access", nil); err == nil && n > 0 {
		acl = " and has an ACL"
	}
	return fmt.Sprintf("%s of %d:%d with mode %04o%s", kind, o.stat.Uid, o.stat.Gid, o.stat.Mode&0o7777, acl)
}

// errRelative refuses a source path that depends on a working directory.
var errRelative = errors.New("the path is not absolute")

// openPath opens what path leads to, following symlinks as the mount will.
func openPath(path string) (*object, error) {
	if !filepath.IsAbs(path) {
		return nil, errRelative
	}
	return openAt(unix.AT_FDCWD, path, unix.O_PATH|unix.O_CLOEXEC, unix.RESOLVE_NO_MAGICLINKS)
}

// child opens an entry of a directory without following it.
func (o *object) child(name string) (*object, error) {
	return openAt(o.fd, name, unix.O_PATH|unix.O_CLOEXEC|unix.O_NOFOLLOW, unix.RESOLVE_BENEATH)
}

// within opens a path beneath a directory as if the directory were the root.
func (o *object) within(path string) (*object, error) {
	return openAt(o.fd, path, unix.O_PATH|unix.O_CLOEXEC, unix.RESOLVE_IN_ROOT|unix.RESOLVE_NO_MAGICLINKS)
}

func openAt(dir int, path string, flags, resolve uint64) (*object, error) {
	fd, err := unix.Openat2(dir, path, &unix.OpenHow{Flags: flags, Resolve: resolve})
	if err != nil {
		return nil, err
	}
	o := &object{fd: fd}
	if err := unix.Fstat(fd, &o.stat); err != nil {
		o.close()
		return nil, err
	}
	return o, nil
}

// list returns up to limit names in the directory.
func (o *object) list(limit int) ([]string, error) {
	fd, err := unix.Openat2(o.fd, ".", &unix.OpenHow{Flags: unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC | unix.O_NOFOLLOW, Resolve: unix.RESOLVE_BENEATH})
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), "directory")
	defer f.Close()
	names, err := f.Readdirnames(limit)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	return names, nil
}

// link reads a symlink.
func (o *object) link() (string, error) {
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(o.fd, "", buf)
	if err != nil {
		return "", err
	}
	return string(buf[:n]), nil
}
