package poll

import (
	"errors"
	"net"
	"os/exec"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestTheMoreAgentsThereAreTheLongerIsThePauseBetweenPings(t *testing.T) {
	var cfg Config
	cfg.defaults()
	for sockets, want := range map[int]time.Duration{0: 1500 * time.Millisecond, 4500: 1500 * time.Millisecond, 6000: 2 * time.Second, 9000: 3 * time.Second, 100_000: 3 * time.Second} {
		if got := cfg.pingPause(sockets); got != want {
			t.Errorf("with %d sockets it is %s, not %s", sockets, got, want)
		}
	}
}

// pipe is a TCP connection in a network namespace of its own, and what cuts it.
func pipe(t *testing.T) (server, client net.Conn, cut func()) {
	t.Helper()
	commands := make(chan []string)
	answers := make(chan error)
	t.Cleanup(func() { close(commands) })
	type ends struct {
		server, client net.Conn
		err            error
	}
	made := make(chan ends)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			made <- ends{err: err}
			return
		}
		if err := exec.Command("ip", "link", "set", "lo", "up").Run(); err != nil {
			made <- ends{err: err}
			return
		}
		var e ends
		var l net.Listener
		if l, e.err = net.Listen("tcp", "127.0.0.1:0"); e.err == nil {
			if e.client, e.err = net.Dial("tcp", l.Addr().String()); e.err == nil {
				e.server, e.err = l.Accept()
			}
			_ = l.Close()
		}
		made <- e
		for c := range commands {
			answers <- exec.Command(c[0], c[1:]...).Run()
		}
	}()
	e := <-made
	if e.err != nil {
		t.Fatal(e.err)
	}
	t.Cleanup(func() { _, _ = e.server.Close(), e.client.Close() })
	return e.server, e.client, func() {
		commands <- []string{"ip", "link", "set", "lo", "down"}
		if err := <-answers; err != nil {
			t.Fatal(err)
		}
	}
}

// The agent's process needs no time for it, and one that says nothing for long is no less there.
func TestAMachineThatIsCutOffIsNoticedByTheKernelAndASilentAgentIsNot(t *testing.T) {
	server, client, cut := pipe(t)
	if err := endWhenGone(server, 2*time.Second); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := server.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	if err := server.SetReadDeadline(time.Now().Add(4 * time.Second)); err != nil {
		t.Fatal(err)
	}
	var late net.Error
	if _, err := server.Read(make([]byte, 1)); !errors.As(err, &late) || !late.Timeout() || errors.Is(err, unix.ETIMEDOUT) {
		t.Fatalf("a connection on which nothing was said for 4 s ended: %v", err)
	}
	if err := server.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	cut()
	if _, err := server.Read(make([]byte, 1)); !errors.Is(err, unix.ETIMEDOUT) {
		t.Fatalf("the connection was cut, and what came of it is %v", err)
	}
}

func TestEachAgentsConnectionIsLookedAfterByTheKernel(t *testing.T) {
	w := newWorld(t)
	w.connect(instance)
	var session *acsSession
	w.until("it is connected", func() bool {
		w.server.mu.Lock()
		defer w.server.mu.Unlock()
		session = w.server.acs[place{cluster, instance}]
		return session != nil
	})
	raw, err := session.wire.Conn.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	for option, want := range map[int]int{unix.TCP_USER_TIMEOUT: 4000, unix.TCP_KEEPIDLE: 2, unix.TCP_KEEPINTVL: 1} {
		var got int
		if control := raw.Control(func(fd uintptr) { got, err = unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, option) }); control != nil || err != nil || got != want {
			t.Errorf("option %d is %d, not %d: %v %v", option, got, want, control, err)
		}
	}
}
