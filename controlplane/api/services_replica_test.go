package api_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"
)

// replica creates a REPLICA service of the definition.
func (p *plane) replica(name, definition string, desired int32, change ...func(*ecs.CreateServiceInput)) *types.Service {
	p.t.Helper()
	in := &ecs.CreateServiceInput{Cluster: aws.String(testCluster), ServiceName: aws.String(name), TaskDefinition: aws.String(definition), DesiredCount: aws.Int32(desired)}
	for _, f := range change {
		f(in)
	}
	out, err := p.admin.CreateService(p.ctx, in)
	p.must(err)
	return out.Service
}

func TestTerraformsReplicaServiceIsUnderstoodAndComesBackAsItWas(t *testing.T) {
	p := newPlane(t)
	p.define("tff", 10, 10)
	const body = `{"availabilityZoneRebalancing":"DISABLED","capacityProviderStrategy":[],"clientToken":"terraform-20261120041310071400000003",
 "cluster":"arn:aws:ecs:us-west-2:123456789012:cluster/daemonset","deploymentConfiguration":{"deploymentCircuitBreaker":{"enable":true,"rollback":true},"maximumPercent":200,"minimumHealthyPercent":100},
 "desiredCount":2,"placementStrategy":[{"field":"memory","type":"binpack"}],"schedulingStrategy":"REPLICA","serviceName":"replica",
 "taskDefinition":"arn:aws:ecs:us-west-2:123456789012:task-definition/tff:1","vpcLatticeConfigurations":[]}`
	first, status := p.call("CreateService", body)
	if status != 200 {
		t.Fatalf("%v", first)
	}
	if again, _ := p.call("CreateService", body); encode(again) != encode(first) {
		t.Errorf("repeated: %v", again)
	}
	s := p.service("replica")
	if s.DesiredCount != 2 || s.SchedulingStrategy != types.SchedulingStrategyReplica || *s.PlacementStrategy[0].Field != "MEMORY" || s.LaunchType != types.LaunchTypeEc2 ||
		!s.DeploymentConfiguration.DeploymentCircuitBreaker.Enable || !s.DeploymentConfiguration.DeploymentCircuitBreaker.Rollback ||
		s.AvailabilityZoneRebalancing != types.AvailabilityZoneRebalancingDisabled || s.Deployments[0].DesiredCount != 2 {
		t.Errorf("%+v", s)
	}
	for _, step := range []struct{ op, body, want string }{
		{"DeleteService", `"force":false`, "The service cannot be stopped while it is scaled above 0."},
		{"UpdateService", `"desiredCount":0`, ""},
		{"DeleteService", `"force":false`, ""},
	} {
		answer, status := p.call(step.op, `{"cluster":"arn:aws:ecs:us-west-2:123456789012:cluster/daemonset","service":"arn:aws:ecs:us-west-2:123456789012:service/daemonset/replica",`+step.body+`}`)
		if step.want == "" && status != 200 || step.want != "" && (answer["message"] != step.want || answer["__type"] != "InvalidParameterException") {
			t.Errorf("%s %s: %d %v", step.op, step.body, status, answer)
		}
	}
}

