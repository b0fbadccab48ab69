package netns

import (
	"bytes"
	"encoding/binary"
	"net"
	"net/netip"
)

// The frames by which interfaces ask whether an address is anybody's, and tell that it is theirs: ARP (RFC 826, RFC 5227) for
// IPv4, neighbour discovery (RFC 4861, RFC 4862 section 5.4) for IPv6.

const (
	etherARP  = 0x0806
	etherIPv6 = 0x86dd

	etherSize = 14
	arpSize   = 28
	ip6Size   = 40

	neighbourSolicitation  = 135
	neighbourAdvertisement = 136
)

var (
	everybody = net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	allNodes  = netip.MustParseAddr("ff02::1")
)

// questionFrame asks whether anybody has the address.
func questionFrame(from net.HardwareAddr, a netip.Addr) []byte {
	if a.Is4() {
		return arpFrame(from, netip.IPv4Unspecified(), a)
	}
	group := solicitedNode(a)
	return ndFrame(from, netip.IPv6Unspecified(), group, neighbourSolicitation, 0, a, nil)
}

// claimFrame tells that the address is here now: switches and neighbours that knew it elsewhere learn it.
func claimFrame(from net.HardwareAddr, a netip.Addr) []byte {
	if a.Is4() {
		return arpFrame(from, a, a)
	}
	const override = 0x20
	return ndFrame(from, a, allNodes, neighbourAdvertisement, override, a, append([]byte{2, 1}, from...))
}

// etherFrame is the frame's beginning, with room for what follows.
func etherFrame(to, from net.HardwareAddr, kind uint16, size int) []byte {
	b := make([]byte, 0, etherSize+size)
	b = append(append(b, to...), from...)
	return binary.BigEndian.AppendUint16(b, kind)
}

// arpFrame is a request of sender for target.
func arpFrame(from net.HardwareAddr, sender, target netip.Addr) []byte {
	b := etherFrame(everybody, from, etherARP, arpSize)
	b = append(b, 0, 1, 8, 0, 6, 4, 0, 1) // Ethernet, IPv4, the lengths of their addresses, request
	b = append(append(b, from...), sender.AsSlice()...)
	return append(append(b, make([]byte, 6)...), target.AsSlice()...)
}

// ndFrame is a message of neighbour discovery.
func ndFrame(from net.HardwareAddr, sender, to netip.Addr, kind, flags byte, target netip.Addr, option []byte) []byte {
	group := to.As16()
	message := append([]byte{kind, 0, 0, 0, flags, 0, 0, 0}, target.AsSlice()...)
	message = append(message, option...)
	ends := append(sender.AsSlice(), to.AsSlice()...)
	binary.BigEndian.PutUint16(message[2:], checksum(ends, message))

	b := etherFrame(append(net.HardwareAddr{0x33, 0x33}, group[12:]...), from, etherIPv6, ip6Size+len(message))
	b = append(b, 0x60, 0, 0, 0, 0, byte(len(message)), 58, 255) // version, length, ICMPv6, hops
	return append(append(b, ends...), message...)
}

// checksum is that of ICMPv6 (RFC 8200 section 8.1).
func checksum(ends, message []byte) uint16 {
	sum := uint32(len(message)) + 58
	for _, part := range [][]byte{ends, message} {
		for i := 0; i+1 < len(part); i += 2 { // both are of even length
			sum += uint32(binary.BigEndian.Uint16(part[i:]))
		}
	}
	for sum>>16 != 0 {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// solicitedNode is the group of those whose address ends like a.
func solicitedNode(a netip.Addr) netip.Addr {
	b := netip.MustParseAddr("ff02::1:ff00:0").As16()
	end := a.As16()
	copy(b[13:], end[13:])
	return netip.AddrFrom16(b)
}

// claimed says who else has the address or is about to take it, as far as the frame tells.
func claimed(frame []byte, own net.HardwareAddr, a netip.Addr) (by net.HardwareAddr, claimed bool) {
	if len(frame) < etherSize || bytes.Equal(frame[6:12], own) {
		return nil, false
	}
	by = net.HardwareAddr(bytes.Clone(frame[6:12]))
	body := frame[etherSize:]
	switch kind := binary.BigEndian.Uint16(frame[12:]); {
	case kind == etherARP && a.Is4() && len(body) >= arpSize:
		sender, target := netip.AddrFrom4([4]byte(body[14:18])), netip.AddrFrom4([4]byte(body[24:28]))
		asks := sender.IsUnspecified() && target == a && body[7] == 1
		return by, sender == a || asks
	case kind == etherIPv6 && a.Is6() && len(body) >= ip6Size+24 && body[6] == 58:
		sender, target := netip.AddrFrom16([16]byte(body[8:24])), netip.AddrFrom16([16]byte(body[ip6Size+8:ip6Size+24]))
		asks := body[ip6Size] == neighbourSolicitation && sender.IsUnspecified()
		return by, target == a && (asks || body[ip6Size] == neighbourAdvertisement)
	}
	return nil, false
}
