// Package bundle makes the archive that somebody who helps with a host needs: what is configured, what the agent remembers and does, what the
// kernel, the engine and the network are like, and the last log lines. It is made on a host where anything may be broken, so that nothing in it
// depends on anything else in it:
//
//   - each [Piece] has a deadline of its own, and is given up when that is over, whatever it does;
//   - a piece that fails has its error in its place, in the file contents.txt and, by name, in the archive's last file;
//   - pieces have a bound, above which their beginning is left out, and so has the archive;
//   - it is made in memory and written as it comes, so that a full disk is no obstacle to who writes it to standard output.
//
// # Secrets
//
// First, nothing that holds secrets is put in: no file of keys, no variable of a container, nothing that one has printed, no command line, and of the configuration the effective
// values, in which secrets are hidden by type. Second, whatever is put in goes through a [Filter], which knows the secrets of this host by
// value, in clear, in JSON, URL-encoded and in base64, and others by what stands around them.
package bundle

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"
)

// Piece is a file of the archive.
type Piece struct {
	Name string // its path in the archive
	// Make writes it until its deadline. What it has written counts, also with an error.
	Make func(ctx context.Context, w io.Writer) error
	// Within is the deadline, [DefaultWithin] if zero.
	Within time.Duration
	// Most bounds its bytes, [DefaultMost] if zero; the end is kept.
	Most int
}

// The bounds of pieces that name none, and of the archive before it is compressed.
const (
	DefaultWithin = 15 * time.Second
	DefaultMost   = 2 << 20
	mostOfAll     = 96 << 20

	atOnce = 4
)

// made is a piece as it was made.
type made struct {
	Piece
	data []byte
	err  error
	took time.Duration
	cut  int64 // bytes left out at its beginning
}

// Write makes the pieces and writes them as a tar archive, compressed with gzip, below a folder of a name. The error is of the writer alone; how many pieces
// failed is returned beside it.
func Write(ctx context.Context, w io.Writer, folder string, pieces []Piece, filter *Filter, now time.Time) (failed int, err error) {
	all := make([]*made, len(pieces))
	slots := make(chan struct{}, atOnce)
	var wait sync.WaitGroup
	for i, p := range pieces {
		wait.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			all[i] = p.make(ctx)
		})
	}
	wait.Wait()
	zipped := gzip.NewWriter(w)
	archive := tar.NewWriter(zipped)
	put := func(name string, data []byte) {
		if err == nil {
			err = archive.WriteHeader(&tar.Header{Name: folder + "/" + name, Mode: 0o600, Size: int64(len(data)), ModTime: now, Typeflag: tar.TypeReg})
		}
		if err == nil {
			_, err = archive.Write(data)
		}
	}
	var contents bytes.Buffer
	fmt.Fprintf(&contents, "Made %s. Secrets are replaced by %s.\n\n", now.UTC().Format(time.RFC3339), hidden)
	left := mostOfAll
	for _, m := range all {
		data := filter.Clean(m.data)
		if len(data) > left {
			m.cut += int64(len(data) - left)
			data = data[len(data)-left:]
		}
		left -= len(data)
		line := fmt.Sprintf("%-40s %9d bytes in %s", m.Name, len(data), m.took.Round(time.Millisecond))
		if m.cut > 0 {
			line += fmt.Sprintf(", without the %d bytes before them", m.cut)
		}
		if m.err != nil {
			failed++
			line += "; FAILED: " + string(filter.Clean([]byte(m.err.Error())))
		}
		contents.WriteString(line + "\n")
		put(m.Name, data)
	}
	put("contents.txt", contents.Bytes())
	return failed, errors.Join(err, archive.Close(), zipped.Close())
}

// make makes a piece within its deadline. One that does not heed it is left to itself; what it writes from then on is nobody's.
func (p Piece) make(ctx context.Context) *made {
	if p.Within == 0 {
		p.Within = DefaultWithin
	}
	if p.Most == 0 {
		p.Most = DefaultMost
	}
	m, begun := &made{Piece: p}, time.Now()
	ctx, cancel := context.WithTimeout(ctx, p.Within)
	defer cancel()
	out, done := &end{most: p.Most}, make(chan error, 1)
	go func() {
		defer func() {
			if r := recover(); r != nil {
				done <- fmt.Errorf("it panicked: %v", r)
			}
		}()
		done <- p.Make(ctx, out)
	}()
	select {
	case m.err = <-done:
	case <-ctx.Done():
		select {
		case m.err = <-done:
		case <-time.After(time.Second): // one that heeds its deadline says what it was at
			m.err = fmt.Errorf("no answer within %s: %w", p.Within, context.Cause(ctx))
		}
	}
	m.took = time.Since(begun)
	m.data, m.cut = out.take()
	if m.err != nil {
		m.data = append(m.data, fmt.Appendf(nil, "\nFAILED: %v\n", m.err)...)
	}
	return m
}

// end keeps the end of what is written to it.
type end struct {
	mu   sync.Mutex
	most int
	data []byte
	cut  int64
	over bool
}

// Write keeps what fits; nothing is kept once it was taken.
func (e *end) Write(p []byte) (int, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.over {
		return 0, errors.New("it is too late")
	}
	e.data = append(e.data, p...)
	if more := len(e.data) - 2*e.most; more > 0 { // not with each write
		e.trim()
	}
	return len(p), nil
}

func (e *end) trim() {
	if more := len(e.data) - e.most; more > 0 {
		e.cut += int64(more)
		e.data = append([]byte(nil), e.data[more:]...)
	}
}

func (e *end) take() ([]byte, int64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.trim()
	e.over = true
	return e.data, e.cut
}
