package netns

import (
	"errors"
	"slices"
	"sync"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// HostNetwork is what the host's own network has for containers: pieces, with their addresses and interfaces, whose rules are our
// one table. Its zero value has none. It may be used by many goroutines at once.
type HostNetwork struct {
	// Namespace is the file descriptor of the host's network namespace; 0 is the own one.
	Namespace int

	mu     sync.Mutex
	tables Tables
	pieces []Piece
}

// Piece is one of [LinkLocal], [DenyMetadata] and [*Bridge].
type Piece interface {
	// rules are its share in the table, given the interfaces that lead to containers.
	rules(inward []string) Ruleset
	// ensure makes what is not rules, and says what that was.
	ensure(*netlink.Handle) (changed []string, err error)
	// remove takes that away again.
	remove(*netlink.Handle) (removed []string, err error)
}

// The base chains that pieces share. What guards comes before the rules of others, and so does translation, since Docker translates the
// published ports of containers for every address of the host.
var (
	guardChain   = Chain{Name: "guard", Type: nftables.ChainTypeFilter, Hook: nftables.ChainHookPrerouting, Priority: -160}
	arriveChain  = Chain{Name: "arrive", Type: nftables.ChainTypeNAT, Hook: nftables.ChainHookPrerouting, Priority: -110}
	leaveChain   = Chain{Name: "leave", Type: nftables.ChainTypeNAT, Hook: nftables.ChainHookOutput, Priority: -110}
	forwardChain = Chain{Name: "forward", Type: nftables.ChainTypeFilter, Hook: nftables.ChainHookForward, Priority: -10}
	sourceChain  = Chain{Name: "source", Type: nftables.ChainTypeNAT, Hook: nftables.ChainHookPostrouting, Priority: 90}
)

func chainOf(base Chain, rules ...Rule) Chain {
	base.Rules = rules
	return base
}

// Set makes pieces the ones that there are, without making them real: a piece that was there and is not now is removed by the next
// [HostNetwork.Ensure] as far as it is rules.
func (n *HostNetwork) Set(pieces ...Piece) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.pieces = pieces
}

// Rules are the wanted rules of the table, given the bridges that lead to containers.
func (n *HostNetwork) Rules(inward []string) Ruleset {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.assembled(inward)
}

func (n *HostNetwork) assembled(inward []string) Ruleset {
	var all []Ruleset
	for _, p := range n.pieces {
		all = append(all, p.rules(inward))
	}
	return Assemble(all...)
}

// Ensure makes everything what it should be, and says what differed; nil when nothing did. It may be repeated at any time.
func (n *HostNetwork) Ensure() (changed []string, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	h, err := n.links()
	if err != nil {
		return nil, err
	}
	defer h.Close()
	var errs []error
	for _, p := range n.pieces {
		c, err := p.ensure(h)
		changed, errs = append(changed, c...), append(errs, err)
	}
	c, err := n.ensureRules(h)
	return append(changed, c...), errors.Join(append(errs, err)...)
}

// EnsureRules makes the rules what they should be, and nothing else.
func (n *HostNetwork) EnsureRules() (changed []string, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	h, err := n.links()
	if err != nil {
		return nil, err
	}
	defer h.Close()
	return n.ensureRules(h)
}

func (n *HostNetwork) ensureRules(h *netlink.Handle) ([]string, error) {
	links, err := linkList(h)
	if err != nil {
		return nil, err
	}
	return n.tables.Ensure(n.Namespace, n.assembled(inward(links)))
}

// EnsureOnly makes what a piece has beside rules, before it is one of the pieces: who can't listen at an address leaves the rules alone.
func (n *HostNetwork) EnsureOnly(p Piece) error {
	h, err := n.links()
	if err != nil {
		return err
	}
	defer h.Close()
	_, err = p.ensure(h)
	return err
}

// Remove removes the table and what the pieces have, and says what that was. It can be repeated.
func (n *HostNetwork) Remove() (removed []string, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	removed, err = n.tables.Ensure(n.Namespace, Ruleset{})
	if err != nil {
		return nil, err
	}
	h, err := n.links()
	if err != nil {
		return removed, err
	}
	defer h.Close()
	for _, p := range slices.Backward(n.pieces) {
		r, e := p.remove(h)
		removed, err = append(removed, r...), errors.Join(err, e)
	}
	return removed, err
}

// links is a handle of the namespace's interfaces and addresses.
func (n *HostNetwork) links() (*netlink.Handle, error) {
	return netlinkAt(n.Namespace, unix.NETLINK_ROUTE)
}

// inside runs f in the namespace.
func (n *HostNetwork) inside(f func() error) error {
	if n.Namespace == 0 {
		return f()
	}
	return inside(n.Namespace, f)
}
