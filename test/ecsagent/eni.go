package ecsagent

import (
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"time"
)

// Interfaces make an agent one that is given network interfaces for its tasks. It takes them as the real agent does, but that
// it also makes those of the kind veth by itself, and knows what Longshore tells of security groups; without Interfaces it has
// not said so, and is told of neither.
type Interfaces struct {
	Slots int // how many it can have
	// There says whether the interface with a MAC is on the host by now; nil: always.
	There func(mac string) bool
}

const (
	interfaceLook   = 20 * time.Millisecond // between looks for an interface: the real agent hears of it from udev
	capabilityENI   = "ecs.capability.task-eni"
	capabilityRules = "longshore.capability.security-groups"
	attributeSlots  = "longshore.interface-slots"
)

func (i *Interfaces) attributes() []attribute {
	return []attribute{{Name: capabilityENI}, {Name: capabilityENI + ".ipv6"}, {Name: capabilityRules}, {attributeSlots, strconv.Itoa(i.Slots)}}
}

type attachMessage struct {
	ClusterArn               *string    `json:"clusterArn"`
	ContainerInstanceArn     *string    `json:"containerInstanceArn"`
	ElasticNetworkInterfaces []*wireENI `json:"elasticNetworkInterfaces"`
	GeneratedAt              *int64     `json:"generatedAt"`
	MessageID                *string    `json:"messageId"`
	TaskArn                  *string    `json:"taskArn"`
	TaskClusterArn           *string    `json:"taskClusterArn"`
	WaitTimeoutMs            *int64     `json:"waitTimeoutMs"`
}

type wireENI struct {
	AttachmentArn                *string `json:"attachmentArn"`
	Ec2ID                        *string `json:"ec2Id"`
	Index                        *int64  `json:"index"`
	InterfaceAssociationProtocol *string `json:"interfaceAssociationProtocol"`
	MacAddress                   *string `json:"macAddress"`
	IPv4Addresses                []*struct {
		PrivateAddress *string `json:"privateAddress"`
		Primary        *bool   `json:"primary"`
	} `json:"ipv4Addresses"`
	IPv6Addresses []*struct {
		Address *string `json:"address"`
		Primary *bool   `json:"primary"`
	} `json:"ipv6Addresses"`
	DomainName               []*string `json:"domainName"`
	DomainNameServers        []*string `json:"domainNameServers"`
	PrivateDNSName           *string   `json:"privateDnsName"`
	SubnetGatewayIpv4Address *string   `json:"subnetGatewayIpv4Address"`
	SubnetGatewayIpv6Address *string   `json:"subnetGatewayIpv6Address"`
	// SecurityGroups is Longshore's own.
	SecurityGroups []*string `json:"securityGroups"`
}

// judge says why the agent does not take an interface.
func (e *wireENI) judge(own bool) error {
	if e == nil {
		return crash{"an interface is null"}
	}
	if _, err := net.ParseMAC(deref(e.MacAddress)); err != nil || deref(e.Ec2ID) == "" || deref(e.AttachmentArn) == "" {
		return fmt.Errorf("macAddress %q, ec2Id %q, attachmentArn %q: one is missing", deref(e.MacAddress), deref(e.Ec2ID), deref(e.AttachmentArn))
	}
	if how := deref(e.InterfaceAssociationProtocol); how != "" && how != "default" && (how != "veth" || !own) {
		return fmt.Errorf("interfaceAssociationProtocol is %q", how)
	}
	family := func(addresses []string, gateway *string) error {
		in, err := netip.ParsePrefix(deref(gateway))
		if err != nil {
			return fmt.Errorf("the gateway %q is not in CIDR form", deref(gateway))
		}
		for _, a := range addresses {
			if addr, err := netip.ParseAddr(a); err != nil || !in.Contains(addr) || addr == in.Addr() {
				return fmt.Errorf("the address %q is not one beside the gateway %s", a, in)
			}
		}
		return nil
	}
	var v4, v6 []string
	for _, a := range e.IPv4Addresses {
		v4 = append(v4, deref(a.PrivateAddress))
	}
	for _, a := range e.IPv6Addresses {
		v6 = append(v6, deref(a.Address))
	}
	if len(v4) == 0 && len(v6) == 0 {
		return fmt.Errorf("it has no address")
	}
	if len(v4) > 0 {
		if err := family(v4, e.SubnetGatewayIpv4Address); err != nil {
			return err
		}
	}
	if len(v6) > 0 {
		return family(v6, e.SubnetGatewayIpv6Address)
	}
	return nil
}

