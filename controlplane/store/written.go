package store

import (
	"sync"
)

// written are the records that this process is writing, by key. What etcd sends back of them need not be decoded: most of
// what a replica learns it has written itself.
type written struct {
	mu  sync.Mutex
	now map[string]*write
}

// expect notes writes that are about to be sent. A record whose value may not read as it is (a time finer than what is
// stored) is left out.
func (w *written) expect(writes []write) {
	for i := range writes {
		if !writes[i].exact {
			continue
		}
		w.mu.Lock()
		if w.now == nil {
			w.now = map[string]*write{}
		}
		w.now[writes[i].key] = &writes[i]
		w.mu.Unlock()
	}
}

// forget ends that for those of which nothing was heard.
func (w *written) forget(writes []write) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := range writes {
		if w.now[writes[i].key] == &writes[i] {
			delete(w.now, writes[i].key)
		}
	}
}

// take is a copy of the record that has this value, as it is stored; nil when it is to be decoded.
func (w *written) take(key string, value []byte, revision int64) Record {
	w.mu.Lock()
	defer w.mu.Unlock()
	own := w.now[key]
	if own == nil || own.value != string(value) {
		return nil
	}
	delete(w.now, key)
	r := copyOf(own.record)
	if r != nil {
		r.stored(key, revision)
	}
	return r
}

// copyOf is a copy of a record of one of the kinds that are written often, nil of any other.
func copyOf(r Record) Record {
	switch r := r.(type) {
	case *Task:
		return new(*r)
	case *Allocation:
		return new(*r)
	case *DaemonSlot:
		return new(*r)
	case *Connection:
		return new(*r)
	case *Instance:
		return new(*r)
	case *ServiceEvent:
		return new(*r)
	case *Address:
		return new(*r)
	}
	return nil
}
