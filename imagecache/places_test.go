package imagecache

import (
	"slices"
	"testing"
)

func TestAFreePlaceGoesToTheFirstWhoseRegistryHasOneLeft(t *testing.T) {
	a, b := "a.example", "b.example"
	claims := func(list ...claim) (out []*claim) {
		for i := range list {
			list[i].serial = uint64(i)
			out = append(out, &list[i])
		}
		return out
	}
	for name, c := range map[string]struct {
		waiting []*claim
		taken   map[string]int
		want    int
	}{
		"nobody waits":                         {nil, nil, -1},
		"the oldest of equals":                 {claims(claim{registry: a, priority: 1}, claim{registry: a, priority: 1}), nil, 0},
		"the better priority before the older": {claims(claim{registry: a, priority: 1}, claim{registry: b}), nil, 1},
		"a registry that hangs leaves the place to others, of a worse priority too": {claims(claim{registry: a}, claim{registry: a}, claim{registry: b, priority: 2}), map[string]int{a: 2}, 2},
		"the best priority among the others":                                        {claims(claim{registry: a}, claim{registry: b, priority: 2}, claim{registry: b, priority: 1}), map[string]int{a: 2, b: 1}, 2},
		"who was overtaken is the next when its registry has one again":             {claims(claim{registry: a}, claim{registry: b}), map[string]int{a: 1, b: 1}, 0},
		"a place stays free when only registries wait that have all of theirs":      {claims(claim{registry: a}, claim{registry: a}), map[string]int{a: 2}, -1},
	} {
		if got := next(c.waiting, c.taken, 2); got != c.want {
			t.Errorf("%s: got %d, want %d", name, got, c.want)
		}
	}
}

func TestARegistryThatHangsNeverHoldsEveryPlaceAndNobodyStarves(t *testing.T) {
	p := newPlaces(3, 2)
	take := func(registry string, priority int) *claim {
		c := p.claim(registry, priority)
		p.mu.Lock()
		defer p.mu.Unlock()
		p.waiting = append(p.waiting, c)
		p.grant()
		return c
	}
	has := func(c *claim) bool { return len(c.granted) == 1 }
	var hung []*claim
	for range 10 {
		hung = append(hung, take("hung.example", 0))
	}
	if slices.IndexFunc(hung, func(c *claim) bool { return !has(c) }) != 2 || has(hung[2]) || p.free != 1 {
		t.Fatalf("%d places are free", p.free)
	}
	for range 100 { // the others go on through the one that is left
		c := take("well.example", 2)
		if !has(c) {
			t.Fatal("a registry that is well waits for one that hangs")
		}
		p.give(c)
	}
	// As each of the hung ones ends, the next oldest gets its place, though others of its priority keep coming.
	busy := take("well.example", 0)
	for i := range 8 {
		younger := take("well.example", 0)
		if has(younger) {
			t.Fatal("more run than there are places")
		}
		p.give(hung[i])
		if !has(hung[i+2]) || has(younger) {
			t.Fatalf("claim %d was overtaken", i+2)
		}
	}
	p.give(hung[8])
	p.give(hung[9])
	p.give(busy)
	if p.taken["hung.example"] != 0 || p.taken["well.example"] != 2 || p.free != 1 {
		t.Errorf("%v are taken, %d free", p.taken, p.free)
	}
}
