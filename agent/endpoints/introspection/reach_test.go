package introspection

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vishvananda/netns"
	"go.uber.org/zap"
)

// world is a host, a container of it and another machine, each a network namespace.
type world struct {
	t                      *testing.T
	host, container, other string
}

func newWorld(t *testing.T) *world {
	t.Helper()
	prefix := fmt.Sprintf("lri%d", os.Getpid())
	w := &world{t, prefix + "h", prefix + "c", prefix + "o"}
	for _, n := range []string{w.host, w.container, w.other} {
		w.ip("netns add " + n)
		t.Cleanup(func() { _ = exec.Command("ip", "netns", "del", n).Run() })
		w.ip("-n " + n + " link set lo up")
	}
	w.ip("link add eth0 netns " + w.host + " type veth peer name eth0 netns " + w.other)
	for n, last := range map[string]string{w.host: "1", w.other: "2"} {
		w.ip("-n " + n + " addr add 10.77.0." + last + "/24 dev eth0")
		w.ip("-n " + n + " addr add fd00:77::" + last + "/64 dev eth0 nodad")
		w.ip("-n " + n + " link set eth0 up")
	}
	return w
}

func (w *world) ip(args string) {
	w.t.Helper()
	if out, err := exec.Command("ip", strings.Fields(args)...).CombinedOutput(); err != nil {
		w.t.Fatalf("ip %s (as root; apt-get install -y iproute2): %v: %s", args, err, out)
	}
}

// docker makes what an engine makes: a bridge, and a container on it.
func (w *world) docker() {
	w.t.Helper()
	w.ip("-n " + w.host + " link add docker0 type bridge")
	w.ip("-n " + w.host + " addr add 172.31.7.1/24 dev docker0")
	w.ip("-n " + w.host + " addr add fd00:7::1/64 dev docker0 nodad")
	w.ip("link add veth1 netns " + w.host + " type veth peer name eth0 netns " + w.container)
	w.ip("-n " + w.host + " link set veth1 master docker0 up")
	w.ip("-n " + w.host + " link set docker0 up")
	w.ip("-n " + w.container + " addr add 172.31.7.2/24 dev eth0")
	w.ip("-n " + w.container + " addr add fd00:7::2/64 dev eth0 nodad")
	w.ip("-n " + w.container + " link set eth0 up")
}

// in runs f on a thread in a network namespace.
func in(t *testing.T, name string, f func() error) error {
	t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		ns, err := netns.GetFromName(name)
		if err == nil {
			defer func() { _ = ns.Close() }()
			if err = netns.Set(ns); err == nil {
				err = f()
			}
		}
		done <- err
	}()
	return <-done
}

// says is what the host's port says to somebody: "hi", "closed" when a connection stood and was given up, else "refused".
func (w *world) says(from, network, address, source string) string {
	w.t.Helper()
	out := ""
	err := in(w.t, from, func() error {
		d := net.Dialer{Timeout: 20 * time.Second}
		if source != "" {
			d.LocalAddr = &net.TCPAddr{IP: net.ParseIP(source)}
		}
		c, err := d.Dial(network, address)
		if err != nil {
			return err
		}
		defer func() { _ = c.Close() }()
		_ = c.SetDeadline(time.Now().Add(20 * time.Second))
		data, _ := io.ReadAll(c)
		out = string(data)
		return nil
	})
	switch {
	case err != nil && strings.Contains(err.Error(), "connection refused"):
		return "refused"
	case err != nil:
		return err.Error()
	case out == "":
		return "closed"
	}
	return out
}

