// Package session keeps a signed web socket to the control plane open: the loop that the ACS and the TCS session share.
//
//	resolve the URL → sign and dial → read frames until the connection ends → wait as the end demands → again
//
// How a connection ends decides how long [Run] waits before the next one:
//
//	end                                                         wait
//	close code 1000, 1001, 1006 or 1011, or its greatest age    none; the back-off begins anew
//	the same, but within Limits.Young of the connection         the back-off, so that a server that accepts and closes can't be hammered
//	InactiveInstanceException                                   Limits.Inactive, an hour
//	anything else: refused, unreachable, silent, nonsense       the back-off, which begins anew once a connection has lived Limits.Silence
//
// A connection that is silent for Limits.Silence is closed: the other end sends heartbeats more often than that. Where the
// other end also sends pings, as Longshore's does, a much shorter silence shows that it is gone.
//
// Frames are read and handled by two goroutines, so that a slow handler does not keep pings from being answered.
package session

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"
	"go.uber.org/zap"

	"github.com/longshore-project/longshore/protocol/agentapi"
)

// ReadLimit bounds one frame.
const ReadLimit = 4 << 20

// Limits are the times of a session; [DefaultLimits] has the protocol's.
type Limits struct {
	Dial      time.Duration // dial and handshake
	Silence   time.Duration // silence after which a connection is given up; a random part of up to as much is added
	Pings     time.Duration // the same for a connection on which the server has sent pings
	Write     time.Duration // a write that takes longer ends the connection
	Age       time.Duration // age at which a connection is replaced
	AgeJitter time.Duration // random part added to Age
	Young     time.Duration // below this age the end of a connection counts as a failure to connect
	Inactive  time.Duration // wait after InactiveInstanceException
	BackOff   BackOff
}

// DefaultLimits are the limits of agent-protocol sections 3.3 and 6.1, with ACS's back-off.
func DefaultLimits() Limits {
	return Limits{
		Dial: 30 * time.Second, Silence: time.Minute, Pings: 15 * time.Second, Write: 3 * time.Minute, Age: 30 * time.Minute, AgeJitter: 5 * time.Minute,
		Young: time.Second, Inactive: time.Hour,
		BackOff: BackOff{First: 250 * time.Millisecond, Most: 2 * time.Minute, Factor: 1.5, Jitter: 0.2},
	}
}

// BackOff is a growing wait: First, then Factor times the one before up to Most, each changed by up to Jitter of itself.
type BackOff struct {
	First, Most    time.Duration
	Factor, Jitter float64
	next           time.Duration
}

// Next is the next wait.
func (b *BackOff) Next() time.Duration {
	if b.next == 0 {
		b.next = b.First
	}
	wait := b.next
	b.next = min(b.Most, time.Duration(float64(b.next)*b.Factor))
	return time.Duration(float64(wait) * (1 + b.Jitter*(2*rand.Float64()-1)))
}

// Reset begins anew.
func (b *BackOff) Reset() { b.next = 0 }

// Signer signs a request whose body hashes as given, for the control plane.
type Signer interface {
	Sign(ctx context.Context, r *http.Request, body []byte) error
}

// Config configures [Run].
type Config struct {
	Name   string // of the session, for messages
	Client *http.Client
	Signer Signer
	Log    *zap.Logger
	Limits Limits
	// URL says where to connect, query included; it is asked before each attempt.
	URL func(ctx context.Context) (string, error)
	// Serve handles one connection: it is called when the socket stands, may write at any time until it returns, and its
	// Handler gets each frame. ctx ends with the connection.
	Serve func(ctx context.Context, c *Conn) Handler
	// Lost, if set, is called when a connection could not be made.
	Lost func()
	// Failed, if set, is called with why a connection ended or could not be made; it must return at once.
	Failed func(error)
	// Inactive, if set, is called when the control plane says that this instance was deregistered, with how long there had
	// been no connection when it did, as far as can be told; 0 when none stood before. A returned error ends Run with it.
	Inactive func(away time.Duration) error
	// Header is what is sent with each handshake, and signed; nil: nothing.
	Header func() http.Header
	// Unknown, if set, is called when the control plane does not know this instance, or its cluster. A returned error ends Run
	// with it.
	Unknown func() error
}

