// Package sessiontest is a web-socket server in memory that follows a script: what the control plane may do to an agent,
// sensible or not. Its connections are pipes, so it works inside a testing/synctest bubble, where hours pass in no time.
package sessiontest

import (
	"context"
	"errors"
	"net"
	"net/http"
	"sync"
	"testing"

	"github.com/coder/websocket"
)

// Script is what the server does with one connection; the connection is closed without a close frame when it returns.
type Script func(ctx context.Context, c *Conn)

// Conn is the server's end of a connection.
type Conn struct {
	*websocket.Conn
	Request *http.Request
}

// Send sends one text frame; the connection may be gone.
func (c *Conn) Send(ctx context.Context, frame string) {
	_ = c.Write(ctx, websocket.MessageText, []byte(frame))
}

// Receive is the next frame, or "" when the connection has ended.
func (c *Conn) Receive(ctx context.Context) string {
	_, frame, err := c.Read(ctx)
	if err != nil {
		return ""
	}
	return string(frame)
}

// Server serves connections by scripts: the nth by the nth script, and further ones by the last.
type Server struct {
	Client *http.Client

	running  sync.WaitGroup
	mu       sync.Mutex
	scripts  []Script
	attempts []*http.Request
	refuse   func(n int, w http.ResponseWriter) bool
	dialErr  error
}

// New starts a server that ends with the test. The URL's host may be anything.
func New(t testing.TB, scripts ...Script) *Server {
	t.Helper()
	s := &Server{scripts: scripts}
	listener := &pipes{conns: make(chan net.Conn), done: make(chan struct{})}
	ctx, cancel := context.WithCancel(context.Background())
	server := &http.Server{Handler: s, BaseContext: func(net.Listener) context.Context { return ctx }}
	s.running.Go(func() { _ = server.Serve(listener) })
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		s.mu.Lock()
		err := s.dialErr
		s.mu.Unlock()
		if err != nil {
			return nil, err
		}
		return listener.dial(ctx)
	}}
	s.Client = &http.Client{Transport: transport}
	t.Cleanup(func() {
		cancel()
		_ = server.Close()
		transport.CloseIdleConnections()
		s.running.Wait()
	})
	return s
}

// Refuse makes the server answer the nth attempt (from 0) with what f writes, when f says so.
func (s *Server) Refuse(f func(n int, w http.ResponseWriter) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refuse = f
}

// Unreachable makes every dial fail, or work again when err is nil.
func (s *Server) Unreachable(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dialErr = err
}

// Attempts are the handshakes so far.
func (s *Server) Attempts() []*http.Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]*http.Request(nil), s.attempts...)
}

// ServeHTTP upgrades a connection and runs its script.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.running.Add(1)
	defer s.running.Done()
	s.mu.Lock()
	n, refuse := len(s.attempts), s.refuse
	s.attempts = append(s.attempts, r.Clone(context.Background()))
	script := s.scripts[min(n, len(s.scripts)-1)]
	s.mu.Unlock()
	if refuse != nil && refuse(n, w) {
		return
	}
	ws, err := websocket.Accept(w, r, nil)
	if err != nil {
		return
	}
	defer func() { _ = ws.CloseNow() }()
	ws.SetReadLimit(4 << 20)
	script(r.Context(), &Conn{Conn: ws, Request: r})
}

// pipes is a listener whose connections are pipes.
type pipes struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func (p *pipes) dial(ctx context.Context) (net.Conn, error) {
	here, there := net.Pipe()
	select {
	case p.conns <- there:
		return here, nil
	case <-p.done:
		return nil, errors.New("the server is closed")
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Accept is the next connection.
func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}

// Close ends the listener.
func (p *pipes) Close() error {
	p.once.Do(func() { close(p.done) })
	return nil
}

// Addr is a name.
func (p *pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipe", Net: "pipe"} }
