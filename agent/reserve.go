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
	// reserveRoom is how much must be free before the reserve is laid in again.
	reserveRoom = 4 * reserveSize
)

// reserve is a file in the data directory that does nothing but hold space. When the disk is full it is given up, so that
// what must be remembered can still be written; it is laid in again when there is room.
type reserve struct {
	path string
	log  *zap.Logger

	mu   sync.Mutex
	held bool
}

func newReserve(dir string, log *zap.Logger) *reserve {
	r := &reserve{path: filepath.Join(dir, reserveName), log: log}
	r.fill()
	return r
}

// fill lays the reserve in if it is not there and there is room. Repeating it does nothing.
func (r *reserve) fill() {
	r.mu.Lock()
	defer r.mu.Unlock()
	var fs unix.Statfs_t
	if r.held {
		return
	}
	if err := unix.Statfs(filepath.Dir(r.path), &fs); err != nil || int64(fs.Bavail)*fs.Bsize < reserveRoom {
		if info, err := os.Stat(r.path); err == nil && info.Size() == reserveSize {
			r.held = true // of an earlier start
		}
		return
	}
	if err := allocate(r.path, reserveSize); err != nil {
		_ = os.Remove(r.path)
		r.log.Warn("No space could be reserved for the agent's state", zap.String("path", r.path), zap.Error(err))
		return
	}
	r.held = true
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

// spend gives the reserve up if err says that the disk is full, and reports whether it is worth trying again.
func (r *reserve) spend(err error) bool {
	if r == nil || !errors.Is(err, unix.ENOSPC) && !errors.Is(err, unix.EDQUOT) {
		return false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.held {
		return false
	}
	r.held = false
	if err := os.Remove(r.path); err != nil {
		r.log.Error("The disk of the agent's state is full, and the space reserved for it could not be freed", zap.String("path", r.path), zap.Error(err))
		return false
	}
	r.log.Error(fmt.Sprintf("The disk of the agent's state is full; the %d MiB reserved for it are freed. Make room: nothing more is in reserve", reserveSize>>20), zap.String("path", r.path), zap.Error(err))
	return true
}

// pressure says that the reserve is spent, which it tries to end; empty while it is there.
func (r *reserve) pressure() string {
	r.fill()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.held {
		return ""
	}
	return fmt.Sprintf("the disk of %s has no room for the agent's reserve: %d MiB must be free", filepath.Dir(r.path), reserveRoom>>20)
}
