package logprocess_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/longshore-project/longshore/engine/logdriver"
)

// process is a longshore-log as containerd's shim starts it.
type process struct {
	*exec.Cmd
	stdout, stderr io.WriteCloser
}

// built is the program, made once; removed by TestMain.
var built = sync.OnceValues(func() (string, error) {
	program := filepath.Join(programs, "longshore-log")
	out, err := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-tags", "grpcnotrace", "-o", program, "github.com/longshore-project/longshore/cmd/longshore-log").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%w\n%s", err, out)
	}
	return program, nil
})

func startProcess(t *testing.T, s logdriver.Settings, env ...string) *process {
	t.Helper()
	program, err := built()
	if err != nil {
		t.Fatal(err)
	}
	settings := filepath.Join(s.Dir, "log.json")
	doc, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(settings, doc, 0o600); err != nil {
		t.Fatal(err)
	}
	p := &process{Cmd: exec.Command(program, "settings", settings)}
	p.Stderr, p.Env = os.Stderr, append(os.Environ(), env...)
	var pipes [3][2]*os.File // the container's outputs, and what is closed when it is ready
	for i := range pipes {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		pipes[i] = [2]*os.File{r, w}
	}
	p.ExtraFiles = []*os.File{pipes[0][0], pipes[1][0], pipes[2][1]}
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	for _, f := range p.ExtraFiles {
		_ = f.Close()
	}
	p.stdout, p.stderr = pipes[0][1], pipes[1][1]
	_, _ = pipes[2][0].Read(make([]byte, 1))
	_ = pipes[2][0].Close()
	return p
}

// number reads a line "name: 123 …" of a file of /proc.
func (p *process) number(t *testing.T, file, name string) int {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", p.Process.Pid, file))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, found := bytes.Cut(b, []byte(name+":"))
	if !found {
		t.Fatalf("%s has no %s: %s", file, name, b)
	}
	n, err := strconv.Atoi(strings.Fields(string(rest))[0])
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// The kernel counts what a process has written: to a disk's cache (proc_pid_io(5), write_bytes), and by any call (wchar), sockets included.
func TestAwslogsWritesNothingToTheDiskAndHoldsLittle(t *testing.T) {
	c := newCloud(t)
	p := startProcess(t, logdriver.Settings{Driver: "awslogs", Dir: c.dir, Options: c.options, Container: container})
	const lines = 100_000
	text := strings.Repeat("x", 90)
	for i := range lines {
		if _, err := fmt.Fprintf(p.stdout, "%6d %s\n", i, text); err != nil {
			t.Fatal(err)
		}
	}
	until(t, "all but what waits", func() bool { return len(c.Events("/x", "s")) == lines })
	written, sent, peak := p.number(t, "io", "write_bytes"), p.number(t, "io", "wchar"), p.number(t, "status", "VmHWM")
	_, _ = p.stdout.Close(), p.stderr.Close()
	if err := p.Wait(); err != nil {
		t.Error(err)
	}
	if written != 0 || sent < lines*len(text) {
		t.Errorf("%d bytes were written to the disk, and %d at all", written, sent)
	}
	if files, err := os.ReadDir(c.dir); err != nil || len(files) != 1 {
		t.Errorf("%v: beside its settings there is %v", err, files)
	}
	const most = 40 << 10 // KiB: its program, two calls' worth of lines, and one of them as JSON
	if peak > most {
		t.Errorf("it had %d KiB in memory", peak)
	}
	t.Logf("%d lines: %d bytes written by any call, none to the disk; at most %d KiB in memory", lines, sent, peak)
}

// A process that writes to a file shows that the counter counts.
func TestTheKernelCountsWhatJSONFileWrites(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp(".", "counted-") // on a disk, which the folder for temporary files need not be
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if dir, err = filepath.Abs(dir); err != nil {
		t.Fatal(err)
	}
	p := startProcess(t, logdriver.Settings{Driver: "json-file", Dir: dir, Container: container})
	for range 10_000 {
		if _, err := io.WriteString(p.stdout, strings.Repeat("x", 90)+"\n"); err != nil {
			t.Fatal(err)
		}
	}
	until(t, "the last line", func() bool { return p.number(t, "io", "write_bytes") >= 10_000*90 })
	_, _ = p.stdout.Close(), p.stderr.Close()
	if err := p.Wait(); err != nil {
		t.Error(err)
	}
}
