package api_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"

	"github.com/longshore-project/longshore/controlplane/scheduler"
	"github.com/longshore-project/longshore/controlplane/store"
	"github.com/longshore-project/longshore/controlplane/task"
)

// daemon creates a DAEMON service of the definition.
func (p *plane) daemon(name, definition string, change ...func(*ecs.CreateServiceInput)) *types.Service {
	p.t.Helper()
	in := &ecs.CreateServiceInput{Cluster: aws.String(testCluster), ServiceName: aws.String(name), TaskDefinition: aws.String(definition),
		SchedulingStrategy: types.SchedulingStrategyDaemon}
	for _, f := range change {
		f(in)
	}
	out, err := p.admin.CreateService(p.ctx, in)
	p.must(err)
	return out.Service
}

func (p *plane) service(name string) types.Service {
	p.t.Helper()
	out, err := p.admin.DescribeServices(p.ctx, &ecs.DescribeServicesInput{Cluster: aws.String(testCluster), Services: []string{name}, Include: []types.ServiceField{types.ServiceFieldTags}})
	p.must(err)
	if len(out.Services) != 1 {
		p.t.Fatalf("DescribeServices of %s: %d services, failures %+v", name, len(out.Services), out.Failures)
	}
	return out.Services[0]
}

// settle does to the service what the scheduler does in the end: old deployments are gone and the PRIMARY one is COMPLETED,
// or the service is INACTIVE when it was deleted.
func (p *plane) settle(name string) {
	p.t.Helper()
	p.must(store.Retry(p.ctx, func() error {
		txn := p.store.Txn()
		p.must(p.store.Read(p.ctx, func(v *store.View) error {
			r := *v.Service(testCluster, name)
			if *r.Object.Status == "DRAINING" {
				r.Object.Status, r.InactiveSince = aws.String("INACTIVE"), time.Now()
			} else {
				d := r.Object.Deployments[0]
				d.RolloutState = types.DeploymentRolloutStateCompleted
				r.Object.Deployments = []types.Deployment{d}
			}
			scheduler.RecordHistory(v, txn, &r, time.Now())
			txn.Update(&r)
			return nil
		}))
		return txn.Commit(p.ctx)
	}))
}

