//go:build bench

package bench

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	nsfd "github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/longshore-project/longshore/netns"
)

// TestNet measures tasks' networks, without engine and control plane.
func TestNet(t *testing.T) {
	var figures table
	defer figures.print()
	for _, mode := range []string{"bridge", "macvlan", "card"} {
		newNetHost(t).setUps(&figures, mode, setting("ROUNDS", 40))
	}
	newNetHost(t).speed(&figures, setting("ROUNDS", 40))
}

// netHost is a host in a namespace of its own, with eth1 as its cable to a lan in another one.
type netHost struct {
	t         *testing.T
	host, lan nsfd.NsHandle
	h         *netlink.Handle
	dir       string
	made      int
}

func newNetHost(t *testing.T) *netHost {
	w := &netHost{t: t, dir: t.TempDir()}
	w.host, _ = w.namespace()
	w.lan, _ = w.namespace()
	w.h = w.handle(w.host)
	a := netlink.NewLinkAttrs()
	a.Name, a.Flags = "eth1", net.FlagUp
	w.must(w.h.LinkAdd(&netlink.Veth{LinkAttrs: a, PeerName: "p0", PeerNamespace: netlink.NsFd(w.lan)}))
	lan := w.handle(w.lan)
	peer, err := lan.LinkByName("p0")
	w.must(err)
	w.must(lan.LinkSetUp(peer))
	return w
}

func (w *netHost) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// namespace makes one, and gives back its file.
func (w *netHost) namespace() (nsfd.NsHandle, string) {
	w.made++
	file := filepath.Join(w.dir, fmt.Sprint(w.made))
	w.must(netns.MakeNamespace(file))
	w.t.Cleanup(func() { _ = netns.RemoveNamespace(file) })
	ns, err := nsfd.GetFromPath(file)
	w.must(err)
	w.t.Cleanup(func() { _ = ns.Close() })
	return ns, file
}

func (w *netHost) handle(ns nsfd.NsHandle) *netlink.Handle {
	h, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	w.must(err)
	w.t.Cleanup(h.Close)
	return h
}

// asked is how long a set-up waits for who else has the addresses.
const asked = 20 * time.Millisecond

// setUps measures how long a task's network takes to set up, look at and tear down, and as the floor what the kernel takes for the steps of
// which that consists, one after the other, by handles that are open already. Namespaces are the engine's to make. On bridge and
// macvlan, a set-up asks the network for 20 ms whether the addresses are anybody's: that is left out on both sides.
func (w *netHost) setUps(figures *table, mode string, rounds int) {
	h := netns.Host{Namespace: int(w.host), Tables: &netns.Tables{}}
	if mode == "bridge" {
		w.must(w.bridge())
	}
	var up, look, down, bareUp, bareDown series
	for i := range rounds + 1 {
		task := w.task(mode, i%100)
		w.plug(mode, task)
		ours := [3]time.Duration{timed(func() { w.ensure(h, task) }), timed(func() { w.ensure(h, task) }), timed(func() {
			_, err := h.RemoveTask(w.t.Context(), task)
			w.must(err)
		})}
		w.unplug()
		bare := w.bare(mode, w.task(mode, i%100))
		if i == 0 { // the first one finds cold caches
			continue
		}
		if mode != "card" {
			ours[0] -= asked
		}
		up.add(ours[0])
		look.add(ours[1])
		down.add(ours[2])
		bareUp.add(bare[0])
		bareDown.add(bare[1])
	}
	figures.add("a task's network is set up, "+mode, up.String(), bareUp.String(), ratio(up, bareUp), "")
	figures.add("a task's network that is right is looked at, "+mode, look.String(), "", "", "")
	figures.add("a task's network is torn down, "+mode, down.String(), bareDown.String(), ratio(down, bareDown), "")
}

func timed(f func()) time.Duration {
	began := time.Now()
	f()
	return time.Since(began)
}

func (w *netHost) ensure(h netns.Host, task netns.Task) {
	_, err := h.EnsureTask(w.t.Context(), task)
	w.must(err)
}

