package placement

import (
	"math/rand/v2"
)

// firstLook is how many hosts [chooseAny] looks at first.
const firstLook = 16

// chooseAny is Choose without a strategy, among those of count hosts that may be chosen, in random order and part by part,
// each part twice the one before: no more are looked at than it takes to find n that fit.
func chooseAny(count int, host func(i int) *Host, may func(*Host) bool, req *Request, n int) (chosen []*Host, refusals []*Refusal) {
	moved := map[int]int{} // where the shuffled order differs from the order of the hosts
	at := func(i int) int {
		if j, ok := moved[i]; ok {
			return j
		}
		return i
	}
	for from, size := 0, max(firstLook, 2*n); from < count && len(chosen) < n; size *= 2 {
		part := make([]*Host, 0, min(size, count-from))
		for ; from < count && len(part) < size; from++ {
			j := from + rand.IntN(count-from)
			i := at(j)
			moved[j] = at(from)
			if h := host(i); may(h) {
				part = append(part, h)
			}
		}
		picked, refused := Choose(part, req, nil, n-len(chosen))
		chosen, refusals = append(chosen, picked...), append(refusals, refused...)
	}
	if len(chosen) == n {
		return chosen, nil
	}
	return chosen, refusals
}
