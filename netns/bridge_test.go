package netns_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	nsfd "github.com/vishvananda/netns"
	"go.uber.org/zap"

	"github.com/longshore-project/longshore/netns"
)

// bridged is a host with a bridge for containers, and a machine on its cable.
type bridged struct {
	t             *testing.T
	host, machine *node
	network       *netns.HostNetwork
	bridge        *netns.Bridge
	dir           string
}

var localSubnets = prefixes("10.64.0.1/20", "fd64::1/64")

func newBridged(t *testing.T) *bridged {
	nodes := newNodes(t, "host", "machine")
	b := &bridged{t: t, host: nodes[0], machine: nodes[1], dir: t.TempDir()}
	in(t, b.host.ns, script("ip route add default via "+b.machine.v4.String(), "ip route add default via "+b.machine.v6.String()))
	in(t, b.machine.ns, script("ip route add 10.64.0.0/20 via "+b.host.v4.String(), "ip route add fd64::/64 via "+b.host.v6.String(),
		"ip addr add 169.254.169.254/32 dev lo", "ip route add 169.254.170.2/32 via "+b.host.v4.String()))
	b.start()
	if changed, err := b.network.Ensure(); err != nil || len(changed) == 0 {
		t.Fatalf("the first look changed %q, %v", changed, err)
	}
	return b
}

// start is what the agent does when it starts: it knows nothing but the leases' directory.
func (b *bridged) start() {
	b.t.Helper()
	b.network = &netns.HostNetwork{Namespace: int(b.host.ns)}
	var err error
	if b.bridge, err = b.network.OpenBridge(netns.BridgeConfig{Subnets: localSubnets, Dir: b.dir, Log: zap.NewNop()}); err != nil {
		b.t.Fatal(err)
	}
	b.network.Set(piece(), netns.DenyMetadata{}, b.bridge)
}

// settled fails unless everything is as it should be.
func (b *bridged) settled() {
	b.t.Helper()
	if changed, err := b.network.Ensure(); err != nil || len(changed) != 0 {
		b.t.Errorf("what should be right was changed: %q, %v", changed, err)
	}
}

// container is a namespace that is connected.
func (b *bridged) container(id string, ports ...netns.Publish) (*node, netns.Lease) {
	b.t.Helper()
	c := netns.Connection{ID: id, Task: "task-of-" + id, Namespace: namespace(b.t), Ports: ports}
	return b.connect(c)
}

func (b *bridged) connect(c netns.Connection) (*node, netns.Lease) {
	b.t.Helper()
	l, err := b.bridge.Connect(b.t.Context(), c)
	if err != nil {
		b.t.Fatal(err)
	}
	ns, err := nsfd.GetFromPath(c.Namespace)
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { _ = ns.Close() })
	return &node{c.ID, ns, l.Addresses[0].Addr(), l.Addresses[1].Addr()}, l
}

const goldenBridge = `table inet longshore {
	map published.4 {
		type inet_proto . inet_service : ipv4_addr . inet_service
		elements = {
			tcp . 8080 comment "task-of-web" : 10.64.0.2 . 80,
			udp . 5353 comment "task-of-web" : 10.64.0.2 . 53,
			udp . 5354 comment "task-of-web" : 10.64.0.2 . 54,
		}
	}
	map published.6 {
		type inet_proto . inet_service : ipv6_addr . inet_service
		elements = {
			tcp . 8080 comment "task-of-web" : fd64::2 . 80,
			udp . 5353 comment "task-of-web" : fd64::2 . 53,
			udp . 5354 comment "task-of-web" : fd64::2 . 54,
		}
	}
	chain guard {
		type filter hook prerouting priority -160; policy accept;
		iifname "longshore0" ip daddr 127.0.0.0/8 drop
	}
	chain arrive {
		type nat hook prerouting priority -110; policy accept;
		meta nfproto ipv4 fib daddr type local dnat ip to meta l4proto . th dport map @published.4
		meta nfproto ipv6 fib daddr type local dnat ip6 to meta l4proto . th dport map @published.6
	}
	chain leave {
		type nat hook output priority -110; policy accept;
		meta nfproto ipv4 fib daddr type local dnat ip to meta l4proto . th dport map @published.4
		ip6 daddr != ::1 fib daddr type local dnat ip6 to meta l4proto . th dport map @published.6
	}
	chain forward {
		type filter hook forward priority -10; policy accept;
		oifname "longshore0" ct state established,related accept
		oifname "longshore0" iifname "longshore0" accept
		oifname "longshore0" ct status dnat accept
		oifname "longshore0" drop
	}
	chain source {
		type nat hook postrouting priority 90; policy accept;
		ip saddr 10.64.0.0/20 oifname != "longshore0" masquerade
		ip saddr 10.64.0.0/20 ip daddr 10.64.0.0/20 ct status dnat masquerade
		ip saddr 127.0.0.0/8 oifname "longshore0" masquerade
		ip6 saddr fd64::/64 oifname != "longshore0" masquerade
		ip6 saddr fd64::/64 ip6 daddr fd64::/64 ct status dnat masquerade
	}
}
`

