// Package audit keeps what was asked of the control plane: when, with which key, from where, which operation, on what, and
// how it ended. It holds names and never values: no secret, environment variable, command or tag is in it.
//
// # Model
//
// An [Entry] is a line of JSON, appended before the answer leaves, to a file that nothing ever changes. Files are segments,
// named by when they begin; a full one is followed by a new one, and the oldest go. So what is kept is bounded, and what is
// written stays as it was.
//
// There are two books, each with a bound of its own, so that nobody who may do little pushes out what somebody who may do
// much has done:
//
//	audit/operators-<time>.jsonl   what administrators did, on this machine or by the API
//	audit/hosts-<time>.jsonl       what hosts and tasks did, and what nobody was let in for
//
// Of calls that nobody signed rightly at most [UnknownPerSecond] are written; the next one written says how many were not.
//
// Each replica has its own: what it was asked. A line is in the kernel's hands when the call is answered, so it outlives the
// process; only a machine that loses its power may lose the last seconds.
package audit

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"
	"golang.org/x/time/rate"
)

// Dir is the folder of the books, below the data directory.
const Dir = "audit"

// Local is the key of what was done on the control plane's own machine, over its socket.
const Local = "local"

// The outcomes that are no error's code.
const (
	OK     = "ok"
	Opened = "opened" // of a web socket
	Closed = "closed"
)

// UnknownPerSecond is how many calls that nobody signed rightly are written, after the first 100.
const UnknownPerSecond = 5

// mostText bounds a name, in bytes; mostNames how many an entry has.
const (
	mostText  = 256
	mostNames = 20
)

// Book is who an entry is about.
type Book string

// The books.
const (
	Operators Book = "operators"
	Hosts     Book = "hosts"
)

// Entry is one thing that was asked.
type Entry struct {
	Time time.Time `json:"time"`
	// Key is the access key's id, [Local], or empty when nobody signed rightly; then Claimed is the id that was claimed.
	Key     string `json:"key,omitempty"`
	Claimed string `json:"claimed,omitempty"`
	// Address is where the call came from, as the connection tells.
	Address   string `json:"address,omitempty"`
	Operation string `json:"operation"`
	// Resource are the names and ARNs that the call was about, and those of what it made.
	Resource []string `json:"resource,omitempty"`
	// Outcome is OK or the error's code.
	Outcome   string `json:"outcome"`
	RequestID string `json:"requestId,omitempty"`
	// Unwritten is how many calls like this one were not written since the last: without a right signature there were too many of
	// them, or the book could not be written.
	Unwritten int64 `json:"unwritten,omitempty"`
}

// Config configures [Open]. Zero values are the defaults.
type Config struct {
	DataDir string
	// Size bounds each book, in bytes. Default 128 MiB.
	Size int64
	Log  *zap.Logger
	Now  func() time.Time
}

// Log is where entries go. A nil Log takes none. It is safe for concurrent use.
type Log struct {
	cfg     Config
	dir     string
	unknown *rate.Limiter

	mu        sync.Mutex
	books     map[Book]*book
	unwritten int64
	failing   bool
	closed    bool
}

// segments is in how many files a book is kept.
const segments = 8

// book is one that is written.
type book struct {
	file *os.File // nil: none is open
	size int64
	lost int64 // entries that could not be written since the last that was
}

