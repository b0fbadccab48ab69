package logprocess

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"sync"
	"time"

	"github.com/docker/go-units"

	"github.com/longshore-project/longshore/engine/logdriver"
)

// maxLine is the longest line that is not split, as in Docker.
const maxLine = 16 << 10

// defaultBuffer is the size of the buffer of the non-blocking mode, as in Docker.
const defaultBuffer = 1 << 20

// Copy takes what comes from both pipes to the driver of the settings, until both have ended. What the driver can't write is lost and counted;
// the container is not held up by that.
func Copy(stdout, stderr io.Reader, d Driver, s logdriver.Settings) error {
	keeper := newKeeper(s.Dir)
	if r, ok := d.(interface{ Report(func(error)) }); ok {
		r.Report(keeper.failed)
	}
	write, finish := d.Write, func() {}
	if s.Options["mode"] == logdriver.NonBlocking {
		limit := int64(defaultBuffer)
		if v, err := units.RAMInBytes(s.Options["max-buffer-size"]); err == nil && v > 0 {
			limit = v
		}
		b := newBuffer(limit, func(e Entry) { keeper.failed(d.Write(e)) })
		write = func(e Entry) error {
			if !b.put(e) {
				keeper.dropped()
			}
			return nil
		}
		finish = b.end
	}
	var mu sync.Mutex // one entry at a time
	var work sync.WaitGroup
	for name, from := range map[string]io.Reader{"stdout": stdout, "stderr": stderr} {
		work.Go(func() {
			split(from, name, func(e Entry) {
				mu.Lock()
				defer mu.Unlock()
				keeper.failed(write(e))
			})
		})
	}
	work.Wait()
	finish()
	keeper.failed(d.Close())
	return keeper.end()
}

// split reads lines until the end.
func split(from io.Reader, stream string, write func(Entry)) {
	r := bufio.NewReaderSize(from, maxLine)
	for {
		line, err := r.ReadSlice('\n')
		if len(line) > 0 {
			write(Entry{Time: time.Now().UTC(), Stream: stream, Line: line, Partial: errors.Is(err, bufio.ErrBufferFull)})
		}
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return
		}
	}
}

// buffer holds entries between a container that must not wait and a driver that is slow. A new entry that does not fit is dropped.
type buffer struct {
	mu      sync.Mutex
	more    *sync.Cond
	queue   []Entry
	size    int64
	limit   int64
	over    bool
	drained chan struct{}
}

func newBuffer(limit int64, write func(Entry)) *buffer {
	b := &buffer{limit: limit, drained: make(chan struct{})}
	b.more = sync.NewCond(&b.mu)
	go func() {
		defer close(b.drained)
		for {
			b.mu.Lock()
			for len(b.queue) == 0 && !b.over {
				b.more.Wait()
			}
			if len(b.queue) == 0 {
				b.mu.Unlock()
				return
			}
			e := b.queue[0]
			b.queue = b.queue[1:]
			b.size -= int64(len(e.Line))
			b.mu.Unlock()
			write(e)
		}
	}()
	return b
}

func (b *buffer) put(e Entry) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.size+int64(len(e.Line)) > b.limit {
		return false
	}
	e.Line = bytes.Clone(e.Line)
	b.queue = append(b.queue, e)
	b.size += int64(len(e.Line))
	b.more.Signal()
	return true
}

// end waits until what is there has been written.
func (b *buffer) end() {
	b.mu.Lock()
	b.over = true
	b.more.Signal()
	b.mu.Unlock()
	<-b.drained
}

// keeper counts losses, and writes them down at most once in a while.
type keeper struct {
	mu     sync.Mutex
	dir    string
	now    logdriver.Status
	dirty  bool
	timer  *time.Timer
	closed bool
}

const statusInterval = 5 * time.Second

func newKeeper(dir string) *keeper { return &keeper{dir: dir} }

func (k *keeper) dropped() { k.count(func(s *logdriver.Status) { s.Dropped++ }) }

func (k *keeper) failed(err error) {
	if err == nil {
		return
	}
	n := 1
	var lost *Lost
	if errors.As(err, &lost) {
		n = lost.Lines
	}
	k.count(func(s *logdriver.Status) {
		s.Failed += int64(n)
		s.LastError = err.Error()
	})
}

func (k *keeper) count(f func(*logdriver.Status)) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.now.Since.IsZero() {
		k.now.Since = time.Now().UTC()
	}
	f(&k.now)
	k.dirty = true
	if k.timer == nil && !k.closed { // the first at once, those that follow together
		_ = k.write()
		k.later()
	}
}

// later writes what is not written yet, after a while. The mutex is held.
func (k *keeper) later() {
	k.timer = time.AfterFunc(statusInterval, func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		if k.timer = nil; k.dirty && !k.closed {
			_ = k.write()
			k.later()
		}
	})
}

// write writes the status if it has changed. The mutex is held.
func (k *keeper) write() error {
	if !k.dirty {
		return nil
	}
	if err := k.now.Write(k.dir); err != nil {
		return err
	}
	k.dirty = false
	return nil
}

func (k *keeper) end() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.closed = true
	if k.timer != nil {
		k.timer.Stop()
	}
	return k.write()
}
