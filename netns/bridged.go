package netns

import (
	"errors"
	"fmt"
	"net"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func (b Bridged) String() string {
	if b.Uplink != "" {
		return "veth on the bridge " + b.Bridge + " with the uplink " + b.Uplink
	}
	return "veth on the bridge " + b.Bridge
}

func (b Bridged) ensure(s *sides, l link) (netlink.Link, error) {
	bridge, outside := b.bridge(s)
	if bridge == nil {
		return nil, outside
	}
	now, err := b.pair(s, l, bridge.Attrs())
	return now, errors.Join(outside, err)
}

// pair sees to the veth pair and its end on the host.
func (b Bridged) pair(s *sides, l link, bridge *netlink.LinkAttrs) (now netlink.Link, err error) {
	outer, err := linkByName(s.host, l.outer)
	if err != nil {
		return nil, err
	}
	on := 0
	if outer != nil {
		on = outer.Attrs().Index
	}
	if now, err = s.within(l, "veth", on); err != nil {
		return nil, err
	}
	if now == nil {
		if outer != nil { // its other end is nowhere, or not where it should be
			if err := s.host.LinkDel(outer); err != nil {
				return nil, fmt.Errorf("remove %s, whose other end is not in the task's namespace: %w", l.outer, err)
			}
		}
		if now, err = b.make(s, l, bridge); err != nil {
			return nil, err
		}
		if outer, err = s.host.LinkByName(l.outer); err != nil {
			return nil, fmt.Errorf("the new interface %s: %w", l.outer, err)
		}
	}
	return now, s.outer(outer, l, bridge)
}

// make makes the pair in one step of the kernel's, each end where it belongs.
func (b Bridged) make(s *sides, l link, bridge *netlink.LinkAttrs) (netlink.Link, error) {
	a := netlink.NewLinkAttrs()
	a.Name, a.MTU, a.Flags, a.MasterIndex = l.outer, l.MTU, net.FlagUp, bridge.Index
	if a.MTU == 0 {
		a.MTU = bridge.MTU
	}
	pair := netlink.NewVeth(a)
	pair.PeerName, pair.PeerHardwareAddr, pair.PeerNamespace = l.Name, l.MAC, netlink.NsFd(s.taskNS.Fd())
	return s.make(l, pair)
}

// outer sees to the pair's end on the host.
func (s *sides) outer(outer netlink.Link, l link, bridge *netlink.LinkAttrs) error {
	a := outer.Attrs()
	if a.MasterIndex != bridge.Index {
		if err := s.host.LinkSetMasterByIndex(outer, bridge.Index); err != nil {
			return fmt.Errorf("make %s a port of %s: %w", a.Name, bridge.Name, err)
		}
		s.did("made %s a port of %s", a.Name, bridge.Name)
	}
	if a.Alias != l.alias {
		if err := s.host.LinkSetAlias(outer, l.alias); err != nil {
			return fmt.Errorf("write on %s whose it is: %w", a.Name, err)
		}
	}
	if a.Flags&net.FlagUp == 0 {
		if err := s.host.LinkSetUp(outer); err != nil {
			return fmt.Errorf("set %s up: %w", a.Name, err)
		}
		s.did("set %s up", a.Name)
	}
	return nil
}

// bridge sees to the bridge and its uplink. One that is usable although something is wrong comes with a fault.
func (b Bridged) bridge(s *sides) (netlink.Link, error) {
	bridge, err := linkByName(s.host, b.Bridge)
	if err != nil {
		return nil, err
	}
	if bridge == nil {
		if bridge, err = b.makeBridge(s); err != nil {
			return nil, err
		}
	}
	a := bridge.Attrs()
	if bridge.Type() != "bridge" {
		return nil, fault(NameTaken, "%s, which should be a bridge, is a %s: name another one in ECS_TASK_NETWORK", b.Bridge, bridge.Type())
	}
	if a.Flags&net.FlagUp == 0 && b.Bridge == DefaultBridge {
		if err := s.host.LinkSetUp(bridge); err != nil {
			return nil, fmt.Errorf("set %s up: %w", b.Bridge, err)
		}
		s.did("set %s up", b.Bridge)
		a.Flags |= net.FlagUp
	}
	return bridge, errors.Join(up(bridge), b.uplink(s, a))
}

// makeBridge makes it. Tasks that do so at once all get the same.
func (b Bridged) makeBridge(s *sides) (netlink.Link, error) {
	a := netlink.NewLinkAttrs()
	a.Name, a.Flags = b.Bridge, net.FlagUp
	if err := s.host.LinkAdd(&netlink.Bridge{LinkAttrs: a}); err == nil {
		s.did("made the bridge %s", b.Bridge)
	} else if !errors.Is(err, unix.EEXIST) {
		return nil, fmt.Errorf("make the bridge %s: %w", b.Bridge, err)
	}
	made, err := s.host.LinkByName(b.Bridge)
	if err != nil {
		return nil, fmt.Errorf("the new bridge %s: %w", b.Bridge, err)
	}
	return made, nil
}

// uplink makes the uplink a port of the bridge, unless that would cut the host off.
func (b Bridged) uplink(s *sides, bridge *netlink.LinkAttrs) error {
	if b.Uplink == "" {
		return nil
	}
	l, outside := s.parent(b.Uplink)
	if l == nil {
		return outside
	}
	switch master := l.Attrs().MasterIndex; {
	case master == bridge.Index:
		return outside
	case master != 0:
		return fault(ParentBusy, "the uplink %s belongs to another bridge or bond already: name that bridge in ECS_TASK_NETWORK", b.Uplink)
	}
	held, err := s.host.AddrList(l, netlink.FAMILY_ALL)
	if err != nil {
		return fmt.Errorf("the addresses of %s: %w", b.Uplink, err)
	}
	var own []string
	for _, a := range held {
		if !a.IP.IsLinkLocalUnicast() {
			own = append(own, a.IPNet.String())
		}
	}
	if len(own) != 0 {
		return fault(ParentBusy, "the uplink %s has addresses of the host's own (%s), which would be cut off: move them to a bridge and name that in ECS_TASK_NETWORK, or use macvlan:%s", b.Uplink, strings.Join(own, ", "), b.Uplink)
	}
	switch err := s.host.LinkSetMasterByIndex(l, bridge.Index); {
	case errors.Is(err, unix.EBUSY):
		return &Fault{Kind: ParentBusy, Detail: fmt.Sprintf("the uplink %s has macvlans on it, or is used otherwise", b.Uplink), Err: err}
	case err != nil:
		return fmt.Errorf("make the uplink %s a port of %s: %w", b.Uplink, b.Bridge, err)
	}
	s.did("made the uplink %s a port of %s", b.Uplink, b.Bridge)
	return outside
}
