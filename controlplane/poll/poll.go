// Package poll is the agent-facing side of the control plane: the web sockets over which each container instance is told
// what it must run (ACS, <base>/acs/ws) and publishes its telemetry (TCS, <base>/tcs/ws).
//
// # Model
//
// The store says what an instance must run; this package makes the agent know it. It is level-triggered: a change of a
// record wakes the session of its instance, and the session compares the instance's tasks with what the agent has
// acknowledged on this connection. Whatever differs is sent, one task per payload, and sent again until it is
// acknowledged. A new connection knows of no acknowledgement, so everything is sent again: agents expect that.
//
//	connect     handshake.go   signature, who may speak for the instance, is it registered
//	            session        one per instance, the newest wins; a Connection record under this replica's lease
//	ACS         HeartbeatMessage at once and every 30–45 s, TaskManifestMessage, then PayloadMessages
//	TCS         each publish is acknowledged; health goes into the tasks, metrics are counted
//	dead peers  a ping every 1.5 s that must be answered within 3 s (agents answer between two messages, and a message may
//	            take them a while), so a dead socket is known within 4.5 s
//	disconnect  the Connection record goes and Instance.DisconnectedSince is set, by whichever replica notices
//
// Sequence numbers (seqNum, timeline) come in blocks: Instance.SequenceNumber is the end of the last block, and a block
// begins above it and not below the time in milliseconds, so they rise across reconnects, replicas and a restored store.
//
// Nothing is queued for an agent: a session writes when the agent reads, each write has a deadline, and a session that
// cannot write ends.
package poll

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"go.uber.org/zap"

	"github.com/longshore-project/longshore/controlplane/auth"
	"github.com/longshore-project/longshore/controlplane/store"
)

// Verifier says who signed the request that opens a socket; *auth.Verifier is one.
type Verifier interface {
	VerifyUpgrade(r *http.Request) (*auth.Identity, error)
}

// Config configures [New]. Zero durations and numbers mean the defaults.
type Config struct {
	Store    *store.Store
	Verifier Verifier
	Log      *zap.Logger
	// Replica names this process in Connection records. Default: host name and a random part.
	Replica string
	// SessionTTL is how long Connection records outlive this process. Default 5 s.
	SessionTTL time.Duration
	// Heartbeat is the shortest time between heartbeats, HeartbeatJitter is what is added at random. Default 30 s and 15 s.
	Heartbeat       time.Duration
	HeartbeatJitter time.Duration
	// Ping is the pause between pings, PongTimeout how long an answer may take. Default 1.5 s and 3 s.
	Ping        time.Duration
	PongTimeout time.Duration
	// Resend is when an unacknowledged payload is sent again; the pause doubles up to ResendMax. Default 5 s and 1 min.
	Resend    time.Duration
	ResendMax time.Duration
	// WriteTimeout bounds the writing of one frame. Default 10 s.
	WriteTimeout time.Duration
	// MessagesPerSecond bounds what is read from one socket; more is read later. Default 200, with bursts of five times that.
	MessagesPerSecond int
	// MaxNonsense is after how many frames that are no messages a socket is closed. Default 100.
	MaxNonsense int
	// Keep is how often instances are looked through for connections that ended unnoticed. Default 5 s.
	Keep time.Duration
	// Role gives a role's credentials, by ARN or name. Its error is the reason why a task with that role is stopped. Default:
	// none has any.
	Role func(role string) (Role, error)
	// RenewPause is the shortest pause before a task's credentials are sent anew. Default 10 s.
	RenewPause time.Duration
}