func TestTheHostAndItsContainersReachIntrospectionAndNoOtherMachineDoes(t *testing.T) {
	w := newWorld(t)
	var r *Reach
	must(t, in(t, w.host, func() (err error) {
		r, err = NewReach(0, zap.NewNop())
		return err
	}))
	served := make(chan struct{})
	go func() {
		defer close(served)
		for {
			c, err := r.Accept()
			if errors.Is(err, net.ErrClosed) {
				return
			}
			_, _ = c.Write([]byte("hi"))
			_ = c.Close()
		}
	}()
	defer func() {
		_ = r.Close()
		<-served
	}()
	look := func() {
		t.Helper()
		must(t, in(t, w.host, func() error { r.look(); return nil }))
	}
	at := func(host string) string { return net.JoinHostPort(host, fmt.Sprint(r.port)) }
	expect := func(what, want, from, host, source string) {
		t.Helper()
		if got := w.says(from, "tcp", at(host), source); got != want {
			t.Errorf("%s, %s: %s", what, host, got)
		}
	}
	for _, host := range []string{"127.0.0.1", "::1"} {
		expect("the host itself", "hi", w.host, host, "")
	}
	for _, host := range []string{"10.77.0.1", "fd00:77::1"} {
		expect("another machine", "refused", w.other, host, "")
	}

	w.docker() // the engine is started later
	look()
	expect("the host itself", "hi", w.host, "172.31.7.1", "")
	for _, host := range []string{"172.31.7.1", "fd00:7::1", "10.77.0.1"} {
		if host == "10.77.0.1" {
			w.ip("-n " + w.container + " route add default via 172.31.7.1")
		}
		expect("a container", "hi", w.container, host, "")
	}
	w.ip("-n " + w.other + " route add 172.31.7.0/24 via 10.77.0.1")
	w.ip("-n " + w.other + " route add fd00:7::/64 via fd00:77::1")
	for _, host := range []string{"172.31.7.1", "fd00:7::1", "10.77.0.1", "fd00:77::1"} {
		expect("another machine with a route", "refused", w.other, host, "")
	}

	w.ip("-n " + w.container + " addr add 10.99.0.9/32 dev lo") // somebody behind the container
	w.ip("-n " + w.host + " route add 10.99.0.0/24 via 172.31.7.2")
	expect("what a container passes on", "closed", w.container, "172.31.7.1", "10.99.0.9")

	w.ip("-n " + w.host + " link add p0 type veth peer name p1") // it leads back to the host, and from there anywhere
	w.ip("-n " + w.host + " link set p0 master docker0")
	look()
	expect("a container, while another one is being made", "hi", w.container, "172.31.7.1", "")
	w.ip("-n " + w.host + " link set p1 up")
	look()
	expect("a container of a bridge that other machines are on", "refused", w.container, "172.31.7.1", "")
	w.ip("-n " + w.host + " link set p0 nomaster")
	look()
	expect("a container, when it is none any more", "hi", w.container, "172.31.7.1", "")
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestABridgeThatComesIsFoundByItself(t *testing.T) {
	w := newWorld(t)
	var r *Reach
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	watched := make(chan error)
	ready := make(chan struct{})
	go func() {
		watched <- in(t, w.host, func() (err error) {
			if r, err = NewReach(0, zap.NewNop()); err != nil {
				return err
			}
			close(ready)
			return r.Watch(ctx)
		})
	}()
	<-ready
	defer func() { _ = r.Close() }()
	w.docker()
	count := func() int {
		r.mu.Lock()
		defer r.mu.Unlock()
		return len(r.sockets)
	}
	until := func(n int) {
		t.Helper()
		for deadline := time.Now().Add(time.Minute); count() != n; {
			if time.Now().After(deadline) {
				t.Fatalf("%d sockets", count())
			}
			<-time.After(20 * time.Millisecond)
		}
	}
	until(2)
	w.ip("-n " + w.host + " link del docker0")
	until(1)
	cancel()
	if err := <-watched; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestATakenPortOfTheHostIsAnErrorThatSaysSo(t *testing.T) {
	l, err := net.Listen("tcp", "0.0.0.0:0") // as the Amazon ECS agent listens
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	_, err = NewReach(l.Addr().(*net.TCPAddr).Port, zap.NewNop())
	if err == nil || !strings.Contains(err.Error(), "is taken: another container agent") {
		t.Error(err)
	}
}

func TestAPortThatAConnectionHasAsItsNearEndIsTakenWhenThatHasEnded(t *testing.T) {
	far, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer far.Close()
	c, err := net.Dial("tcp", far.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	port := c.LocalAddr().(*net.TCPAddr).Port
	var ended atomic.Bool
	end := time.AfterFunc(300*time.Millisecond, func() {
		ended.Store(true)
		_ = c.(*net.TCPConn).SetLinger(0) // at once
		_ = c.Close()
	})
	defer end.Stop()
	r, err := NewReach(port, zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if !ended.Load() {
		t.Error("the port was had while the connection was there")
	}
}
