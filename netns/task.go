package netns

import (
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
)

// Task is what the network namespace of one awsvpc task should be. It is the whole of what is wanted: what is there beyond it
// and is ours goes.
type Task struct {
	// ID is the task's id. It names what is the task's on the host and in the rules' comments, so that what is left of a
	// task can be found without anybody who remembers it.
	ID string
	// Namespace is the file of the namespace: /proc/<pid>/ns/net, or where one is mounted.
	Namespace  string
	Interfaces []Interface
	// Endpoint is the address at which the task's containers ask the agent. It is on the loopback interface of the
	// namespace, where the agent itself listens (see [Listen]): who asks there is of this task, whatever its address says.
	Endpoint netip.Addr
	// EndpointPort is where the agent listens at that address. Port 80 of it, which containers ask, leads there, so that port 80 of
	// all addresses stays theirs; 0: it does not.
	EndpointPort uint16
	// BlockIMDS keeps the task from the host's instance metadata (169.254.169.254 and fd00:ec2::254).
	BlockIMDS bool
	// Groups are the security groups that hold at the interfaces; nil: none do, because the network outside enforces them.
	Groups []SecurityGroup
	// Members are the members of the groups that the rules name.
	Members Members
}

// Interface is a network interface of a task.
type Interface struct {
	Name      string // in the namespace: eth0
	MAC       net.HardwareAddr
	Addresses []netip.Prefix // with the subnets' lengths
	Gateways  []netip.Addr   // at most one of a family; default routes go there
	MTU       int            // 0: that of what it hangs on
	Origin    Origin
}

// Origin is where an interface comes from: one of [Bridged], [Macvlan], [Card], [Branch] and [Local].
type Origin interface {
	String() string
	// ensure sees to it that the interface is in the task's namespace, and gives it back. What is wrong outside and
	// does not keep it from being made is a fault beside it.
	ensure(s *sides, l link) (netlink.Link, error)
}

// Bridged is a veth pair whose other end is a port of a bridge.
type Bridged struct {
	Bridge string // is made if it is not there; one that is there is used as it is
	// Uplink is the host's interface that is a port of the bridge too, and leads to the other hosts; empty: the bridge is
	// the operator's own affair, or the subnet is this host's alone.
	Uplink string
}

// Macvlan is an interface in bridge mode on one of the host's. The kernel lets it and the host itself not talk to each other.
type Macvlan struct{ Parent string }

// Card is a network card that somebody attaches to the host; it is found by its MAC, moved in, and moved back at the end.
type Card struct{}

// Branch is a VLAN on the trunk card with this MAC.
type Branch struct {
	Trunk net.HardwareAddr
	VLAN  int
}

// SecurityGroup is a named set of rules that allow, and the addresses that are in it. What no group of an interface allows is
// dropped; answers to what was allowed pass.
type SecurityGroup struct {
	ID              string
	Ingress, Egress []GroupRule
}

// GroupRule allows a protocol and ports from (ingress) or to (egress) networks and groups' members.
type GroupRule struct {
	Protocol int // of IP; -1: every one
	From, To int // tcp and udp: ports; icmp and icmpv6: type and code, -1: all
	Networks []netip.Prefix
	Groups   []string // ids; their members are in a set of their own, see [Members]
}

// Members are the addresses of all interfaces in a group, by its id. They change while tasks run, and only the sets of
// addresses do then.
type Members map[string][]netip.Addr