// Handler takes one frame. It reports whether the frame counts as a sign of life, and an error that ends the connection.
type Handler func(frame []byte) (alive bool, err error)

// Conn is an open connection. Its methods may be called concurrently.
type Conn struct {
	ws      *websocket.Conn
	url     string
	answer  http.Header // of the handshake
	timeout time.Duration
	pinged  chan struct{} // a ping came
	pings   pings
}

// pings remembers when pings came, by the wall clock.
type pings struct {
	mu            sync.Mutex
	last          time.Time
	before, after time.Time // around the last gap of at least gapAtLeast
}

// The gap between two pings, or between the last one and the end of the connection, from which this host counts as having
// been away. What the other end sent before it gave up is still read after the gap, for at most gapTail.
const (
	gapAtLeast = 4 * time.Second
	gapTail    = 5 * time.Second
)

func (p *pings) note(now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.last.IsZero() && now.Sub(p.last) >= gapAtLeast {
		p.before, p.after = p.last, now
	}
	p.last = now
}

// alive is when the connection, which ended at end, was alive for sure.
func (p *pings) alive(end time.Time) time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.last.IsZero():
		return end
	case !p.after.IsZero() && end.Sub(p.after) < gapTail:
		return p.before
	}
	return p.last
}

// Write sends one text frame. An error means that the connection is over; the reader of the connection learns it too.
func (c *Conn) Write(ctx context.Context, frame []byte) error {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	return c.ws.Write(ctx, websocket.MessageText, frame)
}

// Answered is a header of the handshake's answer, "" if it had none.
func (c *Conn) Answered(header string) string { return c.answer.Get(header) }

// URL is what the connection was opened with.
func (c *Conn) URL() string { return c.url }

// Inactive is the error of a deregistered instance.
type Inactive struct{ Message string }

// Error names it as the protocol does.
func (e *Inactive) Error() string {
	if strings.Contains(e.Message, "InactiveInstanceException") {
		return e.Message
	}
	return "InactiveInstanceException: " + e.Message
}

// Unknown is the error of an instance, a cluster or an access key that the control plane does not know.
type Unknown struct{ Message string }

// Error is what the control plane said.
func (e *Unknown) Error() string { return e.Message }

// errExpired ends a connection that reached its age.
var errExpired error = errors.New("the connection reached its greatest age")

// Run keeps the session going until ctx ends, or Inactive returns an error, and returns that.
func Run(ctx context.Context, c Config) error {
	backOff := c.Limits.BackOff
	silence := c.Limits.Silence + jitter(c.Limits.Silence)
	var last time.Time // when the last connection was alive for sure
	for {
		lived, heard, err := c.connect(ctx, silence)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if lived > 0 {
			last = heard
		}
		if lived >= silence {
			backOff.Reset()
		}
		if lived == 0 && c.Lost != nil {
			c.Lost()
		}
		if c.Failed != nil {
			c.Failed(err)
		}
		var inactive *Inactive
		if unknown(err) && c.Unknown != nil {
			if err := c.Unknown(); err != nil {
				return err
			}
		}
		wait := time.Duration(0)
		switch {
		case errors.As(err, &inactive):
			if c.Inactive != nil {
				if err := c.Inactive(since(last)); err != nil {
					return err
				}
			}
			wait = c.Limits.Inactive
			c.Log.Error(c.Name+": the control plane says that this container instance was deregistered; containers stay as they are", zap.Error(err), zap.Duration("retry", wait))
		case clean(err) && lived >= c.Limits.Young:
			backOff.Reset()
			c.Log.Info(c.Name+": the connection ended; connecting again", zap.Error(err), zap.Duration("lived", lived))
		default:
			wait = backOff.Next()
			c.Log.Warn(c.Name+": no connection to the control plane", zap.Error(err), zap.Duration("lived", lived), zap.Duration("retry", wait))
		}
		if !sleep(ctx, wait) {
			return ctx.Err()
		}
	}
}

