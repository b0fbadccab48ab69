package netns

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// A card keeps, wherever it is moved, an alias that says whose it is and what its name on the host was:
//
//	longshore task <id> <name in the namespace> was <name on the host>
//
// It is written before the card is moved, so that whatever happens then, the card can be given back. The kernel moves cards, but not what it has
// made itself, to the machine's first namespace when theirs ends.

const wasName = " was "

func (Card) String() string { return "card of the host" }

func (Card) ensure(s *sides, l link) (netlink.Link, error) {
	now, err := cardWithin(s.task, l)
	if err != nil {
		return nil, err
	}
	if now == nil {
		if now, err = s.moveIn(l); err != nil {
			return nil, err
		}
	}
	if now.Attrs().Name == l.Name {
		return now, nil
	}
	return s.rename(now, l.Name)
}

// cardWithin is the task's card in its namespace, under whatever name.
func cardWithin(h *netlink.Handle, l link) (netlink.Link, error) {
	all, err := linkList(h)
	if err != nil {
		return nil, err
	}
	for _, now := range all {
		if a := now.Attrs(); bytes.Equal(a.HardwareAddr, l.MAC) || strings.HasPrefix(a.Alias, l.alias+wasName) {
			return now, nil
		}
	}
	return nil, nil
}

// card is the host's card with that MAC: what is made on top of a card, or is a port's picture, often has the same. It is nil when
// there is none.
func card(h *netlink.Handle, mac net.HardwareAddr) (netlink.Link, error) {
	all, err := linkList(h)
	if err != nil {
		return nil, err
	}
	for _, l := range all {
		if bytes.Equal(l.Attrs().HardwareAddr, mac) && isCard(l) {
			return l, nil
		}
	}
	return nil, nil
}

// isCard tells cards, and the veths that tests and nested hosts have for them, from what is built on them.
func isCard(l netlink.Link) bool {
	switch l.Type() {
	case "device":
		return l.Attrs().Flags&net.FlagLoopback == 0
	case "veth", "tuntap":
		return !isOuter(l.Attrs().Name)
	}
	return false
}

// moveIn moves the card from the host into the task's namespace, which takes the kernel some 15 ms.
func (s *sides) moveIn(l link) (netlink.Link, error) {
	found, err := card(s.host, l.MAC)
	if err != nil {
		return nil, err
	}
	if found == nil {
		return nil, fault(CardMissing, "the host has no network card with the MAC %s (yet, or any more); those it has: %s", l.MAC, s.cards())
	}
	a := found.Attrs()
	if !strings.HasPrefix(a.Alias, l.alias+wasName) {
		if err := s.host.LinkSetAlias(found, l.alias+wasName+a.Name); err != nil {
			return nil, fmt.Errorf("write on %s whose it is: %w", a.Name, err)
		}
	}
	switch err := move(s.hostNS, found, s.taskNS, l.Name); {
	case errors.Is(err, unix.EEXIST):
		return nil, fault(NameTaken, "%s in the task's namespace is something else than the card %s", l.Name, a.Name)
	case err != nil:
		return nil, fmt.Errorf("move %s into the task's namespace: %w", a.Name, err)
	}
	s.did("moved %s into the task's namespace", a.Name)
	moved, err := cardWithin(s.task, l)
	if err == nil && moved == nil {
		err = fault(CardMissing, "%s went while it was moved", a.Name)
	}
	return moved, err
}

// cards are the names and MACs of the host's.
func (s *sides) cards() string {
	all, _ := linkList(s.host)
	var names []string
	for _, l := range all {
		if isCard(l) {
			names = append(names, l.Attrs().Name+" "+l.Attrs().HardwareAddr.String())
		}
	}
	return strings.Join(names, ", ")
}

// rename gives the interface its name in the namespace, for which it must be down.
func (s *sides) rename(l netlink.Link, name string) (netlink.Link, error) {
	if err := s.task.LinkSetDown(l); err != nil {
		return nil, fmt.Errorf("set %s down: %w", l.Attrs().Name, err)
	}
	switch err := s.task.LinkSetName(l, name); {
	case errors.Is(err, unix.EEXIST):
		return nil, fault(NameTaken, "%s in the task's namespace is something else than the card %s", name, l.Attrs().Name)
	case err != nil:
		return nil, fmt.Errorf("rename %s to %s: %w", l.Attrs().Name, name, err)
	}
	s.did("renamed %s to %s", l.Attrs().Name, name)
	return s.task.LinkByName(name)
}
