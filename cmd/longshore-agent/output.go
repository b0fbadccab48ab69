package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/longshore-project/longshore/agent/config"
	"github.com/longshore-project/longshore/agent/local"
	"github.com/longshore-project/longshore/engine"
	"github.com/longshore-project/longshore/engine/execstream"
)

// exitStatus is an exit code about which nothing more is to be said.
type exitStatus int

// Error is for those who print it all the same.
func (e exitStatus) Error() string { return "exit status " + strconv.Itoa(int(e)) }

// The exit codes of exec that are not the program's, as shells and Docker have them.
const (
	exitUnknown   = 125 // the program was not run, or its end is not known
	exitUnusable  = 126 // there is no such program, user or directory in the container, or none that can be used
	exitBySignals = 128 // and the signal's number
)

// client reads the configuration and speaks to the agent that has it.
func client(file string) (local.Client, error) {
	cfg, _, err := config.Load(config.Options{File: file})
	if err != nil {
		return local.Client{}, fmt.Errorf("the configuration: %w", err)
	}
	return local.Client{Dir: cfg.DataDir}, nil
}

// containerOf is the optional second argument of a command line.
func containerOf(args []string) string {
	if len(args) > 1 {
		return args[1]
	}
	return ""
}

// namedTask joins what options and arguments name: a task, and perhaps a container of it.
func namedTask(args []string, task, container string) ([]string, error) {
	if task != "" {
		args = append([]string{task}, args...)
	}
	if container != "" {
		args = append(args[:len(args):len(args)], container)
	}
	if len(args) == 0 || len(args) > 2 || task == "" && container != "" && len(args) == 1 {
		return nil, errors.New("name a task, and at most one container: longshore-agent logs --task TASK --container CONTAINER")
	}
	return args, nil
}

func newLogs(stdout io.Writer) *cobra.Command {
	var file, since string
	var want local.Logs
	cmd := &cobra.Command{
		Use: "logs TASK [CONTAINER]", Short: "What a container of this host has written", Args: cobra.MaximumNArgs(2),
		Long: "Print the output of a container, standard output and error in the order in which they came. The task is named by its ARN, its id, or the beginning\n" +
			"of its id, and the container by its name in the task definition, which may be left out where there is but one. --task and --container name them too.\n" +
			"Output that the log driver has sent elsewhere can be read there; the message says where.",
		RunE: func(cmd *cobra.Command, args []string) error {
			var err error
			if want.Since, err = moment(since, time.Now()); err != nil {
				return err
			}
			c, err := client(file)
			if err != nil {
				return err
			}
			if args, err = namedTask(args, want.Task, want.Container); err != nil {
				return err
			}
			want.Task, want.Container = args[0], containerOf(args)
			err = c.Logs(cmd.Context(), want, stdout)
			if errors.Is(err, context.Canceled) && cmd.Context().Err() != nil {
				return exitStatus(exitBySignals + int(syscall.SIGINT))
			}
			return err
		},
	}
	cmd.Flags().StringVar(&want.Task, "task", "", "the task")
	cmd.Flags().StringVar(&want.Container, "container", "", "the container")
	cmd.Flags().BoolVarP(&want.Follow, "follow", "f", false, "go on until the container's process has ended")
	cmd.Flags().IntVarP(&want.Lines, "tail", "n", 0, "only the last `lines` (default all)")
	cmd.Flags().StringVar(&since, "since", "", "only what is not older: an `age` such as 10m, or a time such as 2026-11-20T08:00:00Z")
	cmd.Flags().BoolVarP(&want.Times, "timestamps", "t", false, "begin each line with its time")
	cmd.Flags().StringVar(&file, "config", "", "environment file (default "+config.DefaultFile+")")
	return cmd
}

// moment is a time that is written as an age, or as itself.
func moment(text string, now time.Time) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	if age, err := time.ParseDuration(text); err == nil && age >= 0 {
		return now.Add(-age), nil
	}
	at, err := time.Parse(time.RFC3339Nano, text)
	if err != nil {
		return at, fmt.Errorf("--since %q is neither an age, such as 10m, nor a time, such as 2026-11-20T08:00:00Z", text)
	}
	return at, nil
}

