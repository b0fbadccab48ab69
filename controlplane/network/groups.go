package network

import (
	"maps"
	"slices"

	"github.com/longshore-project/longshore/protocol/acs"
)

// GroupState is a security group as a host must know it. It is shared and does not change.
type GroupState struct {
	*acs.SecurityGroup
	// Rules and Members tell this state from others of the group: one rises when its rules change, the other when it changes who
	// is in it. Members is 0 where the host need not know them.
	Rules, Members int64
}

// groupKey is what a host must know of a group.
type groupKey struct {
	name           string
	rules, members bool
}

// Groups are what a host must know that has interfaces in the groups of these names: their rules, and the members of all groups
// of which the rules speak. They are in order of name. A group that is not configured allows nothing.
func (n *Network) Groups(names []string) (states []GroupState) {
	if n == nil || len(names) == 0 {
		return nil
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	need := map[string]groupKey{}
	for _, name := range names {
		key := need[name]
		key.name, key.rules = name, true
		need[name] = key
		if g := n.config.Group(name); g != nil {
			for _, peer := range g.Peers() {
				key := need[peer]
				key.name, key.members = peer, true
				need[peer] = key
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(need)) {
		states = append(states, n.state(need[name]))
	}
	return states
}

// state is made anew only when the group has changed.
func (n *Network) state(key groupKey) GroupState {
	is := GroupState{Rules: n.ruled[key.name]}
	if key.members {
		is.Members = n.changed[key.name] + 1
	}
	if known, ok := n.states[key]; ok && known.Rules == is.Rules && known.Members == is.Members {
		return known
	}
	is.SecurityGroup = &acs.SecurityGroup{GroupID: key.name}
	if g := n.config.Group(key.name); g != nil && key.rules {
		is.Ingress, is.Egress = g.Ingress, g.Egress
	}
	if key.members {
		for _, a := range n.sortedMembers(key.name) {
			is.SecurityGroup.Members = append(is.SecurityGroup.Members, a.String())
		}
	}
	n.states[key] = is
	return is
}
