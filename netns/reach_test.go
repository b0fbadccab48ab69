package netns_test

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/longshore-project/longshore/netns"
)

func host(a netip.Addr) []netip.Prefix { return []netip.Prefix{netip.PrefixFrom(a, a.BitLen())} }

// guarded puts groups' rules into a node's namespace.
func guarded(t *testing.T, n *node, members netns.Members, groups ...netns.SecurityGroup) {
	t.Helper()
	if _, err := new(netns.Tables).Ensure(int(n.ns), netns.Task{Groups: groups}.Rules(members)); err != nil {
		t.Fatal(err)
	}
}

var anywhere = prefixes("0.0.0.0/0", "::/0")

func TestWhoReachesATaskIsWhomItsGroupsLetIn(t *testing.T) {
	nodes := newNodes(t, "task", "friend", "stranger")
	task, friend, stranger := nodes[0], nodes[1], nodes[2]
	for _, n := range nodes {
		n.serve(t, 53, 80, 81, 8000, 8010, 9000)
	}
	group := netns.SecurityGroup{ID: "sg-task",
		Ingress: []netns.GroupRule{
			{Protocol: tcp, From: 80, To: 80, Networks: anywhere},
			{Protocol: tcp, From: 8000, To: 8009, Networks: slices.Concat(host(friend.v4), host(friend.v6))},
			{Protocol: udp, From: 53, To: 53, Groups: []string{"sg-friends"}},
			{Protocol: icmp, From: 8, To: -1, Groups: []string{"sg-friends"}},
			{Protocol: icmpv6, From: 128, To: 0, Groups: []string{"sg-friends"}},
		},
		Egress: []netns.GroupRule{
			{Protocol: tcp, From: 80, To: 80, Networks: anywhere},
			{Protocol: udp, From: 0, To: 65535, Groups: []string{"sg-friends"}},
			{Protocol: icmp, From: -1, To: -1, Networks: anywhere},
		},
	}
	guarded(t, task, netns.Members{"sg-friends": {friend.v4, friend.v6}}, group)
	var questions []question
	for _, f := range []string{"4", "6"} {
		for _, who := range []*node{friend, stranger} {
			known := who == friend
			questions = append(questions,
				question{who, task, "tcp" + f, 80, true}, question{who, task, "tcp" + f, 81, false}, question{who, task, "udp" + f, 80, false},
				question{who, task, "tcp" + f, 8000, known}, question{who, task, "tcp" + f, 8010, false}, question{who, task, "udp" + f, 8000, false},
				question{who, task, "udp" + f, 53, known}, question{who, task, "tcp" + f, 53, false}, question{who, task, "icmp" + f, 0, known},
				// and out
				question{task, who, "tcp" + f, 80, true}, question{task, who, "tcp" + f, 81, false},
				question{task, who, "udp" + f, 9000, known}, question{task, who, "icmp" + f, 0, f == "4"},
				// what is not the task's is nobody's business
				question{who, friend, "tcp" + f, 9000, true})
		}
		questions = append(questions, question{task, task, "tcp" + f, 9000, true}, question{task, task, "udp" + f, 9000, true})
	}
	answer(t, questions)
}

func TestTheDefaultGroupsMembersReachEachOtherAndEverybodyIsReached(t *testing.T) {
	nodes := newNodes(t, "one", "other", "stranger")
	members := netns.Members{"default": {nodes[0].v4, nodes[0].v6, nodes[1].v4, nodes[1].v6}}
	for i, n := range nodes {
		n.serve(t, 80)
		if i < 2 {
			guarded(t, n, members, netns.SecurityGroup{ID: "default", Ingress: []netns.GroupRule{{Protocol: every, Groups: []string{"default"}}}, Egress: []netns.GroupRule{{Protocol: every, Networks: anywhere}}})
		}
	}
	var questions []question
	for _, network := range []string{"tcp4", "tcp6", "udp4", "udp6", "icmp4", "icmp6"} {
		for _, a := range nodes {
			for _, b := range nodes {
				questions = append(questions, question{a, b, network, 80, a != nodes[2] || b == nodes[2]})
			}
		}
	}
	answer(t, questions)
}

func TestAGroupOpensAndClosesWhileItRuns(t *testing.T) {
	nodes := newNodes(t, "task", "client")
	task, client := nodes[0], nodes[1]
	task.serve(t, 80)
	var tables netns.Tables
	ensure := func(ingress []netns.GroupRule, members ...netip.Addr) {
		t.Helper()
		wanted := netns.Task{Groups: []netns.SecurityGroup{{ID: "sg", Ingress: ingress}}}.Rules(netns.Members{"sg-clients": members})
		if changed, err := tables.Ensure(int(task.ns), wanted); err != nil || len(changed) == 0 {
			t.Fatalf("changed %v, %v", changed, err)
		}
	}
	asked := func(want bool) {
		t.Helper()
		answer(t, []question{{client, task, "tcp4", 80, want}, {client, task, "tcp6", 80, want}, {client, task, "udp4", 80, want}})
	}
	open, byName := []netns.GroupRule{{Protocol: every, Networks: anywhere}}, []netns.GroupRule{{Protocol: every, Groups: []string{"sg-clients"}}}
	ensure(nil)
	asked(false)
	ensure(open)
	asked(true)
	ensure(nil)
	asked(false)
	ensure(byName)
	asked(false)
	ensure(byName, client.v4, client.v6)
	asked(true)
	ensure(byName, client.v6)
	answer(t, []question{{client, task, "tcp4", 80, false}, {client, task, "tcp6", 80, true}})
}

