package fleet

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/longshore-project/longshore/protocol/acs"
)

// Opcodes of RFC 6455, section 5.2.
const (
	opContinuation = 0x0
	opText         = 0x1
	opBinary       = 0x2
	opClose        = 0x8
	opPing         = 0x9
	opPong         = 0xa
)

// emptyHash is the SHA-256 of no body.
const emptyHash = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

// socket is the client's end of a web socket, RFC 6455, as lean as it goes: agents share the machine with what they measure. It has
// no goroutine: the fleet's poller reads it.
type socket struct {
	handle  func(s *socket, message []byte) error
	rest    []byte // the beginning of a frame
	message []byte // the frames of a message that is not whole

	mu sync.Mutex // one frame is written at a time
	fd int        // -1 when it is closed
}

// dial opens a web socket with a signed request. The signature covers host and date, as agents' do.
func (f *Fleet) dial(ctx context.Context, url string, handle func(*socket, []byte) error) (*socket, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.Replace(url, "ws://", "http://", 1), nil)
	if err != nil {
		return nil, err
	}
	keys, err := f.keys.Retrieve(ctx)
	if err != nil {
		return nil, err
	}
	if err := f.signer.SignHTTP(ctx, keys, r, emptyHash, "ecs", f.cfg.Region, time.Now()); err != nil {
		return nil, err
	}
	r.Header.Set("Connection", "Upgrade")
	r.Header.Set("Upgrade", "websocket")
	r.Header.Set("Sec-WebSocket-Version", "13")
	r.Header.Set("Sec-WebSocket-Key", "bG9uZ3Nob3JlLWJlbmNoIQ==")
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", r.URL.Host)
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close() }()
	in := bufio.NewReaderSize(conn, 4096)
	if err := shake(conn, in, r); err != nil {
		return nil, err
	}
	s := &socket{handle: handle, fd: -1}
	s.rest, _ = in.Peek(in.Buffered())
	s.rest = append([]byte(nil), s.rest...)
	raw, err := conn.(*net.TCPConn).SyscallConn()
	if err != nil {
		return nil, err
	}
	if control := raw.Control(func(fd uintptr) { s.fd, err = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0) }); control != nil {
		return nil, control
	}
	if err != nil {
		return nil, err
	}
	return s, f.poller.add(s)
}

func shake(conn net.Conn, in *bufio.Reader, r *http.Request) error {
	if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		return err
	}
	if err := r.Write(conn); err != nil {
		return err
	}
	answer, err := http.ReadResponse(in, r)
	if err != nil {
		return err
	}
	if answer.StatusCode != http.StatusSwitchingProtocols {
		body, _ := io.ReadAll(io.LimitReader(answer.Body, 1024)) // what there is of it explains
		_ = answer.Body.Close()
		return fmt.Errorf("the web socket was refused with %s: %s", answer.Status, body)
	}
	return nil
}

func (s *socket) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fd >= 0 {
		_ = unix.Close(s.fd)
		s.fd = -1
	}
}

// take takes what was read: whole messages are handled, pings are answered.
func (s *socket) take(b []byte) error {
	if len(s.rest) > 0 {
		s.rest = append(s.rest, b...)
		b = s.rest
	}
	for {
		final, op, payload, n, err := frame(b)
		if err != nil {
			return err
		}
		if n == 0 {
			break
		}
		b = b[n:]
		switch op {
		case opPing:
			err = s.write(opPong, payload)
		case opClose:
			_ = s.write(opClose, payload[:min(2, len(payload))])
			return fmt.Errorf("closed by the control plane: %q", payload[min(2, len(payload)):])
		case opText, opBinary, opContinuation:
			if len(s.message) == 0 && final {
				err = s.handle(s, payload)
			} else if s.message = append(s.message, payload...); final {
				err = s.handle(s, s.message)
				s.message = nil
			}
		}
		if err != nil {
			return err
		}
	}
	s.rest = append([]byte(nil), b...)
	return nil
}

