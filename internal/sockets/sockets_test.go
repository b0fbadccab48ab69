package sockets_test

import (
	"fmt"
	"net"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/longshore-project/longshore/internal/sockets"
)

func TestAListenersProcessIsNamed(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	f, err := l.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		t.Fatal(err)
	}
	if got := sockets.Owner("/proc", fmt.Sprint(st.Ino)); !strings.HasPrefix(got, fmt.Sprintf("process %d (", os.Getpid())) {
		t.Errorf("got %q", got)
	}
	if got := sockets.Owner("/proc", "0"); got != "a process that the agent can't see" {
		t.Errorf("nobody's: %q", got)
	}
}

func TestAPortIsListenedOnOnlyWhereSomebodyListens(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	near := c.LocalAddr().(*net.TCPAddr).Port
	if got := sockets.Listener("/proc", uint16(l.Addr().(*net.TCPAddr).Port)); !strings.HasPrefix(got, fmt.Sprintf("process %d (", os.Getpid())) {
		t.Errorf("%s is listened on by %q", l.Addr(), got)
	}
	if got := sockets.Listener("/proc", uint16(near)); got != "" {
		t.Errorf("%d is the near end of a connection, not listened on by %q", near, got)
	}
	if !sockets.Listened("/proc/thread-self", uint16(l.Addr().(*net.TCPAddr).Port)) || sockets.Listened("/proc/thread-self", uint16(near)) || sockets.Listened(t.TempDir(), uint16(near)) {
		t.Errorf("%s is listened on, %d is the near end of a connection", l.Addr(), near)
	}
}

func FuzzListenedIn(f *testing.F) {
	f.Add("  sl  local_address rem_address   st\n   0: 0100007F:C9DE 00000000:0000 0A 00000000:00000000\n", uint16(51678))
	f.Fuzz(func(_ *testing.T, table string, port uint16) { sockets.ListenedIn(strings.NewReader(table), port) })
}
