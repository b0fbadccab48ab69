package network

import (
	"encoding/binary"
	"fmt"
	"math/big"
	"net/netip"
	"slices"
	"strings"
)

// mostAddresses bounds how many of a block's addresses are given out: the first of a large one of IPv6.
const mostAddresses = 1 << 32

// Block is a subnet's addresses of one family. It never changes.
type Block struct {
	subnet   string
	prefix   netip.Prefix
	gateway  netip.Addr
	reserved []span // in order, apart from each other
	last     netip.Addr
	usable   uint64 // how many there are for tasks
}

// A span is a row of addresses, its ends among them.
type span struct{ first, last netip.Addr }

// newBlock is a block whose tasks get none of the addresses that stand for the network as a whole, nor the gateway's, nor those
// that are reserved. The gateway is the first address unless one is given.
func newBlock(subnet string, prefix netip.Prefix, gateway netip.Addr, reserved []span) (*Block, error) {
	b := &Block{subnet: subnet, prefix: prefix, gateway: gateway}
	width := prefix.Addr().BitLen() - prefix.Bits()
	if width < 2 || prefix.Bits() == 0 {
		return nil, fmt.Errorf("%s is too small or too large for a subnet", prefix)
	}
	end := plus(prefix.Addr(), size(width)-1)
	b.last = end
	if !gateway.IsValid() {
		b.gateway = prefix.Addr().Next()
	} else if !prefix.Contains(gateway) {
		return nil, fmt.Errorf("the gateway %s is not in %s", gateway, prefix)
	}
	b.reserved = []span{{prefix.Addr(), prefix.Addr()}, {b.gateway, b.gateway}}
	if prefix.Addr().Is4() {
		b.reserved = append(b.reserved, span{end, end})
	}
	for _, r := range reserved {
		if prefix.Contains(r.first) {
			b.reserved = append(b.reserved, r)
		}
	}
	b.reserved = merge(b.reserved)
	b.usable = size(width)
	for _, r := range b.reserved {
		if r.first.Compare(end) <= 0 {
			b.usable -= distance(r.first, least(r.last, end)) + 1
		}
	}
	if b.usable == 0 {
		return nil, fmt.Errorf("all addresses of %s are reserved", prefix)
	}
	return b, nil
}

// Prefix is the block's network.
func (b *Block) Prefix() netip.Prefix { return b.prefix }

// Gateway is the gateway in CIDR form, as agents want it: 10.20.0.1/24.
func (b *Block) Gateway() string { return netip.PrefixFrom(b.gateway, b.prefix.Bits()).String() }

// Usable is how many addresses there are for tasks.
func (b *Block) Usable() uint64 { return b.usable }

// Holds tells whether a task may have the address.
func (b *Block) Holds(a netip.Addr) bool {
	return b.prefix.Contains(a) && a.Compare(b.last) <= 0 && b.reservation(a) == nil
}

// reservation is the span that the address is in, nil for none.
func (b *Block) reservation(a netip.Addr) *span {
	i, found := slices.BinarySearchFunc(b.reserved, a, func(s span, a netip.Addr) int { return s.last.Compare(a) })
	if found || i < len(b.reserved) && b.reserved[i].first.Compare(a) <= 0 {
		return &b.reserved[i]
	}
	return nil
}

// Next is the first address from one on, and around the end of the block, that tasks may have and that is not taken; false when
// there is none. A from that is not in the block stands for its beginning.
func (b *Block) Next(from netip.Addr, taken func(netip.Addr) bool) (netip.Addr, bool) {
	if !from.IsValid() || !b.prefix.Contains(from) || from.Compare(b.last) > 0 {
		from = b.prefix.Addr()
	}
	for _, row := range []span{{from, b.last}, {b.prefix.Addr(), from}} {
		for a := row.first; a.IsValid() && a.Compare(row.last) <= 0; a = a.Next() {
			if r := b.reservation(a); r != nil {
				a = r.last
			} else if !taken(a) {
				return a, true
			}
		}
	}
	return netip.Addr{}, false
}

// size is how many addresses of a block with so many bits for hosts are in use.
func size(width int) uint64 {
	if width >= 32 {
		return mostAddresses
	}
	return 1 << width
}

// plus is the address so many after another one.
func plus(a netip.Addr, n uint64) netip.Addr {
	sum := new(big.Int).Add(new(big.Int).SetBytes(a.AsSlice()), new(big.Int).SetUint64(n))
	raw := make([]byte, a.BitLen()/8)
	sum.FillBytes(raw)
	out, _ := netip.AddrFromSlice(raw)
	return out
}

// distance is how many addresses b is after a; at most what fits.
func distance(a, b netip.Addr) uint64 {
	return low(b) - low(a)
}

// low is the last 64 bits of an address.
func low(a netip.Addr) uint64 {
	raw := a.As16()
	return binary.BigEndian.Uint64(raw[8:])
}

func least(a, b netip.Addr) netip.Addr {
	if a.Compare(b) < 0 {
		return a
	}
	return b
}

// merge brings spans into order and joins those that touch.
func merge(spans []span) (merged []span) {
	slices.SortFunc(spans, func(a, b span) int { return a.first.Compare(b.first) })
	for _, s := range spans {
		if n := len(merged); n > 0 && (s.first.Compare(merged[n-1].last) <= 0 || s.first == merged[n-1].last.Next()) {
			if s.last.Compare(merged[n-1].last) > 0 {
				merged[n-1].last = s.last
			}
			continue
		}
		merged = append(merged, s)
	}
	return merged
}

// parseSpans reads addresses, networks, and rows like 10.20.0.2-10.20.0.9.
func parseSpans(texts []string) (spans []span, err error) {
	for _, text := range texts {
		s, ok := parseSpan(text)
		if !ok {
			return nil, fmt.Errorf("reserved: %q is not an address, a network or a row such as 10.20.0.2-10.20.0.9", clip(text))
		}
		spans = append(spans, s)
	}
	return spans, nil
}

func parseSpan(text string) (s span, ok bool) {
	if first, last, found := strings.Cut(text, "-"); found {
		a, errA := netip.ParseAddr(strings.TrimSpace(first))
		b, errB := netip.ParseAddr(strings.TrimSpace(last))
		return span{a, b}, errA == nil && errB == nil && a.BitLen() == b.BitLen() && a.Compare(b) <= 0
	}
	if p, err := netip.ParsePrefix(text); err == nil {
		if p != p.Masked() {
			return s, false
		}
		raw := p.Addr().AsSlice()
		for bit := p.Bits(); bit < 8*len(raw); bit++ {
			raw[bit/8] |= 1 << (7 - bit%8)
		}
		last, _ := netip.AddrFromSlice(raw)
		return span{p.Addr(), last}, true
	}
	a, err := netip.ParseAddr(text)
	return span{a, a}, err == nil
}
