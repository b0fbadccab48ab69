package api

import (
	"cmp"
	"context"
	"errors"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"

	"github.com/longshore-project/longshore/controlplane/scheduler"
	"github.com/longshore-project/longshore/controlplane/store"
)

// updateService changes what was given: an absent member leaves the old value, an empty list clears it. Another task
// definition or network configuration, or forceNewDeployment, starts a deployment; placement constraints take effect at once, without one.
func (s *Server) updateService(ctx context.Context, c *call, in *ecs.UpdateServiceInput) (*ecs.UpdateServiceOutput, error) {
	var object types.Service
	err := s.change(ctx, func(v *store.View, txn *store.Txn) error {
		old, err := s.findService(v, in.Cluster, *in.Service)
		switch {
		case err != nil:
			return err
		case serviceStatus(old) != serviceActive:
			return errServiceNotActive
		}
		if err := checkUpdateService(in, isDaemon(old)); err != nil {
			return err
		}
		r := *old
		def, err := s.definitionOf(v, old, in.TaskDefinition)
		if err != nil {
			return err
		}
		if def != nil {
			r.Object.NetworkConfiguration = networkOf(old, in.NetworkConfiguration, def)
			if err := s.checkNetworkConfiguration(def, r.Object.NetworkConfiguration); err != nil {
				return err
			}
			r.Object.TaskDefinition = def.Object.TaskDefinitionArn
			txn.Unchanged(def)
		}
		update(&r, in)
		if err := cmp.Or(checkZones(in.AvailabilityZoneRebalancing, &r), checkSurge(&r, def)); err != nil {
			return err
		}
		if in.ForceNewDeployment || aws.ToString(r.Object.TaskDefinition) != aws.ToString(old.Object.TaskDefinition) ||
			!sameNetwork(r.Object.NetworkConfiguration, old.Object.NetworkConfiguration) {
			connect := in.ServiceConnectConfiguration
			if connect == nil && len(old.Object.Deployments) > 0 {
				connect = old.Object.Deployments[0].ServiceConnectConfiguration
			}
			dropFinished(v, &r)
			addDeployment(&r, types.Deployment{ServiceConnectConfiguration: connect}, aws.Time(c.now.UTC().Truncate(time.Millisecond)))
			r.SteadySince = time.Time{}
		}
		r.Failures = nil // a user who updates the service wants it tried again now
		if isDaemon(&r) {
			r.Object.DesiredCount = scheduler.DaemonDesired(v, s.cfg.Scheduling.Network, &r)
		}
		scheduler.RecordHistory(v, txn, &r, c.now)
		object = s.serviceObject(v, &r, true)
		txn.Update(&r)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return &ecs.UpdateServiceOutput{Service: &object}, nil
}

func checkUpdateService(in *ecs.UpdateServiceInput, daemon bool) error {
	providers := len(in.CapacityProviderStrategy) > 0
	switch {
	case daemon && in.DesiredCount != nil:
		return errDaemonDesired
	case daemon && providers:
		return errDaemonProvider
	case providers:
		return errProviders
	}
	check := checkReplica
	if daemon {
		check = checkDaemon
	}
	return errors.Join(
		checkDesired(in.DesiredCount), checkGrace(in.HealthCheckGracePeriodSeconds),
		oneOf("propagateTags", in.PropagateTags, in.PropagateTags.Values()),
		oneOf("availabilityZoneRebalancing", in.AvailabilityZoneRebalancing, in.AvailabilityZoneRebalancing.Values()),
		check(in.PlacementStrategy, in.DeploymentConfiguration, in.AvailabilityZoneRebalancing),
		checkConstraints(in.PlacementConstraints),
	)
}

// definitionOf is the task definition that an update asks for, else the service's own, nil when that is gone.
func (s *Server) definitionOf(v *store.View, r *store.Service, ref *string) (*store.TaskDefinition, error) {
	if aws.ToString(ref) == "" {
		return s.lookupTaskDefinition(v, aws.ToString(r.Object.TaskDefinition))
	}
	return s.usableDefinition(v, *ref, clientError("TaskDefinition is inactive"))
}

// update takes over what an update gives beside the task definition.
func update(r *store.Service, in *ecs.UpdateServiceInput) {
	o := &r.Object
	have := defaultConfiguration(o.SchedulingStrategy)
	if o.DeploymentConfiguration != nil {
		have = *o.DeploymentConfiguration
	}
	o.DeploymentConfiguration = deploymentConfiguration(have, in.DeploymentConfiguration)
	if in.DesiredCount != nil {
		o.DesiredCount = *in.DesiredCount
	}
	if in.PlacementStrategy != nil {
		o.PlacementStrategy = normalStrategies(in.PlacementStrategy)
	}
	if in.AvailabilityZoneRebalancing != "" {
		o.AvailabilityZoneRebalancing = in.AvailabilityZoneRebalancing
	}
	if in.PlacementConstraints != nil {
		o.PlacementConstraints = in.PlacementConstraints
	}
	if in.PropagateTags != "" {
		o.PropagateTags = in.PropagateTags
	}
	if in.EnableECSManagedTags != nil {
		o.EnableECSManagedTags = *in.EnableECSManagedTags
	}
	if in.HealthCheckGracePeriodSeconds != nil {
		o.HealthCheckGracePeriodSeconds = in.HealthCheckGracePeriodSeconds
	}
}

// dropFinished drops the deployments that have no task any more, so that updates in quick succession don't pile up. A
// REPLICA service keeps the newest COMPLETED one, to which its circuit breaker goes back.
func dropFinished(v *store.View, r *store.Service) {
	live := map[string]bool{}
	for t := range v.LiveOf(r.Cluster, aws.ToString(r.Object.ServiceName)) {
		live[t.Deployment] = true
	}
	completed := false
	var kept []types.Deployment
	for _, d := range r.Object.Deployments {
		base := !isDaemon(r) && !completed && d.RolloutState == types.DeploymentRolloutStateCompleted
		completed = completed || base
		if base || live[aws.ToString(d.Id)] {
			kept = append(kept, d)
		}
	}
	r.Object.Deployments = kept
}
