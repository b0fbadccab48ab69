package store

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

// The classes of error a caller can act on; test with errors.Is.
var (
	// ErrConflict: a condition of the transaction did not hold; read again and decide again.
	ErrConflict = errors.New("the record was changed by somebody else")
	// ErrFull: the store is near its quota; only deletes and state changes are accepted.
	ErrFull = errors.New("the store is nearly full")
	// ErrUnavailable: etcd did not answer in time or has no majority.
	ErrUnavailable = errors.New("the store is unavailable")
	// ErrInvalid: the transaction can never be applied: too many operations, a record too large, a name that makes no key.
	ErrInvalid = errors.New("the transaction is invalid")
	// ErrNewer: a record was written by a newer version of this code; [Quarantined.Err] can be one.
	ErrNewer = errors.New("the record is of a newer version")
)

// Record is any of the record types of this package.
type Record interface {
	// Revision is the etcd revision at which the record was last written, 0 for one that never was.
	Revision() int64
	setRevision(int64)
	stored(key string, revision int64)
	at() string
	key() string
}

// Defaults of [Config].
const (
	DefaultPrefix        = "/longshore"
	DefaultTimeout       = 5 * time.Second
	DefaultSpaceInterval = 5 * time.Second
	DefaultFullAt        = 0.9
	DefaultDiskReserve   = 128 << 20
)

// Config configures [Open].
type Config struct {
	Client *clientv3.Client
	Prefix string // default "/longshore"
	Log    *zap.Logger

	// Timeout bounds each request to etcd and each wait for the view. Default 5 s.
	Timeout time.Duration
	// Quota is etcd's backend quota in bytes, for servers that don't tell theirs (before 3.6). 0 means etcd's default, 2 GiB.
	Quota int64
	// FullAt is the part of the quota from which on the store counts as nearly full. Default 0.9.
	FullAt float64
	// SpaceInterval is how often the size is looked at. Default 5 s.
	SpaceInterval time.Duration
	// Disk is a directory of the embedded server's file system. The store also counts as nearly full while less than
	// DiskReserve bytes (default 128 MiB) are free there: an etcd that can't write ends its process.
	Disk        string
	DiskReserve int64
	// Alone says that nobody but this Store writes, as with the embedded server. Then a read waits for nothing: what was
	// acknowledged to anybody is in the view, since Commit does not return before.
	Alone bool
	// Observe, if set, is told how long each "commit" and each current "read" took; it must return at once.
	Observe func(operation string, took time.Duration, err error)
	// Maintain lets the store compact and defragment etcd, and disarm its alarm, when space runs short: for the embedded server,
	// and for a cluster that nobody else uses. Whoever shares one does that with their own tools.
	Maintain bool
}

// Store is the store. It is safe for concurrent use.
type Store struct {
	client *clientv3.Client
	cfg    Config
	prefix string // ends with "/"
	log    *zap.Logger

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	wg     sync.WaitGroup
	// mu orders wg.Add before Close's wg.Wait.
	mu     sync.Mutex
	closed bool

	view    atomic.Pointer[View]
	told    atomic.Int64 // the revision up to which all was told
	reached waiters      // for that to reach some revision
	head    *View        // the follower's own copy, not yet published
	shared  shared       // the follower's

	subs    sync.Mutex
	nextSub int
	onChg   map[int]func(int64, []Change)
	leads   map[string]*Leadership // by key in the view; guarded by subs

	down      atomic.Bool   // etcd did not answer when it was asked last
	confirmed atomic.Int64  // Unix ns: until then the view held all that was committed
	restart   chan struct{} // of one: the watch is stuck, and is to begin anew

	index   readIndex
	asking  atomic.Bool // for progress
	group   group
	written written
	space   space
}

