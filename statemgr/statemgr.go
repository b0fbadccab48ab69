// Package statemgr keeps what the agent must remember over a crash: a database, longshore.db, and apart from it the small
// file of the instance's identity. It knows how things are kept, not what they mean.
//
// # The database
//
// A bbolt file of mode 0600. Keys are text, values JSON:
//
//	longshore.db
//	├── longshore                     what the file is; plain text, so that every version can read it
//	│   └── version                   "1"
//	├── tasks                         by task ARN: the engine's record of the task, and for a while of what is left of one that was cleaned up
//	├── changes                       by sequence number, 8 bytes big-endian: state changes the control plane has not accepted yet;
//	│                                 the bucket's own sequence is the last number given, so that numbers never come back
//	├── session                       manifest-sequence: the greatest timeline of a task manifest that was obeyed
//	├── attachments                   by attachment ARN: network interfaces that were announced, and whether they were reported
//	└── security-groups               last: the last message on them, which holds until the next
//
// [DB.Update] is durable when it returns nil: the data is on the disk, not only with the kernel. Updates that come while
// another one is being written are written together. When the disk is full an update fails as a whole, the old state
// stays, and the next update may succeed.
//
// A file that is truncated or damaged is set aside as longshore.db.corrupt-<time> and a new one is begun; [Open] tells its
// caller, who rebuilds what can be rebuilt. A file written by a newer version is refused and left alone. Only one process
// can have the database open.
//
// The layout of a released version never changes without a new version number and a migration in this package; testdata
// holds a frozen file of each version.
//
// # The identity
//
// identity.json says which container instance this host is. It is a file of its own, because a lost database must not
// make the host register a second time, with a second set of daemons. It is replaced as a whole: a reader sees the old
// or the new one.
package statemgr

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"go.etcd.io/bbolt"
	bbolterrors "go.etcd.io/bbolt/errors"
	"golang.org/x/sys/unix"
)

// Version is the version of the database's layout that this package writes.
const Version = 1

// DatabaseName is the database's file name in the data directory. An agent.db there is an amazon-ecs-agent's, which this agent never
// writes (agent/dropin).
const DatabaseName = "longshore.db"

const (
	metaBucket = "longshore"
	versionKey = "version"
)

// ErrLocked means that another process has the database open.
var ErrLocked = errors.New("another process has the state database open")

// Quarantine says that the database could not be used and was set aside.
type Quarantine struct {
	Path  string // where the old file lies now
	Cause error
}

// NewerError means that the database was written by a newer version. The file is left as it is.
type NewerError struct {
	Path         string
	Found, Known int
}

func (e *NewerError) Error() string {
	return fmt.Sprintf("the state database %s has version %d, and this agent knows versions up to %d; start the newer agent again, "+
		"or move the file away to begin anew (running containers are then found by their labels)", e.Path, e.Found, e.Known)
}

// DB is an open database. All methods may be called concurrently.
type DB struct {
	bolt    *bbolt.DB
	path    string
	updates chan *update
	closed  chan struct{} // closed by Close
	done    chan struct{} // closed when the writer has ended
}

// Tx is a transaction; it is valid inside the function it was given to.
type Tx struct{ tx *bbolt.Tx }

// lockWait is how long Open waits for another process, such as one that is just ending, to let go.
const lockWait = 2 * time.Second

// Open opens the database in a directory, which must exist, or begins a new one. If a damaged file was set aside, the
// quarantine says so; it is nil otherwise. The error is or wraps ErrLocked or [*NewerError] in these cases.
func Open(dir string) (*DB, *Quarantine, error) {
	path := filepath.Join(dir, DatabaseName)
	bolt, err := open(path)
	var bad *damage
	if !errors.As(err, &bad) {
		return started(bolt, path, nil, err)
	}
	aside, err := setAside(path)
	if errors.Is(err, ErrLocked) {
		return nil, nil, err
	}
	if err != nil {
		return nil, nil, fmt.Errorf("the state database %s can't be used (%w) and can't be set aside: %w", path, bad.cause, err)
	}
	bolt, err = open(path)
	return started(bolt, path, &Quarantine{Path: aside, Cause: bad.cause}, err)
}

func started(bolt *bbolt.DB, path string, q *Quarantine, err error) (*DB, *Quarantine, error) {
	if err != nil {
		return nil, q, err
	}
	db := &DB{bolt: bolt, path: path, updates: make(chan *update), closed: make(chan struct{}), done: make(chan struct{})}
	go db.write()
	return db, q, nil
}

// setAside renames a file so that its new name says when it was found damaged, unless another process is at work in it.
func setAside(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer func() { _ = f.Close() }()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return "", locked(path)
	}
	stamp := time.Now().UTC().Format("20060102T150405Z")
	for i := 0; ; i++ {
		aside := path + ".corrupt-" + stamp
		if i > 0 {
			aside += "-" + strconv.Itoa(i)
		}
		if _, err := os.Lstat(aside); err == nil {
			continue
		}
		if err := os.Rename(path, aside); err != nil {
			return "", err
		}
		return aside, syncDir(filepath.Dir(path))
	}
}

// damage says that a file is not a database that can be used, for a reason that opening it again won't heal.
type damage struct{ cause error }

func (d *damage) Error() string { return d.cause.Error() }

