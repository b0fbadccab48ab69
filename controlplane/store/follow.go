package store

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

// loadPage is how many keys are asked for at once when the view is loaded.
const loadPage = 2000

// follow applies etcd's changes to the view until the store is closed.
func (s *Store) follow() {
	const shortest, longest = 10 * time.Millisecond, time.Second
	pause := shortest
	for s.ctx.Err() == nil {
		from := s.head.revision
		err := s.watch()
		if s.ctx.Err() != nil {
			return
		}
		if s.head.revision > from {
			pause = shortest
		}
		s.log.Warn("the watch on etcd ended; following again", zap.Int64("revision", s.head.revision), zap.Error(err))
		if errors.Is(err, rpctypes.ErrCompacted) || errors.Is(err, rpctypes.ErrFutureRev) {
			ctx, cancel := context.WithTimeout(s.ctx, 10*s.cfg.Timeout)
			if err := s.load(ctx); err != nil {
				s.log.Error("reload the view from etcd; reads and writes wait until it succeeds", zap.Error(err))
			}
			cancel()
		}
		s.sleep(jitter(pause))
		pause = min(2*pause, longest)
	}
}

// watch applies what etcd sends until the watch breaks.
func (s *Store) watch() error {
	ctx, cancel := context.WithCancel(clientv3.WithRequireLeader(s.ctx))
	defer cancel()
	watch := s.client.Watch(ctx, s.prefix, clientv3.WithPrefix(), clientv3.WithRev(s.head.revision+1), clientv3.WithProgressNotify())
	begun := time.Now()
	for {
		select {
		case <-s.restart:
			// Its connection leads nowhere, which grpc finds out much later.
			if silent := time.Since(begun); silent >= s.brief() {
				return fmt.Errorf("etcd has more, and nothing came of it for %s", silent)
			}
		case response, open := <-watch:
			if !open {
				return errors.New("etcd closed it")
			}
			if err := response.Err(); err != nil {
				return err
			}
			begun = time.Now()
			switch {
			case len(response.Events) > 0:
				s.apply(response.Events)
			case response.IsProgressNotify():
				s.publish(response.Header.Revision, nil)
			}
		}
	}
}

// revisionChanges are the changes of one revision.
type revisionChanges struct {
	revision int64
	changes  []Change
}

// apply brings the view up to the last of the events, and tells about each revision.
func (s *Store) apply(events []*clientv3.Event) {
	var told []revisionChanges
	for _, e := range events {
		kv := e.Kv
		if kv.ModRevision <= s.head.revision {
			continue // sent again after a broken watch
		}
		if len(told) == 0 || told[len(told)-1].revision != kv.ModRevision {
			told = append(told, revisionChanges{revision: kv.ModRevision})
		}
		var c Change
		if e.Type == mvccpb.Event_DELETE {
			c.Old = s.head.remove(s.relative(kv))
		} else {
			c = s.put(kv)
		}
		if c.Old != nil || c.New != nil {
			last := &told[len(told)-1]
			last.changes = append(last.changes, c)
		}
	}
	if len(told) > 0 {
		s.publish(told[len(told)-1].revision, told)
	}
}

func (s *Store) relative(kv *mvccpb.KeyValue) string {
	return strings.TrimPrefix(string(kv.Key), s.prefix)
}

// put brings one value into the view that is being made.
func (s *Store) put(kv *mvccpb.KeyValue) Change {
	key := s.relative(kv)
	before, _ := s.head.records.Get(place(key))
	if r := s.written.take(key, kv.Value, kv.ModRevision); r != nil {
		s.shared.share(r, before)
		return Change{Old: s.head.put(key, r), New: r}
	}
	r, err := decode(key, kv.Value, kv.ModRevision)
	if err != nil {
		s.log.Error("a record can't be read and is left out; it stays in etcd as it is",
			zap.String("key", s.prefix+key), zap.Int64("revision", kv.ModRevision), zap.Error(err))
		old := s.head.remove(key)
		s.head.quarantine(Quarantined{Key: key, Revision: kv.ModRevision, Err: err})
		return Change{Old: old}
	}
	s.shared.share(r, before)
	return Change{Old: s.head.put(key, r), New: r}
}