func TestADaemonServiceIsCreatedWithItsDesiredCount(t *testing.T) {
	p := newPlane(t)
	p.define("agent", 10, 10)
	p.register(p.host, 1024, 1000)
	prod := p.register(p.host, 1024, 1000)
	_, err := p.admin.PutAttributes(p.ctx, &ecs.PutAttributesInput{Cluster: aws.String(testCluster), Attributes: []types.Attribute{
		{Name: aws.String("env"), Value: aws.String("prod"), TargetType: types.TargetTypeContainerInstance, TargetId: aws.String(prod)}}})
	p.must(err)
	constraint := []types.PlacementConstraint{{Type: types.PlacementConstraintTypeMemberOf, Expression: aws.String("attribute:env==prod")}}
	all := p.daemon("all", "agent:1")
	some := p.daemon("some", "agent", func(in *ecs.CreateServiceInput) {
		in.PlacementConstraints, in.LaunchType = constraint, types.LaunchTypeExternal
		in.Tags = []types.Tag{{Key: aws.String("a"), Value: aws.String("b")}}
		in.PropagateTags = types.PropagateTagsService
	})
	if all.DesiredCount != 2 || some.DesiredCount != 1 {
		t.Fatalf("desired counts %d and %d", all.DesiredCount, some.DesiredCount)
	}
	if len(some.PlacementConstraints) != 1 || some.LaunchType != types.LaunchTypeExternal || len(some.Tags) != 1 || some.PropagateTags != types.PropagateTagsService {
		t.Errorf("%+v", some)
	}
	answer, _ := p.call("DescribeServices", `{"cluster":"daemonset","services":["all"]}`)
	got := answer["services"].([]any)[0].(map[string]any)
	deployment := got["deployments"].([]any)[0].(map[string]any)
	id := deployment["id"].(string)
	if !regexp.MustCompile(`^ecs-svc/\d{19}$`).MatchString(id) {
		t.Errorf("deployment id %s", id)
	}
	for _, o := range []map[string]any{got, deployment} {
		for _, k := range []string{"createdAt", "updatedAt"} {
			if at, ok := o[k].(float64); ok && at < 1e9 {
				t.Errorf("%s is %v", k, at)
			}
			delete(o, k)
		}
	}
	want := `{"serviceArn":"arn:aws:ecs:us-west-2:123456789012:service/daemonset/all","serviceName":"all",
		"clusterArn":"arn:aws:ecs:us-west-2:123456789012:cluster/daemonset","status":"ACTIVE","desiredCount":2,"runningCount":0,"pendingCount":0,
		"launchType":"EC2","taskDefinition":"arn:aws:ecs:us-west-2:123456789012:task-definition/agent:1","schedulingStrategy":"DAEMON",
		"deploymentConfiguration":{"maximumPercent":100,"minimumHealthyPercent":0,"strategy":"ROLLING","bakeTimeInMinutes":0,
			"deploymentCircuitBreaker":{"enable":false,"rollback":false,"resetOnHealthyTask":true,"thresholdConfiguration":{"type":"BOUNDED_PERCENT","value":50}}},
		"deployments":[{"id":"` + id + `","status":"PRIMARY","taskDefinition":"arn:aws:ecs:us-west-2:123456789012:task-definition/agent:1",
			"desiredCount":2,"runningCount":0,"pendingCount":0,"failedTasks":0,"launchType":"EC2","rolloutState":"IN_PROGRESS",
			"rolloutStateReason":"ECS deployment ` + id + ` in progress."}],
		"events":[],"placementConstraints":[],"placementStrategy":[],"loadBalancers":[],"serviceRegistries":[],
		"deploymentController":{"type":"ECS"},"propagateTags":"NONE","enableECSManagedTags":false,"enableExecuteCommand":false,
		"availabilityZoneRebalancing":"DISABLED","resourceManagementType":"CUSTOMER","createdBy":"` + fmt.Sprint(got["createdBy"]) + `",
		"currentServiceDeployment":"arn:aws:ecs:us-west-2:123456789012:service-deployment/daemonset/all/` + id[8:] + `",
		"currentServiceRevisions":[{"arn":"arn:aws:ecs:us-west-2:123456789012:service-revision/daemonset/all/` + id[8:] + `","requestedTaskCount":2,"runningTaskCount":0,"pendingTaskCount":0}]}`
	var wanted map[string]any
	p.must(json.Unmarshal([]byte(want), &wanted))
	for k, v := range wanted {
		if a, b := encode(got[k]), encode(v); a != b {
			t.Errorf("%s is %s, want %s", k, a, b)
		}
		delete(got, k)
	}
	if len(got) > 0 {
		t.Errorf("the service also has %v", got)
	}
}

func encode(v any) string {
	b, _ := json.Marshal(v)
	return string(b)
}

