// Package taskserver is the HTTP server that containers ask at http://169.254.170.2: their credentials, their metadata, and the
// agent's own small API. The rooms beside it bring the handlers:
//
//	/v1/credentials, /v2/credentials/<id>                    agent/endpoints/credentials
//	/v2/metadata, /v2/stats, /v3/<id>, /v4/<id>              agent/endpoints/metadata
//	/api/<id>/task-protection/v1/state                       agent/endpoints/protection
//
// In the network of a task of its own (awsvpc) it listens at the same address and port, so that a request there is of that task; a
// client is the task then.
//
// Elsewhere it listens on port 51679 of that address; netns has the address on the loopback interface and sends port 80 of it here. What a
// handler answers to whom is the handler's own business: [caller.Finder] tells it who asks. Here is what all have in common: time-outs,
// bounds, and a rate for each client, beyond which the answer is 429. A client is an address; the host's own address stands for many,
// the containers in the host network mode and the container engine, so there a client is an address and a path.
//
// Source: agent-protocol section 8.2.
package taskserver

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"
	"golang.org/x/time/rate"

	"github.com/longshore-project/longshore/agent/endpoints/audit"
	"github.com/longshore-project/longshore/agent/endpoints/caller"
)

// Address is where containers ask, and Port where the server behind it listens.
const (
	Address = "169.254.170.2"
	Port    = 51679
)

const (
	ioTimeout  = 5 * time.Second
	maxHeaders = 64 << 10
	maxClients = 4096
)

// Config configures a [Server].
type Config struct {
	Log *zap.Logger
	// Audit gets a line for each request beyond the rate; may be nil.
	Audit *audit.Log
	// Rate is the requests a second that each client may make for long, and Burst those at once; 40 and 60 if zero
	// (ECS_TASK_METADATA_RPS_LIMIT).
	Rate, Burst int
}

// Server is the server. Handlers are added before it serves.
type Server struct {
	cfg Config
	mux *http.ServeMux

	mu      sync.Mutex
	clients map[string]*client
}

type client struct {
	limit *rate.Limiter
	seen  time.Time
}

// New makes a server that knows no path yet.
func New(c Config) *Server {
	if c.Rate == 0 {
		c.Rate, c.Burst = 40, 60
	}
	s := &Server{cfg: c, mux: http.NewServeMux(), clients: map[string]*client{}}
	s.mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "404 page not found", http.StatusNotFound) })
	return s
}

// Handle adds a handler for a pattern of http.ServeMux, such as "GET /v4/{id}/task". It panics if the pattern is taken.
func (s *Server) Handle(pattern string, h http.Handler) { s.mux.Handle(pattern, h) }

// ServeHTTP answers one request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !s.allow(r) {
		s.throttled(w, r)
		return
	}
	s.mux.ServeHTTP(w, r)
}

// Serve serves on a listener until ctx ends.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	return s.serve(ctx, l, context.Background())
}

// ServeTask serves on a listener in the network of one task, whose containers alone can reach it.
func (s *Server) ServeTask(ctx context.Context, l net.Listener, taskArn string) error {
	return s.serve(ctx, l, caller.OfTask(context.Background(), taskArn))
}

// serve gives each request the context base.
func (s *Server) serve(ctx context.Context, l net.Listener, base context.Context) error {
	server := &http.Server{
		BaseContext: func(net.Listener) context.Context { return base },
		Handler:     s, ReadTimeout: ioTimeout, WriteTimeout: ioTimeout, MaxHeaderBytes: maxHeaders,
		ErrorLog: zap.NewStdLog(s.cfg.Log.With(zap.String("source", "task endpoints"))),
	}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	err := server.Serve(l)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return fmt.Errorf("serve the tasks' endpoints on %s: %w", l.Addr(), err)
}

// allow takes one request from the client's rate.
func (s *Server) allow(r *http.Request) bool {
	key, now := clientOf(r), time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.clients[key]
	if c == nil {
		if len(s.clients) >= maxClients {
			s.forget(now)
		}
		c = &client{limit: rate.NewLimiter(rate.Limit(s.cfg.Rate), s.cfg.Burst)}
		s.clients[key] = c
	}
	c.seen = now
	return c.limit.AllowN(now, 1)
}

// forget drops the clients whose rate is whole again; if that is none, all: a flood of clients must not fill the memory.
func (s *Server) forget(now time.Time) {
	whole := time.Duration(s.cfg.Burst) * time.Second / time.Duration(s.cfg.Rate)
	for key, c := range s.clients {
		if now.Sub(c.seen) > whole {
			delete(s.clients, key)
		}
	}
	if len(s.clients) >= maxClients {
		clear(s.clients)
	}
}

// clientOf is whose rate a request counts for.
func clientOf(r *http.Request) string {
	if task := caller.TaskOf(r.Context()); task != "" {
		return task
	}
	remote, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return ""
	}
	address := remote.Addr().Unmap()
	if address.IsLoopback() || address.IsLinkLocalUnicast() {
		path := r.URL.Path
		return address.String() + path[:min(len(path), 128)]
	}
	return address.String()
}

func (s *Server) throttled(w http.ResponseWriter, r *http.Request) {
	event := "GetMetadata"
	if strings.Contains(r.URL.Path, "/credentials") {
		event = audit.GetCredentials
	}
	if err := s.cfg.Audit.Write(audit.Entry{Status: http.StatusTooManyRequests, Client: r.RemoteAddr, Path: PathOf(r), UserAgent: r.UserAgent(), Event: event}); err != nil {
		s.cfg.Log.Error("The audit log can't be written", zap.Error(err))
	}
	http.Error(w, "You have reached maximum request limit.", http.StatusTooManyRequests)
}

// PathOf is a request's path for a log: its first two parts, as ids follow behind them, or the first where the second is one.
func PathOf(r *http.Request) string {
	parts := strings.SplitN(strings.TrimPrefix(r.URL.Path, "/"), "/", 3)
	if len(parts) > 1 && (parts[0] == "v1" || parts[0] == "v2") {
		return "/" + parts[0] + "/" + parts[1]
	}
	return "/" + parts[0]
}
