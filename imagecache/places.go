package imagecache

import (
	"context"
	"slices"
	"sync"
)

// places bounds how many pulls run at the same time, in all and from one registry, so that a registry that is slow or hangs
// leaves places to others. A free place goes to the claim that [next] names.
type places struct {
	mu      sync.Mutex
	free    int
	each    int            // places that the pulls from one registry may have
	taken   map[string]int // by registry
	serial  uint64
	waiting []*claim
}

// claim is a flight's standing in the queue. A flight has one claim for all its tries, so it keeps its age.
type claim struct {
	registry string
	priority int
	serial   uint64
	granted  chan struct{} // of capacity 1
}

func newPlaces(n, each int) *places { return &places{free: n, each: each, taken: map[string]int{}} }

func (p *places) claim(registry string, priority int) *claim {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.serial++
	return &claim{registry: registry, priority: priority, serial: p.serial, granted: make(chan struct{}, 1)}
}

// raise improves a claim's priority; it never worsens it.
func (p *places) raise(c *claim, priority int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	c.priority = min(c.priority, priority)
}

// take waits for a place. With an error no place was taken.
func (p *places) take(ctx context.Context, c *claim) error {
	p.mu.Lock()
	p.waiting = append(p.waiting, c)
	p.grant()
	p.mu.Unlock()
	select {
	case <-c.granted:
		return nil
	case <-ctx.Done():
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if i := slices.Index(p.waiting, c); i >= 0 {
		p.waiting = slices.Delete(p.waiting, i, i+1)
	} else { // granted at the same moment
		<-c.granted
		p.back(c)
	}
	return context.Cause(ctx)
}

// give gives a claim's place back.
func (p *places) give(c *claim) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.back(c)
}

// back is give with the mutex held.
func (p *places) back(c *claim) {
	p.free++
	if p.taken[c.registry]--; p.taken[c.registry] == 0 {
		delete(p.taken, c.registry)
	}
	p.grant()
}

// grant hands out free places. The mutex is held.
func (p *places) grant() {
	for p.free > 0 {
		i := next(p.waiting, p.taken, p.each)
		if i < 0 {
			return
		}
		c := p.waiting[i]
		p.waiting = slices.Delete(p.waiting, i, i+1)
		p.free--
		p.taken[c.registry]++
		c.granted <- struct{}{}
	}
}

// next decides who gets a free place: of the claims on registries from which fewer than each pulls run, the one with the lowest
// priority number, among equals the oldest; -1: none of them. So a claim is overtaken by a younger one of its priority only
// while its own registry has all the places that it may have, and it is the next of that registry when one of them is free.
func next(waiting []*claim, taken map[string]int, each int) int {
	best := -1
	for i, c := range waiting {
		if taken[c.registry] >= each {
			continue
		}
		if best < 0 || c.priority < waiting[best].priority || c.priority == waiting[best].priority && c.serial < waiting[best].serial {
			best = i
		}
	}
	return best
}
