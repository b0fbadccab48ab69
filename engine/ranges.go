package engine

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/longshore-project/longshore/protocol/acs"
)

// PortRange is a containerPortRange: its ports get a block of as many host ports in a row, which the agent chooses.
type PortRange struct {
	First    int32  `json:"first"`
	Last     int32  `json:"last"`
	Protocol string `json:"protocol"`
}

// String is "8000-8010".
func (r PortRange) String() string { return fmt.Sprintf("%d-%d", r.First, r.Last) }

// The range of host ports where neither the operator nor the kernel names one (IANA's dynamic ports).
const firstDynamic, lastDynamic = 49153, 65535

func parseRange(m *acs.PortMapping, protocol, mode string) (PortRange, error) {
	from, to, _ := strings.Cut(m.ContainerPortRange, "-")
	first, err1 := strconv.ParseUint(from, 10, 16)
	last, err2 := strconv.ParseUint(to, 10, 16)
	switch {
	case err1 != nil || err2 != nil || first < 1 || first >= last:
		return PortRange{}, fmt.Errorf("containerPortRange %q is not two ports, the lower first", m.ContainerPortRange)
	case m.ContainerPort != 0:
		return PortRange{}, fmt.Errorf("containerPortRange %s excludes containerPort %d", m.ContainerPortRange, m.ContainerPort)
	case mode != "bridge":
		return PortRange{}, fmt.Errorf("containerPortRange %s needs networkMode bridge, and it is %s", m.ContainerPortRange, mode)
	}
	return PortRange{int32(first), int32(last), protocol}, nil
}

// blocks chooses host ports for ranges, each in a row, and notes them as the task's. taken says which ports somebody else
// listens on.
func (l *ledger) blocks(arn string, ranges []PortRange, taken func(PortKey) bool) ([]Port, error) {
	if len(ranges) == 0 {
		return nil, nil
	}
	first, last := l.host.DynamicPorts[0], l.host.DynamicPorts[1]
	if first == 0 {
		first, last = firstDynamic, lastDynamic
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	h := l.held[arn]
	if h == nil {
		return nil, fmt.Errorf("the task holds no grant")
	}
	var ports []Port
	for _, r := range ranges {
		n := r.Last - r.First + 1
		start := l.block(first, last, n, func(p int32) bool {
			k := PortKey{p, r.Protocol}
			return l.ports[k] == "" && !taken(k)
		})
		if start == 0 {
			return nil, fmt.Errorf("no %d free %s ports in a row from %d to %d (ECS_DYNAMIC_HOST_PORT_RANGE) for the container ports %s", n, r.Protocol, first, last, r)
		}
		for i := range n {
			k := PortKey{start + i, r.Protocol}
			l.ports[k] = arn
			h.dynamic = append(h.dynamic, k)
			ports = append(ports, Port{Container: r.First + i, Host: k.Port, Protocol: r.Protocol})
		}
	}
	return ports, nil
}

// block is the first of n free ports in a row, 0 when there are none. The search goes on where the last one ended.
func (l *ledger) block(first, last, n int32, free func(int32) bool) int32 {
	if l.next < first || l.next > last {
		l.next = first
	}
	for _, span := range [][2]int32{{l.next, last}, {first, last}} {
		run := int32(0)
		for p := span[0]; p <= span[1]; p++ {
			if run++; !free(p) {
				run = 0
			}
			if run == n {
				l.next = p + 1
				return p - n + 1
			}
		}
	}
	return 0
}

// gather shows the bindings of each range as one binding, as ECS reports them.
func gather(ranges []PortRange, bindings []NetworkBinding) []NetworkBinding {
	for _, r := range ranges {
		var out []NetworkBinding
		at := map[string]int{} // by address: the index of its range in out
		for _, b := range bindings {
			if b.ContainerPortRange != "" || b.Protocol != r.Protocol || b.ContainerPort < r.First || b.ContainerPort > r.Last {
				out = append(out, b)
				continue
			}
			i, begun := at[b.BindIP]
			if !begun {
				i = len(out)
				at[b.BindIP] = i
				out = append(out, NetworkBinding{BindIP: b.BindIP, Protocol: b.Protocol, ContainerPortRange: r.String(), HostPort: b.HostPort})
			}
			out[i].HostPort = min(out[i].HostPort, b.HostPort) // the block's first, until all are seen
		}
		for _, i := range at {
			first := out[i].HostPort
			out[i].HostPort, out[i].HostPortRange = 0, fmt.Sprintf("%d-%d", first, first+r.Last-r.First)
		}
		bindings = out
	}
	return slices.Clip(bindings)
}
