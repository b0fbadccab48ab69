package enginetest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/longshore-project/longshore/engine"
)

// Logs copies what the process has written. A Fake's process writes all of it when it is started.
func (f *Fake) Logs(ctx context.Context, id string, o engine.LogOptions, w io.Writer) error {
	if err := f.enter(ctx, "Logs", id); err != nil {
		return err
	}
	c := f.find(id)
	if c == nil {
		f.mu.Unlock()
		return noContainer(id)
	}
	output, at, gone, kept := c.output, c.state.StartedAt, c.gone, c.spec.HostConfig.LogConfig
	running := c.state.Status == engine.StatusRunning
	f.mu.Unlock()
	if kept != nil && kept.Type == "none" {
		return engine.LogsElsewhere(c.state.Name, kept.Type, kept.Config)
	}
	all := strings.SplitAfter(output, "\n")
	if n := len(all); n > 0 && all[n-1] == "" {
		all = all[:n-1]
	}
	if o.Lines > 0 && len(all) > o.Lines {
		all = all[len(all)-o.Lines:]
	}
	if at.Before(o.Since) {
		all = nil
	}
	if o.Times {
		for i := range all {
			all[i] = at.UTC().Format("2006-01-02T15:04:05.000000000Z07:00") + " " + all[i]
		}
	}
	if _, err := io.WriteString(w, strings.Join(all, "")); err != nil || !o.Follow || !running {
		return err
	}
	select {
	case <-gone:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// errEnded is the cause of the end of an Exec whose container ended.
var errEnded = errors.New("the container's process ended")

// Exec does what BehaveExec says.
func (f *Fake) Exec(ctx context.Context, id string, e engine.Exec) (int, error) {
	if e.Stdin != nil {
		defer func() { _ = e.Stdin.Close() }()
	}
	if err := f.enter(ctx, "Exec", id); err != nil {
		return 0, err
	}
	c := f.find(id)
	if c == nil {
		f.mu.Unlock()
		return 0, noContainer(id)
	}
	run, spec, gone := f.execs, c.spec, c.gone
	running := c.state.Status == engine.StatusRunning
	f.mu.Unlock()
	if !running {
		return 0, fmt.Errorf("container %s does not run: %w", c.state.Name, errdefs.ErrFailedPrecondition)
	}
	if e.Stdout == nil {
		e.Stdout = io.Discard
	}
	if e.Stderr == nil {
		e.Stderr = io.Discard
	}
	inside, end := context.WithCancelCause(ctx)
	defer end(nil)
	type result struct {
		code int
		err  error
	}
	ended := make(chan result, 1)
	go func() {
		code, err := run(inside, spec, e)
		ended <- result{code, err}
	}()
	select {
	case r := <-ended:
		return r.code, r.err
	case <-gone:
		end(errEnded)
	case <-ctx.Done():
	}
	if e.Stdin != nil {
		_ = e.Stdin.Close()
	}
	r := <-ended
	switch {
	case ctx.Err() != nil:
		return 0, ctx.Err()
	case r.err != nil && errors.Is(context.Cause(inside), errEnded):
		return 128 + 9, nil
	}
	return r.code, r.err
}
