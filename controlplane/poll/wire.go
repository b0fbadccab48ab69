package poll

import (
	"bufio"
	"bytes"
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
// at any time, and it knows whether the peer was heard.
type wire struct {
	net.Conn
	rest    []byte      // was read with the handshake
	heard   atomic.Bool // something was read since the last look
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
	n, err := w.Conn.Read(b)
	if n > 0 && !w.heard.Load() {
		w.heard.Store(true)
	}
	return n, err
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
