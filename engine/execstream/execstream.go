// Package execstream carries an [engine.Exec] over a web socket: [Run] at the end where input, output and signals are, [Serve] at the end
// where the process is started.
//
// # Model
//
//	Run   → text    Start: the container and the program
//	Run   → binary  a piece of the standard input; an empty one is its end
//	Run   → text    {"size":…} or {"signal":…}
//	Serve → binary  1 and a piece of the standard output, 2 and one of the error output
//	Serve → text    {"read":n}: the process has taken n bytes of its input
//	Serve → text    {"result":…}: the exit code, or why there is none; the last message
//
// The input is sent as far as it is read, but for a window: so a signal never waits behind input that nobody takes. Output waits in the
// connection for the one who reads it, and holds up the process as a pipe does. An end that goes away closes the connection: the process is killed then.
package execstream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"syscall"
	"time"

	"github.com/coder/websocket"
	"github.com/containerd/errdefs"

	"github.com/longshore-project/longshore/engine"
)

const (
	// window is how much input may be on its way without being read.
	window = 256 << 10
	piece  = 32 << 10
	// limit bounds a message, of either side.
	limit = 1 << 20

	kindStdout, kindStderr = 1, 2

	sayTimeout = 10 * time.Second // for the result
)

// Start is the first message.
type Start struct {
	Task      string `json:"task,omitempty"` // for the agent: the task, and the container by its name, or empty if there is but one
	Container string `json:"container"`
	engine.Exec
	Input bool `json:"input,omitempty"` // there is a standard input
}

// word is any other text message; one of its members is set.
type word struct {
	Size   *engine.TerminalSize `json:"size,omitempty"`
	Signal syscall.Signal       `json:"signal,omitempty"`
	Read   int                  `json:"read,omitempty"`
	Result *result              `json:"result,omitempty"`
}

// result is how it ended.
type result struct {
	Code  int    `json:"code"`
	Class string `json:"class,omitempty"`
	Text  string `json:"text,omitempty"` // empty: there is a code
}

// Failure is an error from the other end, with its class.
type Failure struct{ Class, Text string }

// Error is its text.
func (f *Failure) Error() string { return f.Text }

// Unwrap is the class; nil for one that has none.
func (f *Failure) Unwrap() error { return classes[f.Class] }

// classes are those that Runtime.Exec names.
var classes = map[string]error{
	"Canceled": context.Canceled, "DeadlineExceeded": context.DeadlineExceeded, "NotFound": errdefs.ErrNotFound, "InvalidArgument": errdefs.ErrInvalidArgument,
	"FailedPrecondition": errdefs.ErrFailedPrecondition, "Unavailable": errdefs.ErrUnavailable, "NotImplemented": errdefs.ErrNotImplemented, "Internal": errdefs.ErrInternal,
}

func resultOf(code int, err error) *result {
	if err == nil {
		return &result{Code: code}
	}
	for name, class := range classes {
		if errors.Is(err, class) {
			return &result{Class: name, Text: err.Error()}
		}
	}
	return &result{Text: err.Error()}
}

func say(ctx context.Context, ws *websocket.Conn, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return ws.Write(ctx, websocket.MessageText, b)
}

// Run has the other end run a process, and is as engine.Runtime.Exec is. A connection that breaks is Unavailable. It closes ws.
func Run(ctx context.Context, ws *websocket.Conn, s Start) (int, error) {
	if s.Stdin != nil {
		defer func() { _ = s.Stdin.Close() }()
	}
	defer func() { _ = ws.CloseNow() }()
	ws.SetReadLimit(limit)
	s.Input = s.Stdin != nil
	code, err := run(ctx, ws, s)
	var told *Failure
	switch answered := errors.As(err, &told); {
	case err == nil:
		return code, nil
	case ctx.Err() != nil && !answered:
		return 0, ctx.Err()
	case !answered, ctx.Err() == nil && errors.Is(told, context.Canceled): // it ends, and could say so, or not
		return 0, fmt.Errorf("who runs the process went away, which ends it: %w: %w", err, errdefs.ErrUnavailable)
	}
	return 0, err
}

func run(ctx context.Context, ws *websocket.Conn, s Start) (int, error) {
	if err := say(ctx, ws, s); err != nil {
		return 0, err
	}
	over, end := context.WithCancel(ctx)
	var beside sync.WaitGroup
	defer beside.Wait()
	defer end()
	credit := newCredit(window)
	defer credit.end()
	if s.Stdin != nil {
		defer func() { _ = s.Stdin.Close() }()
		beside.Go(func() { sendInput(over, ws, s.Stdin, credit) })
	}
	beside.Go(func() { sendWords(over, ws, s.Exec) })
	for {
		kind, b, err := ws.Read(ctx)
		if err != nil {
			return 0, err
		}
		if kind == websocket.MessageBinary {
			if err := output(b, s.Exec); err != nil {
				return 0, err
			}
			continue
		}
		var w word
		if err := json.Unmarshal(b, &w); err != nil {
			return 0, err
		}
		credit.add(w.Read)
		if r := w.Result; r != nil && r.Text != "" {
			return 0, &Failure{r.Class, r.Text}
		} else if r != nil {
			return r.Code, nil
		}
	}
}

// output writes a piece where it belongs.
func output(b []byte, e engine.Exec) error {
	if len(b) == 0 {
		return errors.New("an empty piece of output")
	}
	w := map[byte]io.Writer{kindStdout: e.Stdout, kindStderr: e.Stderr}[b[0]]
	if w == nil {
		return nil
	}
	_, err := w.Write(b[1:])
	return err
}

// sendInput sends the input as the other end has room for it. What can't be sent is not missed: the reader of the connection sees that it broke.
func sendInput(ctx context.Context, ws *websocket.Conn, in io.Reader, credit *credit) {
	buf := make([]byte, piece)
	for {
		room := credit.take(len(buf))
		if room == 0 {
			return
		}
		n, err := in.Read(buf[:room])
		credit.add(room - n)
		if n > 0 && ws.Write(ctx, websocket.MessageBinary, buf[:n]) != nil {
			return
		}
		if err != nil {
			_ = ws.Write(ctx, websocket.MessageBinary, nil)
			return
		}
	}
}

func sendWords(ctx context.Context, ws *websocket.Conn, e engine.Exec) {
	for {
		var w word
		select {
		case size := <-e.Resize:
			w.Size = &size
		case w.Signal = <-e.Signals:
		case <-ctx.Done():
			return
		}
		if say(ctx, ws, w) != nil {
			return
		}
	}
}

// credit is how much may still be sent.
type credit struct {
	mu   sync.Mutex
	more *sync.Cond
	left int
	over bool
}

func newCredit(n int) *credit {
	c := &credit{left: n}
	c.more = sync.NewCond(&c.mu)
	return c
}

// take waits for some, and takes at most n of it; 0 when it is over.
func (c *credit) take(n int) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.left == 0 && !c.over {
		c.more.Wait()
	}
	if c.over {
		return 0
	}
	n = min(n, c.left)
	c.left -= n
	return n
}

func (c *credit) add(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.left = min(c.left+max(n, 0), window)
	c.more.Signal()
}

func (c *credit) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.over = true
	c.more.Signal()
}
