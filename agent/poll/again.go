package poll

import (
	"context"
	"sync"
	"time"

	"github.com/longshore-project/longshore/protocol/acs"
)

// A payload that could not be saved is not acknowledged, so that the control plane sends it again in its own time. Until then
// it is kept, as long as its connection stands, and tried again: when the disk has room its tasks need not wait for it.

const (
	mostUnsaved  = 16 // payloads that are kept; others come again
	firstAgain   = time.Second
	longestAgain = 5 * time.Second
)

// unsaved are the payloads of one connection that could not be saved, in the order in which they came.
type unsaved struct {
	mu       sync.Mutex
	payloads []*acs.PayloadMessage
	came     chan struct{}
}

// note keeps a payload that is to be tried again, and forgets one that is not.
func (u *unsaved) note(m *acs.PayloadMessage, again bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for i, old := range u.payloads {
		if old.MessageID != m.MessageID {
			continue
		}
		if again {
			u.payloads[i] = m
		} else {
			u.payloads = append(u.payloads[:i:i], u.payloads[i+1:]...)
		}
		return
	}
	if !again || len(u.payloads) == mostUnsaved {
		return
	}
	u.payloads = append(u.payloads, m)
	select {
	case u.came <- struct{}{}:
	default:
	}
}

func (u *unsaved) first() *acs.PayloadMessage {
	u.mu.Lock()
	defer u.mu.Unlock()
	if len(u.payloads) == 0 {
		return nil
	}
	return u.payloads[0]
}

// tryAgain tries what was kept until ctx, the connection's life, ends. The oldest goes first: what came later may stop what came
// before it.
func (p *Poller) tryAgain(ctx context.Context, u *unsaved, answer func(any) error) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-u.came:
		}
		for wait := firstAgain; u.first() != nil; wait = min(2*wait, longestAgain) {
			select {
			case <-ctx.Done():
				return
			case <-time.After(wait):
			}
			if p.retry(ctx, u, answer) != nil { // the connection is broken, which ends ctx
				return
			}
		}
	}
}

// retry tries the kept payloads until one fails again.
func (p *Poller) retry(ctx context.Context, u *unsaved, answer func(any) error) error {
	p.turn.Lock()
	defer p.turn.Unlock()
	for m := u.first(); m != nil; m = u.first() {
		again, err := p.payload(ctx, m, answer)
		if again || err != nil {
			return err
		}
		u.note(m, false)
	}
	return nil
}
