package task

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"
	"github.com/google/uuid"

	"github.com/longshore-project/longshore/controlplane/store"
	"github.com/longshore-project/longshore/protocol/arn"
)

// Params is what a task is made of.
type Params struct {
	ID         string // 32 hexadecimal digits; default random
	Cluster    string // name
	Definition *types.TaskDefinition
	Instance   *store.Instance  // where it is placed
	Service    string           // name; empty for a standalone task
	Deployment string           // id of the service's deployment
	Group      string           // default service:<name>, or family:<family> for a standalone task
	StartedBy  string           // default the deployment
	LaunchType types.LaunchType // as asked; default EC2. It does not restrict the instance.
	Overrides  *types.TaskOverride
	Tags       []types.Tag // the caller's, then propagated ones; of two with one key the first counts
	// ManagedTags adds aws:ecs:clusterName and aws:ecs:serviceName.
	ManagedTags          bool
	EnableExecuteCommand bool
	ClientToken          string // of RunTask
	// Interfaces are those of a task in network mode awsvpc.
	Interfaces []store.Interface
	Now        time.Time
}

// ForService are the parameters of a task of a service's deployment.
func ForService(svc *store.Service, deployment *types.Deployment, def *store.TaskDefinition, inst *store.Instance, now time.Time) Params {
	launch := deployment.LaunchType
	if launch == "" {
		launch = svc.Object.LaunchType
	}
	return Params{
		Cluster:              svc.Cluster,
		Definition:           &def.Object,
		Instance:             inst,
		Service:              aws.ToString(svc.Object.ServiceName),
		Deployment:           aws.ToString(deployment.Id),
		LaunchType:           launch,
		Tags:                 Propagated(svc.Object.PropagateTags, svc.Object.Tags, def.Tags),
		ManagedTags:          svc.Object.EnableECSManagedTags,
		EnableExecuteCommand: svc.Object.EnableExecuteCommand,
		Now:                  now,
	}
}

// Propagated are the tags a task gets from its service or from its definition.
func Propagated(from types.PropagateTags, service, definition []types.Tag) []types.Tag {
	switch from {
	case types.PropagateTagsService:
		return service
	case types.PropagateTagsTaskDefinition:
		return definition
	}
	return nil
}

// New makes a task's record, ready to be placed on p.Instance: PENDING, desired RUNNING, with fresh ids. Region and account
// of its ARNs are those of the instance's.
func New(p Params) (*store.Task, error) {
	instanceARN := aws.ToString(p.Instance.Object.ContainerInstanceArn)
	host, err := arn.Parse(instanceARN)
	if err != nil {
		return nil, fmt.Errorf("making a task on container instance %s: %w", p.Instance.ID, err)
	}
	owner := arn.Owner{Region: host.Region, Account: host.Account}
	if len(p.Definition.ContainerDefinitions) == 0 {
		return nil, errors.New("making a task: task definition " + aws.ToString(p.Definition.TaskDefinitionArn) + " has no containers")
	}
	id := p.ID
	if id == "" {
		id = arn.NewID()
	}
	need := Need(p.Definition, p.Overrides)
	t := &store.Task{
		Cluster:     p.Cluster,
		ID:          id,
		Instance:    p.Instance.ID,
		Service:     p.Service,
		Deployment:  p.Deployment,
		Reserved:    need,
		Interfaces:  p.Interfaces,
		ClientToken: p.ClientToken,

		TaskCredentialsID: uuid.NewString(), ExecutionCredentialsID: uuid.NewString(),
		Object: types.Task{
			TaskArn:              aws.String(owner.Task(p.Cluster, id)),
			ClusterArn:           aws.String(owner.Cluster(p.Cluster)),
			TaskDefinitionArn:    p.Definition.TaskDefinitionArn,
			ContainerInstanceArn: aws.String(instanceARN),
			Group:                aws.String(p.group()),
			LaunchType:           p.launchType(),
			DesiredStatus:        aws.String(Running),
			LastStatus:           aws.String(firstStatus(p.Interfaces)),
			HealthStatus:         types.HealthStatusUnknown,
			Cpu:                  aws.String(strconv.FormatInt(need.CPU, 10)),
			Memory:               aws.String(strconv.FormatInt(need.Memory, 10)),
			Overrides:            echoOverrides(p.Definition, p.Overrides),
			Attachments:          attachments(p.Interfaces),
			Attributes:           taskAttributes(p.Instance),
			AvailabilityZone:     attribute(p.Instance, "ecs.availability-zone"),
			CreatedAt:            stamp(p.Now),
			EnableExecuteCommand: p.EnableExecuteCommand,
			Tags:                 p.tags(),
			Version:              1,
		},
	}
	if by := first(nonEmpty(p.StartedBy), nonEmpty(p.Deployment)); by != nil {
		t.Object.StartedBy = by
	}
	for i := range p.Definition.ContainerDefinitions {
		c := &p.Definition.ContainerDefinitions[i]
		made := newContainer(c, overrideOf(p.Overrides, aws.ToString(c.Name)))
		made.NetworkInterfaces = networkInterfaces(p.Interfaces)
		made.TaskArn, made.ContainerArn = t.Object.TaskArn, aws.String(owner.Container(p.Cluster, id, uuid.NewString()))
		t.Object.Containers = append(t.Object.Containers, made)
	}
	return t, nil
}

