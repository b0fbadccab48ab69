package replicas

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

// lan is a network of nodes: namespaces without names, which vanish with this process, on a bridge in another one. Between
// any two of them packets can be dropped.
type lan struct {
	t     *testing.T
	hub   netns.NsHandle // has the bridge, and is where this process dials from
	nodes map[string]netns.NsHandle
}

// hubIP is this process's own address.
const hubIP = "10.77.0.254"

// in runs f on a thread that is in a namespace.
func in(ns netns.NsHandle, f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		if err := netns.Set(ns); err != nil {
			done <- fmt.Errorf("enter a network namespace: %w", err)
			return
		}
		done <- f()
	}()
	return <-done
}

func newNamespace() (ns netns.NsHandle, err error) {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		ns, err = netns.New()
		if err == nil {
			err = up("lo")
		}
		done <- err
	}()
	return ns, <-done
}

func up(name string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(link)
}

func address(name, cidr string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	a, err := netlink.ParseAddr(cidr)
	if err != nil {
		return err
	}
	return errors.Join(netlink.AddrAdd(link, a), netlink.LinkSetUp(link))
}

// newLAN makes a network with a node for each address.
func newLAN(t *testing.T, ips ...string) *lan {
	t.Helper()
	hub, err := newNamespace()
	if err != nil {
		t.Fatalf("the tests of replicas need root: they make network namespaces: %v", err)
	}
	l := &lan{t: t, hub: hub, nodes: map[string]netns.NsHandle{}}
	t.Cleanup(l.close)
	if err := in(hub, func() error {
		if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "lan"}}); err != nil {
			return err
		}
		return address("lan", hubIP+"/24")
	}); err != nil {
		t.Fatal(err)
	}
	for i, ip := range ips {
		if err := l.add(ip, fmt.Sprint("n", i)); err != nil {
			t.Fatalf("node %s: %v", ip, err)
		}
	}
	return l
}

const rules = `table inet cut {
	set gone { type ipv4_addr; }
	chain in { type filter hook input priority 0; ip saddr @gone drop; }
	chain out { type filter hook output priority 0; ip daddr @gone drop; }
}`

func (l *lan) add(ip, port string) error {
	node, err := newNamespace()
	if err != nil {
		return err
	}
	l.nodes[ip] = node
	if err := in(l.hub, func() error {
		if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: port}, PeerName: "eth0", PeerNamespace: netlink.NsFd(int(node))}); err != nil {
			return err
		}
		link, err := netlink.LinkByName(port)
		if err != nil {
			return err
		}
		bridge, err := netlink.LinkByName("lan")
		if err != nil {
			return err
		}
		return errors.Join(netlink.LinkSetMaster(link, bridge), netlink.LinkSetUp(link))
	}); err != nil {
		return err
	}
	if err := in(node, func() error { return address("eth0", ip+"/24") }); err != nil {
		return err
	}
	return l.nft(ip, "-f", "-")
}

func (l *lan) close() {
	for _, n := range l.nodes {
		_ = n.Close()
	}
	_ = l.hub.Close()
}

// nft runs nft on a node.
func (l *lan) nft(ip string, args ...string) error {
	cmd := exec.Command("nft", args...)
	if slices.Equal(args, []string{"-f", "-"}) {
		cmd.Stdin = strings.NewReader(rules)
	}
	return in(l.nodes[ip], func() error {
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	})
}

// cut drops what goes between two nodes, or a node and this process, both ways.
func (l *lan) cut(a, b string) {
	l.t.Helper()
	if err := l.nft(a, "add", "element", "inet", "cut", "gone", "{", b, "}"); err != nil {
		l.t.Errorf("cut %s from %s: %v", a, b, err)
	}
}

// heal ends all cuts that were made at a node.
func (l *lan) heal(a string) {
	l.t.Helper()
	if err := l.nft(a, "flush", "set", "inet", "cut", "gone"); err != nil {
		l.t.Errorf("heal %s: %v", a, err)
	}
}

// start starts a command on a node.
func (l *lan) start(ip string, cmd *exec.Cmd) error { return in(l.nodes[ip], cmd.Start) }

// dial connects from this process's own place on the network.
func (l *lan) dial(ctx context.Context, target string) (conn net.Conn, err error) {
	err = in(l.hub, func() error {
		var e error
		conn, e = (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "tcp4", target)
		return e
	})
	return conn, err
}

// balancer passes connections on to whichever target takes them, each to the next one; bytes are not touched. While it is
// frozen nothing passes, and nobody is told.
type balancer struct {
	l       *lan
	targets []string
	next    atomic.Int64
	ctx     context.Context
	cancel  context.CancelFunc
	wg      sync.WaitGroup
	addr    string

	mu   sync.Mutex
	thaw chan struct{} // closed when it is not frozen
}

func (l *lan) balance(first int, targets ...string) *balancer {
	l.t.Helper()
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		l.t.Fatal(err)
	}
	b := &balancer{l: l, targets: targets, addr: listener.Addr().String(), thaw: make(chan struct{})}
	b.next.Store(int64(first))
	b.ctx, b.cancel = context.WithCancel(context.Background())
	close(b.thaw)
	b.wg.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			b.wg.Go(func() { b.pass(conn) })
		}
	})
	stop := context.AfterFunc(b.ctx, func() { _ = listener.Close() })
	l.t.Cleanup(func() { b.cancel(); stop(); _ = listener.Close(); b.wg.Wait() })
	return b
}

func (b *balancer) url() string { return "http://" + b.addr }

// freeze stops all that passes; what it returns lets it pass again.
func (b *balancer) freeze() (thaw func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	c := make(chan struct{})
	b.thaw = c
	return func() { close(c) }
}

func (b *balancer) wait() {
	b.mu.Lock()
	c := b.thaw
	b.mu.Unlock()
	select {
	case <-c:
	case <-b.ctx.Done():
	}
}

func (b *balancer) pass(conn net.Conn) {
	defer conn.Close()
	b.wait()
	var upstream net.Conn
	var err error
	for range b.targets {
		if upstream, err = b.l.dial(b.ctx, b.targets[int(b.next.Add(1))%len(b.targets)]); err == nil {
			break
		}
	}
	if err != nil {
		return
	}
	defer upstream.Close()
	stop := context.AfterFunc(b.ctx, func() { _ = conn.Close(); _ = upstream.Close() })
	defer stop()
	var both sync.WaitGroup
	for _, way := range [][2]net.Conn{{upstream, conn}, {conn, upstream}} {
		both.Go(func() {
			b.copy(way[0], way[1])
			_ = conn.Close() // an end of either is the end of both
			_ = upstream.Close()
		})
	}
	both.Wait()
}

func (b *balancer) copy(to io.Writer, from io.Reader) {
	buffer := make([]byte, 16<<10)
	for {
		n, err := from.Read(buffer)
		b.wait()
		if n > 0 {
			if _, e := to.Write(buffer[:n]); e != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}