// attachment is an interface that a task waits for, or has. It outlives the process.
type attachment struct {
	task, arn, mac string
	until          time.Time // when waiting for it ends
	there, sent    bool
}

// attach takes the announcement of a task's interfaces.
func (c *channel) attach(message json.RawMessage) error {
	var m attachMessage
	if err := decode(message, &m); err != nil {
		return err
	}
	e := Entry{Kind: Received, Type: "AttachTaskNetworkInterfacesMessage", MessageID: deref(m.MessageID), Task: deref(m.TaskArn), Body: message}
	c.a.write(e)
	switch {
	case deref(m.MessageID) == "", deref(m.ClusterArn) == "", deref(m.ContainerInstanceArn) == "", deref(m.TaskArn) == "":
		return fmt.Errorf("a member that is needed is missing: %s", message)
	case deref(m.WaitTimeoutMs) <= 0:
		return fmt.Errorf("waitTimeoutMs is %d", deref(m.WaitTimeoutMs))
	case len(m.ElasticNetworkInterfaces) == 0:
		return fmt.Errorf("it has no interfaces")
	}
	if unknown := unknownMember(message, new(attachMessage)); unknown != "" {
		return fmt.Errorf("it says what no agent reads: %s", unknown)
	}
	for _, i := range m.ElasticNetworkInterfaces {
		if err := i.judge(c.a.cfg.Interfaces != nil); err != nil {
			return err
		}
	}
	for _, i := range m.ElasticNetworkInterfaces {
		c.a.await(&attachment{task: *m.TaskArn, arn: *i.AttachmentArn, mac: *i.MacAddress, until: time.Now().Add(time.Duration(*m.WaitTimeoutMs) * time.Millisecond)})
	}
	c.acknowledge(*m.ClusterArn, *m.ContainerInstanceArn, *m.MessageID)
	return nil
}

// await waits for an interface, unless that is done already.
func (a *Agent) await(at *attachment) {
	a.m.mu.Lock()
	have := a.m.disk.attachments[at.arn]
	if have == nil {
		for _, other := range a.m.disk.attachments {
			if other.mac == at.mac && a.m.running(other.task) {
				a.m.fault("the MAC %s is %s's and %s's", at.mac, other.task, at.task)
			}
		}
		a.m.disk.attachments[at.arn] = at
	}
	a.m.mu.Unlock()
	if have == nil {
		a.wg.Go(func() { a.watchInterface(at) })
	}
}

// resumeAttachments takes up what a process before has left.
func (a *Agent) resumeAttachments() {
	a.m.mu.Lock()
	defer a.m.mu.Unlock()
	for _, at := range a.m.disk.attachments {
		if !at.sent {
			a.wg.Go(func() { a.watchInterface(at) })
		}
	}
}

// watchInterface reports an interface when it appears. It gives up when the time is over.
func (a *Agent) watchInterface(at *attachment) {
	if a.cfg.Interfaces == nil {
		return
	}
	for a.cfg.Interfaces.There != nil && !a.cfg.Interfaces.There(at.mac) {
		if !a.sleep(interfaceLook) || time.Now().After(at.until) {
			return
		}
	}
	a.m.mu.Lock()
	at.there = true
	a.m.mu.Unlock()
	if t := a.task(at.task); t != nil {
		t.poke()
	}
	if a.submit(&stateChange{Cluster: a.cluster(), Task: at.task, Attachments: []attachmentChange{{at.arn, attached}}}) {
		a.m.mu.Lock()
		at.sent = true
		a.m.mu.Unlock()
	}
}

