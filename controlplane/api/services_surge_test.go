package api_test

import (
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"

	"github.com/longshore-project/longshore/controlplane/scheduler/policy"
)

// What makes two daemons on one instance impossible is refused by name: when the service is created, updated and tagged.
func TestADaemonSurgeThatIsImpossibleIsRefused(t *testing.T) {
	p := newPlane(t)
	tags := []types.Tag{{Key: aws.String(policy.DaemonSurge), Value: aws.String("true")}}
	p.define("free", 10, 10)
	p.define("port", 10, 10, func(in *ecs.RegisterTaskDefinitionInput) {
		in.ContainerDefinitions[0].PortMappings = []types.PortMapping{{ContainerPort: aws.Int32(80), HostPort: aws.Int32(8080)}}
	})
	_, err := p.admin.CreateService(p.ctx, &ecs.CreateServiceInput{Cluster: aws.String(testCluster), ServiceName: aws.String("s"), TaskDefinition: aws.String("port"),
		SchedulingStrategy: types.SchedulingStrategyDaemon, Tags: tags})
	p.refused(err, "InvalidParameterException", "longshore:daemon-surge can't be had with task definition port:1")
	p.refused(err, "InvalidParameterException", "static host ports 8080/tcp")
	p.daemon("s", "free", func(in *ecs.CreateServiceInput) { in.Tags = tags })
	_, err = p.admin.UpdateService(p.ctx, &ecs.UpdateServiceInput{Cluster: aws.String(testCluster), Service: aws.String("s"), TaskDefinition: aws.String("port")})
	p.refused(err, "InvalidParameterException", "static host ports 8080/tcp")
	other := p.daemon("other", "port")
	_, err = p.admin.TagResource(p.ctx, &ecs.TagResourceInput{ResourceArn: other.ServiceArn, Tags: tags})
	p.refused(err, "InvalidParameterException", "static host ports 8080/tcp")
	_, err = p.admin.TagResource(p.ctx, &ecs.TagResourceInput{ResourceArn: other.ServiceArn, Tags: []types.Tag{{Key: aws.String(policy.DaemonSurge), Value: aws.String("perhaps")}}})
	p.refused(err, "InvalidParameterException", "it may be true, false, writable-volumes")
	_, err = p.admin.UpdateService(p.ctx, &ecs.UpdateServiceInput{Cluster: aws.String(testCluster), Service: aws.String("s"),
		DeploymentConfiguration: &types.DeploymentConfiguration{MaximumPercent: aws.Int32(200)}})
	p.refused(err, "InvalidParameterException", "values above 100 for maximumPercent")
	_, err = p.admin.CreateService(p.ctx, &ecs.CreateServiceInput{Cluster: aws.String(testCluster), ServiceName: aws.String("r"), TaskDefinition: aws.String("free"), DesiredCount: aws.Int32(1), Tags: tags})
	p.refused(err, "InvalidParameterException", "the tag longshore:daemon-surge does nothing for services of the scheduling strategy REPLICA; it is for services of the scheduling strategy DAEMON")
	replica, err := p.admin.CreateService(p.ctx, &ecs.CreateServiceInput{Cluster: aws.String(testCluster), ServiceName: aws.String("r"), TaskDefinition: aws.String("free"), DesiredCount: aws.Int32(1)})
	p.must(err)
	for arn, key := range map[string]string{
		*replica.Service.ServiceArn: policy.DaemonSurge, *other.ServiceArn: policy.LostHost,
		"arn:aws:ecs:us-west-2:123456789012:cluster/" + testCluster: policy.MakeRoom,
	} {
		_, err = p.admin.TagResource(p.ctx, &ecs.TagResourceInput{ResourceArn: aws.String(arn), Tags: []types.Tag{{Key: aws.String(key), Value: aws.String(map[bool]string{true: "keep", false: "true"}[key == policy.LostHost])}}})
		p.refused(err, "InvalidParameterException", "the tag "+key+" does nothing for ")
	}
}
