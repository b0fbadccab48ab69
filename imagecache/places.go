package imagecache

import (
	"context"
	"slices"
	"sync"
)

// places bounds how many pulls run at the same time. A free place goes to the waiting claim with the lowest priority
// number, among equals to the oldest.
type places struct {
	mu      sync.Mutex
	free    int
	serial  uint64
	waiting []*claim
}

// claim is a flight's standing in the queue. A flight has one claim for all its tries, so it keeps its age.
type claim struct {
	priority int
	serial   uint64
	granted  chan struct{} // of capacity 1
}

func newPlaces(n int) *places { return &places{free: n} }

func (p *places) claim(priority int) *claim {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.serial++
	return &claim{priority: priority, serial: p.serial, granted: make(chan struct{}, 1)}
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
		p.free++
		p.grant()
	}
	return context.Cause(ctx)
}

// give gives a place back.
func (p *places) give() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.free++
	p.grant()
}

// grant hands out free places. The mutex is held.
func (p *places) grant() {
	for p.free > 0 && len(p.waiting) > 0 {
		next := slices.MinFunc(p.waiting, func(a, b *claim) int {
			if a.priority != b.priority {
				return a.priority - b.priority
			}
			return int(a.serial) - int(b.serial)
		})
		p.waiting = slices.DeleteFunc(p.waiting, func(c *claim) bool { return c == next })
		p.free--
		next.granted <- struct{}{}
	}
}
