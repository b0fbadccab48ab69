package poll

import (
	"time"

	"github.com/google/uuid"
)

// delivery is what one connection's agent was sent and what it has acknowledged. It is pure: no clock, no I/O. A task that
// an agent never acknowledges (it could not decode it) is sent again at growing distance and holds up no other.
type delivery struct {
	first, longest time.Duration // pauses between attempts
	tasks          map[string]*sent
	messages       map[string]string // message id → task id
}

// sent is what happened to a task's payload.
type sent struct {
	desired  string // of the payload that is under way or acknowledged
	message  string // its id; the same in each attempt
	attempts int
	next     time.Time // of the next attempt
	done     bool      // acknowledged
}

func newDelivery(first, longest time.Duration) *delivery {
	return &delivery{first: first, longest: longest, tasks: map[string]*sent{}, messages: map[string]string{}}
}

// want is a task that the agent must know with this desired status.
type want struct{ id, desired string }

// attempt is a payload to be sent now.
type attempt struct {
	id      string
	message string
	number  int // 1 for the first
}

// due compares what is wanted with what was acknowledged and returns what must be sent now, in the order of wants, and
// when to look again (zero: nothing is under way). Tasks that are not wanted any more are forgotten.
func (d *delivery) due(wants []want, now time.Time) (attempts []attempt, next time.Time) {
	wanted := make(map[string]bool, len(wants))
	for _, w := range wants {
		wanted[w.id] = true
		s := d.tasks[w.id]
		if s == nil || s.desired != w.desired {
			if s != nil {
				delete(d.messages, s.message)
			}
			s = &sent{desired: w.desired, message: uuid.NewString(), next: now}
			d.tasks[w.id], d.messages[s.message] = s, w.id
		}
		if s.done {
			continue
		}
		if !s.next.After(now) {
			s.attempts++
			s.next = now.Add(d.pause(s.attempts))
			attempts = append(attempts, attempt{w.id, s.message, s.attempts})
		}
		if next.IsZero() || s.next.Before(next) {
			next = s.next
		}
	}
	for id, s := range d.tasks {
		if !wanted[id] {
			delete(d.messages, s.message)
			delete(d.tasks, id)
		}
	}
	return attempts, next
}

// postpone takes an attempt back that was not made: it is due again at the next look.
func (d *delivery) postpone(id string) {
	if s := d.tasks[id]; s != nil && !s.done {
		s.attempts--
		s.next = time.Time{}
	}
}

// pause is how long to wait for an acknowledgement of the nth attempt.
func (d *delivery) pause(attempts int) time.Duration {
	return min(d.longest, d.first<<min(attempts-1, 20))
}

// acknowledge takes an acknowledgement; false when no payload under way has that message id.
func (d *delivery) acknowledge(message string) (accepted, bool) {
	id, ok := d.messages[message]
	if !ok {
		return accepted{}, false
	}
	s := d.tasks[id]
	if s.done {
		return accepted{}, false
	}
	s.done = true
	return accepted{id, s.desired}, true
}
