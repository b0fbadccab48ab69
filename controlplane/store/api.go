package store

import (
	"context"
	"errors"
	"iter"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/ecs/types"
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
)

// Record is any of the record types of this package.
type Record interface {
	Revision() int64
	setRevision(int64)
	key() string
}

// Config configures [Open].
type Config struct {
	Client *clientv3.Client
	Prefix string // default "/longshore"
	Log    *zap.Logger
}

// Store is the store. It is safe for concurrent use.
type Store struct{ impl }

// Open loads the view and starts to follow etcd.
func Open(ctx context.Context, cfg Config) (*Store, error) { panic("skeleton") }

// Close stops following etcd. It does not close the client.
func (s *Store) Close() error { panic("skeleton") }

// Read waits until the view holds all that was committed before the call, and calls f with it. f must not block, must not
// call the store and must not keep v; it may keep records, which are immutable.
func (s *Store) Read(ctx context.Context, f func(v *View) error) error { panic("skeleton") }

// Peek is Read without the wait: the view as it is now. For loops that are called again on change.
func (s *Store) Peek(f func(v *View)) { panic("skeleton") }

// Txn begins a transaction.
func (s *Store) Txn() *Txn { panic("skeleton") }

// Change is one record that was written (New set) or deleted (New nil). Old is nil for a record that is new.
type Change struct {
	Old, New Record
}

// OnChange calls f, in revision order and from one goroutine, with the records changed at each applied revision.
// The returned function ends that. f must return at once.
func (s *Store) OnChange(f func(revision int64, changes []Change)) (cancel func()) { panic("skeleton") }

// Txn is a set of conditions and writes that are applied together or not at all. It is for one goroutine, once.
// At most 128 operations; Commit refuses more.
type Txn struct{}

// Create writes a record that must not exist.
func (t *Txn) Create(r Record) *Txn { panic("skeleton") }

// Update replaces a record which must still be at r.Revision(). Pass a modified copy, never the record of a View.
func (t *Txn) Update(r Record) *Txn { panic("skeleton") }

// Delete removes a record which must still be at r.Revision().
func (t *Txn) Delete(r Record) *Txn { panic("skeleton") }

// Put writes a record without a condition. Only for records with one writer, such as a Connection.
func (t *Txn) Put(r Record, lease clientv3.LeaseID) *Txn { panic("skeleton") }

// Unchanged adds the condition that r is still at its revision (0: still absent), and writes nothing.
func (t *Txn) Unchanged(r Record) *Txn { panic("skeleton") }

// Guard adds the condition that the leadership is still held.
func (t *Txn) Guard(l *Leadership) *Txn { panic("skeleton") }

// StateChange marks the transaction as one that is accepted even when the store is nearly full.
func (t *Txn) StateChange() *Txn { panic("skeleton") }

// Commit applies the transaction and waits for the view. Errors: ErrConflict, ErrFull, ErrUnavailable (the outcome is
// unknown) or the context's. On success the revision of each written record is set.
func (t *Txn) Commit(ctx context.Context) error { panic("skeleton") }

// Retry calls f until it returns something else than ErrConflict, with a short jittered pause, at most until ctx ends.
// f must read again what it decides on.
func Retry(ctx context.Context, f func() error) error { panic("skeleton") }

// Session is a lease that this process keeps alive, for Connections and leaderships.
type Session struct{}

// Session opens a session whose records vanish ttl after this process does (rounded up to seconds).
func (s *Store) Session(ctx context.Context, ttl time.Duration) (*Session, error) { panic("skeleton") }

// Lease is the session's etcd lease.
func (s *Session) Lease() clientv3.LeaseID { panic("skeleton") }

// Done is closed when the lease was lost.
func (s *Session) Done() <-chan struct{} { panic("skeleton") }

// Close revokes the lease.
func (s *Session) Close() error { panic("skeleton") }

// Leadership is held by at most one process at a time for each name.
type Leadership struct{}

// Lead blocks until this process leads name, or ctx ends.
func (s *Store) Lead(ctx context.Context, session *Session, name string) (*Leadership, error) {
	panic("skeleton")
}

// Done is closed when the leadership was lost.
func (l *Leadership) Done() <-chan struct{} { panic("skeleton") }

// Resign gives the leadership up.
func (l *Leadership) Resign(ctx context.Context) error { panic("skeleton") }

// View is the store at one revision.
type View struct{}

// Revision is the etcd revision the view has reached.
func (v *View) Revision() int64 { panic("skeleton") }

// Cluster returns a cluster, ACTIVE or INACTIVE.
func (v *View) Cluster(name string) *Cluster { panic("skeleton") }

// Clusters are in order of name.
func (v *View) Clusters() iter.Seq[*Cluster] { panic("skeleton") }

// Family returns a revision counter.
func (v *View) Family(name string) *Family { panic("skeleton") }

// Families are in order of name.
func (v *View) Families() iter.Seq[*Family] { panic("skeleton") }

// TaskDefinition returns one revision in any status.
func (v *View) TaskDefinition(family string, revision int32) *TaskDefinition { panic("skeleton") }

// TaskDefinitions are in order of family (all when family is empty), then revision.
func (v *View) TaskDefinitions(family string) iter.Seq[*TaskDefinition] { panic("skeleton") }

// Service returns the ACTIVE or DRAINING service of that name, else the INACTIVE one that went last.
func (v *View) Service(cluster, name string) *Service { panic("skeleton") }

// Services of a cluster in order of name, INACTIVE ones included.
func (v *View) Services(cluster string) iter.Seq[*Service] { panic("skeleton") }

// Instance returns a container instance.
func (v *View) Instance(cluster, id string) *Instance { panic("skeleton") }

// Instances of a cluster in order of id, INACTIVE ones included.
func (v *View) Instances(cluster string) iter.Seq[*Instance] { panic("skeleton") }

// Allocation of an instance; never nil for a registered instance.
func (v *View) Allocation(cluster, instance string) *Allocation { panic("skeleton") }

// Task returns a task.
func (v *View) Task(cluster, id string) *Task { panic("skeleton") }

// Tasks of a cluster in order of id.
func (v *View) Tasks(cluster string) iter.Seq[*Task] { panic("skeleton") }

// TasksOn are the tasks placed on an instance.
func (v *View) TasksOn(cluster, instance string) iter.Seq[*Task] { panic("skeleton") }

// TasksOf are the tasks of a service.
func (v *View) TasksOf(cluster, service string) iter.Seq[*Task] { panic("skeleton") }

// DaemonSlot returns the claim of a service on an instance.
func (v *View) DaemonSlot(cluster, service, instance string) *DaemonSlot { panic("skeleton") }

// Connection returns the live ACS connection of an instance.
func (v *View) Connection(cluster, instance string) *Connection { panic("skeleton") }

// Events of a service, newest first.
func (v *View) Events(cluster, service string) iter.Seq[*ServiceEvent] { panic("skeleton") }

// Key returns an access key.
func (v *View) Key(accessKeyID string) *Key { panic("skeleton") }

// Keys are in order of access key id.
func (v *View) Keys() iter.Seq[*Key] { panic("skeleton") }

// AccountSetting returns the setting of a principal ("default": of the account), nil when it has none of its own.
func (v *View) AccountSetting(name, principal string) *AccountSetting { panic("skeleton") }

// AccountSettings are in order of name, then principal.
func (v *View) AccountSettings() iter.Seq[*AccountSetting] { panic("skeleton") }

type impl struct{}

var _ types.Task
