package acs

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"

	"github.com/longshore-project/longshore/protocol/envelope"
)

// Addresses are the interface's, IPv4 first.
func (e *ElasticNetworkInterface) Addresses() []string {
	var all []string
	for _, a := range e.IPv4Addresses {
		if a != nil {
			all = append(all, a.PrivateAddress)
		}
	}
	for _, a := range e.IPv6Addresses {
		if a != nil {
			all = append(all, a.Address)
		}
	}
	return all
}

// AllProtocols is the Protocol of a rule for every one.
const AllProtocols = "-1"

// Validate checks what an agent needs before it may act on the message. It is all or nothing: half of a host's rules would
// open what the other half closes.
func (m *SecurityGroupsMessage) Validate() error {
	if err := need("messageId", m.MessageID, "clusterArn", m.ClusterArn, "containerInstanceArn", m.ContainerInstanceArn); err != nil {
		return err
	}
	if m.Generation <= 0 {
		return fmt.Errorf("generation is %d; it must be above 0", m.Generation)
	}
	known := map[string]bool{}
	for i, g := range m.Groups {
		if g.GroupID == "" {
			return fmt.Errorf("groups[%d].groupId is empty", i)
		}
		if known[g.GroupID] {
			return fmt.Errorf("groups[%d].groupId %q appears twice", i, envelope.Clip(g.GroupID))
		}
		known[g.GroupID] = true
	}
	for _, g := range m.Groups {
		if err := g.validate(known); err != nil {
			return fmt.Errorf("group %s: %w", envelope.Clip(g.GroupID), err)
		}
	}
	return nil
}

func (g *SecurityGroup) validate(known map[string]bool) error {
	for i, a := range g.Members {
		if _, err := netip.ParseAddr(a); err != nil {
			return fmt.Errorf("members[%d] is %q, not an address", i, envelope.Clip(a))
		}
	}
	if err := validateRules("ingress", g.Ingress, known); err != nil {
		return err
	}
	return validateRules("egress", g.Egress, known)
}

func validateRules(direction string, rules []*SecurityGroupRule, known map[string]bool) error {
	for i, r := range rules {
		if err := r.Validate(); err != nil {
			return fmt.Errorf("%s[%d]: %w", direction, i, err)
		}
		if j := slices.IndexFunc(r.Groups, func(id string) bool { return !known[id] }); j >= 0 {
			return fmt.Errorf("%s[%d].groups has %q, which the message does not describe", direction, i, envelope.Clip(r.Groups[j]))
		}
	}
	return nil
}

// Validate checks a rule by itself: protocol, ports, and that what is allowed are networks.
func (r *SecurityGroupRule) Validate() error {
	first, last := int32(0), int32(65535)
	switch r.Protocol {
	case "tcp", "udp":
	case "icmp", "icmpv6":
		first, last = -1, 255
	default:
		if n, err := strconv.Atoi(r.Protocol); r.Protocol != AllProtocols && (err != nil || n < 0 || n > 255) {
			return fmt.Errorf("protocol is %q; it must be tcp, udp, icmp, icmpv6, a number up to 255, or -1", envelope.Clip(r.Protocol))
		}
		first, last = -1, 65535 // and of no meaning
	}
	if r.FromPort < first || r.FromPort > last || r.ToPort < first || r.ToPort > last {
		return fmt.Errorf("ports %d to %d of protocol %s are not within %d to %d", r.FromPort, r.ToPort, r.Protocol, first, last)
	}
	if (r.Protocol == "tcp" || r.Protocol == "udp") && r.FromPort > r.ToPort {
		return fmt.Errorf("port %d is after %d", r.FromPort, r.ToPort)
	}
	for i, c := range r.Cidrs {
		if _, err := netip.ParsePrefix(c); err != nil {
			return fmt.Errorf("cidrs[%d] is %q, not a network such as 10.0.0.0/8", i, envelope.Clip(c))
		}
	}
	return nil
}
