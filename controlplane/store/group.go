package store

import (
	"context"
	"errors"
	"fmt"
	"sync"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// Transactions that are ready at the same time travel together: one request to etcd holds them as nested transactions,
// each with conditions and an outcome of its own. etcd judges all conditions before it writes anything, so transactions
// of which one writes what another one writes or looks at never share a request.
//
// The bounds of a request: etcd counts the nested transactions and the operations of the largest one together, against
// its --max-txn-ops (128), and refuses more than 1.5 MiB.
const (
	maxTogether      = 24
	maxTogetherOps   = maxOps - maxTogether // of one transaction
	maxTogetherBytes = 768 << 10
	// maxFlights is how many requests are under way at once. While they are, what comes gathers for the next one.
	maxFlights = 3
)

// A ticket is a transaction on its way to etcd.
type ticket struct {
	compares []clientv3.Cmp
	ops      []clientv3.Op
	looks    []string // keys that it has conditions on
	writes   []string // keys that it writes
	size     int      // bytes, about

	done      chan struct{} // closed when the rest is set
	succeeded bool
	revision  int64
	err       error
}

func (t *ticket) arrive(succeeded bool, revision int64, err error) {
	t.succeeded, t.revision, t.err = succeeded, revision, err
	close(t.done)
}

// group gathers tickets.
type group struct {
	mu      sync.Mutex
	queue   []*ticket
	flights int
}

// submit sends a transaction, and waits for its outcome or the end of ctx.
func (s *Store) submit(ctx context.Context, t *ticket) error {
	g := &s.group
	g.mu.Lock()
	g.queue = append(g.queue, t)
	fly := g.flights < maxFlights
	if fly {
		g.flights++
	}
	g.mu.Unlock()
	if fly && !s.spawn(s.fly) {
		return fmt.Errorf("%w: it is closed", ErrUnavailable)
	}
	select {
	case <-t.done:
		return t.err
	case <-ctx.Done():
		return ctx.Err()
	case <-s.ctx.Done():
		return fmt.Errorf("%w: it is closed", ErrUnavailable)
	}
}

// fly sends what waits until nothing does.
func (s *Store) fly() {
	for {
		s.group.mu.Lock()
		batch := s.group.take()
		if len(batch) == 0 {
			s.group.flights--
		}
		s.group.mu.Unlock()
		if len(batch) == 0 {
			return
		}
		s.send(batch)
	}
}

// take takes the tickets off the queue that can travel together: the first, and those that have nothing to do with the ones
// before them.
func (g *group) take() (batch []*ticket) {
	looks, writes := map[string]bool{}, map[string]bool{} // of all before, taken or not
	size := 0
	var rest []*ticket
	for i, t := range g.queue {
		if len(batch) == maxTogether {
			rest = append(rest, g.queue[i:]...)
			break
		}
		alone := len(t.ops) > maxTogetherOps || len(t.compares) > maxTogetherOps
		fits := len(batch) == 0 || !alone && size+t.size <= maxTogetherBytes && t.apart(looks, writes)
		if !fits {
			rest = append(rest, t)
		} else {
			batch, size = append(batch, t), size+t.size
			if alone {
				rest = append(rest, g.queue[i+1:]...)
				break
			}
		}
		for _, k := range t.looks {
			looks[k] = true
		}
		for _, k := range t.writes {
			writes[k] = true
		}
	}
	g.queue = rest
	return batch
}

// apart tells whether the ticket writes nothing that others look at or write, and looks at nothing that they write.
func (t *ticket) apart(looks, writes map[string]bool) bool {
	for _, k := range t.looks {
		if writes[k] {
			return false
		}
	}
	for _, k := range t.writes {
		if writes[k] || looks[k] {
			return false
		}
	}
	return true
}

// send sends tickets with one request. A request that etcd refuses as a whole, for what one of them has, is sent again one by
// one.
func (s *Store) send(batch []*ticket) {
	ctx, cancel := context.WithTimeout(s.ctx, s.cfg.Timeout)
	defer cancel()
	if len(batch) == 1 {
		t := batch[0]
		response, err := s.client.Txn(ctx).If(t.compares...).Then(t.ops...).Commit()
		if err != nil {
			t.arrive(false, 0, fmt.Errorf("commit to the store: %w", unavailable(s.ctx, err)))
			return
		}
		t.arrive(response.Succeeded, response.Header.Revision, nil)
		return
	}
	ops := make([]clientv3.Op, len(batch))
	for i, t := range batch {
		ops[i] = clientv3.OpTxn(t.compares, t.ops, nil)
	}
	response, err := s.client.Txn(ctx).Then(ops...).Commit()
	if err == nil {
		for i, t := range batch {
			t.arrive(response.Responses[i].GetResponseTxn().Succeeded, response.Header.Revision, nil)
		}
		return
	}
	if err = unavailable(s.ctx, err); errors.Is(err, ErrUnavailable) || s.ctx.Err() != nil {
		for _, t := range batch {
			t.arrive(false, 0, fmt.Errorf("commit to the store: %w", err))
		}
		return
	}
	for _, t := range batch {
		s.send([]*ticket{t})
	}
}
