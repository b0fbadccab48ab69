package netns_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	nsfd "github.com/vishvananda/netns"
)

// node is a machine on a network: a namespace with an address of each family, or of none.
type node struct {
	name   string
	ns     nsfd.NsHandle
	v4, v6 netip.Addr
}

func (n *node) address(family string) netip.Addr {
	if family == "6" {
		return n.v6
	}
	return n.v4
}

// newNodes are machines on one bridge, with the addresses 10.5.0.1, fd05::1 and so on.
func newNodes(t *testing.T, names ...string) (nodes []*node) {
	bridge := newNamespace(t)
	in(t, bridge, script("ip link add br0 type bridge mcast_snooping 0", "ip link set br0 up"))
	for i, name := range names {
		n := &node{name, newNamespace(t), netip.MustParseAddr(fmt.Sprintf("10.5.0.%d", i+1)), netip.MustParseAddr(fmt.Sprintf("fd05::%d", i+1))}
		in(t, bridge, script(fmt.Sprintf("ip link add p%d type veth peer name eth0", i), fmt.Sprintf("ip link set p%d master br0 up", i)))
		in(t, bridge, cable("eth0", n.ns))
		in(t, n.ns, script("ip link set lo up", "ip link set eth0 up", "ip addr add "+n.v4.String()+"/24 dev eth0", "ip addr add "+n.v6.String()+"/64 dev eth0 nodad"))
		nodes = append(nodes, n)
	}
	for _, n := range nodes {
		for _, to := range nodes {
			n.settle(t, to.v6)
		}
	}
	return nodes
}

// settle waits until the kernel has done with a node's IPv6 address, which it does on the side.
func (n *node) settle(t *testing.T, to netip.Addr) {
	t.Helper()
	in(t, n.ns, func() (err error) {
		for end := time.Now().Add(patience); time.Now().Before(end); <-time.After(time.Millisecond) {
			var c net.Conn
			d := net.Dialer{LocalAddr: &net.UDPAddr{IP: n.v6.AsSlice()}}
			if c, err = d.Dial("udp6", netip.AddrPortFrom(to, 9).String()); err == nil {
				return c.Close()
			}
		}
		return err
	})
}

// within runs f in a namespace, on a thread that ends with it. It may be called from any goroutine.
func within(ns nsfd.NsHandle, f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		if err := nsfd.Set(ns); err != nil {
			done <- err
			return
		}
		done <- f()
	}()
	return <-done
}