func (c *Config) defaults() {
	set := func(d *time.Duration, standard time.Duration) {
		if *d <= 0 {
			*d = standard
		}
	}
	if c.HeartbeatJitter <= 0 && c.Heartbeat <= 0 {
		c.HeartbeatJitter = 15 * time.Second
	}
	set(&c.SessionTTL, 5*time.Second)
	set(&c.Heartbeat, 30*time.Second)
	set(&c.Ping, 1500*time.Millisecond)
	set(&c.PongTimeout, 3*time.Second)
	set(&c.Resend, 5*time.Second)
	set(&c.ResendMax, time.Minute)
	set(&c.WriteTimeout, 10*time.Second)
	set(&c.Keep, 5*time.Second)
	set(&c.RenewPause, 10*time.Second)
	if c.MessagesPerSecond <= 0 {
		c.MessagesPerSecond = 200
	}
	if c.MaxNonsense <= 0 {
		c.MaxNonsense = 100
	}
	if c.Log == nil {
		c.Log = zap.NewNop()
	}
	if c.Role == nil {
		c.Role = func(string) (Role, error) { return Role{}, errors.New("no roles are configured") }
	}
	if c.Replica == "" {
		host, _ := os.Hostname() // without one the random part is name enough
		c.Replica = host + "-" + uuid.NewString()[:8]
	}
}

// place is where an instance is in the store.
type place struct{ cluster, id string }

// Stats counts what sockets carried since the start.
type Stats struct {
	Connections  int // ACS sockets open now
	Telemetry    int // TCS sockets open now
	Payloads     int64
	Acknowledged int64
	Nonsense     int64 // frames that were no messages
	Metrics      int64 // PublishMetricsRequests
	Health       int64 // PublishHealthRequests
}

// Server serves the sockets. It is an http.Handler for the paths ending in /acs/ws and /tcs/ws, and works while [Server.Run]
// does; until then, and without a session in the store, it refuses with 503.
type Server struct {
	cfg Config
	log *zap.Logger

	mu      sync.Mutex
	session *store.Session // nil while there is none
	acs     map[place]*acsSession
	tcs     map[place]*tcsSession
	stopped bool
	wg      sync.WaitGroup // sessions
	kick    chan struct{}  // the keeper looks now

	payloads, acknowledged, nonsense, metrics, health atomic.Int64
}

// New makes a server; it does nothing until [Server.Run].
func New(cfg Config) (*Server, error) {
	if cfg.Store == nil || cfg.Verifier == nil {
		return nil, errors.New("poll: a store and a verifier are needed")
	}
	cfg.defaults()
	return &Server{
		cfg: cfg, log: cfg.Log, acs: map[place]*acsSession{}, tcs: map[place]*tcsSession{}, kick: make(chan struct{}, 1),
	}, nil
}

// Stats returns the counters.
func (s *Server) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	return Stats{
		Connections: len(s.acs), Telemetry: len(s.tcs), Payloads: s.payloads.Load(), Acknowledged: s.acknowledged.Load(),
		Nonsense: s.nonsense.Load(), Metrics: s.metrics.Load(), Health: s.health.Load(),
	}
}

// ServeHTTP answers GET …/acs/ws and …/tcs/ws. It returns when the socket is closed.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path := strings.TrimSuffix(r.URL.Path, "/")
	switch {
	case strings.HasSuffix(path, "/acs/ws"):
		s.serveACS(w, r)
	case strings.HasSuffix(path, "/tcs/ws"):
		s.serveTCS(w, r)
	default:
		http.NotFound(w, r)
	}
}

// Run keeps this replica's session in the store, wakes sessions on changes and looks after connections that ended
// unnoticed, until ctx ends. Then it closes every socket (agents reconnect at once) and its session, and returns nil.
func (s *Server) Run(ctx context.Context) error {
	cancel := s.cfg.Store.OnChange(s.changed)
	defer cancel()
	defer s.stop()
	var keeper sync.WaitGroup
	defer keeper.Wait()
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	keeper.Go(func() { s.keep(ctx) })
	for {
		session, err := s.cfg.Store.Session(ctx, s.cfg.SessionTTL)
		if ctx.Err() != nil {
			if session != nil {
				s.endSession(session)
			}
			return nil
		}
		if err != nil {
			s.log.Warn("no session in the store: agents cannot connect; trying again", zap.Error(err))
			select {
			case <-ctx.Done():
			case <-time.After(time.Second):
			}
			continue
		}
		s.mu.Lock()
		s.session = session
		s.mu.Unlock()
		select {
		case <-ctx.Done():
			s.stop()
			s.wg.Wait()
			s.endSession(session)
			return nil
		case <-session.Done():
			s.log.Warn("the session in the store was lost: closing all agents' connections", zap.Duration("ttl", s.cfg.SessionTTL))
			s.closeAll("the control plane lost its session in the store")
		}
	}
}