// unknown tells whether the control plane does not know the instance, its cluster or the key, be it the socket that was
// refused or the question where to connect.
func unknown(err error) bool {
	var socket *Unknown
	var call *agentapi.APIError
	return errors.As(err, &socket) || errors.As(err, &call) && call.Code == "UnrecognizedClientException"
}

// since is how long ago a time was by the wall clock, which a suspended host's clock does not fall behind; 0 for the zero time.
func since(t time.Time) time.Duration {
	if t.IsZero() {
		return 0
	}
	return max(0, time.Now().Round(0).Sub(t.Round(0)))
}

// queue is how many frames may wait for the handler before reading waits too.
const queue = 16

// connect opens one connection and serves it to its end. lived is 0 when it never stood; heard is when it was alive for sure.
func (c *Config) connect(ctx context.Context, silence time.Duration) (lived time.Duration, heard time.Time, err error) {
	conn, err := c.dial(ctx)
	if err != nil {
		return 0, time.Time{}, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer func() { _ = conn.ws.CloseNow() }()
	begun := time.Now()
	watch := c.watch(conn, silence)
	defer watch.stop()
	handle := c.Serve(ctx, conn)
	frames := make(chan []byte, queue)
	var handling sync.WaitGroup
	defer handling.Wait()
	defer close(frames)
	handling.Go(func() {
		for frame := range frames {
			if ctx.Err() != nil {
				continue
			}
			alive, err := handle(frame)
			if err != nil {
				watch.end(err)
				continue
			}
			if alive {
				watch.alive()
			}
		}
	})
	for {
		_, frame, err := conn.ws.Read(ctx)
		if err != nil {
			cancel()
			return max(1, time.Since(begun)), conn.pings.alive(time.Now().Round(0)), watch.cause(err)
		}
		select {
		case frames <- frame:
		case <-ctx.Done():
		}
	}
}

// watch ends a connection that is silent, old, or can't be handled, and remembers which.
type watch struct {
	conn       *Conn
	silence    time.Duration
	pings      time.Duration
	quiet, old *time.Timer
	unpinged   *time.Timer
	why        atomic.Pointer[error]
	done       chan struct{}
	stopped    sync.WaitGroup
}

func (c *Config) watch(conn *Conn, silence time.Duration) *watch {
	w := &watch{conn: conn, silence: silence, pings: c.Limits.Pings, done: make(chan struct{})}
	w.quiet = time.AfterFunc(silence, func() {
		w.end(fmt.Errorf("nothing was heard for %s: the connection is given up", silence))
	})
	w.unpinged = time.AfterFunc(w.pings, func() {
		w.end(fmt.Errorf("no ping came for %s: the connection is given up", w.pings))
	})
	w.unpinged.Stop() // until the first one
	w.old = time.AfterFunc(c.Limits.Age+jitter(c.Limits.AgeJitter), func() {
		w.why.CompareAndSwap(nil, &errExpired)
		_ = conn.ws.Close(websocket.StatusNormalClosure, "ConnectionExpired: Reconnect to continue")
	})
	w.stopped.Go(func() {
		for {
			select {
			case <-w.done:
				return
			case <-conn.pinged:
				w.unpinged.Reset(w.pings)
			}
		}
	})
	return w
}

// alive says that the other end gave a sign of life.
func (w *watch) alive() { w.quiet.Reset(w.silence) }

// end ends the connection for a reason.
func (w *watch) end(err error) {
	w.why.CompareAndSwap(nil, &err)
	_ = w.conn.ws.CloseNow()
}

// cause is why the connection ended: this end's reason if it had one, else err.
func (w *watch) cause(err error) error {
	if mine := w.why.Load(); mine != nil {
		return *mine
	}
	return err
}

func (w *watch) stop() {
	close(w.done)
	w.stopped.Wait()
	w.quiet.Stop()
	w.unpinged.Stop()
	w.old.Stop()
}

func (c *Config) dial(ctx context.Context) (*Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, c.Limits.Dial)
	defer cancel()
	address, err := c.URL(ctx)
	if err != nil {
		return nil, fmt.Errorf("find the endpoint: %w", err)
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, httpScheme(address), nil)
	if err != nil {
		return nil, fmt.Errorf("the endpoint %q: %w", address, err)
	}
	if c.Header != nil {
		maps.Copy(request.Header, c.Header())
	}
	if err := c.Signer.Sign(ctx, request, nil); err != nil {
		return nil, fmt.Errorf("sign the request: %w", err)
	}
	conn := &Conn{url: request.URL.String(), timeout: c.Limits.Write, pinged: make(chan struct{}, 1)}
	ws, response, err := websocket.Dial(ctx, conn.url, &websocket.DialOptions{HTTPClient: c.Client, HTTPHeader: request.Header, OnPingReceived: conn.ping}) //nolint:bodyclose // Dial gives a body that is in memory, and only with an error
	if err != nil {
		err = refusal(response, request.URL.Host, err)
		if l, ok := c.Signer.(learner); ok && response != nil && agentapi.ForItsDate("", err.Error()) {
			l.Learn(response.Header) // the next attempt is signed by the control plane's time
		}
		return nil, err
	}
	ws.SetReadLimit(ReadLimit)
	conn.ws, conn.answer = ws, response.Header
	return conn, nil
}

