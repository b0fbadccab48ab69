package execstream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"syscall"

	"github.com/coder/websocket"

	"github.com/longshore-project/longshore/engine"
)

// Serve reads what the other end wants, has run run it, and tells the result. run is called once, with the streams in place; its context ends
// when the other end goes away. It closes ws, and returns what run did; a connection that broke before is an error of its own.
func Serve(ctx context.Context, ws *websocket.Conn, run func(context.Context, Start) (int, error)) (int, error) {
	defer func() { _ = ws.CloseNow() }()
	ws.SetReadLimit(limit)
	kind, b, err := ws.Read(ctx)
	if err != nil {
		return 0, err
	}
	var s Start
	if kind != websocket.MessageText {
		return 0, errors.New("the first message is not text")
	}
	if err := json.Unmarshal(b, &s); err != nil {
		return 0, fmt.Errorf("the first message can't be read: %w", err)
	}
	within, end := context.WithCancel(ctx)
	var reading sync.WaitGroup
	defer reading.Wait()
	defer func() { _ = ws.CloseNow() }() // ends the reading
	defer end()
	to := &sender{ctx: within, ws: ws}
	h := &hearer{size: make(chan engine.TerminalSize, 16), signals: make(chan syscall.Signal, 16), stdin: newInput(to)}
	s.Stdout, s.Stderr, s.Resize, s.Signals = &stream{to, kindStdout}, &stream{to, kindStderr}, h.size, h.signals
	if s.Input {
		s.Stdin = h.stdin
	}
	reading.Go(func() {
		h.hear(within, ws)
		_ = h.stdin.Close()
		end()
	})
	code, err := run(within, s)
	tell, cancel := context.WithTimeout(context.WithoutCancel(ctx), sayTimeout)
	defer cancel()
	if say(tell, ws, word{Result: resultOf(code, err)}) == nil {
		_ = ws.Close(websocket.StatusNormalClosure, "")
	}
	return code, err
}

// sender sends output.
type sender struct {
	ctx context.Context
	ws  *websocket.Conn
}

// stream is one of the process's outputs.
type stream struct {
	*sender
	kind byte
}

// Write sends pieces; each of the two is written by one goroutine at a time.
func (s *stream) Write(b []byte) (int, error) {
	for done := 0; done < len(b); {
		n := min(len(b)-done, piece)
		if err := s.ws.Write(s.ctx, websocket.MessageBinary, append([]byte{s.kind}, b[done:done+n]...)); err != nil {
			return done, err
		}
		done += n
	}
	return len(b), nil
}

// hearer takes what the other end says.
type hearer struct {
	size    chan engine.TerminalSize
	signals chan syscall.Signal
	stdin   *input
}

// hear reads until the connection ends, or something is said that can't be.
func (h *hearer) hear(ctx context.Context, ws *websocket.Conn) {
	for {
		kind, b, err := ws.Read(ctx)
		if err != nil {
			return
		}
		if kind == websocket.MessageBinary {
			if !h.stdin.put(b) {
				return
			}
			continue
		}
		var w word
		if json.Unmarshal(b, &w) != nil {
			return
		}
		if w.Size != nil {
			newest(h.size, *w.Size)
		}
		if w.Signal > 0 {
			newest(h.signals, w.Signal)
		}
	}
}

// newest puts v into a channel, in place of the oldest if it is full.
func newest[T any](c chan T, v T) {
	for {
		select {
		case c <- v:
			return
		default:
		}
		select {
		case <-c:
		default:
		}
	}
}

// input is a standard input: what has come and was not read yet, at most a window of it.
type input struct {
	to     *sender
	mu     sync.Mutex
	more   *sync.Cond
	buf    []byte
	ended  bool // nothing more comes
	closed bool // nobody reads any more
}

func newInput(to *sender) *input {
	i := &input{to: to}
	i.more = sync.NewCond(&i.mu)
	return i
}

// put takes a piece that has come; false if it is more than there may be.
func (i *input) put(b []byte) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	defer i.more.Signal()
	if len(b) == 0 {
		i.ended = true
		return true
	}
	if i.closed {
		return true // the process has ended, and the other end does not know it yet
	}
	if i.ended || len(i.buf)+len(b) > window {
		return false
	}
	i.buf = append(i.buf, b...)
	return true
}

// Read waits for input, and tells the other end that there is room again.
func (i *input) Read(b []byte) (int, error) {
	n := i.take(b)
	if n == 0 {
		return 0, io.EOF
	}
	_ = say(i.to.ctx, i.to.ws, word{Read: n}) // a connection that broke ends the process
	return n, nil
}

func (i *input) take(b []byte) int {
	i.mu.Lock()
	defer i.mu.Unlock()
	for len(i.buf) == 0 && !i.ended && !i.closed {
		i.more.Wait()
	}
	if i.closed {
		return 0
	}
	n := copy(b, i.buf)
	i.buf = i.buf[n:]
	return n
}

// Close ends what is read.
func (i *input) Close() error {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.closed = true
	i.more.Broadcast()
	return nil
}