func (s *Server) endSession(session *store.Session) {
	if err := session.Close(); err != nil {
		s.log.Warn("the session in the store was not closed; its connections vanish by themselves", zap.Duration("ttl", s.cfg.SessionTTL), zap.Error(err))
	}
}

// stop refuses new sockets and closes those that are open.
func (s *Server) stop() {
	s.mu.Lock()
	s.stopped = true
	s.mu.Unlock()
	s.closeAll("the control plane goes away")
}

func (s *Server) closeAll(reason string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.session = nil
	for _, c := range s.acs {
		c.end(statusGoingAway, reason)
	}
	for _, c := range s.tcs {
		c.end(statusGoingAway, reason)
	}
}

// lease is this replica's session; an error while there is none.
func (s *Server) lease() (*store.Session, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped || s.session == nil {
		return nil, errors.New("this control plane is not ready")
	}
	return s.session, nil
}

// changed wakes the sessions of the instances that changed records belong to. It runs in the store's goroutine.
func (s *Server) changed(_ int64, changes []store.Change) {
	s.mu.Lock()
	defer s.mu.Unlock()
	wake := func(cluster, instance string) {
		if c := s.acs[place{cluster, instance}]; c != nil {
			c.wake()
		}
		if c := s.tcs[place{cluster, instance}]; c != nil {
			c.wake()
		}
	}
	for _, change := range changes {
		r := change.New
		if r == nil {
			r = change.Old
		}
		switch r := r.(type) {
		case *store.Task:
			wake(r.Cluster, r.Instance)
		case *store.Instance:
			wake(r.Cluster, r.ID)
		case *store.Connection:
			wake(r.Cluster, r.Instance)
			if change.New == nil {
				select {
				case s.kick <- struct{}{}:
				default:
				}
			}
		case *store.TaskDefinition: // a payload may wait for it
			if change.Old == nil {
				for _, c := range s.acs {
					if c.waitsForDefinition.Load() {
						c.wake()
					}
				}
			}
		}
	}
}

// keep sets DisconnectedSince of instances whose connection ended with the replica that held it.
func (s *Server) keep(ctx context.Context) {
	tick := time.NewTicker(s.cfg.Keep)
	defer tick.Stop()
	for {
		var lost []place
		s.cfg.Store.Peek(func(v *store.View) {
			for c := range v.Clusters() {
				for i := range v.Instances(clusterName(c)) {
					if wasConnected(i) && i.DisconnectedSince.IsZero() && registered(i) && v.Connection(i.Cluster, i.ID) == nil {
						lost = append(lost, place{i.Cluster, i.ID})
					}
				}
			}
		})
		for _, at := range lost {
			if err := s.markDisconnected(ctx, at); err != nil && ctx.Err() == nil {
				s.log.Warn("the end of an agent's connection was not recorded; trying again", zap.String("cluster", at.cluster), zap.String("containerInstance", at.id), zap.Error(err))
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-s.kick:
		}
	}
}

// add registers a session for its instance and ends the one before it; false when the server is stopping.
func add[C interface {
	comparable
	end(code status, reason string)
}](s *Server, in map[place]C, at place, c C) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped || s.session == nil {
		return false
	}
	var none C
	if old := in[at]; old != none {
		old.end(statusReplaced, "replaced by a newer connection of the same container instance")
	}
	in[at] = c
	s.wg.Add(1)
	return true
}

// remove is the reverse of add.
func remove[C comparable](s *Server, in map[place]C, at place, c C) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if in[at] == c {
		delete(in, at)
	}
	s.wg.Done()
}

func (at place) String() string { return fmt.Sprintf("%s/%s", at.cluster, at.id) }
