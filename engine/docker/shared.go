package docker

import (
	"context"
	"sync"
)

// shared lets callers that ask the same at the same time share one request. A caller only gets the answer of a request that began
// after its own call, so that it sees all that was done before.
type shared[T any] struct {
	mu    sync.Mutex
	asked map[string]*question[T]
}

type question[T any] struct {
	users int // guarded by shared's mutex
	begun int // requests; the same
	turn  chan struct{}
	// What follows is the one's who has the turn.
	answered int // which request answer is that of
	answer   T
	err      error
}

// do answers a call, by ask or by somebody else's. The answer is not the caller's own: it may be read.
func (s *shared[T]) do(ctx context.Context, key string, ask func(context.Context) (T, error)) (T, error) {
	q, begun := s.join(key)
	defer s.leave(key, q)
	select {
	case q.turn <- struct{}{}:
		defer func() { <-q.turn }()
	case <-ctx.Done():
		var none T
		return none, ctx.Err()
	}
	if q.answered > begun {
		return q.answer, q.err
	}
	s.mu.Lock()
	q.begun++
	number := q.begun
	s.mu.Unlock()
	answer, err := ask(ctx)
	if ctx.Err() == nil { // else it says nothing to others
		q.answered, q.answer, q.err = number, answer, err
	}
	return answer, err
}

func (s *shared[T]) join(key string) (q *question[T], begun int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.asked == nil {
		s.asked = map[string]*question[T]{}
	}
	q = s.asked[key]
	if q == nil {
		q = &question[T]{turn: make(chan struct{}, 1)}
		s.asked[key] = q
	}
	q.users++
	return q, q.begun
}

func (s *shared[T]) leave(key string, q *question[T]) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if q.users--; q.users == 0 {
		delete(s.asked, key)
	}
}
