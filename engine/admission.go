package engine

import (
	"fmt"
	"math/bits"
	"slices"
	"strings"
	"sync"
	"time"
)

// ledger reserves the host's cpu, memory and ports for tasks. A task holds its whole need from admission until none of
// its processes is left. Tasks that wait are asked again in the order they came whenever something is given back; each
// gets its need as soon as it fits, so that a big one does not hold up the small ones behind it.
//
// Small ones that come for ever would starve the big one. So a task that has waited for patience goes first for a time: none
// behind it gets what it lacks. If that does not help, others pass it again for a time, and so on, each time twice as long
// as the one before. Whatever ends at last is waited for, and what never ends blocks nobody for ever.
type ledger struct {
	host Host

	mu      sync.Mutex
	held    map[string]*holding // by task ARN
	waiting []*applicant
	cpu     int64
	memory  int64
	ports   map[PortKey]string // the task that holds it
	gpus    map[string]string  // the task that holds it
	next    int32              // where the search for a dynamic port goes on
}

type holding struct {
	need    Need
	dynamic []PortKey
}

type applicant struct {
	arn   string
	need  Need
	awake func()
	since time.Time
}

// patience is how long a task that waits lets others pass.
const patience = time.Minute

// first reports whether it is the applicant's time to go first: from 1 to 2, from 4 to 8, from 16 to 32 … times patience.
func (a *applicant) first(now time.Time) bool {
	turns := bits.Len64(uint64(max(now.Sub(a.since), 0) / patience))
	return turns%2 == 1
}

func newLedger(host Host) *ledger {
	l := &ledger{host: host, held: map[string]*holding{}, ports: map[PortKey]string{}, gpus: map[string]string{}, next: host.DynamicPorts[0]}
	for _, p := range host.ReservedTCP {
		l.ports[PortKey{p, "tcp"}] = reserved
	}
	for _, p := range host.ReservedUDP {
		l.ports[PortKey{p, "udp"}] = reserved
	}
	return l
}

const reserved = "the host (ECS_RESERVED_PORTS)"

// ask reserves need for a task if the host has it now, and else puts the task on the waiting list; awake is called when
// its grant may have changed. Asking again is harmless.
func (l *ledger) ask(arn string, need Need, awake func()) Grant {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.held[arn] != nil {
		return Grant{State: GrantHeld}
	}
	if why := l.never(need); why != "" {
		return Grant{State: GrantNever, Reason: why}
	}
	if why := l.refusal(arn, need); why != "" {
		if !slices.ContainsFunc(l.waiting, func(a *applicant) bool { return a.arn == arn }) {
			l.waiting = append(l.waiting, &applicant{arn, need, awake, time.Now()})
		}
		return Grant{State: GrantWaiting, Reason: why}
	}
	l.take(arn, need)
	return Grant{State: GrantHeld}
}

// grant is how a task stands now.
func (l *ledger) grant(arn string) Grant {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.held[arn] != nil {
		return Grant{State: GrantHeld}
	}
	for _, a := range l.waiting {
		if a.arn == arn {
			return Grant{State: GrantWaiting, Reason: l.refusal(arn, a.need)}
		}
	}
	return Grant{}
}

// force reserves the need of a task whose processes exist already, whether it fits or not.
func (l *ledger) force(arn string, need Need) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.held[arn] == nil {
		l.waiting = slices.DeleteFunc(l.waiting, func(a *applicant) bool { return a.arn == arn })
		l.take(arn, need)
	}
}

func (l *ledger) take(arn string, need Need) {
	l.held[arn] = &holding{need: need}
	l.cpu += need.CPU
	l.memory += need.Memory
	for _, p := range need.Ports {
		l.ports[p] = arn
	}
	for _, g := range need.GPUs {
		l.gpus[g] = arn
	}
}

// release gives everything back that a task holds, or takes it off the waiting list.
func (l *ledger) release(arn string) {
	l.mu.Lock()
	l.waiting = slices.DeleteFunc(l.waiting, func(a *applicant) bool { return a.arn == arn })
	h := l.held[arn]
	var awake []func()
	if h != nil {
		delete(l.held, arn)
		l.cpu -= h.need.CPU
		l.memory -= h.need.Memory
		for _, p := range append(h.dynamic, h.need.Ports...) {
			if l.ports[p] == arn {
				delete(l.ports, p)
			}
		}
		for _, g := range h.need.GPUs {
			if l.gpus[g] == arn {
				delete(l.gpus, g)
			}
		}
		awake = l.admit()
	}
	l.mu.Unlock()
	for _, f := range awake {
		f()
	}
}

// review asks those who wait again, because the time of one to go first may have come or be over.
func (l *ledger) review() {
	l.mu.Lock()
	awake := l.admit()
	l.mu.Unlock()
	for _, f := range awake {
		f()
	}
}