func TestTheRulesOfTheBridge(t *testing.T) {
	b := newBridged(t)
	b.container("web", netns.Publish{Protocol: "tcp", Container: 80, Host: 8080}, netns.Publish{Protocol: "udp", Container: 53, Host: 5353, Count: 2})
	b.network.Set(b.bridge)
	rules := b.network.Rules(nil)
	if got := rules.String(); got != goldenBridge {
		t.Errorf("got\n%s", got)
	}
	sameAsNft(t, rules)
}

func TestContainersOnTheBridgeReachAndAreReachedAsPublished(t *testing.T) {
	b := newBridged(t)
	web, lease := b.container("web", netns.Publish{Protocol: "tcp", Container: 80, Host: 8080}, netns.Publish{Protocol: "udp", Container: 53, Host: 5353},
		netns.Publish{Protocol: "tcp", Container: 9000, Host: 19000, Count: 3}, netns.Publish{Protocol: "tcp", Container: 81})
	side, _ := b.container("side")
	for _, n := range []*node{web, side, b.machine} {
		n.serve(t, 53, 80, 81, 9000, 9002, 9003)
	}
	dynamic := int(lease.Given[3].Host)
	if dynamic == 0 {
		t.Fatalf("no port was chosen: %+v", lease.Given)
	}
	var questions []question
	for _, f := range []string{"4", "6"} {
		// from elsewhere, from the host, from another container, and from itself: all by the host's address
		for _, who := range []*node{b.machine, b.host, side, web} {
			questions = append(questions,
				question{who, b.host, "tcp" + f, 8080, true}, question{who, b.host, "udp" + f, 5353, true}, question{who, b.host, "tcp" + f, dynamic, true},
				question{who, b.host, "tcp" + f, 19000, true}, question{who, b.host, "tcp" + f, 19002, true}, question{who, b.host, "tcp" + f, 19003, false},
				question{who, b.host, "udp" + f, 8080, false}, question{who, b.host, "tcp" + f, 80, false})
		}
		// past the published ports: only who is on the host
		for who, want := range map[*node]bool{b.machine: false, b.host: true, side: true, web: true} {
			questions = append(questions, question{who, web, "tcp" + f, 80, want}, question{who, web, "udp" + f, 53, want}, question{who, web, "icmp" + f, 0, want})
		}
		questions = append(questions, question{side, b.machine, "tcp" + f, 80, true}, question{side, b.machine, "udp" + f, 80, true}, question{side, b.machine, "icmp" + f, 0, true})
	}
	answer(t, questions)
	for _, c := range []struct{ what, from, network, at, want string }{
		{"who asks from elsewhere is seen", "machine", "tcp4", "10.5.0.1:8080", b.machine.v4.String()},
		{"who asks from elsewhere is seen", "machine", "tcp6", "[fd05::1]:8080", b.machine.v6.String()},
		{"a container asks as the host", "side", "tcp4", "10.5.0.2:80", b.host.v4.String()},
		{"a container asks as the host", "side", "tcp6", "[fd05::2]:80", b.host.v6.String()},
		{"containers see each other", "side", "tcp4", web.v4.String() + ":80", side.v4.String()},
		{"the host asks by localhost", "host", "tcp4", "127.0.0.1:8080", "10.64.0.1"},
		{"the host asks by localhost", "host", "udp4", "127.0.0.1:5353", "10.64.0.1"},
	} {
		from := map[string]*node{"machine": b.machine, "side": side, "host": b.host}[c.from]
		if seen := strings.TrimPrefix(reach(from.ns, c.network, c.at, patience), "::ffff:"); seen != c.want {
			t.Errorf("%s: %s asked %s of %s, and %q was seen, not %s", c.what, c.from, c.network, c.at, seen, c.want)
		}
	}
}

