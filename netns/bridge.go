package netns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"github.com/vishvananda/netlink"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"github.com/longshore-project/longshore/internal/failpoint"
)

// Bridge is the network mode bridge for engines that leave networking to us, as a part of the host's own network: a bridge with
// addresses of this host alone, of both families.
//
//	containers reach each other, the host, and through it (masqueraded) whatever it reaches
//	published ports of every address of the host lead to their container: from other machines, from other containers,
//	    from itself (hairpin), and from the host, by localhost too (of IPv4: the kernel takes [::1] nowhere else)
//	nothing else of a container is reached from other machines
//
// What a container was given is a [Lease], a file in Dir that is there before anything of it is in the kernel. So addresses and ports
// survive a restart of the agent, and what a crash left half is made whole, or taken away, by asking again. The files need not outlive the machine's start,
// since nothing else of it does.
type Bridge struct {
	BridgeConfig
	network *HostNetwork

	linking sync.Mutex // held while a container's interface is made or removed; before mu

	mu     sync.Mutex
	leases map[string]*Lease // by id
	last   map[family]netip.Addr
	port   uint16 // where the search for dynamic ones goes on
}

// BridgeConfig is what a [Bridge] needs to know.
type BridgeConfig struct {
	Name string // at most 15 bytes; empty: longshore0
	// Subnets are one of IPv4 and, if wanted, one of IPv6, each as the bridge's own address with its length. Empty: those that the bridge has
	// already, or else an unused private one of each.
	Subnets []netip.Prefix
	// Ports are the first and the last host port for who wants any; 0: the kernel's ephemeral range.
	Ports [2]uint16
	Dir   string // of leases; /run is a good place
	Log   *zap.Logger
}

// Connection is what a container wants.
type Connection struct {
	ID        string // of the container, or whatever the namespace is there for; at most 255 bytes
	Task      string // its task's id, which is in the comments of its rules
	Namespace string // the file of its network namespace
	Ports     []Publish
}

// Publish is a port of a container, or Count of them in a row, and the host's port, or the first of as many.
type Publish struct {
	Protocol  string `json:"protocol"` // tcp or udp
	Container uint16 `json:"container"`
	Host      uint16 `json:"host"`            // 0: any that is free
	Count     uint16 `json:"count,omitempty"` // 0: 1
}

func (p Publish) count() int { return max(int(p.Count), 1) }

// Lease is what a container was given.
type Lease struct {
	Connection
	Addresses []netip.Prefix // as they are on eth0 in the namespace
	Given     []Publish      // Ports, with the host's ports that were chosen
	leaving   bool
}

// OpenBridge knows the leases again. The bridge is made when it is one of the pieces of its network (see [HostNetwork.Set]).
func (n *HostNetwork) OpenBridge(c BridgeConfig) (*Bridge, error) {
	if c.Name == "" {
		c.Name = "longshore0"
	}
	b := &Bridge{BridgeConfig: c, network: n, last: map[family]netip.Addr{}}
	h, err := n.links()
	if err != nil {
		return nil, err
	}
	defer h.Close()
	if len(b.Subnets) == 0 {
		if b.Subnets, err = subnetsFor(h, c.Name); err != nil {
			return nil, err
		}
	}
	for _, s := range b.Subnets {
		if room := s.Addr().BitLen() - s.Bits(); room < 2 || familyOf(s.Addr()) == ipv4 && room > 20 {
			return nil, fmt.Errorf("the subnet %s of the bridge %s must have room for containers: an IPv4 one from /12 to /30, an IPv6 one to /126", s, c.Name)
		}
	}
	b.leases, err = b.read()
	return b, err
}

// Connect gives a container its interface, addresses and ports. It may be repeated, with the same answer as long as the same is wanted, and
// makes whole what is missing. Ports that others have are a [*PortTaken]; a namespace that is not there is a [*Fault]. Once something
// was given, also with an error, it is the container's until [Bridge.Disconnect].
func (b *Bridge) Connect(ctx context.Context, c Connection) (Lease, error) {
	l, fresh, err := b.lease(c)
	if err != nil {
		return Lease{}, fmt.Errorf("connect %s to the bridge %s: %w", c.ID, b.Name, err)
	}
	failpoint.Hit("netns/step")
	if _, err = b.link(ctx, c.ID); err == nil {
		_, err = b.network.EnsureRules()
		failpoint.Hit("netns/step")
	}
	if err != nil {
		return l, fmt.Errorf("connect %s to the bridge %s: %w", c.ID, b.Name, err)
	}
	if fresh && slices.ContainsFunc(l.Given, func(p Publish) bool { return p.Protocol == "udp" }) {
		b.forgetFlows(l)
	}
	return l, nil
}

