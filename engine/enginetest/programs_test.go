package enginetest_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync/atomic"
	"syscall"

	"github.com/containerd/errdefs"

	"github.com/longshore-project/longshore/engine"
	"github.com/longshore-project/longshore/engine/enginetest"
)

// programs are what a real container would make of the scripts that the suite runs by Exec.
type programs struct {
	images map[string]engine.ImageConfig
	marked atomic.Int32
}

func (p *programs) run(ctx context.Context, spec engine.Spec, e engine.Exec) (int, error) {
	if len(e.Args) == 0 || e.Args[0] != "sh" || e.User != "" && e.User != "app" {
		return 0, fmt.Errorf("no such program or user: %w", errdefs.ErrInvalidArgument)
	}
	if e.Args[len(e.Args)-1] == enginetest.ExecMark {
		p.marked.Add(1)
		defer p.marked.Add(-1)
	}
	say := func(w io.Writer, text string) { _, _ = io.WriteString(w, text) }
	switch e.Args[2] {
	case enginetest.ExecEcho:
		say(e.Stdout, "out\n")
		say(e.Stderr, "err\n")
		return 7, nil
	case enginetest.ExecOrphan:
		say(e.Stdout, "parent\n")
		return 3, nil
	case enginetest.ExecReport:
		spec.Config.User = e.User
		spec.Config.WorkingDir = e.Dir
		spec.Env = append(spec.Env, e.Env...)
		say(e.Stdout, report(spec, p.images[spec.Image]))
	case enginetest.ExecCountMarked:
		say(e.Stdout, fmt.Sprintln(p.marked.Load()))
	case enginetest.ExecCopy:
		_, _ = io.Copy(e.Stdout, e.Stdin)
		say(e.Stdout, "end\n")
	case enginetest.ExecKeys:
		return 0, keys(e)
	default:
		return p.wait(ctx, e)
	}
	return 0, nil
}

// wait is those that wait for something.
func (p *programs) wait(ctx context.Context, e engine.Exec) (int, error) {
	first := "ready\n"
	if e.Args[2] == enginetest.ExecSize {
		first = fmt.Sprintf("%d %d\r\n", e.Size.Height, e.Size.Width)
	}
	_, _ = io.WriteString(e.Stdout, first)
	for {
		select {
		case s := <-e.Signals:
			if s == syscall.SIGINT && e.Args[2] == enginetest.ExecSignal {
				_, err := io.WriteString(e.Stdout, "caught\n")
				return 9, err
			}
		case size := <-e.Resize:
			_, err := fmt.Fprintf(e.Stdout, "%d %d\r\n", size.Height, size.Width)
			return 0, err
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
}

// keys is a terminal in which cat runs.
func keys(e engine.Exec) error {
	if !e.Terminal {
		return errors.New("no terminal")
	}
	_, _ = io.WriteString(e.Stdout, "ready\r\n")
	var all []byte
	for b := make([]byte, 64); ; {
		n, err := e.Stdin.Read(b)
		typed, _, over := bytes.Cut(b[:n], []byte{4})
		all = append(all, typed...)
		if over || err != nil {
			_, err := io.WriteString(e.Stdout, strings.ReplaceAll(string(all)+"end\n", "\n", "\r\n"))
			return err
		}
	}
}
