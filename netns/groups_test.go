package netns_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/longshore-project/longshore/netns"
)

func prefixes(all ...string) (out []netip.Prefix) {
	for _, s := range all {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

func addresses(all ...string) (out []netip.Addr) {
	for _, s := range all {
		out = append(out, netip.MustParseAddr(s))
	}
	return out
}

const (
	tcp, udp, icmp, icmpv6 = 6, 17, 1, 58
	every                  = -1
)

const goldenGroups = `table inet longshore {
	set discovery {
		type icmpv6_type
		elements = {
			130,
			131,
			132,
			133,
			134,
			135,
			136,
			143,
		}
	}
	set in4.ports {
		type ipv4_addr . inet_proto . inet_service
		flags interval
		elements = {
			0.0.0.0/0 . tcp . 80-81,
			0.0.0.0/0 . tcp . 443,
			10.1.0.0/16 . udp . 53,
		}
	}
	set in4.ports.2 {
		type ipv4_addr . inet_proto . inet_service
		flags interval
		elements = {
			10.0.0.0/8 . tcp . 0-100,
		}
	}
	set in4.icmp {
		type ipv4_addr . icmp_type . icmp_code
		flags interval
		elements = {
			10.0.0.0/8 . 8 . 0-255,
		}
	}
	set in6.ports {
		type ipv6_addr . inet_proto . inet_service
		flags interval
		elements = {
			::/0 . tcp . 80-81,
			::/0 . tcp . 443,
		}
	}
	set in.sg-app.ports {
		type inet_proto . inet_service
		flags interval
		elements = {
			tcp . 5432,
		}
	}
	set sg-app.4 {
		type ipv4_addr
		elements = {
			10.0.0.7,
			10.0.0.8,
		}
	}
	set sg-app.6 {
		type ipv6_addr
		elements = {
			fd00::7,
		}
	}
	set sg-web.4 {
		type ipv4_addr
	}
	set sg-web.6 {
		type ipv6_addr
	}
	set out4.protocols {
		type ipv4_addr . inet_proto
		flags interval
		elements = {
			0.0.0.0/0 . 0-255,
		}
	}
	chain in.sg-app {
		meta l4proto . th dport @in.sg-app.ports accept
	}
	chain in.sg-web {
		accept
	}
	chain input {
		type filter hook input priority 0; policy drop;
		ct state established,related accept
		iifname "lo" accept
		icmpv6 type @discovery accept
		ip saddr . meta l4proto . th dport @in4.ports accept
		ip saddr . meta l4proto . th dport @in4.ports.2 accept
		ip saddr . icmp type . icmp code @in4.icmp accept
		ip6 saddr . meta l4proto . th dport @in6.ports accept
		ip saddr @sg-app.4 jump in.sg-app
		ip6 saddr @sg-app.6 jump in.sg-app
		ip saddr @sg-web.4 jump in.sg-web
		ip6 saddr @sg-web.6 jump in.sg-web
	}
	chain output {
		type filter hook output priority 0; policy drop;
		ct state established,related accept
		oifname "lo" accept
		ip daddr 169.254.169.254 reject with icmpx type port-unreachable
		ip6 daddr fd00:ec2::254 reject with icmpx type port-unreachable
		icmpv6 type @discovery accept
		ip daddr . meta l4proto @out4.protocols accept
	}
}
`

func groups() (netns.Task, netns.Members) {
	return netns.Task{ID: "1", BlockIMDS: true, Groups: []netns.SecurityGroup{{
			ID: "sg-web",
			Ingress: []netns.GroupRule{
				{Protocol: tcp, From: 80, To: 80, Networks: prefixes("0.0.0.0/0", "::/0", "10.9.8.0/24")},
				{Protocol: tcp, From: 81, To: 81, Networks: prefixes("0.0.0.0/0", "::/0")},
				{Protocol: tcp, From: 443, To: 443, Networks: prefixes("0.0.0.0/0", "::/0")},
				{Protocol: tcp, From: 0, To: 100, Networks: prefixes("10.0.0.0/8")},
				{Protocol: icmp, From: 8, To: -1, Networks: prefixes("10.0.0.0/8", "fd00::/8")},
				{Protocol: every, Groups: []string{"sg-web"}},
			},
			Egress: []netns.GroupRule{{Protocol: every, Networks: prefixes("0.0.0.0/0")}},
		}, {
			ID: "sg-db",
			Ingress: []netns.GroupRule{
				{Protocol: tcp, From: 5432, To: 5432, Groups: []string{"sg-app"}},
				{Protocol: udp, From: 53, To: 53, Networks: prefixes("10.1.2.3/16")},
				{Protocol: tcp, From: 9, To: 8, Networks: prefixes("0.0.0.0/0")},
				{Protocol: 300, Networks: prefixes("0.0.0.0/0")},
			},
		}}},
		netns.Members{"sg-app": addresses("10.0.0.8", "fd00::7", "10.0.0.7", "10.0.0.7"), "sg-other": addresses("10.0.0.9")}
}

func TestTheRulesOfSecurityGroups(t *testing.T) {
	task, members := groups()
	rules := task.Rules(members)
	if got := rules.String(); got != goldenGroups {
		t.Errorf("got\n%s", got)
	}
	sameAsNft(t, rules)
}

func TestNoGroupsAreNoTableAndAnEmptyListLetsNothingThrough(t *testing.T) {
	if got := (netns.Task{}).Rules(nil).String(); got != "" {
		t.Errorf("no groups: %s", got)
	}
	blocked := netns.Task{BlockIMDS: true}.Rules(nil)
	if got := blocked.String(); strings.Count(got, "chain") != 1 || !strings.Contains(got, "policy accept") || strings.Count(got, "reject") != 2 {
		t.Errorf("only the metadata is denied: %s", got)
	}
	none := netns.Task{Groups: []netns.SecurityGroup{}}.Rules(nil)
	if got := none.String(); strings.Count(got, "policy drop") != 2 || strings.Count(got, "accept") != 6 {
		t.Errorf("no group allows anything: %s", got)
	}
	sameAsNft(t, blocked)
	sameAsNft(t, none)
	ns, tables := newNamespace(t), netns.Tables{}
	for _, r := range []netns.Ruleset{blocked, none, {}} {
		for range 2 {
			if _, err := tables.Ensure(int(ns), r); err != nil {
				t.Fatal(err)
			}
		}
	}
	if got := listing(t, ns); got != "" {
		t.Errorf("an empty ruleset leaves %s", got)
	}
}

func TestAGroupWithAnOddNameIsAGroupLikeAnother(t *testing.T) {
	odd := strings.Repeat("group with \"quotes\", spaces and a long name ", 8)
	r := netns.Task{Groups: []netns.SecurityGroup{{ID: odd, Ingress: []netns.GroupRule{{Protocol: every, Groups: []string{odd}}}}}}.Rules(netns.Members{odd: addresses("10.0.0.1")})
	if !strings.Contains(r.String(), "10.0.0.1") {
		t.Errorf("got %s", r)
	}
	sameAsNft(t, r)
}

// packet is what opens a flow.
type packet struct {
	peer        netip.Addr
	protocol    int
	first, last int // ports: the second; ICMP: type and code
}

// allowed says whether a group's rules allow it, one by one.
func (p packet) allowed(rules []netns.GroupRule, members netns.Members) bool {
	return slices.ContainsFunc(rules, func(r netns.GroupRule) bool {
		switch {
		case r.Protocol == every:
		case r.Protocol != p.protocol:
			return false
		case p.protocol == tcp || p.protocol == udp:
			if p.last < r.From || p.last > r.To {
				return false
			}
		case p.protocol == icmp || p.protocol == icmpv6:
			if r.From != -1 && (r.From != p.first || r.To != -1 && r.To != p.last) {
				return false
			}
		}
		in := func(n netip.Prefix) bool { return n.Masked().Contains(p.peer) }
		return slices.ContainsFunc(r.Networks, in) || slices.ContainsFunc(r.Groups, func(id string) bool { return slices.Contains(members[id], p.peer) })
	})
}

// passes says whether the sets of a ruleset let it in, as the rules that look them up would.
func (p packet) passes(r netns.Ruleset) bool {
	digit, protocol := "4", []byte{byte(p.protocol), 0, 0, 0}
	if p.peer.Is6() {
		digit = "6"
	}
	fields := map[string][]byte{"protocols": protocol}
	switch p.protocol {
	case tcp, udp:
		fields["ports"] = append(slices.Clone(protocol), append(binary.BigEndian.AppendUint16(nil, uint16(p.last)), 0, 0)...)
	case icmp, icmpv6:
		fields["icmp"+strings.Repeat("v6", (p.protocol-icmp)/57)] = []byte{byte(p.first), 0, 0, 0, byte(p.last), 0, 0, 0}
	}
	for _, s := range r.Sets {
		for kind, rest := range fields {
			key := append(p.peer.AsSlice(), rest...)
			if name, _ := strings.CutPrefix(s.Name, "in"+digit+"."+kind); name == "" || strings.HasPrefix(name, ".") {
				if slices.ContainsFunc(s.Elements, func(e netns.Element) bool { return inBox(e, key, len(p.peer.AsSlice())) }) {
					return true
				}
			}
		}
		group, ok := strings.CutSuffix(s.Name, "."+digit)
		if !ok || !slices.ContainsFunc(s.Elements, func(e netns.Element) bool { return bytes.Equal(e.Key, p.peer.AsSlice()) }) {
			continue
		}
		for _, c := range r.Chains {
			if c.Name != "in."+group {
				continue
			}
			for _, rule := range c.Rules {
				if rule.Text == "accept" || rule.Text == fmt.Sprintf("meta l4proto %d accept", p.protocol) {
					return true
				}
				for kind, key := range fields {
					if set := "@in." + group + "." + kind; strings.Contains(rule.Text, set+" ") {
						i := slices.IndexFunc(r.Sets, func(s netns.Set) bool { return "@"+s.Name == set })
						if slices.ContainsFunc(r.Sets[i].Elements, func(e netns.Element) bool { return inBox(e, key, 0) }) {
							return true
						}
					}
				}
			}
		}
	}
	return false
}

// inBox says whether each field of a key, after an address of some bytes, is within the element.
func inBox(e netns.Element, key []byte, address int) bool {
	bounds := []int{0}
	if address > 0 {
		bounds = append(bounds, address)
	}
	for i := address + 4; i <= len(key); i += 4 {
		bounds = append(bounds, i)
	}
	for i := 1; i < len(bounds); i++ {
		a, b := bounds[i-1], bounds[i]
		if bytes.Compare(key[a:b], e.Key[a:b]) < 0 || bytes.Compare(key[a:b], e.End[a:b]) > 0 {
			return false
		}
	}
	return true
}

var someAddresses = addresses("10.0.0.1", "10.0.0.2", "10.0.1.1", "10.1.0.1", "192.168.0.1", "0.0.0.0", "255.255.255.255", "fd00::1", "fd00::2", "fd00:1::1", "2001:db8::1")

func anyGroups(t *rapid.T) (netns.Task, netns.Members) {
	members, ids := netns.Members{}, []string{"sg-a", "sg-b"}
	for _, id := range ids {
		members[id] = rapid.SliceOfN(rapid.SampledFrom(someAddresses), 0, 4).Draw(t, "members")
	}
	bits := rapid.SampledFrom([]int{0, 8, 16, 24, 31, 32, 64, 128})
	networks := rapid.Custom(func(t *rapid.T) netip.Prefix {
		a := rapid.SampledFrom(someAddresses).Draw(t, "address")
		return netip.PrefixFrom(a, min(bits.Draw(t, "bits"), a.BitLen()))
	})
	rules := rapid.Custom(func(t *rapid.T) netns.GroupRule {
		r := netns.GroupRule{
			Protocol: rapid.SampledFrom([]int{every, tcp, tcp, udp, icmp, icmpv6, 47, 0, 255}).Draw(t, "protocol"),
			Networks: rapid.SliceOfN(networks, 0, 3).Draw(t, "networks"), Groups: rapid.SliceOfN(rapid.SampledFrom(ids), 0, 2).Draw(t, "groups"),
		}
		switch r.Protocol {
		case tcp, udp:
			r.From = rapid.SampledFrom([]int{0, 22, 80, 81, 1000, 65535}).Draw(t, "from")
			r.To = rapid.SampledFrom([]int{0, 22, 80, 82, 1000, 2000, 65535}).Draw(t, "to")
		case icmp, icmpv6:
			r.From, r.To = rapid.SampledFrom([]int{-1, 0, 8, 128}).Draw(t, "type"), rapid.SampledFrom([]int{-1, 0, 1}).Draw(t, "code")
		}
		return r
	})
	return netns.Task{Groups: []netns.SecurityGroup{
		{ID: "sg-a", Ingress: rapid.SliceOfN(rules, 0, 12).Draw(t, "rules"), Egress: rapid.SliceOfN(rules, 0, 3).Draw(t, "egress")},
		{ID: "sg-b", Ingress: rapid.SliceOfN(rules, 0, 4).Draw(t, "rules")},
	}}, members
}

func TestSetsLetThroughWhatTheRulesOneByOneAllow(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		task, members := anyGroups(t)
		ingress := slices.Concat(task.Groups[0].Ingress, task.Groups[1].Ingress)
		rules := task.Rules(members)
		for _, peer := range someAddresses {
			for _, p := range []packet{
				{peer, tcp, 0, 22}, {peer, tcp, 0, 80}, {peer, tcp, 0, 82}, {peer, tcp, 0, 1500}, {peer, tcp, 0, 65535}, {peer, udp, 0, 80}, {peer, udp, 0, 0},
				{peer, icmp, 8, 0}, {peer, icmp, 0, 1}, {peer, icmpv6, 128, 0}, {peer, icmpv6, 8, 3}, {peer, 47, 0, 0}, {peer, 0, 0, 0}, {peer, 255, 0, 0}, {peer, 50, 0, 0},
			} {
				if peer.Is4() && p.protocol == icmpv6 || peer.Is6() && p.protocol == icmp {
					continue // there are none
				}
				if want, got := p.allowed(ingress, members), p.passes(rules); got != want {
					t.Fatalf("%+v: allowed %v, passes %v\n%s", p, want, got, rules)
				}
			}
		}
	})
}