func newContainer(c *types.ContainerDefinition, o *types.ContainerOverride) types.Container {
	s := sizeOf(c, o)
	return types.Container{
		Name:              c.Name,
		Image:             c.Image,
		LastStatus:        aws.String(Pending),
		HealthStatus:      types.HealthStatusUnknown,
		Cpu:               aws.String(strconv.FormatInt(s.cpu, 10)),
		Memory:            decimal(s.memory),
		MemoryReservation: decimal(s.reservation),
		NetworkBindings:   []types.NetworkBinding{},
	}
}

// echoOverrides is the override as a task shows it: one entry for each container, in the order of the definition.
func echoOverrides(def *types.TaskDefinition, o *types.TaskOverride) *types.TaskOverride {
	var echo types.TaskOverride
	if o != nil {
		echo = *o
	}
	if echo.InferenceAcceleratorOverrides == nil {
		echo.InferenceAcceleratorOverrides = []types.InferenceAcceleratorOverride{}
	}
	echo.ContainerOverrides = make([]types.ContainerOverride, 0, len(def.ContainerDefinitions))
	for _, c := range def.ContainerDefinitions {
		if given := overrideOf(o, aws.ToString(c.Name)); given != nil {
			echo.ContainerOverrides = append(echo.ContainerOverrides, *given)
		} else {
			echo.ContainerOverrides = append(echo.ContainerOverrides, types.ContainerOverride{Name: c.Name})
		}
	}
	return &echo
}

func (p *Params) group() string {
	switch {
	case p.Group != "":
		return p.Group
	case p.Service != "":
		return "service:" + p.Service
	}
	return "family:" + aws.ToString(p.Definition.Family)
}

func (p *Params) launchType() types.LaunchType {
	if p.LaunchType == "" {
		return types.LaunchTypeEc2
	}
	return p.LaunchType
}

func (p *Params) tags() []types.Tag {
	all := slices.Clone(p.Tags)
	if p.ManagedTags {
		all = append(all, types.Tag{Key: aws.String("aws:ecs:clusterName"), Value: aws.String(p.Cluster)})
		if p.Service != "" {
			all = append(all, types.Tag{Key: aws.String("aws:ecs:serviceName"), Value: aws.String(p.Service)})
		}
	}
	tags, seen := []types.Tag{}, map[string]bool{}
	for _, tag := range all {
		if key := aws.ToString(tag.Key); !seen[key] {
			seen[key] = true
			tags = append(tags, tag)
		}
	}
	return tags
}

// taskAttributes are the attributes of the instance that a task repeats.
func taskAttributes(inst *store.Instance) []types.Attribute {
	const name = "ecs.cpu-architecture"
	if v := attribute(inst, name); v != nil {
		return []types.Attribute{{Name: aws.String(name), Value: v}}
	}
	return []types.Attribute{}
}

// attribute is the value of an instance's attribute, nil when it has none of that name or it has no value.
func attribute(inst *store.Instance, name string) *string {
	for _, a := range inst.Object.Attributes {
		if aws.ToString(a.Name) == name {
			return nonEmpty(aws.ToString(a.Value))
		}
	}
	return nil
}

func nonEmpty(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

func decimal(v *int64) *string {
	if v == nil {
		return nil
	}
	return aws.String(strconv.FormatInt(*v, 10))
}
