package envelope

import (
	"errors"
	"sync"
)

// mostStrange bounds what a [Strange] remembers.
const mostStrange = 100

// Strange remembers which types of messages a peer of another version sends that this one does not know, so that each is told
// once. Its zero value is ready. It is safe for concurrent use.
type Strange struct {
	mu   sync.Mutex
	seen map[string]bool
}

// Message tells whether err, of [Codec.Decode], is of a message of an unknown type; name is that type, when it is the first of it, and
// else empty. Such a message is no fault of its sender's: it is ignored.
func (s *Strange) Message(err error) (name string, unknown bool) {
	var strange *UnknownTypeError
	if !errors.As(err, &strange) {
		return "", false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.seen[strange.Type] || len(s.seen) >= mostStrange {
		return "", true
	}
	if s.seen == nil {
		s.seen = map[string]bool{}
	}
	s.seen[strange.Type] = true
	return strange.Type, true
}