func TestCreateServiceRefusesWhatItCannotDo(t *testing.T) {
	p := newPlane(t)
	p.define("agent", 10, 10)
	old := p.define("old", 10, 10)
	_, err := p.admin.DeregisterTaskDefinition(p.ctx, &ecs.DeregisterTaskDefinitionInput{TaskDefinition: aws.String(old)})
	p.must(err)
	const replica = `"serviceName":"s","taskDefinition":"agent"`
	const daemon = `"serviceName":"s","taskDefinition":"agent","schedulingStrategy":"DAEMON"`
	for _, test := range []struct{ body, code, text string }{
		{`"serviceName":"s","taskDefinition":"agent"`, "InvalidParameterException", "desiredCount is required"},
		{replica + `,"desiredCount":-1`, "InvalidParameterException", "at least 0, but was -1"},
		{replica + `,"desiredCount":1,"launchType":"FARGATE"`, "UnsupportedFeatureException", "FARGATE"},
		{replica + `,"desiredCount":1,"capacityProviderStrategy":[{"capacityProvider":"x","weight":1}]`, "UnsupportedFeatureException", "capacityProviderStrategy"},
		{replica + `,"desiredCount":1,"placementStrategy":[{"type":"binpack","field":"disk"}]`, "InvalidParameterException", "binpack takes cpu or memory"},
		{replica + `,"desiredCount":1,"deploymentConfiguration":{"maximumPercent":99}`, "InvalidParameterException", "maximumPercent should be between 100"},
		{replica + `,"desiredCount":1,"deploymentConfiguration":{"minimumHealthyPercent":101}`, "InvalidParameterException", "minimumHealthyPercent"},
		{replica + `,"desiredCount":1,"availabilityZoneRebalancing":"ENABLED","placementStrategy":[{"type":"random"}]`, "InvalidParameterException", "Availability Zone rebalancing needs"},
		{replica + `,"desiredCount":1,"healthCheckGracePeriodSeconds":-1`, "InvalidParameterException", "healthCheckGracePeriodSeconds"},
		{replica + `,"desiredCount":1,"placementConstraints":[{"type":"distinctInstance","expression":"x"}]`, "InvalidParameterException", "distinctInstance takes no expression"},
		{`"serviceName":"s","taskDefinition":"agent","schedulingStrategy":"SOLO"`, "InvalidParameterException", "SOLO"},
		{daemon + `,"desiredCount":1`, "InvalidParameterException", "The daemon scheduling strategy does not support a desired count for services. Remove the desired count value and try again"},
		{daemon + `,"placementStrategy":[{"type":"random"}]`, "InvalidParameterException", "The daemon scheduling strategy does not support placement strategies. Remove the placement strategy and try again"},
		{daemon + `,"deploymentConfiguration":{"maximumPercent":200}`, "InvalidParameterException", "The daemon scheduling strategy does not support values above 100 for maximumPercent on a deployment configuration. Change the maximumPercent value to 100, and try again"},
		{daemon + `,"deploymentConfiguration":{"minimumHealthyPercent":101}`, "InvalidParameterException", "minimumHealthyPercent"},
		{daemon + `,"capacityProviderStrategy":[{"capacityProvider":"x","weight":1}]`, "InvalidParameterException", "Specifying a capacity provider strategy is not supported when you create a service using the DAEMON scheduling strategy."},
		{daemon + `,"launchType":"EC2","capacityProviderStrategy":[{"capacityProvider":"x","weight":1}]`, "InvalidParameterException", "launch type and capacity provider strategy"},
		{daemon + `,"launchType":"FARGATE"`, "InvalidParameterException", "Fargate"},
		{daemon + `,"availabilityZoneRebalancing":"ENABLED"`, "InvalidParameterException", "availabilityZoneRebalancing"},
		{daemon + `,"deploymentController":{"type":"EXTERNAL"}`, "UnsupportedFeatureException", "deploymentController.type"},
		{daemon + `,"deploymentConfiguration":{"strategy":"BLUE_GREEN"}`, "UnsupportedFeatureException", "deploymentConfiguration.strategy"},
		{daemon + `,"deploymentConfiguration":{"deploymentCircuitBreaker":{"enable":true,"rollback":true,"thresholdConfiguration":{"type":"COUNT","value":0}}}`, "InvalidParameterException", "thresholdConfiguration.value"},
		{daemon + `,"loadBalancers":[{"targetGroupArn":"arn:x","containerName":"main","containerPort":80}]`, "UnsupportedFeatureException", "loadBalancers"},
		{daemon + `,"networkConfiguration":{"awsvpcConfiguration":{"subnets":["x"]}}`, "InvalidParameterException", "Network Configuration is not valid for the given networkMode of this task definition."},
		{daemon + `,"placementConstraints":[{"type":"memberOf","expression":"attribute:env == prod and"}]`, "InvalidParameterException", "Invalid expression"},
		{daemon + `,"placementConstraints":[{"type":"memberOf","expression":"attribute:env == prod and"}]`, "InvalidParameterException", "at character 26"},
		{daemon + `,"placementConstraints":[{"type":"member"}]`, "InvalidParameterException", "[distinctInstance, memberOf]"},
		{daemon + `,"clientToken":"` + strings.Repeat("x", 37) + `"`, "InvalidParameterException", "clientToken"},
		{daemon + `,"tags":[{"key":"a","value":"1"},{"key":"a","value":"2"}]`, "InvalidParameterException", "Duplicate"},
		{daemon + `,"propagateTags":"ALL"`, "InvalidParameterException", "propagateTags"},
		{`"serviceName":"s/t","taskDefinition":"agent","schedulingStrategy":"DAEMON"`, "InvalidParameterException", "s/t"},
		{`"serviceName":"s","schedulingStrategy":"DAEMON"`, "InvalidParameterException", "TaskDefinition can not be blank."},
		{`"serviceName":"s","taskDefinition":"nobody","schedulingStrategy":"DAEMON"`, "ClientException", "TaskDefinition not found."},
		{`"serviceName":"s","taskDefinition":"old:1","schedulingStrategy":"DAEMON"`, "ClientException", "TaskDefinition is inactive"},
		{`"taskDefinition":"agent","schedulingStrategy":"DAEMON"`, "InvalidParameterException", "serviceName"},
	} {
		answer, status := p.call("CreateService", `{"cluster":"daemonset",`+test.body+`}`)
		if message, _ := answer["message"].(string); status != 400 || answer["__type"] != test.code || !strings.Contains(message, test.text) {
			t.Errorf("%s: got %d %v, want %s %q", test.body, status, answer, test.code, test.text)
		}
	}
	if answer, _ := p.call("CreateService", `{"cluster":"nowhere",`+daemon+`}`); answer["__type"] != "ClusterNotFoundException" || answer["message"] != "Cluster not found." {
		t.Errorf("in no cluster: %v", answer)
	}
	_, err = p.admin.DescribeServices(p.ctx, &ecs.DescribeServicesInput{Cluster: aws.String(testCluster), Services: []string{"s"}})
	p.must(err)
	if answer, _ := p.call("DescribeServices", `{"cluster":"daemonset","services":["s"]}`); len(answer["services"].([]any)) != 0 || answer["failures"].([]any)[0].(map[string]any)["reason"] != "MISSING" {
		t.Errorf("refused calls left a service: %v", answer)
	}
}