func newExec(stdout, stderr io.Writer) *cobra.Command {
	var file string
	var plain bool
	var s execstream.Start
	cmd := &cobra.Command{
		Use: "exec TASK [CONTAINER] -- COMMAND [ARGUMENT]...", Short: "Run a process in a container of this host", DisableFlagsInUseLine: true,
		Long: "Run a process in a running container, with this terminal if it is called from one. Task and container are named as with \"logs\".\n" +
			"Without a terminal its input is this command's, and signals are passed on to it. It is killed when this command is. Who has run what is in the audit log.\n\n" +
			"EXIT STATUS\n  that of the process; 128 + the signal's number after a signal\n" +
			"  126  there is no such program, user or directory in the container, or it can't be used\n  125  the process was not run, or its end is not known",
		Args: func(cmd *cobra.Command, args []string) error {
			n := cmd.ArgsLenAtDash()
			if n < 1 || n > 2 || len(args) == n {
				return fmt.Errorf("usage: %s", cmd.Use)
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := client(file)
			if err != nil {
				return err
			}
			names := args[:cmd.ArgsLenAtDash()]
			s.Task, s.Container, s.Args = names[0], containerOf(names), args[len(names):]
			s.Stdout, s.Stderr = stdout, stderr
			code, err := runHere(context.WithoutCancel(cmd.Context()), c, s, plain)
			switch {
			case err == nil && code == 0:
				return nil
			case err == nil:
				return exitStatus(code)
			case errdefs.IsInvalidArgument(err):
				code = exitUnusable
			default:
				code = exitUnknown
			}
			fmt.Fprintln(stderr, "longshore-agent:", err)
			return exitStatus(code)
		},
	}
	cmd.Flags().StringVarP(&s.User, "user", "u", "", "who it is: `user[:group]`, by name or number (default the container's)")
	cmd.Flags().StringVarP(&s.Dir, "workdir", "w", "", "where it begins (default the container's working `directory`)")
	cmd.Flags().StringArrayVarP(&s.Env, "env", "e", nil, "a further `variable`, NAME=value")
	cmd.Flags().BoolVarP(&plain, "no-terminal", "T", false, "give it no terminal, though this is one")
	cmd.Flags().StringVar(&file, "config", "", "environment file (default "+config.DefaultFile+")")
	return cmd
}

// runHere runs a process with this process's terminal, if it has one, or else with its input and its signals.
func runHere(ctx context.Context, c local.Client, s execstream.Start, plain bool) (int, error) {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	passed := []os.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGUSR1, syscall.SIGUSR2}
	in, out := int(os.Stdin.Fd()), int(os.Stdout.Fd())
	if s.Terminal = !plain && term.IsTerminal(in) && term.IsTerminal(out); s.Terminal {
		before, err := term.MakeRaw(in)
		if err != nil {
			return 0, fmt.Errorf("this terminal: %w", err)
		}
		defer func() { _ = term.Restore(in, before) }()
		s.Size = sizeOf(out)
		s.Resize = sizes(ctx, out)
		s.Env = append([]string{"TERM=" + os.Getenv("TERM")}, s.Env...)
	}
	s.Signals = signals(ctx, passed)
	r, w := io.Pipe() // whose reader can be closed while nobody types
	go func() {
		_, err := io.Copy(w, os.Stdin)
		_ = w.CloseWithError(err)
	}()
	s.Stdin = r
	return c.Exec(ctx, s)
}

func sizeOf(fd int) engine.TerminalSize {
	width, height, err := term.GetSize(fd)
	if err != nil {
		return engine.TerminalSize{}
	}
	return engine.TerminalSize{Width: uint16(width), Height: uint16(height)}
}

// sizes tells each size that the terminal gets, until ctx ends.
func sizes(ctx context.Context, fd int) <-chan engine.TerminalSize {
	changed, out := make(chan os.Signal, 1), make(chan engine.TerminalSize)
	signal.Notify(changed, syscall.SIGWINCH)
	go func() {
		defer signal.Stop(changed)
		for {
			select {
			case <-changed:
			case <-ctx.Done():
				return
			}
			select {
			case out <- sizeOf(fd):
			case <-ctx.Done():
				return
			}
		}
	}()
	return out
}

// signals passes on what this process is sent, until ctx ends.
func signals(ctx context.Context, which []os.Signal) <-chan syscall.Signal {
	sent, out := make(chan os.Signal, 16), make(chan syscall.Signal)
	signal.Notify(sent, which...)
	go func() {
		defer signal.Stop(sent)
		for {
			var s os.Signal
			select {
			case s = <-sent:
			case <-ctx.Done():
				return
			}
			number, _ := s.(syscall.Signal)
			select {
			case out <- number:
			case <-ctx.Done():
				return
			}
		}
	}()
	return out
}
