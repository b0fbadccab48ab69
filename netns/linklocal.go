package netns

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
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
// There is no packet for 127.0.0.0/8 from elsewhere, so route_localnet stays as it is. Interfaces that lead to containers
// are the loopback interface and the bridges to which nothing is attached but veths: a bridge with a network card in it leads to other
// machines.
type LinkLocal struct {
	// Address and Port are where the agent listens; Published is the port that containers ask.
	Address         netip.Addr
	Port, Published uint16
	// Namespace is the file descriptor of a network namespace; 0 is the own one.
	Namespace int
}

// addressLabel marks the address as ours.
const addressLabel = "lo:longshore"

// The priorities of our chains: the first filter is before the engine's, and so is the translation, as the engine translates port 80
// of every address of the host where a container publishes it.
const (
	guardPriority     = -160
	translatePriority = -110
)

// Rules are the wanted rules, with the interfaces that lead to containers.
func (l LinkLocal) Rules(inward []string) Ruleset {
	inward = append([]string{"lo"}, inward...)
	slices.Sort(inward)
	translate := Rule{
		Text:  fmt.Sprintf("ip daddr %s tcp dport %d dnat ip to %s:%d", l.Address, l.Published, l.Address, l.Port),
		Exprs: slices.Concat(l.toAddress(), tcpPort(l.Published), l.translation()),
	}
	guard := Rule{
		Text: fmt.Sprintf("ip daddr %s iifname != @inward drop", l.Address),
		Exprs: slices.Concat(l.toAddress(), []expr.Any{
			&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: 1},
			&expr.Lookup{SourceRegister: 1, SetName: "inward", Invert: true},
			&expr.Verdict{Kind: expr.VerdictDrop},
		}),
	}
	return Ruleset{
		Interfaces: []InterfaceSet{{Name: "inward", Names: slices.Compact(inward)}},
		Chains: []Chain{
			{Name: "guard", Type: nftables.ChainTypeFilter, Hook: nftables.ChainHookPrerouting, Priority: guardPriority, Rules: []Rule{guard}},
			{Name: "ask", Type: nftables.ChainTypeNAT, Hook: nftables.ChainHookPrerouting, Priority: translatePriority, Rules: []Rule{translate}},
			{Name: "ask-from-host", Type: nftables.ChainTypeNAT, Hook: nftables.ChainHookOutput, Priority: translatePriority, Rules: []Rule{translate}},
		},
	}
}

// toAddress matches IPv4 packets to the address.
func (l LinkLocal) toAddress() []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.NFPROTO_IPV4}},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 16, Len: 4},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: l.Address.AsSlice()},
	}
}

// tcpPort matches a TCP destination port.
func tcpPort(port uint16) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.IPPROTO_TCP}},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.BigEndian.PutUint16(port)},
	}
}

// translation sends to the agent's port.
func (l LinkLocal) translation() []expr.Any {
	return []expr.Any{
		&expr.Immediate{Register: 1, Data: l.Address.AsSlice()},
		&expr.Immediate{Register: 2, Data: binary.BigEndian.AppendUint16(nil, l.Port)},
		&expr.NAT{Type: expr.NATTypeDestNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: 1, RegProtoMin: 2, Specified: true},
	}
}

// link is a handle of the namespace's links and addresses, and what ends it.
func (l LinkLocal) link() (*netlink.Handle, error) {
	if l.Namespace == 0 {
		return netlink.NewHandle(unix.NETLINK_ROUTE)
	}
	return netlink.NewHandleAt(nsHandle(l.Namespace), unix.NETLINK_ROUTE)
}

func (l LinkLocal) tables() (*nftables.Conn, error) {
	if l.Namespace == 0 {
		return nftables.New()
	}
	return nftables.New(nftables.WithNetNSFd(l.Namespace))
}

// EnsureAddress puts the address on the loopback interface, and says whether it was not there. It does nothing else, so that who
// finds the port taken leaves the rules alone.
func (l LinkLocal) EnsureAddress() (changed bool, err error) {
	h, err := l.link()
	if err != nil {
		return false, err
	}
	defer h.Close()
	lo, held, err := l.held(h)
	if err != nil || held != nil {
		return false, err
	}
	a := &netlink.Addr{IPNet: &net.IPNet{IP: l.Address.AsSlice(), Mask: net.CIDRMask(32, 32)}, Label: addressLabel, Scope: unix.RT_SCOPE_HOST}
	if err := h.AddrAdd(lo, a); err != nil && !errors.Is(err, unix.EEXIST) {
		return false, fmt.Errorf("put %s on the loopback interface: %w", l.Address, err)
	}
	return true, nil
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

// EnsureRules makes the rules what they should be, and says whether they were something else.
func (l LinkLocal) EnsureRules() (changed bool, err error) {
	h, err := l.link()
	if err != nil {
		return false, err
	}
	defer h.Close()
	links, err := h.LinkList()
	if err != nil {
		return false, fmt.Errorf("list the interfaces: %w", err)
	}
	c, err := l.tables()
	if err != nil {
		return false, err
	}
	return l.Rules(inward(links)).ensure(c)
}

// inward are the bridges that lead to containers only, sorted.
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

// Remove removes the address, if it is ours, and the table, and says what it removed. It can be repeated.
func (l LinkLocal) Remove() (removed []string, err error) {
	c, err := l.tables()
	if err != nil {
		return nil, err
	}
	gone, err := removeTable(c)
	if err != nil {
		return nil, err
	}
	if gone {
		removed = append(removed, "nftables table inet "+TableName)
	}
	h, err := l.link()
	if err != nil {
		return removed, err
	}
	defer h.Close()
	lo, held, err := l.held(h)
	if err != nil || held == nil || !strings.HasPrefix(held.Label, addressLabel) {
		return removed, err
	}
	if err := h.AddrDel(lo, held); err != nil {
		return removed, fmt.Errorf("remove %s from the loopback interface: %w", l.Address, err)
	}
	return append(removed, "address "+l.Address.String()+" of the loopback interface"), nil
}
