package netns_test

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	nsfd "github.com/vishvananda/netns"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/longshore-project/longshore/netns"
)

const patience = 30 * time.Second

func piece() netns.LinkLocal {
	return netns.LinkLocal{Address: netip.MustParseAddr("169.254.170.2"), Port: 51679, Published: 80}
}

const golden = `table inet longshore {
	set containers {
		type ifname
		elements = {
			"br-1",
			"docker0",
		}
	}
	chain guard {
		type filter hook prerouting priority -160; policy accept;
		ip daddr 169.254.170.2 iifname != "lo" iifname != @containers drop
		ip daddr 169.254.169.254 iifname @containers reject with icmpx type port-unreachable
		ip6 daddr fd00:ec2::254 iifname @containers reject with icmpx type port-unreachable
	}
	chain arrive {
		type nat hook prerouting priority -110; policy accept;
		ip daddr 169.254.170.2 tcp dport 80 dnat ip to 169.254.170.2:51679
	}
	chain leave {
		type nat hook output priority -110; policy accept;
		ip daddr 169.254.170.2 tcp dport 80 dnat ip to 169.254.170.2:51679
	}
}
`

func TestTheWantedRules(t *testing.T) {
	var n netns.HostNetwork
	n.Set(piece(), netns.DenyMetadata{})
	rules := n.Rules([]string{"docker0", "br-1"})
	if got := rules.String(); got != golden {
		t.Errorf("got\n%s", got)
	}
	sameAsNft(t, rules)
}

// world is a host with a container on a bridge and another machine on its cable, each a namespace of its own.
type world struct {
	t                        *testing.T
	host, container, machine nsfd.NsHandle
	network                  *netns.HostNetwork
}

// in runs f in a namespace, on a thread that ends with it.
func in(t *testing.T, ns nsfd.NsHandle, f func() error) {
	t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // a thread that can't be brought back ends with the goroutine; the process's first one would stay
		own, err := nsfd.Get()
		if err != nil {
			done <- err
			return
		}
		defer own.Close()
		if err = nsfd.Set(ns); err == nil {
			err = f()
		}
		if nsfd.Set(own) == nil {
			runtime.UnlockOSThread()
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func newNamespace(t testing.TB) nsfd.NsHandle {
	t.Helper()
	made := make(chan any)
	go func() {
		runtime.LockOSThread()
		own, err := nsfd.Get()
		if err != nil {
			made <- err
			return
		}
		defer own.Close()
		ns, err := nsfd.New()
		if nsfd.Set(own) == nil {
			runtime.UnlockOSThread()
		}
		if err != nil {
			made <- fmt.Errorf("make a network namespace (this needs root): %w", err)
			return
		}
		made <- ns
	}()
	switch got := (<-made).(type) {
	case error:
		t.Fatal(got)
	case nsfd.NsHandle:
		t.Cleanup(func() { _ = got.Close() })
		return got
	}
	return 0
}

// run runs ip, nft and the like.
func run(argv ...string) error {
	if out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s (apt-get install -y nftables iproute2)", strings.Join(argv, " "), err, out)
	}
	return nil
}

func script(lines ...string) func() error {
	return func() error {
		for _, l := range lines {
			if err := run(strings.Fields(l)...); err != nil {
				return err
			}
		}
		return nil
	}
}

// cable puts the peer of a veth into another namespace.
func cable(name string, to nsfd.NsHandle) func() error {
	return func() error {
		l, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		return netlink.LinkSetNsFd(l, int(to))
	}
}

func newWorld(t *testing.T) *world {
	w := &world{t: t, host: newNamespace(t), container: newNamespace(t), machine: newNamespace(t)}
	in(t, w.host, script("ip link set lo up", "ip link add docker0 type bridge", "ip addr add 172.17.0.1/16 dev docker0", "ip link set docker0 up",
		"ip link add v0 type veth peer name c0", "ip link set v0 master docker0 up", "ip link add eth0 type veth peer name m0", "ip addr add 10.9.9.1/24 dev eth0", "ip link set eth0 up"))
	in(t, w.host, cable("c0", w.container))
	in(t, w.host, cable("m0", w.machine))
	in(t, w.container, script("ip addr add 172.17.0.2/16 dev c0", "ip link set c0 up", "ip route add default via 172.17.0.1"))
	in(t, w.machine, script("ip addr add 10.9.9.2/24 dev m0", "ip link set m0 up", "ip route add 169.254.170.2/32 via 10.9.9.1"))
	w.network = &netns.HostNetwork{Namespace: int(w.host)}
	w.network.Set(piece())
	return w
}

// serve answers at the agent's port with the address that it sees.
func (w *world) serve() {
	var l net.Listener
	in(w.t, w.host, func() (err error) {
		l, err = net.Listen("tcp4", "169.254.170.2:51679")
		return err
	})
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			host, _, _ := net.SplitHostPort(c.RemoteAddr().String())
			fmt.Fprint(c, host)
			_ = c.Close()
		}
	}()
	w.t.Cleanup(func() { _ = l.Close(); <-ended })
}

