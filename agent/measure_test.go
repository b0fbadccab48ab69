package agent

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/longshore-project/longshore/agent/config"
	"github.com/longshore-project/longshore/statemgr"
)

func TestTheMemoryThatIsKeptFromTasksIsMeasuredOnceAndRemembered(t *testing.T) {
	root, data := hostRoot(t, nil), filepath.Join(t.TempDir(), "data")
	write := func(name, text string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(filepath.Join(root, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(root, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("proc/stat", "cpu  1 2 3 4 5 6 7 8 0 0\ncpu0 1 2 3 4 5 6 7 8 0 0\n")
	write("proc/self/mountinfo", "")
	settle := func(auto bool) int64 {
		t.Helper()
		a := &Agent{opt: Options{Root: root}, cfg: &config.Config{DataDir: data, ReservedMemory: 7, ReservedMemoryAuto: auto, CgroupPath: root}, log: nopLog}
		if err := a.settleReserve(); err != nil {
			t.Fatal(err)
		}
		return a.cfg.ReservedMemory
	}
	if got := settle(false); got != 7 {
		t.Error(got)
	}
	write("proc/meminfo", "MemTotal: 2048000 kB\nMemAvailable: 1024000 kB\n")
	if got := settle(true); got != 1280 { // 1000 MiB, a quarter more, in steps of 32
		t.Error(got)
	}
	write("proc/meminfo", "MemTotal: 2048000 kB\nMemAvailable: 512000 kB\n")
	if got := settle(true); got != 1280 {
		t.Errorf("%d: the instance would register with another memory than before", got)
	}
	write("etc/machine-id", "0123456789abcdef0123456789abcdee\n") // the disk of another machine
	if err := os.WriteFile(filepath.Join(data, statemgr.IdentityName), []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := settle(true); got != 1888 {
		t.Error(got)
	}
}
