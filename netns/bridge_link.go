package netns

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// rules publish the ports, masquerade what leaves the host, and keep out what nobody asked for.
func (b *Bridge) rules([]string) Ruleset {
	b.mu.Lock()
	defer b.mu.Unlock()
	var r Ruleset
	var arrive, leave, hide []Rule
	for _, s := range b.Subnets {
		f, n := familyOf(s.Addr()), s.Masked()
		published := b.published(f)
		r.Sets = append(r.Sets, published)
		lead := leadTo(f, published.Name)
		arrive = append(arrive, rule(inFamily(f), toHost(), lead))
		hide = append(hide, rule(network(source, n), notTo(b.Name), masquerade), rule(network(source, n), network(destination, n), translated(), masquerade))
		if f == ipv4 {
			leave = append(leave, rule(inFamily(f), toHost(), lead))
			hide = append(hide, rule(network(source, loopback4), to(b.Name), masquerade))
		} else { // the kernel takes what has ::1 as its source nowhere
			leave = append(leave, rule(notAddress(destination, netip.IPv6Loopback()), toHost(), lead))
		}
	}
	r.Chains = []Chain{
		chainOf(guardChain, rule(from(b.Name), network(destination, loopback4), drop)),
		chainOf(arriveChain, arrive...),
		chainOf(leaveChain, leave...),
		chainOf(forwardChain,
			rule(to(b.Name), state("established,related", expr.CtStateBitESTABLISHED|expr.CtStateBitRELATED), accept),
			rule(to(b.Name), from(b.Name), accept),
			rule(to(b.Name), translated(), accept),
			rule(to(b.Name), drop)),
		chainOf(sourceChain, hide...),
	}
	return r
}

var loopback4 = netip.MustParsePrefix("127.0.0.0/8")

// published is the map from the host's ports to containers', with the tasks' ids beside them.
func (b *Bridge) published(f family) Set {
	s := Set{Name: "published." + f.digit, Key: ports.fields, Value: []nftables.SetDatatype{f.datatype, nftables.TypeInetService}}
	for _, l := range b.leases {
		for _, a := range l.Addresses {
			if familyOf(a.Addr()) != f || l.leaving {
				continue
			}
			for _, p := range l.Given {
				protocol := byte(unix.IPPROTO_TCP)
				if p.Protocol == "udp" {
					protocol = unix.IPPROTO_UDP
				}
				for i := range p.count() {
					s.Elements = append(s.Elements, Element{
						Key:     joined([]byte{protocol}, port(p.Host+uint16(i))),
						Value:   joined(a.Addr().AsSlice(), port(p.Container+uint16(i))),
						Comment: l.Task,
					})
				}
			}
		}
	}
	s.Elements = sorted(s.Elements)
	return s
}

// ensure makes the bridge what it should be, and connects again what somebody has taken off it.
func (b *Bridge) ensure(h *netlink.Handle) (changed []string, err error) {
	did := func(format string, args ...any) { changed = append(changed, fmt.Sprintf(format, args...)) }
	bridge, err := linkByName(h, b.Name)
	if err != nil {
		return nil, err
	}
	if bridge == nil {
		if bridge, err = b.make(h); err != nil {
			return nil, err
		}
		did("made the bridge %s", b.Name)
	}
	if bridge.Type() != "bridge" {
		return nil, fault(NameTaken, "%s, which should be Longshore's bridge for containers, is a %s: rename that", b.Name, bridge.Type())
	}
	if err := b.sysctls(h, did); err != nil {
		return changed, err
	}
	now, err := h.AddrList(bridge, netlink.FAMILY_ALL)
	if err != nil {
		return changed, fmt.Errorf("the addresses of %s: %w", b.Name, err)
	}
	for _, s := range b.Subnets {
		a := &netlink.Addr{IPNet: &net.IPNet{IP: s.Addr().AsSlice(), Mask: net.CIDRMask(s.Bits(), s.Addr().BitLen())}, Flags: unix.IFA_F_NODAD}
		if containsAddress(now, a) {
			continue
		}
		if err := h.AddrAdd(bridge, a); err != nil {
			return changed, fmt.Errorf("give %s the address %s: %w", b.Name, s, err)
		}
		did("gave %s the address %s", b.Name, s)
	}
	if bridge.Attrs().Flags&net.FlagUp == 0 {
		if err := h.LinkSetUp(bridge); err != nil {
			return changed, fmt.Errorf("set %s up: %w", b.Name, err)
		}
		did("set %s up", b.Name)
	}
	return changed, b.mend(h, bridge.Attrs().Index, did)
}

func containsAddress(now []netlink.Addr, a *netlink.Addr) bool {
	for _, n := range now {
		if n.IPNet.String() == a.IPNet.String() {
			return true
		}
	}
	return false
}

// make makes the bridge, with the MTU of the way out.
func (b *Bridge) make(h *netlink.Handle) (netlink.Link, error) {
	a := netlink.NewLinkAttrs()
	a.Name, a.HardwareAddr = b.Name, macOf(b.Subnets[0].Addr()) // always the same: containers remember it
	routes, err := h.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Dst: nil, Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_DST|netlink.RT_FILTER_TABLE)
	if err == nil && len(routes) > 0 {
		if out, err := h.LinkByIndex(routes[0].LinkIndex); err == nil {
			a.MTU = out.Attrs().MTU
		}
	}
	if err := h.LinkAdd(&netlink.Bridge{LinkAttrs: a}); err != nil && !errors.Is(err, unix.EEXIST) {
		return nil, fmt.Errorf("make the bridge %s: %w", b.Name, err)
	}
	return h.LinkByName(b.Name)
}