func TestTheKernelTakesWhateverGroupsSay(t *testing.T) {
	ns, tables := newNamespace(t), netns.Tables{}
	rapid.Check(t, func(t *rapid.T) {
		task, members := anyGroups(t)
		rules := task.Rules(members)
		if _, err := tables.Ensure(int(ns), rules); err != nil {
			t.Fatalf("%v\n%s", err, rules)
		}
		for _, k := range []*netns.Tables{&tables, new(netns.Tables)} {
			if changed, err := k.Ensure(int(ns), rules); err != nil || len(changed) != 0 {
				t.Fatalf("the second look changed %q, %v\n%s", changed, err, rules)
			}
		}
	})
}

func TestTheRulesOfATaskCarryItsID(t *testing.T) {
	ns, tables := newNamespace(t), netns.Tables{}
	task, members := groups()
	for _, id := range []string{"4f3a9c1b2d0e4f3a9c1b2d0e4f3a9c1b", strings.Repeat("long", 50)} {
		task.ID = id
		if changed, err := tables.Ensure(int(ns), task.Rules(members)); err != nil || len(changed) == 0 {
			t.Errorf("another task's rules: changed %q, %v", changed, err)
		}
		if changed, err := new(netns.Tables).Ensure(int(ns), task.Rules(members)); err != nil || len(changed) != 0 {
			t.Errorf("the second look changed %q, %v", changed, err)
		}
		in(t, ns, func() error {
			out, err := said("nft", "list", "table", "inet", "longshore")
			if with, all := strings.Count(out, " task "+id[:32]), strings.Count(out, "comment \"longshore "); with != all || all == 0 {
				t.Errorf("%d of %d rules say whose they are: %s", with, all, out)
			}
			return err
		})
	}
}

