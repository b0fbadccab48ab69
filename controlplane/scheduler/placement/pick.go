package placement

import (
	"cmp"
	"container/heap"
	"math/rand/v2"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"

	"github.com/longshore-project/longshore/controlplane/store"
	"github.com/longshore-project/longshore/controlplane/task"
)

// ZoneField is the field of a strategy that spreads over availability zones.
const ZoneField = "attribute:ecs.availability-zone"

// DefaultStrategies are those of a service that has none: spread over availability zones, then fewest tasks of the service
// per instance.
func DefaultStrategies() []types.PlacementStrategy {
	return []types.PlacementStrategy{
		{Type: types.PlacementStrategyTypeSpread, Field: aws.String(ZoneField)},
		{Type: types.PlacementStrategyTypeSpread, Field: aws.String("instanceId")},
	}
}

// A Picker picks instances for the tasks of a request, one after the other: each is reserved on a copy of its host before
// the next is picked, so an instance may be picked more than once and never beyond what it has. Of the instances that fit,
// each strategy in turn keeps those it likes best; of what is left any may be picked.
//
// The hosts that can't differ in what they spread over are one cell, with an ordered heap: a pick costs the number of
// cells and a step in one heap, not the number of hosts.
type Picker struct {
	req        *Request
	strategies []types.PlacementStrategy
	hosts      []*Host // with what was picked so far
	refused    []*Refusal
	refuse     func(*Host) *Refusal
	cells      []*cell
}

// Options change how a [Picker] picks. Each may be nil.
type Options struct {
	// Refuse refuses further hosts, after all filters let them pass.
	Refuse func(*Host) *Refusal
	// Rank comes before all strategies: hosts of a lower one are picked first.
	Rank func(*Host) int64
	// Tie orders hosts that are equal otherwise. Default random.
	Tie func(*Host) uint64
}

// A candidate is a host that fits.
type candidate struct {
	i      int
	rank   int64
	spread []*int64 // for each strategy that spreads: how many fellows count with this host
	tie    uint64
}

// A cell is the candidates that share their counts, as a heap.
type cell struct {
	p          *Picker
	candidates []*candidate
}

// NewPicker looks at all hosts once.
func NewPicker(hosts []*Host, req *Request, strategies []types.PlacementStrategy, o Options) *Picker {
	p := &Picker{req: req, strategies: strategies, hosts: append([]*Host(nil), hosts...), refused: make([]*Refusal, len(hosts)), refuse: o.Refuse}
	counts := make([]map[string]*int64, len(strategies))
	cells := map[string]*cell{}
	for i, h := range p.hosts {
		c := &candidate{i: i, spread: make([]*int64, len(strategies))}
		fellows := int64(0)
		for _, t := range h.Tasks {
			if task.Wanted(t) && req.fellow(t) {
				fellows++
			}
		}
		var at strings.Builder
		for k, s := range strategies {
			if s.Type != types.PlacementStrategyTypeSpread {
				continue
			}
			field := aws.ToString(s.Field)
			if isInstanceField(field) {
				n := fellows
				c.spread[k] = &n
				continue
			}
			v := spreadValue(h, field)
			at.WriteString(v)
			at.WriteByte(0)
			if counts[k] == nil {
				counts[k] = map[string]*int64{}
			}
			if counts[k][v] == nil {
				counts[k][v] = new(int64)
			}
			*counts[k][v] += fellows
			c.spread[k] = counts[k][v]
		}
		if p.refused[i] = p.check(h); p.refused[i] != nil {
			continue
		}
		if o.Rank != nil {
			c.rank = o.Rank(h)
			at.WriteByte(byte(c.rank))
		}
		if c.tie = rand.Uint64(); o.Tie != nil {
			c.tie = o.Tie(h)
		}
		in := cells[at.String()]
		if in == nil {
			in = &cell{p: p}
			cells[at.String()] = in
			p.cells = append(p.cells, in)
		}
		in.candidates = append(in.candidates, c)
	}
	for _, c := range p.cells {
		heap.Init(c)
	}
	return p
}

func (p *Picker) check(h *Host) *Refusal {
	if r := p.req.Check(h); r != nil || p.refuse == nil {
		return r
	}
	return p.refuse(h)
}

// Pick picks the next instance and reserves a task there, and says what of it. It is nil when none is left that fits.
func (p *Picker) Pick() (*Host, store.Resources) {
	best := p.best()
	for best != nil && p.req.Claim != nil && !p.req.Claim.Pick(p.host(best).Instance.ID, p.host(best).Subject()) {
		p.refused[best.candidates[0].i] = p.check(p.host(best)) // the last address went to a task elsewhere
		heap.Pop(best)
		best = p.best()
	}
	if best == nil {
		return nil, store.Resources{}
	}
	c := best.candidates[0]
	h := p.hosts[c.i]
	n := h.With(p.req)
	p.hosts[c.i] = n
	for _, count := range c.spread {
		if count != nil {
			*count++
		}
	}
	if p.refused[c.i] = p.check(n); p.refused[c.i] != nil {
		heap.Pop(best)
	} else {
		heap.Fix(best, 0)
	}
	return h, n.Tasks[len(n.Tasks)-1].Reserved
}

// best is the cell whose first candidate is picked next, nil when there is none.
func (p *Picker) best() (best *cell) {
	for _, c := range p.cells {
		if len(c.candidates) > 0 && (best == nil || p.less(c.candidates[0], best.candidates[0])) {
			best = c
		}
	}
	return best
}

