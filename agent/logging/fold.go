package logging

import (
	"fmt"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// A line that says what was said already is folded: it is counted, and written once more with the count as "repeated". Two lines are the same if they have
// the same level, message and fields; fields that are durations or times don't count. Warnings and errors are folded for as long as a
// minute, whatever is written between them; other lines only while nothing else is, so that they tell the order of events. What is counted is written at
// the end of the minute, before the next other line, or when the log is closed.

const (
	foldWindow = time.Minute
	mostFolds  = 256 // lines that are remembered; beyond that, none is folded
)

// folds is what a log and all its children have in common.
type folds struct {
	mu     sync.Mutex
	seen   map[string]*fold
	last   string // the key of the last line, if that was no warning and no error
	closed bool
}

// fold is a line that may come again.
type fold struct {
	to      *folding
	entry   zapcore.Entry
	fields  []zapcore.Field
	repeats int
	timer   *time.Timer
}

// folding is a core that writes to others.
type folding struct {
	*folds
	cores   []zapcore.Core
	context string // fields of With, as part of the key
}

// Enabled says whether one of them is.
func (f *folding) Enabled(l zapcore.Level) bool {
	for _, c := range f.cores {
		if c.Enabled(l) {
			return true
		}
	}
	return false
}

// With returns a core whose lines all carry the fields.
func (f *folding) With(fields []zapcore.Field) zapcore.Core {
	child := &folding{folds: f.folds, context: f.context + keyOf(fields), cores: make([]zapcore.Core, len(f.cores))}
	for i, c := range f.cores {
		child.cores[i] = c.With(fields)
	}
	return child
}

// Check adds the core to an entry that is to be written.
func (f *folding) Check(e zapcore.Entry, to *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if f.Enabled(e.Level) {
		return to.AddCore(e, f)
	}
	return to
}

// Sync does what the others do.
func (f *folding) Sync() error {
	for _, c := range f.cores {
		if err := c.Sync(); err != nil {
			return err
		}
	}
	return nil
}

// Write writes a line, or counts it.
func (f *folding) Write(e zapcore.Entry, fields []zapcore.Field) error {
	key := e.Level.String() + "\x00" + e.LoggerName + "\x00" + e.Message + f.context + keyOf(fields)
	f.mu.Lock()
	defer f.mu.Unlock()
	if known := f.seen[key]; known != nil {
		known.entry, known.fields, known.repeats = e, fields, known.repeats+1
		return nil
	}
	f.tell(f.last)
	f.last = ""
	if len(f.seen) < mostFolds && !f.closed {
		f.seen[key] = &fold{to: f, entry: e, fields: fields, timer: time.AfterFunc(foldWindow, func() { f.over(key) })}
		if e.Level < zapcore.WarnLevel {
			f.last = key
		}
	}
	return f.put(e, fields)
}

// put writes a line to each core that wants it.
func (f *folding) put(e zapcore.Entry, fields []zapcore.Field) (err error) {
	for _, c := range f.cores {
		if c.Enabled(e.Level) {
			if e := c.Write(e, fields); e != nil {
				err = e
			}
		}
	}
	return err
}

// over ends a minute. A line that was repeated in it has another one.
func (f *folds) over(key string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	known := f.seen[key]
	if known == nil {
		return
	}
	if known.repeats == 0 || f.closed {
		delete(f.seen, key)
		return
	}
	known.write()
	known.timer.Reset(foldWindow)
}

// tell writes what was counted of a line, and forgets it. The mutex is held.
func (f *folds) tell(key string) {
	if known := f.seen[key]; known != nil {
		known.timer.Stop()
		delete(f.seen, key)
		known.write()
	}
}

func (k *fold) write() {
	if n := k.repeats; n > 0 {
		k.repeats = 0
		_ = k.to.put(k.entry, append(k.fields[:len(k.fields):len(k.fields)], zap.Int("repeated", n))) // a full disk is told by what is below
	}
}

// close writes all that was counted. From then on nothing is folded.
func (f *folds) close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = true
	for key := range f.seen {
		f.tell(key)
	}
}

// keyOf is what fields add to a line's key.
func keyOf(fields []zapcore.Field) string {
	var b strings.Builder
	for _, f := range fields {
		if f.Type == zapcore.DurationType || f.Type == zapcore.TimeType || f.Type == zapcore.TimeFullType {
			continue
		}
		fmt.Fprintf(&b, "\x00%s=%d %s %v", f.Key, f.Integer, f.String, f.Interface)
	}
	return b.String()
}
