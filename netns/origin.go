package netns

import (
	"errors"
	"fmt"
	"net"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// parent is the host's interface that others hang on. One that is not there is nil, with a fault; one that is down is there,
// with a fault.
func (s *sides) parent(name string) (netlink.Link, error) {
	l, err := linkByName(s.host, name)
	if err != nil {
		return nil, err
	}
	if l == nil {
		return nil, fault(ParentMissing, "the host has no interface %s", name)
	}
	return l, up(l)
}

// up is the fault of an interface of the host that is down.
func up(l netlink.Link) error {
	if a := l.Attrs(); a.Flags&net.FlagUp == 0 {
		return fault(ParentDown, "the host's interface %s is down: ip link set %s up", a.Name, a.Name)
	}
	return nil
}

// within is the interface in the task's namespace that has the link's name, and is of that kind and on the interface of the host with that index;
// nil when there is none. One of our making that hangs on something else goes; one of another kind keeps its name.
func (s *sides) within(l link, kind string, on int) (netlink.Link, error) {
	now, err := linkByName(s.task, l.Name)
	if now == nil {
		return nil, err
	}
	if now.Type() != kind {
		return nil, fault(NameTaken, "%s in the task's namespace is a %s, not a %s", l.Name, now.Type(), kind)
	}
	if now.Attrs().ParentIndex == on {
		return now, nil
	}
	if err := s.task.LinkDel(now); err != nil {
		return nil, fmt.Errorf("remove %s, which hangs on something else: %w", l.Name, err)
	}
	s.did("removed %s, which hung on something else", l.Name)
	return nil, nil
}

// make makes an interface from one side, and gives back what is in the task's namespace then.
func (s *sides) make(l link, made netlink.Link) (netlink.Link, error) {
	switch err := s.host.LinkAdd(made); {
	case errors.Is(err, unix.EOPNOTSUPP):
		return nil, &Fault{Kind: Unsupported, Detail: fmt.Sprintf("the kernel can't make a %s", made.Type()), Err: err}
	case errors.Is(err, unix.EBUSY):
		return nil, &Fault{Kind: ParentBusy, Detail: fmt.Sprintf("what a %s hangs on is a port of a bridge, or used otherwise", l.Origin), Err: err}
	case err != nil:
		return nil, fmt.Errorf("make %s, a %s: %w", l.Name, l.Origin, err)
	}
	s.did("made %s, a %s", l.Name, l.Origin)
	now, err := s.task.LinkByName(l.Name)
	if err != nil {
		return nil, fmt.Errorf("the new interface %s: %w", l.Name, err)
	}
	return now, nil
}

// attrs are the attributes with which an interface is made in the task's namespace.
func (s *sides) attrs(l link, on int) netlink.LinkAttrs {
	a := netlink.NewLinkAttrs()
	a.Name, a.HardwareAddr, a.MTU, a.ParentIndex, a.Namespace = l.Name, l.MAC, l.MTU, on, netlink.NsFd(s.taskNS.Fd())
	return a
}

func (m Macvlan) String() string { return "macvlan on " + m.Parent }

func (m Macvlan) ensure(s *sides, l link) (netlink.Link, error) {
	parent, outside := s.parent(m.Parent)
	if parent == nil {
		return nil, outside
	}
	on := parent.Attrs().Index
	now, err := s.within(l, "macvlan", on)
	if now == nil && err == nil {
		now, err = s.make(l, &netlink.Macvlan{LinkAttrs: s.attrs(l, on), Mode: netlink.MACVLAN_MODE_BRIDGE})
	}
	return now, errors.Join(outside, err)
}

func (b Branch) String() string { return fmt.Sprintf("vlan %d of the trunk %s", b.VLAN, b.Trunk) }

func (b Branch) ensure(s *sides, l link) (netlink.Link, error) {
	trunk, err := card(s.host, b.Trunk)
	if err != nil {
		return nil, err
	}
	if trunk == nil {
		return nil, fault(ParentMissing, "the host has no card with the trunk's MAC %s", b.Trunk)
	}
	on := trunk.Attrs().Index
	now, err := s.within(l, "vlan", on)
	if vlan, ok := now.(*netlink.Vlan); ok && vlan.VlanId != b.VLAN {
		return nil, fault(NameTaken, "%s in the task's namespace is VLAN %d, not %d", l.Name, vlan.VlanId, b.VLAN)
	}
	if now == nil && err == nil {
		now, err = s.make(l, &netlink.Vlan{LinkAttrs: s.attrs(l, on), VlanId: b.VLAN})
	}
	return now, errors.Join(up(trunk), err)
}
