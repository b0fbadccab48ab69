package api_test

import (
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"
	smithyhttp "github.com/aws/smithy-go/transport/http"
	"go.uber.org/zap"

	"github.com/longshore-project/longshore/controlplane/auth"
	"github.com/longshore-project/longshore/controlplane/store"
	"github.com/longshore-project/longshore/controlplane/store/storetest"
	"github.com/longshore-project/longshore/protocol/agentapi"
)

// hostKey is a fresh host key: an enrolment key may register any number of instances, another one only one.
func (p *plane) hostKey(enrolment bool) *ecs.Client {
	p.t.Helper()
	k := auth.NewKey(p.seal, store.Key{Role: store.RoleHost, Enrolment: enrolment}, time.Now())
	p.must(p.store.Txn().Create(k.Key).Commit(p.ctx))
	return p.client(k)
}

func (p *plane) instance(id string, include ...types.ContainerInstanceField) types.ContainerInstance {
	p.t.Helper()
	out, err := p.admin.DescribeContainerInstances(p.ctx, &ecs.DescribeContainerInstancesInput{Cluster: aws.String(testCluster), ContainerInstances: []string{id}, Include: include})
	p.must(err)
	if len(out.ContainerInstances) != 1 {
		p.t.Fatalf("DescribeContainerInstances of %s: %+v", id, out)
	}
	return out.ContainerInstances[0]
}

func value(attributes []types.Attribute, name string) string {
	for _, a := range attributes {
		if *a.Name == name {
			return aws.ToString(a.Value)
		}
	}
	return "(none)"
}

// registration is what an agent sends, members in its order, with more before the end.
func registration(more string) string {
	if more != "" {
		more = "," + more
	}
	return `{"attributes":[{"name":"ecs.os-type","value":"linux"},{"name":"ecs.capability.container-ordering"},{"name":"rack","value":"r7"}],
	"clientToken":"7c4d3a50-0000-4000-8000-000000000001","cluster":"daemonset","instanceIdentityDocument":"","instanceIdentityDocumentSignature":"",
	"totalResources":[{"integerValue":2048,"name":"CPU","type":"INTEGER"},{"integerValue":3000,"name":"MEMORY","type":"INTEGER"},
	{"name":"PORTS","stringSetValue":["22","2375"],"type":"STRINGSET"},{"name":"PORTS_UDP","stringSetValue":[],"type":"STRINGSET"}]` + more + `}`
}

func TestARegistrationIsEchoedWithEveryAttribute(t *testing.T) {
	p := newPlane(t)
	answer, status := p.call("RegisterContainerInstance", registration(`"tags":[{"key":"a","value":"b"}],"versionInfo":{"agentVersion":"1.2.3"},"platformDevices":[]`))
	if status != 200 {
		t.Fatal(answer)
	}
	got := answer["containerInstance"].(map[string]any)
	for member, want := range map[string]string{
		"agentConnected": "false", "runningTasksCount": "0", "pendingTasksCount": "0", "status": "ACTIVE", "version": "1", "attachments": "[]",
		"tags":                "[map[key:a value:b]]",
		"versionInfo":         "map[agentVersion:1.2.3]",
		"attributes":          "[map[name:ecs.os-type value:linux] map[name:ecs.capability.container-ordering] map[name:rack value:r7] map[name:ecs.availability-zone value:us-west-2a]]",
		"registeredResources": "[map[doubleValue:0 integerValue:2048 longValue:0 name:CPU type:INTEGER] map[doubleValue:0 integerValue:3000 longValue:0 name:MEMORY type:INTEGER] map[doubleValue:0 integerValue:0 longValue:0 name:PORTS stringSetValue:[22 2375] type:STRINGSET] map[doubleValue:0 integerValue:0 longValue:0 name:PORTS_UDP stringSetValue:[] type:STRINGSET]]",
	} {
		if text := fmt.Sprint(got[member]); text != want {
			t.Errorf("%s is %s\nwant %s", member, text, want)
		}
	}
	arn := got["containerInstanceArn"].(string)
	if !strings.HasPrefix(arn, "arn:aws:ecs:us-west-2:123456789012:container-instance/daemonset/") || len(arn) != len("arn:aws:ecs:us-west-2:123456789012:container-instance/daemonset/")+32 {
		t.Errorf("the ARN is %s", arn)
	}
	again, _ := p.call("RegisterContainerInstance", registration(""))
	if other := again["containerInstance"].(map[string]any)["containerInstanceArn"]; other != arn {
		t.Errorf("the same client token made %v and %v", arn, other)
	}
	if i := p.instance(arn); i.HealthStatus != nil || len(i.Tags) != 0 || i.Tags == nil {
		t.Errorf("without include: %+v", i)
	}
	if i := p.instance(arn, types.ContainerInstanceFieldTags, types.ContainerInstanceFieldContainerInstanceHealth); i.HealthStatus == nil || len(i.Tags) != 1 {
		t.Errorf("with include: %+v", i)
	}
}

