package statemgr

import (
	"errors"
	"fmt"

	"go.etcd.io/bbolt"
)

// maxBatch bounds how many updates are written at once.
const maxBatch = 64

var errClosed = errors.New("the state database is closed")

type update struct {
	f    func(*Tx) error
	done chan error
}

// Update runs f in a transaction that is on the disk when Update returns nil. f may run more than once and must have no
// effect but on the transaction and on variables that each run sets anew; an error of f undoes it alone.
func (db *DB) Update(f func(*Tx) error) error {
	u := &update{f, make(chan error, 1)}
	select {
	case db.updates <- u:
		return <-u.done
	case <-db.closed:
		return errClosed
	}
}

// write is the only writer. What has come while it wrote goes into one transaction, which costs no wait when nothing has.
func (db *DB) write() {
	defer close(db.done)
	for {
		select {
		case <-db.closed:
			return
		case u := <-db.updates:
			batch := []*update{u}
		more:
			for len(batch) < maxBatch {
				select {
				case u := <-db.updates:
					batch = append(batch, u)
				default:
					break more
				}
			}
			db.commit(batch)
		}
	}
}

// commit writes a batch. If it fails, each update gets a transaction of its own, so that each learns its own error.
func (db *DB) commit(batch []*update) {
	if len(batch) > 1 {
		err := db.transact(func(tx *Tx) error {
			for _, u := range batch {
				if err := u.f(tx); err != nil {
					return err
				}
			}
			return nil
		})
		if err == nil {
			for _, u := range batch {
				u.done <- nil
			}
			return
		}
	}
	for _, u := range batch {
		u.done <- db.transact(u.f)
	}
}

func (db *DB) transact(f func(*Tx) error) error {
	var own error
	err := guarded(func() error {
		return db.bolt.Update(func(tx *bbolt.Tx) error {
			own = f(&Tx{tx})
			return own
		})
	})
	if err != nil && own == nil {
		return fmt.Errorf("write the state database %s (the state before stays): %w", db.path, err)
	}
	return err
}
