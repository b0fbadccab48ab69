package nodump

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

const helper = "LONGSHORE_NODUMP_HELPER"

func TestMain(m *testing.M) {
	switch os.Getenv(helper) {
	case "":
		os.Exit(m.Run())
	case "set":
		if err := Set(); err != nil {
			fmt.Println(err)
		}
	}
	dumpable, err := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0)
	fmt.Println(dumpable, err)
	_ = syscall.Kill(os.Getpid(), syscall.SIGABRT)
	select {}
}

// TestAProcessThatDiesLeavesNoCoreDump has this program die of SIGABRT with and without Set, where dumps are wanted.
func TestAProcessThatDiesLeavesNoCoreDump(t *testing.T) {
	for mode, want := range map[string]string{"set": "0 <nil>\n", "as it is": "1 <nil>\n"} {
		dir := t.TempDir()
		cmd := exec.Command("sh", "-c", "ulimit -c unlimited 2>/dev/null; exec "+os.Args[0])
		cmd.Dir, cmd.Env = dir, append(os.Environ(), helper+"="+mode, "GOTRACEBACK=crash")
		out, _ := cmd.Output()
		if string(out) != want {
			t.Errorf("%s: it says %q, want %q", mode, out, want)
		}
		cores, _ := filepath.Glob(filepath.Join(dir, "core*"))
		if mode == "set" && len(cores) > 0 {
			t.Errorf("it left %q", cores)
		}
		t.Logf("%s: %d core dumps beside it (where they go is the host's kernel.core_pattern)", mode, len(cores))
	}
}
