package placement

import (
	"cmp"
	"container/heap"
	"fmt"
	"math/rand/v2"
	"slices"
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
// each strategy in turn keeps those it likes best; of what is left any is picked.
//
// The hosts that can't differ in what they spread over are one cell, with an ordered heap: a pick, as a host that is put
// anew, costs the number of cells and a step in one heap, not the number of hosts. So a Picker may be kept: what it was
// made from is put in again as it changes.
type Picker struct {
	req        *Request
	strategies []types.PlacementStrategy
	o          Options
	entries    []*entry          // in the order in which they came
	at         map[string]*entry // by instance
	counts     []map[string]*int64
	cells      []*cell
	cellAt     map[string]*cell
	picked     []string // instances, since that was asked for
}

// Options change how a [Picker] picks. Each may be nil.
type Options struct {
	// Refuse refuses further hosts, after all filters let them pass.
	Refuse func(*Host) *Refusal
	// Rank comes before all strategies: hosts of a lower one are picked first.
	Rank func(*Host) int64
	// Tie orders hosts that are equal otherwise. Default random, for each pick anew.
	Tie func(*Host) uint64
}

// An entry is a host that the picker knows.
type entry struct {
	host    *Host // with what was picked so far
	fellows int64
	spread  []*int64 // for each strategy that spreads: how many fellows count with this host
	refused *Refusal // why the next task can't be placed there; nil: it is a candidate
	rank    int64
	tie     uint64
	cell    *cell // nil: it is no candidate
	heapAt  int
}

// A cell is the candidates that share their counts, as a heap.
type cell struct {
	p          *Picker
	key        string
	at         int // in p.cells
	candidates []*entry
}

// NewPicker looks at all hosts once.
func NewPicker(hosts []*Host, req *Request, strategies []types.PlacementStrategy, o Options) *Picker {
	p := &Picker{
		req: req, strategies: strategies, o: o, entries: make([]*entry, 0, len(hosts)), at: make(map[string]*entry, len(hosts)),
		counts: make([]map[string]*int64, len(strategies)), cellAt: map[string]*cell{},
	}
	for _, h := range hosts {
		p.Put(h)
	}
	return p
}

// Put has the picker know a host as it is now, whatever was picked there.
func (p *Picker) Put(h *Host) {
	e := p.at[h.Instance.ID]
	if e == nil {
		e = &entry{spread: make([]*int64, len(p.strategies))}
		p.at[h.Instance.ID] = e
		p.entries = append(p.entries, e)
	} else {
		p.leave(e)
	}
	p.enter(e, h)
}

// Drop has the picker forget an instance. It costs the number of hosts.
func (p *Picker) Drop(instance string) {
	if e := p.at[instance]; e != nil {
		p.leave(e)
		delete(p.at, instance)
		p.entries = slices.DeleteFunc(p.entries, func(x *entry) bool { return x == e })
	}
}

// enter counts a host, and makes it a candidate when the task fits.
func (p *Picker) enter(e *entry, h *Host) {
	e.host, e.fellows = h, 0
	for _, t := range h.Tasks {
		if task.Wanted(t) && p.req.fellow(t) {
			e.fellows++
		}
	}
	var key strings.Builder
	for k, s := range p.strategies {
		if s.Type != types.PlacementStrategyTypeSpread {
			continue
		}
		field := aws.ToString(s.Field)
		if isInstanceField(field) {
			e.spread[k] = &e.fellows
			continue
		}
		v := spreadValue(h, field)
		key.WriteString(v)
		key.WriteByte(0)
		if p.counts[k] == nil {
			p.counts[k] = map[string]*int64{}
		}
		if p.counts[k][v] == nil {
			p.counts[k][v] = new(int64)
		}
		*p.counts[k][v] += e.fellows
		e.spread[k] = p.counts[k][v]
	}
	if e.refused = p.check(h); e.refused != nil {
		return
	}
	if p.o.Rank != nil {
		e.rank = p.o.Rank(h)
		fmt.Fprint(&key, e.rank)
	}
	e.tie = p.tie(h)
	in := p.cellAt[key.String()]
	if in == nil {
		in = &cell{p: p, key: key.String(), at: len(p.cells)}
		p.cellAt[in.key] = in
		p.cells = append(p.cells, in)
	}
	e.cell = in
	heap.Push(in, e)
}

// leave is the reverse of enter.
func (p *Picker) leave(e *entry) {
	for _, count := range e.spread {
		if count != nil && count != &e.fellows {
			*count -= e.fellows
		}
	}
	if e.cell != nil {
		p.refuse(e)
	}
}

// refuse makes a candidate none.
func (p *Picker) refuse(e *entry) {
	c := e.cell
	heap.Remove(c, e.heapAt)
	e.cell = nil
	if len(c.candidates) > 0 {
		return
	}
	last := p.cells[len(p.cells)-1]
	p.cells[c.at], last.at = last, c.at
	p.cells = p.cells[:len(p.cells)-1]
	delete(p.cellAt, c.key)
}

func (p *Picker) tie(h *Host) uint64 {
	if p.o.Tie != nil {
		return p.o.Tie(h)
	}
	return rand.Uint64()
}

func (p *Picker) check(h *Host) *Refusal {
	if r := p.req.Check(h); r != nil || p.o.Refuse == nil {
		return r
	}
	return p.o.Refuse(h)
}

// Pick picks the next instance and reserves a task there, and says what of it. It is nil when none is left that fits.
func (p *Picker) Pick() (*Host, store.Resources) {
	best := p.best()
	for best != nil && p.req.Claim != nil {
		e := best.candidates[0]
		if p.req.Claim.Pick(e.host.Instance.ID, e.host.Subject()) {
			break
		}
		if e.refused = p.check(e.host); e.refused == nil { // the last address went to a task elsewhere
			e.refused = Refuse(e.host, ReasonENI, justTaken)
		}
		p.refuse(e)
		best = p.best()
	}
	if best == nil {
		return nil, store.Resources{}
	}
	e := best.candidates[0]
	h := e.host
	e.host = h.With(p.req)
	e.fellows++
	p.picked = append(p.picked, h.Instance.ID)
	for _, count := range e.spread {
		if count != nil && count != &e.fellows {
			*count++
		}
	}
	if e.refused = p.check(e.host); e.refused != nil {
		p.refuse(e)
	} else {
		e.tie = p.tie(h)
		heap.Fix(best, e.heapAt)
	}
	return h, e.host.Tasks[len(e.host.Tasks)-1].Reserved
}

// best is the cell whose first candidate is picked next, nil when there is none.
func (p *Picker) best() (best *cell) {
	for _, c := range p.cells {
		if best == nil || p.less(c.candidates[0], best.candidates[0]) {
			best = c
		}
	}
	return best
}

// Hosts are the instances with what was picked on them.
func (p *Picker) Hosts() []*Host {
	hosts := make([]*Host, len(p.entries))
	for i, e := range p.entries {
		hosts[i] = e.host
	}
	return hosts
}

// Refusals has one entry for each instance that the next task can't be placed on.
func (p *Picker) Refusals() (refusals []*Refusal) {
	for _, e := range p.entries {
		if e.refused != nil {
			refusals = append(refusals, e.refused)
		}
	}
	return refusals
}

// less tells whether a is to be picked before b.
func (p *Picker) less(a, b *entry) bool {
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
func (p *Picker) cost(e *entry, k int) int64 {
	switch s := &p.strategies[k]; {
	case e.spread[k] != nil:
		return *e.spread[k]
	case s.Type == types.PlacementStrategyTypeBinpack && strings.EqualFold(aws.ToString(s.Field), "memory"):
		return e.host.Free.Memory
	case s.Type == types.PlacementStrategyTypeBinpack:
		return e.host.Free.CPU
	}
	return 0
}

func (c *cell) Len() int           { return len(c.candidates) }
func (c *cell) Less(i, j int) bool { return c.p.less(c.candidates[i], c.candidates[j]) }
func (c *cell) Swap(i, j int) {
	c.candidates[i], c.candidates[j] = c.candidates[j], c.candidates[i]
	c.candidates[i].heapAt, c.candidates[j].heapAt = i, j
}

func (c *cell) Push(x any) {
	e := x.(*entry)
	e.heapAt = len(c.candidates)
	c.candidates = append(c.candidates, e)
}

func (c *cell) Pop() any {
	last := len(c.candidates) - 1
	e := c.candidates[last]
	c.candidates[last] = nil
	c.candidates = c.candidates[:last]
	return e
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