// Disconnect takes away all that a container was given. What was not given, it does not miss. Deleting the interface costs
// tens of milliseconds of the kernel's: nobody should wait for it.
func (b *Bridge) Disconnect(_ context.Context, id string) error {
	b.mu.Lock()
	var l Lease
	held := b.leases[id]
	if held != nil {
		held.leaving = true
		l = *held
	}
	b.mu.Unlock()
	_, err := b.network.EnsureRules()
	if err == nil {
		failpoint.Hit("netns/step")
		err = b.unlink(id)
	}
	if err == nil && held != nil {
		failpoint.Hit("netns/step")
		b.forgetFlows(l)
		err = b.drop(id)
	}
	if err != nil {
		return fmt.Errorf("disconnect %s from the bridge %s: %w", id, b.Name, err)
	}
	return nil
}

// Leases are all that is given, by id. Who wants one of them no more disconnects it.
func (b *Bridge) Leases() []Lease {
	b.mu.Lock()
	defer b.mu.Unlock()
	var all []Lease
	for _, l := range b.leases {
		all = append(all, *l)
	}
	slices.SortFunc(all, func(x, y Lease) int { return strings.Compare(x.ID, y.ID) })
	return all
}

// link makes the interface of a container that has a lease, or makes it right.
func (b *Bridge) link(ctx context.Context, id string) (changed []string, err error) {
	b.linking.Lock()
	defer b.linking.Unlock()
	b.mu.Lock()
	l, held := Lease{leaving: true}, b.leases[id]
	if held != nil {
		l = *held
	}
	b.mu.Unlock()
	if l.leaving {
		return nil, errLeaving
	}
	return Host{Namespace: b.network.Namespace, Tables: &b.network.tables}.EnsureTask(ctx, b.task(l))
}

// task is what a container's namespace should be.
func (b *Bridge) task(l Lease) Task {
	nic := Interface{Name: "eth0", MAC: macOf(l.Addresses[0].Addr()), Addresses: l.Addresses, Origin: Local{Bridge: b.Name}}
	for _, s := range b.Subnets {
		nic.Gateways = append(nic.Gateways, s.Addr())
	}
	return Task{ID: l.ID, Namespace: l.Namespace, Interfaces: []Interface{nic}}
}

// macOf is the MAC for an address, so that nobody remembers a wrong one for it.
func macOf(a netip.Addr) net.HardwareAddr {
	raw := a.AsSlice()
	return append(net.HardwareAddr{0x0a, 0x4c}, raw[len(raw)-4:]...)
}

// unlink removes a container's interface.
func (b *Bridge) unlink(id string) error {
	b.linking.Lock()
	defer b.linking.Unlock()
	h, err := b.network.links()
	if err != nil {
		return err
	}
	defer h.Close()
	l, err := linkByName(h, localName(id))
	if err != nil || l == nil {
		return err
	}
	if err := h.LinkDel(l); err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("remove %s: %w", l.Attrs().Name, err)
	}
	return nil
}

// forgetFlows ends what the kernel remembers of flows: through ports that are somebody else's from now on, and with an address that is. Without
// that, a sender that never pauses would never be led elsewhere. A kernel that can't is no reason to fail.
func (b *Bridge) forgetFlows(l Lease) {
	h, err := netlinkAt(b.network.Namespace, unix.NETLINK_NETFILTER, unix.NETLINK_ROUTE)
	if err != nil {
		return
	}
	defer h.Close()
	own := map[string]bool{}
	addresses, _ := h.AddrList(nil, netlink.FAMILY_ALL)
	for _, a := range addresses {
		own[string(a.IP.To16())] = true
	}
	for _, f := range []netlink.InetFamily{unix.AF_INET, unix.AF_INET6} {
		if _, err := h.ConntrackDeleteFilters(netlink.ConntrackTable, f, flowsOf{l, own}); err != nil {
			b.Log.Debug("The kernel's memory of flows can't be cleared", zap.String("container", l.ID), zap.Error(err))
		}
	}
}

// flowsOf are the flows that a lease ends.
type flowsOf struct {
	Lease
	host map[string]bool // the host's addresses, of 16 bytes
}

// MatchConntrackFlow says whether a flow is one of them.
func (f flowsOf) MatchConntrackFlow(flow *netlink.ConntrackFlow) bool {
	for _, a := range f.Addresses {
		if ip := net.IP(a.Addr().AsSlice()); flow.Reverse.SrcIP.Equal(ip) || flow.Forward.SrcIP.Equal(ip) {
			return true
		}
	}
	if !f.host[string(flow.Forward.DstIP.To16())] {
		return false
	}
	for _, p := range f.Given {
		if flow.Forward.Protocol == unix.IPPROTO_UDP && p.Protocol == "udp" && flow.Forward.DstPort >= p.Host && int(flow.Forward.DstPort) < int(p.Host)+p.count() {
			return true
		}
	}
	return false
}
