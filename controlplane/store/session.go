package store

import (
	"context"
	"fmt"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
)

// Session is a lease that this process keeps alive, for Connections and leaderships.
type Session struct {
	s       *Store
	session *concurrency.Session
}

// Session opens a session whose records vanish ttl after this process does (rounded up to seconds, at least etcd's
// minimum). The context bounds the opening only; the session lasts until its Close or the store's.
func (s *Store) Session(ctx context.Context, ttl time.Duration) (*Session, error) {
	seconds := max(1, int64((ttl+time.Second-1)/time.Second))
	rctx, cancel := context.WithTimeout(ctx, s.cfg.Timeout)
	defer cancel()
	lease, err := s.client.Grant(rctx, seconds)
	if err != nil {
		return nil, fmt.Errorf("open a session in the store: %w", unavailable(ctx, err))
	}
	session, err := concurrency.NewSession(s.client, concurrency.WithLease(lease.ID), concurrency.WithContext(s.ctx))
	if err != nil {
		return nil, fmt.Errorf("keep the session in the store alive: %w", unavailable(ctx, err))
	}
	return &Session{s: s, session: session}, nil
}

// Lease is the session's etcd lease.
func (s *Session) Lease() clientv3.LeaseID { return s.session.Lease() }

// Done is closed when the lease was lost.
func (s *Session) Done() <-chan struct{} { return s.session.Done() }

// Close revokes the lease: all records under it vanish at once. If etcd can't be reached they do when it expires.
func (s *Session) Close() error {
	s.session.Orphan()
	ctx, cancel := context.WithTimeout(context.Background(), s.s.cfg.Timeout)
	defer cancel()
	if _, err := s.s.client.Revoke(ctx, s.Lease()); err != nil {
		return fmt.Errorf("end the session in the store: %w", unavailable(ctx, err))
	}
	return nil
}

// Leadership is held by at most one process at a time for each name.
type Leadership struct {
	s        *Store
	name     string
	election *concurrency.Election
	key      string // in etcd
	revision int64  // at which the key was created
	once     sync.Once
	done     chan struct{}
}

// Lead blocks until this process leads name, or ctx ends. A second call for the same name and session returns at once:
// one session is one candidate.
func (s *Store) Lead(ctx context.Context, session *Session, name string) (*Leadership, error) {
	if err := checkKey(join(kindLeader, name)); err != nil {
		return nil, err
	}
	election := concurrency.NewElection(session.session, s.prefix+join(kindLeader, name))
	if err := election.Campaign(ctx, fmt.Sprintf("%x", session.Lease())); err != nil {
		return nil, fmt.Errorf("become the leader of %s: %w", name, unavailable(ctx, err))
	}
	l := &Leadership{s: s, name: name, election: election, key: election.Key(), revision: election.Rev(), done: make(chan struct{})}
	if _, err := s.wait(ctx, l.revision); err != nil {
		return nil, err
	}
	s.hold(l)
	if !s.spawn(func() {
		select {
		case <-l.done:
		case <-session.Done():
		case <-s.ctx.Done():
		}
		s.drop(l)
	}) {
		return nil, fmt.Errorf("%w: it is closed", ErrUnavailable)
	}
	return l, nil
}

// Done is closed when the leadership was lost.
func (l *Leadership) Done() <-chan struct{} { return l.done }

// Resign gives the leadership up.
func (l *Leadership) Resign(ctx context.Context) error {
	l.s.drop(l)
	rctx, cancel := context.WithTimeout(ctx, l.s.cfg.Timeout)
	defer cancel()
	if err := l.election.Resign(rctx); err != nil {
		return fmt.Errorf("resign from the leadership of %s: %w", l.name, unavailable(ctx, err))
	}
	return nil
}

// relativeKey is the key as the view has it.
func (l *Leadership) relativeKey() string { return l.key[len(l.s.prefix):] }

// hold has the follower end the leadership when its key goes. One whose key went meanwhile ends here.
func (s *Store) hold(l *Leadership) {
	s.subs.Lock()
	defer s.subs.Unlock()
	if _, there := s.view.Load().records.Get(place(l.relativeKey())); !there {
		l.end()
		return
	}
	s.leads[l.relativeKey()] = l
}

// lost ends the leadership whose key went; the caller holds subs.
func (s *Store) lost(key string) {
	if l, ok := s.leads[key]; ok {
		delete(s.leads, key)
		l.end()
	}
}

func (s *Store) drop(l *Leadership) {
	s.subs.Lock()
	defer s.subs.Unlock()
	if s.leads[l.relativeKey()] == l {
		delete(s.leads, l.relativeKey())
	}
	l.end()
}

func (l *Leadership) end() { l.once.Do(func() { close(l.done) }) }
