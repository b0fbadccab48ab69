package api

import (
	"context"
	"encoding/json"
	"errors"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"

	"github.com/longshore-project/longshore/controlplane/scheduler"
	"github.com/longshore-project/longshore/controlplane/scheduler/placement"
	"github.com/longshore-project/longshore/controlplane/store"
	"github.com/longshore-project/longshore/controlplane/task"
)

// OwnTargetPrefix is what stands before the name in the header X-Amz-Target of an operation that ECS does not have. These
// are signed as all others are, and take and answer plain JSON.
const OwnTargetPrefix = "LongshoreV1."

// explainOperation asks why things are as they are, and how they would be. Administrators and readers may.
const explainOperation = "Explain"

// ExplainInput asks for an explanation. Kind says of what, and which members count:
//
//	service         Service
//	task            Task
//	host            ContainerInstances, one
//	placement       TaskDefinition, Count, Group, PlacementConstraints, PlacementStrategy, Subnets, SecurityGroups: where would
//	                RunTask place it?
//	update-service  Service, TaskDefinition, DesiredCount, ForceNewDeployment: what would that stop and start?
//	put-attributes  ContainerInstances, Attributes, where a null value takes the attribute away
//	drain           ContainerInstances
//
// Names, ids and ARNs are taken as in the ECS API; Cluster absent is the cluster default.
type ExplainInput struct {
	Kind                 string             `json:"kind"`
	Cluster              string             `json:"cluster,omitempty"`
	Service              string             `json:"service,omitempty"`
	Task                 string             `json:"task,omitempty"`
	ContainerInstances   []string           `json:"containerInstances,omitempty"`
	TaskDefinition       string             `json:"taskDefinition,omitempty"`
	Count                int                `json:"count,omitempty"` // default 1
	Group                string             `json:"group,omitempty"`
	PlacementConstraints []ExplainPart      `json:"placementConstraints,omitempty"`
	PlacementStrategy    []ExplainPart      `json:"placementStrategy,omitempty"`
	Subnets              []string           `json:"subnets,omitempty"`
	SecurityGroups       []string           `json:"securityGroups,omitempty"`
	DesiredCount         *int32             `json:"desiredCount,omitempty"`
	ForceNewDeployment   bool               `json:"forceNewDeployment,omitempty"`
	Attributes           map[string]*string `json:"attributes,omitempty"`
}

// ExplainPart is a placement constraint (type, expression) or strategy (type, field).
type ExplainPart struct {
	Type       string `json:"type"`
	Expression string `json:"expression,omitempty"`
	Field      string `json:"field,omitempty"`
}

// The bounds of what one call may ask for.
const (
	maxDryRun         = 1000
	maxAskedInstances = 100
)

// explain answers an Explain call.
func (s *Server) explain(ctx context.Context, c *call, body []byte) ([]byte, error) {
	var in ExplainInput
	d := json.NewDecoder(strings.NewReader(string(body)))
	d.DisallowUnknownFields()
	if err := d.Decode(&in); err != nil {
		return nil, exception("SerializationException", "The request body is not what Explain takes: %v", err)
	}
	constraints, strategies, err := in.placement()
	if err != nil {
		return nil, err
	}
	if err := atMost("containerInstances", in.ContainerInstances, maxAskedInstances); err != nil {
		return nil, err
	}
	var out *scheduler.Explanation
	err = s.read(ctx, func(v *store.View) error {
		cluster, err := s.clusterOf(v, aws.String(in.Cluster))
		if err != nil {
			return err
		}
		m := scheduler.NewModel(v, cluster, s.cfg.Scheduling, s.cfg.Now())
		out, err = s.ask(v, m, cluster, &in, constraints, strategies)
		return err
	})
	var unknown *scheduler.ErrUnknown
	if errors.As(err, &unknown) {
		return nil, exception("ResourceNotFoundException", "In cluster %s %v.", in.Cluster, unknown)
	}
	if err != nil {
		return nil, err
	}
	return json.Marshal(out)
}

// Check judges what can be judged without the cluster. Its error is for the client.
func (in *ExplainInput) Check() error {
	_, _, err := in.placement()
	return err
}

