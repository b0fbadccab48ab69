package netns

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// kind is what a rule can speak of beside addresses: whole protocols, ports, or ICMP's types and codes.
type kind struct {
	name   string
	fields []nftables.SetDatatype
	family *family // the only one that has it; nil: both
	text   string
	guard  []expr.Any // what a packet must be for the fields to be there
	load   []load
}

// load is where a field is.
type load struct {
	meta   bool // the protocol
	offset uint32
	length uint32
}

var (
	protocols = &kind{name: "protocols", fields: []nftables.SetDatatype{nftables.TypeInetProto}, text: "meta l4proto", load: []load{{meta: true}}}
	ports     = &kind{name: "ports", fields: []nftables.SetDatatype{nftables.TypeInetProto, nftables.TypeInetService}, text: "meta l4proto . th dport", load: []load{{meta: true}, {offset: 2, length: 2}}}
	icmp4     = &kind{name: "icmp", fields: []nftables.SetDatatype{nftables.TypeICMPType, nftables.TypeICMPCode}, family: &ipv4, text: "icmp type . icmp code",
		guard: protocol(unix.IPPROTO_ICMP).exprs, load: []load{{offset: 0, length: 1}, {offset: 1, length: 1}}}
	icmp6 = &kind{name: "icmpv6", fields: []nftables.SetDatatype{nftables.TypeICMP6Type, nftables.TypeICMPV6Code}, family: &ipv6, text: "icmpv6 type . icmpv6 code",
		guard: protocol(unix.IPPROTO_ICMPV6).exprs, load: []load{{offset: 0, length: 1}, {offset: 1, length: 1}}}
	kinds = []*kind{protocols, ports, icmp4, icmp6}
)

const everyProtocol = 255

// in says whether packets of a family can be of the kind.
func (k *kind) in(f family) bool { return k.family == nil || *k.family == f }

// lookup matches packets whose fields, after the peer's address where there is a family, are in a set.
func (k *kind) lookup(f *family, p peer, set string) part {
	var texts []string
	exprs, register := slices.Clone(k.guard), uint32(firstRegister)
	if f != nil {
		texts = append(texts, f.name+" "+p.name)
		exprs = append(append(f.is(), exprs...), f.load(p, register))
		register += f.length / 4
	}
	for _, l := range k.load {
		if l.meta {
			exprs = append(exprs, &expr.Meta{Key: expr.MetaKeyL4PROTO, Register: register})
		} else {
			exprs = append(exprs, &expr.Payload{DestRegister: register, Base: expr.PayloadBaseTransportHeader, Offset: l.offset, Len: l.length})
		}
		register++
	}
	exprs = append(exprs, &expr.Lookup{SourceRegister: firstRegister, SetName: set})
	return part{fmt.Sprintf("%s @%s", strings.Join(append(texts, k.text), " . "), set), exprs}
}

// icmp6In matches ICMPv6 whose type is in a set.
func icmp6In(set string) part {
	return part{"icmpv6 type @" + set, append(slices.Clone(icmp6.guard),
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Len: 1}, &expr.Lookup{SourceRegister: 1, SetName: set})}
}

// box is what one rule allows: of the first field one value or all, of the last a range. A kind with one field has it as the last.
type box struct {
	kind        *kind
	first, upto uint16
	low, high   uint16
}

func (b box) contains(o box) bool {
	return b.first <= o.first && o.upto <= b.upto && b.low <= o.low && o.high <= b.high
}

func (b box) overlaps(o box) bool {
	return b.first <= o.upto && o.first <= b.upto && b.low <= o.high && o.low <= b.high
}

// fields are the box's corners.
func (b box) fields() (from, to [][]byte) {
	values := [][2]uint16{{b.first, b.upto}, {b.low, b.high}}
	for i, f := range b.kind.fields {
		v := values[len(values)-len(b.kind.fields)+i]
		if f.Bytes == 2 {
			from, to = append(from, port(v[0])), append(to, port(v[1]))
		} else {
			from, to = append(from, []byte{byte(v[0])}), append(to, []byte{byte(v[1])})
		}
	}
	return from, to
}

