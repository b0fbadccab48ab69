package placement

import (
	"math"
	"math/rand/v2"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"

	"github.com/longshore-project/longshore/controlplane/task"
)

func isInstanceField(field string) bool {
	return strings.EqualFold(field, "instanceId") || field == "host"
}

// Choose picks an instance for each of n tasks, one after the other: each is reserved on a copy of its host before the
// next is placed, so an instance may be chosen more than once and never beyond what it has. Each strategy keeps, of the
// instances that the one before left, those it likes best; what is left at the end is drawn from at random.
//
// When fewer than n fit, refusals has one entry for each instance, as the next task would have met it; it is empty when
// all were placed.
func Choose(hosts []*Host, req *Request, strategies []types.PlacementStrategy, n int) (chosen []*Host, refusals []*Refusal) {
	return choose(hosts, req, strategies, n, rand.IntN)
}

func choose(hosts []*Host, req *Request, strategies []types.PlacementStrategy, n int, intn func(int) int) (chosen []*Host, refusals []*Refusal) {
	now := append([]*Host(nil), hosts...) // hosts with what was placed so far
	refused := make([]*Refusal, len(hosts))
	for i, h := range now {
		refused[i] = req.Check(h)
	}
	for len(chosen) < n {
		var fit []int
		for i := range now {
			if refused[i] == nil {
				fit = append(fit, i)
			}
		}
		if len(fit) == 0 {
			return chosen, refused
		}
		for _, s := range strategies {
			fit = refine(now, fit, req, s)
		}
		i := fit[intn(len(fit))]
		chosen = append(chosen, hosts[i])
		now[i] = now[i].With(req)
		refused[i] = req.Check(now[i])
	}
	return chosen, nil
}

// refine keeps those of the fitting hosts, given by index, that the strategy likes best.
func refine(hosts []*Host, fit []int, req *Request, s types.PlacementStrategy) []int {
	var cost func(i int) int64 // the least is best
	field := aws.ToString(s.Field)
	switch s.Type {
	case types.PlacementStrategyTypeBinpack:
		cost = func(i int) int64 { return hosts[i].Free.CPU }
		if strings.EqualFold(field, "memory") {
			cost = func(i int) int64 { return hosts[i].Free.Memory }
		}
	case types.PlacementStrategyTypeSpread:
		counts := map[string]int64{}
		for _, h := range hosts {
			v := spreadValue(h, field)
			for _, t := range h.Tasks {
				if task.Wanted(t) && req.fellow(t) {
					counts[v]++
				}
			}
		}
		cost = func(i int) int64 { return counts[spreadValue(hosts[i], field)] }
	default:
		return fit
	}
	best, least := fit[:0:0], int64(math.MaxInt64)
	for _, i := range fit {
		switch c := cost(i); {
		case c < least:
			best, least = append(best[:0], i), c
		case c == least:
			best = append(best, i)
		}
	}
	return best
}

// spreadValue is what the host counts under. Hosts without the attribute count as one more value.
func spreadValue(h *Host, field string) string {
	if isInstanceField(field) {
		return h.Instance.ID
	}
	v, ok := h.Attribute(strings.TrimPrefix(field, "attribute:"))
	if !ok {
		return ""
	}
	return "=" + v
}
