package controlplane

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// lockFile is held locked in the data directory for as long as the process lives; the kernel lets go of it whatever the
// end.
const lockFile = "longshore-control.lock"

// lockDir makes the data directory and locks it against a second process.
func lockDir(dir string) (unlock func(), err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("%w: make --data-dir: %w", ErrConfig, err)
	}
	path := filepath.Join(dir, lockFile)
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("%w: lock --data-dir: %w", ErrConfig, err)
	}
	if err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		defer file.Close()
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		pid, _ := io.ReadAll(io.LimitReader(file, 32))
		return nil, fmt.Errorf("%w: another longshore-control (pid %s) runs with --data-dir %s: stop it, or choose another directory",
			ErrConfig, strings.TrimSpace(string(pid)), dir)
	}
	// For the message above; the lock is what counts.
	if err := file.Truncate(0); err == nil {
		_, _ = file.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	}
	return func() { _ = file.Close() }, nil
}

// keepOwner gives everything in the data directory, and a file outside it, to whom the directory belongs: root may have made something there for
// a control plane that runs as another user, and could not read it. Whoever is not root owns what they made.
func keepOwner(dir, outside string) error {
	root, err := os.OpenRoot(dir) // whom it belongs to can't lead us out of it
	if errors.Is(err, fs.ErrNotExist) || os.Geteuid() != 0 {
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }()
	var is unix.Stat_t
	if err := unix.Stat(dir, &is); err != nil || is.Uid == 0 {
		return err
	}
	if err := giveAway(outside, is.Uid, is.Gid); err != nil {
		return err
	}
	return fs.WalkDir(root.FS(), ".", func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return root.Lchown(path, int(is.Uid), int(is.Gid))
	})
}

// giveAway gives a file of root's to somebody else. Nothing is done for what may be another file than it looks: one behind a symbolic link,
// or with further names.
func giveAway(path string, uid, gid uint32) error {
	if path == "" {
		return nil
	}
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ELOOP) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look at %s: %w", path, err)
	}
	defer func() { _ = unix.Close(fd) }()
	var is unix.Stat_t
	if err := unix.Fstat(fd, &is); err != nil {
		return fmt.Errorf("look at %s: %w", path, err)
	}
	if is.Mode&unix.S_IFMT != unix.S_IFREG || is.Nlink != 1 || is.Uid != 0 {
		return nil
	}
	if err := unix.Fchown(fd, int(uid), int(gid)); err != nil {
		return fmt.Errorf("give %s to whom the data directory belongs: %w", path, err)
	}
	return nil
}
