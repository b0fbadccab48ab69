package tasknet

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"

	"github.com/longshore-project/longshore/netns"
	"github.com/longshore-project/longshore/protocol/acs"
)

// protocols are the numbers of those that rules name by a word.
var protocols = map[string]int{"tcp": 6, "udp": 17, "icmp": 1, "icmpv6": 58}

// groupsOf are the security groups with these ids as the kernel's side has them, and the members of the groups that their
// rules name. missing are the ids that the message does not describe.
func groupsOf(m *acs.SecurityGroupsMessage, ids []string) (groups []netns.SecurityGroup, members netns.Members, missing []string) {
	known := map[string]*acs.SecurityGroup{}
	if m != nil {
		for _, g := range m.Groups {
			known[g.GroupID] = g
		}
	}
	members = netns.Members{}
	for _, id := range ids {
		g := known[id]
		if g == nil {
			missing = append(missing, id)
			continue
		}
		groups = append(groups, netns.SecurityGroup{ID: id, Ingress: rulesOf(g.Ingress), Egress: rulesOf(g.Egress)})
		for _, r := range slices.Concat(g.Ingress, g.Egress) {
			for _, other := range r.Groups {
				members[other] = addresses(known[other])
			}
		}
	}
	return groups, members, missing
}

func rulesOf(rules []*acs.SecurityGroupRule) []netns.GroupRule {
	var out []netns.GroupRule
	for _, r := range rules {
		rule := netns.GroupRule{Protocol: -1, From: int(r.FromPort), To: int(r.ToPort), Groups: r.Groups}
		if n, named := protocols[r.Protocol]; named {
			rule.Protocol = n
		} else if n, err := strconv.Atoi(r.Protocol); err == nil {
			rule.Protocol = n
		}
		for _, c := range r.Cidrs {
			if p, err := netip.ParsePrefix(c); err == nil {
				rule.Networks = append(rule.Networks, p.Masked())
			}
		}
		out = append(out, rule)
	}
	return out
}

func addresses(g *acs.SecurityGroup) []netip.Addr {
	out := []netip.Addr{}
	if g == nil {
		return out
	}
	for _, text := range g.Members {
		if a, err := netip.ParseAddr(text); err == nil {
			out = append(out, a)
		}
	}
	return out
}

// interfaceOf is an interface of a task as the kernel's side has it. made is where those come from that the agent makes.
func interfaceOf(index int, e *acs.ElasticNetworkInterface, made netns.Origin) (i netns.Interface, err error) {
	i.Name = "eth" + strconv.Itoa(index)
	if i.MAC, err = net.ParseMAC(e.MacAddress); err != nil {
		return i, fmt.Errorf("the interface's macAddress: %w", err)
	}
	if err := ipv4(&i, e); err != nil {
		return i, err
	}
	if err := ipv6(&i, e); err != nil {
		return i, err
	}
	switch e.InterfaceAssociationProtocol {
	case acs.AssociationVeth:
		i.Origin = made
	case acs.AssociationVlan:
		branch := netns.Branch{}
		if branch.Trunk, err = net.ParseMAC(e.InterfaceVlanProperties.TrunkInterfaceMacAddress); err != nil {
			return i, fmt.Errorf("trunkInterfaceMacAddress: %w", err)
		}
		if branch.VLAN, err = strconv.Atoi(e.InterfaceVlanProperties.VlanID); err != nil {
			return i, fmt.Errorf("vlanId: %w", err)
		}
		i.Origin = branch
	default:
		i.Origin = netns.Card{}
	}
	return i, nil
}

// hostBits is the length of an IPv6 subnet whose gateway is not told: AWS's are all like that.
const hostBits = 64

func ipv4(i *netns.Interface, e *acs.ElasticNetworkInterface) error {
	if len(e.IPv4Addresses) == 0 {
		return nil
	}
	gateway, err := netip.ParsePrefix(e.SubnetGatewayIpv4Address)
	if err != nil {
		return fmt.Errorf("subnetGatewayIpv4Address: %w", err)
	}
	i.Gateways = append(i.Gateways, gateway.Addr())
	for _, a := range e.IPv4Addresses {
		if a == nil {
			continue
		}
		address, err := netip.ParseAddr(a.PrivateAddress)
		if err != nil {
			return fmt.Errorf("ipv4Addresses: %w", err)
		}
		i.Addresses = append(i.Addresses, netip.PrefixFrom(address, gateway.Bits()))
	}
	return nil
}

func ipv6(i *netns.Interface, e *acs.ElasticNetworkInterface) error {
	bits := hostBits
	if len(e.IPv6Addresses) > 0 && e.SubnetGatewayIpv6Address != "" {
		gateway, err := netip.ParsePrefix(e.SubnetGatewayIpv6Address)
		if err != nil {
			return fmt.Errorf("subnetGatewayIpv6Address: %w", err)
		}
		bits = gateway.Bits()
		i.Gateways = append(i.Gateways, gateway.Addr())
	}
	for _, a := range e.IPv6Addresses {
		if a == nil {
			continue
		}
		address, err := netip.ParseAddr(a.Address)
		if err != nil {
			return fmt.Errorf("ipv6Addresses: %w", err)
		}
		i.Addresses = append(i.Addresses, netip.PrefixFrom(address, bits))
	}
	return nil
}
