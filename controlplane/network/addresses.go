package network

import (
	"net/netip"
	"slices"

	"github.com/longshore-project/longshore/controlplane/store"
)

// load takes over the addresses of a view; the caller holds mu. The newest of each block tells where the search for the next one begins.
func (n *Network) load(v *store.View) {
	newest := map[netip.Prefix]int64{}
	for a := range v.Addresses() {
		addr := a.Addr()
		if n.taken[addr] == nil {
			n.put(a)
		}
		if b := n.config.block(addr); b != nil && a.Revision() > newest[b.prefix] {
			newest[b.prefix] = a.Revision()
			n.next[b.prefix] = addr.Next()
		}
	}
}

// note follows the store.
func (n *Network) note(_ int64, changes []store.Change) {
	var addresses []store.Change
	for _, c := range changes {
		if isAddress(c.Old) || isAddress(c.New) {
			addresses = append(addresses, c)
		}
	}
	if len(addresses) == 0 {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, c := range addresses {
		if a, ok := c.Old.(*store.Address); ok {
			n.drop(a)
		}
		if a, ok := c.New.(*store.Address); ok {
			n.put(a)
		}
	}
}

func isAddress(r store.Record) bool { _, ok := r.(*store.Address); return ok }

func (n *Network) put(a *store.Address) {
	addr := a.Addr()
	if n.taken[addr] != nil {
		n.drop(n.taken[addr])
	}
	n.taken[addr] = a
	for _, g := range a.SecurityGroups {
		if n.members[g] == nil {
			n.members[g] = map[netip.Addr]struct{}{}
		}
		n.members[g][addr] = struct{}{}
		n.changed[g]++
	}
	if b := n.config.block(addr); b != nil && n.used != nil {
		n.used[b.prefix]++
	}
}

func (n *Network) drop(a *store.Address) {
	addr := a.Addr()
	if n.taken[addr] == nil {
		return
	}
	delete(n.taken, addr)
	for _, g := range a.SecurityGroups {
		n.changed[g]++
		if delete(n.members[g], addr); len(n.members[g]) == 0 {
			delete(n.members, g)
		}
	}
	if b := n.config.block(addr); b != nil && n.used != nil {
		n.used[b.prefix]--
	}
}

// count counts anew how many of the blocks' usable addresses are taken.
func (n *Network) count() {
	n.used = map[netip.Prefix]uint64{}
	for addr := range n.taken {
		if b := n.config.block(addr); b != nil {
			n.used[b.prefix]++
		}
	}
}

// free is how many addresses of a block are free.
func (n *Network) free(b *Block) uint64 {
	n.mu.Lock()
	defer n.mu.Unlock()
	return b.usable - min(n.used[b.prefix], b.usable)
}

// Usage is how much of a subnet's addresses of one family is taken.
type Usage struct {
	Subnet        string
	Prefix        netip.Prefix
	Taken, Usable uint64
}

// Usage is that of all subnets, in order of their addresses.
func (n *Network) Usage() (usage []Usage) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, b := range n.config.blocks {
		usage = append(usage, Usage{b.subnet, b.prefix, n.used[b.prefix], b.usable})
	}
	return usage
}

// take is the next free address of a block; false when there is none. It is taken only when its record is stored: until then
// nothing but the time that it takes to come round again keeps others from it.
func (n *Network) take(b *Block) (netip.Addr, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	addr, ok := b.Next(n.next[b.prefix], func(a netip.Addr) bool { return n.taken[a] != nil })
	if ok {
		n.next[b.prefix] = addr.Next()
	}
	return addr, ok
}

// Members are the addresses of all interfaces in a group, in order.
func (n *Network) Members(group string) []netip.Addr {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.sortedMembers(group)
}

func (n *Network) sortedMembers(group string) []netip.Addr {
	members := make([]netip.Addr, 0, len(n.members[group]))
	for a := range n.members[group] {
		members = append(members, a)
	}
	slices.SortFunc(members, netip.Addr.Compare)
	return members
}