// box is what the rule allows; false when that is nothing.
func (r GroupRule) box() (box, bool) {
	switch p := uint16(r.Protocol); {
	case r.Protocol == -1:
		return box{kind: protocols, high: everyProtocol}, true
	case r.Protocol < 0 || r.Protocol > everyProtocol:
		return box{}, false
	case r.Protocol == unix.IPPROTO_TCP, r.Protocol == unix.IPPROTO_UDP:
		low, high := max(r.From, 0), min(r.To, 65535)
		return box{ports, p, p, uint16(low), uint16(high)}, low <= high
	case r.Protocol == unix.IPPROTO_ICMP:
		return r.icmp(icmp4)
	case r.Protocol == unix.IPPROTO_ICMPV6:
		return r.icmp(icmp6)
	default:
		return box{kind: protocols, low: p, high: p}, true
	}
}

func (r GroupRule) icmp(k *kind) (box, bool) {
	b := box{kind: k, upto: 255, high: 255}
	if r.From >= 0 {
		b.first, b.upto = uint16(r.From), uint16(r.From)
	}
	if r.From >= 0 && r.To >= 0 {
		b.low, b.high = uint16(r.To), uint16(r.To)
	}
	return b, r.From <= 255 && r.To <= 255
}

// allowances are what is allowed for each peer: a network, or a group's id.
type allowances[P comparable] map[P][]box

func (a allowances[P]) add(peer P, b box) { a[peer] = append(a[peer], b) }

func (a allowances[P]) peers() []P {
	all := slices.Collect(maps.Keys(a))
	slices.SortFunc(all, func(x, y P) int { return cmp.Compare(fmt.Sprint(x), fmt.Sprint(y)) })
	return all
}

// boxesOf are the boxes of a kind, as few as say the same: none overlaps another.
func boxesOf(all []box, k *kind) (boxes []box) {
	all = slices.DeleteFunc(slices.Clone(all), func(b box) bool { return b.kind != k })
	slices.SortFunc(all, func(a, b box) int { // those for all of the first field come before the others
		return cmp.Or(cmp.Compare(int(b.upto)-int(b.first), int(a.upto)-int(a.first)), cmp.Compare(a.first, b.first), cmp.Compare(a.low, b.low))
	})
	for _, b := range all {
		if len(boxes) > 0 && boxes[0].upto != boxes[0].first && boxes[0].contains(b) {
			continue
		}
		if last := len(boxes) - 1; last >= 0 && boxes[last].first == b.first && boxes[last].upto == b.upto && int(b.low) <= int(boxes[last].high)+1 {
			boxes[last].high = max(boxes[last].high, b.high)
			continue
		}
		boxes = append(boxes, b)
	}
	return boxes
}

// layers are the elements of as many sets as it takes for no box to overlap another of its set, which the kernel demands. Boxes overlap only
// where one's network contains the other's, and what another box contains is left out, so one layer is the rule.
func layers(allowed allowances[netip.Prefix], k *kind) (sets [][]Element) {
	type placed struct {
		box
		layer int
	}
	networks := slices.Collect(maps.Keys(allowed))
	slices.SortFunc(networks, func(a, b netip.Prefix) int {
		return cmp.Or(cmp.Compare(a.Bits(), b.Bits()), a.Addr().Compare(b.Addr()))
	})
	around, lengths := map[netip.Prefix][]placed{}, []int(nil)
	for _, n := range networks {
		if len(lengths) == 0 || lengths[len(lengths)-1] != n.Bits() {
			lengths = append(lengths, n.Bits())
		}
	boxes:
		for _, b := range boxesOf(allowed[n], k) {
			var taken []int
			for _, l := range lengths[:len(lengths)-1] {
				wider, _ := n.Addr().Prefix(l)
				for _, o := range around[wider] {
					if o.contains(b) {
						continue boxes
					}
					if o.overlaps(b) {
						taken = append(taken, o.layer)
					}
				}
			}
			layer := 0
			for slices.Contains(taken, layer) {
				layer++
			}
			if layer == len(sets) {
				sets = append(sets, nil)
			}
			from, to := b.fields()
			sets[layer] = append(sets[layer], Element{Key: joined(append([][]byte{n.Addr().AsSlice()}, from...)...), End: joined(append([][]byte{lastOf(n)}, to...)...)})
			around[n] = append(around[n], placed{b, layer})
		}
	}
	for i := range sets {
		sets[i] = sorted(sets[i])
	}
	return sets
}