func TestContainersOnTheBridgeReachTheAgentAndNotWhatIsTheHosts(t *testing.T) {
	b := newBridged(t)
	c, _ := b.container("c")
	w := &world{t: t, host: b.host.ns}
	w.serve()
	for _, port := range []string{"80", "51679"} {
		if seen := w.ask(c.ns, port, patience); seen != c.v4.String() {
			t.Errorf("the container asked the agent at port %s, and %q was seen", port, seen)
		}
	}
	if seen := w.ask(b.machine.ns, "51679", brief); seen != "" {
		t.Errorf("another machine was answered: %q", seen)
	}
	b.machine.serve(t, 80) // and is the instance metadata
	if seen := reach(b.host.ns, "tcp4", "169.254.169.254:80", patience); seen == "" {
		t.Error("the host does not reach the instance metadata")
	}
	if seen := reach(c.ns, "tcp4", "169.254.169.254:80", brief); seen != "" {
		t.Error("a container reaches the instance metadata")
	}
	// Packets for 127.0.0.1 that a container sends to the bridge, which the kernel takes there.
	var l net.Listener
	in(t, b.host.ns, func() (err error) { l, err = net.Listen("tcp4", "127.0.0.1:7777"); return err })
	defer l.Close()
	go echoStreams(l)
	in(t, c.ns, script("ip route flush table local 127.0.0.0/8", "ip addr flush dev lo", "ip route add 127.0.0.1/32 via 10.64.0.1 src "+c.v4.String()))
	in(t, c.ns, func() error { return os.WriteFile("/proc/sys/net/ipv4/conf/all/route_localnet", []byte("1"), 0) })
	if seen := reach(c.ns, "tcp4", "127.0.0.1:7777", brief); seen != "" {
		t.Errorf("a container reaches what listens on the host's loopback interface: %q", seen)
	}
	in(t, b.host.ns, script("nft flush chain inet longshore guard"))
	if seen := reach(c.ns, "tcp4", "127.0.0.1:7777", patience); seen == "" {
		t.Error("without the guard it does not either: the test shows nothing")
	}
}

func TestLeasesOutliveARestartAndAreGivenAgain(t *testing.T) {
	b := newBridged(t)
	c := netns.Connection{ID: "web", Task: "t1", Namespace: namespace(t), Ports: []netns.Publish{{Protocol: "tcp", Container: 80}}}
	web, lease := b.connect(c)
	web.serve(t, 80)
	b.start()
	b.settled()
	if got := b.bridge.Leases(); len(got) != 1 || got[0].ID != "web" || got[0].Task != "t1" || !slices.Equal(got[0].Given, lease.Given) {
		t.Errorf("known again: %+v", got)
	}
	if _, again := b.connect(c); !slices.Equal(again.Given, lease.Given) || !slices.Equal(again.Addresses, lease.Addresses) {
		t.Errorf("given %+v, and then %+v", lease, again)
	}
	answer(t, []question{{b.machine, b.host, "tcp4", int(lease.Given[0].Host), true}})
	if other, _ := b.container("other"); other.v4 == web.v4 || other.v6 == web.v6 {
		t.Errorf("two containers have the address %s", other.v4)
	}
	// what it wants changes: the address stays
	c.Ports = append(c.Ports, netns.Publish{Protocol: "tcp", Container: 80, Host: 8088})
	if _, again := b.connect(c); again.Given[1].Host != 8088 || !slices.Equal(again.Addresses, lease.Addresses) {
		t.Errorf("given %+v", again)
	}
	answer(t, []question{{b.machine, b.host, "tcp6", 8088, true}})
	b.settled()
}