// talk sends a line over a connection and waits for it to come back.
func talk(c net.Conn, wait time.Duration) error {
	_ = c.SetDeadline(time.Now().Add(wait))
	if _, err := c.Write([]byte("still there?\n")); err != nil {
		return err
	}
	_, err := line(c)
	return err
}

func TestAnEstablishedFlowOutlivesTheRuleThatLetItIn(t *testing.T) {
	nodes := newNodes(t, "task", "client")
	task, client := nodes[0], nodes[1]
	task.serve(t, 80)
	open := netns.SecurityGroup{ID: "sg", Ingress: []netns.GroupRule{{Protocol: tcp, From: 80, To: 80, Networks: anywhere}}}
	guarded(t, task, nil, open)
	var flows []net.Conn
	for _, a := range []netip.Addr{task.v4, task.v6} {
		if err := within(client.ns, func() error {
			c, err := net.DialTimeout("tcp", netip.AddrPortFrom(a, 80).String(), patience)
			if err == nil {
				flows = append(flows, c)
				_, err = line(c)
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
	}
	guarded(t, task, nil, netns.SecurityGroup{ID: "sg"})
	for _, c := range flows {
		if err := talk(c, patience); err != nil {
			t.Errorf("the flow from %s broke: %v", c.LocalAddr(), err)
		}
		_ = c.Close()
	}
	answer(t, []question{{client, task, "tcp4", 80, false}, {client, task, "tcp6", 80, false}})
}

func TestErrorsAboutWhatATaskSentComeBackToIt(t *testing.T) {
	nodes := newNodes(t, "task", "server")
	task, server := nodes[0], nodes[1]
	guarded(t, task, nil, netns.SecurityGroup{ID: "sg", Egress: []netns.GroupRule{{Protocol: every, Networks: anywhere}}})
	for _, a := range []netip.Addr{server.v4, server.v6} {
		err := within(task.ns, func() error {
			c, err := net.Dial("udp", netip.AddrPortFrom(a, 999).String())
			if err != nil {
				return err
			}
			defer c.Close()
			return talk(c, patience)
		})
		if !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("nobody listens at %s, and the task is told %v", a, err)
		}
	}
}

func TestTheInstanceMetadataIsRefusedToATaskAtOnce(t *testing.T) {
	nodes := newNodes(t, "task", "metadata")
	task, service := nodes[0], nodes[1]
	in(t, service.ns, script("ip addr add 169.254.169.254/32 dev lo", "ip addr add fd00:ec2::254/128 dev lo nodad"))
	in(t, task.ns, script("ip route add default via "+service.v4.String(), "ip route add default via "+service.v6.String()))
	service.serve(t, 80)
	all := []netns.SecurityGroup{{ID: "sg", Egress: []netns.GroupRule{{Protocol: every, Networks: anywhere}}}}
	for _, groups := range [][]netns.SecurityGroup{nil, all} {
		for _, block := range []bool{true, false} {
			if _, err := new(netns.Tables).Ensure(int(task.ns), netns.Task{Groups: groups, BlockIMDS: block}.Rules(nil)); err != nil {
				t.Fatal(err)
			}
			for _, a := range netns.MetadataAddresses {
				err := within(task.ns, func() error {
					c, err := net.DialTimeout("tcp", netip.AddrPortFrom(a, 80).String(), patience)
					if err == nil {
						_ = c.Close()
					}
					return err
				})
				if refused := errors.Is(err, syscall.ECONNREFUSED); refused != block || err != nil && !refused {
					t.Errorf("groups %v, blocked %v: %s says %v", groups != nil, block, a, err)
				}
			}
		}
	}
}

func TestRulesThatAreFlushedAreMadeAgain(t *testing.T) {
	nodes := newNodes(t, "task", "client")
	task, client := nodes[0], nodes[1]
	task.serve(t, 80, 81)
	rules := netns.Task{Groups: []netns.SecurityGroup{{ID: "sg", Ingress: []netns.GroupRule{
		{Protocol: tcp, From: 80, To: 80, Networks: anywhere}, {Protocol: tcp, From: 80, To: 80, Groups: []string{"sg"}}}}}}.Rules(netns.Members{"sg": {client.v4}})
	var tables netns.Tables
	for _, damage := range []string{
		"", "nft flush ruleset", "nft delete table inet longshore", "nft flush chain inet longshore input", "nft add chain inet longshore input { policy accept ; }",
		"nft flush set inet longshore in4.ports", "nft add element inet longshore in4.ports { 0.0.0.0/0 . tcp . 81 }", "nft add element inet longshore sg.4 { 10.5.0.9 }",
		"nft insert rule inet longshore input accept", "nft add chain inet longshore more", "nft add set inet longshore more { type ipv4_addr; }", "nft delete chain inet longshore output",
	} {
		if damage != "" {
			if err := within(task.ns, func() error { _, err := said("sh", "-c", quoteBraces(damage)); return err }); err != nil {
				t.Fatal(err)
			}
		}
		if changed, err := tables.Ensure(int(task.ns), rules); err != nil || len(changed) == 0 {
			t.Errorf("after %q the look changed %q, %v", damage, changed, err)
		}
		if changed, err := new(netns.Tables).Ensure(int(task.ns), rules); err != nil || len(changed) != 0 {
			t.Errorf("after %q the second look changed %q, %v", damage, changed, err)
		}
	}
	answer(t, []question{{client, task, "tcp4", 80, true}, {client, task, "tcp6", 80, true}, {client, task, "tcp4", 81, false}})
}

// quoteBraces makes one argument of what is nft's own.
func quoteBraces(command string) string { return fmt.Sprintf("nft '%s'", command[len("nft "):]) }