// ask is what somebody in a namespace is answered; empty for nothing.
func (w *world) ask(from nsfd.NsHandle, port string, wait time.Duration) (seen string) {
	in(w.t, from, func() error {
		c, err := net.DialTimeout("tcp4", "169.254.170.2:"+port, wait)
		if err != nil {
			return nil
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(patience))
		var b bytes.Buffer
		_, _ = b.ReadFrom(c)
		seen = b.String()
		return nil
	})
	return seen
}

func (w *world) ensure() {
	w.t.Helper()
	if changed, err := w.network.Ensure(); err != nil || len(changed) == 0 {
		w.t.Fatalf("the first look changed %v, %v", changed, err)
	}
	for _, n := range []*netns.HostNetwork{w.network, w.another()} {
		if changed, err := n.Ensure(); err != nil || len(changed) != 0 {
			w.t.Fatalf("the second look changed %v, %v", changed, err)
		}
	}
}

// another is the network as somebody sees it who remembers nothing.
func (w *world) another() *netns.HostNetwork {
	n := &netns.HostNetwork{Namespace: int(w.host)}
	n.Set(piece())
	return n
}

func TestContainersAndTheHostReachTheAgentAndOtherMachinesDoNot(t *testing.T) {
	w := newWorld(t)
	w.ensure()
	w.serve()
	for who, c := range map[string]struct {
		from nsfd.NsHandle
		want string
	}{"the container": {w.container, "172.17.0.2"}, "the host": {w.host, "169.254.170.2"}} {
		for _, port := range []string{"80", "51679"} {
			if got := w.ask(c.from, port, patience); got != c.want {
				t.Errorf("%s asked port %s, and %q was seen", who, port, got)
			}
		}
	}
	for _, port := range []string{"80", "51679"} {
		if got := w.ask(w.machine, port, 500*time.Millisecond); got != "" {
			t.Errorf("another machine was answered on port %s: %q", port, got)
		}
	}
	// Were it not for the rule, it would be: this is what the guard is for.
	in(t, w.host, script("nft flush chain inet longshore guard"))
	if got := w.ask(w.machine, "51679", patience); got != "10.9.9.2" {
		t.Errorf("without the guard, the other machine gets %q: the test shows nothing", got)
	}
}

func TestAPublishedPort80OfAContainerIsNotInTheWay(t *testing.T) {
	w := newWorld(t)
	in(t, w.host, script("iptables-nft -t nat -A PREROUTING -p tcp --dport 80 -m addrtype --dst-type LOCAL -j DNAT --to-destination 172.17.0.9:80",
		"iptables-nft -t nat -A OUTPUT -p tcp --dport 80 -m addrtype --dst-type LOCAL -j DNAT --to-destination 172.17.0.9:80"))
	w.ensure()
	w.serve()
	in(t, w.host, func() error {
		l, err := net.Listen("tcp4", "0.0.0.0:80")
		if err == nil {
			t.Cleanup(func() { _ = l.Close() })
		}
		return err
	})
	if got := w.ask(w.container, "80", patience); got != "172.17.0.2" {
		t.Errorf("the container gets %q", got)
	}
	if got := w.ask(w.host, "80", patience); got != "169.254.170.2" {
		t.Errorf("the host gets %q", got)
	}
}

