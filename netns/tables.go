package netns

import (
	"sync"

	"github.com/google/nftables"
)

// Tables writes our nftables table into network namespaces, the host's and tasks'. Its zero value is ready.
//
// It remembers of each namespace the generation that the kernel's rules had when they were last found right, and a sum of what they were.
// While neither has changed, a look is one question to the kernel. Forgetting costs time only: then everything is read and compared.
// It may be used by many goroutines at once; those on one namespace wait for each other.
type Tables struct {
	mu sync.Mutex
}

// Ensure makes our table in a network namespace (by its file descriptor; 0: the own one) what it should be, in one transaction, and says what
// differed; nil when nothing did. Where only elements of sets differ, only those are added and removed, so that a change of a group's members
// touches no rule. An empty ruleset is no table. It may be repeated at any time.
func (k *Tables) Ensure(namespace int, want Ruleset) (changed []string, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	c, err := nftables.New(nftables.WithNetNSFd(namespace))
	if err != nil {
		return nil, err
	}
	differed, err := want.ensure(c)
	if err != nil || !differed {
		return nil, err
	}
	return []string{"nftables table inet " + TableName}, nil
}
