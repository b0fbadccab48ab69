package telemetry

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/longshore-project/longshore/protocol/tcs"
)

// Sizing is what containers used beside what they reserve, as far as this replica heard of it.
type Sizing struct {
	At         time.Time         `json:"at"`
	Containers []ContainerSizing `json:"containers"`
	Hosts      []HostSizing      `json:"hosts"` // those on which memory outside tasks was measured
	Warnings   []string          `json:"warnings"`
	Text       []string          `json:"text"` // the same for people
}

// ContainerSizing is one container of a service, over all of its tasks, or of a family's standalone tasks.
type ContainerSizing struct {
	Cluster          string    `json:"cluster"`
	Service          string    `json:"service,omitempty"`
	Family           string    `json:"family,omitempty"` // of standalone tasks
	Container        string    `json:"container"`
	Since            time.Time `json:"since"`                 // of the first sample
	Samples          uint64    `json:"samples"`               // publishes, each of about 20 s of one container
	CPU              Use       `json:"cpu"`                   // units
	Memory           Use       `json:"memory"`                // MiB
	MemoryLimit      int64     `json:"memoryLimit,omitempty"` // MiB, the definition's memory
	OOMKills         int64     `json:"oomKills"`
	ThrottledSeconds float64   `json:"throttledSeconds"`
	Reasoning        string    `json:"reasoning"`
}

// Use is quantiles of the averages of each publish, and the greatest peak.
type Use struct {
	Reserved  int64   `json:"reserved"` // 0: the container has no reservation of its own
	P50       float64 `json:"p50"`
	P95       float64 `json:"p95"`
	Max       float64 `json:"max"`
	Suggested int64   `json:"suggested"` // 0: none, too little was seen
}

// HostSizing is the memory that a host uses outside of tasks, in MiB.
type HostSizing struct {
	Cluster  string  `json:"cluster"`
	Instance string  `json:"instance"`
	Outside  float64 `json:"outside"`
	Reserved float64 `json:"reserved"` // ECS_RESERVED_MEMORY as it is in force
}

// Enough is how many samples a suggestion needs: ten minutes of one container.
const Enough = 30

// Sizing reads the book about a cluster, and only about one service of it unless service is empty.
func (b *Book) Sizing(cluster, service string) *Sizing {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.now()
	out := &Sizing{At: now.UTC(), Containers: []ContainerSizing{}, Hosts: []HostSizing{}, Warnings: []string{}, Text: []string{}}
	for k, s := range b.series {
		if k.cluster == cluster && (service == "" || k.service == service) {
			if c := sizeOf(k, s, now); c.Samples > 0 {
				out.Containers = append(out.Containers, c)
			}
		}
	}
	slices.SortFunc(out.Containers, func(x, y ContainerSizing) int {
		return cmp.Or(cmp.Compare(x.Service, y.Service), cmp.Compare(x.Family, y.Family), cmp.Compare(x.Container, y.Container))
	})
	for at, h := range b.hosts {
		outside, known := h.own[tcs.HostMemoryOutsideTasks]
		if at.cluster == cluster && known {
			out.Hosts = append(out.Hosts, HostSizing{Cluster: cluster, Instance: at.instance, Outside: outside, Reserved: h.own[tcs.HostMemoryReserved]})
		}
	}
	slices.SortFunc(out.Hosts, func(x, y HostSizing) int { return cmp.Compare(x.Instance, y.Instance) })
	out.judge()
	return out
}

// sizeOf sums up one series.
func sizeOf(k key, s *series, now time.Time) ContainerSizing {
	all := s.sum(now)
	c := ContainerSizing{
		Cluster: k.cluster, Service: k.service, Family: k.family, Container: k.container, Since: all.first.UTC(), Samples: all.cpu.n,
		CPU: useOf(&all.cpu, s.reservation.CPU), Memory: useOf(&all.memory, s.reservation.Memory), MemoryLimit: s.reservation.Limit,
		OOMKills: int64(math.Round(all.kills)), ThrottledSeconds: math.Round(all.throttled*10) / 10,
	}
	c.suggest(now)
	return c
}

func useOf(s *sketch, reserved int64) Use {
	round := func(v float64) float64 { return math.Round(v*10) / 10 }
	return Use{Reserved: reserved, P50: round(s.quantile(0.5)), P95: round(s.quantile(0.95)), Max: round(s.most)}
}

