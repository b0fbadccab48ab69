package network

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/service/ecs/types"
	"github.com/google/uuid"

	"github.com/longshore-project/longshore/controlplane/scheduler/query"
	"github.com/longshore-project/longshore/controlplane/store"
)

// Claim is what the tasks of one request want of the network: an interface each, in one of some subnets. It is for one goroutine
// and one decision: what it has picked it counts as taken. Nothing is given of a nil Claim.
type Claim struct {
	net     *Network
	subnets []*Subnet
	missing []string // what is not configured
	groups  []string
	picked  map[*Subnet]uint64
	given   map[string][]store.Interface // picked on an instance, and not yet given to a task
}

// Claim is the claim of tasks with a network configuration; nil when there is none.
func (n *Network) Claim(c *types.NetworkConfiguration) *Claim {
	if c == nil || c.AwsvpcConfiguration == nil {
		return nil
	}
	config := n.Config()
	claim := &Claim{net: n, groups: c.AwsvpcConfiguration.SecurityGroups, picked: map[*Subnet]uint64{}, given: map[string][]store.Interface{}}
	if len(claim.groups) == 0 {
		claim.groups = []string{DefaultGroup}
	}
	for _, name := range c.AwsvpcConfiguration.Subnets {
		if s := config.Subnets[name]; s != nil {
			claim.subnets = append(claim.subnets, s)
		} else {
			claim.missing = append(claim.missing, "subnet "+name+" is not configured")
		}
	}
	for _, name := range claim.groups {
		if config.Group(name) == nil {
			claim.subnets, claim.missing = nil, append(claim.missing, "security group "+name+" is not configured")
		}
	}
	return claim
}

// zoneAttribute is the attribute of an instance that names its availability zone.
const zoneAttribute = "ecs.availability-zone"

// Takes tells whether a host is in the subnet, and if not, why.
func (s *Subnet) Takes(host *query.Subject) (ok bool, why string) {
	if zone := host.Attributes[zoneAttribute]; s.Zone != "" && s.Zone != zone {
		return false, fmt.Sprintf("subnet %s is in availability zone %s, and the instance in %q", s.Name, s.Zone, zone)
	}
	if s.memberOf != nil && !s.memberOf.Match(host) {
		return false, fmt.Sprintf("subnet %s is for instances with %s", s.Name, s.MemberOf)
	}
	return true, ""
}

// Elsewhere says why a host is in none of the subnets; empty when it is in one.
func (c *Claim) Elsewhere(host *query.Subject) string {
	reasons := slices.Clone(c.missing)
	for _, s := range c.subnets {
		ok, why := s.Takes(host)
		if ok {
			return ""
		}
		reasons = append(reasons, why)
	}
	return strings.Join(reasons, ", ")
}

// Exhausted says which subnets of a host have no address left; empty when one has. Addresses of the interfaces in leaving count
// as free: their tasks will be gone.
func (c *Claim) Exhausted(host *query.Subject, leaving []store.Interface) string {
	var reasons []string
	for _, s := range c.subnets {
		if ok, _ := s.Takes(host); !ok {
			continue
		}
		if c.left(s) > 0 || c.comesFree(s, leaving) {
			return ""
		}
		for _, b := range s.Blocks() {
			if free := c.net.free(b); free <= c.picked[s] {
				reasons = append(reasons, fmt.Sprintf("subnet %s (%s) is exhausted: %d of its %d addresses are taken", s.Name, b.prefix, b.usable-free+c.picked[s], b.usable))
			}
		}
	}
	return strings.Join(reasons, ", ")
}

// left is how many interfaces a subnet has room for.
func (c *Claim) left(s *Subnet) uint64 {
	left := uint64(mostAddresses)
	for _, b := range s.Blocks() {
		left = min(left, c.net.free(b))
	}
	return left - min(c.picked[s], left)
}

// comesFree tells whether one of the interfaces leaves what one of the subnet needs.
func (c *Claim) comesFree(s *Subnet, leaving []store.Interface) bool {
	for _, i := range leaving {
		if i.Subnet == s.Name {
			return true
		}
	}
	return false
}

// Pick keeps an interface for a task on an instance, in the subnet that has most left, until it is given to it; false when there
// is none left.
func (c *Claim) Pick(instance string, host *query.Subject) bool {
	var best *Subnet
	for _, s := range c.subnets {
		if ok, _ := s.Takes(host); ok && c.left(s) > 0 && (best == nil || c.left(s) > c.left(best)) {
			best = s
		}
	}
	if best == nil {
		return false
	}
	var addresses []netip.Addr
	for _, b := range best.Blocks() {
		a, ok := c.net.take(b)
		if !ok {
			return false
		}
		addresses = append(addresses, a)
	}
	c.picked[best]++
	c.given[instance] = append(c.given[instance], c.newInterface(best, addresses))
	return true
}

// Give is what a task on an instance gets of what was picked there; nil for a task that has no interface.
func (c *Claim) Give(instance string) []store.Interface {
	if c == nil || len(c.given[instance]) == 0 {
		return nil
	}
	i := c.given[instance][0]
	c.given[instance] = c.given[instance][1:]
	return []store.Interface{i}
}

func (c *Claim) newInterface(s *Subnet, addresses []netip.Addr) store.Interface {
	attachment := uuid.New()
	i := store.Interface{
		Attachment: attachment.String(), ID: "eni-" + hex.EncodeToString(attachment[:])[:17], Subnet: s.Name, MAC: mac(addresses[0]).String(),
		SecurityGroups: c.groups, DomainName: s.DomainName, DomainNameServers: s.DomainNameServers, PrivateDNSName: hostName(addresses[0], s.DomainName),
	}
	for _, a := range addresses {
		if a.Is4() {
			i.IPv4, i.IPv4Gateway = a.String(), s.IPv4.Gateway()
		} else {
			i.IPv6, i.IPv6Gateway = a.String(), s.IPv6.Gateway()
		}
	}
	return i
}

// mac is the hardware address of the interface with an address: locally administered, and another one for each address of IPv4.
// One of IPv6 has more bits than it: 46 of a digest make two alike improbable.
func mac(a netip.Addr) net.HardwareAddr {
	if a.Is4() {
		raw := a.As4()
		return append(net.HardwareAddr{0x0a, 0x58}, raw[:]...)
	}
	raw := a.As16()
	sum := sha256.Sum256(raw[:])
	out := net.HardwareAddr(sum[:6])
	out[0] = out[0]&^0x03 | 0x02
	return out
}

// hostName is a name like that of an EC2 instance.
func hostName(a netip.Addr, domains []string) string {
	name := "ip-" + strings.NewReplacer(".", "-", ":", "-").Replace(a.StringExpanded())
	if len(domains) > 0 {
		name += "." + domains[0]
	}
	return name
}