func (l *ledger) admit() (awake []func()) {
	for _, a := range slices.Clone(l.waiting) {
		if l.refusal(a.arn, a.need) != "" {
			continue
		}
		l.waiting = slices.DeleteFunc(l.waiting, func(b *applicant) bool { return a == b })
		l.take(a.arn, a.need)
		awake = append(awake, a.awake)
	}
	return awake
}

// refusal says why a task can't be admitted now: what the host lacks, or who goes first.
func (l *ledger) refusal(arn string, n Need) string {
	if why := l.lacks(n); why != "" {
		return why
	}
	now := time.Now()
	for _, a := range l.waiting {
		switch {
		case a.arn == arn:
			return ""
		case a.first(now) && l.rivals(a.need, n):
			return fmt.Sprintf("task %s has waited since %s and goes first (%s)", a.arn, a.since.UTC().Format(time.RFC3339), l.lacks(a.need))
		}
	}
	return ""
}

// rivals reports whether a task would take something of what another one lacks, or needs.
func (l *ledger) rivals(waits, n Need) bool {
	return waits.CPU > l.host.CPU-l.cpu && n.CPU > 0 || waits.Memory > l.host.Memory-l.memory && n.Memory > 0 ||
		slices.ContainsFunc(n.Ports, func(p PortKey) bool { return slices.Contains(waits.Ports, p) }) ||
		slices.ContainsFunc(n.GPUs, func(g string) bool { return slices.Contains(waits.GPUs, g) })
}

// never says why the host could not run the task even if it were empty.
func (l *ledger) never(n Need) string {
	var why []string
	if n.CPU > l.host.CPU {
		why = append(why, fmt.Sprintf("it needs %d cpu units and the host has %d", n.CPU, l.host.CPU))
	}
	if n.Memory > l.host.Memory {
		why = append(why, fmt.Sprintf("it needs %d MiB of memory and the host has %d", n.Memory, l.host.Memory))
	}
	for _, p := range n.Ports {
		if l.ports[p] == reserved {
			why = append(why, fmt.Sprintf("it needs host port %s, which is reserved for %s", p, reserved))
		}
	}
	if len(why) == 0 {
		return ""
	}
	return "ResourceInitializationError: the task can never run on this host: " + strings.Join(why, "; ")
}

// lacks says what the host lacks for the task now.
func (l *ledger) lacks(n Need) string {
	var why []string
	if free := l.host.CPU - l.cpu; n.CPU > free {
		why = append(why, fmt.Sprintf("cpu: %d units needed, %d of %d free", n.CPU, max(free, 0), l.host.CPU))
	}
	if free := l.host.Memory - l.memory; n.Memory > free {
		why = append(why, fmt.Sprintf("memory: %d MiB needed, %d of %d free", n.Memory, max(free, 0), l.host.Memory))
	}
	for _, p := range n.Ports {
		if by := l.ports[p]; by != "" {
			why = append(why, fmt.Sprintf("host port %s is held by %s", p, by))
		}
	}
	for _, g := range n.GPUs {
		if by := l.gpus[g]; by != "" {
			why = append(why, fmt.Sprintf("GPU %s is held by %s", g, by))
		}
	}
	return strings.Join(why, "; ")
}

// dynamic chooses a free host port for each port that has none, out of Host.DynamicPorts, and notes them as the task's.
// taken says which ports somebody else listens on. Without a range the engine chooses.
func (l *ledger) dynamic(arn string, ports []Port, taken func(PortKey) bool) ([]Port, error) {
	first, last := l.host.DynamicPorts[0], l.host.DynamicPorts[1]
	if first == 0 || len(ports) == 0 {
		return ports, nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	h := l.held[arn]
	if h == nil {
		return nil, fmt.Errorf("the task holds no grant")
	}
	ports = slices.Clone(ports)
	for i := range ports {
		if ports[i].Host != 0 {
			continue
		}
		for range last - first + 1 {
			k := PortKey{l.next, ports[i].Protocol}
			if l.next++; l.next > last {
				l.next = first
			}
			if l.ports[k] == "" && !taken(k) {
				l.ports[k] = arn
				h.dynamic = append(h.dynamic, k)
				ports[i].Host = k.Port
				break
			}
		}
		if ports[i].Host == 0 {
			return nil, fmt.Errorf("no %s port from %d to %d (ECS_DYNAMIC_HOST_PORT_RANGE) is free for container port %d", ports[i].Protocol, first, last, ports[i].Container)
		}
	}
	return ports, nil
}

// note records ports that the engine chose for a task.
func (l *ledger) note(arn string, bindings []NetworkBinding) {
	l.mu.Lock()
	defer l.mu.Unlock()
	h := l.held[arn]
	if h == nil {
		return
	}
	for _, b := range bindings {
		if k := (PortKey{b.HostPort, b.Protocol}); l.ports[k] == "" {
			l.ports[k] = arn
			h.dynamic = append(h.dynamic, k)
		}
	}
}
