package task

import (
	"regexp"
	"slices"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"
	"github.com/google/go-cmp/cmp"

	"github.com/longshore-project/longshore/controlplane/store"
)

func TestATaskReserves(t *testing.T) {
	port := func(c, h int32, p types.TransportProtocol) types.PortMapping {
		return types.PortMapping{ContainerPort: aws.Int32(c), HostPort: aws.Int32(h), Protocol: p}
	}
	with := func(change func(*types.TaskDefinition)) *types.TaskDefinition {
		d := definition()
		change(d)
		return d
	}
	for _, test := range []struct {
		name      string
		def       *types.TaskDefinition
		overrides *types.TaskOverride
		want      store.Resources
	}{
		{"the sum over its containers, a memoryReservation before a memory", definition(), nil,
			store.Resources{CPU: 128, Memory: 96, PortsTCP: []int32{8080}}},
		{"the size of the definition before that of its containers",
			with(func(d *types.TaskDefinition) { d.Cpu, d.Memory = aws.String("256"), aws.String("512") }), nil,
			store.Resources{CPU: 256, Memory: 512, PortsTCP: []int32{8080}}},
		{"the part of a size that is given",
			with(func(d *types.TaskDefinition) { d.Memory = aws.String("1GB") }), nil,
			store.Resources{CPU: 128, Memory: 1024, PortsTCP: []int32{8080}}},
		{"the size of the override before that of the definition",
			with(func(d *types.TaskDefinition) { d.Cpu, d.Memory = aws.String("256"), aws.String("512") }),
			&types.TaskOverride{Cpu: aws.String(".5 vCPU"), Memory: aws.String("2 GB")},
			store.Resources{CPU: 512, Memory: 2048, PortsTCP: []int32{8080}}},
		{"the size of a container override", definition(),
			&types.TaskOverride{ContainerOverrides: []types.ContainerOverride{{Name: aws.String("web"), Cpu: aws.Int32(200), Memory: aws.Int32(100)}}},
			store.Resources{CPU: 228, Memory: 132, PortsTCP: []int32{8080}}},
		{"only static host ports in bridge mode",
			with(func(d *types.TaskDefinition) {
				d.NetworkMode = types.NetworkModeBridge
				d.ContainerDefinitions[0].PortMappings = []types.PortMapping{port(80, 8081, "tcp"), port(81, 0, "tcp"), port(53, 53, "udp"), {ContainerPort: aws.Int32(9)}}
			}), nil,
			store.Resources{CPU: 128, Memory: 96, PortsTCP: []int32{8081}, PortsUDP: []int32{53}}},
		{"container ports in host mode, each once",
			with(func(d *types.TaskDefinition) {
				d.ContainerDefinitions[0].PortMappings = []types.PortMapping{port(90, 0, ""), port(80, 80, "tcp"), port(90, 90, "tcp")}
			}), nil,
			store.Resources{CPU: 128, Memory: 96, PortsTCP: []int32{80, 90}}},
		{"an interface and no host port in awsvpc mode",
			with(func(d *types.TaskDefinition) { d.NetworkMode = types.NetworkModeAwsvpc }), nil,
			store.Resources{CPU: 128, Memory: 96, Interfaces: 1}},
		{"nothing when it asks for nothing",
			&types.TaskDefinition{ContainerDefinitions: []types.ContainerDefinition{{Name: aws.String("a")}}}, nil, store.Resources{}},
	} {
		t.Run(test.name, func(t *testing.T) {
			if diff := cmp.Diff(test.want, Need(test.def, test.overrides)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestSizesAreRead(t *testing.T) {
	for text, want := range map[string]int64{"256": 256, ".25 vCPU": 256, "1 vCPU": 1024, "0.5vcpu": 512, "": 0, "0": 0, "-1": 0, "1e9 vCPU": 0, "NaN vCPU": 0, "lots": 0} {
		if got, err := ParseCPU(text); got != want || (err == nil) != (want > 0) {
			t.Errorf("ParseCPU(%q) = %d, %v; want %d", text, got, err, want)
		}
	}
	for text, want := range map[string]int64{"512": 512, "1GB": 1024, ".5 gb": 512, "1MB": 0, "99999999999999999999": 0} {
		if got, err := ParseMemory(text); got != want || (err == nil) != (want > 0) {
			t.Errorf("ParseMemory(%q) = %d, %v; want %d", text, got, err, want)
		}
	}
}

func TestANewTaskIsPendingAndNamesEverythingItIsMadeOf(t *testing.T) {
	task := newTask(t, func(p *Params) {
		p.Service, p.Deployment = "logging-agent", "ecs-svc/1234567890123456789"
		p.ManagedTags = true
		p.Tags = []types.Tag{{Key: aws.String("team"), Value: aws.String("own")}, {Key: aws.String("team"), Value: aws.String("propagated")}}
		p.LaunchType = types.LaunchTypeExternal
		p.Overrides = &types.TaskOverride{ContainerOverrides: []types.ContainerOverride{{Name: aws.String("helper"), Command: []string{"x"}}}}
	})
	o := task.Object
	if !regexp.MustCompile(`^[0-9a-f]{32}$`).MatchString(task.ID) {
		t.Errorf("id %q is not 32 hexadecimal digits", task.ID)
	}
	prefix := "arn:aws:ecs:us-west-2:123456789012:"
	want := types.Task{
		TaskArn: aws.String(prefix + "task/daemonset/" + task.ID), ClusterArn: aws.String(prefix + "cluster/daemonset"),
		TaskDefinitionArn:    aws.String(prefix + "task-definition/logging-agent:3"),
		ContainerInstanceArn: aws.String(prefix + "container-instance/daemonset/" + task.Instance),
		Group:                aws.String("service:logging-agent"), StartedBy: aws.String("ecs-svc/1234567890123456789"),
		LaunchType: types.LaunchTypeExternal, DesiredStatus: aws.String("RUNNING"), LastStatus: aws.String("PENDING"),
		HealthStatus: types.HealthStatusUnknown, Cpu: aws.String("128"), Memory: aws.String("96"),
		Overrides: &types.TaskOverride{
			ContainerOverrides:            []types.ContainerOverride{{Name: aws.String("web")}, {Name: aws.String("helper"), Command: []string{"x"}}},
			InferenceAcceleratorOverrides: []types.InferenceAcceleratorOverride{},
		},
		Attachments: []types.Attachment{}, Attributes: []types.Attribute{{Name: aws.String("ecs.cpu-architecture"), Value: aws.String("x86_64")}},
		AvailabilityZone: aws.String("us-west-2a"), CreatedAt: aws.Time(now.Truncate(time.Millisecond)), Version: 1,
		Tags: []types.Tag{{Key: aws.String("team"), Value: aws.String("own")},
			{Key: aws.String("aws:ecs:clusterName"), Value: aws.String("daemonset")},
			{Key: aws.String("aws:ecs:serviceName"), Value: aws.String("logging-agent")}},
		Containers: []types.Container{
			{ContainerArn: o.Containers[0].ContainerArn, TaskArn: o.TaskArn, Name: aws.String("web"), Image: aws.String("web:1"), LastStatus: aws.String("PENDING"),
				HealthStatus: types.HealthStatusUnknown, Cpu: aws.String("100"), Memory: aws.String("64"), NetworkBindings: []types.NetworkBinding{}, NetworkInterfaces: []types.NetworkInterface{}},
			{ContainerArn: o.Containers[1].ContainerArn, TaskArn: o.TaskArn, Name: aws.String("helper"), Image: aws.String("helper:1"), LastStatus: aws.String("PENDING"),
				HealthStatus: types.HealthStatusUnknown, Cpu: aws.String("28"), Memory: aws.String("128"), MemoryReservation: aws.String("32"),
				NetworkBindings: []types.NetworkBinding{}, NetworkInterfaces: []types.NetworkInterface{}},
		},
	}
	if !cmp.Equal(want, o, deepEqual) {
		t.Errorf("got  %s\nwant %s", show(o), show(want))
	}
	for _, c := range o.Containers {
		if !regexp.MustCompile(`^` + prefix + `container/daemonset/` + task.ID + `/[0-9a-f-]{36}$`).MatchString(*c.ContainerArn) {
			t.Errorf("container ARN %s", *c.ContainerArn)
		}
	}
}

func TestAStandaloneTaskIsOfItsFamilyUnlessToldOtherwise(t *testing.T) {
	if g := *newTask(t).Object.Group; g != "family:logging-agent" {
		t.Errorf("group %s", g)
	}
	if g := *newTask(t, func(p *Params) { p.Group = "batch" }).Object.Group; g != "batch" {
		t.Errorf("group %s", g)
	}
	task := newTask(t)
	if task.Object.StartedBy != nil || task.Object.LaunchType != types.LaunchTypeEc2 {
		t.Errorf("startedBy %v, launch type %s", task.Object.StartedBy, task.Object.LaunchType)
	}
}

func TestATaskOfAServiceGetsItsTagsAndLaunchType(t *testing.T) {
	svc := &store.Service{Cluster: "daemonset", Object: types.Service{ServiceName: aws.String("s"), LaunchType: types.LaunchTypeExternal,
		PropagateTags: types.PropagateTagsService, EnableECSManagedTags: true, Tags: []types.Tag{{Key: aws.String("a"), Value: aws.String("service")}}}}
	def := &store.TaskDefinition{Object: *definition(), Tags: []types.Tag{{Key: aws.String("a"), Value: aws.String("definition")}}}
	make := func() *store.Task {
		task, err := New(ForService(svc, &types.Deployment{Id: aws.String("ecs-svc/1")}, def, instance(), now))
		if err != nil {
			t.Fatal(err)
		}
		return task
	}
	keys := func(tags []types.Tag) (kv []string) {
		for _, tag := range tags {
			kv = append(kv, *tag.Key+"="+*tag.Value)
		}
		return kv
	}
	task := make()
	if got := keys(task.Object.Tags); !slices.Equal(got, []string{"a=service", "aws:ecs:clusterName=daemonset", "aws:ecs:serviceName=s"}) {
		t.Errorf("tags %q", got)
	}
	if task.Object.LaunchType != types.LaunchTypeExternal || task.Deployment != "ecs-svc/1" || *task.Object.StartedBy != "ecs-svc/1" || task.Service != "s" {
		t.Errorf("%s", show(task.Object))
	}
	svc.Object.PropagateTags, svc.Object.EnableECSManagedTags = types.PropagateTagsTaskDefinition, false
	if got := keys(make().Object.Tags); !slices.Equal(got, []string{"a=definition"}) {
		t.Errorf("tags %q", got)
	}
	svc.Object.PropagateTags = types.PropagateTagsNone
	if got := keys(make().Object.Tags); len(got) != 0 {
		t.Errorf("tags %q", got)
	}
}

func TestAnInstanceWithoutAnARNGetsNoTask(t *testing.T) {
	if _, err := New(Params{Cluster: "c", Definition: definition(), Instance: &store.Instance{ID: "x"}}); err == nil {
		t.Error("a task was made")
	}
}
