package enginetest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/longshore-project/longshore/engine"
)

// shell is a script that Exec runs; it has a mark by which ExecCountMarked finds it.
func shell(script string) engine.Exec {
	return engine.Exec{Args: []string{"sh", "-c", script, ExecMark}}
}

// heard is an output that tests look at while it grows.
type heard struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (h *heard) Write(p []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.text.Write(p)
}

func (h *heard) String() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.text.String()
}

// exec runs a process to its end.
func (s *suite) exec(t *testing.T, id string, e engine.Exec) (code int, stdout, stderr string) {
	t.Helper()
	var out, err heard
	e.Stdout, e.Stderr = &out, &err
	code, failed := s.Runtime.Exec(s.ctx(t), id, e)
	if failed != nil {
		t.Errorf("exec %q: %v", e.Args, failed)
	}
	return code, out.String(), err.String()
}

// ran is what an Exec that begin began has come to.
type ran struct {
	code int
	err  error
}

// begin runs a process, and waits until it has said something.
func (s *suite) begin(t *testing.T, ctx context.Context, id, says string, e engine.Exec) (*heard, <-chan ran) {
	t.Helper()
	out, done := &heard{}, make(chan ran, 1)
	e.Stdout, e.Stderr = out, out
	go func() {
		code, err := s.Runtime.Exec(ctx, id, e)
		done <- ran{code, err}
	}()
	eventually(t, "the process to say "+says, func() bool { return strings.Contains(out.String(), says) })
	return out, done
}

func execTests(t *testing.T, s *suite) {
	id := s.start(t, s.spec(ScriptServe))
	s.saying(t, id, "serving")
	t.Run("its outputs and its exit code come back", func(t *testing.T) {
		if code, out, err := s.exec(t, id, shell(ExecEcho)); code != 7 || out != "out\n" || err != "err\n" {
			t.Errorf("%d, %q, %q", code, out, err)
		}
	})
	t.Run("it is who and where it is asked to be, and else as the container is", func(t *testing.T) {
		if _, out, _ := s.exec(t, id, shell(ExecReport)); out != "user=0:0 dir=/work from=image mine=image\n" {
			t.Errorf("%q", out)
		}
		e := shell(ExecReport)
		e.User, e.Dir, e.Env = "app", "/etc", []string{"MINE=exec"}
		if _, out, _ := s.exec(t, id, e); out != "user=1000:1001 dir=/etc from=image mine=exec\n" {
			t.Errorf("%q", out)
		}
	})
	t.Run("many run at once, and none has another's output", func(t *testing.T) {
		together(6, func(int) {
			if code, out, err := s.exec(t, id, shell(ExecEcho)); code != 7 || out != "out\n" || err != "err\n" {
				t.Errorf("%d, %q, %q", code, out, err)
			}
		})
	})
	t.Run("input", func(t *testing.T) { execInputTests(t, s, id) })
	t.Run("a terminal", func(t *testing.T) { execTerminalTests(t, s, id) })
	t.Run("its end", func(t *testing.T) { execEndTests(t, s, id) })
	t.Run("what can't be run", func(t *testing.T) { execRefusedTests(t, s, id) })
}

func execInputTests(t *testing.T, s *suite, id string) {
	t.Run("is read to its end", func(t *testing.T) {
		e, text := shell(ExecCopy), strings.Repeat("0123456789abcdef\n", 40000)
		e.Stdin = io.NopCloser(strings.NewReader(text))
		if code, out, _ := s.exec(t, id, e); code != 0 || out != text+"end\n" {
			t.Errorf("%d, %d bytes of %d", code, len(out), len(text)+4)
		}
	})
	t.Run("is closed when nobody reads it any more", func(t *testing.T) {
		e := shell(ExecEcho)
		r, w := io.Pipe()
		e.Stdin = r
		if code, _, _ := s.exec(t, id, e); code != 7 {
			t.Errorf("exit code %d", code)
		}
		if _, err := io.WriteString(w, "more"); !errors.Is(err, io.ErrClosedPipe) {
			t.Errorf("a write to it: %v", err)
		}
	})
	t.Run("a signal does not wait behind it", func(t *testing.T) {
		e, signals := shell(ExecSignal), make(chan syscall.Signal, 1)
		e.Signals, e.Stdin = signals, io.NopCloser(endless{})
		out, done := s.begin(t, s.ctx(t), id, "ready", e)
		signals <- syscall.SIGINT
		if r := <-done; r.err != nil || r.code != 9 || !strings.Contains(out.String(), "caught") {
			t.Errorf("%+v: %q", r, out)
		}
	})
}

// endless is input without an end.
type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }

