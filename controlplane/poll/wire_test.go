package poll

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"testing"

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
