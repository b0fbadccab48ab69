package etcd

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

// checkDatabase refuses a damaged database with an error; etcd would panic, or the kernel end the process when it reaches
// the part that is missing.
func checkDatabase(dir string) error {
	path := filepath.Join(dir, "member", "snap", "db")
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if _, err := os.Stat(filepath.Join(dir, "member", "wal")); errors.Is(err, fs.ErrNotExist) {
		// The first start was killed before anything could be written: whatever is there is the beginning of a file.
		return os.Remove(path)
	}
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{ReadOnly: true, Timeout: 5 * time.Second})
	if errors.Is(err, bolterrors.ErrTimeout) {
		return fmt.Errorf("%s is in use by another process", path)
	}
	if err != nil {
		return damaged(path, err)
	}
	defer db.Close()
	return db.View(func(tx *bbolt.Tx) error {
		if tx.Size() > info.Size() {
			return damaged(path, fmt.Errorf("it has %d bytes of %d", info.Size(), tx.Size()))
		}
		return nil
	})
}

func damaged(path string, err error) error {
	return fmt.Errorf("%s is damaged: %w: restore the directory from a backup, or move it away to begin with an empty store", path, err)
}
