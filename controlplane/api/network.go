package api

import (
	"fmt"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"

	"github.com/longshore-project/longshore/controlplane/store"
)

// The bounds of an awsvpcConfiguration.
const (
	maxSubnets        = 16
	maxSecurityGroups = 5
)

var (
	errNetworkNeeded  = invalid("Network Configuration must be provided when networkMode 'awsvpc' is specified.")
	errNetworkUnasked = invalid("Network Configuration is not valid for the given networkMode of this task definition.")
	errPublicIP       = invalid("Assign public IP is not supported for this launch type.")
	errNoSubnets      = invalid("subnets can not be empty.")
)

// checkNetworkConfiguration holds a networkConfiguration against a definition's network mode, and against the subnets and
// security groups that are configured.
func (s *Server) checkNetworkConfiguration(def *store.TaskDefinition, c *types.NetworkConfiguration) error {
	given := normalNetworkConfiguration(c) != nil
	switch awsvpc := def.Object.NetworkMode == types.NetworkModeAwsvpc; {
	case awsvpc && !given:
		return errNetworkNeeded
	case !awsvpc && given:
		return errNetworkUnasked
	case !given:
		return nil
	}
	vpc := c.AwsvpcConfiguration
	if err := oneOf("assignPublicIp", vpc.AssignPublicIp, vpc.AssignPublicIp.Values()); err != nil {
		return err
	}
	switch {
	case vpc.AssignPublicIp == types.AssignPublicIpEnabled:
		return errPublicIP
	case len(vpc.Subnets) == 0:
		return errNoSubnets
	case len(vpc.Subnets) > maxSubnets:
		return invalid("subnets can have at most %d items.", maxSubnets)
	case len(vpc.SecurityGroups) > maxSecurityGroups:
		return invalid("securityGroups can have at most %d items.", maxSecurityGroups)
	}
	config := s.cfg.Scheduling.Network.Config()
	for _, name := range vpc.Subnets {
		if config.Subnets[name] == nil {
			return invalid("Error retrieving subnet information for [%.200s]: The subnet ID '%.200s' does not exist%s", name, name, s.whereNetworks())
		}
	}
	for _, name := range vpc.SecurityGroups {
		if config.Group(name) == nil {
			return invalid("Error retrieving security group information for [%.200s]: The security group '%.200s' does not exist%s", name, name, s.whereNetworks())
		}
	}
	return nil
}

// whereNetworks says where subnets and security groups come from.
func (s *Server) whereNetworks() string {
	if file := s.cfg.Scheduling.Network.File(); file != "" {
		return fmt.Sprintf(" in %s.", file)
	}
	return ": this control plane runs without --network and a file that has it."
}

// normalNetworkConfiguration is a configuration as clients see it: what is not given has its default. One that says nothing is
// none.
func normalNetworkConfiguration(c *types.NetworkConfiguration) *types.NetworkConfiguration {
	if c == nil || c.AwsvpcConfiguration == nil {
		return nil
	}
	vpc := *c.AwsvpcConfiguration
	if len(vpc.Subnets)+len(vpc.SecurityGroups) == 0 && (vpc.AssignPublicIp == "" || vpc.AssignPublicIp == types.AssignPublicIpDisabled) {
		return nil
	}
	vpc.SecurityGroups = orEmpty(vpc.SecurityGroups)
	if vpc.AssignPublicIp == "" {
		vpc.AssignPublicIp = types.AssignPublicIpDisabled
	}
	return &types.NetworkConfiguration{AwsvpcConfiguration: &vpc}
}

// networkOf is the network configuration of a service after an update: what the update gives, else what the service has, as far as
// the definition has use for it.
func networkOf(r *store.Service, given *types.NetworkConfiguration, def *store.TaskDefinition) *types.NetworkConfiguration {
	if c := normalNetworkConfiguration(given); c != nil {
		return c
	}
	if def.Object.NetworkMode != types.NetworkModeAwsvpc {
		return nil
	}
	return r.Object.NetworkConfiguration
}

// sameNetwork tells whether two configurations are one.
func sameNetwork(a, b *types.NetworkConfiguration) bool {
	text := func(c *types.NetworkConfiguration) string {
		if c == nil || c.AwsvpcConfiguration == nil {
			return ""
		}
		vpc := c.AwsvpcConfiguration
		return fmt.Sprintf("%q %q %s", vpc.Subnets, vpc.SecurityGroups, aws.ToString((*string)(&vpc.AssignPublicIp)))
	}
	return text(a) == text(b)
}
