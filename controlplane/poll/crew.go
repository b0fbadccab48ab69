package poll

import (
	"sync"
	"sync/atomic"
)

// mostWorkers is how many sessions are served at once. One that waits for its agent to read does not count.
const mostWorkers = 16

// crew serves the sessions: one that has something to do takes a turn, in a goroutine that goes on with the next one. So
// idle sessions have no goroutine but the one that reads, and many that wake at once don't all have one at once.
type crew struct {
	mu      sync.Mutex
	waiting []*seat
	working int
	closed  bool
	wg      sync.WaitGroup
}

// close has no turn begin any more, and waits for those under way. A timer of a session that has ended may still fire.
func (c *crew) close() {
	c.mu.Lock()
	c.closed = true
	c.waiting = nil
	c.mu.Unlock()
	c.wg.Wait()
}

// seat is a session's place in the crew. Its turns never overlap.
type seat struct {
	crew  *crew
	turn  func()
	state atomic.Int32
}

// The states of a seat.
const (
	idle int32 = iota
	waiting
	working
	wokenAgain // during its turn
)

// wake has the session take a turn soon. It returns at once.
func (s *seat) wake() {
	for {
		switch s.state.Load() {
		case idle:
			if s.state.CompareAndSwap(idle, waiting) {
				s.crew.join(s)
				return
			}
		case working:
			if s.state.CompareAndSwap(working, wokenAgain) {
				return
			}
		default:
			return
		}
	}
}

func (c *crew) join(s *seat) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return
	}
	c.waiting = append(c.waiting, s)
	c.hire()
}

// hire starts a worker when there is work for one more; the caller holds mu.
func (c *crew) hire() {
	if len(c.waiting) > 0 && c.working < mostWorkers {
		c.working++
		c.wg.Go(c.work)
	}
}

// next is the session whose turn it is; nil, and one worker less, when there is none.
func (c *crew) next() *seat {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.waiting) == 0 || c.working > mostWorkers {
		c.working--
		return nil
	}
	s := c.waiting[0]
	c.waiting[0] = nil
	if c.waiting = c.waiting[1:]; len(c.waiting) == 0 {
		c.waiting = nil
	}
	return s
}

func (c *crew) work() {
	for s := c.next(); s != nil; s = c.next() {
		s.state.Store(working)
		s.turn()
		if !s.state.CompareAndSwap(working, idle) {
			s.state.Store(waiting)
			c.join(s)
		}
	}
}

// aside calls f, which may wait for somebody else, while another session takes a turn.
func (c *crew) aside(f func() error) error {
	c.mu.Lock()
	c.working--
	c.hire()
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		c.working++
		c.mu.Unlock()
	}()
	return f()
}
