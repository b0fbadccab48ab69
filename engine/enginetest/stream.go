package enginetest

import (
	"context"
	"fmt"
	"math/rand/v2"

	"github.com/containerd/errdefs"

	"github.com/longshore-project/longshore/engine"
)

// subscription is one Events call. Its queue has no bound: a Fake never loses an event by itself.
type subscription struct {
	queue []engine.Event
	wake  chan struct{} // capacity 1
	broke bool
}

func (s *subscription) poke() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// publish tells all streams. The mutex is held.
func (f *Fake) publish(c *container, action string) {
	if f.dropEvents || !ours(c) {
		return
	}
	e := engine.Event{ContainerID: c.state.ID, TaskArn: c.state.Labels[engine.LabelTaskArn], Action: action, Time: f.now()}
	for s := range f.subs {
		for range 1 + f.repeat {
			s.queue = append(s.queue, e)
		}
		s.poke()
	}
}

func (f *Fake) breakStreams() {
	for s := range f.subs {
		s.broke = true
		s.poke()
	}
}

// Events follows the events of our containers.
func (f *Fake) Events(ctx context.Context, ready func(), each func(engine.Event)) error {
	if err := f.enter(ctx, "Events", ""); err != nil {
		return err
	}
	s := &subscription{wake: make(chan struct{}, 1)}
	f.subs[s] = struct{}{}
	f.mu.Unlock()
	defer func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		delete(f.subs, s)
	}()
	if ready != nil {
		ready()
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.wake:
		}
		f.mu.Lock()
		queue, broke := s.queue, s.broke
		s.queue = nil
		if f.shuffle {
			rand.Shuffle(len(queue), func(i, j int) { queue[i], queue[j] = queue[j], queue[i] })
		}
		f.mu.Unlock()
		for _, e := range queue {
			if ctx.Err() != nil {
				return nil
			}
			each(e)
		}
		if broke {
			return fmt.Errorf("the event stream broke: %w", errdefs.ErrUnavailable)
		}
	}
}

// bind gives a container its host ports. The mutex is held.
func (f *Fake) bind(c *container) error {
	if c.state.NetworkMode != "bridge" {
		return nil
	}
	var bound []engine.Binding
	for _, p := range c.spec.Ports {
		if p.Protocol == "" {
			p.Protocol = "tcp"
		}
		for p.Host == 0 {
			if f.nextPort++; !f.taken(f.nextPort, p.Protocol) {
				p.Host = f.nextPort
			}
		}
		if f.taken(p.Host, p.Protocol) {
			return fmt.Errorf("bind for 0.0.0.0:%d failed: port is already allocated: %w", p.Host, errdefs.ErrResourceExhausted)
		}
		bound = append(bound, engine.Binding{Port: p, HostIP: "0.0.0.0"})
	}
	c.state.Ports = bound
	return nil
}

func (f *Fake) taken(port int32, protocol string) bool {
	for _, c := range f.containers {
		for _, b := range c.state.Ports {
			if b.Host == port && b.Protocol == protocol {
				return true
			}
		}
	}
	return false
}