// suggest says what the container should reserve, and why. CPU can be lent, so that its 95th percentile is enough; memory
// can't, so that it gets a tenth more than the greatest that was seen, and half as much again as its limit after an OOM kill.
func (c *ContainerSizing) suggest(now time.Time) {
	window := now.Sub(c.Since).Round(time.Minute)
	c.Reasoning = fmt.Sprintf("%d samples in %s", c.Samples, window)
	if c.Samples < Enough {
		c.Reasoning += fmt.Sprintf("; fewer than %d tell too little", Enough)
		return
	}
	c.CPU.Suggested = upTo(c.CPU.P95, 32)
	c.Memory.Suggested = upTo(c.Memory.Max*1.1, 16)
	c.Reasoning += fmt.Sprintf("; cpu: p95 %.0f up to a multiple of 32; memory: max %.0f and a tenth, up to a multiple of 16", c.CPU.P95, c.Memory.Max)
	if c.OOMKills > 0 {
		c.Memory.Suggested = max(c.Memory.Suggested, upTo(float64(c.MemoryLimit)*1.5, 16))
		c.Reasoning += fmt.Sprintf(", and half more than its limit of %d because it was killed for memory", c.MemoryLimit)
	}
	if window < 24*time.Hour-slotLength {
		c.Reasoning += "; it was seen for less than a day, so that daily peaks may be missing"
	}
}

// upTo rounds up to a multiple of step, at least one.
func upTo(v float64, step int64) int64 {
	return max(1, int64(math.Ceil(v/float64(step)))) * step
}

// judge writes the warnings and the text.
func (s *Sizing) judge() {
	for _, h := range s.Hosts {
		if h.Outside > h.Reserved {
			s.Warnings = append(s.Warnings, fmt.Sprintf("On %s %.0f MiB are used outside of tasks, and ECS_RESERVED_MEMORY keeps %.0f MiB from them: %.0f MiB are offered to tasks that are not there. Set ECS_RESERVED_MEMORY=auto, or at least %d.",
				h.Instance, h.Outside, h.Reserved, h.Outside-h.Reserved, upTo(h.Outside*1.1, 16)))
		}
	}
	for i := range s.Containers {
		c := &s.Containers[i]
		switch {
		case c.OOMKills > 0:
			s.Warnings = append(s.Warnings, fmt.Sprintf("%s was killed for memory %d times.", c.name(), c.OOMKills))
		case c.Memory.Reserved > 0 && c.Memory.Max > float64(c.Memory.Reserved):
			s.Warnings = append(s.Warnings, fmt.Sprintf("%s used up to %.0f MiB and reserves %d: hosts may run out of memory.", c.name(), c.Memory.Max, c.Memory.Reserved))
		}
	}
	if len(s.Containers) == 0 {
		s.Text = append(s.Text, "Nothing was measured yet: agents publish every 20 s, and this replica knows only the instances whose telemetry it holds, since its start.")
	}
	for i := range s.Containers {
		c := &s.Containers[i]
		s.Text = append(s.Text, fmt.Sprintf("%s (%s)", c.name(), c.Reasoning),
			"  cpu units   "+c.CPU.words(), "  memory MiB  "+c.Memory.words())
		if c.ThrottledSeconds > 0 {
			s.Text = append(s.Text, fmt.Sprintf("  held back by its cpu limit for %.1f s", c.ThrottledSeconds))
		}
	}
	for _, w := range s.Warnings {
		s.Text = append(s.Text, "WARNING: "+w)
	}
}

func (c *ContainerSizing) name() string {
	if c.Service == "" {
		return fmt.Sprintf("Standalone tasks of %s, container %s", c.Family, c.Container)
	}
	return fmt.Sprintf("Service %s, container %s", c.Service, c.Container)
}

func (u Use) words() string {
	var b strings.Builder
	fmt.Fprintf(&b, "reserved %d, p50 %.0f, p95 %.0f, max %.0f", u.Reserved, u.P50, u.P95, u.Max)
	if u.Suggested > 0 {
		fmt.Fprintf(&b, "; suggested %d", u.Suggested)
	}
	return b.String()
}
