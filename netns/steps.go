package netns

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// routeProtocol marks the routes that are ours, in the namespaces of tasks.
const routeProtocol netlink.RouteProtocol = 76

// linkByName is the interface of that name; nil when there is none.
func linkByName(h *netlink.Handle, name string) (netlink.Link, error) {
	l, err := h.LinkByName(name)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("the interface %s: %w", name, err)
	}
	return l, nil
}

// linkList is all interfaces. A list that changed while it was read is read again.
func linkList(h *netlink.Handle) (all []netlink.Link, err error) {
	for range 5 {
		if all, err = h.LinkList(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	if err != nil {
		return nil, fmt.Errorf("list the interfaces: %w", err)
	}
	return all, nil
}

// loopback sees to the loopback interface and its addresses.
func (s *sides) loopback(want []netip.Prefix) error {
	lo, err := s.task.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("the loopback interface: %w", err)
	}
	if lo.Attrs().Flags&net.FlagUp == 0 {
		if err := s.task.LinkSetUp(lo); err != nil {
			return fmt.Errorf("set the loopback interface up: %w", err)
		}
		s.did("set lo up")
	}
	missing, err := s.missing(lo, want)
	if err != nil {
		return err
	}
	return s.addresses(lo, missing)
}

// link sees to one interface of the task.
func (s *sides) link(ctx context.Context, l link) error {
	now, outside := l.Origin.ensure(s, l)
	if now == nil {
		return outside
	}
	if err := s.attributes(now, l); err != nil {
		return errors.Join(outside, err)
	}
	return errors.Join(outside, s.reach(ctx, now, l))
}

// reach gives an interface its addresses. On a network that nobody else looks after, it asks first whether they are somebody's, and
// tells everybody then that they are here.
func (s *sides) reach(ctx context.Context, now netlink.Link, l link) error {
	missing, err := s.missing(now, l.Addresses)
	if err != nil {
		return err
	}
	asked := missing
	if s.ask {
		asked = l.Addresses
	}
	if !l.probed || len(asked) == 0 {
		return s.addresses(now, missing)
	}
	mac := l.MAC
	if len(mac) == 0 { // what the kernel has chosen
		mac = now.Attrs().HardwareAddr
	}
	p, err := s.prober(now.Attrs().Index, l.Name, mac)
	if err != nil {
		return err
	}
	defer p.close()
	if err := errors.Join(s.carrier(ctx, l), p.ask(asked)); err != nil {
		return err
	}
	if err := s.addresses(now, missing); err != nil {
		return err
	}
	return p.announce(missing)
}

// attributes sees to all of an interface but its addresses, and brings it up.
func (s *sides) attributes(now netlink.Link, l link) error {
	a := now.Attrs()
	if len(l.MAC) != 0 && !bytes.Equal(a.HardwareAddr, l.MAC) {
		if err := s.task.LinkSetHardwareAddr(now, l.MAC); err != nil {
			return fmt.Errorf("give %s the MAC %s: %w", l.Name, l.MAC, err)
		}
		s.did("gave %s the MAC %s back", l.Name, l.MAC)
	}
	if l.MTU != 0 && a.MTU != l.MTU {
		if err := s.task.LinkSetMTU(now, l.MTU); err != nil {
			return fmt.Errorf("give %s the MTU %d: %w", l.Name, l.MTU, err)
		}
		s.did("gave %s the MTU %d", l.Name, l.MTU)
	}
	if err := s.sysctls(l.sysctls); err != nil {
		return err
	}
	if a.Flags&net.FlagUp != 0 {
		return nil
	}
	if err := s.task.LinkSetUp(now); err != nil {
		return fmt.Errorf("set %s up: %w", l.Name, err)
	}
	s.did("set %s up", l.Name)
	return nil
}

func (s *sides) sysctls(want []sysctl) error {
	return inside(int(s.taskNS.Fd()), func() error {
		for _, c := range want {
			file := "/proc/sys/net/" + c.file
			now, err := os.ReadFile(file)
			if errors.Is(err, os.ErrNotExist) && strings.HasSuffix(c.file, "accept_ra") {
				continue // a kernel without IPv6 takes nothing from routers
			}
			if err == nil && strings.TrimSpace(string(now)) != c.value {
				err = os.WriteFile(file, []byte(c.value), 0)
				s.did("set %s to %s", strings.ReplaceAll("net/"+c.file, "/", "."), c.value)
			}
			if err != nil {
				return &Fault{Kind: Unsupported, Detail: "IPv6 addresses need a kernel that has it", Err: err}
			}
		}
		return nil
	})
}

// missing are the addresses that the interface does not have. One that it has with the length of another subnet is taken away.
func (s *sides) missing(l netlink.Link, want []netip.Prefix) (missing []netip.Prefix, err error) {
	now, err := s.task.AddrList(l, netlink.FAMILY_ALL)
	if err != nil {
		return nil, fmt.Errorf("the addresses of %s: %w", l.Attrs().Name, err)
	}
	for _, w := range want {
		i := slices.IndexFunc(now, func(a netlink.Addr) bool { return a.IP.Equal(w.Addr().AsSlice()) })
		if i >= 0 {
			if ones, _ := now[i].Mask.Size(); ones == w.Bits() {
				continue
			}
			if err := s.task.AddrDel(l, &now[i]); err != nil {
				return nil, fmt.Errorf("remove %s from %s: %w", now[i].IPNet, l.Attrs().Name, err)
			}
		}
		missing = append(missing, w)
	}
	return missing, nil
}

// addresses adds them.
func (s *sides) addresses(l netlink.Link, all []netip.Prefix) error {
	for _, p := range all {
		a := &netlink.Addr{IPNet: ipNet(p)}
		if p.Addr().Is6() {
			a.Flags = unix.IFA_F_NODAD
		}
		if p.Addr().IsLinkLocalUnicast() && p.IsSingleIP() { // the endpoint on lo
			a.Scope = unix.RT_SCOPE_HOST
		}
		if err := s.task.AddrAdd(l, a); err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("add %s to %s: %w", p, l.Attrs().Name, err)
		}
		s.did("added %s to %s", p, l.Attrs().Name)
	}
	return nil
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// routes sees to the routes that are ours, and takes away those that were.
func (s *sides) routes(want []route) error {
	now, err := s.task.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{Protocol: routeProtocol}, netlink.RT_FILTER_PROTOCOL)
	if err != nil {
		return fmt.Errorf("list the routes: %w", err)
	}
	for _, w := range want {
		r, err := s.kernelRoute(w)
		if err != nil {
			return err
		}
		if r == nil {
			continue
		}
		if i := slices.IndexFunc(now, func(n netlink.Route) bool { return sameRoute(n, *r) }); i >= 0 {
			now = slices.Delete(now, i, i+1)
			continue
		}
		if err := s.task.RouteReplace(r); err != nil {
			return fmt.Errorf("%s: %w", w, err)
		}
		s.did("added %s", w)
	}
	for _, r := range now {
		if err := s.task.RouteDel(&r); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("remove the route %s: %w", r, err)
		}
		s.did("removed the route %s", r)
	}
	return nil
}

// kernelRoute is the route as netlink has it; nil when its interface is not there, which is a fault of its own.
func (s *sides) kernelRoute(w route) (*netlink.Route, error) {
	l, err := linkByName(s.task, w.dev)
	if l == nil {
		return nil, err
	}
	r := &netlink.Route{Dst: ipNet(w.to), Gw: w.via.AsSlice(), LinkIndex: l.Attrs().Index, Protocol: routeProtocol, Type: unix.RTN_UNICAST}
	if w.onlink {
		r.Flags = int(netlink.FLAG_ONLINK)
	}
	return r, nil
}

func sameRoute(now, want netlink.Route) bool {
	return now.Type == want.Type && now.LinkIndex == want.LinkIndex && now.Gw.Equal(want.Gw) && now.Dst != nil && now.Dst.String() == want.Dst.String()
}
