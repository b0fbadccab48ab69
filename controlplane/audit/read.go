package audit

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"
)

// Query says which entries are wanted. Zero values want all.
type Query struct {
	Since time.Time
	// Key is an access key's id, or "local"; one that was only claimed counts as well.
	Key string
	// Operation is one's name, or a pattern as path.Match knows it: "Delete*".
	Operation string
	// Follow goes on with what is written, until the context ends.
	Follow bool
	// Interval is how often a follower looks. Default 200 ms.
	Interval time.Duration
}

// Check refuses a pattern that is none.
func (q Query) Check() error {
	if _, err := path.Match(q.Operation, ""); err != nil {
		return fmt.Errorf("the operation %q is no name or pattern like Delete*", q.Operation)
	}
	return nil
}

func (q Query) wants(e *Entry) bool {
	if e.Time.Before(q.Since) || q.Key != "" && e.Key != q.Key && e.Claimed != q.Key {
		return false
	}
	match, _ := path.Match(q.Operation, e.Operation)
	return q.Operation == "" || match
}

// maxLine bounds a line: far more than any entry has.
const maxLine = 64 << 10

// Read calls f with each wanted entry below a data directory, of both books in order of time, and with its line as it is
// written. Lines that are no entries (the half of one that a full disk left) are left out. It needs no running control plane.
func Read(ctx context.Context, dataDir string, q Query, f func(e *Entry, line []byte) error) error {
	if err := q.Check(); err != nil {
		return err
	}
	if q.Interval <= 0 {
		q.Interval = 200 * time.Millisecond
	}
	dir := filepath.Join(dataDir, Dir)
	readers := []*reader{{dir: dir, book: Operators}, {dir: dir, book: Hosts}}
	defer func() {
		for _, r := range readers {
			r.close()
		}
	}()
	for {
		if err := merge(readers, q, f); err != nil {
			return err
		}
		if !q.Follow {
			return nil
		}
		timer := time.NewTimer(q.Interval)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-timer.C:
		}
	}
}

// merge hands out all that there is now, the older of the books' next ones first.
func merge(readers []*reader, q Query, f func(*Entry, []byte) error) error {
	for {
		var first *reader
		for _, r := range readers {
			if err := r.advance(); err != nil {
				return err
			}
			if r.entry != nil && (first == nil || r.entry.Time.Before(first.entry.Time)) {
				first = r
			}
		}
		if first == nil {
			return nil
		}
		e, line := first.entry, first.line
		first.entry = nil
		if q.wants(e) {
			if err := f(e, line); err != nil {
				return err
			}
		}
	}
}

// reader reads one book.
type reader struct {
	dir  string
	book Book

	name  string // of the segment that is being read
	file  *os.File
	lines *bufio.Reader
	part  []byte // of a line that has no end yet

	entry *Entry // the next one; nil: it is not read yet, or there is none
	line  []byte
}

// advance reads the next entry, if none is waiting and there is one.
func (r *reader) advance() error {
	for r.entry == nil {
		more, err := r.next()
		if more || err != nil {
			if err != nil {
				return err
			}
			continue
		}
		following, err := r.following()
		if following == "" || err != nil {
			return err
		}
		// A segment that has a follower is not written any more: what it got since the last look is read, and then it is done.
		if more, err = r.next(); err == nil && !more {
			err = r.open(following)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// next reads a line of the segment; false at what is its end so far.
func (r *reader) next() (more bool, err error) {
	if r.file == nil {
		return false, nil
	}
	part, err := r.lines.ReadSlice('\n')
	if len(r.part)+len(part) <= maxLine {
		r.part = append(r.part, part...)
	}
	switch {
	case errors.Is(err, io.EOF):
		return false, nil
	case errors.Is(err, bufio.ErrBufferFull):
		return true, nil
	case err != nil:
		return false, fmt.Errorf("read the audit log %s: %w", r.name, err)
	}
	line := bytes.Clone(bytes.TrimSuffix(r.part, []byte("\n")))
	r.part = r.part[:0]
	if e, ok := Parse(line); ok {
		r.entry, r.line = e, line
	}
	return true, nil
}

// Parse reads a line.
func Parse(line []byte) (*Entry, bool) {
	e := &Entry{}
	if err := json.Unmarshal(line, e); err != nil || e.Operation == "" || e.Time.IsZero() {
		return nil, false
	}
	return e, true
}

// following is the name of the segment after this one, "" for none.
func (r *reader) following() (string, error) {
	names, err := segmentsOf(r.dir, r.book)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("read the audit log: %w", err)
	}
	for _, name := range names {
		if strings.Compare(name, r.name) > 0 {
			return name, nil
		}
	}
	return "", nil
}

func (r *reader) open(name string) error {
	r.close()
	r.name = name
	file, err := os.Open(filepath.Join(r.dir, name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil // it was too old meanwhile
	}
	if err != nil {
		return fmt.Errorf("read the audit log: %w", err)
	}
	r.file, r.lines, r.part = file, bufio.NewReader(file), nil
	return nil
}

func (r *reader) close() {
	if r.file != nil {
		_ = r.file.Close()
		r.file = nil
	}
}
