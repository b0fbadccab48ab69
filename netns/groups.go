package netns

import (
	"fmt"
	"hash/fnv"
	"net/netip"
	"regexp"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
)

// Rules are what our table in the task's namespace should be: its security groups, with their members' addresses as sets, and
// the denial of the instance metadata. Neither is an empty ruleset. It is made real, and made right again when members, rules or
// somebody else have changed it, by [Tables.Ensure], which is the one call for all of these:
//
//	changed, err := tables.Ensure(namespace, task.Rules(members))
//
// # Security groups
//
// They are what EC2's are: a packet passes if a rule of any of the groups allows it, or if it belongs to, or comes of (an ICMP error), a flow that
// passed. A flow is judged once, by the rules of its first packet: what is withdrawn later lets it go on until its ends close
// it, as with EC2's tracked connections; and so the cost of a packet is that of one rule, however many there are. What never asks
// anybody passes too: the loopback interface, ARP (which is not IP), and IPv6's neighbour, router and group discovery.
//
// The rules are few and always the same; what the groups say is in sets. Who may come from networks is in boxes of address, protocol
// and port, which the kernel searches at once; who may come as a member of a group is in a set of that group's addresses, and what he may is in another.
// So rules cost no more with their number, and a member who comes or goes is one element of one set.
//
//	ip saddr . meta l4proto . th dport @in4.ports accept     from networks
//	ip saddr @sg-b.4 jump in.sg-b                            from members of sg-b …
//	meta l4proto . th dport @in.sg-b.ports accept            … in the chain in.sg-b
func (t Task) Rules(members Members) Ruleset {
	all := Assemble(t.access(members), t.asking())
	if len(all.Chains) > 0 {
		all.Task = t.ID
	}
	return all
}

// asking leads what containers ask of the agent to the port at which it listens.
func (t Task) asking() Ruleset {
	if !t.Endpoint.IsValid() || t.EndpointPort == 0 {
		return Ruleset{}
	}
	const http = 80
	return Ruleset{Chains: []Chain{chainOf(leaveChain, rule(address(destination, t.Endpoint), tcpTo(http), translateTo(netip.AddrPortFrom(t.Endpoint, t.EndpointPort))))}}
}

// access are the security groups, and the denial of the instance metadata.
func (t Task) access(members Members) Ruleset {
	if t.Groups == nil && !t.BlockIMDS {
		return Ruleset{}
	}
	var metadata []Rule
	if t.BlockIMDS {
		for _, a := range MetadataAddresses {
			metadata = append(metadata, rule(address(destination, a), reject))
		}
	}
	if t.Groups == nil {
		return Ruleset{Chains: []Chain{{Name: "output", Type: nftables.ChainTypeFilter, Hook: nftables.ChainHookOutput, Rules: metadata}}}
	}
	flows := rule(state("established,related", expr.CtStateBitESTABLISHED|expr.CtStateBitRELATED), accept)
	discovery := Set{Name: "discovery", Key: []nftables.SetDatatype{nftables.TypeICMP6Type}, Elements: sorted(discoveryTypes())}
	g := groupRules{members: members, sets: []Set{discovery}}
	g.chain("input", way{"in", nftables.ChainHookInput, source}, []Rule{flows, rule(from("lo"), accept)}, t.Groups)
	g.chain("output", way{"out", nftables.ChainHookOutput, destination}, slices.Concat([]Rule{flows, rule(to("lo"), accept)}, metadata), t.Groups)
	return Ruleset{Sets: g.sets, Chains: append(g.chains, g.base...)}
}

// MetadataAddresses are where an instance's metadata service answers.
var MetadataAddresses = []netip.Addr{netip.MustParseAddr("169.254.169.254"), netip.MustParseAddr("fd00:ec2::254")}

// discoveryTypes are of ICMPv6, without which there is no IPv6: multicast listeners (RFC 2710, 3810), routers and neighbours (RFC 4861).
func discoveryTypes() (all []Element) {
	for _, t := range []byte{130, 131, 132, 133, 134, 135, 136, 143} {
		all = append(all, Element{Key: []byte{t}})
	}
	return all
}

// way is the direction of packets that rules are about.
type way struct {
	name string
	hook *nftables.ChainHook
	peer peer
}

func (w way) rules(g SecurityGroup) []GroupRule {
	if w.name == "in" {
		return g.Ingress
	}
	return g.Egress
}