func TestTheSameRegistrationSideBySideMakesOneInstance(t *testing.T) {
	p := newPlane(t)
	var wg sync.WaitGroup
	for range 6 {
		wg.Go(func() { p.call("RegisterContainerInstance", registration("")) })
	}
	wg.Wait()
	out, err := p.admin.ListContainerInstances(p.ctx, &ecs.ListContainerInstancesInput{Cluster: aws.String(testCluster)})
	p.must(err)
	if len(out.ContainerInstanceArns) != 1 {
		t.Errorf("there are %v", out.ContainerInstanceArns)
	}
}

func TestAHostThatRegistersAgainKeepsItsInstanceAndWhatOperatorsSaidOfIt(t *testing.T) {
	p := newPlane(t)
	first, _ := p.call("RegisterContainerInstance", registration(""))
	arn := first["containerInstance"].(map[string]any)["containerInstanceArn"].(string)
	_, err := p.admin.PutAttributes(p.ctx, &ecs.PutAttributesInput{Cluster: aws.String(testCluster), Attributes: []types.Attribute{{Name: aws.String("env"), Value: aws.String("prod"), TargetId: &arn}}})
	p.must(err)
	_, err = p.admin.UpdateContainerInstancesState(p.ctx, &ecs.UpdateContainerInstancesStateInput{Cluster: aws.String(testCluster), ContainerInstances: []string{arn}, Status: "DRAINING"})
	p.must(err)
	version := p.instance(arn).Version
	answer, status := p.call("RegisterContainerInstance", `{"cluster":"daemonset","containerInstanceArn":"`+arn+`","clientToken":"other",
		"attributes":[{"name":"ecs.os-type","value":"linux"},{"name":"ecs.capability.full-sync"}],
		"totalResources":[{"integerValue":1024,"name":"CPU","type":"INTEGER"},{"integerValue":2000,"name":"MEMORY","type":"INTEGER"}]}`)
	if status != 200 {
		t.Fatal(answer)
	}
	i := p.instance(arn)
	if answer["containerInstance"].(map[string]any)["containerInstanceArn"] != arn || *i.Status != "DRAINING" || i.Version != version+1 || i.RegisteredResources[0].IntegerValue != 1024 {
		t.Errorf("got %+v", i)
	}
	for name, want := range map[string]string{"env": "prod", "rack": "r7", "ecs.capability.full-sync": "", "ecs.capability.container-ordering": "(none)", "ecs.availability-zone": "us-west-2a"} {
		if got := value(i.Attributes, name); got != want {
			t.Errorf("the attribute %s is %q, want %q", name, got, want)
		}
	}
}

func TestADeregisteredHostGetsANewInstance(t *testing.T) {
	p := newPlane(t)
	first, _ := p.call("RegisterContainerInstance", registration(""))
	arn := first["containerInstance"].(map[string]any)["containerInstanceArn"].(string)
	out, err := p.admin.DeregisterContainerInstance(p.ctx, &ecs.DeregisterContainerInstanceInput{Cluster: aws.String(testCluster), ContainerInstance: &arn})
	p.must(err)
	if *out.ContainerInstance.Status != "INACTIVE" || *p.instance(arn).Status != "INACTIVE" {
		t.Errorf("got %+v", out.ContainerInstance)
	}
	for _, body := range []string{registration(`"containerInstanceArn":"` + arn + `"`), registration("")} {
		again, status := p.call("RegisterContainerInstance", body)
		if status != 200 || again["containerInstance"].(map[string]any)["containerInstanceArn"] == arn {
			t.Errorf("status %d: %v", status, again)
		}
	}
}

