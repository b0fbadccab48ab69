package statemgr

import (
	"errors"
	"fmt"
	"io"
	"os"

	"go.etcd.io/bbolt"
	"golang.org/x/sys/unix"
)

// ErrInUse means that another process writes to a database that is only to be read.
var ErrInUse = errors.New("another process has the database open")

// maxSnapshot bounds a database of somebody else's.
const maxSnapshot = 256 << 20

// Snapshot is a bbolt database of somebody else's as it was at one moment. It is a copy in memory: nothing that is done with it reaches
// the file, not even the file's times.
type Snapshot struct {
	bolt *bbolt.DB
	// Transaction is the last one that was written. It rises with each change of the database.
	Transaction uint64
}

// Hold keeps everybody who honours bbolt's lock from writing to a database, until it is closed or this process ends. The error is or wraps
// [ErrInUse] if somebody has it open for writing.
func Hold(path string) (*os.File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB)
	if err == nil {
		return f, nil
	}
	_ = f.Close()
	if errors.Is(err, unix.EWOULDBLOCK) {
		err = ErrInUse
	}
	return nil, fmt.Errorf("%s: %w", path, err)
}

// Copy makes a snapshot of a file that is held. The error says if its bytes can't be a database.
func Copy(held *os.File) (*Snapshot, error) {
	raw, err := io.ReadAll(io.NewSectionReader(held, 0, maxSnapshot+1))
	if err == nil && len(raw) > maxSnapshot {
		err = fmt.Errorf("it is larger than %d bytes", maxSnapshot)
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", held.Name(), err)
	}
	s, err := snapshot(raw)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", held.Name(), err)
	}
	return s, nil
}

// snapshot opens bytes as a database; they are checked before bbolt sees them.
func snapshot(raw []byte) (*Snapshot, error) {
	m, err := checkPages(raw)
	if err != nil {
		return nil, err
	}
	fd, err := unix.MemfdCreate("state", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, err
	}
	file := os.NewFile(uintptr(fd), "a copy in memory")
	if _, err := file.Write(raw); err != nil {
		_ = file.Close()
		return nil, err
	}
	s := &Snapshot{Transaction: m.transaction}
	err = guarded(func() (err error) {
		s.bolt, err = bbolt.Open(file.Name(), 0, &bbolt.Options{ReadOnly: true, OpenFile: func(string, int, os.FileMode) (*os.File, error) { return file, nil }})
		return err
	})
	if err != nil {
		_ = file.Close()
		return nil, err
	}
	return s, nil
}

// Each calls f for each value of a bucket, in the order of keys; of a bucket that is not there, never. Keys and values are valid during the
// call only.
func (s *Snapshot) Each(bucket string, f func(key string, value []byte) error) error {
	return guarded(func() error {
		return s.bolt.View(func(tx *bbolt.Tx) error {
			b := tx.Bucket([]byte(bucket))
			if b == nil {
				return nil
			}
			return b.ForEach(func(k, v []byte) error {
				if v == nil { // a bucket inside
					return nil
				}
				return f(string(k), v)
			})
		})
	})
}

// Buckets are the names of its buckets.
func (s *Snapshot) Buckets() (names []string, err error) {
	err = guarded(func() error {
		return s.bolt.View(func(tx *bbolt.Tx) error {
			return tx.ForEach(func(name []byte, _ *bbolt.Bucket) error { names = append(names, string(name)); return nil })
		})
	})
	return names, err
}

// Close gives its memory back.
func (s *Snapshot) Close() error { return s.bolt.Close() }