func TestTerraformsCreateServiceIsUnderstood(t *testing.T) {
	p := newPlane(t)
	p.define("tff", 10, 10)
	body := func(percent string) string {
		return `{"availabilityZoneRebalancing":"DISABLED","capacityProviderStrategy":[],"clientToken":"terraform-20261120041310071400000002",
		 "cluster":"arn:aws:ecs:us-west-2:123456789012:cluster/daemonset","deploymentConfiguration":{"minimumHealthyPercent":` + percent + `},
		 "placementConstraints":[{"expression":"attribute:env == prod","type":"memberOf"}],"schedulingStrategy":"DAEMON",
		 "serviceName":"daemon","tags":[{"key":"a","value":"b"}],"taskDefinition":"arn:aws:ecs:us-west-2:123456789012:task-definition/tff:1","vpcLatticeConfigurations":[]}`
	}
	first, status := p.call("CreateService", body("50"))
	if status != 200 {
		t.Fatalf("%v", first)
	}
	again, status := p.call("CreateService", body("50"))
	if status != 200 || encode(again) != encode(first) {
		t.Errorf("repeated: %v\nfirst: %v", again, first)
	}
	if other, _ := p.call("CreateService", body("0")); other["__type"] != "InvalidParameterException" || other["message"] != "Creation of service was not idempotent." {
		t.Errorf("with other parameters: %v", other)
	}
	s := p.service("daemon")
	if *s.DeploymentConfiguration.MinimumHealthyPercent != 50 || *s.DeploymentConfiguration.MaximumPercent != 100 || *s.PlacementConstraints[0].Expression != "attribute:env == prod" {
		t.Errorf("%+v", s)
	}
}

