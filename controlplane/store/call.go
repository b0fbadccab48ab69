package store

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
)

// Without a majority of etcd's members nobody knows what was committed last: no write is possible, and no read that has to
// hold all that was written before it. What this process has seen is still true of a moment before, and better than nothing
// for whoever only looks. A caller says so by a [Call] that may be stale, and is told when an answer was.
//
// patience is how long a reader waits for what is current: one who takes less, longer than etcd takes to elect a leader; while
// etcd is known not to answer others that long too, and he hardly at all. 0 is what etcd is given anyhow.
func (s *Store) patience(mayBeStale bool) time.Duration {
	down := s.down.Load()
	switch {
	case mayBeStale && down:
		return s.cfg.Timeout / 50
	case mayBeStale, down:
		return s.brief()
	}
	return 0
}

// brief is longer than etcd takes to elect a leader, and shorter than what is bounded by Config.Timeout: 2 s of 5.
func (s *Store) brief() time.Duration { return s.cfg.Timeout * 2 / 5 }

// ErrUnknown is part of the error of a Commit of which nobody knows whether it was applied.
var ErrUnknown = errors.New("whether it was applied is not known")

// Call is what the reads and writes of one caller met.
type Call struct {
	mayBeStale bool
	wrote      atomic.Bool
	stale      atomic.Int64 // Unix ns
}

type callKey struct{}

// WithCall returns a context whose reads and writes are noted in the call. With mayBeStale its reads go on while etcd does not
// answer, with what was seen last.
func WithCall(ctx context.Context, mayBeStale bool) (context.Context, *Call) {
	c := &Call{mayBeStale: mayBeStale}
	return context.WithValue(ctx, callKey{}, c), c
}

// Wrote tells whether something was written, or may have been.
func (c *Call) Wrote() bool { return c.wrote.Load() }

// Stale is since when writes by others may be missing from what was read; stale is false when nothing can be missing, and of
// a nil Call.
func (c *Call) Stale() (since time.Time, stale bool) {
	if c == nil {
		return since, false
	}
	ns := c.stale.Load()
	return time.Unix(0, ns).UTC(), ns != 0
}

// callOf is the caller's, nil for one who gave none.
func callOf(ctx context.Context) *Call {
	c, _ := ctx.Value(callKey{}).(*Call)
	return c
}

// current is the view once it holds all that was committed before the call.
func (s *Store) current(ctx context.Context) (*View, error) {
	begun := time.Now()
	revision, err := s.readIndex(ctx)
	var v *View
	if err == nil {
		v, err = s.wait(ctx, revision)
	}
	switch {
	case err == nil:
		s.confirm(begun)
		s.answers(true)
	case errors.Is(err, ErrUnavailable):
		s.answers(false)
	}
	return v, err
}

// answers notes whether etcd answered, and tells of a change.
func (s *Store) answers(does bool) {
	if s.down.Load() != does || !s.down.CompareAndSwap(does, !does) {
		return
	}
	if does {
		s.log.Info("etcd answers again: reads are current, and writes are taken")
		return
	}
	s.log.Error("etcd does not answer, or its view is behind: reads show what was so some time ago, and nothing can be written until a majority of its members is reachable from here",
		zap.Time("since", time.Unix(0, s.confirmed.Load())))
}

// Answers tells whether etcd answered when it was asked last.
func (s *Store) Answers() bool { return !s.down.Load() }

// confirm notes that the view held all that was committed until then.
func (s *Store) confirm(at time.Time) {
	for {
		was := s.confirmed.Load()
		if at.UnixNano() <= was || s.confirmed.CompareAndSwap(was, at.UnixNano()) {
			return
		}
	}
}

// lookup is the view for a read: the current one, or for a caller who takes it, and only while there is none, the last one.
// Without other writers any is current.
func (s *Store) lookup(ctx context.Context) (*View, error) {
	if s.cfg.Alone {
		return s.view.Load(), nil
	}
	call := callOf(ctx)
	stale := call != nil && call.mayBeStale
	patience := s.patience(stale)
	if patience == 0 {
		return s.current(ctx)
	}
	bounded, cancel := context.WithTimeoutCause(ctx, patience, ErrUnavailable)
	defer cancel()
	v, err := s.current(bounded)
	if err == nil || ctx.Err() != nil || s.ctx.Err() != nil {
		return v, err
	}
	s.answers(false)
	if !stale {
		return nil, fmt.Errorf("%w: etcd has not answered for a while: %w", ErrUnavailable, err)
	}
	call.stale.CompareAndSwap(0, max(1, s.confirmed.Load()))
	return s.view.Load(), nil
}