func (in *ExplainInput) placement() (constraints []types.PlacementConstraint, strategies []types.PlacementStrategy, err error) {
	for _, p := range in.PlacementConstraints {
		x := types.PlacementConstraint{Type: types.PlacementConstraintType(p.Type)}
		if p.Expression != "" {
			x.Expression = aws.String(p.Expression)
		}
		constraints = append(constraints, x)
	}
	for _, p := range in.PlacementStrategy {
		x := types.PlacementStrategy{Type: types.PlacementStrategyType(p.Type)}
		if p.Field != "" {
			x.Field = aws.String(p.Field)
		}
		strategies = append(strategies, x)
	}
	return constraints, strategies, errors.Join(checkConstraints(constraints), checkStrategies(strategies))
}

// ask puts the question to the model.
func (s *Server) ask(v *store.View, m *scheduler.Model, cluster string, in *ExplainInput, constraints []types.PlacementConstraint, strategies []types.PlacementStrategy) (*scheduler.Explanation, error) {
	switch in.Kind {
	case "service", "update-service":
		name, err := s.memberRef(kindService, cluster, in.Service)
		if err != nil {
			return nil, err
		}
		if in.Kind == "service" {
			return m.Service(name)
		}
		u := scheduler.Update{DesiredCount: in.DesiredCount, Force: in.ForceNewDeployment}
		if in.TaskDefinition != "" {
			if u.TaskDefinition, err = s.usableDefinition(v, in.TaskDefinition, clientError("TaskDefinition is inactive")); err != nil {
				return nil, err
			}
		}
		if in.DesiredCount != nil && *in.DesiredCount < 0 {
			return nil, invalid("desiredCount can't be negative, but was %d.", *in.DesiredCount)
		}
		return m.UpdateService(name, u)
	case "task":
		id, err := s.memberRef(kindTask, cluster, in.Task)
		if err != nil {
			return nil, err
		}
		return m.Task(id)
	case "host", "drain", "put-attributes":
		return s.askHosts(m, cluster, in)
	case "placement":
		return s.askPlacement(v, m, in, constraints, strategies)
	}
	return nil, invalid("kind should be one of [service, task, host, placement, update-service, put-attributes, drain], but was %.100q.", in.Kind)
}

func (s *Server) askHosts(m *scheduler.Model, cluster string, in *ExplainInput) (*scheduler.Explanation, error) {
	var ids []string
	for _, ref := range in.ContainerInstances {
		id, err := s.memberRef(kindInstance, cluster, ref)
		if err != nil {
			return nil, err
		}
		ids = append(ids, id)
	}
	switch {
	case len(ids) == 0:
		return nil, clientError("Container Instances cannot be empty.")
	case in.Kind == "drain":
		return m.Drain(ids)
	case in.Kind == "put-attributes":
		if len(in.Attributes) == 0 {
			return nil, invalid("attributes cannot be empty.")
		}
		return m.PutAttributes(ids, in.Attributes)
	case len(ids) > 1:
		return nil, invalid("Explain of a host takes one container instance, but got %d.", len(ids))
	}
	return m.Host(ids[0])
}

func (s *Server) askPlacement(v *store.View, m *scheduler.Model, in *ExplainInput, constraints []types.PlacementConstraint, strategies []types.PlacementStrategy) (*scheduler.Explanation, error) {
	if in.TaskDefinition == "" {
		return nil, errNoDefinition
	}
	def, err := s.usableDefinition(v, in.TaskDefinition, invalid("TaskDefinition is inactive"))
	if err != nil {
		return nil, err
	}
	if in.Count == 0 {
		in.Count = 1
	}
	if in.Count < 1 || in.Count > maxDryRun {
		return nil, invalid("count should be between 1 and %d, but was %d.", maxDryRun, in.Count)
	}
	if in.Group == "" {
		in.Group = "family:" + aws.ToString(def.Object.Family)
	}
	vpc := &types.NetworkConfiguration{AwsvpcConfiguration: &types.AwsVpcConfiguration{Subnets: in.Subnets, SecurityGroups: in.SecurityGroups}}
	if err := s.checkNetworkConfiguration(def, vpc); err != nil {
		return nil, err
	}
	req, err := placement.NewRequest(placement.Request{Definition: &def.Object, Need: task.Need(&def.Object, nil), Constraints: constraints, Group: in.Group,
		Network: s.cfg.Scheduling.Network, NetworkConfiguration: vpc})
	if err != nil {
		return nil, invalid("Invalid expression: %v", err)
	}
	return m.Placement(req, strategies, in.Count), nil
}
