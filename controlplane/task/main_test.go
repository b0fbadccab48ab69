package task

import (
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"
	"go.uber.org/goleak"

	"github.com/longshore-project/longshore/controlplane/store"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var now = time.Date(2026, 11, 20, 6, 30, 0, 123456789, time.UTC)

func instance() *store.Instance {
	return &store.Instance{Cluster: "daemonset", ID: "e2814b69ab604db2a89dcd0ea8dd1a7b", Object: types.ContainerInstance{
		ContainerInstanceArn: aws.String("arn:aws:ecs:us-west-2:123456789012:container-instance/daemonset/e2814b69ab604db2a89dcd0ea8dd1a7b"),
		Ec2InstanceId:        aws.String("i-0123456789abcdef0"),
		Attributes: []types.Attribute{
			{Name: aws.String("ecs.cpu-architecture"), Value: aws.String("x86_64")},
			{Name: aws.String("ecs.availability-zone"), Value: aws.String("us-west-2a")},
		},
	}}
}

// definition has the containers web and helper; web is essential and has a health check.
func definition() *types.TaskDefinition {
	return &types.TaskDefinition{
		Family:            aws.String("logging-agent"),
		Revision:          3,
		TaskDefinitionArn: aws.String("arn:aws:ecs:us-west-2:123456789012:task-definition/logging-agent:3"),
		NetworkMode:       types.NetworkModeHost,
		ContainerDefinitions: []types.ContainerDefinition{
			{Name: aws.String("web"), Image: aws.String("web:1"), Cpu: 100, Memory: aws.Int32(64), Essential: aws.Bool(true),
				HealthCheck:  &types.HealthCheck{Command: []string{"CMD", "true"}},
				PortMappings: []types.PortMapping{{ContainerPort: aws.Int32(8080), HostPort: aws.Int32(8080), Protocol: types.TransportProtocolTcp}}},
			{Name: aws.String("helper"), Image: aws.String("helper:1"), Cpu: 28, Memory: aws.Int32(128), MemoryReservation: aws.Int32(32), Essential: aws.Bool(false)},
		},
	}
}

func newTask(t testing.TB, change ...func(*Params)) *store.Task {
	t.Helper()
	p := Params{Cluster: "daemonset", Definition: definition(), Instance: instance(), Now: now}
	for _, f := range change {
		f(&p)
	}
	task, err := New(p)
	if err != nil {
		t.Fatal(err)
	}
	return task
}