func execTerminalTests(t *testing.T, s *suite, id string) {
	t.Run("has the size that it is given, and changes it", func(t *testing.T) {
		e, sizes := shell(ExecSize), make(chan engine.TerminalSize, 1)
		e.Terminal, e.Size, e.Resize = true, engine.TerminalSize{Width: 80, Height: 24}, sizes
		out, done := s.begin(t, s.ctx(t), id, "24 80", e)
		sizes <- engine.TerminalSize{Width: 100, Height: 40}
		if r := <-done; r.err != nil || r.code != 0 || !strings.Contains(out.String(), "40 100") {
			t.Errorf("%+v: %q", r, out)
		}
	})
	t.Run("takes keys", func(t *testing.T) {
		r, w := io.Pipe()
		e := shell(ExecKeys)
		e.Terminal, e.Stdin = true, r
		out, done := s.begin(t, s.ctx(t), id, "ready", e)
		if _, err := io.WriteString(w, "hello\n\x04"); err != nil {
			t.Error(err)
		}
		if r := <-done; r.err != nil || r.code != 0 || !strings.Contains(out.String(), "hello\r\nend") {
			t.Errorf("%+v: %q", r, out)
		}
	})
}

func execEndTests(t *testing.T, s *suite, id string) {
	t.Run("a child that holds the output does not hold up the answer", func(t *testing.T) {
		began := time.Now()
		if code, out, _ := s.exec(t, id, shell(ExecOrphan)); code != 3 || out != "parent\n" || time.Since(began) > orphanLives {
			t.Errorf("%d, %q after %s", code, out, time.Since(began))
		}
	})
	t.Run("it is killed when the caller leaves", func(t *testing.T) {
		ctx, cancel := context.WithCancel(s.ctx(t))
		_, done := s.begin(t, ctx, id, "ready", shell(ExecForever))
		cancel()
		if r := <-done; !errors.Is(r.err, context.Canceled) {
			t.Errorf("%+v", r)
		}
		eventually(t, "the process to be gone", func() bool {
			_, out, _ := s.exec(t, id, engine.Exec{Args: []string{"sh", "-c", ExecCountMarked}})
			return out == "0\n"
		})
	})
	t.Run("it ends with the container", func(t *testing.T) {
		own := s.start(t, s.spec(ScriptServe))
		s.saying(t, own, "serving")
		_, done := s.begin(t, s.ctx(t), own, "ready", shell(ExecForever))
		ok(t, "stop", s.Runtime.Stop(s.ctx(t), own, time.Second))
		if r := <-done; r.err != nil || r.code != 137 {
			t.Errorf("%+v", r)
		}
	})
}

func execRefusedTests(t *testing.T, s *suite, id string) {
	run := func(id string, e engine.Exec) error {
		var out heard
		e.Stdout, e.Stderr = &out, &out
		_, err := s.Runtime.Exec(s.ctx(t), id, e)
		if out.String() != "" {
			t.Errorf("%q wrote %q", e.Args, &out)
		}
		return err
	}
	class(t, "a program that is not there", run(id, engine.Exec{Args: []string{"/bin/longshore-none"}}), errdefs.IsInvalidArgument, "InvalidArgument")
	nobody := shell(ExecEcho)
	nobody.User = "longshore-nobody"
	class(t, "a user that is not there", run(id, nobody), errdefs.IsInvalidArgument, "InvalidArgument")
	nowhere := shell(ExecEcho)
	nowhere.Dir = "/longshore-none/x"
	if _, err := s.Runtime.Exec(s.ctx(t), id, nowhere); err != nil { // an OCI runtime may make the directory
		class(t, "a directory that is not there", err, errdefs.IsInvalidArgument, "InvalidArgument")
	}
	class(t, "nothing", run(id, engine.Exec{}), errdefs.IsInvalidArgument, "InvalidArgument")
	class(t, "a missing container", run("longshore-test-none", shell(ExecEcho)), errdefs.IsNotFound, "NotFound")
	created := s.create(t, s.spec(ScriptServe))
	class(t, "a container that does not run yet", run(created, shell(ExecEcho)), errdefs.IsFailedPrecondition, "FailedPrecondition")
	over := s.start(t, s.spec(ScriptLines))
	s.ended(t, over)
	class(t, "a container that has ended", run(over, shell(ExecEcho)), errdefs.IsFailedPrecondition, "FailedPrecondition")
	foreign, _, untouched := s.Foreign(t)
	class(t, "a foreign container", run(foreign, shell(ExecEcho)), errdefs.IsNotFound, "NotFound")
	if !untouched() {
		t.Error("the foreign container does not run any more")
	}
}