// Open loads the view and starts to follow etcd. The context bounds the loading only; the store lives until Close.
func Open(ctx context.Context, cfg Config) (*Store, error) {
	if cfg.Client == nil {
		return nil, errors.New("store: no etcd client")
	}
	if cfg.Prefix == "" {
		cfg.Prefix = DefaultPrefix
	}
	if cfg.Log == nil {
		cfg.Log = zap.NewNop()
	}
	if cfg.Timeout <= 0 {
		cfg.Timeout = DefaultTimeout
	}
	if cfg.SpaceInterval <= 0 {
		cfg.SpaceInterval = DefaultSpaceInterval
	}
	if cfg.DiskReserve <= 0 {
		cfg.DiskReserve = DefaultDiskReserve
	}
	if cfg.FullAt <= 0 || cfg.FullAt > 1 {
		cfg.FullAt = DefaultFullAt
	}
	s := &Store{
		client: cfg.Client,
		cfg:    cfg,
		prefix: cfg.Prefix + "/",
		log:    cfg.Log,
		onChg:  map[int]func(int64, []Change){},
		leads:  map[string]*Leadership{},

		restart: make(chan struct{}, 1),
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.space.init()
	s.head = newView()
	if err := s.load(ctx); err != nil {
		s.cancel()
		return nil, fmt.Errorf("load the records below %s from etcd: %w", s.prefix, err)
	}
	s.confirm(time.Now())
	s.checkSpace()
	s.spawn(s.follow)
	s.spawn(s.watchSpace)
	return s, nil
}

// Close stops following etcd and ends the store's sessions. It does not close the client. Calls under way end with an error.
func (s *Store) Close() error {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.cancel()
	s.wg.Wait()
	return nil
}

// spawn runs f on a goroutine that Close waits for; false if the store is closed.
func (s *Store) spawn(f func()) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.wg.Go(f)
	return true
}

// Read waits until the view holds all that was committed before the call, and calls f with it. While etcd does not answer it
// fails with ErrUnavailable, or goes on with what was seen last if the context's [Call] allows that. f must not call the store
// and must not keep v; it may keep records, which are immutable. The view does not change while f runs, and f delays nobody.
func (s *Store) Read(ctx context.Context, f func(v *View) error) error {
	begun := time.Now()
	v, err := s.lookup(ctx)
	s.observe("read", begun, err)
	if err != nil {
		return err
	}
	return f(v)
}

func (s *Store) observe(operation string, begun time.Time, err error) {
	if s.cfg.Observe != nil {
		s.cfg.Observe(operation, time.Since(begun), err)
	}
}

// Peek is Read without the wait: the view as it is now. For loops that are called again on change.
func (s *Store) Peek(f func(v *View)) { f(s.view.Load()) }

// Change is one record that was written (New set) or deleted (New nil). Old is nil for a record that is new.
type Change struct {
	Old, New Record
}

// OnChange calls f, in revision order and from one goroutine, with the records changed at each applied revision. After a
// reload of the view (etcd was out of reach for long) all that changed meanwhile comes as one revision.
// The returned function ends that; f may still be running when it returns. f must return at once.
func (s *Store) OnChange(f func(revision int64, changes []Change)) (cancel func()) {
	s.subs.Lock()
	defer s.subs.Unlock()
	id := s.nextSub
	s.nextSub++
	s.onChg[id] = f
	return func() {
		s.subs.Lock()
		defer s.subs.Unlock()
		delete(s.onChg, id)
	}
}

// Retry calls f until it returns something else than ErrConflict, with a short jittered pause, at most until ctx ends.
// f must read again what it decides on.
func Retry(ctx context.Context, f func() error) error {
	const shortest, longest = time.Millisecond, 50 * time.Millisecond
	for pause := shortest; ; pause = min(2*pause, longest) {
		err := f()
		if !errors.Is(err, ErrConflict) {
			return err
		}
		timer := time.NewTimer(jitter(pause))
		select {
		case <-ctx.Done():
			timer.Stop()
			return fmt.Errorf("%w, until %w", err, ctx.Err())
		case <-timer.C:
		}
	}
}
