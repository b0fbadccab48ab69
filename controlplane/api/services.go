package api

import (
	"cmp"
	"context"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"

	"github.com/longshore-project/longshore/controlplane/scheduler"
	"github.com/longshore-project/longshore/controlplane/store"
	"github.com/longshore-project/longshore/protocol/arn"
)

func (s *Server) serviceOperations() operations {
	unsupported := []string{
		"loadBalancers", "serviceRegistries", "serviceConnectConfiguration.enabled", "volumeConfigurations",
		"vpcLatticeConfigurations", "gatewayConnectors", "monitoring", "platformVersion", "enableExecuteCommand",
		"deploymentController.type=ECS",
		"deploymentConfiguration.strategy=ROLLING", "deploymentConfiguration.bakeTimeInMinutes",
		"deploymentConfiguration.alarms.enable",
		"deploymentConfiguration.canaryConfiguration", "deploymentConfiguration.linearConfiguration",
		"deploymentConfiguration.lifecycleHooks", "deploymentConfiguration.earlySuccessCriteria",
	}
	return operations{
		"CreateService":    handle(s.createService).refusing(unsupported...).refusing("role"),
		"UpdateService":    handle(s.updateService).refusing(unsupported...),
		"DeleteService":    handle(s.deleteService),
		"DescribeServices": handle(s.describeServices),
		"ListServices":     handle(s.listServices),

		"ListServiceDeployments":     handle(s.listServiceDeployments),
		"DescribeServiceDeployments": handle(s.describeServiceDeployments),
		"DescribeServiceRevisions":   handle(s.describeServiceRevisions),
		"StopServiceDeployment":      handle(s.stopServiceDeployment),
		"ContinueServiceDeployment":  handle(s.continueServiceDeployment),
	}
}

// A service's statuses. It is DRAINING from DeleteService until every task has been asked to stop, which the scheduler does.
const (
	serviceActive   = "ACTIVE"
	serviceDraining = "DRAINING"
	serviceInactive = "INACTIVE"
)

// A deployment's statuses.
const (
	deploymentPrimary = "PRIMARY"
	deploymentActive  = "ACTIVE"
)

func serviceStatus(r *store.Service) string { return aws.ToString(r.Object.Status) }

var (
	errNotIdempotent    = invalid("Creation of service was not idempotent.")
	errScaledAboveZero  = invalid("The service cannot be stopped while it is scaled above 0.")
	errServiceNotActive = exception("ServiceNotActiveException", "Service was not ACTIVE.")
)