const attached = "ATTACHED"

type attachmentChange struct {
	AttachmentArn string `json:"attachmentArn"`
	Status        string `json:"status"`
}

// interfacesThere tells whether a task has the interfaces that its payload names.
func (a *Agent) interfacesThere(t *managed) bool {
	if deref(t.wire.NetworkMode) != "awsvpc" {
		return true
	}
	a.m.mu.Lock()
	defer a.m.mu.Unlock()
	return !slices.ContainsFunc(t.wire.ElasticNetworkInterfaces, func(e *wireENI) bool {
		at := a.m.disk.attachments[deref(e.AttachmentArn)]
		return at == nil || !at.there
	})
}

// lostInterfaces are the faults of a task's interfaces.
func (t *wireTask) lostInterfaces(own bool) (faults []string) {
	awsvpc := deref(t.NetworkMode) == "awsvpc"
	if awsvpc != (len(t.ElasticNetworkInterfaces) > 0) {
		faults = append(faults, fmt.Sprintf("networkMode is %s, and it has %d interfaces", deref(t.NetworkMode), len(t.ElasticNetworkInterfaces)))
	}
	for _, e := range t.ElasticNetworkInterfaces {
		if err := e.judge(own); err != nil {
			faults = append(faults, err.Error())
		}
	}
	return faults
}

// groupsMessage is Longshore's own.
type groupsMessage struct {
	MessageID            *string      `json:"messageId"`
	ClusterArn           *string      `json:"clusterArn"`
	ContainerInstanceArn *string      `json:"containerInstanceArn"`
	Generation           *int64       `json:"generation"`
	Groups               []*WireGroup `json:"groups"`
}

// WireGroup is a security group as it comes to an agent.
type WireGroup struct {
	GroupID string     `json:"groupId"`
	Ingress []WireRule `json:"ingress"`
	Egress  []WireRule `json:"egress"`
	Members []string   `json:"members"`
}

// WireRule is a rule of one.
type WireRule struct {
	Protocol string   `json:"protocol"`
	FromPort int32    `json:"fromPort"`
	ToPort   int32    `json:"toPort"`
	Cidrs    []string `json:"cidrs"`
	Groups   []string `json:"groups"`
}

// securityGroups takes the rules for the tasks' interfaces, which replace those before.
func (c *channel) securityGroups(message json.RawMessage) error {
	var m groupsMessage
	if err := decode(message, &m); err != nil {
		return err
	}
	if unknown := unknownMember(message, new(groupsMessage)); unknown != "" {
		return fmt.Errorf("it says what no agent reads: %s", unknown)
	}
	c.a.write(Entry{Kind: Received, Type: "SecurityGroupsMessage", MessageID: deref(m.MessageID), Seq: deref(m.Generation), Body: message})
	c.a.m.mu.Lock()
	newer := deref(m.Generation) > c.a.m.disk.generation
	if newer {
		c.a.m.disk.generation, c.a.m.disk.groups = *m.Generation, m.Groups
	}
	c.a.m.mu.Unlock()
	if !newer {
		return fmt.Errorf("generation %d is not above the last one", deref(m.Generation))
	}
	c.acknowledge(deref(m.ClusterArn), deref(m.ContainerInstanceArn), deref(m.MessageID))
	return nil
}

// Group is a security group as the machine's agent knows it; nil: it does not.
func (m *Machine) Group(id string) *WireGroup {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, g := range m.disk.groups {
		if g.GroupID == id {
			return g
		}
	}
	return nil
}

// running tells whether a container of a task runs; the caller holds mu.
func (m *Machine) running(task string) bool {
	for _, c := range m.containers {
		if c.Task == task && c.Running {
			return true
		}
	}
	return false
}
