package store

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"sync"

	"github.com/longshore-project/longshore/protocol/awsjson"
	_ "github.com/longshore-project/longshore/protocol/ecsapi" // registers the unions of the records' objects
)

// schemaVersion is the version of the records' shape that this code writes, and the newest it can read. A change that
// older code would misread raises it; the decoder keeps reading the versions before.
const schemaVersion = 1

// envelope is the value of a key.
type envelope struct {
	Version int             `json:"v"`
	Record  json.RawMessage `json:"record"`
}

// values are buffers in which values are put together: most of what a value costs is the growing of its buffer.
var values = sync.Pool{New: func() any { return new([]byte) }}

// mostKept is the size of a buffer from which on it is not used again.
const mostKept = 256 << 10

// encode makes a record's value; exact tells whether that surely reads as the record is.
func encode(r Record) (value string, exact bool, err error) {
	buf := values.Get().(*[]byte)
	defer func() {
		if cap(*buf) <= mostKept {
			values.Put(buf)
		}
	}()
	all, exact, err := awsjson.Append(append((*buf)[:0], opening...), r)
	if err != nil {
		return "", false, fmt.Errorf("%w: encode %s: %w", ErrInvalid, r.key(), err)
	}
	*buf = append(all, '}')
	return string(*buf), exact, nil
}

// opening is how each value of the current version begins.
var opening = []byte(fmt.Sprintf(`{"v":%d,"record":`, schemaVersion))

// open takes the envelope off a value.
func open(value []byte) (e envelope, err error) {
	if record, ok := bytes.CutPrefix(value, opening); ok && bytes.HasSuffix(record, []byte("}")) {
		return envelope{Version: schemaVersion, Record: record[:len(record)-1]}, nil // what is in it is read by awsjson
	}
	err = json.Unmarshal(value, &e)
	return e, err
}

// decode reads the record that is stored at key. Its error says why it can't be used, never what is in it.
func decode(key string, value []byte, revision int64) (Record, error) {
	kind, _, _ := strings.Cut(key, "/")
	if kind == kindLeader {
		l := new(leader)
		l.stored(key, revision)
		return l, nil
	}
	empty, ok := kinds[kind]
	if !ok {
		return nil, fmt.Errorf("%q is no kind of record that this version knows", kind)
	}
	e, err := open(value)
	if err != nil {
		return nil, fmt.Errorf("the value is damaged: %w", err)
	}
	if e.Version > schemaVersion {
		return nil, fmt.Errorf("%w: it has schema version %d, and this longshore-control reads up to %d: upgrade it", ErrNewer, e.Version, schemaVersion)
	}
	if e.Version < 1 || len(e.Record) == 0 || e.Record[0] != '{' {
		return nil, fmt.Errorf("the value is no record: schema version %d, %d bytes", e.Version, len(e.Record))
	}
	if e, err = migrate(kind, e); err != nil {
		return nil, err
	}
	r := empty()
	if _, err := awsjson.Unmarshal(e.Record, r); err != nil {
		return nil, fmt.Errorf("the value is damaged: %w", err)
	}
	r.stored(key, revision)
	if k := r.key(); k != key {
		return nil, fmt.Errorf("the value belongs to another key, %q", k)
	}
	return r, nil
}
