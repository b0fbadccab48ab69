package placement

import (
	"strings"

	"github.com/aws/aws-sdk-go-v2/service/ecs/types"
)

func isInstanceField(field string) bool {
	return strings.EqualFold(field, "instanceId") || field == "host"
}

// Choose picks an instance for each of n tasks, as a [Picker] does.
//
// When fewer than n fit, refusals has one entry for each instance, as the next task would have met it; it is empty when
// all were placed.
func Choose(hosts []*Host, req *Request, strategies []types.PlacementStrategy, n int) (chosen []*Host, refusals []*Refusal) {
	p := NewPicker(hosts, req, strategies, Options{})
	at := make(map[string]*Host, len(hosts))
	for _, h := range hosts {
		at[h.Instance.ID] = h
	}
	for len(chosen) < n {
		h, _ := p.Pick()
		if h == nil {
			return chosen, p.Refusals()
		}
		chosen = append(chosen, at[h.Instance.ID])
	}
	return chosen, nil
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