func TestAnInstanceOnEC2IsDescribedByItsIdentityDocument(t *testing.T) {
	p := newPlane(t)
	document := `"instanceIdentityDocument":"{\"instanceId\":\"i-0abc\",\"instanceType\":\"t3.large\",\"imageId\":\"ami-1\",\"availabilityZone\":\"us-west-2c\",\"architecture\":\"x86_64\"}"`
	body := `{"cluster":"daemonset",` + document + `,"attributes":[{"name":"ecs.os-type","value":"linux"}]}`
	answer, status := p.call("RegisterContainerInstance", body)
	if status != 200 {
		t.Fatal(answer)
	}
	arn := answer["containerInstance"].(map[string]any)["containerInstanceArn"].(string)
	i := p.instance(arn)
	if aws.ToString(i.Ec2InstanceId) != "i-0abc" {
		t.Errorf("ec2InstanceId is %v", aws.ToString(i.Ec2InstanceId))
	}
	for name, want := range map[string]string{"ecs.instance-type": "t3.large", "ecs.ami-id": "ami-1", "ecs.availability-zone": "us-west-2c", "ecs.cpu-architecture": "x86_64"} {
		if got := value(i.Attributes, name); got != want {
			t.Errorf("the attribute %s is %q, want %q", name, got, want)
		}
	}
	changed := strings.Replace(strings.Replace(body, "t3.large", "m5.large", 1), `"cluster"`, `"containerInstanceArn":"`+arn+`","cluster"`, 1)
	answer, status = p.call("RegisterContainerInstance", changed)
	if status != 400 || answer["__type"] != "ClientException" || answer["message"] != "Container instance type changes are not supported." {
		t.Errorf("status %d: %v", status, answer)
	}
}

func TestAHostOutsideEC2ShowsTheIDThatItGaveItself(t *testing.T) {
	p := newPlane(t)
	answer, _ := p.call("RegisterContainerInstance", `{"cluster":"daemonset","attributes":[{"name":"longshore.instance-id","value":"lh-0123"},{"name":"ecs.availability-zone","value":"cellar"}]}`)
	got := answer["containerInstance"].(map[string]any)
	if got["ec2InstanceId"] != "lh-0123" || !strings.Contains(fmt.Sprint(got["attributes"]), "value:cellar") || strings.Contains(fmt.Sprint(got["attributes"]), "us-west-2a") {
		t.Errorf("got %v", got)
	}
}

