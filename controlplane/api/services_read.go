package api

import (
	"context"
	"errors"
	"slices"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"

	"github.com/longshore-project/longshore/controlplane/store"
	"github.com/longshore-project/longshore/controlplane/task"
)

// maxEvents is how many events a service shows.
const maxEvents = 100

func (s *Server) describeServices(ctx context.Context, _ *call, in *ecs.DescribeServicesInput) (*ecs.DescribeServicesOutput, error) {
	if len(in.Services) == 0 {
		return nil, invalid("Services cannot be empty.")
	}
	if err := atMost("services", in.Services, 10); err != nil {
		return nil, err
	}
	for _, field := range in.Include {
		if err := oneOf("include", field, field.Values()); err != nil {
			return nil, err
		}
	}
	tags := slices.Contains(in.Include, types.ServiceFieldTags)
	out := &ecs.DescribeServicesOutput{Services: []types.Service{}, Failures: []types.Failure{}}
	err := s.read(ctx, func(v *store.View) error {
		cluster, err := s.knownCluster(v, in.Cluster)
		if err != nil {
			return err
		}
		for _, ref := range in.Services {
			name, err := s.memberRef(kindService, cluster, ref)
			if err != nil {
				return err
			}
			if r := v.Service(cluster, name); r != nil {
				out.Services = append(out.Services, s.serviceObject(v, r, tags))
			} else {
				out.Failures = append(out.Failures, missing(s.serviceARN(cluster, name)))
			}
		}
		return nil
	})
	return out, err
}

// serviceObject is a service as clients see it: counts and events computed.
func (s *Server) serviceObject(v *store.View, r *store.Service, tags bool) types.Service {
	o := r.Object
	if !tags {
		o.Tags = nil
	}
	o.Deployments = slices.Clone(o.Deployments)
	byID := map[string]*types.Deployment{}
	for i := range o.Deployments {
		d := &o.Deployments[i]
		d.RunningCount, d.PendingCount, d.DesiredCount = 0, 0, 0
		if aws.ToString(d.Status) == deploymentPrimary {
			d.DesiredCount = o.DesiredCount
		}
		byID[aws.ToString(d.Id)] = d
	}
	o.RunningCount, o.PendingCount = 0, 0
	for t := range v.LiveOf(r.Cluster, aws.ToString(o.ServiceName)) {
		d := byID[t.Deployment]
		if d == nil && t.Object.CreatedAt.Before(*o.CreatedAt) {
			continue // of an earlier service of that name
		}
		if d == nil {
			d = &types.Deployment{}
		}
		switch aws.ToString(t.Object.LastStatus) {
		case taskRunning:
			o.RunningCount++
			d.RunningCount++
		case taskPending, task.Provisioning:
			o.PendingCount++
			d.PendingCount++
		}
		if aws.ToString(d.Status) == deploymentActive && aws.ToString(t.Object.DesiredStatus) == taskRunning {
			d.DesiredCount++
		}
	}
	o.Events = serviceEvents(v, r)
	addRevisions(&o)
	return o
}

// serviceEvents are the newest events of a service, without those of an earlier one of its name.
func serviceEvents(v *store.View, r *store.Service) []types.ServiceEvent {
	events := []types.ServiceEvent{}
	for e := range v.Events(r.Cluster, aws.ToString(r.Object.ServiceName)) {
		if len(events) == maxEvents || e.Object.CreatedAt.Before(*r.Object.CreatedAt) {
			break
		}
		events = append(events, e.Object)
	}
	return events
}

func (s *Server) listServices(ctx context.Context, c *call, in *ecs.ListServicesInput) (*ecs.ListServicesOutput, error) {
	if err := errors.Join(
		oneOf("launchType", in.LaunchType, in.LaunchType.Values()),
		oneOf("schedulingStrategy", in.SchedulingStrategy, in.SchedulingStrategy.Values()),
		oneOf("resourceManagementType", in.ResourceManagementType, in.ResourceManagementType.Values()),
	); err != nil {
		return nil, err
	}
	var arns []string
	err := s.read(ctx, func(v *store.View) error {
		cluster, err := s.clusterOf(v, in.Cluster)
		if err != nil {
			return err
		}
		for r := range v.Services(cluster) {
			o := &r.Object
			if serviceStatus(r) == serviceActive && asks(in.LaunchType, o.LaunchType) &&
				asks(in.SchedulingStrategy, o.SchedulingStrategy) && asks(in.ResourceManagementType, o.ResourceManagementType) {
				arns = append(arns, aws.ToString(o.ServiceArn))
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	slices.Sort(arns)
	page, next, err := paginate(c, paging{max: in.MaxResults, token: in.NextToken, limit: 100, size: 10}, arns, itself)
	return &ecs.ListServicesOutput{ServiceArns: orEmpty(page), NextToken: next}, err
}

// asks tells whether a filter that may be absent lets a value through.
func asks[E ~string](filter, value E) bool { return filter == "" || filter == value }
