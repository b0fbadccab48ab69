package netns_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	nsfd "github.com/vishvananda/netns"
	"time"

	"github.com/longshore-project/longshore/netns"
)

// lan is a network with two hosts and another machine on it, each a namespace of its own. Of each host eth1 is the cable, and of the
// lan's bridge p0 and p1 are the ports.
type lan struct {
	t       *testing.T
	machine nsfd.NsHandle // 10.7.0.254 and fd00:7::254, on the bridge itself
	at      [2]nsfd.NsHandle
	hosts   [2]netns.Host
}

func newLAN(t *testing.T) *lan {
	w := &lan{t: t, machine: newNamespace(t)}
	in(t, w.machine, script("ip link set lo up", "ip link add br0 type bridge", "ip link set br0 up", "ip addr add 10.7.0.254/24 dev br0", "ip addr add fd00:7::254/64 dev br0 nodad"))
	for i := range w.hosts {
		w.at[i] = newNamespace(t)
		w.hosts[i] = netns.Host{Namespace: int(w.at[i]), Tables: &netns.Tables{}}
		in(t, w.at[i], script("ip link set lo up", "ip link add eth1 index 11 type veth peer name c", "ip link set eth1 up"))
		in(t, w.at[i], cable("c", w.machine))
		in(t, w.machine, script(fmt.Sprintf("ip link set c name p%d master br0 up", i)))
	}
	for deadline := time.Now().Add(patience); strings.Count(shows(t, w.machine, "bridge link"), "state forwarding") != len(w.hosts); {
		if time.Now().After(deadline) {
			t.Fatalf("the lan has no carrier:\n%s", shows(t, w.machine, "bridge link"))
		}
	}
	return w
}

// namespace is a new task's.
func namespace(t *testing.T) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "ns")
	if err := netns.MakeNamespace(file); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := netns.RemoveNamespace(file); err != nil {
			t.Error(err)
		}
	})
	return file
}

// task is a task with the nth address of the lan.
func task(t *testing.T, n int, origin netns.Origin) netns.Task {
	t.Helper()
	a := taskAt(n, origin)
	a.Namespace = namespace(t)
	return a
}

func taskAt(n int, origin netns.Origin) netns.Task {
	return netns.Task{
		ID: fmt.Sprintf("%032x", n),
		Interfaces: []netns.Interface{{
			Name: "eth0", MAC: net.HardwareAddr{2, 0, 10, 7, 0, byte(n)}, Origin: origin,
			Addresses: []netip.Prefix{netip.MustParsePrefix(fmt.Sprintf("10.7.0.%d/24", n)), netip.MustParsePrefix(fmt.Sprintf("fd00:7::%x/64", n))},
			Gateways:  []netip.Addr{netip.MustParseAddr("10.7.0.254"), netip.MustParseAddr("fd00:7::254")},
		}},
		Endpoint:  netip.MustParseAddr("169.254.170.2"),
		BlockIMDS: true,
	}
}

func open(t *testing.T, file string) nsfd.NsHandle {
	t.Helper()
	ns, err := nsfd.GetFromPath(file)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ns.Close() })
	return ns
}

// ensure makes a task's network and wants it made again without a change.
func ensure(t *testing.T, h netns.Host, task netns.Task) {
	t.Helper()
	if changed, err := h.EnsureTask(t.Context(), task); err != nil || len(changed) == 0 {
		t.Fatalf("the first time changed %q, %v", changed, err)
	}
	settled(t, h, task)
}

func settled(t *testing.T, h netns.Host, task netns.Task) {
	t.Helper()
	if changed, err := h.EnsureTask(t.Context(), task); err != nil || len(changed) != 0 {
		t.Fatalf("one that is as it should be was changed: %q, %v", changed, err)
	}
}

// echo serves in a namespace: it answers with who asks.
func echo(t *testing.T, ns nsfd.NsHandle, at string) {
	t.Helper()
	var l net.Listener
	in(t, ns, func() (err error) { l, err = net.Listen("tcp", at); return err })
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
	t.Cleanup(func() { _ = l.Close(); <-ended })
}

// asks is what is answered to somebody in a namespace.
func asks(t *testing.T, from nsfd.NsHandle, at string) (answer string, err error) {
	t.Helper()
	return asksFor(t, from, at, patience)
}

func asksFor(t *testing.T, from nsfd.NsHandle, at string, wait time.Duration) (answer string, err error) {
	t.Helper()
	in(t, from, func() error {
		var c net.Conn
		if c, err = net.DialTimeout("tcp", at, wait); err != nil {
			return nil
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(patience))
		var b []byte
		b, err = io.ReadAll(c)
		answer = string(b)
		return nil
	})
	return answer, err
}