// Open opens the books below a data directory, and goes on with a segment of its own.
func Open(cfg Config) (*Log, error) {
	if cfg.Size <= 0 {
		cfg.Size = 128 << 20
	}
	if cfg.Log == nil {
		cfg.Log = zap.NewNop()
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	l := &Log{cfg: cfg, dir: filepath.Join(cfg.DataDir, Dir), unknown: rate.NewLimiter(UnknownPerSecond, 100), books: map[Book]*book{Operators: {}, Hosts: {}}}
	if err := os.MkdirAll(l.dir, 0o700); err != nil {
		return nil, fmt.Errorf("open the audit log: %w", err)
	}
	return l, nil
}

// Record appends an entry to a book; its time is now if it has none. It returns when the entry is written. An audit log that
// can't be written is told in the log, once until it can, and holds up nothing.
func (l *Log) Record(in Book, e Entry) {
	if l == nil {
		return
	}
	e.Key, e.Claimed, e.Address, e.Operation, e.Outcome = clip(e.Key), clip(e.Claimed), clip(e.Address), clip(e.Operation), clip(e.Outcome)
	more := len(e.Resource) - mostNames
	e.Resource = slices.Clone(e.Resource[:min(len(e.Resource), mostNames)])
	for i := range e.Resource {
		e.Resource[i] = clip(e.Resource[i])
	}
	if more > 0 {
		e.Resource = append(e.Resource, fmt.Sprintf("and %d more", more))
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if e.Time.IsZero() {
		e.Time = l.cfg.Now()
	}
	e.Time = e.Time.UTC().Truncate(time.Millisecond)
	if e.Key == "" {
		if !l.unknown.AllowN(e.Time, 1) {
			l.unwritten++
			return
		}
		e.Unwritten, l.unwritten = l.unwritten, 0
	}
	b := l.books[in]
	e.Unwritten += b.lost
	line, err := json.Marshal(e)
	if err == nil {
		err = l.append(in, append(line, '\n'))
	}
	if err != nil {
		b.lost = e.Unwritten + 1
	} else {
		b.lost = 0
	}
	switch {
	case err != nil && !l.failing:
		l.cfg.Log.Error("the audit log can't be written; calls are served all the same", zap.String("path", l.dir), zap.Error(err))
	case err == nil && l.failing:
		l.cfg.Log.Info("the audit log can be written again", zap.String("path", l.dir))
	}
	l.failing = err != nil
}

// append writes a line to the book's last segment, or a new one. The caller holds mu.
func (l *Log) append(in Book, line []byte) error {
	b := l.books[in]
	if l.closed {
		return os.ErrClosed
	}
	if b.file != nil && b.size+int64(len(line)) > l.cfg.Size/segments {
		_ = b.file.Close() // every line is written already
		b.file = nil
	}
	if b.file == nil {
		if err := l.begin(in, b); err != nil {
			return err
		}
	}
	n, err := b.file.Write(line)
	b.size += int64(n)
	if err != nil || n < len(line) {
		_ = b.file.Close() // half a line ends a segment; the next entry begins another
		b.file = nil
	}
	return err
}

// begin opens a new segment, and removes the oldest that are too many. The caller holds mu.
func (l *Log) begin(in Book, b *book) error {
	old, err := segmentsOf(l.dir, in)
	if err != nil {
		return err
	}
	at := l.cfg.Now().UTC()
	for {
		name := fmt.Sprintf("%s-%s.jsonl", in, at.Format(nameForm))
		b.file, err = os.OpenFile(filepath.Join(l.dir, name), os.O_WRONLY|os.O_APPEND|os.O_CREATE|os.O_EXCL, 0o600)
		if !os.IsExist(err) {
			break
		}
		at = at.Add(time.Microsecond)
	}
	if err != nil {
		b.file = nil
		return err
	}
	b.size = 0
	for len(old) >= segments {
		if err := os.Remove(filepath.Join(l.dir, old[0])); err != nil && !os.IsNotExist(err) {
			return err
		}
		old = old[1:]
	}
	return nil
}

// nameForm is the time in a segment's name; names stand in order of time.
const nameForm = "20060102T150405.000000Z"

// segmentsOf are the names of a book's segments, the oldest first.
func segmentsOf(dir string, in Book) (names []string, err error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	for _, e := range entries { // in order of name
		if strings.HasPrefix(e.Name(), string(in)+"-") && strings.HasSuffix(e.Name(), ".jsonl") {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// Close ends it; what is recorded after is lost, and told.
func (l *Log) Close() error {
	if l == nil {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	for _, b := range l.books {
		if b.file != nil {
			_ = b.file.Close()
			b.file = nil
		}
	}
	return nil
}

// clip bounds a text.
func clip(s string) string {
	if len(s) > mostText {
		return strings.ToValidUTF8(s[:mostText], "") + "…"
	}
	return s
}