func TestWhatIsTakenFromTheBridgeIsPutBack(t *testing.T) {
	b := newBridged(t)
	web, _ := b.container("web", netns.Publish{Protocol: "tcp", Container: 80, Host: 8080})
	web.serve(t, 80)
	var port string
	in(t, b.host.ns, func() error {
		out, err := said("sh", "-c", "ip -o link show master longshore0 | sed 's/^[0-9]*: \\([^@]*\\)@.*/\\1/'")
		port = strings.TrimSpace(out)
		return err
	})
	for _, damage := range []string{
		"nft flush ruleset", "nft flush map inet longshore published.4", "ip link set " + port + " nomaster", "ip link set " + port + " down", "ip link del " + port,
		"ip addr flush dev longshore0", "ip link set longshore0 down", "ip link del longshore0", "sysctl -q -w net.ipv4.ip_forward=0", "sysctl -q -w net.ipv6.conf.all.forwarding=0",
	} {
		in(t, b.host.ns, script(damage))
		if changed, err := b.network.Ensure(); err != nil || len(changed) == 0 {
			t.Errorf("after %s the look changed %q, %v", damage, changed, err)
		}
		b.settled()
		answer(t, []question{{b.machine, b.host, "tcp4", 8080, true}, {b.machine, b.host, "tcp6", 8080, true}})
	}
}

func TestAPortThatSomebodyElseHasIsToldWithItsHolder(t *testing.T) {
	b := newBridged(t)
	b.container("one", netns.Publish{Protocol: "tcp", Container: 80, Host: 8080, Count: 2})
	b.host.serve(t, 9090)
	ns := namespace(t)
	for _, c := range []struct {
		port netns.Publish
		want string
	}{
		{netns.Publish{Protocol: "tcp", Container: 1, Host: 8081}, "host port tcp/8081 is taken: task task-of-one publishes it"},
		{netns.Publish{Protocol: "tcp", Container: 1, Host: 9089, Count: 2}, fmt.Sprintf("host port tcp/9090 is taken: process %d (", os.Getpid())},
		{netns.Publish{Protocol: "udp", Container: 1, Host: 9090}, "listens on [::]:9090"},
	} {
		_, err := b.bridge.Connect(t.Context(), netns.Connection{ID: "two", Task: "t2", Namespace: ns, Ports: []netns.Publish{c.port}})
		var taken *netns.PortTaken
		if !errors.As(err, &taken) || !errdefs.IsResourceExhausted(err) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v", c.port, err)
		}
	}
	if got := b.bridge.Leases(); len(got) != 1 {
		t.Errorf("who was refused holds something: %+v", got)
	}
	b.container("three", netns.Publish{Protocol: "udp", Container: 80, Host: 8080})
}

func TestDynamicPortsAreOfTheRangeAndNobodyElses(t *testing.T) {
	b := newBridged(t)
	in(t, b.host.ns, func() error {
		return errors.Join(os.WriteFile("/proc/sys/net/ipv4/ip_local_port_range", []byte("40000 40009"), 0), os.WriteFile("/proc/sys/net/ipv4/ip_local_reserved_ports", []byte("40001,40007-40009"), 0))
	})
	b.host.serve(t, 40003)
	b.container("fixed", netns.Publish{Protocol: "tcp", Container: 1, Host: 40005})
	_, l := b.container("any", netns.Publish{Protocol: "tcp", Container: 1}, netns.Publish{Protocol: "tcp", Container: 2}, netns.Publish{Protocol: "udp", Container: 1, Count: 3})
	if want := []netns.Publish{{Protocol: "tcp", Container: 1, Host: 40000}, {Protocol: "tcp", Container: 2, Host: 40002}, {Protocol: "udp", Container: 1, Host: 40004, Count: 3}}; !slices.Equal(l.Given, want) {
		t.Errorf("given %+v", l.Given)
	}
	_, err := b.bridge.Connect(t.Context(), netns.Connection{ID: "more", Task: "t", Namespace: namespace(t), Ports: []netns.Publish{{Protocol: "tcp", Container: 7, Count: 3}}})
	if err == nil || !strings.Contains(err.Error(), "no 3 free tcp ports in a row from 40000 to 40009 (ECS_DYNAMIC_HOST_PORT_RANGE) for the container port 7") {
		t.Errorf("too many: %v", err)
	}
	b.bridge.Ports = [2]uint16{50000, 50001}
	if _, l := b.container("named", netns.Publish{Protocol: "tcp", Container: 1}); l.Given[0].Host != 50000 {
		t.Errorf("given %+v", l.Given)
	}
}

