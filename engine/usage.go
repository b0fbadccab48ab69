package engine

import (
	"cmp"
	"slices"
)

// Usage is what tasks hold of the host, from their admission until none of their processes is left.
type Usage struct {
	CPU    int64     // units
	Memory int64     // MiB
	Ports  []PortKey // host ports, without those that are reserved for the host
	GPUs   []string
}

// Usage returns what tasks hold now.
func (e *Engine) Usage() Usage { return e.ledger.usage() }

func (l *ledger) usage() Usage {
	l.mu.Lock()
	defer l.mu.Unlock()
	u := Usage{CPU: l.cpu, Memory: l.memory}
	for p, by := range l.ports {
		if by != reserved {
			u.Ports = append(u.Ports, p)
		}
	}
	slices.SortFunc(u.Ports, func(a, b PortKey) int {
		return cmp.Or(cmp.Compare(a.Port, b.Port), cmp.Compare(a.Protocol, b.Protocol))
	})
	for g := range l.gpus {
		u.GPUs = append(u.GPUs, g)
	}
	slices.Sort(u.GPUs)
	return u
}