func TestAnUpdateStartsADeploymentOnlyForWhatRuns(t *testing.T) {
	p := newPlane(t)
	p.define("agent", 10, 10)
	p.define("agent", 20, 20)
	p.register(p.host, 1024, 1000)
	b := p.register(p.host, 1024, 1000)
	first := *p.daemon("s", "agent:1").Deployments[0].Id
	p.submit(p.schedule("s", b), "RUNNING")
	p.settle("s")
	update := func(change func(*ecs.UpdateServiceInput)) types.Service {
		t.Helper()
		in := &ecs.UpdateServiceInput{Cluster: aws.String(testCluster), Service: aws.String("s")}
		change(in)
		out, err := p.admin.UpdateService(p.ctx, in)
		p.must(err)
		return *out.Service
	}
	got := update(func(in *ecs.UpdateServiceInput) {
		in.PlacementConstraints = []types.PlacementConstraint{{Type: types.PlacementConstraintTypeMemberOf, Expression: aws.String("ec2InstanceId == nobody")}}
		in.DeploymentConfiguration = &types.DeploymentConfiguration{MinimumHealthyPercent: aws.Int32(50)}
		in.TaskDefinition = aws.String("agent:1")
		in.EnableECSManagedTags = aws.Bool(true)
	})
	if len(got.Deployments) != 1 || *got.Deployments[0].Id != first || got.DesiredCount != 0 || len(got.PlacementConstraints) != 1 ||
		*got.DeploymentConfiguration.MinimumHealthyPercent != 50 || *got.DeploymentConfiguration.MaximumPercent != 100 || !got.EnableECSManagedTags {
		t.Errorf("after an update without a deployment: %+v", got)
	}
	got = update(func(in *ecs.UpdateServiceInput) { in.PlacementConstraints = []types.PlacementConstraint{} })
	if len(got.PlacementConstraints) != 0 || got.DesiredCount != 2 || *got.DeploymentConfiguration.MinimumHealthyPercent != 50 {
		t.Errorf("after clearing the constraints: %+v", got)
	}
	got = update(func(in *ecs.UpdateServiceInput) { in.TaskDefinition = aws.String("agent") })
	if len(got.Deployments) != 2 || !strings.HasSuffix(*got.TaskDefinition, "agent:2") {
		t.Fatalf("after another task definition: %+v", got)
	}
	primary, old := got.Deployments[0], got.Deployments[1]
	if *primary.Status != "PRIMARY" || primary.RolloutState != types.DeploymentRolloutStateInProgress || primary.DesiredCount != 2 || primary.RunningCount != 0 ||
		*primary.TaskDefinition != *got.TaskDefinition || *old.Status != "ACTIVE" || *old.Id != first || old.RunningCount != 1 || old.DesiredCount != 1 || got.RunningCount != 1 {
		t.Errorf("PRIMARY %+v\nACTIVE %+v", primary, old)
	}
	got = update(func(in *ecs.UpdateServiceInput) { in.ForceNewDeployment = true })
	if len(got.Deployments) != 2 || *got.Deployments[0].Id == *primary.Id || *got.Deployments[1].Id != first {
		t.Errorf("after a forced deployment, the one that never had a task is still there: %+v", got.Deployments)
	}
	for _, test := range []struct{ body, code, text string }{
		{`"service":"s","desiredCount":3`, "InvalidParameterException", "The daemon scheduling strategy does not support a desired count"},
		{`"service":"s","taskDefinition":"agent:9"`, "ClientException", "TaskDefinition not found."},
		{`"service":"s","placementConstraints":[{"type":"memberOf","expression":"("}]`, "InvalidParameterException", "Invalid expression"},
		{`"service":"s","placementStrategy":[{"type":"random"}]`, "InvalidParameterException", "placement strategies"},
		{`"service":"s","deploymentConfiguration":{"maximumPercent":150}`, "InvalidParameterException", "above 100"},
		{`"service":"nobody"`, "ServiceNotFoundException", "Service not found."},
	} {
		if answer, _ := p.call("UpdateService", `{"cluster":"daemonset",`+test.body+`}`); answer["__type"] != test.code || !strings.Contains(fmt.Sprint(answer["message"]), test.text) {
			t.Errorf("%s: %v", test.body, answer)
		}
	}
}