func (s *Server) createService(ctx context.Context, c *call, in *ecs.CreateServiceInput) (*ecs.CreateServiceOutput, error) {
	if err := checkCreateService(c, in); err != nil {
		return nil, err
	}
	digest := c.digest("clientToken", "cluster", "serviceName")
	var object types.Service
	err := s.change(ctx, func(v *store.View, txn *store.Txn) error {
		cluster, err := s.activeCluster(v, in.Cluster)
		if err != nil {
			return err
		}
		name := aws.ToString(cluster.Object.ClusterName)
		if old := v.Service(name, *in.ServiceName); old != nil && serviceStatus(old) != serviceInactive {
			if serviceStatus(old) != serviceActive || old.CreateToken != aws.ToString(in.ClientToken) || old.CreateHash != digest {
				return errNotIdempotent
			}
			object = s.serviceObject(v, old, true)
			return errNothingToDo
		}
		def, err := s.usableDefinition(v, *in.TaskDefinition, clientError("TaskDefinition is inactive"))
		if err != nil {
			return err
		}
		if err := s.checkNetworkConfiguration(def, in.NetworkConfiguration); err != nil {
			return err
		}
		r := s.newService(c, name, in, def)
		if err := cmp.Or(checkZones(in.AvailabilityZoneRebalancing, r), checkSurge(r, def)); err != nil {
			return err
		}
		r.CreateToken, r.CreateHash = aws.ToString(in.ClientToken), digest
		if isDaemon(r) {
			r.Object.DesiredCount = scheduler.DaemonDesired(v, s.cfg.Scheduling.Network, r)
		}
		scheduler.RecordHistory(v, txn, r, c.now)
		object = s.serviceObject(v, r, true)
		txn.Create(r).Unchanged(cluster).Unchanged(def)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return &ecs.CreateServiceOutput{Service: &object}, nil
}

// newService is a service's record with everything but its desired count.
func (s *Server) newService(c *call, cluster string, in *ecs.CreateServiceInput, def *store.TaskDefinition) *store.Service {
	now := aws.Time(c.now.UTC().Truncate(time.Millisecond))
	r := &store.Service{Cluster: cluster, Rollouts: map[string]store.Rollout{}, Object: types.Service{
		ServiceArn: aws.String(s.serviceARN(cluster, *in.ServiceName)), ServiceName: in.ServiceName, ClusterArn: aws.String(s.clusterARN(cluster)),
		Status: aws.String(serviceActive), SchedulingStrategy: strategyOf(in), DesiredCount: aws.ToInt32(in.DesiredCount),
		LaunchType: in.LaunchType, TaskDefinition: def.Object.TaskDefinitionArn,
		DeploymentConfiguration: deploymentConfiguration(defaultConfiguration(strategyOf(in)), in.DeploymentConfiguration),
		DeploymentController:    &types.DeploymentController{Type: types.DeploymentControllerTypeEcs},
		CreatedAt:               now, CreatedBy: aws.String(c.principal()),
		PlacementConstraints: orEmpty(in.PlacementConstraints), PlacementStrategy: normalStrategies(in.PlacementStrategy),
		NetworkConfiguration: normalNetworkConfiguration(in.NetworkConfiguration),
		LoadBalancers:        []types.LoadBalancer{}, ServiceRegistries: []types.ServiceRegistry{},
		HealthCheckGracePeriodSeconds: in.HealthCheckGracePeriodSeconds,
		PropagateTags:                 in.PropagateTags, EnableECSManagedTags: in.EnableECSManagedTags,
		AvailabilityZoneRebalancing: rebalancingOf(in),
		ResourceManagementType:      types.ResourceManagementTypeCustomer, Tags: orEmpty(in.Tags),
	}}
	if r.Object.LaunchType == "" {
		r.Object.LaunchType = types.LaunchTypeEc2
	}
	if r.Object.PropagateTags == "" {
		r.Object.PropagateTags = types.PropagateTagsNone
	}
	addDeployment(r, types.Deployment{LaunchType: r.Object.LaunchType, ServiceConnectConfiguration: in.ServiceConnectConfiguration}, now)
	return r
}

// defaultConfiguration is what a scheduling strategy's deployments are configured as when nothing is given.
func defaultConfiguration(strategy types.SchedulingStrategy) types.DeploymentConfiguration {
	maximum, minimum := int32(200), int32(100)
	if strategy == types.SchedulingStrategyDaemon {
		maximum, minimum = 100, 0
	}
	return types.DeploymentConfiguration{
		MaximumPercent: &maximum, MinimumHealthyPercent: &minimum,
		Strategy: types.DeploymentStrategyRolling, BakeTimeInMinutes: aws.Int32(0),
		DeploymentCircuitBreaker: &types.DeploymentCircuitBreaker{
			ResetOnHealthyTask:     aws.Bool(true),
			ThresholdConfiguration: &types.ThresholdConfiguration{Type: types.ThresholdTypeBoundedPercent, Value: 50},
		},
	}
}

// deploymentConfiguration is a configuration with what was given.
func deploymentConfiguration(out types.DeploymentConfiguration, given *types.DeploymentConfiguration) *types.DeploymentConfiguration {
	if given == nil {
		return &out
	}
	if given.MaximumPercent != nil {
		out.MaximumPercent = given.MaximumPercent
	}
	if given.MinimumHealthyPercent != nil {
		out.MinimumHealthyPercent = given.MinimumHealthyPercent
	}
	if given.Alarms != nil {
		out.Alarms = given.Alarms
	}
	if b := given.DeploymentCircuitBreaker; b != nil {
		breaker := types.DeploymentCircuitBreaker{}
		if out.DeploymentCircuitBreaker != nil {
			breaker = *out.DeploymentCircuitBreaker
		}
		breaker.Enable, breaker.Rollback = b.Enable, b.Rollback
		if b.ResetOnHealthyTask != nil {
			breaker.ResetOnHealthyTask = b.ResetOnHealthyTask
		}
		if b.ThresholdConfiguration != nil {
			breaker.ThresholdConfiguration = b.ThresholdConfiguration
		}
		out.DeploymentCircuitBreaker = &breaker
	}
	return &out
}

// addDeployment makes d the PRIMARY deployment of what the service's object says. The one before becomes ACTIVE, until the
// scheduler has replaced its last task.
func addDeployment(r *store.Service, d types.Deployment, now *time.Time) {
	id := arn.NewDeploymentID()
	d.Id, d.Status = aws.String(id), aws.String(deploymentPrimary)
	d.TaskDefinition, d.LaunchType, d.NetworkConfiguration = r.Object.TaskDefinition, r.Object.LaunchType, r.Object.NetworkConfiguration
	d.CreatedAt, d.UpdatedAt = now, now
	d.RolloutState = types.DeploymentRolloutStateInProgress
	d.RolloutStateReason = aws.String("ECS deployment " + id + " in progress.")
	deployments := []types.Deployment{d}
	for _, old := range r.Object.Deployments {
		if aws.ToString(old.Status) == deploymentPrimary {
			old.Status, old.UpdatedAt = aws.String(deploymentActive), now
		}
		deployments = append(deployments, old)
	}
	r.Object.Deployments = deployments
	rollouts := map[string]store.Rollout{id: {}}
	for _, old := range deployments[1:] {
		rollouts[*old.Id] = r.Rollouts[*old.Id]
	}
	r.Rollouts = rollouts
}

// deleteService makes a service DRAINING, and INACTIVE at once when it has no task to stop. A REPLICA service that is
// scaled above 0 needs force.
func (s *Server) deleteService(ctx context.Context, c *call, in *ecs.DeleteServiceInput) (*ecs.DeleteServiceOutput, error) {
	var object types.Service
	err := s.change(ctx, func(v *store.View, txn *store.Txn) error {
		old, err := s.findService(v, in.Cluster, *in.Service)
		switch {
		case err != nil:
			return err
		case serviceStatus(old) == serviceInactive:
			return errServiceNotFound
		case serviceStatus(old) == serviceDraining:
			object = s.serviceObject(v, old, true)
			return errNothingToDo
		case !isDaemon(old) && old.Object.DesiredCount > 0 && !aws.ToBool(in.Force):
			return errScaledAboveZero
		}
		r := *old
		r.Object.Status, r.Object.DesiredCount = aws.String(serviceDraining), 0
		if !hasTaskToStop(v, old) {
			r.Object.Status, r.InactiveSince = aws.String(serviceInactive), c.now
		}
		object = s.serviceObject(v, &r, true)
		txn.Update(&r).StateChange()
		scheduler.RecordHistory(v, txn, &r, c.now)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return &ecs.DeleteServiceOutput{Service: &object}, nil
}

func hasTaskToStop(v *store.View, r *store.Service) bool {
	for t := range v.LiveOf(r.Cluster, aws.ToString(r.Object.ServiceName)) {
		if aws.ToString(t.Object.DesiredStatus) == taskRunning {
			return true
		}
	}
	return false
}

// findService is the service that a name or an ARN means, in any status.
func (s *Server) findService(v *store.View, clusterRef *string, ref string) (*store.Service, error) {
	cluster, err := s.knownCluster(v, clusterRef)
	if err != nil {
		return nil, err
	}
	name, err := s.memberRef(kindService, cluster, ref)
	if err != nil {
		return nil, err
	}
	if r := v.Service(cluster, name); r != nil {
		return r, nil
	}
	return nil, errServiceNotFound
}

// knownCluster is the name of the cluster that ref means, in any status: what was in a deleted one stays describable.
func (s *Server) knownCluster(v *store.View, ref *string) (string, error) {
	name, err := s.clusterRef(ref)
	if err != nil {
		return "", err
	}
	if v.Cluster(name) == nil {
		return "", errClusterNotFound
	}
	return name, nil
}

// usableDefinition is the ACTIVE task definition that ref means; inactive is the answer when it is not ACTIVE.
func (s *Server) usableDefinition(v *store.View, ref string, inactive *Error) (*store.TaskDefinition, error) {
	def, err := s.lookupTaskDefinition(v, ref)
	switch {
	case err != nil:
		return nil, err
	case def == nil:
		return nil, clientError("TaskDefinition not found.")
	case def.Object.Status != types.TaskDefinitionStatusActive:
		return nil, inactive
	}
	return def, nil
}
