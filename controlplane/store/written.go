package store

import (
	"reflect"
	"sync"
	"time"
)

// written are the records that this process is writing, by key. What etcd sends back of them need not be decoded: most of
// what a replica learns it has written itself.
type written struct {
	mu  sync.Mutex
	now map[string]*write
}

// expect notes writes that are about to be sent. A record whose value would not read as it is (a time finer than what is
// stored) is left out.
func (w *written) expect(writes []write) {
	for i := range writes {
		if !sharable(writes[i].record) {
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
	r.stored(key, revision)
	return r
}

// sharable tells whether a record is of one of the kinds that are written often, and reads as it is.
func sharable(r Record) bool {
	switch r.(type) {
	case *Task, *Allocation, *DaemonSlot, *Connection, *Instance, *ServiceEvent, *Address:
		return normal(reflect.ValueOf(r).Elem())
	}
	return false
}

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
	return r
}

var (
	timeType = reflect.TypeFor[time.Time]()
	timely   sync.Map // reflect.Type → bool: whether values of the type have times in them
)

// normal tells whether every time in v is one that is stored exactly: in UTC and of whole milliseconds.
func normal(v reflect.Value) bool {
	switch {
	case v.Type() == timeType:
		t, _ := reflect.TypeAssert[time.Time](v)
		return t == t.UTC().Truncate(time.Millisecond)
	case !hasTimes(v.Type()):
		return true
	}
	switch v.Kind() {
	case reflect.Pointer:
		return v.IsNil() || normal(v.Elem())
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() && !normal(v.Field(i)) {
				return false
			}
		}
	case reflect.Slice:
		for i := range v.Len() {
			if !normal(v.Index(i)) {
				return false
			}
		}
	case reflect.Map:
		for at := v.MapRange(); at.Next(); {
			if !normal(at.Value()) {
				return false
			}
		}
	default: // an interface: what is in it is not known
		return v.IsNil()
	}
	return true
}

func hasTimes(t reflect.Type) bool {
	if known, ok := timely.Load(t); ok {
		return known.(bool)
	}
	found := mayHaveTimes(t, map[reflect.Type]bool{})
	timely.Store(t, found)
	return found
}

func mayHaveTimes(t reflect.Type, within map[reflect.Type]bool) bool {
	if t == timeType {
		return true
	}
	if within[t] {
		return false
	}
	within[t] = true
	switch t.Kind() {
	case reflect.Interface:
		return true
	case reflect.Pointer, reflect.Slice, reflect.Map:
		return mayHaveTimes(t.Elem(), within)
	case reflect.Struct:
		for i := range t.NumField() {
			if f := t.Field(i); f.IsExported() && mayHaveTimes(f.Type, within) {
				return true
			}
		}
	}
	return false
}