// left is all that can be left on the host.
func (b *bridged) left() (s string) {
	in(b.t, b.host.ns, func() error {
		links, err := said("sh", "-c", "ip -o link show type veth master longshore0; ip -o link show type veth | grep -c @; nft list ruleset")
		s = links
		return err
	})
	files, err := filepath.Glob(filepath.Join(b.dir, "*"))
	if err != nil {
		b.t.Fatal(err)
	}
	return s + strings.Join(files, "\n")
}

func TestDisconnectingLeavesNothing(t *testing.T) {
	b := newBridged(t)
	before := b.left()
	ns := namespace(t)
	seen := map[netip.Addr]bool{}
	for i := range 30 {
		_, l := b.connect(netns.Connection{ID: fmt.Sprintf("c%d", i), Task: "t", Namespace: ns, Ports: []netns.Publish{{Protocol: "tcp", Container: 80, Host: 8080}, {Protocol: "udp", Container: 53}}})
		seen[l.Addresses[0].Addr()] = true
		for range 2 {
			if err := b.bridge.Disconnect(t.Context(), l.ID); err != nil {
				t.Fatal(err)
			}
		}
	}
	if after := b.left(); after != before {
		t.Errorf("before\n%s\nafter\n%s", before, after)
	}
	if len(seen) != 30 {
		t.Errorf("%d addresses were given to 30 containers: they did not rest", len(seen))
	}
	b.container("last", netns.Publish{Protocol: "tcp", Container: 80, Host: 8080})
	b.start()
	removed, err := b.network.Remove()
	if err != nil || !slices.Contains(removed, "bridge longshore0") {
		t.Errorf("removed %q, %v", removed, err)
	}
	in(t, b.host.ns, func() error {
		out, err := said("sh", "-c", "ip -o link show type bridge; nft list ruleset; ls "+b.dir)
		if strings.TrimSpace(out) != "" {
			t.Errorf("left: %s", out)
		}
		return err
	})
}

// helpOnBridge is what the process does that is killed: it connects or disconnects a container of the host in whose namespace it runs.
func helpOnBridge(does, dir, namespace string) error {
	var n netns.HostNetwork
	b, err := n.OpenBridge(netns.BridgeConfig{Subnets: localSubnets, Dir: dir, Log: zap.NewNop()})
	if err != nil {
		return err
	}
	n.Set(piece(), netns.DenyMetadata{}, b)
	if does == "disconnect" {
		return b.Disconnect(context.Background(), "web")
	}
	if _, err := n.Ensure(); err != nil {
		return err
	}
	_, err = b.Connect(context.Background(), webAt(namespace))
	return err
}

func webAt(namespace string) netns.Connection {
	return netns.Connection{ID: "web", Task: "t", Namespace: namespace, Ports: []netns.Publish{{Protocol: "tcp", Container: 80, Host: 8080}, {Protocol: "udp", Container: 53}}}
}

func killOnBridge(t *testing.T, kill func(w *lan, does, origin string, n int, task netns.Task, steps int) bool) {
	b := newBridged(t)
	before := b.left()
	kills := 0
	for n, more := 1, true; more; n++ {
		more = false
		for _, does := range []string{"connect", "connect, and go", "disconnect"} {
			c := webAt(namespace(t))
			if does == "disconnect" {
				b.connect(c)
			}
			if kill(&lan{t: t, at: [2]nsfd.NsHandle{b.host.ns}}, strings.Split(does, ",")[0], b.dir, 0, netns.Task{Namespace: c.Namespace}, n) {
				more = true
				kills++
			}
			b.start()
			if _, err := b.network.Ensure(); err != nil {
				t.Fatal(err)
			}
			if does == "connect" {
				web, _ := b.connect(c)
				b.settled()
				web.serve(t, 80)
				answer(t, []question{{b.machine, b.host, "tcp4", 8080, true}})
			}
			for _, l := range b.bridge.Leases() {
				if err := b.bridge.Disconnect(t.Context(), l.ID); err != nil {
					t.Fatal(err)
				}
			}
			if after := b.left(); after != before {
				t.Fatalf("%s, killed at step %d: before\n%s\nafter\n%s", does, n, before, after)
			}
		}
	}
	if kills < 8 {
		t.Errorf("only %d kills", kills)
	}
}

