package docker

import (
	"bytes"
	"context"
	"errors"
	"io"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/versions"
	"github.com/docker/docker/pkg/stdcopy"
	"golang.org/x/sys/unix"

	"github.com/longshore-project/longshore/engine"
)

// Exec runs a process in a container. The engine has no call that ends one, so signals are sent to the process itself, whose number it tells:
// with an engine on another host there are none, and what was begun goes on when the caller leaves.
func (r *Runtime) Exec(ctx context.Context, name string, e engine.Exec) (int, error) {
	if e.Stdin != nil {
		defer func() { _ = e.Stdin.Close() }()
	}
	c, err := r.inspect(ctx, name)
	if err != nil {
		return 0, err
	}
	if c.State == nil || !c.State.Running {
		return 0, refuse(errdefs.ErrFailedPrecondition, "container %s does not run", name)
	}
	opts := container.ExecOptions{
		User: e.User, Tty: e.Terminal, AttachStdin: e.Stdin != nil, AttachStdout: true, AttachStderr: true, Env: e.Env, WorkingDir: e.Dir, Cmd: e.Args,
	}
	if s := e.Size; s.Width > 0 && s.Height > 0 {
		opts.ConsoleSize = &[2]uint{uint(s.Height), uint(s.Width)}
	}
	made, err := r.link.api(ctx).ContainerExecCreate(ctx, c.ID, opts)
	if err != nil {
		return 0, execError(classify(ctx, err))
	}
	p := &process{r: r, id: made.ID, e: e}
	code, err := p.run(ctx, opts)
	return code, execError(classify(ctx, err))
}

// execTexts are what an engine says of a process that it does not start.
var execTexts = slices.Concat([]rule{
	{errdefs.ErrFailedPrecondition, []string{"is not running", "is paused"}},
	{errdefs.ErrInvalidArgument, []string{"no such file or directory", "not a directory", "permission denied", "is a directory", "invalid argument", "no exec command specified"}},
}, texts)

// execError gives it its class.
func execError(err error) error {
	if err == nil || errdefs.IsUnavailable(err) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	if class := byText(err, execTexts); class != nil {
		return withClass(err, class)
	}
	return err
}

// process is one that Exec runs.
type process struct {
	r  *Runtime
	id string
	e  engine.Exec
}

func (p *process) run(ctx context.Context, opts container.ExecOptions) (int, error) {
	api := p.r.link.api(ctx)
	conn, err := api.ContainerExecAttach(ctx, p.id, container.ExecAttachOptions{Tty: opts.Tty, ConsoleSize: opts.ConsoleSize})
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	over, end := context.WithCancel(ctx)
	var beside sync.WaitGroup
	defer beside.Wait()
	defer end()
	beside.Go(func() {
		<-over.Done()
		if ctx.Err() != nil {
			p.kill(context.WithoutCancel(ctx), syscall.SIGKILL)
		}
		conn.Close()
	})
	beside.Go(func() { p.control(over) })
	if p.e.Stdin != nil {
		beside.Go(func() {
			_, _ = io.Copy(conn.Conn, p.e.Stdin) // who does not read it any more misses nothing
			_ = conn.CloseWrite()
		})
		defer func() { _ = p.e.Stdin.Close() }()
	}
	first := &starting{ctx: ctx, p: p}
	if p.e.Terminal {
		_, err = io.Copy(first.to(p.e.Stdout), conn.Reader)
	} else {
		_, err = stdcopy.StdCopy(first.to(p.e.Stdout), first.to(p.e.Stderr), conn.Reader)
	}
	if ctx.Err() != nil {
		return 0, ctx.Err()
	}
	if err != nil {
		return 0, err
	}
	if first.refused.Len() > 0 {
		return 0, execError(refuse(errdefs.ErrUnknown, "%s", bytes.TrimSpace(first.refused.Bytes())))
	}
	return p.code(ctx)
}

// code is the exit code. The engine may tell the end of the output before it knows of the end of the process.
func (p *process) code(ctx context.Context) (int, error) {
	for {
		now, err := p.r.link.api(ctx).ContainerExecInspect(ctx, p.id)
		if err != nil || !now.Running {
			return now.ExitCode, err
		}
		if err := pause(ctx, 5*time.Millisecond); err != nil {
			return 0, err
		}
	}
}

// control changes the size of the terminal and sends signals, until ctx ends.
func (p *process) control(ctx context.Context) {
	if s := p.e.Size; p.e.Terminal && s.Width > 0 && s.Height > 0 && versions.LessThan(p.r.link.version(), "1.42") {
		for p.resize(ctx, s) != nil && pause(ctx, 5*time.Millisecond) == nil { // it is being started
		}
	}
	for {
		select {
		case <-ctx.Done():
			return
		case s := <-p.e.Resize:
			_ = p.resize(ctx, s) // of no effect on a process that is gone
		case s := <-p.e.Signals:
			p.kill(ctx, s)
		}
	}
}

func (p *process) resize(ctx context.Context, s engine.TerminalSize) error {
	return p.r.link.api(ctx).ContainerExecResize(ctx, p.id, container.ResizeOptions{Width: uint(s.Width), Height: uint(s.Height)})
}

// kill sends a signal to the process. It is held on to before the engine is asked whether it still is the one, so that no other gets it.
func (p *process) kill(ctx context.Context, s syscall.Signal) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	api := p.r.link.api(ctx)
	now, err := api.ContainerExecInspect(ctx, p.id)
	for err == nil && now.Running && now.Pid == 0 && pause(ctx, 5*time.Millisecond) == nil { // it is being started
		now, err = api.ContainerExecInspect(ctx, p.id)
	}
	if err != nil || !now.Running || now.Pid <= 0 || p.r.remote {
		return
	}
	held, err := unix.PidfdOpen(now.Pid, 0)
	if err != nil {
		return
	}
	defer func() { _ = unix.Close(held) }()
	if again, err := api.ContainerExecInspect(ctx, p.id); err == nil && again.Running && again.Pid == now.Pid {
		_ = unix.PidfdSendSignal(held, s, nil, 0)
	}
}

// maxRefusal bounds what an engine says of a process that it does not start.
const maxRefusal = 64 << 10

// starting looks at the first output: the engine writes why it does not start a process where the process would have written.
type starting struct {
	ctx     context.Context
	p       *process
	known   bool
	refused bytes.Buffer
	is      bool
}

func (s *starting) to(w io.Writer) io.Writer {
	if w == nil {
		w = io.Discard
	}
	return &output{s, w}
}

// output is one of the process's.
type output struct {
	s *starting
	w io.Writer
}

// Write is called by one goroutine, for either output.
func (o *output) Write(b []byte) (int, error) {
	s := o.s
	if !s.known {
		now, err := s.p.r.link.api(s.ctx).ContainerExecInspect(s.ctx, s.p.id)
		if err != nil {
			return 0, err
		}
		s.known, s.is = true, !now.Running && now.Pid == 0
	}
	if !s.is {
		return o.w.Write(b)
	}
	s.refused.Write(b[:min(len(b), maxRefusal-s.refused.Len())])
	return len(b), nil
}
