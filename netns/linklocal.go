package netns

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// LinkLocal is the address at which containers ask the agent, 169.254.170.2, as a part of the host's own network:
//
//	the address is on the loopback interface       so every container whose default route is this host reaches it, and so
//	                                               does the host itself, with or without a default route
//	port 80 of it → the agent's port of it         by our own table, before the rules of others: port 80 of the host stays free
//	from interfaces that lead to no container      dropped: other machines, also those on the same cable
//
// There is no packet for 127.0.0.0/8 from elsewhere, so it needs no route_localnet.
type LinkLocal struct {
	// Address and Port are where the agent listens; Published is the port that containers ask.
	Address         netip.Addr
	Port, Published uint16
}

// addressLabel marks the address as ours.
const addressLabel = "lo:longshore"

func (l LinkLocal) rules(inward []string) Ruleset {
	ask := []Rule{rule(address(destination, l.Address), tcpTo(l.Published), translateTo(netip.AddrPortFrom(l.Address, l.Port)))}
	return Ruleset{
		Sets: []Set{containersSet(inward)},
		Chains: []Chain{
			chainOf(guardChain, rule(address(destination, l.Address), notFrom("lo"), notFromIn(containers), drop)),
			chainOf(arriveChain, ask...),
			chainOf(leaveChain, ask...),
		},
	}
}

// Ensure puts the address on the loopback interface, and says so if it was not there. It makes no rules, so that who
// finds the port taken leaves them alone.
func (l LinkLocal) ensure(h *netlink.Handle) (changed []string, err error) {
	lo, held, err := l.held(h)
	if err != nil || held != nil {
		return nil, err
	}
	a := &netlink.Addr{IPNet: &net.IPNet{IP: l.Address.AsSlice(), Mask: net.CIDRMask(32, 32)}, Label: addressLabel, Scope: unix.RT_SCOPE_HOST}
	if err := h.AddrAdd(lo, a); err != nil && !errors.Is(err, unix.EEXIST) {
		return nil, fmt.Errorf("put %s on the loopback interface: %w", l.Address, err)
	}
	return []string{"address " + l.Address.String() + " of the loopback interface"}, nil
}

// held is the loopback interface, and the address if it has it.
func (l LinkLocal) held(h *netlink.Handle) (lo netlink.Link, held *netlink.Addr, err error) {
	if lo, err = h.LinkByName("lo"); err != nil {
		return nil, nil, fmt.Errorf("the loopback interface: %w", err)
	}
	addresses, err := h.AddrList(lo, netlink.FAMILY_V4)
	if err != nil {
		return nil, nil, fmt.Errorf("the addresses of the loopback interface: %w", err)
	}
	for i := range addresses {
		if addresses[i].IP.Equal(l.Address.AsSlice()) {
			return lo, &addresses[i], nil
		}
	}
	return lo, nil, nil
}

// remove removes the address, if it is ours.
func (l LinkLocal) remove(h *netlink.Handle) (removed []string, err error) {
	lo, held, err := l.held(h)
	if err != nil || held == nil || !strings.HasPrefix(held.Label, addressLabel) {
		return nil, err
	}
	if err := h.AddrDel(lo, held); err != nil {
		return nil, fmt.Errorf("remove %s from the loopback interface: %w", l.Address, err)
	}
	return []string{"address " + l.Address.String() + " of the loopback interface"}, nil
}

// DenyMetadata keeps containers on bridges, the engine's and our own, from the host's instance metadata. Host-mode containers and the host
// itself reach it.
type DenyMetadata struct{}

func (DenyMetadata) rules(inward []string) Ruleset {
	var deny []Rule
	for _, a := range MetadataAddresses {
		deny = append(deny, rule(address(destination, a), fromIn(containers), reject))
	}
	return Ruleset{Sets: []Set{containersSet(inward)}, Chains: []Chain{chainOf(guardChain, deny...)}}
}

func (DenyMetadata) ensure(*netlink.Handle) ([]string, error) { return nil, nil }

func (DenyMetadata) remove(*netlink.Handle) ([]string, error) { return nil, nil }

// containers is the set of the interfaces that lead to containers.
const containers = "containers"

func containersSet(inward []string) Set {
	s := Set{Name: containers, Key: []nftables.SetDatatype{nftables.TypeIFName}}
	for _, n := range inward {
		s.Elements = append(s.Elements, Element{Key: interfaceName(n)})
	}
	s.Elements = sorted(s.Elements)
	return s
}

// inward are the bridges that lead to containers only: to which nothing is attached but veths. One with a network card in it
// leads to other machines.
func inward(links []netlink.Link) []string {
	outward := map[int]bool{}
	for _, l := range links {
		if a := l.Attrs(); a.MasterIndex != 0 && l.Type() != "veth" {
			outward[a.MasterIndex] = true
		}
	}
	var names []string
	for _, l := range links {
		if a := l.Attrs(); l.Type() == "bridge" && !outward[a.Index] {
			names = append(names, a.Name)
		}
	}
	slices.Sort(names)
	return names
}
