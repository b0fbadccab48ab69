// Package limits bounds what one caller can take from the others: connections, bodies and calls.
//
// # Model
//
// A connection is pending until a call on it was signed rightly; then it is its key's. Who can't sign holds only pending
// ones, so these are few and short-lived, and full means that an old one goes and not that a new one waits:
//
//	pending    at most Pending, half of them from one address. One more, and the oldest (of that address, if it has its half)
//	           is closed. A caller who signs is through within one round trip; one who only holds is not there for long.
//	bodies     what pending connections send at the same time, beyond 16 KiB each, is at most PendingBodies, a quarter of it
//	           for one address
//	guesses    a connection on which 10 calls were signed wrongly is closed
//	per key    ConnectionsPerKey, and a token bucket of calls; web sockets count as calls when they are opened. An agent has
//	           one socket of each kind by construction: the newest wins.
//
// A call beyond a key's share is a ThrottlingException, which AWS's clients try again after a pause. Nothing that somebody
// did without a right signature counts against a key: who knows a key's id can't lock its owner out.
//
// The key for enrolment speaks for every host that has none of its own; its bucket is a fleet's.
package limits

import (
	"cmp"
	"container/list"
	"context"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/time/rate"

	"github.com/longshore-project/longshore/controlplane/auth"
)

// CodeThrottled is the exception of who asks too much, as AWS's clients know it.
const CodeThrottled = "ThrottlingException"

// The defaults of [Config].
const (
	DefaultPending           = 16384
	DefaultPendingBodies     = 64 << 20
	DefaultRate              = 500
	DefaultEnrolmentRate     = 10000
	DefaultConnectionsPerKey = 1000
)

const (
	freeBody    = 16 << 10 // of a pending connection, that counts for nothing
	mostGuesses = 10
	burst       = 4 // seconds' worth
	mostBuckets = 20000
)

// Config configures [New]. Zero values are the defaults.
type Config struct {
	// Pending bounds connections that nobody has signed on. Default 16384, and not more than a quarter of the files that the
	// process may have open.
	Pending int
	// PendingBodies bounds, in bytes, what these send at the same time. Default 64 MiB.
	PendingBodies int64
	// MaxBody is what a request without a length counts as. Default 1 MiB.
	MaxBody int64
	// Rate is how many calls a second a key may make, EnrolmentRate the same for a key for enrolment; four seconds' worth at
	// once. Defaults 500 and 10000.
	Rate, EnrolmentRate float64
	// ConnectionsPerKey bounds a key's connections beside its web sockets. Default 1000; a key for enrolment has no bound.
	ConnectionsPerKey int
	Now               func() time.Time
}

// Limits are one process's. It is safe for concurrent use.
type Limits struct {
	cfg Config

	mu      sync.Mutex
	all     map[net.Conn]*connection
	pending *list.List // of *connection, the oldest first
	from    map[string]*address
	bodies  int64 // of pending connections, now
	keys    map[string]*key
	stats   Stats
}

// Stats counts since the start, but for Pending.
type Stats struct {
	Pending   int   // connections that nobody has signed on, now
	Evicted   int64 // such that were closed for newer ones
	Throttled int64 // calls of keys that asked too much
	Bodies    int64 // requests that were refused because pending connections sent too much already
}

// address is what pending connections from one address have.
type address struct {
	pending *list.List
	bodies  int64
}

// key is what one has.
type key struct {
	bucket      *rate.Limiter
	connections int
}

// connection is one that the server reads requests from.
type connection struct {
	conn    net.Conn
	from    string
	inAll   *list.Element // nil: it is pending no more
	inFrom  *list.Element
	key     string // whose it is
	guesses int
}

