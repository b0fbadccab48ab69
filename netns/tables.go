package netns

import (
	"fmt"
	"hash/maphash"
	"maps"
	"slices"
	"sync"
)

// Tables writes our nftables table into network namespaces, the host's and tasks'. Its zero value is ready.
//
// It remembers of each namespace the generation that the kernel's rules had when they were last found right, and sums of what they were.
// While neither has changed, a look is one question to the kernel; without that memory, everything is read and compared. It may be used
// by many goroutines at once.
type Tables struct {
	mu   sync.Mutex
	seen map[uint64]seen // by the namespace's cookie
}

// seen is what was found right in a namespace.
type seen struct {
	generation uint32 // of all rules of the namespace; it rises with each transaction, whoever's
	shape      uint64 // what sets, chains and rules there are
	elements   map[string]uint64
}

// maxSeen namespaces are remembered, so that those that have gone cost nothing for long.
const maxSeen = 1024

var seed = maphash.MakeSeed()

// sums are the ruleset's.
func (r Ruleset) sums() seen {
	s := seen{elements: make(map[string]uint64, len(r.Sets))}
	var h maphash.Hash
	h.SetSeed(seed)
	fmt.Fprintln(&h, r.Task)
	for _, set := range r.Sets {
		fmt.Fprintln(&h, set.Name, datatype(set.Key).Name, set.Interval, len(set.Value))
		s.elements[set.Name] = set.sum()
	}
	for _, c := range r.Chains {
		fmt.Fprintln(&h, c.Name, c.Type, c.Hook != nil, c.Priority, c.Drop)
		for _, rule := range c.Rules {
			h.WriteString(rule.Text)
			h.WriteByte('\n')
		}
	}
	s.shape = h.Sum64()
	return s
}

func (s Set) sum() uint64 {
	var h maphash.Hash
	h.SetSeed(seed)
	for _, e := range s.Elements {
		for _, b := range [][]byte{e.Key, e.End, e.Value, []byte(e.Comment), {0xff}} {
			h.Write(b)
		}
	}
	return h.Sum64()
}

// Ensure makes our table in a network namespace (by its file descriptor; 0: the own one) what it should be, in one transaction, and
// says what differed; nil when nothing did. Where only elements of sets differ, only those are added and removed, so that a change of
// a group's members touches no rule. An empty ruleset is no table. It may be repeated at any time; who calls it twice at once for one namespace
// gets one of the two.
func (k *Tables) Ensure(namespace int, want Ruleset) (changed []string, err error) {
	s, err := open(namespace)
	if err != nil {
		return nil, err
	}
	defer s.close()
	before, err := s.generation()
	if err != nil {
		return nil, err
	}
	sums := want.sums()
	known := k.recall(s.cookie, before)
	if known.shape == sums.shape && maps.Equal(known.elements, sums.elements) {
		return nil, nil
	}
	sums.generation = before
	if changed, err = s.ensure(want, known, sums); err != nil {
		k.remember(s.cookie, seen{})
		return nil, fmt.Errorf("the nftables table inet %s: %w", TableName, err)
	}
	if changed != nil {
		sums.generation = next(before)
	}
	if after, err := s.generation(); err != nil || after != sums.generation {
		sums = seen{} // somebody else was at work: what he did will be seen the next time
	}
	k.remember(s.cookie, sums)
	return changed, nil
}

// recall is what was found right, if nothing has changed since.
func (k *Tables) recall(cookie uint64, generation uint32) seen {
	k.mu.Lock()
	defer k.mu.Unlock()
	if s := k.seen[cookie]; s.generation == generation {
		return s
	}
	return seen{}
}

func (k *Tables) remember(cookie uint64, s seen) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if cookie == 0 || s.generation == 0 {
		delete(k.seen, cookie)
		return
	}
	if len(k.seen) >= maxSeen || k.seen == nil { // most of them have gone
		k.seen = map[uint64]seen{}
	}
	k.seen[cookie] = s
}

// next is the generation after the next transaction. None is 0.
func next(generation uint32) uint32 { return max(generation+1, 1) }

// ensure makes the table right, knowing what is known.
func (s *session) ensure(want Ruleset, known, sums seen) ([]string, error) {
	if known.shape != sums.shape {
		switch right, exists, err := s.shaped(want); {
		case err != nil:
			return nil, err
		case !right:
			return s.replace(want, exists)
		}
	}
	var changed []string
	for _, set := range want.Sets {
		if sum, ok := known.elements[set.Name]; ok && sum == sums.elements[set.Name] {
			continue
		}
		now, err := s.elements(set)
		if err != nil {
			return nil, err
		}
		add, remove := difference(now, set.Elements)
		if len(add)+len(remove) == 0 {
			continue
		}
		if err := s.change(set, add, remove); err != nil {
			return nil, err
		}
		changed = append(changed, fmt.Sprintf("nftables set %s: %d added, %d removed", set.Name, len(add), len(remove)))
	}
	return changed, s.flush()
}

// difference is what must be added to and removed from what is, for it to be what is wanted. Both are sorted.
func difference(now, want []Element) (add, remove []Element) {
	for len(now) > 0 || len(want) > 0 {
		switch {
		case len(now) == 0:
			return append(add, want...), remove
		case len(want) == 0:
			return add, append(remove, now...)
		}
		switch c := now[0].compare(want[0]); {
		case c == 0:
			now, want = now[1:], want[1:]
		case c < 0:
			remove, now = append(remove, now[0]), now[1:]
		default:
			add, want = append(add, want[0]), want[1:]
		}
	}
	return add, remove
}

// chunks splits elements into lists that fit into a message.
func chunks(all []Element) [][]Element { return slices.Collect(slices.Chunk(all, 256)) }
