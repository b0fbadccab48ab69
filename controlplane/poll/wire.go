package poll

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// The buffers of an idle connection: there are very many of them, and what agents say is short.
const (
	readBuffer  = 512
	writeBuffer = 128
	// mostKept is the size of a buffer from which on it is not used again.
	mostKept = 64 << 10
)

// frames are the buffers in which frames are put together.
var frames = sync.Pool{New: func() any { return new(bytes.Buffer) }}

// ping is a ping without content: RFC 6455, section 5.5.2.
var ping = []byte{0x89, 0}

// A wire is the connection below a web socket. Each of its writes is a whole number of frames, so that a ping can be written
// at any time, and it knows whether the peer was heard. Answers to pings end here: they are most of what agents say.
type wire struct {
	net.Conn
	rest    []byte      // was read with the handshake
	heard   atomic.Bool // something was read since the last look
	place   framing     // of what was read
	timeout time.Duration

	mu   sync.Mutex
	held *bytes.Buffer // what is put together; nil: each write is sent
}

// upgrading is the answer to a request that becomes a wire.
type upgrading struct {
	http.ResponseWriter
	timeout time.Duration
	wire    *wire
}

// Hijack gives the connection small buffers: the server's own are made for requests.
func (w *upgrading) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, buffered, err := http.NewResponseController(w.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	if err := endWhenGone(conn, machineGone); err != nil {
		_ = conn.Close()
		return nil, nil, fmt.Errorf("have the kernel look after the connection: %w", err)
	}
	w.wire = &wire{Conn: conn, timeout: w.timeout}
	if n := buffered.Reader.Buffered(); n > 0 {
		peeked, _ := buffered.Reader.Peek(n)
		w.wire.rest = bytes.Clone(peeked)
	}
	return w.wire, bufio.NewReadWriter(bufio.NewReaderSize(w.wire, readBuffer), bufio.NewWriterSize(w.wire, writeBuffer)), nil
}

func (w *wire) Read(b []byte) (int, error) {
	if len(w.rest) > 0 {
		n := copy(b, w.rest)
		w.rest = w.rest[n:]
		return n, nil
	}
	for {
		n, err := w.Conn.Read(b)
		if n > 0 && !w.heard.Load() {
			w.heard.Store(true)
		}
		if err == nil && w.place.between() && isPong(b[:n]) {
			continue
		}
		w.place.pass(b[:n])
		return n, err
	}
}

// isPong tells whether b is an answer to a [ping] and nothing else: masked, as all that clients send.
func isPong(b []byte) bool { return len(b) == 6 && b[0] == 0x8a && b[1] == 0x80 }

// framing is where in a stream of frames one is: RFC 6455, section 5.2.
type framing struct {
	head []byte // the beginning of a frame's head
	left uint64 // what is to come of its payload
}

// between tells whether the next byte begins a frame.
func (f *framing) between() bool { return f.left == 0 && len(f.head) == 0 }

// pass goes on by what was read.
func (f *framing) pass(b []byte) {
	for len(b) > 0 {
		if f.left > 0 {
			n := min(f.left, uint64(len(b)))
			f.left, b = f.left-n, b[n:]
			continue
		}
		f.head, b = append(f.head, b[0]), b[1:]
		if len(f.head) < 2 {
			continue
		}
		size, mask := uint64(f.head[1]&0x7f), 0
		if f.head[1]&0x80 != 0 {
			mask = 4
		}
		switch extended := f.head[2:]; {
		case size == 126 && len(extended) == 2+mask:
			size = uint64(binary.BigEndian.Uint16(extended))
		case size == 127 && len(extended) == 8+mask:
			size = binary.BigEndian.Uint64(extended)
		case size >= 126 || len(extended) < mask:
			continue
		}
		f.head, f.left = f.head[:0], size
	}
}

func (w *wire) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.held != nil {
		return w.held.Write(b)
	}
	return w.send(b)
}

func (w *wire) send(b []byte) (int, error) {
	if err := w.SetWriteDeadline(time.Now().Add(w.timeout)); err != nil {
		return 0, err
	}
	return w.Conn.Write(b)
}

// hold puts what is written from now on together.
func (w *wire) hold() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.held = frames.Get().(*bytes.Buffer)
}

// release sends what was put together.
func (w *wire) release() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	b := w.held
	w.held = nil
	_, err := w.send(b.Bytes())
	if b.Cap() <= mostKept {
		b.Reset()
		frames.Put(b)
	}
	return err
}

// ping writes a ping, unless something is being written.
func (w *wire) ping() (sent bool, err error) {
	if !w.mu.TryLock() {
		return false, nil
	}
	defer w.mu.Unlock()
	if w.held != nil {
		return false, nil
	}
	_, err = w.send(ping)
	return true, err
}
