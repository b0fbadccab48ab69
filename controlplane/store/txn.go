package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/longshore-project/longshore/internal/failpoint"
)

// maxOps is how many writes, and how many conditions, a transaction may have; etcd's own default.
const maxOps = 128

// Txn is a set of conditions and writes that are applied together or not at all. It is for one goroutine, once.
// At most 128 operations; Commit refuses more.
type Txn struct {
	s           *Store
	conditions  []condition
	ops         []clientv3.Op
	written     []write
	keys        map[string]bool // keys with a write
	guard       *Leadership
	stateChange bool
	grows       bool // something is put, not only deleted
	err         error
}

// condition is that the record at key is still at revision, 0 for absent.
type condition struct {
	key      string
	revision int64
}

// write is a record, the key it has after the transaction, and its value; exact: that reads as the record is.
type write struct {
	record Record
	key    string
	value  string
	exact  bool
}

// Txn begins a transaction.
func (s *Store) Txn() *Txn { return &Txn{s: s, keys: map[string]bool{}} }

// Create writes a record that must not exist.
func (t *Txn) Create(r Record) *Txn {
	key := r.key()
	t.conditions = append(t.conditions, condition{key, 0})
	t.put(key, r)
	return t
}

// Update replaces a record which must still be at r.Revision(). Pass a modified copy, never the record of a View.
// A record whose key has changed with its content (a service that became INACTIVE) is moved.
func (t *Txn) Update(r Record) *Txn {
	key, at := r.key(), r.at()
	if r.Revision() != 0 && at != "" && at != key {
		t.conditions = append(t.conditions, condition{at, r.Revision()}, condition{key, 0})
		t.remove(at)
	} else {
		t.conditions = append(t.conditions, condition{key, r.Revision()})
	}
	t.put(key, r)
	return t
}

// Delete removes a record which must still be at r.Revision(). r itself stays as it is and may be one of a View.
func (t *Txn) Delete(r Record) *Txn {
	key := r.at()
	if key == "" {
		key = r.key()
	}
	t.conditions = append(t.conditions, condition{key, r.Revision()})
	t.remove(key)
	return t
}

// Put writes a record without a condition. Only for records with one writer, such as a Connection.
func (t *Txn) Put(r Record, lease clientv3.LeaseID) *Txn {
	t.put(r.key(), r, clientv3.WithLease(lease))
	return t
}

// Unchanged adds the condition that r is still at its revision (0: still absent), and writes nothing.
func (t *Txn) Unchanged(r Record) *Txn {
	key := r.at()
	if key == "" {
		key = r.key()
	}
	t.conditions = append(t.conditions, condition{key, r.Revision()})
	return t
}

// Guard adds the condition that the leadership is still held. It counts as an operation.
func (t *Txn) Guard(l *Leadership) *Txn {
	t.guard = l
	return t
}

// StateChange marks the transaction as one that is accepted even when the store is nearly full.
func (t *Txn) StateChange() *Txn {
	t.stateChange = true
	return t
}

// Len is the number of operations so far, as Commit counts them.
func (t *Txn) Len() int {
	conditions := len(t.conditions)
	if t.guard != nil {
		conditions++
	}
	return max(conditions, len(t.ops))
}

func (t *Txn) put(key string, r Record, options ...clientv3.OpOption) {
	if shared, ok := t.s.view.Load().records.Get(place(r.at())); ok && shared == r {
		t.fail(fmt.Errorf("%w: %s is the record of a view, which is shared: write a copy", ErrInvalid, key))
	}
	value, exact, err := encode(r)
	t.fail(err)
	t.touch(key)
	w := write{r, key, value, exact}
	t.ops = append(t.ops, clientv3.OpPut(t.s.prefix+key, w.value, options...))
	t.written = append(t.written, w)
	t.grows = true
}

func (t *Txn) remove(key string) {
	t.touch(key)
	t.ops = append(t.ops, clientv3.OpDelete(t.s.prefix+key))
}

func (t *Txn) touch(key string) {
	t.fail(checkKey(key))
	if t.keys[key] {
		t.fail(fmt.Errorf("%w: %s is written twice", ErrInvalid, key))
	}
	t.keys[key] = true
}

func (t *Txn) fail(err error) {
	if t.err == nil {
		t.err = err
	}
}

