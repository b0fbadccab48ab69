package netns

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"
)

// datatype is the type of a key or value of these fields.
func datatype(fields []nftables.SetDatatype) nftables.SetDatatype {
	if len(fields) == 1 {
		return fields[0]
	}
	return nftables.MustConcatSetType(fields...)
}

// joined are the fields of a key or value.
func joined(fields ...[]byte) []byte {
	if len(fields) == 1 {
		return fields[0]
	}
	var all []byte
	for _, f := range fields {
		all = append(all, f...)
		for len(all)%4 != 0 {
			all = append(all, 0)
		}
	}
	return all
}

func port(p uint16) []byte { return binary.BigEndian.AppendUint16(nil, p) }

func interfaceName(n string) []byte {
	b := make([]byte, unix.IFNAMSIZ)
	copy(b, n)
	return b
}

// written is a key, a box of them, or a value in nft's words.
func written(fields []nftables.SetDatatype, from, to []byte) string {
	var texts []string
	for _, f := range fields {
		first, last := from[:f.Bytes], from[:f.Bytes]
		if to != nil {
			last = to[:f.Bytes]
		}
		texts = append(texts, writtenRange(f, first, last))
		if step := int(f.Bytes+3) &^ 3; step <= len(from) {
			from = from[step:]
			to = to[min(step, len(to)):]
		}
	}
	return strings.Join(texts, " . ")
}

func writtenRange(f nftables.SetDatatype, first, last []byte) string {
	a, b := writtenField(f, first), writtenField(f, last)
	if a == b {
		return a
	}
	if p, ok := prefix(f, first, last); ok {
		return p
	}
	return a + "-" + b
}

// prefix is a range of addresses as one, if it is one.
func prefix(f nftables.SetDatatype, first, last []byte) (string, bool) {
	a, ok := netip.AddrFromSlice(first)
	if !ok || f.Bytes < 4 {
		return "", false
	}
	for bits := 0; bits < a.BitLen(); bits++ {
		if p := netip.PrefixFrom(a, bits); p.Masked() == p && string(lastOf(p)) == string(last) {
			return p.String(), true
		}
	}
	return "", false
}

// lastOf is the last address of a network.
func lastOf(p netip.Prefix) []byte {
	b := p.Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	return b
}

func writtenField(f nftables.SetDatatype, b []byte) string {
	switch f.Name {
	case nftables.TypeIFName.Name:
		return strconv.Quote(unix.ByteSliceToString(b))
	case nftables.TypeIPAddr.Name, nftables.TypeIP6Addr.Name:
		a, _ := netip.AddrFromSlice(b)
		return a.String()
	case nftables.TypeInetProto.Name:
		return protocolName(int(b[0]))
	}
	if len(b) == 2 {
		return strconv.Itoa(int(binary.BigEndian.Uint16(b)))
	}
	return strconv.Itoa(int(b[0]))
}

func protocolName(p int) string {
	switch p {
	case unix.IPPROTO_TCP:
		return "tcp"
	case unix.IPPROTO_UDP:
		return "udp"
	}
	return fmt.Sprint(p)
}
