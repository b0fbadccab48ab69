package engine

import (
	"fmt"
	"slices"

	"github.com/longshore-project/longshore/protocol/acs"
)

const (
	modeAwsvpc = "awsvpc"
	// networkPause is the container that owns the network namespace of a task in the network mode awsvpc; its name is ECS's.
	networkPause = internalPrefix + "pause"
)

// awsvpc reports whether a task has a network namespace of its own. Its interfaces say so, too: control planes have not
// always sent the mode.
func awsvpc(p *acs.Task) bool {
	return p.NetworkMode == modeAwsvpc || len(p.ElasticNetworkInterfaces) > 0
}

// interfaces checks what a task in the mode awsvpc asks for.
func interfaces(p *acs.Task) error {
	if len(p.ElasticNetworkInterfaces) == 0 && len(p.Containers) > 0 {
		return fmt.Errorf("networkMode awsvpc needs a network interface, and elasticNetworkInterfaces is empty")
	}
	for i, e := range p.ElasticNetworkInterfaces {
		if e == nil {
			return fmt.Errorf("elasticNetworkInterfaces[%d] is null", i)
		}
		if err := e.Validate(); err != nil {
			return fmt.Errorf("elasticNetworkInterfaces[%d].%w", i, err)
		}
		switch e.InterfaceAssociationProtocol {
		case "", acs.AssociationDefault, acs.AssociationVeth:
		case acs.AssociationVlan:
			if v := e.InterfaceVlanProperties; v == nil || v.VlanID == "" || v.TrunkInterfaceMacAddress == "" {
				return fmt.Errorf("elasticNetworkInterfaces[%d].interfaceVlanProperties needs vlanId and trunkInterfaceMacAddress", i)
			}
		default:
			return fmt.Errorf("elasticNetworkInterfaces[%d].interfaceAssociationProtocol %q is not supported; use default, vlan or veth", i, e.InterfaceAssociationProtocol)
		}
	}
	return nil
}

// ofTheTask refuses what a container can't have of its own where its task has one network namespace.
func ofTheTask(c *Container) error {
	for _, own := range []struct {
		name string
		set  bool
	}{
		{"hostname", c.config.Hostname != ""}, {"disableNetworking", c.config.NetworkDisabled},
		{"dnsServers", len(c.hostConfig.DNS) > 0}, {"dnsSearchDomains", len(c.hostConfig.DNSSearch) > 0}, {"extraHosts", len(c.hostConfig.ExtraHosts) > 0},
	} {
		if own.set {
			return fmt.Errorf("%s is not supported in networkMode awsvpc, where the task's interface says it", own.name)
		}
	}
	return nil
}

// maxHostname is the kernel's (gethostname(2)).
const maxHostname = 64

// nameAfter gives the pause container, whose files all containers of the task see, the name, the hosts file and the DNS of the
// task's interfaces, as ECS does: the first interface's name is the host's, and is in the hosts file with each address.
func nameAfter(pause *Container, interfaces []*acs.ElasticNetworkInterface) {
	if name := interfaces[0].PrivateDNSName; len(name) <= maxHostname {
		pause.config.Hostname = name
	}
	for _, e := range interfaces {
		pause.hostConfig.DNS = append(pause.hostConfig.DNS, absentFrom(pause.hostConfig.DNS, e.DomainNameServers)...)
		pause.hostConfig.DNSSearch = append(pause.hostConfig.DNSSearch, absentFrom(pause.hostConfig.DNSSearch, e.DomainName)...)
		if e.PrivateDNSName == "" {
			continue
		}
		for _, a := range e.Addresses() {
			pause.hostConfig.ExtraHosts = append(pause.hostConfig.ExtraHosts, e.PrivateDNSName+":"+a)
		}
	}
}

func absentFrom(have, more []string) []string {
	return slices.DeleteFunc(slices.Clone(more), func(s string) bool { return slices.Contains(have, s) })
}