// Commit applies the transaction and waits for the view. Errors: ErrConflict, ErrFull, ErrInvalid; ErrUnavailable or the
// context's, both with ErrUnknown. On success the revision of each written record is set.
func (t *Txn) Commit(ctx context.Context) (err error) {
	if t.err == nil && t.Len() > maxOps {
		t.err = fmt.Errorf("%w: it has %d operations, at most %d are possible", ErrInvalid, t.Len(), maxOps)
	}
	if t.err != nil {
		return t.err
	}
	s := t.s
	if t.grows && !t.stateChange {
		if err := s.space.refuse(); err != nil {
			return err
		}
	}
	failpoint.Hit("store/before-commit")
	begun, ticket := time.Now(), t.ticket()
	defer func() { s.observe("commit", begun, err) }()
	s.written.expect(t.written)
	if call := callOf(ctx); call != nil {
		before := call.wrote.Swap(true)
		defer func() {
			if !before && (errors.Is(err, ErrConflict) || errors.Is(err, ErrFull) || errors.Is(err, ErrInvalid)) {
				call.wrote.Store(false) // nothing was
			}
		}()
	}
	err = s.submit(ctx, ticket)
	failpoint.Hit("store/after-commit")
	if err != nil {
		s.written.forget(t.written)
		if errors.Is(err, ErrFull) {
			s.space.noSpace()
		}
		if errors.Is(err, ErrUnavailable) || ctx.Err() != nil {
			err = fmt.Errorf("%w: %w", ErrUnknown, err)
		}
		return err
	}
	v, err := s.wait(ctx, ticket.revision)
	s.written.forget(t.written) // not before: the follower copies them until then
	if ticket.succeeded {
		for _, w := range t.written {
			w.record.stored(w.key, ticket.revision)
		}
	}
	switch {
	case ticket.succeeded && err != nil:
		return fmt.Errorf("%w to the caller, and it was at revision %d, but: %w", ErrUnknown, ticket.revision, err)
	case ticket.succeeded:
		return nil
	case err != nil:
		return ErrConflict
	}
	return fmt.Errorf("%w: %s", ErrConflict, t.violated(v))
}

// ticket is the transaction as it is sent.
func (t *Txn) ticket() *ticket {
	n := &ticket{ops: t.ops, done: make(chan struct{}), compares: make([]clientv3.Cmp, 0, len(t.conditions)+1)}
	for _, c := range t.conditions {
		n.compares = append(n.compares, clientv3.Compare(clientv3.ModRevision(t.s.prefix+c.key), "=", c.revision))
		n.looks = append(n.looks, c.key)
	}
	if t.guard != nil {
		n.compares = append(n.compares, clientv3.Compare(clientv3.CreateRevision(t.guard.key), "=", t.guard.revision))
	}
	for key := range t.keys {
		n.writes = append(n.writes, key)
	}
	for _, w := range t.written {
		n.size += len(w.value) + 2*len(w.key)
	}
	return n
}

// violated names a condition that does not hold, for the message.
func (t *Txn) violated(v *View) string {
	for _, c := range t.conditions {
		var now int64
		if r, ok := v.records.Get(place(c.key)); ok {
			now = r.Revision()
		} else if q, ok := v.bad[c.key]; ok {
			now = q.Revision
		}
		if now != c.revision {
			return fmt.Sprintf("%s is at revision %d, not %d", c.key, now, c.revision)
		}
	}
	if t.guard != nil {
		return "the leadership of " + t.guard.name + " is lost"
	}
	return "and back again"
}

// unavailable gives an error of etcd's client its class.
func unavailable(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	switch {
	case errors.Is(err, rpctypes.ErrNoSpace):
		return fmt.Errorf("%w: %w", ErrFull, err)
	case errors.Is(err, rpctypes.ErrRequestTooLarge), errors.Is(err, rpctypes.ErrTooManyOps), errors.Is(err, rpctypes.ErrDuplicateKey),
		status.Code(err) == codes.ResourceExhausted && !errors.Is(err, rpctypes.ErrTooManyRequests):
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	case errors.Is(err, rpctypes.ErrLeaseNotFound):
		return fmt.Errorf("%w: the lease is gone: %w", ErrConflict, err)
	}
	return fmt.Errorf("%w: %w", ErrUnavailable, err)
}