// task is one in a new namespace, with a group that lets its members in and everything out.
func (w *netHost) task(mode string, i int) netns.Task {
	_, file := w.namespace()
	var origin netns.Origin = netns.Card{}
	switch mode {
	case "bridge":
		origin = netns.Bridged{Bridge: netns.DefaultBridge, Uplink: "eth1"}
	case "macvlan":
		origin = netns.Macvlan{Parent: "eth1"}
	}
	address := netip.AddrFrom4([4]byte{10, 7, 0, byte(i + 1)})
	return netns.Task{
		ID: fmt.Sprintf("%032x", w.made), Namespace: file, Endpoint: netip.MustParseAddr("169.254.170.2"), BlockIMDS: true,
		Interfaces: []netns.Interface{{
			Name: "eth0", MAC: net.HardwareAddr{2, 0, 10, 7, 0, byte(i + 1)}, Origin: origin,
			Addresses: []netip.Prefix{netip.PrefixFrom(address, 24), netip.MustParsePrefix(fmt.Sprintf("fd00:7::%x/64", i+1))},
			Gateways:  []netip.Addr{netip.MustParseAddr("10.7.0.254"), netip.MustParseAddr("fd00:7::fffe")},
		}},
		Groups: []netns.SecurityGroup{{
			ID: "sg-1", Ingress: []netns.GroupRule{{Protocol: -1, Groups: []string{"sg-1"}}},
			Egress: []netns.GroupRule{{Protocol: -1, Networks: []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")}}},
		}},
		Members: netns.Members{"sg-1": {address}},
	}
}

// bridge makes the bridge that is there for all tasks.
func (w *netHost) bridge() error {
	a := netlink.NewLinkAttrs()
	a.Name, a.Flags = netns.DefaultBridge, net.FlagUp
	if err := w.h.LinkAdd(&netlink.Bridge{LinkAttrs: a}); err != nil {
		return err
	}
	uplink, err := w.h.LinkByName("eth1")
	if err != nil {
		return err
	}
	bridge, err := w.h.LinkByName(netns.DefaultBridge)
	if err != nil {
		return err
	}
	return w.h.LinkSetMaster(uplink, bridge)
}

// plug puts the card into the host that a task of that mode needs; unplug takes it out.
func (w *netHost) plug(mode string, task netns.Task) {
	if mode == "card" {
		a := netlink.NewLinkAttrs()
		a.Name, a.HardwareAddr = "ens6", task.Interfaces[0].MAC
		w.must(w.h.LinkAdd(&netlink.Veth{LinkAttrs: a, PeerName: "q0", PeerNamespace: netlink.NsFd(w.lan)}))
	}
}

func (w *netHost) unplug() {
	if card, err := w.h.LinkByName("ens6"); err == nil {
		w.must(w.h.LinkDel(card))
	}
}

// bare is what the kernel takes for the steps of a set-up and a tear-down.
func (w *netHost) bare(mode string, task netns.Task) (took [2]time.Duration) {
	ns, err := nsfd.GetFromPath(task.Namespace)
	w.must(err)
	defer ns.Close()
	inside, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	w.must(err)
	defer inside.Close()
	w.plug(mode, task)
	nic := task.Interfaces[0]
	took[0] = timed(func() {
		lo, err := inside.LinkByName("lo")
		w.must(err)
		w.must(inside.LinkSetUp(lo))
		w.must(inside.AddrAdd(lo, &netlink.Addr{IPNet: netlink.NewIPNet(net.IPv4(169, 254, 170, 2)), Scope: unix.RT_SCOPE_HOST}))
		_, err = new(netns.Tables).Ensure(int(ns), task.Rules(task.Members))
		w.must(err)
		w.interfaceOf(mode, nic, ns)
		w.sysctls(ns)
		l, err := inside.LinkByName("eth0")
		w.must(err)
		w.must(inside.LinkSetUp(l))
		for _, a := range nic.Addresses {
			w.must(inside.AddrAdd(l, &netlink.Addr{IPNet: &net.IPNet{IP: a.Addr().AsSlice(), Mask: net.CIDRMask(a.Bits(), a.Addr().BitLen())}, Flags: unix.IFA_F_NODAD}))
		}
		for _, gw := range nic.Gateways {
			w.must(inside.RouteAdd(&netlink.Route{Gw: gw.AsSlice(), LinkIndex: l.Attrs().Index}))
		}
	})
	took[1] = timed(func() {
		l, err := inside.LinkByName("eth0")
		w.must(err)
		if mode == "card" {
			w.must(inside.LinkSetNsFd(l, int(w.host)))
		} else {
			w.must(inside.LinkDel(l))
		}
	})
	if mode == "card" {
		back, err := w.h.LinkByName("eth0")
		w.must(err)
		w.must(w.h.LinkDel(back))
	}
	return took
}

// interfaceOf makes the interface, or moves it, as one or two steps of the kernel's.
func (w *netHost) interfaceOf(mode string, nic netns.Interface, ns nsfd.NsHandle) {
	a := netlink.NewLinkAttrs()
	switch mode {
	case "bridge":
		bridge, err := w.h.LinkByName(netns.DefaultBridge)
		w.must(err)
		a.Name, a.Flags, a.MasterIndex = "outer", net.FlagUp, bridge.Attrs().Index
		w.must(w.h.LinkAdd(&netlink.Veth{LinkAttrs: a, PeerName: "eth0", PeerHardwareAddr: nic.MAC, PeerNamespace: netlink.NsFd(ns)}))
	case "macvlan":
		parent, err := w.h.LinkByName("eth1")
		w.must(err)
		a.Name, a.HardwareAddr, a.ParentIndex, a.Namespace = "eth0", nic.MAC, parent.Attrs().Index, netlink.NsFd(ns)
		w.must(w.h.LinkAdd(&netlink.Macvlan{LinkAttrs: a, Mode: netlink.MACVLAN_MODE_BRIDGE}))
	case "card":
		card, err := w.h.LinkByName("ens6")
		w.must(err)
		w.must(w.h.LinkSetNsFd(card, int(ns)))
		h := w.handle(ns)
		w.must(h.LinkSetName(card, "eth0"))
	}
}

// sysctls writes those of an interface with IPv6.
func (w *netHost) sysctls(ns nsfd.NsHandle) {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		err := nsfd.Set(ns)
		for _, file := range []string{"lo/disable_ipv6", "eth0/disable_ipv6", "eth0/accept_ra", "eth0/accept_dad"} {
			if err == nil {
				err = os.WriteFile("/proc/sys/net/ipv6/conf/"+file, []byte("0"), 0)
			}
		}
		done <- err
	}()
	w.must(<-done)
}