// publish makes what the follower has applied the view that everybody reads, and tells those who want to know.
func (s *Store) publish(revision int64, told []revisionChanges) {
	s.head.revision = max(s.head.revision, revision)
	s.view.Store(s.head.snapshot())
	defer func() { // who waits for a change finds that it was told
		s.told.Store(s.head.revision)
		s.reached.reach(s.head.revision)
	}()

	s.subs.Lock()
	callbacks := make([]func(int64, []Change), 0, len(s.onChg))
	for id := range s.nextSub {
		if f, ok := s.onChg[id]; ok {
			callbacks = append(callbacks, f)
		}
	}
	for _, t := range told {
		for _, c := range t.changes {
			if l, ok := c.Old.(*leader); ok && c.New == nil {
				s.lost(l.at())
			}
		}
	}
	s.subs.Unlock()
	for _, t := range told {
		changes := withoutLeaders(t.changes)
		if len(changes) == 0 {
			continue
		}
		for _, f := range callbacks {
			f(t.revision, changes)
		}
	}
}

func withoutLeaders(changes []Change) []Change {
	kept := changes[:0:0]
	for _, c := range changes {
		if _, ok := c.Old.(*leader); ok {
			continue
		}
		if _, ok := c.New.(*leader); ok {
			continue
		}
		kept = append(kept, c)
	}
	return kept
}

// load reads all records at one revision and publishes them, together with what changed since the view that was there.
// When it fails nothing has changed.
func (s *Store) load(ctx context.Context) error {
	const attempts = 5 // the revision may be compacted while its pages are read
	var all snapshot
	var err error
	for range attempts {
		if all, err = s.readAll(ctx); !errors.Is(err, rpctypes.ErrCompacted) {
			break
		}
	}
	if err != nil {
		return unavailable(ctx, err)
	}
	var changes []Change
	for _, kv := range all.changed {
		if c := s.put(kv); c.Old != nil || c.New != nil {
			changes = append(changes, c)
		}
	}
	for _, key := range s.head.keys() {
		if all.keys[key] {
			continue
		}
		if old := s.head.remove(key); old != nil {
			changes = append(changes, Change{Old: old})
		}
	}
	// After a restore from a backup etcd counts from an earlier revision: the view follows it back.
	s.head.revision = all.revision
	s.publish(all.revision, []revisionChanges{{all.revision, changes}})
	return nil
}

// snapshot is what etcd holds at one revision.
type snapshot struct {
	revision int64
	keys     map[string]bool
	changed  []*mvccpb.KeyValue // those that the view does not have at their revision
}

func (s *Store) readAll(ctx context.Context) (snapshot, error) {
	all := snapshot{keys: map[string]bool{}}
	from, end := s.prefix, clientv3.GetPrefixRangeEnd(s.prefix)
	for {
		rctx, cancel := context.WithTimeout(ctx, s.cfg.Timeout)
		response, err := s.client.Get(rctx, from, clientv3.WithRange(end), clientv3.WithLimit(loadPage), clientv3.WithRev(all.revision))
		cancel()
		if err != nil {
			return all, err
		}
		if all.revision == 0 {
			all.revision = response.Header.Revision
		}
		for _, kv := range response.Kvs {
			key := s.relative(kv)
			all.keys[key] = true
			if r, ok := s.head.records.Get(place(key)); !ok || r.Revision() != kv.ModRevision {
				all.changed = append(all.changed, kv)
			}
		}
		if !response.More || len(response.Kvs) == 0 {
			return all, nil
		}
		from = string(response.Kvs[len(response.Kvs)-1].Key) + "\x00"
	}
}

// keys of all records and of all that could not be read.
func (v *View) keys() []string {
	var keys []string
	v.records.Scan(func(at string, r Record) bool {
		if !strings.HasPrefix(at, "@") {
			keys = append(keys, r.at())
		}
		return true
	})
	for key := range v.bad {
		keys = append(keys, key)
	}
	return keys
}

// progressAfter is how long a reader waits before it asks etcd whether there is anything more to come: writes to keys
// that are not ours move etcd's revision, but not the view's.
const progressAfter = 5 * time.Millisecond

