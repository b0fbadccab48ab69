package volume

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/longshore-project/longshore/engine"
)

// stuckFiles is an image behind a file system that does not answer, whatever the context says.
type stuckFiles struct {
	imageFiles
	release chan struct{}
}

func (f *stuckFiles) Stat(context.Context, string, string) (engine.FileInfo, error) {
	<-f.release
	return engine.FileInfo{}, unix.ETIMEDOUT
}

func TestAFileSystemThatDoesNotAnswerIsAWarningInTime(t *testing.T) {
	files := &stuckFiles{release: make(chan struct{})}
	c := New(Options{Timeout: 20 * time.Millisecond})
	req := engine.VolumeRequest{User: "1000", Files: files, Mounts: []engine.Mount{{Type: "bind", Source: t.TempDir(), Target: "/data"}}}
	for range maxHung {
		res := c.Check(t.Context(), req)
		if res.Refusal != "" || len(res.Warnings) != 1 || !strings.Contains(res.Warnings[0], "no answer within") {
			t.Fatalf("%+v", res)
		}
	}
	res := c.Check(t.Context(), req)
	if res.Refusal != "" || len(res.Warnings) != 1 || !strings.Contains(res.Warnings[0], "earlier checks still wait") {
		t.Errorf("with every slot taken: %+v", res)
	}
	close(files.release)
}

func TestTheThreadThatAsksIsThrownAway(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	c := New(Options{})
	req := engine.VolumeRequest{User: "1000:1000", Files: &imageFiles{}, Mounts: []engine.Mount{{Type: "bind", Source: dir, Target: "/data"}}}
	for range 50 {
		c.Check(t.Context(), req)
	}
	tasks, err := filepath.Glob("/proc/self/task/*/status")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range tasks {
		b, err := os.ReadFile(path)
		if err != nil {
			continue // the thread has ended
		}
		for line := range strings.Lines(string(b)) {
			if f := strings.Fields(line); f[0] == "Uid:" && f[4] != fmt.Sprint(os.Geteuid()) {
				// it may be on its way out; a thread that serves Go code again is the fault
				tid, _ := filepath.Rel("/proc/self/task", filepath.Dir(path))
				if !ends(tid) {
					t.Errorf("thread %s still has fsuid %s", tid, f[4])
				}
			}
		}
	}
}

// ends waits for a thread to be gone.
func ends(tid string) bool {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for range 400 {
		if _, err := os.Stat("/proc/self/task/" + tid); err != nil {
			return true
		}
		<-tick.C
	}
	return false
}

func TestAUserNamespaceMapsTheUserAndBoundsItsCapabilities(t *testing.T) {
	ns := &engine.UserNS{UIDFirst: 100000, UIDSize: 65536, GIDFirst: 200000, GIDSize: 65536}
	for _, c := range []struct {
		name     string
		user     string
		mode     uint32
		uid, gid int
		refused  bool
	}{
		{"a user owns what its mapped id owns", "1000", 0o700, 101000, 201000, false},
		{"a user does not own what its own number owns on the host", "1000", 0o700, 1000, 1000, true},
		{"root overrides permissions of mapped owners", "", 0o700, 101000, 201000, false},
		{"root overrides nothing of unmapped owners", "", 0o700, 0, 0, true},
		{"root overrides nothing where the group is unmapped", "", 0o700, 101000, 0, true},
		{"root uses what is public", "", 0o755, 0, 0, false},
	} {
		dir := t.TempDir()
		if err := os.Chown(dir, c.uid, c.gid); err != nil {
			t.Fatal(err)
		}
		if err := unix.Chmod(dir, c.mode); err != nil {
			t.Fatal(err)
		}
		res := New(Options{}).Check(t.Context(), engine.VolumeRequest{User: c.user, UserNS: ns, Files: &imageFiles{}, Mounts: []engine.Mount{{Type: "bind", Source: dir, Target: "/data"}}})
		if (res.Refusal != "") != c.refused {
			t.Errorf("%s: refusal %q", c.name, res.Refusal)
		}
	}
}

func TestSymlinksThatLeaveTheMountAreTold(t *testing.T) {
	for _, c := range []struct {
		rel, link string
		leaves    bool
	}{
		{"a", "b", false}, {"a", "../b", true}, {"d/a", "../b", false}, {"d/a", "../../b", true}, {"d/a", "../x/../../b", true},
		{"a", "/data/b", false}, {"a", "/data", false}, {"a", "/database", true}, {"a", "/etc/passwd", true}, {"a", "./x/../y", false},
	} {
		if got := leaves("/data", c.rel, c.link); got != c.leaves {
			t.Errorf("%s -> %s: %v", c.rel, c.link, got)
		}
	}
}

func TestASourceThatCanNotBeMountedIsRefusedByName(t *testing.T) {
	f := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(f, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, source := range []string{"relative/path", f + "/below", "/" + strings.Repeat("x", 300)} {
		res := New(Options{}).Check(t.Context(), engine.VolumeRequest{Files: &imageFiles{}, Mounts: []engine.Mount{{Type: "bind", Source: source, Target: "/data"}}})
		if !strings.Contains(res.Refusal, source) || !strings.Contains(res.Refusal, "sourcePath") {
			t.Errorf("%s: %+v", source, res)
		}
	}
}

// BenchmarkCheck shows what a check costs: one thread, two descriptors, a handful of questions.
func BenchmarkCheck(b *testing.B) {
	dir := b.TempDir()
	c := New(Options{})
	req := engine.VolumeRequest{User: "1000:1000", Files: &imageFiles{}, Mounts: []engine.Mount{{Type: "bind", Source: dir, Target: "/data"}}}
	for b.Loop() {
		c.Check(b.Context(), req)
	}
}
