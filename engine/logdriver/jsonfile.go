package logdriver

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
	"path/filepath"
	"strconv"
	"time"
)

// Line is an object of a file in Docker's json-file format: one a line.
type Line struct {
	Log    string            `json:"log"`
	Stream string            `json:"stream"`
	Attrs  map[string]string `json:"attrs,omitempty"`
	Time   time.Time         `json:"time"`
}

// fileName is the newest file.
const fileName = "container.log"

// Numbered is a container's file: 0 is the newest, 1 is what was that before it grew to its size, and so on.
func Numbered(dir string, n int) string {
	if n == 0 {
		return filepath.Join(dir, fileName)
	}
	return filepath.Join(dir, fileName+"."+strconv.Itoa(n))
}

// ReadOptions say which part of a container's output is read.
type ReadOptions struct {
	Lines int       // the last ones; 0 or less: all
	Since time.Time // only what was written then or later
	Times bool      // each line begins with its time and a blank
	// Running reports whether more may come: it is followed until it is false. nil: nothing is followed.
	Running func() (bool, error)
}

const (
	// maxObject bounds an object of a file when it is read: a line of 16 KiB, each byte of which may take six.
	maxObject = 256 << 10
	// followInterval is how often a file that is followed is looked at.
	followInterval = 100 * time.Millisecond
	timeLayout     = "2006-01-02T15:04:05.000000000Z07:00"
)

// printer writes lines as they are asked for.
type printer struct {
	o       ReadOptions
	w       io.Writer
	inLine  bool           // the last one had no newline
	kept    []func() error // print the last lines of those that there were before anything is followed
	flushed bool
}

// take prints a line, or keeps it as one that may be among the last; both by show.
func (p *printer) take(show func() error) error {
	if p.o.Lines <= 0 || p.flushed {
		return show()
	}
	if p.kept = append(p.kept, show); len(p.kept) > p.o.Lines {
		p.kept[0] = nil
		p.kept = p.kept[1:]
	}
	return nil
}

// flush prints the last lines that there were; from then on all are printed.
func (p *printer) flush() error {
	for _, show := range p.kept {
		if err := show(); err != nil {
			return err
		}
	}
	p.kept, p.flushed = nil, true
	return nil
}

func (p *printer) print(at time.Time, text string) error {
	if at.Before(p.o.Since) || text == "" {
		return nil
	}
	if p.o.Times && !p.inLine {
		text = at.UTC().Format(timeLayout) + " " + text
	}
	p.inLine = text[len(text)-1] != '\n'
	_, err := io.WriteString(p.w, text)
	return err
}

// Read copies what json-file has written in a folder. An object that a power cut has cut off is left out. Files that are rotated while they are
// read are read on; what is rotated away before it was read is left out.
func Read(ctx context.Context, dir string, o ReadOptions, w io.Writer) error {
	r := &fileReader{dir: dir, printer: printer{o: o, w: w}}
	defer r.close()
	if err := r.toEnd(ctx); err != nil {
		return err
	}
	if err := r.flush(); err != nil || o.Running == nil {
		return err
	}
	tick := time.NewTicker(followInterval)
	defer tick.Stop()
	for {
		more, err := o.Running() // asked first: what was written before its end is there when it is false
		if err != nil {
			return err
		}
		if err := r.toEnd(ctx); err != nil || !more {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// fileReader reads a folder's files, the oldest first.
type fileReader struct {
	printer
	dir  string
	f    *os.File
	in   *bufio.Reader
	part []byte // of an object that is not whole yet
	skip bool   // the object is too long
}

func (r *fileReader) close() {
	if r.f != nil {
		_ = r.f.Close()
	}
}

// toEnd reads what there is.
func (r *fileReader) toEnd(ctx context.Context) error {
	for {
		if err := r.drain(ctx); err != nil {
			return err
		}
		next, err := r.next()
		if err != nil || next == nil {
			return err
		}
		err = r.drain(ctx) // nothing more is written there once there is a next one
		r.close()
		r.f, r.in, r.part, r.skip = next, bufio.NewReaderSize(next, 64<<10), nil, false
		if err != nil {
			return err
		}
	}
}

// drain reads the open file to its end.
func (r *fileReader) drain(ctx context.Context) error {
	if r.f == nil {
		return nil
	}
	for {
		b, err := r.in.ReadSlice('\n')
		switch {
		case r.skip || len(r.part)+len(b) > maxObject:
			r.part, r.skip = nil, err != nil || b[len(b)-1] != '\n'
		case err == nil && len(r.part) == 0:
			err = r.object(b)
		case err == nil:
			err = r.object(append(r.part, b...))
			r.part = nil
		default:
			r.part = append(r.part, b...)
		}
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil && !errors.Is(err, bufio.ErrBufferFull):
			return fmt.Errorf("%s: %w", r.f.Name(), err)
		case ctx.Err() != nil:
			return ctx.Err()
		}
	}
}

// object takes a whole object. It is not decoded before it is known to be wanted.
func (r *fileReader) object(b []byte) error {
	b = bytes.Clone(b)
	return r.take(func() error { return r.show(b) })
}

func (r *fileReader) show(b []byte) error {
	var l Line
	if json.Unmarshal(b, &l) != nil {
		return nil
	}
	return r.print(l.Time, l.Log)
}

// next is the file after the open one, nil if that is the newest; the oldest if none is open or it was rotated away. Files may be renamed
// meanwhile, so what was found is looked at once more.
func (r *fileReader) next() (*os.File, error) {
	const tries = 100
	for range tries {
		n, err := r.after()
		if err != nil || n < 0 {
			return nil, err
		}
		f, err := os.Open(Numbered(r.dir, n))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		again, err := r.after()
		if err == nil && again == n && isFile(f, Numbered(r.dir, n)) {
			return f, nil
		}
		_ = f.Close()
		if err != nil {
			return nil, err
		}
	}
	return nil, fmt.Errorf("%s: its files are rotated faster than they can be read", r.dir)
}

// after is the number of the file after the open one; -1 if there is none.
func (r *fileReader) after() (int, error) {
	for n := 0; ; n++ {
		info, err := os.Stat(Numbered(r.dir, n))
		switch {
		case errors.Is(err, fs.ErrNotExist) && n == 0:
			return -1, nil // none yet, or being rotated
		case errors.Is(err, fs.ErrNotExist):
			return n - 1, nil
		case err != nil:
			return 0, err
		}
		if r.f == nil {
			continue
		}
		open, err := r.f.Stat()
		if err != nil {
			return 0, err
		}
		if os.SameFile(open, info) {
			return n - 1, nil
		}
	}
}

func isFile(f *os.File, name string) bool {
	a, err := f.Stat()
	if err != nil {
		return false
	}
	b, err := os.Stat(name)
	return err == nil && os.SameFile(a, b)
}
