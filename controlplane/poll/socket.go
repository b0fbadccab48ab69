package poll

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/coder/websocket"
	"go.uber.org/zap"
	"golang.org/x/time/rate"

	"github.com/longshore-project/longshore/protocol/acs"
)

// status is a close code of a web socket.
type status = websocket.StatusCode

// The codes that sockets are closed with here. Agents take going-away as the end of a stream and reconnect at once, and
// back off after the others.
const (
	statusGoingAway = websocket.StatusGoingAway
	statusReplaced  = websocket.StatusPolicyViolation
	statusNonsense  = websocket.StatusPolicyViolation
)

// socket is a connection with an agent: frames in, frames out, pings. Writes and pings have deadlines; a socket that misses
// one ends. It is what ACS and TCS have in common.
type socket struct {
	conn   *websocket.Conn
	cfg    *Config
	log    *zap.Logger
	ctx    context.Context // ends with the socket
	cancel context.CancelCauseFunc
	once   sync.Once
	limit  *rate.Limiter
}

func newSocket(conn *websocket.Conn, cfg *Config, log *zap.Logger) *socket {
	conn.SetReadLimit(acs.MaxFrame)
	s := newSocketFor(cfg)
	s.conn, s.log = conn, log
	return s
}

// newSocketFor is a socket without a connection.
func newSocketFor(cfg *Config) *socket {
	ctx, cancel := context.WithCancelCause(context.Background())
	return &socket{
		cfg: cfg, log: cfg.Log, ctx: ctx, cancel: cancel,
		limit: rate.NewLimiter(rate.Limit(cfg.MessagesPerSecond), 5*cfg.MessagesPerSecond),
	}
}

// closing is why this side ends a socket.
type closing struct {
	code   status
	reason string
}

func (c *closing) Error() string { return c.reason }

// end asks the socket to end; it returns at once. The first reason counts.
func (c *socket) end(code status, reason string) { c.cancel(&closing{code, reason}) }

// fail ends the socket because something went wrong with it.
func (c *socket) fail(err error) { c.cancel(err) }

// run reads frames and pings until the socket ends, and closes it. handle gets each text or binary frame, in order; the
// next one is read when it returns. run returns why the socket ended.
func (c *socket) run(handle func(frame []byte)) error {
	var wg sync.WaitGroup
	wg.Go(func() { c.read(handle) })
	wg.Go(c.ping)
	<-c.ctx.Done()
	c.close()
	wg.Wait()
	return context.Cause(c.ctx)
}

func (c *socket) close() {
	c.once.Do(func() {
		var own *closing
		if errors.As(context.Cause(c.ctx), &own) {
			// The close frame is best effort: the peer may be the reason for closing. Close waits 5 s for the peer's own.
			done := make(chan struct{})
			go func() { defer close(done); _ = c.conn.Close(own.code, own.reason) }()
			select {
			case <-done:
			case <-time.After(500 * time.Millisecond):
			}
			_ = c.conn.CloseNow()
			<-done
			return
		}
		_ = c.conn.CloseNow()
	})
}

func (c *socket) read(handle func(frame []byte)) {
	for {
		_, frame, err := c.conn.Read(context.Background()) // ended by close
		if err != nil {
			c.fail(ended(err))
			return
		}
		if err := c.limit.Wait(c.ctx); err != nil {
			return
		}
		handle(frame)
	}
}

// ended says in words how the peer ended the socket.
func ended(err error) error {
	var frame websocket.CloseError
	switch {
	case errors.As(err, &frame):
		return fmt.Errorf("the agent closed the connection (%d %s)", frame.Code, frame.Reason)
	case errors.Is(err, io.EOF):
		return errors.New("the agent closed the connection without a close frame")
	}
	return fmt.Errorf("the connection broke: %w", err)
}

func (c *socket) ping() {
	tick := time.NewTicker(c.cfg.Ping)
	defer tick.Stop()
	for {
		select {
		case <-c.ctx.Done():
			return
		case <-tick.C:
		}
		deadline := c.within(c.cfg.PongTimeout, "the agent did not answer a ping within %s", c.cfg.PongTimeout)
		err := c.conn.Ping(context.Background())
		if deadline.Stop(); err != nil {
			c.fail(ended(err))
			return
		}
	}
}

// within ends the socket unless the timer it returns is stopped in time. Deadlines work by closing: a context that ends
// would break the connection too, but leave the reason to whoever notices first.
func (c *socket) within(d time.Duration, format string, args ...any) *time.Timer {
	return time.AfterFunc(d, func() { c.fail(fmt.Errorf(format, args...)) })
}

// write sends one text frame. An error has ended the socket.
func (c *socket) write(frame []byte) error {
	if c.ctx.Err() != nil {
		return context.Cause(c.ctx)
	}
	deadline := c.within(c.cfg.WriteTimeout, "the agent did not read a frame of %d bytes within %s", len(frame), c.cfg.WriteTimeout)
	defer deadline.Stop()
	err := c.conn.Write(context.Background(), websocket.MessageText, frame)
	if err != nil {
		c.fail(ended(err))
	}
	return err
}