func TestOnlyWhatMayHaveBeenARebootMakesAnInstanceJoinAnew(t *testing.T) {
	p := newPlane(t)
	register := func(arn, boot string) string {
		attributes := ""
		if boot != "" {
			attributes = `,"attributes":[{"name":"longshore.boot-id","value":"` + boot + `"}]`
		}
		answer, status := p.call("RegisterContainerInstance", `{"cluster":"daemonset","containerInstanceArn":"`+arn+`"`+attributes+`}`)
		if status != 200 {
			t.Fatalf("status %d: %v", status, answer)
		}
		return answer["containerInstance"].(map[string]any)["containerInstanceArn"].(string)
	}
	joined := func(arn string) (at time.Time) {
		if err := p.store.Read(p.ctx, func(v *store.View) error {
			at = v.Instance(testCluster, arn[strings.LastIndexByte(arn, '/')+1:]).JoinedAt
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		return at
	}
	arn := register("", "boot-1")
	first := joined(arn)
	register(arn, "boot-1")
	if again := joined(arn); !again.Equal(first) {
		t.Errorf("a restart of the agent made it join at %v, after %v", again, first)
	}
	for _, boot := range []string{"boot-2", ""} {
		before := joined(arn)
		for !time.Now().After(before.Add(2 * time.Millisecond)) { // times are kept in milliseconds
			runtime.Gosched()
		}
		register(arn, boot)
		if again := joined(arn); !again.After(before) {
			t.Errorf("registered again with boot %q it still joined at %v", boot, again)
		}
	}
}

func TestNoHostSpeaksForAnothersInstance(t *testing.T) {
	p := newPlane(t)
	mine := p.register(p.hostKey(false), 1024, 1000)
	other := p.hostKey(true)
	arn := "arn:aws:ecs:us-west-2:123456789012:container-instance/" + testCluster + "/" + mine
	cluster := aws.String(testCluster)
	for name, call := range map[string]func() error{
		"RegisterContainerInstance": func() error {
			_, err := other.RegisterContainerInstance(p.ctx, &ecs.RegisterContainerInstanceInput{Cluster: cluster, ContainerInstanceArn: &arn})
			return err
		},
		"DeregisterContainerInstance": func() error {
			_, err := other.DeregisterContainerInstance(p.ctx, &ecs.DeregisterContainerInstanceInput{Cluster: cluster, ContainerInstance: &mine})
			return err
		},
		"UpdateContainerInstancesState": func() error {
			_, err := other.UpdateContainerInstancesState(p.ctx, &ecs.UpdateContainerInstancesStateInput{Cluster: cluster, ContainerInstances: []string{mine}, Status: "DRAINING"})
			return err
		},
		"DiscoverPollEndpoint": func() error {
			_, err := other.DiscoverPollEndpoint(p.ctx, &ecs.DiscoverPollEndpointInput{Cluster: cluster, ContainerInstance: &arn})
			return err
		},
		"ListTagsForResource": func() error {
			_, err := other.ListTagsForResource(p.ctx, &ecs.ListTagsForResourceInput{ResourceArn: &arn})
			return err
		},
	} {
		p.refused(call(), "AccessDeniedException", "is not authorized to perform: ecs:"+name)
	}
	if i := p.instance(mine); *i.Status != "ACTIVE" || i.Version != 1 {
		t.Errorf("the instance was changed: %+v", i)
	}
}

func TestAnOrdinaryHostKeyRegistersOneInstance(t *testing.T) {
	p := newPlane(t)
	ordinary, enrolment := p.hostKey(false), p.hostKey(true)
	in := &ecs.RegisterContainerInstanceInput{Cluster: aws.String(testCluster)}
	_, err := ordinary.RegisterContainerInstance(p.ctx, in)
	p.must(err)
	_, err = ordinary.RegisterContainerInstance(p.ctx, in)
	p.refused(err, "AccessDeniedException", "only an enrolment key may register several")
	for range 2 {
		_, err = enrolment.RegisterContainerInstance(p.ctx, in)
		p.must(err)
	}
}

func TestABadRegistrationIsRefused(t *testing.T) {
	p := newPlane(t)
	resource := func(r string) string { return `{"cluster":"daemonset","totalResources":[` + r + `]}` }
	for body, want := range map[string]string{
		`{}`:                 "ClusterNotFoundException: Cluster not found.",
		`{"cluster":"none"}`: "ClusterNotFoundException: Cluster not found.",
		resource(`{"name":"CPU","type":"STRINGSET"}`):                             "InvalidParameterException: The resource CPU has the type",
		resource(`{"name":"CPU","type":"INTEGER","integerValue":-1}`):             "InvalidParameterException: The resource CPU is -1",
		resource(`{"name":"PORTS","type":"STRINGSET","stringSetValue":["http"]}`): "InvalidParameterException: The resource PORTS has the port",
		resource(`{"type":"INTEGER"}`):                                            "InvalidParameterException: A resource of totalResources has no name.",
		`{"cluster":"daemonset","instanceIdentityDocument":"{"}`:                  "InvalidParameterException: The instanceIdentityDocument is not valid",
		`{"cluster":"daemonset","attributes":[{"name":"a b"}]}`:                   "InvalidParameterException: The attribute name",
		`{"cluster":"daemonset","containerInstanceArn":"arn:aws:ecs:us-west-2:123456789012:container-instance/other/0123456789abcdef0123456789abcdef"}`: "InvalidParameterException: Invalid identifier: Identifier is for cluster other.",
	} {
		answer, status := p.call("RegisterContainerInstance", body)
		if got := fmt.Sprint(answer["__type"], ": ", answer["message"]); status != 400 || !strings.HasPrefix(got, want) {
			t.Errorf("%s: status %d: %s\nwant %s", body, status, got, want)
		}
	}
}

func TestConnectionTasksAndResourcesOfAnInstanceAreComputed(t *testing.T) {
	p := newPlane(t)
	id := p.register(p.host, 1024, 1000)
	arn := p.run(&ecs.RunTaskInput{TaskDefinition: aws.String(p.define("f", 100, 64, port(8080)))}).Tasks[0].TaskArn
	resources := func(list []types.Resource) string {
		var s []string
		for _, r := range list {
			s = append(s, fmt.Sprint(*r.Name, r.IntegerValue, r.StringSetValue))
		}
		return strings.Join(s, " ")
	}
	i := p.instance(id)
	if !i.AgentConnected || i.PendingTasksCount != 1 || resources(i.RemainingResources) != "CPU924 [] MEMORY936 [] PORTS0 [22 8080] PORTS_UDP0 []" {
		t.Errorf("connected %v, pending %d, %s", i.AgentConnected, i.PendingTasksCount, resources(i.RemainingResources))
	}
	p.submit(arn, "RUNNING")
	if i = p.instance(id); i.PendingTasksCount != 0 || i.RunningTasksCount != 1 {
		t.Errorf("running %d, pending %d", i.RunningTasksCount, i.PendingTasksCount)
	}
	_, err := p.admin.StopTask(p.ctx, &ecs.StopTaskInput{Cluster: aws.String(testCluster), Task: arn})
	p.must(err)
	if i = p.instance(id); i.RunningTasksCount != 0 || !strings.Contains(resources(i.RemainingResources), "8080") {
		t.Errorf("a task being stopped: running %d, %s", i.RunningTasksCount, resources(i.RemainingResources))
	}
	p.submit(arn, "STOPPED")
	if i = p.instance(id); resources(i.RemainingResources) != resources(i.RegisteredResources) {
		t.Errorf("after the task: %s", resources(i.RemainingResources))
	}
}

func TestInstancesAreListedByStatusAndExpression(t *testing.T) {
	p := newPlane(t)
	a, b, gone := p.register(p.host, 1, 1), p.register(p.host, 1, 1), p.register(p.host, 1, 1)
	cluster := aws.String(testCluster)
	_, err := p.admin.DeregisterContainerInstance(p.ctx, &ecs.DeregisterContainerInstanceInput{Cluster: cluster, ContainerInstance: &gone})
	p.must(err)
	_, err = p.admin.UpdateContainerInstancesState(p.ctx, &ecs.UpdateContainerInstancesStateInput{Cluster: cluster, ContainerInstances: []string{b}, Status: "DRAINING"})
	p.must(err)
	_, err = p.admin.PutAttributes(p.ctx, &ecs.PutAttributesInput{Cluster: cluster, Attributes: []types.Attribute{{Name: aws.String("env"), Value: aws.String("prod"), TargetId: &a}}})
	p.must(err)
	for _, c := range []struct {
		filter string
		status types.ContainerInstanceStatus
		want   []string
	}{
		{"", "", []string{a, b}}, {"", "ACTIVE", []string{a}}, {"", "DRAINING", []string{b}}, {"", "REGISTERING", nil},
		{"attribute:env==prod", "", []string{a}}, {"attribute:env !exists", "", []string{b}}, {"runningTasksCount < 1 and agentConnected == true", "", []string{a, b}},
		{"attribute:env==prod", "DRAINING", nil},
	} {
		out, err := p.admin.ListContainerInstances(p.ctx, &ecs.ListContainerInstancesInput{Cluster: cluster, Filter: &c.filter, Status: c.status})
		p.must(err)
		var got []string
		for _, arn := range out.ContainerInstanceArns {
			got = append(got, arn[strings.LastIndex(arn, "/")+1:])
		}
		slices.Sort(c.want)
		if !slices.Equal(got, c.want) {
			t.Errorf("filter %q, status %q: %v, want %v", c.filter, c.status, got, c.want)
		}
	}
	_, err = p.admin.ListContainerInstances(p.ctx, &ecs.ListContainerInstancesInput{Cluster: cluster, Filter: aws.String("attribute:env === prod")})
	p.refused(err, "InvalidParameterException", "Invalid expression")
	_, err = p.admin.ListContainerInstances(p.ctx, &ecs.ListContainerInstancesInput{Cluster: cluster, Status: "ASLEEP"})
	p.refused(err, "InvalidParameterException", "status should be one of")
}

func TestStatesChangeOnlyBetweenActiveAndDraining(t *testing.T) {
	p := newPlane(t)
	a, gone := p.register(p.host, 1, 1), p.register(p.host, 1, 1)
	cluster := aws.String(testCluster)
	_, err := p.admin.DeregisterContainerInstance(p.ctx, &ecs.DeregisterContainerInstanceInput{Cluster: cluster, ContainerInstance: &gone})
	p.must(err)
	absent := strings.Repeat("0", 32)
	out, err := p.admin.UpdateContainerInstancesState(p.ctx, &ecs.UpdateContainerInstancesStateInput{Cluster: cluster, ContainerInstances: []string{a, gone, absent}, Status: "DRAINING"})
	p.must(err)
	if len(out.ContainerInstances) != 1 || *out.ContainerInstances[0].Status != "DRAINING" || len(out.Failures) != 2 ||
		*out.Failures[0].Reason != "INACTIVE" || *out.Failures[1].Reason != "MISSING" {
		t.Errorf("got %+v, failures %+v", out.ContainerInstances, out.Failures)
	}
	back, err := p.host.UpdateContainerInstancesState(p.ctx, &ecs.UpdateContainerInstancesStateInput{Cluster: cluster, ContainerInstances: []string{a}, Status: "ACTIVE"})
	p.must(err)
	if *back.ContainerInstances[0].Status != "ACTIVE" {
		t.Errorf("got %+v", back.ContainerInstances)
	}
	_, err = p.admin.UpdateContainerInstancesState(p.ctx, &ecs.UpdateContainerInstancesStateInput{Cluster: cluster, ContainerInstances: []string{a}, Status: "REGISTERING"})
	p.refused(err, "InvalidParameterException", "Container instance status should be one of [ACTIVE, DRAINING]")
	_, err = p.admin.UpdateContainerInstancesState(p.ctx, &ecs.UpdateContainerInstancesStateInput{Cluster: cluster, ContainerInstances: slices.Repeat([]string{a}, 11), Status: "ACTIVE"})
	p.refused(err, "InvalidParameterException", "at most 10")
}

func TestOnlyAHostThatSaysThatItGoesDownStopsItsDaemonsItself(t *testing.T) {
	p := newPlane(t)
	arn := p.register(p.host, 1, 1)
	goesDown := ecs.WithAPIOptions(smithyhttp.SetHeaderValue(agentapi.DepartureHeader, "daemons-last"))
	set := func(by *ecs.Client, status types.ContainerInstanceStatus, options ...func(*ecs.Options)) (itself bool) {
		t.Helper()
		_, err := by.UpdateContainerInstancesState(p.ctx, &ecs.UpdateContainerInstancesStateInput{Cluster: aws.String(testCluster), ContainerInstances: []string{arn}, Status: status}, options...)
		p.must(err)
		p.must(p.store.Read(p.ctx, func(v *store.View) error {
			itself = v.Instance(testCluster, arn[len(arn)-32:]).DrainedItself
			return nil
		}))
		return itself
	}
	for _, c := range []struct {
		who     string
		by      *ecs.Client
		options []func(*ecs.Options)
		want    bool
	}{
		{"a host that goes down", p.host, []func(*ecs.Options){goesDown}, true},
		{"a host that leaves for good", p.host, nil, false},
		{"an operator", p.admin, nil, false},
		{"an operator who says what only a host can", p.admin, []func(*ecs.Options){goesDown}, false},
	} {
		if set(c.by, types.ContainerInstanceStatusDraining, c.options...) != c.want || set(p.host, types.ContainerInstanceStatusActive, goesDown) {
			t.Errorf("%s: its daemons are its own to stop, or not, and never once it is ACTIVE; want %v", c.who, c.want)
		}
	}
}

func TestAnInstanceWithTasksIsDeregisteredOnlyByForce(t *testing.T) {
	p := newPlane(t)
	id := p.register(p.host, 100_000, 100_000)
	definition := p.define("f", 1, 6)
	const tasks = 50 // more than fit in one transaction
	for range tasks / 10 {
		p.run(&ecs.RunTaskInput{TaskDefinition: &definition, Count: aws.Int32(10)})
	}
	cluster := aws.String(testCluster)
	_, err := p.admin.DeregisterContainerInstance(p.ctx, &ecs.DeregisterContainerInstanceInput{Cluster: cluster, ContainerInstance: &id})
	p.refused(err, "InvalidParameterException", "Found running tasks on the instance.")
	out, err := p.admin.DeregisterContainerInstance(p.ctx, &ecs.DeregisterContainerInstanceInput{Cluster: cluster, ContainerInstance: &id, Force: aws.Bool(true)})
	p.must(err)
	if *out.ContainerInstance.Status != "INACTIVE" || out.ContainerInstance.RunningTasksCount != 0 {
		t.Errorf("got %+v", out.ContainerInstance)
	}
	list, err := p.admin.ListTasks(p.ctx, &ecs.ListTasksInput{Cluster: cluster, DesiredStatus: types.DesiredStatusStopped})
	p.must(err)
	if len(list.TaskArns) != tasks {
		t.Errorf("%d tasks are stopped", len(list.TaskArns))
	}
	if task := p.describe(&list.TaskArns[0]); *task.LastStatus != "STOPPED" || *task.StoppedReason != "Container instance deregistration forced by user" || task.StopCode != types.TaskStopCodeUserInitiated {
		t.Errorf("got %+v", task)
	}
	again, err := p.admin.DeregisterContainerInstance(p.ctx, &ecs.DeregisterContainerInstanceInput{Cluster: cluster, ContainerInstance: &id})
	p.must(err)
	if *again.ContainerInstance.Status != "INACTIVE" {
		t.Errorf("a second call: %+v", again.ContainerInstance)
	}
	_, err = p.admin.DeregisterContainerInstance(p.ctx, &ecs.DeregisterContainerInstanceInput{Cluster: cluster, ContainerInstance: aws.String(strings.Repeat("0", 32))})
	p.refused(err, "InvalidParameterException", "The referenced container instance was not found.")
}

func TestInstancesThatDoNotExistAreFailures(t *testing.T) {
	p := newPlane(t)
	id := p.register(p.host, 1, 1)
	absent := strings.Repeat("a", 32)
	dashed := fmt.Sprintf("%s-%s-%s-%s-%s", id[:8], id[8:12], id[12:16], id[16:20], id[20:])
	out, err := p.admin.DescribeContainerInstances(p.ctx, &ecs.DescribeContainerInstancesInput{Cluster: aws.String(testCluster), ContainerInstances: []string{dashed, absent}})
	p.must(err)
	if len(out.ContainerInstances) != 1 || len(out.Failures) != 1 || *out.Failures[0].Reason != "MISSING" ||
		*out.Failures[0].Arn != "arn:aws:ecs:us-west-2:123456789012:container-instance/daemonset/"+absent {
		t.Errorf("got %+v, failures %+v", out.ContainerInstances, out.Failures)
	}
	if answer, status := p.call("DescribeContainerInstances", `{"cluster":"daemonset","containerInstances":[]}`); status != 400 || answer["__type"] != "ClientException" || answer["message"] != "Container Instances cannot be empty." {
		t.Errorf("an empty list: %v", answer)
	}
	if answer, status := p.call("DescribeContainerInstances", `{"cluster":"daemonset"}`); status != 400 || answer["message"] != "Container Instances cannot be empty." {
		t.Errorf("no list: %v", answer)
	}
	_, err = p.admin.UpdateContainerAgent(p.ctx, &ecs.UpdateContainerAgentInput{Cluster: aws.String(testCluster), ContainerInstance: &id})
	p.refused(err, "NoUpdateAvailableException", "There is no update available")
}

func TestAnAgentFindsItsEndpointsWhereItFoundTheAPI(t *testing.T) {
	p := newPlane(t)
	id := p.register(p.host, 1, 1)
	answer, status := p.call("DiscoverPollEndpoint", `{"cluster":"daemonset","containerInstance":"`+id+`","zoneId":""}`)
	if status != 200 || answer["endpoint"] != p.url+"/acs/" || answer["telemetryEndpoint"] != p.url+"/tcs/" {
		t.Errorf("status %d: %v", status, answer)
	}
}

func TestANearlyFullStoreLetsHostsComeBackAndThingsGo(t *testing.T) {
	client := storetest.Etcd(t)
	p := newPlaneOn(t, storetest.Open(t, client))
	id := p.register(p.host, 1, 1)
	p.define("f", 1, 6)
	cluster := aws.String(testCluster)
	_, err := p.admin.PutAttributes(p.ctx, &ecs.PutAttributesInput{Cluster: cluster, Attributes: []types.Attribute{{Name: aws.String("a"), TargetId: &id}}})
	p.must(err)
	full := storetest.OpenWith(t, store.Config{Client: client, FullAt: 1e-9, SpaceInterval: time.Millisecond, Log: zap.NewNop()})
	for !full.Space().Full {
		select {
		case <-time.After(time.Millisecond):
		case <-p.ctx.Done():
			t.Fatal("the store does not notice that it is full")
		}
	}
	p.serve(full)
	_, err = p.host.RegisterContainerInstance(p.ctx, &ecs.RegisterContainerInstanceInput{Cluster: cluster})
	p.refused(err, "ThrottlingException", "Rate exceeded")
	p.disconnect(id)
	_, err = p.host.RegisterContainerInstance(p.ctx, &ecs.RegisterContainerInstanceInput{Cluster: cluster, ContainerInstanceArn: &id})
	p.must(err)
	_, err = p.admin.UpdateContainerInstancesState(p.ctx, &ecs.UpdateContainerInstancesStateInput{Cluster: cluster, ContainerInstances: []string{id}, Status: "DRAINING"})
	p.must(err)
	_, err = p.admin.DeleteAttributes(p.ctx, &ecs.DeleteAttributesInput{Cluster: cluster, Attributes: []types.Attribute{{Name: aws.String("a"), TargetId: &id}}})
	p.must(err)
	_, err = p.admin.DeregisterTaskDefinition(p.ctx, &ecs.DeregisterTaskDefinitionInput{TaskDefinition: aws.String("f:1")})
	p.must(err)
	_, err = p.admin.DeleteTaskDefinitions(p.ctx, &ecs.DeleteTaskDefinitionsInput{TaskDefinitions: []string{"f:1"}})
	p.must(err)
	_, err = p.admin.DeregisterContainerInstance(p.ctx, &ecs.DeregisterContainerInstanceInput{Cluster: cluster, ContainerInstance: &id})
	p.must(err)
	_, err = p.admin.DeleteCluster(p.ctx, &ecs.DeleteClusterInput{Cluster: cluster})
	p.must(err)
	_, err = p.admin.CreateCluster(p.ctx, &ecs.CreateClusterInput{})
	p.refused(err, "ThrottlingException", "Rate exceeded")
}

func TestNoTaskIsLeftOnAnInstanceThatGoesWhileTasksArePlaced(t *testing.T) {
	p := newPlane(t)
	definition := p.define("f", 1, 6)
	cluster := aws.String(testCluster)
	for range 5 {
		id := p.register(p.host, 100_000, 100_000)
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() {
				for range 3 {
					// Whether it is placed or refused depends on who comes first.
					_, _ = p.admin.RunTask(p.ctx, &ecs.RunTaskInput{Cluster: cluster, TaskDefinition: &definition, Count: aws.Int32(2)})
				}
			})
		}
		wg.Go(func() {
			if _, err := p.admin.DeregisterContainerInstance(p.ctx, &ecs.DeregisterContainerInstanceInput{Cluster: cluster, ContainerInstance: &id, Force: aws.Bool(true)}); err != nil {
				t.Error(err)
			}
		})
		wg.Wait()
		left, err := p.admin.ListTasks(p.ctx, &ecs.ListTasksInput{Cluster: cluster})
		p.must(err)
		if r, n := p.reserved(id); len(left.TaskArns) != 0 || n != 0 {
			t.Errorf("%d tasks are left, %d hold %+v", len(left.TaskArns), n, r)
		}
	}
}