// wait returns the view once it has reached a revision.
func (s *Store) wait(ctx context.Context, revision int64) (*View, error) {
	if s.told.Load() >= revision {
		return s.view.Load(), nil
	}
	w := s.reached.add(revision)
	defer s.reached.remove(w)
	since := time.Now()
	timer := time.NewTimer(progressAfter)
	defer timer.Stop()
	for {
		if s.told.Load() >= revision { // it may have come before the waiter was known
			return s.view.Load(), nil
		}
		select {
		case <-w.reached:
		case <-timer.C:
			if time.Since(since) >= s.cfg.Timeout {
				return nil, fmt.Errorf("%w: the view is at revision %d and did not reach %d within %s",
					ErrUnavailable, s.view.Load().revision, revision, s.cfg.Timeout)
			}
			if time.Since(since) >= s.brief() {
				select {
				case s.restart <- struct{}{}:
				default:
				}
			}
			s.askProgress()
			timer.Reset(min(progressAfter, s.cfg.Timeout-time.Since(since)))
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for revision %d of the store: %w", revision, ctx.Err())
		case <-s.ctx.Done():
			return nil, fmt.Errorf("%w: it is closed", ErrUnavailable)
		}
	}
}

// askProgress asks etcd to say up to which revision everything has been sent. It does not wait for the answer, which comes
// with the watch; one that does not come is asked for again.
func (s *Store) askProgress() {
	if !s.asking.CompareAndSwap(false, true) {
		return
	}
	s.spawn(func() {
		defer s.asking.Store(false)
		ctx, cancel := context.WithTimeout(clientv3.WithRequireLeader(s.ctx), s.cfg.Timeout)
		defer cancel()
		if err := s.client.RequestProgress(ctx); err != nil {
			s.log.Debug("ask etcd for the progress of the watch", zap.Error(err))
		}
	})
}

// readIndex is a revision that holds everything committed before the call.
func (s *Store) readIndex(ctx context.Context) (int64, error) {
	call, first := s.index.join()
	if first && !s.spawn(func() { s.index.serve(s.askRevision) }) {
		return 0, fmt.Errorf("%w: it is closed", ErrUnavailable)
	}
	select {
	case <-call.done:
		return call.revision, call.err
	case <-ctx.Done():
		return 0, fmt.Errorf("read the store's revision: %w", ctx.Err())
	}
}

// askRevision asks for the revision by a linearizable read that returns nothing.
func (s *Store) askRevision() (int64, error) {
	ctx, cancel := context.WithTimeout(s.ctx, s.cfg.Timeout)
	defer cancel()
	response, err := s.client.Get(ctx, s.prefix, clientv3.WithCountOnly())
	if err != nil {
		return 0, fmt.Errorf("read the store's revision: %w", unavailable(s.ctx, err))
	}
	return response.Header.Revision, nil
}

// readIndex lets one request for the revision serve all readers that came before it was sent.
type readIndex struct {
	mu      sync.Mutex
	next    *indexCall
	serving bool
}

type indexCall struct {
	done     chan struct{}
	revision int64
	err      error
}

// join returns the next request to be sent; first tells the caller to have it served.
func (i *readIndex) join() (call *indexCall, first bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.next == nil {
		i.next = &indexCall{done: make(chan struct{})}
	}
	first = !i.serving
	i.serving = true
	return i.next, first
}

// serve sends requests until nobody waits.
func (i *readIndex) serve(ask func() (int64, error)) {
	for {
		i.mu.Lock()
		call := i.next
		i.next = nil
		if call == nil {
			i.serving = false
			i.mu.Unlock()
			return
		}
		i.mu.Unlock()
		call.revision, call.err = ask()
		close(call.done)
	}
}

// waiters wait for views, each for one of its revision.
type waiters struct {
	mu   sync.Mutex
	wait map[*waiter]struct{}
}

type waiter struct {
	revision int64
	reached  chan struct{} // of one
}

func (b *waiters) add(revision int64) *waiter {
	w := &waiter{revision, make(chan struct{}, 1)}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.wait == nil {
		b.wait = map[*waiter]struct{}{}
	}
	b.wait[w] = struct{}{}
	return w
}

func (b *waiters) remove(w *waiter) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.wait, w)
}

// reach wakes those whose view there is.
func (b *waiters) reach(revision int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for w := range b.wait {
		if w.revision <= revision {
			delete(b.wait, w)
			w.reached <- struct{}{}
		}
	}
}

func (s *Store) sleep(d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-s.ctx.Done():
	}
}

// jitter is between half and the whole of d.
func jitter(d time.Duration) time.Duration { return d/2 + rand.N(d/2+1) }
