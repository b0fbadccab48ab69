package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/creack/pty"
)

// screen is what a command has shown so far.
type screen struct {
	mu  sync.Mutex
	all bytes.Buffer
}

func (s *screen) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.all.Write(b)
}

func (s *screen) text() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.all.String()
}

// shows waits until a text is there.
func (l *Lab) shows(s *screen, parts ...string) {
	l.t.Helper()
	l.Until(60*time.Second, fmt.Sprintf("it shows %q", parts), func() error { return has(s.text(), parts...) })
}

// code is the exit code of a command that has ended; -1 if it has not.
func code(err error) int {
	var exited *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exited):
		return exited.ExitCode()
	}
	return -1
}

// walkOutput reads on host i what a container has written, while it runs and afterwards, and runs programs in it.
func (l *Lab) walkOutput(i int, instance, image string) {
	t := l.t
	t.Helper()
	l.Do("ecs", "register-task-definition", "--cli-input-json", l.write("talks.json", `{"family":"talks","containerDefinitions":[{"name":"main","image":"`+image+`","user":"0","memory":32,"stopTimeout":20,
 "entryPoint":["/bin/sh","-c"],"command":["trap 'echo last; exit 3' TERM; echo one; echo two >&2; sleep 100000 & wait"]}]}`))
	task := AWS[struct{ Tasks []Task }](l, "ecs", "start-task", "--cluster", cluster, "--task-definition", "talks", "--container-instances", ID(instance)).Tasks[0]
	task = l.reached(task, "RUNNING")
	name := ID(task.TaskArn)[:10]
	l.Until(30*time.Second, "what it has written is read", func() error {
		out, err := l.tells(i, "logs", name)
		if err == nil {
			err = has(out, "one\n", "two\n")
		}
		return err
	})
	if out, err := l.tells(i, "logs", name, "main", "-n", "1", "-t"); err != nil || strings.Count(out, "\n") != 1 || !strings.HasPrefix(out, "20") {
		t.Errorf("the last line is %q, %v", out, err)
	}

	var followed screen
	follow := l.command(i, "logs", "-f", name)
	follow.Stdout = &followed
	if err := follow.Start(); err != nil {
		t.Fatal(err)
	}
	l.executes(i, name)
	l.executesInTerminal(i, name)
	l.shows(&followed, "one\n", "from exec\n")
	l.Do("ecs", "stop-task", "--cluster", cluster, "--task", task.TaskArn)
	l.reached(task, "STOPPED")
	if err := follow.Wait(); err != nil {
		t.Errorf("who followed: %v", err)
	}
	for _, out := range []func() (string, error){func() (string, error) { return followed.text(), nil }, func() (string, error) { return l.tells(i, "logs", name) }} {
		got, err := out()
		if err == nil {
			err = has(got, "one\n", "two\n", "from exec\n", "last\n")
		}
		if err != nil {
			t.Error(err)
		}
	}
	if _, err := l.tells(i, "exec", name, "--", "true"); code(err) != 125 {
		t.Errorf("exec in a task that has stopped: %v", err)
	}
}

// executes runs programs in a task's container on host i, without a terminal.
func (l *Lab) executes(i int, task string) {
	t := l.t
	t.Helper()
	pipe := l.command(i, "exec", task, "main", "--", "tr", "a-z", "A-Z")
	pipe.Stdin = strings.NewReader(strings.Repeat("hello\n", 20000)) // more than any buffer holds
	if out, err := pipe.Output(); err != nil || string(out) != strings.Repeat("HELLO\n", 20000) {
		t.Errorf("a pipe gave %d bytes, %v", len(out), err)
	}
	said := l.command(i, "exec", "-u", "1000", "-w", "/tmp", "-e", "A=b", task, "--", "sh", "-c", "echo $A $(id -u) $(pwd); echo err >&2; exit 7")
	var stdout, stderr bytes.Buffer
	said.Stdout, said.Stderr = &stdout, &stderr
	if err := said.Run(); code(err) != 7 || stdout.String() != "b 1000 /tmp\n" || stderr.String() != "err\n" {
		t.Errorf("%v: %q and %q", err, stdout.String(), stderr.String())
	}
	if _, err := l.tells(i, "exec", task, "--", "sh", "-c", "echo from exec >/proc/1/fd/1"); err != nil {
		t.Error(err)
	}
	if _, err := l.tells(i, "exec", task, "--", "/no/such/program"); code(err) != 126 {
		t.Errorf("a program that is not there: %v", err)
	}
	var waits screen
	signalled := l.command(i, "exec", task, "--", "sh", "-c", "trap 'echo caught; exit 9' TERM; echo ready; sleep 100000 <&- >&- 2>&- & wait")
	signalled.Stdout = &waits
	if err := signalled.Start(); err != nil {
		t.Fatal(err)
	}
	l.shows(&waits, "ready\n")
	if out, err := l.OnHost(i, "pkill", "-TERM", "-f", "longshore-agent.* exec "+task).CombinedOutput(); err != nil { // of the host's processes alone
		t.Errorf("%v: %s", err, out)
	}
	if err := signalled.Wait(); code(err) != 9 || !strings.Contains(waits.text(), "caught") {
		t.Errorf("a signal: %v, %q", err, waits.text())
	}
}

// executesInTerminal does so in a terminal, which is made larger.
func (l *Lab) executesInTerminal(i int, task string) {
	t := l.t
	t.Helper()
	var shown screen
	shell := l.command(i, "exec", task, "--", "sh")
	outside, err := pty.StartWithSize(shell, &pty.Winsize{Cols: 80, Rows: 24})
	if err != nil {
		t.Fatal(err)
	}
	var reading sync.WaitGroup
	reading.Go(func() { _, _ = io.Copy(&shown, outside) })
	l.shows(&shown, "# ")
	types := func(line, want string) {
		t.Helper()
		if _, err := io.WriteString(outside, line+"\r"); err != nil {
			t.Fatal(err)
		}
		l.shows(&shown, want)
	}
	types("echo $(tty) $(stty size)", "/dev/pts/0 24 80")
	if err := pty.Setsize(outside, &pty.Winsize{Cols: 100, Rows: 40}); err != nil {
		t.Fatal(err)
	}
	l.Until(60*time.Second, "the program's terminal is larger", func() error {
		if _, err := io.WriteString(outside, "stty size\r"); err != nil {
			return err
		}
		return has(shown.text(), "40 100")
	})
	types("sleep 100000", "sleep 100000")
	types("\x03echo stopped $?", fmt.Sprint("stopped ", 128+int(syscall.SIGINT)))
	if _, err := io.WriteString(outside, "exit 5\r"); err != nil {
		t.Fatal(err)
	}
	if err := shell.Wait(); code(err) != 5 {
		t.Errorf("in a terminal: %v: %q", err, shown.text())
	}
	_ = outside.Close()
	reading.Wait()
}
