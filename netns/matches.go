package netns

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// part is a piece of a rule, in nft's words and in the kernel's. Each way to match has one function here, so that both come from one place.
type part struct {
	text  string
	exprs []expr.Any
}

// rule is a rule of parts.
func rule(parts ...part) Rule {
	var r Rule
	var texts []string
	for _, p := range parts {
		texts = append(texts, p.text)
		r.Exprs = append(r.Exprs, p.exprs...)
	}
	r.Text = strings.Join(texts, " ")
	return r
}

// family is IPv4 or IPv6 where a rule must tell them apart.
type family struct {
	name     string // of its header in nft
	digit    string // what names of sets have of it
	number   byte
	datatype nftables.SetDatatype

	source, destination, length uint32 // where its addresses are, and how long they are
}

var (
	ipv4     = family{name: "ip", digit: "4", number: unix.NFPROTO_IPV4, datatype: nftables.TypeIPAddr, source: 12, destination: 16, length: 4}
	ipv6     = family{name: "ip6", digit: "6", number: unix.NFPROTO_IPV6, datatype: nftables.TypeIP6Addr, source: 8, destination: 24, length: 16}
	families = []family{ipv4, ipv6}
)

func familyOf(a netip.Addr) family {
	if a.Is4() {
		return ipv4
	}
	return ipv6
}

// peer is the address field that names the other end: the source of what comes in, the destination of what goes out.
type peer struct {
	name   string
	offset func(family) uint32
}

var (
	source      = peer{"saddr", func(f family) uint32 { return f.source }}
	destination = peer{"daddr", func(f family) uint32 { return f.destination }}
)

// The registers of a key's fields: sixteen of four bytes each, of which the first is number 8. Number 1 is the first four of them.
const firstRegister = 8

// is matches the family.
func (f family) is() []expr.Any {
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1}, equal(f.number)}
}

func inFamily(f family) part {
	return part{"meta nfproto " + map[string]string{"ip": "ipv4", "ip6": "ipv6"}[f.name], f.is()}
}

func equal(b ...byte) expr.Any { return &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: b} }

func differs(b ...byte) expr.Any { return &expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: b} }

func (f family) load(p peer, register uint32) expr.Any {
	return &expr.Payload{DestRegister: register, Base: expr.PayloadBaseNetworkHeader, Offset: p.offset(f), Len: f.length}
}

// address matches one.
func address(p peer, a netip.Addr) part {
	f := familyOf(a)
	return part{fmt.Sprintf("%s %s %s", f.name, p.name, a), append(f.is(), f.load(p, 1), equal(a.AsSlice()...))}
}

// notAddress matches all others of its family.
func notAddress(p peer, a netip.Addr) part {
	f := familyOf(a)
	return part{fmt.Sprintf("%s %s != %s", f.name, p.name, a), append(f.is(), f.load(p, 1), differs(a.AsSlice()...))}
}

// leadTo sends to the address and port that a map has for the protocol and port; what it does not have goes on.
func leadTo(f family, published string) part {
	return part{fmt.Sprintf("dnat %s to meta l4proto . th dport map @%s", f.name, published), []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: firstRegister},
		&expr.Payload{DestRegister: firstRegister + 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		&expr.Lookup{SourceRegister: firstRegister, DestRegister: firstRegister, IsDestRegSet: true, SetName: published},
		&expr.NAT{Type: expr.NATTypeDestNAT, Family: uint32(f.number), RegAddrMin: firstRegister, RegProtoMin: firstRegister + f.length/4, Specified: true}}}
}

// network matches the addresses of one.
func network(p peer, n netip.Prefix) part {
	f, mask := familyOf(n.Addr()), make([]byte, n.Addr().BitLen()/8)
	for i := range n.Bits() {
		mask[i/8] |= 0x80 >> (i % 8)
	}
	return part{fmt.Sprintf("%s %s %s", f.name, p.name, n), append(f.is(), f.load(p, 1),
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: f.length, Mask: mask, Xor: make([]byte, f.length)}, equal(n.Masked().Addr().AsSlice()...))}
}

