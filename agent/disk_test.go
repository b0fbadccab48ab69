package agent

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestADiskThatFillsIsShortUntilThereIsRoomAgain(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("disk", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Fatalf("mounting a small disk needs root: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	if why := diskPressure(5, dir, dir); why != "" {
		t.Error(why)
	}
	file := filepath.Join(dir, "f")
	if err := os.WriteFile(file, make([]byte, 1000<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	if why := diskPressure(5, "/nowhere", dir, dir); strings.Count(why, "is short") != 1 || !strings.Contains(why, dir) {
		t.Errorf("%q", why)
	}
	if why := diskPressure(0, dir); why != "" {
		t.Errorf("switched off, and it says %q", why)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if why := diskPressure(5, dir); why != "" {
		t.Error(why)
	}
}
