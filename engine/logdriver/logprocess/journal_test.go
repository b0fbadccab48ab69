package logprocess_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/longshore-project/longshore/engine/logdriver"
	"github.com/longshore-project/longshore/engine/logdriver/logprocess"
)

// inside is set in the process that has files of its own.
const inside = "LONGSHORE_TEST_JOURNAL"

// A journald finds its sockets and files at fixed places, so it gets a mount namespace, in which this test runs again; and a pid namespace, so that
// it ends with the test, whatever happens.
func TestARealJournalHasEachLineAndIsReadBack(t *testing.T) {
	if os.Getenv(inside) != "" {
		withJournal(t)
		return
	}
	cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.timeout=1m")
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// startJournal runs a journald whose files are in memory and gone with this process's namespace.
func startJournal(t *testing.T) {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"/run", "/var/log"} {
		if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=64m"); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Mount("proc", "/proc", "proc", 0, ""); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.MkdirAll("/run/systemd/journal", 0o755), os.MkdirAll("/run/log/journal", 0o755)); err != nil {
		t.Fatal(err)
	}
	j := exec.Command("/lib/systemd/systemd-journald")
	if err := j.Start(); err != nil {
		t.Fatalf("%v: apt-get install -y systemd", err)
	}
	t.Cleanup(func() {
		_ = j.Process.Signal(syscall.SIGTERM)
		_ = j.Wait()
	})
	until(t, "journald", func() bool { _, err := os.Stat("/run/systemd/journal/io.systemd.journal"); return err == nil })
}

func withJournal(t *testing.T) {
	startJournal(t)
	s := logdriver.Settings{Driver: "journald", Dir: t.TempDir(), Container: container, Options: map[string]string{"tag": "web-{{.ID}}", "labels": "team", "env": "STAGE"}}
	d, err := logprocess.New(s)
	if err != nil {
		t.Fatal(err)
	}
	long := strings.Repeat("x", 20<<10)
	before := "one\nbinary \x01\xff\n\n" + long + "\n"
	if err := logprocess.Copy(strings.NewReader(before), strings.NewReader("an error\n"), d, s); err != nil {
		t.Fatal(err)
	}
	read := func(o logdriver.ReadOptions) string {
		t.Helper()
		var out bytes.Buffer
		if err := logdriver.ReadJournal(t.Context(), container.ContainerID, o, &out); err != nil {
			t.Error(err)
		}
		return out.String()
	}
	sync := exec.Command("journalctl", "--sync")
	if out, err := sync.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if got := strings.Replace(read(logdriver.ReadOptions{}), "an error\n", "", 1); got != before {
		t.Errorf("%d bytes came back of %d: %.60q", len(got), len(before), got)
	}
	if got := read(logdriver.ReadOptions{Since: time.Now().Add(time.Hour)}); got != "" {
		t.Errorf("since later: %q", got)
	}
	out, err := exec.Command("journalctl", "--output=export", "PRIORITY=3", "CONTAINER_TAG=web-"+container.ID(), "TEAM=a", "STAGE=prod").CombinedOutput()
	if err != nil || !strings.Contains(string(out), "MESSAGE=an error") {
		t.Errorf("by its fields: %v, %s", err, out)
	}
	follows(t, s)
}

// follows reads what is written meanwhile, to its end.
func follows(t *testing.T, s logdriver.Settings) {
	s.Container.ContainerID = strings.Repeat("f", 64)
	d, err := logprocess.New(s)
	if err != nil {
		t.Fatal(err)
	}
	r, w := io.Pipe()
	var running atomic.Bool
	running.Store(true)
	wrote := make(chan error, 1)
	go func() {
		wrote <- logprocess.Copy(r, strings.NewReader(""), d, s)
		running.Store(false)
	}()
	_, _ = io.WriteString(w, "zero\nfirst\n")
	until(t, "the lines in the journal", func() bool {
		out, _ := exec.Command("journalctl", "--output=cat", "CONTAINER_ID_FULL="+s.Container.ContainerID).CombinedOutput()
		return strings.Contains(string(out), "first")
	})
	got := &watched{}
	done := make(chan error, 1)
	go func() {
		done <- logdriver.ReadJournal(context.WithoutCancel(t.Context()), s.Container.ContainerID, logdriver.ReadOptions{Lines: 1, Running: func() (bool, error) { return running.Load(), nil }}, got)
	}()
	until(t, "the first line", func() bool { return got.n.Load() > 0 })
	_, _ = io.WriteString(w, "second\n")
	until(t, "the second line", func() bool { return got.n.Load() > 1 })
	_, _ = io.WriteString(w, "last\n")
	_ = w.Close()
	if err := errors.Join(<-wrote, <-done); err != nil || got.buf.String() != "first\nsecond\nlast\n" {
		t.Errorf("%v: %q", err, got.buf.String())
	}
}

// watched counts what is written to it.
type watched struct {
	buf bytes.Buffer
	n   atomic.Int32
}

func (w *watched) Write(p []byte) (int, error) {
	n, err := w.buf.Write(p)
	w.n.Add(1)
	return n, err
}
