package agent

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"
)

const (
	reserveName = "reserve"
	reserveSize = 8 << 20
	// reservePart is given up at a time, so that others who write to the same disk don't take the whole of it at once.
	reservePart = 1 << 20
	// reserveRoom is how much must be free before the reserve is laid in again.
	reserveRoom = 4 * reserveSize
)

// reserve is a file in the data directory that does nothing but hold space. When the disk is full it is given up part by part,
// so that what must be remembered can still be written: the database, the identity, the token of a registration. It is laid
// in again when there is room. What an agent can do without (its log, which goes to standard error then, the journal of
// images) gets nothing of it.
type reserve struct {
	path string
	log  *zap.Logger

	mu   sync.Mutex
	left int64
}

func newReserve(dir string, log *zap.Logger) *reserve {
	r := &reserve{path: filepath.Join(dir, reserveName), log: log}
	r.fill()
	return r
}

// fill lays the reserve in if it is not whole and there is room. Repeating it does nothing.
func (r *reserve) fill() {
	r.mu.Lock()
	defer r.mu.Unlock()
	var fs unix.Statfs_t
	if r.left == reserveSize {
		return
	}
	if err := unix.Statfs(filepath.Dir(r.path), &fs); err != nil || int64(fs.Bavail)*fs.Bsize < reserveRoom {
		if info, err := os.Stat(r.path); err == nil { // of an earlier start, or what is left of it
			r.left = min(info.Size(), reserveSize)
		}
		return
	}
	if err := allocate(r.path, reserveSize); err != nil {
		_ = os.Remove(r.path)
		r.left = 0
		r.log.Warn("No space could be reserved for the agent's state", zap.String("path", r.path), zap.Error(err))
		return
	}
	r.left = reserveSize
}

// allocate makes a file whose blocks are really there.
func allocate(path string, size int64) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	err = unix.Fallocate(int(f.Fd()), 0, 0, size)
	if errors.Is(err, unix.EOPNOTSUPP) {
		_, err = f.WriteAt(make([]byte, size), 0)
	}
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// try does what must be written; on a full disk again, out of the reserve, as long as there is some.
func (r *reserve) try(write func() error) error {
	err := write()
	for r.spend(err) {
		err = write()
	}
	return err
}

// spend gives a part of the reserve up if err says that the disk is full, and reports whether it is worth trying again.
func (r *reserve) spend(err error) bool {
	if r == nil || !errors.Is(err, unix.ENOSPC) && !errors.Is(err, unix.EDQUOT) {
		return false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.left == 0 {
		return false
	}
	left := max(r.left-reservePart, 0)
	free := func() error { return os.Truncate(r.path, left) }
	if left == 0 { // its name is worth something too, where names are short
		free = func() error { return os.Remove(r.path) }
	}
	if err := free(); err != nil {
		r.left = 0
		r.log.Error("The disk of the agent's state is full, and the space reserved for it could not be freed", zap.String("path", r.path), zap.Error(err))
		return false
	}
	r.left = left
	r.log.Error(fmt.Sprintf("The disk of the agent's state is full; %d MiB of those reserved for it are freed, and %d are left. Make room", reservePart>>20, left>>20), zap.String("path", r.path), zap.Error(err))
	return true
}

// pressure says that the reserve is not whole, which it tries to end; empty while it is.
func (r *reserve) pressure() string {
	r.fill()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.left == reserveSize {
		return ""
	}
	return fmt.Sprintf("the disk of %s has no room for the agent's reserve, of which %d MiB are left: %d MiB must be free", filepath.Dir(r.path), r.left>>20, reserveRoom>>20)
}
