package api

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"regexp"
	"slices"
	"unicode/utf8"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"

	"github.com/longshore-project/longshore/controlplane/scheduler"
	"github.com/longshore-project/longshore/controlplane/scheduler/policy"
	"github.com/longshore-project/longshore/controlplane/scheduler/query"
	"github.com/longshore-project/longshore/controlplane/store"
)

// The texts of what DAEMON does not allow.
var (
	errDaemonDesired  = invalid("The daemon scheduling strategy does not support a desired count for services. Remove the desired count value and try again")
	errDaemonStrategy = invalid("The daemon scheduling strategy does not support placement strategies. Remove the placement strategy and try again")
	errDaemonMaximum  = invalid("The daemon scheduling strategy does not support values above 100 for maximumPercent on a deployment configuration. Change the maximumPercent value to 100, and try again")
	errDaemonProvider = invalid("Specifying a capacity provider strategy is not supported when you create a service using the DAEMON scheduling strategy.")
	errDaemonFargate  = invalid("The daemon scheduling strategy does not support the Fargate launch type. Use the launch type EC2 or EXTERNAL and try again")
	errDaemonZones    = invalid("The daemon scheduling strategy does not support Availability Zone rebalancing. Set availabilityZoneRebalancing to DISABLED and try again")
	errLaunchStrategy = invalid("Specify either a launch type or a capacity provider strategy: a launch type and capacity provider strategy can be given, but not both.")
	errNoDefinition   = invalid("TaskDefinition can not be blank.")
)

// checkCreateService judges a call by itself.
func checkCreateService(c *call, in *ecs.CreateServiceInput) error {
	if err := checkName("Service name", *in.ServiceName); err != nil {
		return err
	}
	if err := errors.Join(
		oneOf("schedulingStrategy", in.SchedulingStrategy, in.SchedulingStrategy.Values()),
		oneOf("launchType", in.LaunchType, in.LaunchType.Values()),
		oneOf("propagateTags", in.PropagateTags, in.PropagateTags.Values()),
		oneOf("availabilityZoneRebalancing", in.AvailabilityZoneRebalancing, in.AvailabilityZoneRebalancing.Values()),
		checkClientToken(in.ClientToken, 36), checkTags(in.Tags),
	); err != nil {
		return err
	}
	providers := len(in.CapacityProviderStrategy) > 0
	daemon := in.SchedulingStrategy == types.SchedulingStrategyDaemon
	switch {
	case in.LaunchType != "" && providers:
		return errLaunchStrategy
	case daemon && in.DesiredCount != nil:
		return errDaemonDesired
	case daemon && providers:
		return errDaemonProvider
	case providers:
		return errProviders
	case !daemon && in.DesiredCount == nil:
		return errNoDesired
	}
	if err := checkLaunchType(in.LaunchType, daemon); err != nil {
		return err
	}
	if err := checkDesired(in.DesiredCount); err != nil {
		return err
	}
	if err := checkGrace(in.HealthCheckGracePeriodSeconds); err != nil {
		return err
	}
	check, on := checkReplica, policy.OnReplica
	if daemon {
		check, on = checkDaemon, policy.OnDaemon
	}
	if err := checkPlace(in.Tags, on); err != nil {
		return err
	}
	if err := check(in.PlacementStrategy, in.DeploymentConfiguration, in.AvailabilityZoneRebalancing); err != nil {
		return err
	}
	if err := checkConstraints(in.PlacementConstraints); err != nil {
		return err
	}
	if aws.ToString(in.TaskDefinition) == "" {
		return errNoDefinition
	}
	return nil
}

func checkLaunchType(t types.LaunchType, daemon bool) error {
	switch t {
	case types.LaunchTypeFargate:
		if daemon {
			return errDaemonFargate
		}
		return unsupported("The launch type FARGATE is not supported by this control plane; EC2 and EXTERNAL are.")
	case types.LaunchTypeManagedInstances:
		return unsupported("The launch type MANAGED_INSTANCES is not supported by this control plane; EC2 and EXTERNAL are.")
	}
	return nil
}

// checkDaemon judges what both CreateService and UpdateService can give for a DAEMON service.
func checkDaemon(strategy []types.PlacementStrategy, d *types.DeploymentConfiguration, zones types.AvailabilityZoneRebalancing) error {
	if len(strategy) > 0 {
		return errDaemonStrategy
	}
	if zones == types.AvailabilityZoneRebalancingEnabled {
		return errDaemonZones
	}
	if d == nil {
		return nil
	}
	if d.MaximumPercent != nil && *d.MaximumPercent > 100 {
		return errDaemonMaximum
	}
	if d.MaximumPercent != nil && *d.MaximumPercent < 1 {
		return invalid("maximumPercent should be between 1 and 100, but was %d.", *d.MaximumPercent)
	}
	if d.MinimumHealthyPercent != nil && (*d.MinimumHealthyPercent < 0 || *d.MinimumHealthyPercent > 100) {
		return invalid("minimumHealthyPercent should be between 0 and 100, but was %d.", *d.MinimumHealthyPercent)
	}
	return checkBreaker(d.DeploymentCircuitBreaker)
}

// checkSurge judges whether a DAEMON service's new tasks can be started beside its old ones, as its tags may ask for.
func checkSurge(r *store.Service, def *store.TaskDefinition) error {
	if !isDaemon(r) || def == nil {
		return nil
	}
	if why := scheduler.SurgeRefusal(r.Object.Tags, &def.Object); why != "" {
		return invalid("The tag %s can't be had with task definition %s:%d: two of its tasks can't be on one container instance, because %s.",
			policy.DaemonSurge, aws.ToString(def.Object.Family), def.Object.Revision, why)
	}
	return nil
}

// checkConstraints judges the placement constraints of a service or of RunTask.
func checkConstraints(constraints []types.PlacementConstraint) error {
	if err := atMost("placementConstraints", constraints, 10); err != nil {
		return err
	}
	for i, x := range constraints {
		switch expression := aws.ToString(x.Expression); x.Type {
		case types.PlacementConstraintTypeDistinctInstance:
			if expression != "" {
				return invalid("placementConstraints[%d]: a constraint of type distinctInstance takes no expression, but has %.200q.", i, expression)
			}
		case types.PlacementConstraintTypeMemberOf:
			if _, err := query.Parse(expression); err != nil {
				return invalid("Invalid expression in placementConstraints[%d]: %.300q, %v", i, expression, err)
			}
		default:
			return invalid("placementConstraints[%d]: the type should be one of [distinctInstance, memberOf], but was %.200q.", i, string(x.Type))
		}
	}
	return nil
}

var clientTokenPattern = regexp.MustCompile(`^[!-~]*$`)

func checkClientToken(token *string, length int) error {
	t := aws.ToString(token)
	if len(t) > length || !clientTokenPattern.MatchString(t) {
		return invalid("clientToken should have at most %d printable ASCII characters without spaces, but was %.200q.", length, t)
	}
	return nil
}

// digest is a digest of the call's members but those named. Members that ask for nothing count as absent.
func (c *call) digest(but ...string) string {
	said := map[string]any{}
	for name, v := range c.members {
		if !neutral(v) && !slices.Contains(but, name) {
			said[name] = v
		}
	}
	b, _ := json.Marshal(said) // what was decoded from JSON can be encoded, in order of name
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// checkText bounds a text that a client gave, in characters.
func checkText(member string, text *string, n int) error {
	if l := utf8.RuneCountInString(aws.ToString(text)); l > n {
		return invalid("%s has %d characters; at most %d are allowed.", member, l, n)
	}
	return nil
}