func TestABridgeWithANetworkCardLeadsToOtherMachines(t *testing.T) {
	w := newWorld(t)
	in(t, w.host, script("ip link add br-lan type bridge", "ip link add br-own type bridge", "ip tuntap add tap0 mode tap", "ip link set tap0 master br-lan"))
	w.ensure()
	var out []byte
	in(t, w.host, func() (err error) {
		out, err = exec.Command("nft", "list", "set", "inet", "longshore", "containers").Output()
		return err
	})
	for _, want := range []string{`"docker0"`, `"br-own"`} {
		if !strings.Contains(string(out), want) {
			t.Errorf("%s is not in\n%s", want, out)
		}
	}
	if strings.Contains(string(out), "br-lan") {
		t.Errorf("a bridge to other machines is in\n%s", out)
	}
}

func TestWhatSomebodyTakesAwayIsPutBack(t *testing.T) {
	w := newWorld(t)
	w.ensure()
	w.serve()
	ctx, cancel := context.WithCancel(t.Context())
	core, logs := observer.New(zap.InfoLevel)
	kept := make(chan error)
	go func() { kept <- w.network.Keep(ctx, zap.New(core)) }()
	defer func() { cancel(); <-kept }()
	for _, damage := range []string{
		"nft flush ruleset", "nft delete table inet longshore", "nft flush chain inet longshore leave", "nft delete element inet longshore containers { docker0 }",
		"nft insert rule inet longshore arrive drop", "ip addr del 169.254.170.2/32 dev lo",
	} {
		in(t, w.host, script(damage))
		for deadline := time.Now().Add(patience); ; {
			if w.whole() {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s was not mended; the log: %v", damage, logs.All())
			}
			runtime.Gosched()
		}
	}
	if got := w.ask(w.container, "80", patience); got != "172.17.0.2" {
		t.Errorf("the container gets %q", got)
	}
	if got := w.ask(w.host, "80", patience); got != "169.254.170.2" {
		t.Errorf("the host gets %q", got)
	}
	if logs.FilterMessageSnippet("as it should be again").Len() < 5 {
		t.Errorf("the log does not say what was put back: %v", logs.All())
	}
}

// whole says whether everything is as it should be, without mending it.
func (w *world) whole() bool {
	ok := false
	in(w.t, w.host, func() error {
		rules, _ := exec.Command("nft", "list", "table", "inet", "longshore").Output()
		addresses, _ := exec.Command("ip", "addr", "show", "dev", "lo").Output()
		ok = strings.Count(string(rules), "dnat ip to 169.254.170.2:51679") == 2 && strings.Count(string(rules), "drop") == 1 &&
			strings.Contains(string(rules), `"docker0"`) && bytes.Contains(addresses, []byte("169.254.170.2/32"))
		return nil
	})
	return ok
}

func TestRemovalLeavesNothingAndTakesNothingOfOthers(t *testing.T) {
	w := newWorld(t)
	in(t, w.host, script("nft add table inet theirs", "nft add chain inet theirs c", "nft add rule inet theirs c drop", "ip addr add 169.254.7.7/32 dev lo"))
	state := func() (s string) {
		in(t, w.host, func() error {
			rules, err := exec.Command("nft", "list", "ruleset").Output()
			addresses, _ := exec.Command("ip", "-4", "-o", "addr").Output()
			s = string(rules) + string(addresses)
			return err
		})
		return s
	}
	before := state()
	w.ensure()
	removed, err := w.network.Remove()
	if err != nil || len(removed) != 2 {
		t.Errorf("removed %q, %v", removed, err)
	}
	if after := state(); after != before {
		t.Errorf("before\n%s\nafter\n%s", before, after)
	}
	if removed, err := w.network.Remove(); err != nil || len(removed) != 0 {
		t.Errorf("the second time removed %q, %v", removed, err)
	}
	in(t, w.host, script("ip addr add 169.254.170.2/32 dev lo")) // somebody else's
	if removed, err := w.network.Remove(); err != nil || len(removed) != 0 {
		t.Errorf("somebody else's address: removed %q, %v", removed, err)
	}
	if _, err := os.Stat("/proc/self/ns/net"); err != nil {
		t.Error(err)
	}
}