func shows(t *testing.T, ns nsfd.NsHandle, command string) string {
	t.Helper()
	var out []byte
	in(t, ns, func() (err error) {
		argv := strings.Fields(command)
		if out, err = exec.Command(argv[0], argv[1:]...).CombinedOutput(); err != nil {
			err = fmt.Errorf("%s: %w: %s", command, err, out)
		}
		return err
	})
	return string(out)
}

func wantFault(t *testing.T, err error, kind netns.Kind, words ...string) {
	t.Helper()
	if !errors.Is(err, &netns.Fault{Kind: kind}) {
		t.Fatalf("got %v, want %s", err, kind)
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("%q does not say %q", err, w)
		}
	}
}

func TestTasksReachEachOtherAndTheNetworkByTheirOwnAddresses(t *testing.T) {
	for name, origin := range map[string]netns.Origin{"bridge": netns.Bridged{Bridge: netns.DefaultBridge, Uplink: "eth1"}, "macvlan": netns.Macvlan{Parent: "eth1"}} {
		t.Run(name, func(t *testing.T) {
			w := newLAN(t)
			a, b, far := task(t, 1, origin), task(t, 2, origin), task(t, 3, origin)
			ensure(t, w.hosts[0], a)
			ensure(t, w.hosts[0], b)
			ensure(t, w.hosts[1], far)
			for _, server := range []netns.Task{a, b, far} {
				echo(t, open(t, server.Namespace), ":7")
			}
			echo(t, w.machine, ":7")
			for _, from := range []netns.Task{a, b, far} {
				ns := open(t, from.Namespace)
				for _, to := range []string{"1", "2", "3", "254"} {
					if got, err := asks(t, ns, "10.7.0."+to+":7"); got != from.Interfaces[0].Addresses[0].Addr().String() && "10.7.0."+to != got {
						t.Errorf("%s asks %s, which sees %q, %v", from.ID, to, got, err)
					}
					if got, err := asks(t, ns, "[fd00:7::"+to+"]:7"); got != from.Interfaces[0].Addresses[1].Addr().String() && "fd00:7::"+to != got {
						t.Errorf("%s asks %s, which sees %q, %v", from.ID, to, got, err)
					}
				}
				for _, imds := range []string{"169.254.169.254:80", "[fd00:ec2::254]:80"} {
					if _, err := asks(t, ns, imds); err == nil || strings.Contains(err.Error(), "timeout") {
						t.Errorf("asking the instance metadata at %s ended in %v", imds, err)
					}
				}
			}
			for i := range []int{1, 2, 3} {
				if got, err := asks(t, w.machine, fmt.Sprintf("10.7.0.%d:7", i+1)); got != "10.7.0.254" {
					t.Errorf("the machine asks %d, which sees %q, %v", i+1, got, err)
				}
			}
		})
	}
}

func TestTheAgentIsAskedInsideTheTasksNamespace(t *testing.T) {
	w := newLAN(t)
	a := task(t, 1, netns.Bridged{Bridge: netns.DefaultBridge})
	ensure(t, w.hosts[0], a)
	l, err := netns.Listen(t.Context(), a.Namespace, netip.MustParseAddrPort("169.254.170.2:80"))
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if c, err := l.Accept(); err == nil {
			fmt.Fprint(c, "the agent")
			_ = c.Close()
		}
	}()
	if got, err := asks(t, open(t, a.Namespace), "169.254.170.2:80"); got != "the agent" {
		t.Errorf("a container gets %q, %v", got, err)
	}
	_ = l.Close()
	<-ended
	if again, err := netns.Listen(t.Context(), a.Namespace, netip.MustParseAddrPort("169.254.170.2:80")); err != nil {
		t.Errorf("after a restart: %v", err)
	} else {
		_ = again.Close()
	}
	_, err = netns.Listen(t.Context(), "/proc/4194305/ns/net", netip.MustParseAddrPort("169.254.170.2:80"))
	wantFault(t, err, netns.NamespaceGone)
}

func TestAnAddressThatSomebodyElseHasIsNotUsed(t *testing.T) {
	for _, taken := range []string{"10.7.0.9/24", "fd00:7::9/64 nodad"} {
		w := newLAN(t)
		in(t, w.machine, script("ip addr add "+taken+" dev br0"))
		a := task(t, 9, netns.Bridged{Bridge: netns.DefaultBridge, Uplink: "eth1"})
		_, err := w.hosts[0].EnsureTask(t.Context(), a)
		address, _, _ := strings.Cut(taken, "/")
		wantFault(t, err, netns.AddressConflict, address, "MAC")
		if strings.Contains(err.Error(), "route") {
			t.Errorf("a consequence is told, too: %v", err)
		}
		if got := shows(t, open(t, a.Namespace), "ip addr show dev eth0"); strings.Contains(got, " "+address) {
			t.Errorf("it is used all the same:\n%s", got)
		}
		in(t, w.machine, script("ip addr del "+strings.Fields(taken)[0]+" dev br0"))
		ensure(t, w.hosts[0], a)
	}
}
