package statemgr

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
)

// Queue is a bucket whose keys are numbers that rise over the life of the file.
type Queue[V any] struct{ name []byte }

// NewQueue names one of the queues of the package's layout.
func NewQueue[V any](name string) Queue[V] { return Queue[V]{[]byte(name)} }

// Append adds what value makes of the next number, and returns the number.
func (q Queue[V]) Append(tx *Tx, value func(sequence uint64) V) (uint64, error) {
	b := tx.tx.Bucket(q.name)
	n, err := b.NextSequence()
	if err != nil {
		return 0, err
	}
	raw, err := json.Marshal(value(n))
	if err != nil {
		return 0, fmt.Errorf("%s %d: %w", q.name, n, err)
	}
	return n, b.Put(number(n), raw)
}

// Delete removes one; removing what is not there does nothing.
func (q Queue[V]) Delete(tx *Tx, sequence uint64) error {
	return tx.tx.Bucket(q.name).Delete(number(sequence))
}

// Each calls f for each value in the order of numbers. err is set, and value zero, where a value can't be read.
func (q Queue[V]) Each(tx *Tx, f func(sequence uint64, value V, err error) error) error {
	return tx.tx.Bucket(q.name).ForEach(func(k, raw []byte) error {
		var value V
		if len(k) != 8 {
			return f(0, value, fmt.Errorf("%s: a key of %d bytes", q.name, len(k)))
		}
		n := binary.BigEndian.Uint64(k)
		err := json.Unmarshal(raw, &value)
		if err != nil {
			var zero V
			value, err = zero, fmt.Errorf("%s %d: %w", q.name, n, err)
		}
		return f(n, value, err)
	})
}

func number(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }
