package netns_test

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/longshore-project/longshore/netns"
)

// manyRules is a group with n rules, each for a network and a port of its own, and as many members.
func manyRules(n int) (netns.Task, netns.Members) {
	g := netns.SecurityGroup{ID: "sg-a", Egress: []netns.GroupRule{{Protocol: every, Networks: prefixes("0.0.0.0/0", "::/0")}}}
	members := netns.Members{}
	for i := range n {
		a := netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)})
		g.Ingress = append(g.Ingress, netns.GroupRule{Protocol: tcp, From: 1000 + i, To: 1000 + i, Networks: []netip.Prefix{netip.PrefixFrom(a, 32)}})
		members["sg-a"] = append(members["sg-a"], a)
	}
	g.Ingress = append(g.Ingress, netns.GroupRule{Protocol: every, Groups: []string{"sg-a"}})
	return netns.Task{Groups: []netns.SecurityGroup{g}}, members
}

// BenchmarkRules is what a task's rules cost: a look with and without memory, one member, and one rule, more or less.
func BenchmarkRules(b *testing.B) {
	for _, n := range []int{1, 100, 1000} {
		task, members := manyRules(n)
		rules := task.Rules(members)
		ns := newNamespace(b)
		var tables netns.Tables
		ensure := func(b *testing.B, k *netns.Tables, r netns.Ruleset) {
			if _, err := k.Ensure(int(ns), r); err != nil {
				b.Fatal(err)
			}
		}
		ensure(b, &tables, rules)
		b.Run(fmt.Sprintf("compile/%d", n), func(b *testing.B) {
			for b.Loop() {
				task.Rules(members)
			}
		})
		b.Run(fmt.Sprintf("look/%d", n), func(b *testing.B) {
			for b.Loop() {
				ensure(b, &tables, rules)
			}
		})
		b.Run(fmt.Sprintf("look-unremembered/%d", n), func(b *testing.B) {
			for b.Loop() {
				ensure(b, new(netns.Tables), rules)
			}
		})
		other := netns.Members{"sg-a": members["sg-a"][1:]}
		b.Run(fmt.Sprintf("member/%d", n), func(b *testing.B) {
			for i := 0; b.Loop(); i++ {
				ensure(b, &tables, task.Rules([]netns.Members{other, members}[i%2]))
			}
		})
		less := netns.Task{Groups: []netns.SecurityGroup{{ID: "sg-a", Egress: task.Groups[0].Egress, Ingress: task.Groups[0].Ingress[1:]}}}
		b.Run(fmt.Sprintf("rule/%d", n), func(b *testing.B) {
			for i := 0; b.Loop(); i++ {
				ensure(b, &tables, []netns.Task{less, task}[i%2].Rules(members))
			}
		})
		b.Run(fmt.Sprintf("set-up/%d", n), func(b *testing.B) {
			for b.Loop() {
				ns = newNamespace(b)
				ensure(b, new(netns.Tables), rules)
			}
		})
	}
}
