package poll

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
	"pgregory.net/rapid"
)

// reads gives what was sent in the pieces in which it arrived.
type reads struct {
	net.Conn
	pieces [][]byte
}

func (r *reads) Read(b []byte) (int, error) {
	if len(r.pieces) == 0 {
		return 0, io.EOF
	}
	n := copy(b, r.pieces[0])
	if r.pieces[0] = r.pieces[0][n:]; len(r.pieces[0]) == 0 {
		r.pieces = r.pieces[1:]
	}
	return n, nil
}

// masked is a frame as clients send it.
func masked(op byte, payload []byte) []byte {
	frame := []byte{0x80 | op}
	switch n := len(payload); {
	case n < 126:
		frame = append(frame, 0x80|byte(n))
	case n < 1<<16:
		frame = binary.BigEndian.AppendUint16(append(frame, 0x80|126), uint16(n))
	default:
		frame = binary.BigEndian.AppendUint64(append(frame, 0x80|127), uint64(n))
	}
	return append(append(frame, 1, 2, 3, 4), payload...)
}

func TestAnswersToPingsEndAtTheWireAndNothingElseDoes(t *testing.T) {
	pong := masked(0xa, nil)
	text := masked(1, []byte("hello"))
	long, longest := masked(2, bytes.Repeat(pong, 1000)), masked(2, bytes.Repeat(pong, 11_000))
	w := &wire{Conn: &reads{pieces: [][]byte{pong, pong, text, pong, long, pong, longest, pong}}}
	b := make([]byte, 1<<17)
	var n int
	var err error
	for _, want := range [][]byte{text, long, longest} {
		if n, err = w.Read(b); err != nil || !bytes.Equal(b[:n], want) {
			t.Errorf("read %d bytes, not %d, %v", n, len(want), err)
		}
		if !w.heard.Swap(false) {
			t.Error("nothing was heard")
		}
	}
	if n, err = w.Read(b); n != 0 || !errors.Is(err, io.EOF) {
		t.Errorf("then %x, %v", b[:n], err)
	}
	if !w.heard.Load() {
		t.Error("an answer to a ping was not heard")
	}
}

// What a frame has in it may look like a pong, and may arrive in any pieces.
func TestWhatIsInFramesIsNeverTakenForAPong(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		pong := masked(0xa, nil)
		piece := rapid.OneOf(rapid.Just(pong), rapid.SliceOfN(rapid.Byte(), 0, 20), rapid.Just(bytes.Repeat(pong, 30)))
		var stream []byte
		for range rapid.IntRange(1, 4).Draw(t, "frames") {
			payload := bytes.Join(rapid.SliceOfN(piece, 0, 4).Draw(t, "payload"), nil)
			stream = append(stream, masked(rapid.SampledFrom([]byte{0, 1, 2}).Draw(t, "op"), payload)...)
		}
		var pieces [][]byte
		for rest := stream; len(rest) > 0; {
			n := rapid.SampledFrom([]int{1, 2, 6, 6, 6, 100, len(rest)}).Draw(t, "n")
			n = min(n, len(rest))
			if len(pieces) > 200 {
				n = len(rest)
			}
			pieces, rest = append(pieces, rest[:n]), rest[n:]
		}
		got, err := io.ReadAll(&wire{Conn: &reads{pieces: pieces}})
		if err != nil || !bytes.Equal(got, stream) {
			t.Fatalf("%d bytes of %d arrived: %v", len(got), len(stream), err)
		}
	})
}

// A session's crew beats and delivers while its reader acknowledges.
func TestWhoWritesAtOnceWritesWholeFramesOneAfterTheOther(t *testing.T) {
	const writers, each, size = 8, 50, 100_000 // a frame takes a while to be put together
	var cfg Config
	cfg.defaults()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		up := &upgrading{ResponseWriter: w, timeout: time.Minute}
		conn, err := websocket.Accept(up, r, nil)
		if err != nil {
			t.Error(err)
			return
		}
		s := newSocketFor(&cfg)
		s.conn, s.wire = conn, up.wire
		var all sync.WaitGroup
		for i := range writers {
			all.Go(func() {
				for range each {
					if err := s.write(bytes.Repeat([]byte{byte('a' + i)}, size+i)); err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		all.Wait()
		_ = conn.Close(websocket.StatusNormalClosure, "")
	}))
	defer server.Close()
	conn, _, err := websocket.Dial(t.Context(), server.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.CloseNow() }()
	conn.SetReadLimit(2 * size)
	read := map[int]int{}
	for range writers * each {
		_, frame, err := conn.Read(t.Context())
		if err != nil {
			t.Fatalf("after %v: %v", read, err)
		}
		read[len(frame)]++
	}
	for i := range writers {
		if read[size+i] != each {
			t.Errorf("%d frames of writer %d, not %d", read[size+i], i, each)
		}
	}
}
