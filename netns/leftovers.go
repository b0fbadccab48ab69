package netns

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// RemoveTask takes away what the task has on the host, and says what that was. Of t it needs the ID, and the Namespace as long as it lives:
// cards are moved back from there. Removing what is not there does nothing. It takes tens of milliseconds of the kernel's:
// nobody should wait for it.
func (h Host) RemoveTask(ctx context.Context, t Task) (removed []string, err error) {
	s, err := h.open(t.Namespace)
	if errors.Is(err, &Fault{Kind: NamespaceGone}) {
		s, err = h.openHost()
	}
	if err != nil {
		return nil, err
	}
	defer s.close()
	if s.task != nil {
		err = s.empty(t)
	}
	return s.changed, errors.Join(err, s.sweep(ctx, func(task string) bool { return task == t.ID }, func(name string) bool { return strings.HasPrefix(name, outersOf(t.ID)) }))
}

// Sweep removes what is on the host for tasks that are not in keep, and says what that was: what crashes and lost state have
// left. Without any task to keep, our bridge goes too, unless somebody else uses it.
func (h Host) Sweep(ctx context.Context, keep []string) (removed []string, err error) {
	s, err := h.openHost()
	if err != nil {
		return nil, err
	}
	defer s.close()
	err = s.sweep(ctx, func(task string) bool { return !slices.Contains(keep, task) }, func(name string) bool {
		return isOuter(name) && !slices.ContainsFunc(keep, func(task string) bool { return strings.HasPrefix(name, outersOf(task)) })
	})
	if err == nil && len(keep) == 0 {
		err = s.removeBridge()
	}
	return s.changed, err
}

// Held is an interface on the host that is there for a task.
type Held struct {
	Task string // its id; empty for what a crash left before it could be written on it
	Link string // the interface's name
}

// Listed is what is on the host for tasks, whoever remembers them. Bridges are not: they are there for all.
func (h Host) Listed() ([]Held, error) {
	s, err := h.openHost()
	if err != nil {
		return nil, err
	}
	defer s.close()
	all, err := linkList(s.host)
	var held []Held
	for _, l := range all {
		a := l.Attrs()
		if task, ours := taskOf(a.Alias); ours || isOuter(a.Name) {
			held = append(held, Held{Task: task, Link: a.Name})
		}
	}
	return held, err
}

// sweep removes from the host the interfaces with such names, and gives the cards of such tasks their names back.
func (s *sides) sweep(ctx context.Context, task, name func(string) bool) error {
	all, err := linkList(s.host)
	if err != nil {
		return err
	}
	var faults []error
	for _, l := range all {
		if err := ctx.Err(); err != nil {
			return err
		}
		a := l.Attrs()
		if of, ours := taskOf(a.Alias); ours && task(of) && isCard(l) {
			faults = append(faults, s.release(l))
		} else if name(a.Name) {
			faults = append(faults, s.remove(s.host, l))
		}
	}
	return errors.Join(faults...)
}

func (s *sides) remove(h *netlink.Handle, l netlink.Link) error {
	if err := h.LinkDel(l); err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("remove %s: %w", l.Attrs().Name, err)
	}
	s.did("removed %s", l.Attrs().Name)
	return nil
}

// empty takes the task's interfaces out of its namespace, as that may live on.
func (s *sides) empty(t Task) error {
	all, err := linkList(s.task)
	if err != nil {
		return err
	}
	var faults []error
	for _, l := range all {
		a := l.Attrs()
		if task, ours := taskOf(a.Alias); ours && task == t.ID {
			faults = append(faults, s.moveOut(l))
		} else if made := l.Type() == "macvlan" || l.Type() == "vlan"; made && slices.ContainsFunc(t.Interfaces, func(i Interface) bool { return i.Name == a.Name }) {
			faults = append(faults, s.remove(s.task, l))
		}
	}
	return errors.Join(faults...)
}

// moveOut moves a card from the task's namespace to the host's.
func (s *sides) moveOut(l netlink.Link) error {
	name := nameBefore(l.Attrs().Alias)
	err := move(s.taskNS, l, s.hostNS, name)
	if errors.Is(err, unix.EEXIST) { // its name is somebody else's now; if the one it has here is free there, it is moved all the same
		err = move(s.taskNS, l, s.hostNS, "card%d")
	}
	if err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("move %s back to the host: %w", l.Attrs().Name, err)
	}
	s.did("moved %s back to the host", l.Attrs().Name)
	return nil
}

// release gives a card on the host its name back, if nobody else has it, and takes off that it is a task's.
func (s *sides) release(l netlink.Link) error {
	a := l.Attrs()
	if name := nameBefore(a.Alias); name != a.Name {
		var err error
		if slices.Contains(a.AltNames, name) { // udev gives a card that it finds under another name its own as a further one
			err = s.host.LinkDelAltName(l, name)
		}
		if err := errors.Join(err, s.host.LinkSetDown(l), s.host.LinkSetName(l, name)); err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("rename %s back to %s: %w", a.Name, name, err)
		}
	}
	if err := s.host.LinkSetAlias(l, ""); err != nil {
		return fmt.Errorf("take off %s that it is a task's: %w", a.Name, err)
	}
	s.did("released the card %s", a.Name)
	return nil
}

// nameBefore is the name that a card had on the host.
func nameBefore(alias string) string {
	_, name, _ := strings.Cut(alias, wasName)
	return name
}

// move moves an interface to another namespace and gives it a name there, in one step of the kernel's.
func move(from *os.File, l netlink.Link, to *os.File, name string) error {
	return inside(int(from.Fd()), func() error {
		req := nl.NewNetlinkRequest(unix.RTM_SETLINK, unix.NLM_F_ACK)
		msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
		msg.Index = int32(l.Attrs().Index)
		req.AddData(msg)
		req.AddData(nl.NewRtAttr(unix.IFLA_NET_NS_FD, nl.Uint32Attr(uint32(to.Fd()))))
		req.AddData(nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(name)))
		_, err := req.Execute(unix.NETLINK_ROUTE, 0)
		return err
	})
}

// removeBridge removes our own bridge when it has no port but an uplink.
func (s *sides) removeBridge() error {
	bridge, err := linkByName(s.host, DefaultBridge)
	if err != nil || bridge == nil || bridge.Type() != "bridge" {
		return err
	}
	all, err := linkList(s.host)
	if err != nil {
		return err
	}
	ports := 0
	for _, l := range all {
		if l.Attrs().MasterIndex == bridge.Attrs().Index {
			ports++
		}
	}
	if ports > 1 { // somebody else's
		return nil
	}
	return s.remove(s.host, bridge)
}