// addressIn matches the addresses in a set.
func addressIn(f family, p peer, set string) part {
	return part{fmt.Sprintf("%s %s @%s", f.name, p.name, set), append(f.is(), f.load(p, 1), &expr.Lookup{SourceRegister: 1, SetName: set})}
}

func metaIs(key expr.MetaKey, name, value string, cmp func(...byte) expr.Any) part {
	return part{fmt.Sprintf("%s %q", name, value), []expr.Any{&expr.Meta{Key: key, Register: 1}, cmp(interfaceName(value)...)}}
}

func from(name string) part    { return metaIs(expr.MetaKeyIIFNAME, "iifname", name, equal) }
func notFrom(name string) part { return metaIs(expr.MetaKeyIIFNAME, "iifname !=", name, differs) }
func to(name string) part      { return metaIs(expr.MetaKeyOIFNAME, "oifname", name, equal) }
func notTo(name string) part   { return metaIs(expr.MetaKeyOIFNAME, "oifname !=", name, differs) }

func fromIn(set string) part {
	return part{"iifname @" + set, []expr.Any{&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: 1}, &expr.Lookup{SourceRegister: 1, SetName: set}}}
}

func notFromIn(set string) part {
	return part{"iifname != @" + set, []expr.Any{&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: 1}, &expr.Lookup{SourceRegister: 1, SetName: set, Invert: true}}}
}

// protocol matches one that is above IP.
func protocol(p int) part {
	return part{"meta l4proto " + protocolName(p), []expr.Any{&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1}, equal(byte(p))}}
}

func tcpTo(p uint16) part {
	return part{fmt.Sprintf("tcp dport %d", p), append(protocol(unix.IPPROTO_TCP).exprs,
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2}, equal(port(p)...))}
}

// state matches what connection tracking says of a packet.
func state(names string, bits uint32) part {
	return part{"ct state " + names, []expr.Any{&expr.Ct{Key: expr.CtKeySTATE, Register: 1}, masked(bits), differs(0, 0, 0, 0)}}
}

// translated matches connections whose destination has been translated.
func translated() part {
	const statusDNAT = 1 << 5 // IPS_DST_NAT
	return part{"ct status dnat", []expr.Any{&expr.Ct{Key: expr.CtKeySTATUS, Register: 1}, masked(statusDNAT), differs(0, 0, 0, 0)}}
}

func masked(bits uint32) expr.Any {
	return &expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(bits), Xor: make([]byte, 4)}
}

// toHost matches packets to the host's own addresses.
func toHost() part {
	return part{"fib daddr type local", []expr.Any{
		&expr.Fib{Register: 1, FlagDADDR: true, ResultADDRTYPE: true}, equal(binaryutil.NativeEndian.PutUint32(unix.RTN_LOCAL)...),
	}}
}

func verdict(text string, kind expr.VerdictKind) part {
	return part{text, []expr.Any{&expr.Verdict{Kind: kind}}}
}

var (
	accept = verdict("accept", expr.VerdictAccept)
	drop   = verdict("drop", expr.VerdictDrop)
	// reject tells who asks at once, so that he need not wait for an answer that does not come.
	reject     = part{"reject with icmpx type port-unreachable", []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_ICMPX_UNREACH, Code: unix.NFT_REJECT_ICMPX_PORT_UNREACH}}}
	masquerade = part{"masquerade", []expr.Any{&expr.Masq{}}}
)

func jump(chain string) part {
	return part{"jump " + chain, []expr.Any{&expr.Verdict{Kind: expr.VerdictJump, Chain: chain}}}
}

// translateTo sends to an address and port.
func translateTo(a netip.AddrPort) part {
	f := familyOf(a.Addr())
	return part{fmt.Sprintf("dnat %s to %s", f.name, a), []expr.Any{
		&expr.Immediate{Register: 1, Data: a.Addr().AsSlice()},
		&expr.Immediate{Register: 2, Data: binary.BigEndian.AppendUint16(nil, a.Port())},
		&expr.NAT{Type: expr.NATTypeDestNAT, Family: uint32(f.number), RegAddrMin: 1, RegProtoMin: 2, Specified: true},
	}}
}