func TestASenderThatNeverPausesIsLedToWhoeverHasThePortNow(t *testing.T) {
	b := newBridged(t)
	var c net.Conn
	in(t, b.machine.ns, func() (err error) { c, err = net.Dial("udp", "10.5.0.1:5400"); return err })
	defer c.Close()
	ask := func(wait time.Duration) (seen string) {
		for end := time.Now().Add(wait); time.Now().Before(end) && seen == ""; {
			_, _ = c.Write([]byte("?"))
			_ = c.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
			seen, _ = line(c)
		}
		return seen
	}
	if seen := ask(brief); seen != "" {
		t.Errorf("nobody listens, and %q was seen", seen)
	}
	for _, id := range []string{"one", "other"} {
		n, _ := b.container(id, netns.Publish{Protocol: "udp", Container: 53, Host: 5400})
		n.serve(t, 53)
		if seen := ask(patience); seen != "::ffff:"+b.machine.v4.String() && seen != b.machine.v4.String() {
			t.Errorf("container %s is not asked: %q", id, seen)
		}
		if err := b.bridge.Disconnect(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		if seen := ask(brief); seen != "" {
			t.Errorf("container %s has gone, and %q was seen", id, seen)
		}
	}
}

func TestContainersComeAndGoAtOnce(t *testing.T) {
	b := newBridged(t)
	before := b.left()
	var all sync.WaitGroup
	for worker := range 6 {
		ns := namespace(t)
		all.Go(func() {
			for i := range 4 {
				c := netns.Connection{ID: fmt.Sprintf("w%d", worker), Task: "t", Namespace: ns, Ports: []netns.Publish{{Protocol: "tcp", Container: 80, Host: uint16(9000 + worker)}, {Protocol: "udp", Container: 53}}}
				if _, err := b.bridge.Connect(t.Context(), c); err != nil {
					t.Error(err)
				}
				if i%2 == 0 {
					if _, err := b.network.Ensure(); err != nil {
						t.Error(err)
					}
				}
				if err := b.bridge.Disconnect(t.Context(), c.ID); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	b.settled()
	if after := b.left(); after != before {
		t.Errorf("before\n%s\nafter\n%s", before, after)
	}
}

func TestALeaseThatCanNotBeReadIsSetAside(t *testing.T) {
	b := newBridged(t)
	file := filepath.Join(b.dir, "web.lease")
	if err := os.WriteFile(file+".new", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"", "{}", `{"id":"other"}`, strings.Repeat("x", 70<<10)} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		b.start()
		if got := b.bridge.Leases(); len(got) != 0 {
			t.Errorf("%.20q is %+v", text, got)
		}
		if _, err := os.Stat(file + ".unreadable"); err != nil {
			t.Error(err)
		}
	}
	b.container("web")
	if _, err := os.Stat(file + ".new"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("what was half written is there: %v", err)
	}
}

func TestABridgeFindsSubnetsThatTheHostDoesNotUse(t *testing.T) {
	host := newNamespace(t)
	in(t, host, script("ip link set lo up", "ip link add v0 type veth peer name v1", "ip link set v0 up", "ip addr add 10.64.3.1/24 dev v0", "ip link set v1 up", "ip route add 10.65.0.0/16 dev v0"))
	open := func() *netns.Bridge {
		n := &netns.HostNetwork{Namespace: int(host)}
		b, err := n.OpenBridge(netns.BridgeConfig{Dir: t.TempDir(), Log: zap.NewNop()})
		if err != nil {
			t.Fatal(err)
		}
		n.Set(b)
		if _, err := n.Ensure(); err != nil {
			t.Fatal(err)
		}
		return b
	}
	first := open()
	if len(first.Subnets) != 2 || first.Subnets[0] != netip.MustParsePrefix("10.66.0.1/20") || !first.Subnets[1].Addr().IsPrivate() {
		t.Errorf("chosen: %v", first.Subnets)
	}
	if again := open(); !slices.Equal(again.Subnets, first.Subnets) {
		t.Errorf("chosen %v, and then %v", first.Subnets, again.Subnets)
	}
}
