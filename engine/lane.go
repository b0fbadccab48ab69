package engine

import (
	"context"
	"slices"
	"sync"
	"time"
)

// lane lets some pass at a time, in the order in which they came; those in a hurry before the others.
type lane struct {
	mu      sync.Mutex
	free    int
	hurried []chan struct{} // closed when a place is theirs
	others  []chan struct{}
}

func newLane(places int) *lane { return &lane{free: places} }

// enter waits for a place. It is given back by leave, and after a time although its holder goes on: a call that the engine does not
// answer keeps others waiting no longer than that.
func (l *lane) enter(ctx context.Context, hurry bool, atMost time.Duration) (leave func(), err error) {
	if place := l.queue(hurry); place != nil {
		select {
		case <-place:
		case <-ctx.Done():
			l.giveUp(place)
			return nil, ctx.Err()
		}
	}
	back := sync.OnceFunc(l.pass)
	timer := time.AfterFunc(atMost, back)
	return func() {
		timer.Stop()
		back()
	}, nil
}

// queue takes a free place (nil), or one in the queue.
func (l *lane) queue(hurry bool) chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.free > 0 {
		l.free--
		return nil
	}
	place := make(chan struct{})
	if hurry {
		l.hurried = append(l.hurried, place)
	} else {
		l.others = append(l.others, place)
	}
	return place
}

// pass gives a place to the next.
func (l *lane) pass() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, queue := range []*[]chan struct{}{&l.hurried, &l.others} {
		if len(*queue) > 0 {
			close((*queue)[0])
			*queue = (*queue)[1:]
			return
		}
	}
	l.free++
}

// giveUp leaves the queue, or passes on the place that came just now.
func (l *lane) giveUp(place chan struct{}) {
	l.mu.Lock()
	before := len(l.hurried) + len(l.others)
	is := func(c chan struct{}) bool { return c == place }
	l.hurried, l.others = slices.DeleteFunc(l.hurried, is), slices.DeleteFunc(l.others, is)
	left := len(l.hurried)+len(l.others) < before
	l.mu.Unlock()
	if !left {
		l.pass()
	}
}
