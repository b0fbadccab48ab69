package engine

import (
	"strconv"
	"strings"
)

// Ports are the single ports of a binding: itself, or those of its ranges one by one.
func (b NetworkBinding) Ports() []NetworkBinding {
	if b.ContainerPortRange == "" {
		return []NetworkBinding{b}
	}
	first, last, ok := portsIn(b.ContainerPortRange)
	hostFirst, hostLast, hostOK := portsIn(b.HostPortRange)
	if !ok || !hostOK || last-first != hostLast-hostFirst {
		return nil
	}
	var out []NetworkBinding
	for i := int32(0); i <= last-first; i++ {
		out = append(out, NetworkBinding{BindIP: b.BindIP, Protocol: b.Protocol, ContainerPort: first + i, HostPort: hostFirst + i})
	}
	return out
}

// portsIn reads "8000-8010", or "8000".
func portsIn(text string) (first, last int32, ok bool) {
	a, b, two := strings.Cut(text, "-")
	if !two {
		b = a
	}
	from, err1 := strconv.ParseUint(a, 10, 16)
	to, err2 := strconv.ParseUint(b, 10, 16)
	return int32(from), int32(to), err1 == nil && err2 == nil && from <= to
}