func TestZonesAreRebalancedByDefaultWhereThatIsPossible(t *testing.T) {
	p := newPlane(t)
	p.define("web", 10, 10)
	spread := func(field string) func(*ecs.CreateServiceInput) {
		return func(in *ecs.CreateServiceInput) {
			in.PlacementStrategy = []types.PlacementStrategy{{Type: types.PlacementStrategyTypeSpread, Field: aws.String(field)}}
		}
	}
	for name, c := range map[string]struct {
		change func(*ecs.CreateServiceInput)
		want   types.AvailabilityZoneRebalancing
	}{
		"default": {func(*ecs.CreateServiceInput) {}, types.AvailabilityZoneRebalancingEnabled},
		"zones":   {spread("attribute:ecs.availability-zone"), types.AvailabilityZoneRebalancingEnabled},
		"hosts":   {spread("host"), types.AvailabilityZoneRebalancingDisabled},
		"no-surplus": {func(in *ecs.CreateServiceInput) {
			in.DeploymentConfiguration = &types.DeploymentConfiguration{MaximumPercent: aws.Int32(100)}
		}, types.AvailabilityZoneRebalancingDisabled},
	} {
		if got := p.replica(name, "web", 1, c.change).AvailabilityZoneRebalancing; got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
	if got := *p.service("hosts").PlacementStrategy[0].Field; got != "instanceId" {
		t.Errorf("host is answered as %s", got)
	}
}

func TestAnUpdateOfAReplicaServiceChangesWhatIsGiven(t *testing.T) {
	p := newPlane(t)
	p.define("web", 10, 10)
	p.define("web", 20, 20)
	p.replica("s", "web:1", 3)
	out, err := p.admin.UpdateService(p.ctx, &ecs.UpdateServiceInput{Cluster: aws.String(testCluster), Service: aws.String("s"), DesiredCount: aws.Int32(5),
		PlacementStrategy: []types.PlacementStrategy{{Type: types.PlacementStrategyTypeSpread, Field: aws.String("host")}}, HealthCheckGracePeriodSeconds: aws.Int32(30)})
	p.must(err)
	s := out.Service
	if s.DesiredCount != 5 || len(s.Deployments) != 1 || len(s.PlacementStrategy) != 1 || *s.HealthCheckGracePeriodSeconds != 30 {
		t.Errorf("%+v", s)
	}
	out, err = p.admin.UpdateService(p.ctx, &ecs.UpdateServiceInput{Cluster: aws.String(testCluster), Service: aws.String("s"), TaskDefinition: aws.String("web:2"), PlacementStrategy: []types.PlacementStrategy{}})
	p.must(err)
	if s = out.Service; s.DesiredCount != 5 || *s.Deployments[0].TaskDefinition == "" || len(s.PlacementStrategy) != 0 || !strings.HasSuffix(*s.TaskDefinition, "web:2") {
		t.Errorf("%+v", s)
	}
	_, err = p.admin.UpdateService(p.ctx, &ecs.UpdateServiceInput{Cluster: aws.String(testCluster), Service: aws.String("s"), AvailabilityZoneRebalancing: types.AvailabilityZoneRebalancingEnabled,
		DeploymentConfiguration: &types.DeploymentConfiguration{MaximumPercent: aws.Int32(100)}})
	p.refused(err, "InvalidParameterException", "Availability Zone rebalancing needs a maximumPercent above 100, and no placement strategy or one whose first is spread over attribute:ecs.availability-zone.")
}

func TestADeploymentIsRememberedAndCanBeStopped(t *testing.T) {
	p := newPlane(t)
	p.define("web", 10, 10)
	p.define("web", 20, 20)
	first := p.replica("s", "web:1", 0)
	digits := (*first.Deployments[0].Id)[8:]
	list := func(change ...func(*ecs.ListServiceDeploymentsInput)) []types.ServiceDeploymentBrief {
		t.Helper()
		in := &ecs.ListServiceDeploymentsInput{Cluster: aws.String(testCluster), Service: aws.String("s")}
		for _, f := range change {
			f(in)
		}
		out, err := p.admin.ListServiceDeployments(p.ctx, in)
		p.must(err)
		return out.ServiceDeployments
	}
	got := list()
	if len(got) != 1 || !strings.Contains(*got[0].TargetServiceRevisionArn, digits) || got[0].Status != types.ServiceDeploymentStatusInProgress {
		t.Fatalf("%+v", got)
	}
	stop := func(kind types.StopServiceDeploymentStopType, arn *string) error {
		_, err := p.admin.StopServiceDeployment(p.ctx, &ecs.StopServiceDeploymentInput{ServiceDeploymentArn: arn, StopType: kind})
		return err
	}
	p.refused(stop("", got[0].ServiceDeploymentArn), "ConflictException", "The service deployment can't be rolled back: the service has no earlier deployment that was completed. Use the stop type ABORT, or update the service.")
	revisions, err := p.admin.DescribeServiceRevisions(p.ctx, &ecs.DescribeServiceRevisionsInput{ServiceRevisionArns: []string{*got[0].TargetServiceRevisionArn, strings.Replace(*got[0].TargetServiceRevisionArn, digits, "1", 1)}})
	p.must(err)
	if len(revisions.ServiceRevisions) != 1 || len(revisions.Failures) != 1 || *revisions.ServiceRevisions[0].TaskDefinition != *first.TaskDefinition || len(revisions.ServiceRevisions[0].ContainerImages) != 1 {
		t.Errorf("%+v", revisions)
	}

	p.settle("s")
	out, err := p.admin.UpdateService(p.ctx, &ecs.UpdateServiceInput{Cluster: aws.String(testCluster), Service: aws.String("s"), TaskDefinition: aws.String("web:2")})
	p.must(err)
	second := (*out.Service.Deployments[0].Id)[8:]
	got = list()
	if len(got) != 2 || !strings.Contains(*got[0].TargetServiceRevisionArn, second) || got[1].Status != types.ServiceDeploymentStatusSuccessful {
		t.Fatalf("%+v", got)
	}
	if only := list(func(in *ecs.ListServiceDeploymentsInput) {
		in.Status = []types.ServiceDeploymentStatus{types.ServiceDeploymentStatusInProgress}
	}); len(only) != 1 {
		t.Errorf("in progress are %+v", only)
	}
	for range 2 {
		p.must(stop(types.StopServiceDeploymentStopTypeRollback, got[0].ServiceDeploymentArn))
	}
	s := p.service("s")
	if *s.Deployments[1].Status != "PRIMARY" || *s.Deployments[1].Id != *first.Deployments[0].Id || !strings.HasSuffix(*s.TaskDefinition, "web:1") || s.Deployments[0].RolloutState != types.DeploymentRolloutStateFailed {
		t.Errorf("after the roll-back: %+v", s.Deployments)
	}
	described, err := p.admin.DescribeServiceDeployments(p.ctx, &ecs.DescribeServiceDeploymentsInput{ServiceDeploymentArns: []string{*got[0].ServiceDeploymentArn}})
	p.must(err)
	d := described.ServiceDeployments[0]
	if d.Status != types.ServiceDeploymentStatusRollbackInProgress || !strings.Contains(*d.Rollback.ServiceRevisionArn, digits) || len(d.SourceServiceRevisions) != 1 {
		t.Errorf("%+v", d)
	}
	_, err = p.admin.UpdateService(p.ctx, &ecs.UpdateServiceInput{Cluster: aws.String(testCluster), Service: aws.String("s"), ForceNewDeployment: true})
	p.must(err)
	if got = list(); len(got) != 3 || got[1].Status != types.ServiceDeploymentStatusStopped {
		t.Fatalf("a deployment that another one replaces is STOPPED: %+v", got)
	}
	p.must(stop(types.StopServiceDeploymentStopTypeAbort, got[0].ServiceDeploymentArn))
	if s = p.service("s"); s.Deployments[0].RolloutState != types.DeploymentRolloutStateFailed || len(s.Deployments) == 0 {
		t.Errorf("aborted: %+v", s.Deployments)
	}
	err = stop("", aws.String(fmt.Sprintf("arn:aws:ecs:us-west-2:123456789012:service-deployment/%s/s/1", testCluster)))
	p.refused(err, "ServiceDeploymentNotFoundException", "The service deployment was not found.")
}