func TestAGroupMayHaveTenThousandMembers(t *testing.T) {
	ns, tables := newNamespace(t), netns.Tables{}
	members := netns.Members{}
	for i := range 10000 {
		members["sg"] = append(members["sg"], netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), netip.AddrFrom16([16]byte{0xfd, 14: byte(i >> 8), 15: byte(i)}))
	}
	task := netns.Task{ID: "t", Groups: []netns.SecurityGroup{{ID: "sg", Ingress: []netns.GroupRule{{Protocol: every, Groups: []string{"sg"}}}}}}
	for _, want := range [][]string{{"nftables table inet longshore"}, {"nftables set sg.4: 0 added, 1 removed"}} {
		if changed, err := tables.Ensure(int(ns), task.Rules(members)); err != nil || !slices.Equal(changed, want) {
			t.Errorf("changed %q, %v", changed, err)
		}
		if changed, err := new(netns.Tables).Ensure(int(ns), task.Rules(members)); err != nil || len(changed) != 0 {
			t.Errorf("the second look changed %q, %v", changed, err)
		}
		members["sg"] = append(members["sg"][1:], members["sg"][2]) // an IPv4 address less, and another one twice
	}
}

func TestAMemberWhoComesOrGoesIsOneElementOfASet(t *testing.T) {
	ns, tables := newNamespace(t), netns.Tables{}
	task, members := groups()
	if _, err := tables.Ensure(int(ns), task.Rules(members)); err != nil {
		t.Fatal(err)
	}
	handles := func() string {
		var out string
		in(t, ns, func() (err error) {
			out, err = said("nft", "-a", "list", "table", "inet", "longshore")
			return err
		})
		return elementLines.ReplaceAllString(out, "")
	}
	before := handles()
	members["sg-app"] = append(members["sg-app"][1:], addresses("10.0.0.99")...)
	for _, k := range []*netns.Tables{&tables, new(netns.Tables)} {
		changed, err := k.Ensure(int(ns), task.Rules(members))
		if want := []string{"nftables set sg-app.4: 1 added, 1 removed"}; err != nil || k == &tables && !slices.Equal(changed, want) || k != &tables && changed != nil {
			t.Errorf("changed %q, %v", changed, err)
		}
	}
	if after := handles(); after != before {
		t.Errorf("rules or sets were made anew: before\n%s\nafter\n%s", before, after)
	}
	if got := listing(t, ns); !strings.Contains(got, "10.0.0.99") || strings.Contains(got, "10.0.0.8") {
		t.Errorf("the set is not what was wanted: %s", got)
	}
}

func TestWhatContainersAskOfTheAgentLeadsToItsPort(t *testing.T) {
	ask := netns.Task{ID: "t", Endpoint: netip.MustParseAddr("169.254.170.2"), EndpointPort: 51679}
	r := ask.Rules(nil)
	if text := r.String(); !strings.Contains(text, "hook output") || !strings.Contains(text, "ip daddr 169.254.170.2 tcp dport 80 dnat ip to 169.254.170.2:51679") || r.Task != "t" {
		t.Errorf("%s", text)
	}
	both := netns.Task{ID: "t", Endpoint: ask.Endpoint, EndpointPort: ask.EndpointPort, BlockIMDS: true, Groups: []netns.SecurityGroup{}}
	if text := both.Rules(nil).String(); !strings.Contains(text, "dnat") || !strings.Contains(text, "policy drop") {
		t.Errorf("%s", text)
	}
	if r := (netns.Task{ID: "t", Endpoint: ask.Endpoint}).Rules(nil); len(r.Chains) != 0 || r.Task != "" {
		t.Errorf("a task that nobody answers has rules: %s", r)
	}
}
