package containerd

import (
	"cmp"
	"context"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/longshore-project/longshore/engine"
)

// Exec runs a process in a container.
func (r *Runtime) Exec(ctx context.Context, ref string, e engine.Exec) (int, error) {
	if e.Stdin != nil {
		defer func() { _ = e.Stdin.Close() }()
	}
	ctx = r.ns(ctx)
	b, err := r.find(ctx, ref)
	if err != nil {
		return 0, err
	}
	t, err := r.task(ctx, b.ID)
	if err != nil {
		return 0, err
	}
	if !alive(t) {
		return 0, refuse(errdefs.ErrFailedPrecondition, "container %s does not run", b.rec.Spec.Name)
	}
	spec, err := r.execSpec(ctx, b, e)
	if err != nil {
		return 0, err
	}
	c, err := r.client.LoadContainer(ctx, b.ID)
	if err != nil {
		return 0, classify(ctx, err)
	}
	task, err := c.Task(ctx, nil)
	if err != nil {
		return 0, gone(b, classify(ctx, err))
	}
	stdin := &input{from: e.Stdin, ended: make(chan struct{})}
	streams := []cio.Opt{cio.WithStreams(stdin.reader(), orDiscard(e.Stdout), orDiscard(e.Stderr)), cio.WithFIFODir(r.dir(b.ID))}
	if e.Terminal {
		streams = append(streams, cio.WithTerminal)
	}
	p, err := task.Exec(ctx, "exec-"+newID()[:12], spec, cio.NewCreator(streams...))
	if err != nil {
		return 0, gone(b, classify(ctx, err))
	}
	defer func() {
		after, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		_, _ = p.Delete(after, client.WithProcessKill)
	}()
	code, err := (&process{p, e, stdin}).run(ctx)
	return code, gone(b, err)
}

// gone gives what containerd says of a container that ended meanwhile its class.
func gone(b box, err error) error {
	if errdefs.IsNotFound(err) {
		return refuse(errdefs.ErrFailedPrecondition, "container %s does not run any more", b.rec.Spec.Name)
	}
	return err
}

// execSpec is the process: the container's own, but for what is said about this one.
func (r *Runtime) execSpec(ctx context.Context, b box, e engine.Exec) (*specs.Process, error) {
	rec := b.rec
	rec.Spec.EntryPoint, rec.Spec.Command, rec.Image.EntryPoint, rec.Image.Command = e.Args, nil, nil, nil
	rec.Spec.Env = slices.Concat(rec.Spec.Env, e.Env)
	rec.Spec.Config.Tty, rec.Spec.HostConfig.Init = e.Terminal, nil
	rec.Spec.Config.User = cmp.Or(e.User, rec.Spec.Config.User)
	rec.Spec.Config.WorkingDir = cmp.Or(e.Dir, rec.Spec.Config.WorkingDir)
	f := r.input(b.ID, rec)
	var err error
	if f.User, err = r.user(ctx, rec); err != nil {
		return nil, err
	}
	whole, err := compose(rec, f)
	if err != nil {
		return nil, err
	}
	if s := e.Size; e.Terminal && s.Width > 0 && s.Height > 0 {
		whole.Process.ConsoleSize = &specs.Box{Width: uint(s.Width), Height: uint(s.Height)}
	}
	return whole.Process, nil
}

func orDiscard(w io.Writer) io.Writer {
	if w == nil {
		return io.Discard
	}
	return w
}

// input is a standard input that tells when it has ended.
type input struct {
	from  io.Reader
	once  sync.Once
	ended chan struct{}
}

func (i *input) reader() io.Reader {
	if i.from == nil {
		return nil
	}
	return i
}

// Read reads, and notes the end.
func (i *input) Read(b []byte) (int, error) {
	n, err := i.from.Read(b)
	if err != nil {
		i.once.Do(func() { close(i.ended) })
	}
	return n, err
}

// process is one that Exec runs.
type process struct {
	client.Process
	e     engine.Exec
	stdin *input
}

// outputAfterEnd is how long the output of a process that has ended is waited for: its children may hold it.
const outputAfterEnd = 2 * time.Second

func (p *process) run(ctx context.Context) (int, error) {
	over, err := p.Wait(ctx)
	if err != nil {
		return 0, classify(ctx, err)
	}
	if err := p.Start(ctx); err != nil {
		return 0, startError(ctx, err)
	}
	stdinEnded := p.stdin.ended
	for {
		select {
		case status := <-over:
			code, _, err := status.Result()
			if err != nil {
				return 0, classify(ctx, err)
			}
			p.drain(ctx)
			return int(code), ctx.Err()
		case s := <-p.e.Resize:
			_ = p.Resize(ctx, uint32(s.Width), uint32(s.Height)) // of no effect on a process that is gone
		case s := <-p.e.Signals:
			_ = p.Kill(ctx, s)
		case <-stdinEnded:
			stdinEnded = nil
			_ = p.CloseIO(ctx, client.WithStdinCloser)
		case <-ctx.Done():
			after, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
			defer cancel()
			_ = p.Kill(after, unix.SIGKILL)
			return 0, ctx.Err()
		}
	}
}

// drain waits for the end of the output.
func (p *process) drain(ctx context.Context) {
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		p.IO().Wait()
	}()
	late := time.NewTimer(outputAfterEnd)
	defer late.Stop()
	select {
	case <-drained:
		return
	case <-late.C:
	case <-ctx.Done():
	}
	_ = p.IO().Close()
	<-drained
}
