package network

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"regexp"
	"slices"
	"strings"

	"github.com/longshore-project/longshore/controlplane/scheduler/query"
	"github.com/longshore-project/longshore/protocol/acs"
)

// DefaultGroup is the security group of interfaces for which none is named. One that is not configured lets its own members in
// and everything out, as that of an Amazon VPC.
const DefaultGroup = "default"

// Config is what the file says. It never changes.
type Config struct {
	Subnets map[string]*Subnet
	Groups  map[string]*Group
	blocks  []*Block // of all subnets, in order of their first address
}

// Subnet is a range of addresses for interfaces: of IPv4, of IPv6 or of both, from which an interface gets one each.
type Subnet struct {
	Name       string
	IPv4, IPv6 *Block // one of them may be nil
	// Zone is the availability zone of the hosts that are in the subnet; empty: it says nothing about that.
	Zone string
	// MemberOf is an expression of the cluster query language that holds for the hosts that are in the subnet; empty: all do.
	MemberOf string
	memberOf *query.Expr
	// DomainName are the domains in which the containers look for names, DomainNameServers whom they ask.
	DomainName, DomainNameServers []string
}

// Blocks are the subnet's, that of IPv4 first.
func (s *Subnet) Blocks() (blocks []*Block) {
	for _, b := range []*Block{s.IPv4, s.IPv6} {
		if b != nil {
			blocks = append(blocks, b)
		}
	}
	return blocks
}

// Group is a security group: what may come in and go out. An answer may always.
type Group struct {
	Name            string
	Ingress, Egress []*acs.SecurityGroupRule
}

