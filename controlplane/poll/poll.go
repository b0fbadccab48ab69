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
//	connect     handshake.go   signature, who may speak for the instance, is it registered, is it one machine
//	            adopt.go       what the agent runs and the store does not know; settle.go for agents that don't list it
//	            session        one per instance, the newest wins; a Connection record under this replica's lease
//	ACS         HeartbeatMessage at once and every 30–45 s, TaskManifestMessage, then PayloadMessages
//	TCS         each publish is acknowledged; health goes into the tasks, metrics and what tasks wait for to Config.Telemetry
//	dead peers  a machine whose kernel is silent for 4 s; and a ping every 1.5 s, up to 3 s from 4,500 sockets on, that must be
//	            answered within 3 s (agents answer between two messages, and a message may take them a while): pings.go
//	disconnect  the Connection record goes and Instance.DisconnectedSince is set, by whichever replica notices
//
// Sequence numbers (seqNum, timeline) come in blocks: Instance.SequenceNumber is the end of the last block, and a block
// begins above it and not below the time in milliseconds, so they rise across reconnects, replicas and a restored store.
//
// Nothing is queued for an agent: a session writes when the agent reads, each write has a deadline, and a session that
// cannot write ends.
//
// A session costs a goroutine that reads and little else: all other work of all sessions is done by a crew of few workers
// (crew.go), the buffers of idle connections are small (wire.go), one goroutine looks for signs of life, and one records
// what was acknowledged, many tasks at a time.
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
	"github.com/longshore-project/longshore/controlplane/network"
	"github.com/longshore-project/longshore/controlplane/store"
	"github.com/longshore-project/longshore/controlplane/task"
	"github.com/longshore-project/longshore/protocol/arn"
	"github.com/longshore-project/longshore/protocol/envelope"
	"github.com/longshore-project/longshore/protocol/tcs"
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
	// Ping is the shortest pause between pings, PongTimeout how long an answer may take and the longest pause. Default 1.5 s and 3 s.
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
	// AcceptDelay is how long acknowledgements of payloads are gathered before they are written: most tasks have reported
	// something by then, which tells the same. Default 1 s.
	AcceptDelay time.Duration
	// Keep is how often instances are looked through for connections that ended unnoticed. Default 5 s.
	Keep time.Duration
	// Role gives a role's credentials, by ARN or name, for a task. Its error is the reason why a task with that role is stopped; but
	// with ErrRolePending the task waits, and ready is called when it is worth asking again. Default: none has any.
	Role func(role string, t *store.Task, execution bool, ready func()) (Role, error)
	// Network has the subnets and security groups; nil: there are none.
	Network *network.Network
	// AttachWait is how long an agent has to attach the interface of a task that it has accepted. Default 5 min.
	AttachWait time.Duration
	// Telemetry gets what agents publish of their hosts and tasks; nil: nobody wants it. Its calls return at once.
	Telemetry Telemetry
	// Owner is whose ARNs are this control plane's: an instance of it that the store has forgotten is made again when its agent
	// connects. The zero value: none is.
	Owner arn.Owner
	// RebootTakes is the shortest time a machine takes to boot again: one in another boot that wants to be an instance sooner
	// than that after it was connected is another machine. Default 5 s.
	RebootTakes time.Duration
	// Authorities has agents told of the own CAs in the store, which they are to trust (package certs).
	Authorities bool
	// Overlap is how long the connection of an agent that does not say in which boot its machine is may stand when another one wants to be the
	// same instance: then it is refused. Default task.Overlap.
	Overlap time.Duration
	// RenewPause is the shortest pause before a task's credentials are sent anew. Default 10 s.
	RenewPause time.Duration
}

// Telemetry keeps what agents publish; *telemetry.Book is one.
type Telemetry interface {
	Metrics(cluster, instance string, m *tcs.PublishMetricsRequest)
	Progress(cluster, instance string, m *tcs.LongshoreProgress)
	// Gone says that the instance's TCS socket has ended and no other one stands here.
	Gone(cluster, instance string)
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
	set(&c.AcceptDelay, time.Second)
	set(&c.Keep, 5*time.Second)
	set(&c.RenewPause, 10*time.Second)
	set(&c.AttachWait, 5*time.Minute)
	set(&c.RebootTakes, 5*time.Second)
	set(&c.Overlap, task.Overlap)
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
		c.Role = func(string, *store.Task, bool, func()) (Role, error) {
			return Role{}, errors.New("no roles are configured")
		}
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
	cfg     Config
	log     *zap.Logger
	started time.Time

	mu      sync.Mutex
	session *store.Session // nil while there is none
	acs     map[place]*acsSession
	tcs     map[place]*tcsSession
	sockets [pingSlots]map[*socket]struct{} // of the pinger
	slot    int                             // of the socket that comes next
	stopped bool
	wg      sync.WaitGroup // sessions
	crew    crew
	away    map[place]struct{} // whose connection's record went; the keeper's
	kick    chan struct{}      // the keeper looks now

	interests interests
	trust     trust

	acceptedMu sync.Mutex
	accepted   map[place][]accepted // not yet written
	dirty      chan struct{}        // of one: there are such

	payloads, acknowledged, nonsense, metrics, health atomic.Int64
	strange                                           envelope.Strange // of agents of other versions
}

