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