// serve echoes on TCP and UDP ports of a node, over both families. What it answers begins with who asked.
func (n *node) serve(t *testing.T, ports ...int) {
	t.Helper()
	for _, p := range ports {
		var serving sync.WaitGroup
		var l net.Listener
		var u net.PacketConn
		if err := within(n.ns, func() (err error) {
			if l, err = net.Listen("tcp", fmt.Sprintf("[::]:%d", p)); err == nil {
				u, err = net.ListenPacket("udp", fmt.Sprintf("[::]:%d", p))
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
		serving.Go(func() { echoStreams(l) })
		serving.Go(func() { echoPackets(u) })
		t.Cleanup(func() { _ = l.Close(); _ = u.Close(); serving.Wait() })
	}
}

func echoStreams(l net.Listener) {
	var open sync.WaitGroup
	defer open.Wait()
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		open.Go(func() {
			defer c.Close()
			_ = c.SetDeadline(time.Now().Add(2 * patience))
			host, _, _ := net.SplitHostPort(c.RemoteAddr().String())
			_, _ = fmt.Fprintf(c, "%s\n", host)
			_, _ = io.Copy(c, c)
		})
	}
}

func echoPackets(u net.PacketConn) {
	b := make([]byte, 2048)
	for {
		_, from, err := u.ReadFrom(b)
		if err != nil {
			return
		}
		host, _, _ := net.SplitHostPort(from.String())
		_, _ = u.WriteTo([]byte(host+"\n"), from)
	}
}

// brief is how long it takes for us to believe that nobody answers. Where an answer is wanted, it may take patience.
const brief = 700 * time.Millisecond

// reach asks an echo server from a namespace, again and again, and says whom that saw; empty for that there was no answer in the time.
func reach(from nsfd.NsHandle, network, at string, wait time.Duration) (seen string) {
	ask := askTCP
	switch {
	case strings.HasPrefix(network, "icmp"):
		ask = ping
	case strings.HasPrefix(network, "udp"):
		ask = askUDP
	}
	_ = within(from, func() error {
		for end := time.Now().Add(wait); ; <-time.After(10 * time.Millisecond) { // who is refused asks again: somebody may listen later
			if seen = ask(network, at, time.Until(end)); seen != "" || time.Now().After(end) {
				return nil
			}
		}
	})
	return seen
}

func askTCP(network, at string, wait time.Duration) string {
	c, err := net.DialTimeout(network, at, wait)
	if err != nil {
		return ""
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(wait))
	seen, _ := line(c)
	return seen
}

func line(c io.Reader) (string, error) {
	var b [64]byte
	n, err := c.Read(b[:])
	return strings.TrimSpace(string(b[:n])), err
}

func askUDP(network, at string, wait time.Duration) string {
	c, err := net.Dial(network, at)
	if err != nil {
		return ""
	}
	defer c.Close()
	for end := time.Now().Add(wait); time.Now().Before(end); {
		_, _ = c.Write([]byte("?"))
		_ = c.SetReadDeadline(time.Now().Add(brief / 4))
		if s, err := line(c); err == nil {
			return s
		} else if !errors.Is(err, os.ErrDeadlineExceeded) {
			runtime.Gosched() // refused: somebody may listen later
		}
	}
	return ""
}

// ping sends ICMP echo requests; the answer is whom it was sent to.
func ping(network, at string, wait time.Duration) string {
	raw, request, reply := "ip4:icmp", byte(8), byte(0)
	if network == "icmp6" {
		raw, request, reply = "ip6:ipv6-icmp", 128, 129
	}
	c, err := net.Dial(raw, at)
	if err != nil {
		return ""
	}
	defer c.Close()
	for end := time.Now().Add(wait); time.Now().Before(end); {
		m := []byte{request, 0, 0, 0, 0x4c, 0x53, 0, 1}
		if request == 8 { // IPv6's the kernel makes
			sum := 0xffff - (0x0800 + 0x4c53 + 1)
			m[2], m[3] = byte(sum>>8), byte(sum)
		}
		_, _ = c.Write(m)
		_ = c.SetReadDeadline(time.Now().Add(brief / 4))
		b := make([]byte, 256)
		if n, _, err := c.(net.PacketConn).ReadFrom(b); err == nil && n > 5 && b[0] == reply && b[4] == 0x4c {
			return at
		}
	}
	return ""
}

// question is a thing that may be reached, and whether it should be.
type question struct {
	from    *node
	to      *node
	network string // tcp4, udp6, icmp4 …
	port    int
	want    bool
}

func (q question) String() string {
	return fmt.Sprintf("%s → %s %s %d", q.from.name, q.to.name, q.network, q.port)
}

// answer asks all at once, and fails for each that is not answered as it should be.
func answer(t *testing.T, questions []question) {
	t.Helper()
	var asking sync.WaitGroup
	for _, q := range questions {
		asking.Go(func() {
			wait := brief
			if q.want {
				wait = patience
			}
			at := q.to.address(q.network[len(q.network)-1:]).String()
			if !strings.HasPrefix(q.network, "icmp") {
				at = net.JoinHostPort(at, fmt.Sprint(q.port))
			}
			if seen := reach(q.from.ns, q.network, at, wait); (seen != "") != q.want {
				t.Errorf("%s: answered %v, wanted %v", q, seen != "", q.want)
			}
		})
	}
	asking.Wait()
}
