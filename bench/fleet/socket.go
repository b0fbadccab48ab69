package fleet

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

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

// socket is the client's end of a web socket, RFC 6455, as lean as it goes: agents share the machine with what they measure.
type socket struct {
	conn net.Conn
	in   *bufio.Reader
	mu   sync.Mutex // one frame is written at a time
}

// dial opens a web socket with a signed request. The signature covers host and date, as agents' do.
func (f *Fleet) dial(ctx context.Context, url string) (*socket, error) {
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
	s := &socket{conn: conn, in: bufio.NewReaderSize(conn, 1024)}
	if err := s.shake(r); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

func (s *socket) shake(r *http.Request) error {
	if err := s.conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		return err
	}
	if err := r.Write(s.conn); err != nil {
		return err
	}
	answer, err := http.ReadResponse(s.in, r)
	if err != nil {
		return err
	}
	if answer.StatusCode != http.StatusSwitchingProtocols {
		body, _ := io.ReadAll(io.LimitReader(answer.Body, 1024)) // what there is of it explains
		_ = answer.Body.Close()
		return fmt.Errorf("the web socket was refused with %s: %s", answer.Status, body)
	}
	return s.conn.SetDeadline(time.Time{})
}

func (s *socket) close() { _ = s.conn.Close() }

// read gives handle each message until the socket ends or handle fails. Pings are answered.
func (s *socket) read(handle func(message []byte) error) error {
	var message []byte
	for {
		final, op, payload, err := s.frame()
		if err != nil {
			return err
		}
		switch op {
		case opPing:
			err = s.write(opPong, payload)
		case opClose:
			_ = s.write(opClose, payload[:min(2, len(payload))])
			return fmt.Errorf("closed by the control plane: %q", payload[min(2, len(payload)):])
		case opText, opBinary, opContinuation:
			if message = append(message, payload...); final {
				err = handle(message)
				message = nil
			}
		}
		if err != nil {
			return err
		}
	}
}

// frame reads one frame; a server's are not masked.
func (s *socket) frame() (final bool, op byte, payload []byte, err error) {
	var head [8]byte
	if _, err := io.ReadFull(s.in, head[:2]); err != nil {
		return false, 0, nil, err
	}
	final, op = head[0]&0x80 != 0, head[0]&0x0f
	size := uint64(head[1])
	switch size {
	case 126:
		_, err = io.ReadFull(s.in, head[:2])
		size = uint64(binary.BigEndian.Uint16(head[:2]))
	case 127:
		_, err = io.ReadFull(s.in, head[:8])
		size = binary.BigEndian.Uint64(head[:8])
	}
	if err == nil && size > acs.MaxFrame {
		err = fmt.Errorf("a frame of %d bytes", size)
	}
	if err != nil {
		return false, 0, nil, err
	}
	payload = make([]byte, size)
	_, err = io.ReadFull(s.in, payload)
	return final, op, payload, err
}

// write writes one final frame. Its mask is all zeros, which costs nothing and leaves the payload as it is.
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
	if err := s.conn.SetWriteDeadline(time.Now().Add(30 * time.Second)); err != nil {
		return err
	}
	_, err := s.conn.Write(frame)
	return err
}
