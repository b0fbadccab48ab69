package caller

import (
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"testing"
)

func TestWhoHasAPortIsNamed(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	all, err := net.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer all.Close()
	f := New(Config{})
	want := "(pid " + strconv.Itoa(os.Getpid()) + ")"
	for _, at := range []net.Listener{l, all} {
		port := netip.MustParseAddrPort(at.Addr().String()).Port()
		if got := f.Listener([4]byte{127, 0, 0, 1}, port); !strings.HasSuffix(got, want) {
			t.Errorf("%s: %q, want %s", at.Addr(), got, want)
		}
	}
	if got := f.Listener([4]byte{127, 0, 0, 2}, netip.MustParseAddrPort(l.Addr().String()).Port()); got != "" {
		t.Errorf("at another address: %q", got)
	}
}

func TestTheTableOfSocketsIsReadAsTheKernelWritesIt(t *testing.T) {
	const table = `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 02AAFEA9:C9DF 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 777 1 0 100 0 0 10 0
   1: 00000000:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 778 1 0 100 0 0 10 0
   2: 0100007F:0017 0100007F:0016 01 00000000:00000000 00:00000000 00000000     0        0 779 1 0 100 0 0 10 0
   3: 0000000000000000FFFF00000100007F:0018 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 780 1
   4: short
`
	for port, want := range map[uint16]string{51679: "777", 22: "778", 23: "", 24: "", 25: ""} {
		if got := listeningAt(strings.NewReader(table), [4]byte{169, 254, 170, 2}, port); got != want {
			t.Errorf("port %d: inode %q, want %q", port, got, want)
		}
	}
	if got := listeningAt(strings.NewReader(table), [4]byte{127, 0, 0, 1}, 24); got != "780" {
		t.Errorf("an IPv4 address of a socket of both families: %q", got)
	}
}

func FuzzATableOfSockets(f *testing.F) {
	f.Add("0: 02AAFEA9:C9DF 0:0 0A 0 0 0 0 0 777", uint16(51679))
	f.Fuzz(func(_ *testing.T, table string, port uint16) {
		listeningAt(strings.NewReader(table), [4]byte{169, 254, 170, 2}, port)
	})
}