// open opens and checks a database, and brings it to the present version.
func open(path string) (db *bbolt.DB, err error) {
	if err := check(path); err != nil {
		return nil, err
	}
	var file *os.File
	_, statErr := os.Stat(path)
	err = guarded(func() (err error) {
		db, err = bbolt.Open(path, 0o600, &bbolt.Options{Timeout: lockWait, FreelistType: bbolt.FreelistMapType, OpenFile: func(name string, flag int, mode os.FileMode) (f *os.File, err error) {
			file, err = os.OpenFile(name, flag, mode)
			return file, err
		}})
		return err
	})
	var bad *damage
	switch {
	case errors.As(err, &bad):
		giveUp(file)
		return nil, err
	case errors.Is(err, bbolterrors.ErrTimeout):
		return nil, locked(path)
	case errors.Is(err, bbolterrors.ErrInvalid) || errors.Is(err, bbolterrors.ErrChecksum) || errors.Is(err, bbolterrors.ErrVersionMismatch):
		return nil, &damage{err}
	case err != nil:
		return nil, fmt.Errorf("open the state database %s: %w", path, err)
	}
	if err := guarded(func() error { return prepare(db, path) }); err != nil {
		giveUp(file)
		return nil, err
	}
	if statErr != nil { // it is new: its name must survive too
		if err := syncDir(filepath.Dir(path)); err != nil {
			giveUp(file)
			return nil, err
		}
	}
	return db, nil
}

// giveUp lets go of a database that can't be closed in good order. Closing the file does not end the lock while it is mapped.
func giveUp(file *os.File) {
	_ = unix.Flock(int(file.Fd()), unix.LOCK_UN)
	_ = file.Close()
}

func locked(path string) error {
	return fmt.Errorf("%s: %w; is another longshore-agent running?", path, ErrLocked)
}

// parts are the buckets of the layout.
var parts = []string{metaBucket, "tasks", "changes", "session", "attachments", "security-groups"}

// prepare checks what a database is and makes what is missing. Where nothing is, nothing is written, so that a database on a
// full disk can be opened.
func prepare(db *bbolt.DB, path string) error {
	var version string
	empty, missing := true, false
	err := db.View(func(tx *bbolt.Tx) error {
		if b := tx.Bucket([]byte(metaBucket)); b != nil {
			version = string(b.Get([]byte(versionKey)))
		}
		for _, name := range parts {
			missing = missing || tx.Bucket([]byte(name)) == nil
		}
		return tx.ForEach(func([]byte, *bbolt.Bucket) error { empty = false; return nil })
	})
	if err != nil {
		return err
	}
	if !empty {
		number, err := strconv.Atoi(version)
		switch {
		case err != nil || number < 1:
			return &damage{fmt.Errorf("it is not a state database of longshore-agent (its version is %q)", version)}
		case number > Version:
			return &NewerError{path, number, Version}
		case number == Version && !missing:
			return nil
		}
	}
	return db.Update(func(tx *bbolt.Tx) error {
		for _, name := range parts {
			_, err := tx.CreateBucketIfNotExists([]byte(name))
			if errors.Is(err, bbolterrors.ErrIncompatibleValue) {
				return &damage{fmt.Errorf("%s is no bucket", name)}
			}
			if err != nil {
				return fmt.Errorf("prepare the state database %s: %w", path, err)
			}
		}
		return tx.Bucket([]byte(metaBucket)).Put([]byte(versionKey), []byte(strconv.Itoa(Version)))
	})
}

// Path is the database's file.
func (db *DB) Path() string { return db.path }

// Close ends the updates that were begun and closes the file. The database is not used after it.
func (db *DB) Close() error {
	close(db.closed)
	<-db.done
	return db.bolt.Close()
}

// View runs f with a consistent picture of the database.
func (db *DB) View(f func(*Tx) error) error {
	return guarded(func() error { return db.bolt.View(func(tx *bbolt.Tx) error { return f(&Tx{tx}) }) })
}

// Bucket is a part of the database whose keys are text and whose values are of one type.
type Bucket[V any] struct{ name []byte }

// NewBucket names one of the buckets of the package's layout.
func NewBucket[V any](name string) Bucket[V] { return Bucket[V]{[]byte(name)} }

// Put sets a value.
func (b Bucket[V]) Put(tx *Tx, key string, value V) error {
	raw, err := json.Marshal(value)
	if err != nil {
		return fmt.Errorf("%s %s: %w", b.name, key, err)
	}
	return tx.tx.Bucket(b.name).Put([]byte(key), raw)
}

// Get returns a value; found is false if there is none.
func (b Bucket[V]) Get(tx *Tx, key string) (value V, found bool, err error) {
	raw := tx.tx.Bucket(b.name).Get([]byte(key))
	if raw == nil {
		return value, false, nil
	}
	if err := json.Unmarshal(raw, &value); err != nil {
		return value, true, fmt.Errorf("%s %s: %w", b.name, key, err)
	}
	return value, true, nil
}

// Delete removes a value; removing what is not there does nothing.
func (b Bucket[V]) Delete(tx *Tx, key string) error { return tx.tx.Bucket(b.name).Delete([]byte(key)) }

// Each calls f for each value in the order of keys. err is set, and value zero, where a value can't be read.
func (b Bucket[V]) Each(tx *Tx, f func(key string, value V, err error) error) error {
	return tx.tx.Bucket(b.name).ForEach(func(k, raw []byte) error {
		var value V
		err := json.Unmarshal(raw, &value)
		if err != nil {
			var zero V
			value, err = zero, fmt.Errorf("%s %s: %w", b.name, k, err)
		}
		return f(string(k), value, err)
	})
}