// New makes the limits of a process.
func New(cfg Config) *Limits {
	cfg.Pending = cmp.Or(cfg.Pending, min(DefaultPending, openFiles()/4))
	cfg.PendingBodies = cmp.Or(cfg.PendingBodies, DefaultPendingBodies)
	cfg.MaxBody = cmp.Or(cfg.MaxBody, 1<<20)
	cfg.Rate, cfg.EnrolmentRate = cmp.Or(cfg.Rate, DefaultRate), cmp.Or(cfg.EnrolmentRate, DefaultEnrolmentRate)
	cfg.ConnectionsPerKey = cmp.Or(cfg.ConnectionsPerKey, DefaultConnectionsPerKey)
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Limits{cfg: cfg, all: map[net.Conn]*connection{}, pending: list.New(), from: map[string]*address{}, keys: map[string]*key{}}
}

// openFiles is how many files this process may have open.
func openFiles() int {
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &l); err != nil || l.Cur > 1<<30 {
		return 1 << 30
	}
	return int(l.Cur)
}

// Stats returns the counters.
func (l *Limits) Stats() Stats {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.stats
	s.Pending = l.pending.Len()
	return s
}

type connectionKey struct{}

// of is the request's connection, nil for one that is not bounded here.
func of(r *http.Request) *connection {
	c, _ := r.Context().Value(connectionKey{}).(*connection)
	return c
}

// Bound has a server's connections counted; it is called before the server serves.
func (l *Limits) Bound(s *http.Server) {
	s.ConnContext = func(ctx context.Context, c net.Conn) context.Context {
		return context.WithValue(ctx, connectionKey{}, l.begin(c))
	}
	s.ConnState = func(c net.Conn, state http.ConnState) {
		if state == http.StateClosed || state == http.StateHijacked {
			l.end(c)
		}
	}
}

// begin notes a connection, and closes an old one if there are too many.
func (l *Limits) begin(conn net.Conn) *connection {
	host, _, err := net.SplitHostPort(conn.RemoteAddr().String())
	if err != nil {
		host = conn.RemoteAddr().String()
	}
	c := &connection{conn: conn, from: host}
	l.mu.Lock()
	a := l.at(host)
	c.inAll, c.inFrom = l.pending.PushBack(c), a.pending.PushBack(c)
	l.all[conn] = c
	var victim *connection
	if a.pending.Len() > max(1, l.cfg.Pending/2) {
		victim = a.pending.Front().Value.(*connection)
	} else if l.pending.Len() > l.cfg.Pending {
		victim = l.pending.Front().Value.(*connection)
	}
	if victim != nil {
		l.settle(victim)
		l.stats.Evicted++
	}
	l.mu.Unlock()
	if victim != nil {
		abort(victim.conn)
	}
	return c
}

// abort closes a connection at once: nothing is said to who only holds it, and nothing of it is kept.
func abort(conn net.Conn) {
	inner := conn
	if wrapped, ok := conn.(interface{ NetConn() net.Conn }); ok { // of TLS, whose Close would wait to say goodbye
		inner = wrapped.NetConn()
	}
	if tcp, ok := inner.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = inner.Close()
}

// at is an address; the caller holds mu.
func (l *Limits) at(from string) *address {
	a := l.from[from]
	if a == nil {
		a = &address{pending: list.New()}
		l.from[from] = a
	}
	return a
}

// settle ends that a connection is pending; the caller holds mu.
func (l *Limits) settle(c *connection) {
	if c.inAll == nil {
		return
	}
	a := l.at(c.from)
	l.pending.Remove(c.inAll)
	a.pending.Remove(c.inFrom)
	c.inAll, c.inFrom = nil, nil
	l.forget(c.from, a)
}

// forget drops an address that has nothing; the caller holds mu.
func (l *Limits) forget(from string, a *address) {
	if a.pending.Len() == 0 && a.bodies == 0 {
		delete(l.from, from)
	}
}

func (l *Limits) end(conn net.Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := l.all[conn]
	if c == nil {
		return
	}
	delete(l.all, conn)
	l.settle(c)
	if c.key != "" {
		l.keys[c.key].connections--
		c.key = ""
	}
}