// learner is a [Signer] that takes the control plane's time from an answer.
type learner interface{ Learn(answer http.Header) bool }

// ping notes a ping; it is answered.
func (c *Conn) ping(context.Context, []byte) bool {
	c.pings.note(time.Now().Round(0))
	select {
	case c.pinged <- struct{}{}:
	default:
	}
	return true
}

// refusal turns a refused handshake into an error that says what the server said.
func refusal(response *http.Response, host string, err error) error {
	if response == nil || response.Body == nil {
		var wrapped *url.Error // it repeats the whole URL
		if errors.As(err, &wrapped) {
			err = wrapped.Err
		}
		return fmt.Errorf("connect to %s: %w", host, err)
	}
	body, readErr := io.ReadAll(io.LimitReader(response.Body, 1024))
	if readErr != nil {
		body = nil
	}
	said := strings.TrimSpace(strings.ToValidUTF8(string(body), "\uFFFD"))
	var bare map[string]string // {"<type>":"<text>"}
	if json.Unmarshal(body, &bare) == nil && len(bare) == 1 {
		for kind, message := range bare {
			said = kind + ": " + message
		}
	}
	if strings.Contains(said, "InactiveInstanceException") {
		return &Inactive{Message: said}
	}
	if strings.Contains(said, "UnrecognizedClientException") || strings.HasPrefix(said, "InvalidInstanceException") || strings.HasPrefix(said, "InvalidClusterException") {
		return &Unknown{Message: host + " refused the connection: " + said}
	}
	return fmt.Errorf("%s refused the connection: %s %s", host, response.Status, said)
}

// httpScheme makes http of ws, which is what a signature and net/http know.
func httpScheme(address string) string {
	if rest, ok := strings.CutPrefix(address, "ws://"); ok {
		return "http://" + rest
	}
	if rest, ok := strings.CutPrefix(address, "wss://"); ok {
		return "https://" + rest
	}
	return address
}

// clean says whether a connection ended as connections do.
func clean(err error) bool {
	if errors.Is(err, errExpired) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) { // no close frame: 1006
		return true
	}
	switch websocket.CloseStatus(err) {
	case websocket.StatusNormalClosure, websocket.StatusGoingAway, websocket.StatusAbnormalClosure, websocket.StatusInternalError:
		return true
	}
	return false
}

func jitter(most time.Duration) time.Duration {
	if most <= 0 {
		return 0
	}
	return rand.N(most)
}

func sleep(ctx context.Context, wait time.Duration) bool {
	if wait <= 0 {
		return ctx.Err() == nil
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