func TestADeletedServiceDrainsAndStaysDescribable(t *testing.T) {
	p := newPlane(t)
	p.define("agent", 10, 10)
	a := p.register(p.host, 1024, 1000)
	p.daemon("idle", "agent")
	out, err := p.admin.DeleteService(p.ctx, &ecs.DeleteServiceInput{Cluster: aws.String(testCluster), Service: aws.String("idle")})
	p.must(err)
	if *out.Service.Status != "INACTIVE" || out.Service.DesiredCount != 0 {
		t.Errorf("a service without tasks: %s, %d", *out.Service.Status, out.Service.DesiredCount)
	}

	created := p.daemon("busy", "agent").CreatedAt
	arn := p.schedule("busy", a)
	p.submit(arn, "RUNNING")
	for range 2 {
		out, err = p.admin.DeleteService(p.ctx, &ecs.DeleteServiceInput{Cluster: aws.String(testCluster), Service: aws.String("busy"), Force: aws.Bool(false)})
		p.must(err)
		if *out.Service.Status != "DRAINING" || out.Service.DesiredCount != 0 || out.Service.RunningCount != 1 {
			t.Errorf("a service with a task: %+v", out.Service)
		}
	}
	_, err = p.admin.UpdateService(p.ctx, &ecs.UpdateServiceInput{Cluster: aws.String(testCluster), Service: aws.String("busy")})
	p.refused(err, "ServiceNotActiveException", "Service was not ACTIVE.")
	_, err = p.admin.CreateService(p.ctx, &ecs.CreateServiceInput{Cluster: aws.String(testCluster), ServiceName: aws.String("busy"), TaskDefinition: aws.String("agent"), SchedulingStrategy: types.SchedulingStrategyDaemon})
	p.refused(err, "InvalidParameterException", "Creation of service was not idempotent.")
	_, err = p.admin.DeleteCluster(p.ctx, &ecs.DeleteClusterInput{Cluster: aws.String(testCluster)})
	if err == nil {
		t.Error("a cluster with a DRAINING service was deleted")
	}

	p.submit(arn, "STOPPED")
	p.settle("busy")
	if s := p.service("busy"); *s.Status != "INACTIVE" || s.RunningCount != 0 {
		t.Errorf("%+v", s)
	}
	list, err := p.admin.ListServices(p.ctx, &ecs.ListServicesInput{Cluster: aws.String(testCluster)})
	if p.must(err); len(list.ServiceArns) != 0 {
		t.Errorf("%q are listed", list.ServiceArns)
	}
	_, err = p.admin.DeleteService(p.ctx, &ecs.DeleteServiceInput{Cluster: aws.String(testCluster), Service: aws.String("busy")})
	p.refused(err, "ServiceNotFoundException", "Service not found.")

	again := p.daemon("busy", "agent")
	if *again.Status != "ACTIVE" || !again.CreatedAt.After(*created) || again.DesiredCount != 1 || again.RunningCount != 0 {
		t.Errorf("created again: %+v", again)
	}
	p.submit(p.schedule("busy", a), "RUNNING")
	if s := p.service("busy"); s.RunningCount != 1 {
		t.Errorf("%d tasks run", s.RunningCount)
	}
}

