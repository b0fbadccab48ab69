package controlplane

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/longshore-project/longshore/controlplane/store"
)

// The package's unit runs the control plane as a user of its own, and root calls init.
func TestWhatRootMakesInADataDirectoryBelongsToWhomTheDirectoryDoes(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	const uid, gid = 12345, 12346
	if err := os.Chown(dir, uid, gid); err != nil {
		t.Fatal(err)
	}
	outside := filepath.Join(t.TempDir(), "longshore.seal")
	if _, err := Init(t.Context(), Config{DataDir: dir, Listen: "127.0.0.1:8480", SealKeyFile: outside}, Key{Role: store.RoleHost}); err != nil {
		t.Fatal(err)
	}
	seen := 0
	look := func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var is unix.Stat_t
		if err := unix.Lstat(path, &is); err != nil {
			return err
		}
		if seen++; is.Uid != uid || is.Gid != gid {
			t.Errorf("%s belongs to %d:%d", path, is.Uid, is.Gid)
		}
		return nil
	}
	err := errors.Join(filepath.WalkDir(dir, look), filepath.WalkDir(outside, look))
	if err != nil || seen < 5 {
		t.Errorf("%d files, %v", seen, err)
	}
}

// A directory that is somebody else's could lead root to give away any file of the machine.
func TestNoFileIsGivenAwayThatMayBeAnotherThanItLooks(t *testing.T) {
	dir := t.TempDir()
	file, link, second := filepath.Join(dir, "file"), filepath.Join(dir, "link"), filepath.Join(dir, "second")
	for _, err := range []error{os.WriteFile(file, nil, 0o600), os.Symlink(file, link), giveAway(link, 12345, 12346), os.Link(file, second), giveAway(second, 12345, 12346), giveAway(filepath.Join(dir, "none"), 1, 1)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	var is unix.Stat_t
	if err := unix.Lstat(file, &is); err != nil || is.Uid != 0 || is.Gid != 0 {
		t.Errorf("it belongs to %d:%d, %v", is.Uid, is.Gid, err)
	}
}