// Peers are the groups of which the rules speak.
func (g *Group) Peers() (names []string) {
	for _, r := range slices.Concat(g.Ingress, g.Egress) {
		names = append(names, r.Groups...)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// Group returns a security group, nil when there is none of that name. [DefaultGroup] always is.
func (c *Config) Group(name string) *Group {
	if g := c.Groups[name]; g != nil || name != DefaultGroup {
		return g
	}
	return &Group{Name: DefaultGroup, Ingress: []*acs.SecurityGroupRule{{Protocol: acs.AllProtocols, Groups: []string{DefaultGroup}}}, Egress: everything()}
}

func everything() []*acs.SecurityGroupRule {
	return []*acs.SecurityGroupRule{{Protocol: acs.AllProtocols, Cidrs: []string{"0.0.0.0/0", "::/0"}}}
}

// block is the one whose tasks may have the address; nil: none.
func (c *Config) block(a netip.Addr) *Block {
	i, found := slices.BinarySearchFunc(c.blocks, a, func(b *Block, a netip.Addr) int { return b.prefix.Addr().Compare(a) })
	if !found {
		i--
	}
	if i >= 0 && c.blocks[i].Holds(a) {
		return c.blocks[i]
	}
	return nil
}

// document is the file.
type document struct {
	Subnets        map[string]*subnetDocument `json:"subnets"`
	SecurityGroups map[string]*groupDocument  `json:"securityGroups"`
}

type subnetDocument struct {
	CidrBlock         string   `json:"cidrBlock"`
	Gateway           string   `json:"gateway"`
	IPv6CidrBlock     string   `json:"ipv6CidrBlock"`
	IPv6Gateway       string   `json:"ipv6Gateway"`
	Reserved          []string `json:"reserved"`
	AvailabilityZone  string   `json:"availabilityZone"`
	MemberOf          string   `json:"memberOf"`
	DomainName        []string `json:"domainName"`
	DomainNameServers []string `json:"domainNameServers"`
	Description       string   `json:"description"`
}

type groupDocument struct {
	Description string          `json:"description"`
	Ingress     []*ruleDocument `json:"ingress"`
	Egress      []*ruleDocument `json:"egress"` // absent: everything; []: nothing
}

type ruleDocument struct {
	Description string   `json:"description"`
	Protocol    string   `json:"protocol"`
	FromPort    *int32   `json:"fromPort"`
	ToPort      *int32   `json:"toPort"`
	Cidrs       []string `json:"cidrs"`
	Groups      []string `json:"groups"`
}

// Parse reads what a file says. The error names the member that is wrong.
func Parse(data []byte) (*Config, error) {
	var doc document
	if err := decode(data, &doc); err != nil {
		return nil, err
	}
	c := &Config{Subnets: map[string]*Subnet{}, Groups: map[string]*Group{}}
	for _, name := range slices.Sorted(maps.Keys(doc.Subnets)) {
		s, err := parseSubnet(name, doc.Subnets[name])
		if err != nil {
			return nil, fmt.Errorf("subnet %q: %w", clip(name), err)
		}
		c.Subnets[name] = s
		c.blocks = append(c.blocks, s.Blocks()...)
	}
	slices.SortFunc(c.blocks, func(a, b *Block) int { return a.prefix.Addr().Compare(b.prefix.Addr()) })
	for i := 1; i < len(c.blocks); i++ {
		if a, b := c.blocks[i-1], c.blocks[i]; a.prefix.Overlaps(b.prefix) {
			return nil, fmt.Errorf("subnets %s (%s) and %s (%s) overlap: an address is one task's", a.subnet, a.prefix, b.subnet, b.prefix)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(doc.SecurityGroups)) {
		g, err := parseGroup(name, doc)
		if err != nil {
			return nil, fmt.Errorf("security group %q: %w", clip(name), err)
		}
		c.Groups[name] = g
	}
	return c, nil
}

func decode(data []byte, doc *document) error {
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(doc); err != nil {
		var syntax *json.SyntaxError
		var wrong *json.UnmarshalTypeError
		switch {
		case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
			return errors.New("it ends before its JSON object does")
		case errors.As(err, &syntax):
			return fmt.Errorf("it is no JSON from byte %d on: %w", syntax.Offset, err)
		case errors.As(err, &wrong):
			return fmt.Errorf("the member %s is a JSON %s, not a %s", wrong.Field, wrong.Value, wrong.Type)
		}
		return errors.New(strings.TrimPrefix(err.Error(), "json: "))
	}
	if d.More() {
		return errors.New("there is more behind the JSON object")
	}
	return nil
}

// namePattern is that of names which can be in an API call and in a key: EC2's ids are such.
var namePattern = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9._-]{0,127}$`)

func checkName(name string) error {
	if !namePattern.MatchString(name) {
		return errors.New("a name is 1 to 128 letters, digits, dots, hyphens and underscores")
	}
	return nil
}

func parseSubnet(name string, doc *subnetDocument) (*Subnet, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	if doc == nil || doc.CidrBlock == "" && doc.IPv6CidrBlock == "" {
		return nil, errors.New("it needs a cidrBlock such as 10.20.0.0/24, an ipv6CidrBlock, or both")
	}
	s := &Subnet{Name: name, Zone: doc.AvailabilityZone, MemberOf: doc.MemberOf, DomainName: doc.DomainName, DomainNameServers: doc.DomainNameServers}
	reserved, err := parseSpans(doc.Reserved)
	if err != nil {
		return nil, err
	}
	for _, family := range []struct {
		member, gatewayMember, cidr, gateway string
		into                                 **Block
		is4                                  bool
	}{
		{"cidrBlock", "gateway", doc.CidrBlock, doc.Gateway, &s.IPv4, true},
		{"ipv6CidrBlock", "ipv6Gateway", doc.IPv6CidrBlock, doc.IPv6Gateway, &s.IPv6, false},
	} {
		if family.cidr == "" {
			if family.gateway != "" {
				return nil, fmt.Errorf("%s is given without %s", family.gatewayMember, family.member)
			}
			continue
		}
		prefix, err := netip.ParsePrefix(family.cidr)
		if err != nil || prefix != prefix.Masked() || prefix.Addr().Is4() != family.is4 {
			return nil, fmt.Errorf("%s is %q, not a network of its family such as 10.20.0.0/24 or fd00:20::/64", family.member, clip(family.cidr))
		}
		var gateway netip.Addr
		if family.gateway != "" {
			if gateway, err = netip.ParseAddr(family.gateway); err != nil {
				return nil, fmt.Errorf("%s is %q, not an address", family.gatewayMember, clip(family.gateway))
			}
		}
		if *family.into, err = newBlock(name, prefix, gateway, reserved); err != nil {
			return nil, fmt.Errorf("%s: %w", family.member, err)
		}
	}
	for _, r := range reserved {
		if !slices.ContainsFunc(s.Blocks(), func(b *Block) bool { return b.prefix.Contains(r.first) && b.prefix.Contains(r.last) }) {
			return nil, fmt.Errorf("reserved: %s to %s are not in the subnet", r.first, r.last)
		}
	}
	for _, a := range doc.DomainNameServers {
		if _, err := netip.ParseAddr(a); err != nil {
			return nil, fmt.Errorf("domainNameServers: %q is not an address", clip(a))
		}
	}
	if s.MemberOf != "" {
		if s.memberOf, err = query.Parse(s.MemberOf); err != nil {
			return nil, fmt.Errorf("memberOf: %w", err)
		}
	}
	return s, nil
}

func parseGroup(name string, doc document) (*Group, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	d := doc.SecurityGroups[name]
	if d == nil {
		return nil, errors.New("it is null")
	}
	g := &Group{Name: name}
	var err error
	if g.Ingress, err = parseRules("ingress", d.Ingress, doc); err != nil {
		return nil, err
	}
	if g.Egress, err = parseRules("egress", d.Egress, doc); err != nil {
		return nil, err
	}
	if d.Egress == nil {
		g.Egress = everything()
	}
	return g, nil
}

func parseRules(direction string, docs []*ruleDocument, doc document) (rules []*acs.SecurityGroupRule, err error) {
	for i, d := range docs {
		r, err := parseRule(d)
		if err != nil {
			return nil, fmt.Errorf("%s[%d]: %w", direction, i, err)
		}
		for _, g := range r.Groups {
			if doc.SecurityGroups[g] == nil && g != DefaultGroup {
				return nil, fmt.Errorf("%s[%d]: there is no security group %q", direction, i, clip(g))
			}
		}
		rules = append(rules, r)
	}
	return rules, nil
}

func parseRule(d *ruleDocument) (*acs.SecurityGroupRule, error) {
	if d == nil {
		return nil, errors.New("it is null")
	}
	r := &acs.SecurityGroupRule{Protocol: strings.ToLower(d.Protocol), Cidrs: d.Cidrs, Groups: d.Groups}
	switch r.Protocol {
	case "":
		return nil, errors.New("protocol is missing: tcp, udp, icmp, icmpv6, a number, or -1 for all")
	case "tcp", "udp":
		if d.FromPort == nil {
			return nil, fmt.Errorf("protocol %s needs a fromPort; 0 to 65535 is all", r.Protocol)
		}
		if r.FromPort, r.ToPort = *d.FromPort, *d.FromPort; d.ToPort != nil {
			r.ToPort = *d.ToPort
		}
	default:
		r.FromPort, r.ToPort = orAll(d.FromPort), orAll(d.ToPort)
	}
	if len(r.Cidrs)+len(r.Groups) == 0 {
		return nil, errors.New("it allows nothing without cidrs or groups")
	}
	return r, r.Validate()
}

func orAll(port *int32) int32 {
	if port == nil {
		return -1
	}
	return *port
}

func clip(s string) string {
	if r := []rune(s); len(r) > 100 {
		return string(r[:100]) + "…"
	}
	return s
}
