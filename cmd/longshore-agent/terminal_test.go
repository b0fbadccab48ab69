package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"reflect"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"github.com/creack/pty"
	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/term"

	"github.com/longshore-project/longshore/engine"
)

// programs are those that the containers of the engine in memory have.
func programs(ctx context.Context, _ engine.Spec, e engine.Exec) (int, error) {
	switch e.Args[0] {
	case "show":
		_, _ = fmt.Fprintf(e.Stdout, "args=%q env=%q user=%s dir=%s terminal=%v\n", e.Args[1:], e.Env, e.User, e.Dir, e.Terminal)
		_, _ = io.WriteString(e.Stderr, "to err\n")
		return 7, nil
	case "upper":
		in, err := io.ReadAll(e.Stdin)
		if err == nil {
			_, err = e.Stdout.Write(bytes.ToUpper(in))
		}
		return 0, err
	case "signalled":
		_, _ = io.WriteString(e.Stdout, "waiting\n")
		select {
		case s := <-e.Signals:
			_, _ = fmt.Fprintf(e.Stdout, "got %s\n", s)
			return 128 + int(s), nil
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	case "talk":
		return talk(ctx, e)
	}
	return 0, fmt.Errorf("exec %s: not in the image: %w", e.Args[0], errdefs.ErrInvalidArgument)
}

// talk tells the sizes of its terminal until a line is typed.
func talk(ctx context.Context, e engine.Exec) (int, error) {
	_, _ = fmt.Fprintf(e.Stdout, "terminal=%v size=%dx%d env=%q\r\n", e.Terminal, e.Size.Width, e.Size.Height, e.Env)
	typed := make(chan string, 1)
	go func() {
		line, _ := bufio.NewReader(e.Stdin).ReadString('\r') // as a terminal sends it whose lines nobody edits
		typed <- line
	}()
	for {
		select {
		case s := <-e.Resize:
			_, _ = fmt.Fprintf(e.Stdout, "size=%dx%d\r\n", s.Width, s.Height)
		case line := <-typed:
			_, _ = fmt.Fprintf(e.Stdout, "typed %q\r\n", line)
			return 9, nil
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
}

// screen is what a terminal shows.
type screen struct {
	mu   sync.Mutex
	text []byte
}

func (s *screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.text = append(s.text, p...)
	return len(p), nil
}

func (s *screen) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return string(s.text)
}

// wait waits until the screen shows a text.
func (s *screen) wait(ts *testscript.TestScript, text string) {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); <-tick.C {
		if strings.Contains(s.String(), text) {
			return
		}
	}
	ts.Fatalf("the terminal does not show %q, but %q", text, s)
}

// inTerminal runs the command "exec TASK -- talk" in a terminal of 80 by 24, makes that larger, and types: terminal TASK
func inTerminal(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: terminal TASK")
	}
	outside, inside, err := pty.Open()
	ts.Check(err)
	defer outside.Close()
	defer inside.Close() // held open, to look at its settings afterwards
	ts.Check(pty.Setsize(outside, &pty.Winsize{Cols: 80, Rows: 24}))
	before, err := term.GetState(int(inside.Fd()))
	ts.Check(err)
	program, err := exec.LookPath("longshore-agent")
	ts.Check(err)
	cmd := exec.Command(program, "exec", "--config", ts.MkAbs("ecs.config"), args[0], "--", "talk")
	cmd.Env = append(os.Environ(), "TERM=longshore")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = inside, inside, inside
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	ts.Check(cmd.Start())
	var shown screen
	var reading sync.WaitGroup
	reading.Go(func() { _, _ = io.Copy(&shown, outside) })
	shown.wait(ts, `terminal=true size=80x24 env=["TERM=longshore"]`)
	ts.Check(pty.Setsize(outside, &pty.Winsize{Cols: 100, Rows: 40}))
	shown.wait(ts, "size=100x40")
	_, err = io.WriteString(outside, "hi\x03\x04\r") // keys that would end something are the program's
	ts.Check(err)
	shown.wait(ts, `typed "hi\x03\x04\r"`)
	_ = cmd.Wait()
	after, err := term.GetState(int(inside.Fd()))
	ts.Check(err)
	if code := cmd.ProcessState.ExitCode(); code != 9 || !reflect.DeepEqual(before, after) {
		ts.Fatalf("exit code %d; the terminal's settings were %+v and are %+v", code, before, after)
	}
	_ = inside.Close()
	_ = outside.Close()
	reading.Wait()
}