// Handler bounds what pending connections send, and ends those on which is guessed. refuse answers a request that is refused.
func (l *Limits) Handler(next http.Handler, refuse func(w http.ResponseWriter, code, message string)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c := of(r)
		if c == nil {
			next.ServeHTTP(w, r)
			return
		}
		size, ok := l.body(c, r.ContentLength)
		if !ok {
			w.Header().Set("Connection", "close")
			refuse(w, CodeThrottled, "Rate exceeded: others who have not signed anything yet are sending too much; try again.")
			return
		}
		defer l.bodyDone(c, size)
		l.mu.Lock()
		if c.guesses >= mostGuesses-1 {
			w.Header().Set("Connection", "close")
		}
		l.mu.Unlock()
		next.ServeHTTP(w, r)
	})
}

// body takes the body of a request out of what pending connections may send.
func (l *Limits) body(c *connection, length int64) (taken int64, ok bool) {
	if length < 0 {
		length = l.cfg.MaxBody
	}
	length = min(length, l.cfg.MaxBody)
	if length <= freeBody {
		return 0, true
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if c.inAll == nil {
		return 0, true
	}
	a := l.at(c.from)
	if l.bodies+length > l.cfg.PendingBodies || a.bodies+length > l.cfg.PendingBodies/4 {
		l.stats.Bodies++
		return 0, false
	}
	l.bodies += length
	a.bodies += length
	return length, true
}

func (l *Limits) bodyDone(c *connection, taken int64) {
	if taken == 0 {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	a := l.at(c.from)
	l.bodies -= taken
	a.bodies -= taken
	l.forget(c.from, a)
}

// signed is called for a call that identity signed rightly: the connection is its key's, and a call is taken from its bucket.
func (l *Limits) signed(r *http.Request, identity *auth.Identity) *auth.Error {
	l.mu.Lock()
	defer l.mu.Unlock()
	k := l.keyOf(identity)
	if c := of(r); c != nil && l.all[c.conn] == c {
		if c.key != identity.AccessKeyID {
			if !identity.Enrolment && k.connections >= l.cfg.ConnectionsPerKey {
				l.stats.Throttled++
				return &auth.Error{Code: CodeThrottled, Message: fmt.Sprintf("Rate exceeded: the access key %s has %d connections open already.", identity.AccessKeyID, k.connections)}
			}
			if c.key != "" {
				l.keys[c.key].connections--
			}
			c.key = identity.AccessKeyID
			k.connections++
			l.settle(c)
		}
	}
	if !k.bucket.AllowN(l.cfg.Now(), 1) {
		l.stats.Throttled++
		return &auth.Error{Code: CodeThrottled, Message: fmt.Sprintf("Rate exceeded: the access key %s may make %.0f calls a second.", identity.AccessKeyID, float64(k.bucket.Limit()))}
	}
	return nil
}

// keyOf is what an identity's key has; the caller holds mu. Keys that have nothing at all are forgotten when there are many.
func (l *Limits) keyOf(identity *auth.Identity) *key {
	if k := l.keys[identity.AccessKeyID]; k != nil {
		return k
	}
	if len(l.keys) >= mostBuckets {
		now := l.cfg.Now()
		for id, k := range l.keys {
			if k.connections == 0 && k.bucket.TokensAt(now) >= float64(k.bucket.Burst()) {
				delete(l.keys, id)
			}
		}
	}
	limit := l.cfg.Rate
	if identity.Enrolment {
		limit = l.cfg.EnrolmentRate
	}
	k := &key{bucket: rate.NewLimiter(rate.Limit(limit), max(1, int(burst*limit)))}
	l.keys[identity.AccessKeyID] = k
	return k
}

// guessed is called for a call that was not signed rightly.
func (l *Limits) guessed(r *http.Request) {
	if c := of(r); c != nil {
		l.mu.Lock()
		c.guesses++
		l.mu.Unlock()
	}
}