func TestADaemonHoldsItsSlotUntilItIsStopped(t *testing.T) {
	p := newPlane(t)
	p.define("agent", 10, 10)
	a := p.register(p.host, 1024, 1000)
	p.daemon("s", "agent")
	arn := p.schedule("s", a)
	slot := func() (slot *store.DaemonSlot) {
		p.must(p.store.Read(p.ctx, func(v *store.View) error { slot = v.DaemonSlot(testCluster, "s", a); return nil }))
		return slot
	}
	if s := slot(); s == nil || !strings.HasSuffix(*arn, s.Task) {
		t.Fatalf("slot %+v", s)
	}
	if _, err := p.trySchedule("s", a); !errors.Is(err, store.ErrConflict) {
		t.Errorf("a second daemon beside the first: %v", err)
	}
	p.submit(arn, "RUNNING")
	_, err := p.admin.StopTask(p.ctx, &ecs.StopTaskInput{Cluster: aws.String(testCluster), Task: arn})
	if p.must(err); slot() == nil {
		t.Error("the slot is free while the task still runs")
	}
	p.submit(arn, "STOPPED")
	if s := slot(); s != nil {
		t.Errorf("slot %+v after the end", s)
	}
	p.schedule("s", a)
	list, err := p.admin.ListTasks(p.ctx, &ecs.ListTasksInput{Cluster: aws.String(testCluster), ServiceName: aws.String("s")})
	if p.must(err); len(list.TaskArns) != 1 {
		t.Errorf("%q", list.TaskArns)
	}
	got := p.describe(&list.TaskArns[0])
	if *got.Group != "service:s" || !strings.HasPrefix(*got.StartedBy, "ecs-svc/") {
		t.Errorf("group %s, started by %s", *got.Group, *got.StartedBy)
	}
}

func TestServicesAreListedByTen(t *testing.T) {
	p := newPlane(t)
	p.define("agent", 10, 10)
	for i := range 12 {
		p.daemon(fmt.Sprintf("s%02d", i), "agent", func(in *ecs.CreateServiceInput) {
			if i == 11 {
				in.LaunchType = types.LaunchTypeExternal
			}
		})
	}
	var all []string
	pager := ecs.NewListServicesPaginator(p.admin, &ecs.ListServicesInput{Cluster: aws.String(testCluster)})
	for pages := 0; pager.HasMorePages(); pages++ {
		page, err := pager.NextPage(p.ctx)
		p.must(err)
		if want := []int{10, 2}[pages]; len(page.ServiceArns) != want {
			t.Errorf("page %d has %d services", pages, len(page.ServiceArns))
		}
		all = append(all, page.ServiceArns...)
	}
	if len(all) != 12 || !slices.IsSorted(all) {
		t.Errorf("%q", all)
	}
	list, err := p.admin.ListServices(p.ctx, &ecs.ListServicesInput{Cluster: aws.String(testCluster), LaunchType: types.LaunchTypeExternal, SchedulingStrategy: types.SchedulingStrategyDaemon})
	if p.must(err); len(list.ServiceArns) != 1 || !strings.HasSuffix(list.ServiceArns[0], "/s11") {
		t.Errorf("%q", list.ServiceArns)
	}
	_, err = p.admin.DescribeServices(p.ctx, &ecs.DescribeServicesInput{Cluster: aws.String(testCluster), Services: all})
	p.refused(err, "InvalidParameterException", "10")
	_, err = p.admin.DescribeServices(p.ctx, &ecs.DescribeServicesInput{Cluster: aws.String(testCluster), Services: []string{}})
	p.refused(err, "InvalidParameterException", "Services cannot be empty.")
	_, err = p.admin.DescribeServices(p.ctx, &ecs.DescribeServicesInput{Cluster: aws.String("nowhere"), Services: []string{"s"}})
	p.refused(err, "ClusterNotFoundException", "Cluster not found.")
}

// acceptors are those of the waiters services-stable and services-inactive, as botocore has them. They answer "success",
// "failure" or "" for wait.
var acceptors = map[string]func(*ecs.DescribeServicesOutput) string{
	"services-stable": func(out *ecs.DescribeServicesOutput) string {
		if slices.ContainsFunc(out.Failures, isMissing) || anyService(out, "DRAINING") || anyService(out, "INACTIVE") {
			return "failure"
		}
		for _, s := range out.Services {
			if len(s.Deployments) != 1 || s.RunningCount != s.DesiredCount {
				return ""
			}
		}
		return "success"
	},
	"services-inactive": func(out *ecs.DescribeServicesOutput) string {
		switch {
		case slices.ContainsFunc(out.Failures, isMissing):
			return "failure"
		case anyService(out, "INACTIVE"):
			return "success"
		}
		return ""
	},
}

func isMissing(f types.Failure) bool { return aws.ToString(f.Reason) == "MISSING" }

