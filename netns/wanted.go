package netns

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/netip"
	"strings"
)

// DefaultBridge is the bridge that is ours: it is set up again when it is down, and removed with the last task.
const DefaultBridge = "longshore-task"

// wanted is the kernel state that a [Task] asks for, apart from its rules (see [Task.Rules]).
type wanted struct {
	task     string
	loopback []netip.Prefix
	links    []link
	routes   []route
}

// link is an interface in the task's namespace.
type link struct {
	Interface
	outer   string // the name of its other end on the host, if it has one
	alias   string // says on the host, and on cards, whose it is
	sysctls []sysctl
	probed  bool // whether others on the network are asked for its addresses before they are used
}

// sysctl is a file below /proc/sys/net and what is in it.
type sysctl struct{ file, value string }

// route is a route in the main table of the task's namespace. It goes to via on the interface dev.
type route struct {
	to     netip.Prefix
	via    netip.Addr
	dev    string
	onlink bool // via is in none of the interface's subnets
}

// wanted is what the task's namespace and the host should hold.
func (t Task) wanted() wanted {
	n := wanted{task: t.ID}
	if t.Endpoint.IsValid() {
		n.loopback = []netip.Prefix{netip.PrefixFrom(t.Endpoint, t.Endpoint.BitLen())}
	}
	for i, nic := range t.Interfaces {
		l := link{Interface: nic, alias: aliasOf(t.ID, nic.Name), sysctls: nic.sysctls()}
		switch nic.Origin.(type) {
		case Bridged:
			l.outer, l.probed = outerName(t.ID, i), true
		case Macvlan:
			l.probed = true
		case Local:
			l.outer, l.alias = localName(t.ID), localAlias+t.ID
		}
		n.links = append(n.links, l)
		if i == 0 {
			n.routes = append(n.routes, nic.defaultRoutes()...)
		}
	}
	return n
}

func (i Interface) speaks6() bool {
	for _, a := range i.Addresses {
		if a.Addr().Is6() {
			return true
		}
	}
	return false
}

// sysctls keep the interface to the addresses that it was given: nothing is taken from router advertisements. Whether an address is
// somebody else's is asked before it is added, so the kernel need not ask again and hold it back for a second.
func (i Interface) sysctls() []sysctl {
	if !i.speaks6() {
		return []sysctl{{"ipv6/conf/" + i.Name + "/accept_ra", "0"}}
	}
	return []sysctl{
		{"ipv6/conf/lo/disable_ipv6", "0"}, // engines switch IPv6 off in namespaces to which they give no network
		{"ipv6/conf/" + i.Name + "/disable_ipv6", "0"},
		{"ipv6/conf/" + i.Name + "/accept_ra", "0"},
		{"ipv6/conf/" + i.Name + "/accept_dad", "0"},
	}
}

func (i Interface) defaultRoutes() []route {
	var all []route
	for _, gw := range i.Gateways {
		r := route{to: netip.PrefixFrom(netip.IPv4Unspecified(), 0), via: gw, dev: i.Name, onlink: !gw.IsLinkLocalUnicast()}
		if gw.Is6() {
			r.to = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
		}
		for _, a := range i.Addresses {
			r.onlink = r.onlink && !a.Masked().Contains(gw)
		}
		all = append(all, r)
	}
	return all
}

// The names of what is ours on the host. An interface's is made from its task's id, so that who knows the tasks knows which
// interfaces are nobody's; the whole id is in its alias.
const (
	outerPrefix = "ls"
	aliasPrefix = "longshore task "
)

// outersOf is what the names of a task's interfaces on the host begin with.
func outersOf(task string) string {
	sum := sha256.Sum256([]byte(task))
	return outerPrefix + hex.EncodeToString(sum[:])[:11]
}

func outerName(task string, i int) string { return fmt.Sprintf("%s%02d", outersOf(task), i) }

// isOuter says whether an interface of that name is one that [outerName] named.
func isOuter(name string) bool {
	digits, ok := strings.CutPrefix(name, outerPrefix)
	return ok && len(digits) == 13 && strings.Trim(digits, "0123456789abcdef") == ""
}

func aliasOf(task, nic string) string { return aliasPrefix + task + " " + nic }

// taskOf is the task that an alias names.
func taskOf(alias string) (task string, ok bool) {
	rest, ok := strings.CutPrefix(alias, aliasPrefix)
	task, _, _ = strings.Cut(rest, " ")
	return task, ok
}

// String is what is wanted in ip's words.
func (n wanted) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "task %s\n", n.task)
	for _, p := range n.loopback {
		fmt.Fprintf(&b, "address %s dev lo\n", p)
	}
	for _, l := range n.links {
		fmt.Fprintf(&b, "link %s address %s%s %s\n", l.Name, l.MAC, l.mtu(), l.Origin)
		if l.outer != "" {
			fmt.Fprintf(&b, "\thost: link %s peer %s alias %q\n", l.outer, l.Name, l.alias)
		}
		for _, s := range l.sysctls {
			fmt.Fprintf(&b, "\tsysctl %s = %s\n", strings.ReplaceAll("net/"+s.file, "/", "."), s.value)
		}
		for _, a := range l.Addresses {
			fmt.Fprintf(&b, "\taddress %s%s\n", a, map[bool]string{true: " probed"}[l.probed])
		}
	}
	for _, r := range n.routes {
		fmt.Fprintln(&b, r)
	}
	return b.String()
}

func (l link) mtu() string {
	if l.MTU == 0 {
		return ""
	}
	return fmt.Sprintf(" mtu %d", l.MTU)
}

func (r route) String() string {
	s := fmt.Sprintf("route %s via %s dev %s", r.to, r.via, r.dev)
	if r.onlink {
		s += " onlink"
	}
	return s
}