// groupRules gathers the sets and chains of security groups.
type groupRules struct {
	members      Members
	sets         []Set
	chains, base []Chain // those that are jumped to come first: the kernel wants to know them
}

// chain adds the base chain of a direction.
func (g *groupRules) chain(name string, w way, first []Rule, groups []SecurityGroup) {
	rules := append(first, rule(icmp6In("discovery"), accept))
	networks, named := map[family]allowances[netip.Prefix]{}, allowances[string]{}
	for _, group := range groups {
		for _, r := range w.rules(group) {
			b, ok := r.box()
			if !ok {
				continue
			}
			for _, n := range r.Networks {
				if f := familyOf(n.Addr()); n.IsValid() && b.kind.in(f) {
					if networks[f] == nil {
						networks[f] = allowances[netip.Prefix]{}
					}
					networks[f].add(n.Masked(), b)
				}
			}
			for _, id := range r.Groups {
				named.add(id, b)
			}
		}
	}
	for _, f := range families {
		rules = append(rules, g.networks(w, f, networks[f])...)
	}
	for _, id := range named.peers() {
		rules = append(rules, g.named(w, id, named[id])...)
	}
	g.base = append(g.base, Chain{Name: name, Type: nftables.ChainTypeFilter, Hook: w.hook, Drop: true, Rules: rules})
}

// networks are the rules for peers in networks of a family.
func (g *groupRules) networks(w way, f family, allowed allowances[netip.Prefix]) (rules []Rule) {
	for _, k := range kinds {
		for i, elements := range layers(allowed, k) {
			set := Set{Name: w.name + f.digit + "." + k.name, Key: append([]nftables.SetDatatype{f.datatype}, k.fields...), Interval: true, Elements: elements}
			if i > 0 {
				set.Name += fmt.Sprintf(".%d", i+1)
			}
			g.sets = append(g.sets, set)
			rules = append(rules, rule(k.lookup(&f, w.peer, set.Name), accept))
		}
	}
	return rules
}

// named are the rules for peers that are in a group.
func (g *groupRules) named(w way, id string, allowed []box) (rules []Rule) {
	name := setName(id)
	chain := Chain{Name: w.name + "." + name}
	for _, k := range kinds {
		chain.Rules = append(chain.Rules, g.allowed(chain.Name, k, boxesOf(allowed, k))...)
	}
	g.chains = append(g.chains, chain)
	for _, f := range families {
		set := Set{Name: name + "." + f.digit, Key: []nftables.SetDatatype{f.datatype}, Elements: addressesOf(f, g.members[id])}
		if !slices.ContainsFunc(g.sets, func(s Set) bool { return s.Name == set.Name }) {
			g.sets = append(g.sets, set)
		}
		rules = append(rules, rule(addressIn(f, w.peer, set.Name), jump(chain.Name)))
	}
	return rules
}

// allowed are the rules, of one kind, for who is in a group.
func (g *groupRules) allowed(chain string, k *kind, boxes []box) (rules []Rule) {
	if len(boxes) == 0 {
		return nil
	}
	if len(k.fields) == 1 { // whole protocols: the kernel's boxes have two sides
		for _, b := range boxes {
			if b.low == 0 && b.high == everyProtocol {
				return []Rule{rule(accept)}
			}
			for p := b.low; p <= b.high; p++ {
				rules = append(rules, rule(protocol(int(p)), accept))
			}
		}
		return rules
	}
	set := Set{Name: chain + "." + k.name, Key: k.fields, Interval: true}
	for _, b := range boxes {
		from, to := b.fields()
		set.Elements = append(set.Elements, Element{Key: joined(from...), End: joined(to...)})
	}
	set.Elements = sorted(set.Elements)
	g.sets = append(g.sets, set)
	return []Rule{rule(k.lookup(nil, peer{}, set.Name), accept)}
}

func addressesOf(f family, all []netip.Addr) (elements []Element) {
	for _, a := range all {
		if a = a.Unmap().WithZone(""); a.IsValid() && familyOf(a) == f {
			elements = append(elements, Element{Key: a.AsSlice()})
		}
	}
	return sorted(elements)
}

var plainName = regexp.MustCompile(`^[a-zA-Z][a-zA-Z0-9_-]{0,63}$`)

// setName is a group's id as a part of the names of sets and chains.
func setName(id string) string {
	if plainName.MatchString(id) {
		return id
	}
	h := fnv.New64a()
	h.Write([]byte(id))
	return fmt.Sprintf("group-%x", h.Sum64())
}