// sysctls let the host forward, and take what localhost sends to the bridge. A host that forwards IPv6 takes no more router advertisements
// where it did, unless it is told to go on: else it would lose its own default route.
func (b *Bridge) sysctls(h *netlink.Handle, did func(string, ...any)) error {
	return b.network.inside(func() error {
		set := func(file, value string) error {
			path := "/proc/sys/net/" + file
			now, err := os.ReadFile(path)
			if errors.Is(err, os.ErrNotExist) && strings.HasPrefix(file, "ipv6/") {
				return fmt.Errorf("the kernel has no IPv6, and the bridge %s a subnet of it: %w", b.Name, err)
			}
			if err == nil && strings.TrimSpace(string(now)) != value {
				err = os.WriteFile(path, []byte(value), 0)
				did("set net.%s to %s", strings.ReplaceAll(file, "/", "."), value)
			}
			return err
		}
		err := errors.Join(set("ipv4/ip_forward", "1"), set("ipv4/conf/"+b.Name+"/route_localnet", "1"))
		for _, s := range b.Subnets {
			if !s.Addr().Is6() {
				continue
			}
			if now, _ := os.ReadFile("/proc/sys/net/ipv6/conf/all/forwarding"); strings.TrimSpace(string(now)) == "0" {
				takers, _ := filepath.Glob("/proc/sys/net/ipv6/conf/*/accept_ra")
				for _, f := range takers {
					if takes, _ := os.ReadFile(f); strings.TrimSpace(string(takes)) == "1" {
						err = errors.Join(err, set(strings.TrimPrefix(f, "/proc/sys/net/"), "2"))
					}
				}
			}
			err = errors.Join(err, set("ipv6/conf/"+b.Name+"/accept_ra", "0"), set("ipv6/conf/"+b.Name+"/disable_ipv6", "0"), set("ipv6/conf/all/forwarding", "1"))
		}
		return err
	})
}

// mend connects again the containers whose interface is not on the bridge. A namespace that has gone is no matter: who knows of it will
// disconnect it.
func (b *Bridge) mend(h *netlink.Handle, bridge int, did func(string, ...any)) error {
	leases := b.Leases()
	if len(leases) == 0 {
		return nil
	}
	links, err := linkList(h)
	if err != nil {
		return err
	}
	there := map[string]bool{}
	for _, l := range links {
		a := l.Attrs()
		there[a.Name] = a.MasterIndex == bridge && a.Flags&net.FlagUp != 0
	}
	var errs []error
	for _, l := range leases {
		if there[localName(l.ID)] || l.leaving {
			continue
		}
		c, err := b.link(context.Background(), l.ID)
		if errors.Is(err, &Fault{Kind: NamespaceGone}) || errors.Is(err, errLeaving) {
			continue
		}
		for _, what := range c {
			did("container %s: %s", l.ID, what)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// remove takes the bridge away with all that hangs on it, and all leases.
func (b *Bridge) remove(h *netlink.Handle) (removed []string, err error) {
	for _, l := range b.Leases() {
		err = errors.Join(err, b.unlink(l.ID), b.drop(l.ID))
	}
	bridge, lookErr := linkByName(h, b.Name)
	if bridge == nil || bridge.Type() != "bridge" || err != nil {
		return nil, errors.Join(err, lookErr)
	}
	if err := h.LinkDel(bridge); err != nil && !errors.Is(err, unix.ENODEV) {
		return nil, fmt.Errorf("remove the bridge %s: %w", b.Name, err)
	}
	return []string{"bridge " + b.Name}, nil
}

// subnetsFor are those that the bridge has, or unused private ones.
func subnetsFor(h *netlink.Handle, name string) ([]netip.Prefix, error) {
	all, err := h.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return nil, fmt.Errorf("list the host's addresses: %w", err)
	}
	routes, err := h.RouteList(nil, netlink.FAMILY_V4)
	if err != nil {
		return nil, fmt.Errorf("list the host's routes: %w", err)
	}
	bridge, err := linkByName(h, name)
	if err != nil {
		return nil, err
	}
	var own, used []netip.Prefix
	for _, a := range all {
		p := prefixOf(a.IPNet)
		if bridge != nil && a.LinkIndex == bridge.Attrs().Index && !p.Addr().IsLinkLocalUnicast() {
			own = append(own, p)
		}
		used = append(used, p.Masked())
	}
	if len(own) > 0 {
		return own, nil
	}
	for _, r := range routes {
		if r.Dst != nil && prefixOf(r.Dst).Bits() > 0 {
			used = append(used, prefixOf(r.Dst))
		}
	}
	for second := 64; second < 128; second++ { // 10.64.0.0/20 to 10.127.0.0/20
		p := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(second), 0, 1}), 20)
		if !overlapsAny(p, used) {
			return []netip.Prefix{p, uniqueLocal()}, nil
		}
	}
	return nil, fault(ParentBusy, "the host has routes to all of 10.64.0.0/10: give the bridge %s a subnet", name)
}

func prefixOf(n *net.IPNet) netip.Prefix {
	a, _ := netip.AddrFromSlice(n.IP)
	bits, _ := n.Mask.Size()
	return netip.PrefixFrom(a.Unmap(), bits)
}

func overlapsAny(p netip.Prefix, all []netip.Prefix) bool {
	for _, o := range all {
		if p.Masked().Overlaps(o) {
			return true
		}
	}
	return false
}

// uniqueLocal is an IPv6 subnet that hardly anybody else has (RFC 4193), the same at each start of the machine.
func uniqueLocal() netip.Prefix {
	id, _ := os.ReadFile("/etc/machine-id")
	sum := sha256.Sum256(append([]byte("longshore bridge "), id...))
	var a [16]byte
	a[0] = 0xfd
	copy(a[1:6], sum[:])
	a[15] = 1
	return netip.PrefixFrom(netip.AddrFrom16(a), 64)
}