// frame is the first frame in b and its length, 0 when it is not whole; a server's are not masked.
func frame(b []byte) (final bool, op byte, payload []byte, n int, err error) {
	if len(b) < 2 {
		return false, 0, nil, 0, nil
	}
	head, size := 2, uint64(b[1])
	switch {
	case size == 126 && len(b) >= 4:
		head, size = 4, uint64(binary.BigEndian.Uint16(b[2:]))
	case size == 127 && len(b) >= 10:
		head, size = 10, binary.BigEndian.Uint64(b[2:])
	case size >= 126:
		return false, 0, nil, 0, nil
	}
	if size > acs.MaxFrame {
		return false, 0, nil, 0, fmt.Errorf("a frame of %d bytes", size)
	}
	if n = head + int(size); len(b) < n {
		return false, 0, nil, 0, nil
	}
	return b[0]&0x80 != 0, b[0] & 0x0f, b[head:n], n, nil
}

// write writes one final frame. Its mask is all zeros, which costs nothing and leaves the payload as it is. A peer that does not
// read what is so little has lost the socket.
func (s *socket) write(op byte, payload []byte) error {
	frame := make([]byte, 0, len(payload)+14)
	frame = append(frame, 0x80|op)
	switch n := len(payload); {
	case n < 126:
		frame = append(frame, 0x80|byte(n))
	case n < 1<<16:
		frame = binary.BigEndian.AppendUint16(append(frame, 0x80|126), uint16(n))
	default:
		frame = binary.BigEndian.AppendUint64(append(frame, 0x80|127), uint64(n))
	}
	frame = append(append(frame, 0, 0, 0, 0), payload...)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fd < 0 {
		return net.ErrClosed
	}
	switch n, err := unix.Write(s.fd, frame); {
	case err != nil:
		return fmt.Errorf("write a frame of %d bytes: %w", len(frame), err)
	case n < len(frame):
		return fmt.Errorf("the control plane took %d of the %d bytes of a frame", n, len(frame))
	}
	return nil
}

// poller reads the sockets of a fleet, all in one goroutine.
type poller struct {
	epoll int
	mu    sync.Mutex
	by    map[int32]*socket // by file descriptor
}

func newPoller() (*poller, error) {
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("epoll: %w", err)
	}
	return &poller{epoll: epoll, by: map[int32]*socket{}}, nil
}

func (p *poller) add(s *socket) error {
	p.mu.Lock()
	p.by[int32(s.fd)] = s
	p.mu.Unlock()
	// What came with the handshake is taken at once: no more may come.
	if early := s.rest; len(early) > 0 {
		s.rest = nil
		if err := s.take(early); err != nil {
			return err
		}
	}
	return unix.EpollCtl(p.epoll, unix.EPOLL_CTL_ADD, s.fd, &unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLRDHUP, Fd: int32(s.fd)})
}

// run reads until ctx ends, and closes all sockets; ended is told of those that end before.
func (p *poller) run(ctx context.Context, ended func(error)) {
	events, buffer := make([]unix.EpollEvent, 256), make([]byte, 256<<10)
	for ctx.Err() == nil {
		n, err := unix.EpollWait(p.epoll, events, 50)
		if err != nil && !errors.Is(err, unix.EINTR) {
			ended(fmt.Errorf("epoll: %w", err))
			break
		}
		for _, e := range events[:max(n, 0)] {
			p.mu.Lock()
			s := p.by[e.Fd]
			p.mu.Unlock()
			if err := p.read(s, buffer); err != nil {
				p.mu.Lock()
				delete(p.by, e.Fd)
				p.mu.Unlock()
				s.close()
				ended(fmt.Errorf("a socket ended: %w", err))
			}
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range p.by {
		s.close()
	}
	_ = unix.Close(p.epoll)
}

func (p *poller) read(s *socket, buffer []byte) error {
	n, err := unix.Read(s.fd, buffer)
	switch {
	case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINTR):
		return nil
	case err != nil:
		return err
	case n == 0:
		return io.EOF
	}
	return s.take(buffer[:n])
}