// host is that of a cell's first candidate.
func (p *Picker) host(c *cell) *Host { return p.hosts[c.candidates[0].i] }

// Hosts are the instances with what was picked on them.
func (p *Picker) Hosts() []*Host { return p.hosts }

// Refusals has one entry for each instance that the next task can't be placed on.
func (p *Picker) Refusals() (refusals []*Refusal) {
	for _, r := range p.refused {
		if r != nil {
			refusals = append(refusals, r)
		}
	}
	return refusals
}

// less tells whether a is to be picked before b.
func (p *Picker) less(a, b *candidate) bool {
	if a.rank != b.rank {
		return a.rank < b.rank
	}
	for k := range p.strategies {
		if c := cmp.Compare(p.cost(a, k), p.cost(b, k)); c != 0 {
			return c < 0
		}
	}
	return a.tie < b.tie
}

// cost is what the k-th strategy holds against a candidate: the least is best.
func (p *Picker) cost(c *candidate, k int) int64 {
	switch s := &p.strategies[k]; {
	case c.spread[k] != nil:
		return *c.spread[k]
	case s.Type == types.PlacementStrategyTypeBinpack && strings.EqualFold(aws.ToString(s.Field), "memory"):
		return p.hosts[c.i].Free.Memory
	case s.Type == types.PlacementStrategyTypeBinpack:
		return p.hosts[c.i].Free.CPU
	}
	return 0
}

func (c *cell) Len() int           { return len(c.candidates) }
func (c *cell) Less(i, j int) bool { return c.p.less(c.candidates[i], c.candidates[j]) }
func (c *cell) Swap(i, j int)      { c.candidates[i], c.candidates[j] = c.candidates[j], c.candidates[i] }
func (c *cell) Push(x any)         { c.candidates = append(c.candidates, x.(*candidate)) }
func (c *cell) Pop() any {
	last := len(c.candidates) - 1
	x := c.candidates[last]
	c.candidates = c.candidates[:last]
	return x
}

// Surplus picks n of the tasks to stop, as the mirror of placement: each strategy in turn keeps those that it would place
// last. Spread takes from the value with the most tasks, binpack from the instance with the most of the resource left; of
// what is left the newest goes. all are the tasks that count, host is where a task is (nil: not known).
func Surplus(tasks, all []*store.Task, n int, strategies []types.PlacementStrategy, host func(*store.Task) *Host) []*store.Task {
	if n >= len(tasks) {
		return tasks
	}
	value := func(t *store.Task, field string) string {
		h := host(t)
		if h == nil || isInstanceField(field) {
			return t.Instance
		}
		return spreadValue(h, field)
	}
	type entry struct {
		t      *store.Task
		counts []*int64
		gone   bool
	}
	counts := make([]map[string]*int64, len(strategies))
	freed := map[string]*store.Resources{} // by instance: what the tasks picked so far give back
	count := func(k int, v string) *int64 {
		if counts[k] == nil {
			counts[k] = map[string]*int64{}
		}
		if counts[k][v] == nil {
			counts[k][v] = new(int64)
		}
		return counts[k][v]
	}
	for k, s := range strategies {
		if s.Type == types.PlacementStrategyTypeSpread {
			for _, t := range all {
				*count(k, value(t, aws.ToString(s.Field)))++
			}
		}
	}
	entries := make([]*entry, 0, len(tasks))
	for _, t := range tasks {
		e := &entry{t: t, counts: make([]*int64, len(strategies))}
		for k, s := range strategies {
			if s.Type == types.PlacementStrategyTypeSpread {
				e.counts[k] = count(k, value(t, aws.ToString(s.Field)))
			}
		}
		if freed[t.Instance] == nil {
			r := store.Resources{}
			if h := host(t); h != nil {
				r.CPU, r.Memory = h.Free.CPU, h.Free.Memory
			}
			freed[t.Instance] = &r
		}
		entries = append(entries, e)
	}
	worth := func(e *entry, k int) int64 { // the most goes first
		switch s := &strategies[k]; {
		case e.counts[k] != nil:
			return *e.counts[k]
		case s.Type == types.PlacementStrategyTypeBinpack && strings.EqualFold(aws.ToString(s.Field), "memory"):
			return freed[e.t.Instance].Memory
		case s.Type == types.PlacementStrategyTypeBinpack:
			return freed[e.t.Instance].CPU
		}
		return 0
	}
	before := func(a, b *entry) bool {
		for k := range strategies {
			if c := cmp.Compare(worth(a, k), worth(b, k)); c != 0 {
				return c > 0
			}
		}
		c := aws.ToTime(a.t.Object.CreatedAt).Compare(aws.ToTime(b.t.Object.CreatedAt))
		return c > 0 || c == 0 && a.t.ID < b.t.ID
	}
	var picked []*store.Task
	for len(picked) < n {
		var first *entry
		for _, e := range entries {
			if !e.gone && (first == nil || before(e, first)) {
				first = e
			}
		}
		first.gone = true
		picked = append(picked, first.t)
		for _, c := range first.counts {
			if c != nil {
				*c--
			}
		}
		freed[first.t.Instance].CPU += first.t.Reserved.CPU
		freed[first.t.Instance].Memory += first.t.Reserved.Memory
	}
	return picked
}
