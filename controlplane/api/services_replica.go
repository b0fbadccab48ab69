package api

import (
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"

	"github.com/longshore-project/longshore/controlplane/scheduler"
	"github.com/longshore-project/longshore/controlplane/store"
)

var (
	errNoDesired = invalid("desiredCount is required when the scheduling strategy is REPLICA or isn't specified.")
	errProviders = unsupported("Capacity provider strategies are not supported by this control plane; leave capacityProviderStrategy out and use the launch type EC2 or EXTERNAL.")
	errZones     = invalid("Availability Zone rebalancing needs a maximumPercent above 100, and no placement strategy or one whose first is spread over attribute:ecs.availability-zone.")
)

// maxGrace is the longest health check grace period, in seconds.
const maxGrace = 2147483647

func isDaemon(r *store.Service) bool {
	return r.Object.SchedulingStrategy == types.SchedulingStrategyDaemon
}

// strategyOf is the scheduling strategy that a call asks for.
func strategyOf(in *ecs.CreateServiceInput) types.SchedulingStrategy {
	if in.SchedulingStrategy == "" {
		return types.SchedulingStrategyReplica
	}
	return in.SchedulingStrategy
}

func checkDesired(n *int32) error {
	if n != nil && *n < 0 {
		return invalid("desiredCount should be at least 0, but was %d.", *n)
	}
	return nil
}

func checkGrace(seconds *int32) error {
	if seconds != nil && *seconds < 0 {
		return invalid("healthCheckGracePeriodSeconds should be between 0 and %d, but was %d.", maxGrace, *seconds)
	}
	return nil
}

// checkReplica judges what both CreateService and UpdateService can give for a REPLICA service.
func checkReplica(strategy []types.PlacementStrategy, d *types.DeploymentConfiguration, _ types.AvailabilityZoneRebalancing) error {
	if err := checkStrategies(strategy); err != nil {
		return err
	}
	if d == nil {
		return nil
	}
	if d.MaximumPercent != nil && (*d.MaximumPercent < 100 || *d.MaximumPercent > 10000) {
		return invalid("maximumPercent should be between 100 and 10000 for the scheduling strategy REPLICA, but was %d.", *d.MaximumPercent)
	}
	if d.MinimumHealthyPercent != nil && (*d.MinimumHealthyPercent < 0 || *d.MinimumHealthyPercent > 100) {
		return invalid("minimumHealthyPercent should be between 0 and 100, but was %d.", *d.MinimumHealthyPercent)
	}
	return checkBreaker(d.DeploymentCircuitBreaker)
}

// checkBreaker judges a circuit breaker.
func checkBreaker(b *types.DeploymentCircuitBreaker) error {
	if b == nil || b.ThresholdConfiguration == nil {
		return nil
	}
	t := b.ThresholdConfiguration
	if err := oneOf("deploymentCircuitBreaker.thresholdConfiguration.type", t.Type, t.Type.Values()); err != nil {
		return err
	}
	if t.Value < 1 {
		return invalid("deploymentCircuitBreaker.thresholdConfiguration.value should be at least 1, but was %d.", t.Value)
	}
	return nil
}

// normalStrategies are placement strategies as they are kept and answered: CPU and MEMORY in capitals, instanceId for host.
func normalStrategies(given []types.PlacementStrategy) []types.PlacementStrategy {
	out := make([]types.PlacementStrategy, 0, len(given))
	for _, s := range given {
		switch field := aws.ToString(s.Field); {
		case s.Type == types.PlacementStrategyTypeBinpack:
			s.Field = aws.String(strings.ToUpper(field))
		case s.Type == types.PlacementStrategyTypeSpread && field == "host":
			s.Field = aws.String("instanceId")
		case s.Type == types.PlacementStrategyTypeRandom:
			s.Field = nil
		}
		out = append(out, s)
	}
	return out
}

// rebalancingOf is whether a new service's availability zones are rebalanced: as asked, else wherever that is possible.
func rebalancingOf(in *ecs.CreateServiceInput) types.AvailabilityZoneRebalancing {
	switch {
	case in.AvailabilityZoneRebalancing != "":
		return in.AvailabilityZoneRebalancing
	case strategyOf(in) != types.SchedulingStrategyDaemon && rebalances(in.PlacementStrategy, deploymentConfiguration(defaultConfiguration(strategyOf(in)), in.DeploymentConfiguration)):
		return types.AvailabilityZoneRebalancingEnabled
	}
	return types.AvailabilityZoneRebalancingDisabled
}

func rebalances(strategy []types.PlacementStrategy, d *types.DeploymentConfiguration) bool {
	return scheduler.RebalancesZones(strategy, aws.ToInt32(d.MaximumPercent))
}

// checkZones refuses rebalancing where it is asked for and not possible.
func checkZones(asked types.AvailabilityZoneRebalancing, r *store.Service) error {
	if asked == types.AvailabilityZoneRebalancingEnabled && !isDaemon(r) && !rebalances(r.Object.PlacementStrategy, r.Object.DeploymentConfiguration) {
		return errZones
	}
	return nil
}