// New makes a server; it does nothing until [Server.Run].
func New(cfg Config) (*Server, error) {
	if cfg.Store == nil || cfg.Verifier == nil {
		return nil, errors.New("poll: a store and a verifier are needed")
	}
	cfg.defaults()
	s := &Server{
		cfg: cfg, log: cfg.Log, started: time.Now(), acs: map[place]*acsSession{}, tcs: map[place]*tcsSession{}, away: map[place]struct{}{}, kick: make(chan struct{}, 1),
		accepted: map[place][]accepted{}, dirty: make(chan struct{}, 1),
		trust:     trust{stale: true},
		interests: interests{of: map[string]map[*acsSession]struct{}{}, dirty: map[string]struct{}{}, kick: make(chan struct{}, 1)},
	}
	cfg.Network.OnReload(s.rulesChanged)
	for i := range s.sockets {
		s.sockets[i] = map[*socket]struct{}{}
	}
	return s, nil
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

// ServeHTTP answers GET …/acs/ws and …/tcs/ws. It returns when the socket is open; Run waits for its end.
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
	defer s.crew.close()
	var own sync.WaitGroup
	defer own.Wait()
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	own.Go(func() { s.keep(ctx) })
	own.Go(func() { s.pingAll(ctx) })
	own.Go(func() { s.recordAll(ctx) })
	own.Go(func() { s.tellMembers(ctx) })
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

// changed wakes the sessions for whose agents changed records mean something. It runs in the store's goroutine.
func (s *Server) changed(_ int64, changes []store.Change) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, change := range changes {
		r := change.New
		if r == nil {
			r = change.Old
		}
		switch r := r.(type) {
		case *store.Task:
			if old, _ := change.Old.(*store.Task); change.New == nil || old == nil || tellsAgent(old, r) {
				s.notify(place{r.Cluster, r.Instance})
			}
		case *store.Instance:
			if old, _ := change.Old.(*store.Instance); change.New == nil || old == nil || registered(old) != registered(r) {
				s.notify(place{r.Cluster, r.ID})
			}
			old, _ := change.Old.(*store.Instance)
			is, _ := change.New.(*store.Instance)
			s.signerChanged(old, is)
		case *store.Key:
			old, _ := change.Old.(*store.Key)
			is, _ := change.New.(*store.Key)
			s.keyChanged(old, is)
		case *store.Secret:
			s.authoritiesChanged()
		case *store.Address:
			s.membersChanged(r)
		case *store.Preparation:
			if r.Status == "" {
				s.notify(place{r.Cluster, r.Instance})
			}
		case *store.Connection:
			at := place{r.Cluster, r.Instance}
			switch {
			case change.New == nil:
				s.away[at] = struct{}{}
				kick(s.kick)
			case r.Replica != s.cfg.Replica:
				s.notify(at)
			}
		case *store.TaskDefinition: // a payload may wait for it
			if change.Old == nil {
				for _, c := range s.acs {
					if c.waitsForDefinition.Load() {
						c.notify()
					}
				}
			}
		}
	}
}

// tellsAgent tells whether an agent is to know of a task's change: most are what it has said itself.
func tellsAgent(was, is *store.Task) bool {
	return was.Instance != is.Instance || task.Wanted(was) != task.Wanted(is) || task.IsStopped(was) != task.IsStopped(is)
}

// notify tells the sessions of an instance; the caller holds mu.
func (s *Server) notify(at place) {
	if c := s.acs[at]; c != nil {
		c.notify()
	}
	if c := s.tcs[at]; c != nil {
		c.notify()
	}
}

// kick fills a channel of one.
func kick(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// keep sets DisconnectedSince of instances whose connection ended with the replica that held it: of those whose record went,
// and now and then of any.
func (s *Server) keep(ctx context.Context) {
	tick := time.NewTicker(s.cfg.Keep)
	defer tick.Stop()
	for all := true; ; {
		s.mu.Lock()
		away := s.away
		s.away = map[place]struct{}{}
		s.mu.Unlock()
		var lost []place
		s.cfg.Store.Peek(func(v *store.View) {
			look := func(i *store.Instance) {
				if i != nil && wasConnected(i) && i.DisconnectedSince.IsZero() && registered(i) && v.Connection(i.Cluster, i.ID) == nil {
					lost = append(lost, place{i.Cluster, i.ID})
				}
			}
			for at := range away {
				look(v.Instance(at.cluster, at.id))
			}
			if !all {
				return
			}
			lost = lost[:0]
			for c := range v.Clusters() {
				for i := range v.Instances(clusterName(c)) {
					look(i)
				}
			}
		})
		s.markLost(ctx, lost)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			all = true
		case <-s.kick:
			all = false
		}
	}
}

// markLost notes that instances are away, many at a time: a replica that ends may have had thousands.
func (s *Server) markLost(ctx context.Context, lost []place) {
	var wg sync.WaitGroup
	turns := make(chan struct{}, 64)
	for _, at := range lost {
		turns <- struct{}{}
		wg.Go(func() {
			defer func() { <-turns }()
			if err := s.markDisconnected(ctx, at); err != nil && ctx.Err() == nil {
				s.log.Warn("the end of an agent's connection was not recorded; trying again", zap.String("cluster", at.cluster), zap.String("containerInstance", at.id), zap.Error(err))
			}
		})
	}
	wg.Wait()
}

// add registers a session for its instance and ends the one before it; false when the server is stopping.
func add[C interface {
	comparable
	end(code status, reason string)
	common() *socket
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
	sock := c.common()
	sock.slot, s.slot = s.slot, (s.slot+1)%pingSlots
	s.sockets[sock.slot][sock] = struct{}{}
	s.wg.Add(1)
	return true
}

// remove is the reverse of add. It reports whether no newer session has taken the place.
func remove[C interface {
	comparable
	common() *socket
}](s *Server, in map[place]C, at place, c C) (last bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if last = in[at] == c; last {
		delete(in, at)
	}
	sock := c.common()
	delete(s.sockets[sock.slot], sock)
	s.wg.Done()
	return last
}

func (at place) String() string { return fmt.Sprintf("%s/%s", at.cluster, at.id) }