func anyService(out *ecs.DescribeServicesOutput, status string) bool {
	return slices.ContainsFunc(out.Services, func(s types.Service) bool { return *s.Status == status })
}

func TestTheWaitersOfServicesWaitForWhatTheyPromise(t *testing.T) {
	p := newPlane(t)
	p.define("agent", 10, 10)
	p.define("agent", 20, 20)
	a := p.register(p.host, 1024, 1000)
	step := func(what, stable, inactive string) {
		t.Helper()
		out, err := p.admin.DescribeServices(p.ctx, &ecs.DescribeServicesInput{Cluster: aws.String(testCluster), Services: []string{"s"}})
		p.must(err)
		for waiter, want := range map[string]string{"services-stable": stable, "services-inactive": inactive} {
			if got := acceptors[waiter](out); got != want {
				t.Errorf("%s: %s says %q, want %q", what, waiter, got, want)
			}
		}
	}
	step("before the service", "failure", "failure")
	p.daemon("s", "agent:1")
	step("right after CreateService", "", "")
	arn := p.schedule("s", a)
	step("with a PENDING task", "", "")
	p.submit(arn, "RUNNING")
	step("with a RUNNING task", "success", "")
	_, err := p.admin.UpdateService(p.ctx, &ecs.UpdateServiceInput{Cluster: aws.String(testCluster), Service: aws.String("s"), TaskDefinition: aws.String("agent:2")})
	p.must(err)
	step("right after UpdateService", "", "")
	p.submit(arn, "STOPPED")
	arn = p.schedule("s", a)
	p.submit(arn, "RUNNING")
	step("with two deployments", "", "")
	p.settle("s")
	step("after the deployment", "success", "")
	_, err = p.admin.DeleteService(p.ctx, &ecs.DeleteServiceInput{Cluster: aws.String(testCluster), Service: aws.String("s")})
	p.must(err)
	step("while it is DRAINING", "failure", "")
	p.submit(arn, "STOPPED")
	p.settle("s")
	step("when it is INACTIVE", "failure", "success")
}

func TestAServiceShowsItsOwnEventsNewestFirst(t *testing.T) {
	p := newPlane(t)
	p.define("agent", 10, 10)
	event := func(text string, at time.Time) {
		p.must(p.store.Txn().Create(&store.ServiceEvent{Cluster: testCluster, Service: "s", Object: types.ServiceEvent{
			Id: aws.String(text), CreatedAt: aws.Time(at), Message: aws.String(text)}}).Commit(p.ctx))
	}
	event("of an earlier service", time.Now().Add(-time.Hour))
	created := p.daemon("s", "agent").CreatedAt
	for i := range 101 {
		event(fmt.Sprint(i), created.Add(time.Duration(i)*time.Millisecond))
	}
	events := p.service("s").Events
	if len(events) != 100 || *events[0].Message != "100" || *events[99].Message != "1" {
		t.Errorf("%d events, from %s to %s", len(events), *events[0].Message, *events[len(events)-1].Message)
	}
}

func TestAWordOfTheUserMakesAServiceTryAgain(t *testing.T) {
	p := newPlane(t)
	p.define("agent", 10, 10)
	p.daemon("s", "agent")
	p.must(store.Retry(p.ctx, func() error {
		txn := p.store.Txn()
		p.must(p.store.Read(p.ctx, func(v *store.View) error {
			r := *v.Service(testCluster, "s")
			r.Failures = map[string]store.Failure{"i": {Count: 5, Reason: task.ReasonFailedToStart}}
			txn.Update(&r)
			return nil
		}))
		return txn.Commit(p.ctx)
	}))
	_, err := p.admin.UpdateService(p.ctx, &ecs.UpdateServiceInput{Cluster: aws.String(testCluster), Service: aws.String("s"), ForceNewDeployment: true})
	p.must(err)
	p.must(p.store.Read(p.ctx, func(v *store.View) error {
		if f := v.Service(testCluster, "s").Failures; len(f) != 0 {
			t.Errorf("failures %+v", f)
		}
		return nil
	}))
}
