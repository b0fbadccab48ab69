package poll

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/coder/websocket"
	"go.uber.org/zap"
	"golang.org/x/time/rate"

	"github.com/longshore-project/longshore/controlplane/auth"
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
	statusRefused   = websocket.StatusPolicyViolation
)

// socket is a connection with an agent: frames in, frames out. Writes have a deadline, and a peer that is silent is asked
// for a sign of life; a socket that misses one ends. It is what ACS and TCS have in common.
type socket struct {
	conn    *websocket.Conn
	wire    *wire
	cfg     *Config
	at      place
	remote  string
	key     string          // the access key that it was opened with
	expires time.Time       // when that ended, as far as was known then; zero: never
	ctx     context.Context // ends with the socket
	cancel  context.CancelCauseFunc
	once    sync.Once
	limit   *rate.Limiter
	slot    int        // of the pinger
	pinged  time.Time  // when a sign of life was asked for; the pinger's
	writes  sync.Mutex // held by who writes a frame: the crew, or who reads and acknowledges
}

func newSocket(conn *websocket.Conn, wire *wire, cfg *Config, at place, remote string, signer *auth.Identity) *socket {
	conn.SetReadLimit(acs.MaxFrame)
	s := newSocketFor(cfg)
	s.conn, s.wire, s.at, s.remote = conn, wire, at, remote
	s.key, s.expires = strings.Clone(signer.AccessKeyID), signer.Expires
	return s
}

// newSocketFor is a socket without a connection.
func newSocketFor(cfg *Config) *socket {
	ctx, cancel := context.WithCancelCause(context.Background())
	return &socket{cfg: cfg, ctx: ctx, cancel: cancel, limit: rate.NewLimiter(rate.Limit(cfg.MessagesPerSecond), 5*cfg.MessagesPerSecond)}
}

// log is made when there is something to say: most sockets never have.
func (c *socket) log() *zap.Logger {
	return c.cfg.Log.With(zap.String("cluster", c.at.cluster), zap.String("containerInstance", c.at.id), zap.String("remote", c.remote))
}

// closing is why this side ends a socket.
type closing struct {
	code   status
	reason string
}

func (c *closing) Error() string { return c.reason }

// end asks the socket to end; it returns at once. The first reason counts.
func (c *socket) end(code status, reason string) { c.cancel(&closing{code, reason}) }

// onEnd has f called when the socket ends, if it has not.
func (c *socket) onEnd(f func()) { context.AfterFunc(c.ctx, f) }

// fail ends the socket because something went wrong with it.
func (c *socket) fail(err error) { c.cancel(err) }

// run reads frames until the socket ends, and closes it. handle gets each text or binary frame, in order; the next one is
// read when it returns. run returns why the socket ended.
func (c *socket) run(handle func(frame []byte)) error {
	stop := context.AfterFunc(c.ctx, c.close)
	c.read(handle)
	stop()
	c.close()
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
			c.fail(c.ended(err))
			return
		}
		if err := c.limit.Wait(c.ctx); err != nil {
			return
		}
		handle(frame)
	}
}

// ended says in words how the peer ended the socket.
func (c *socket) ended(err error) error {
	var frame websocket.CloseError
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return fmt.Errorf("the agent read nothing for %s", c.cfg.WriteTimeout)
	case errors.As(err, &frame):
		return fmt.Errorf("the agent closed the connection (%d %s)", frame.Code, frame.Reason)
	case errors.Is(err, io.EOF):
		return errors.New("the agent closed the connection without a close frame")
	}
	return fmt.Errorf("the connection broke: %w", err)
}

// write sends one text frame. An error has ended the socket.
func (c *socket) write(frame []byte) error {
	if c.ctx.Err() != nil {
		return context.Cause(c.ctx)
	}
	c.writes.Lock()
	defer c.writes.Unlock()
	c.wire.hold()
	err := c.conn.Write(context.Background(), websocket.MessageText, frame)
	if sent := c.wire.release(); err == nil {
		err = sent
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = fmt.Errorf("the agent did not read a frame of %d bytes within %s", len(frame), c.cfg.WriteTimeout)
		c.fail(err)
	} else if err != nil {
		c.fail(c.ended(err))
	}
	return err
}
