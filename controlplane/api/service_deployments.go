package api

import (
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"

	"github.com/longshore-project/longshore/controlplane/scheduler"
	"github.com/longshore-project/longshore/controlplane/store"
	"github.com/longshore-project/longshore/protocol/arn"
)

// maxDescribed is how many service deployments or revisions one call describes.
const maxDescribed = 20

var errDeploymentNotFound = exception("ServiceDeploymentNotFoundException", "The service deployment was not found.")

// stoppedByUser is how the reason of a roll-back begins that a user asked for.
const stoppedByUser = "Stopped by StopServiceDeployment: "

// addRevisions adds to a service as clients see it which revisions it runs, and the newest deployment.
func addRevisions(o *types.Service) {
	o.CurrentServiceDeployment, o.CurrentServiceRevisions = nil, nil
	var newest *types.Deployment
	for i := range o.Deployments {
		d := &o.Deployments[i]
		o.CurrentServiceRevisions = append(o.CurrentServiceRevisions, types.ServiceCurrentRevisionSummary{
			Arn:                aws.String(scheduler.RevisionARN(aws.ToString(o.ServiceArn), scheduler.RevisionID(aws.ToString(d.Id)))),
			RequestedTaskCount: d.DesiredCount, RunningTaskCount: d.RunningCount, PendingTaskCount: d.PendingCount})
		if newest == nil || aws.ToTime(d.CreatedAt).After(aws.ToTime(newest.CreatedAt)) {
			newest = d
		}
	}
	if newest != nil {
		o.CurrentServiceDeployment = aws.String(scheduler.ServiceDeploymentARN(aws.ToString(o.ServiceArn), scheduler.RevisionID(aws.ToString(newest.Id))))
	}
}

// deploymentObject is a service deployment as clients see it.
func (s *Server) deploymentObject(v *store.View, d *store.ServiceDeployment) types.ServiceDeployment {
	o := d.Object
	counts := map[string]types.Deployment{}
	breaker := &types.ServiceDeploymentCircuitBreaker{Status: types.ServiceDeploymentRollbackMonitorsStatusDisabled}
	if r := v.Service(d.Cluster, d.Service); r != nil && aws.ToString(r.Object.ServiceArn) == aws.ToString(o.ServiceArn) {
		object := s.serviceObject(v, r, false)
		for _, deployment := range object.Deployments {
			counts[scheduler.RevisionARN(aws.ToString(o.ServiceArn), scheduler.RevisionID(aws.ToString(deployment.Id)))] = deployment
		}
		if c := o.DeploymentConfiguration; c != nil && c.DeploymentCircuitBreaker != nil && c.DeploymentCircuitBreaker.Enable {
			breaker.Threshold = int32(scheduler.BreakerThreshold(c.DeploymentCircuitBreaker, int(object.DesiredCount)))
			breaker.FailureCount = counts[aws.ToString(o.TargetServiceRevision.Arn)].FailedTasks
			switch {
			case o.Rollback != nil && !strings.HasPrefix(aws.ToString(o.Rollback.Reason), stoppedByUser):
				breaker.Status = types.ServiceDeploymentRollbackMonitorsStatusTriggered
			case o.Status == types.ServiceDeploymentStatusInProgress:
				breaker.Status = types.ServiceDeploymentRollbackMonitorsStatusMonitoring
			default:
				breaker.Status = types.ServiceDeploymentRollbackMonitorsStatusMonitoringComplete
			}
		}
	}
	o.DeploymentCircuitBreaker = breaker
	if id, held := holding(v, d); held {
		o.LifecycleHookDetails = []types.DeploymentLifecycleHookDetail{{HookId: &id, Status: types.DeploymentLifecycleHookStatusAwaitingAction}}
	}
	fill := func(r types.ServiceRevisionSummary) types.ServiceRevisionSummary {
		c := counts[aws.ToString(r.Arn)]
		r.RequestedTaskCount, r.RunningTaskCount, r.PendingTaskCount = c.DesiredCount, c.RunningCount, c.PendingCount
		return r
	}
	o.SourceServiceRevisions = orEmpty(slices.Clone(o.SourceServiceRevisions))
	for i := range o.SourceServiceRevisions {
		o.SourceServiceRevisions[i] = fill(o.SourceServiceRevisions[i])
	}
	target := fill(*o.TargetServiceRevision)
	o.TargetServiceRevision = &target
	return o
}

// listServiceDeployments lists the deployments of a service that are remembered, the newest first.
func (s *Server) listServiceDeployments(ctx context.Context, c *call, in *ecs.ListServiceDeploymentsInput) (*ecs.ListServiceDeploymentsOutput, error) {
	for _, status := range in.Status {
		if err := oneOf("status", status, status.Values()); err != nil {
			return nil, err
		}
	}
	var briefs []types.ServiceDeploymentBrief
	err := s.read(ctx, func(v *store.View) error {
		r, err := s.findService(v, in.Cluster, *in.Service)
		if err != nil {
			return err
		}
		for d := range v.ServiceDeployments(r.Cluster, aws.ToString(r.Object.ServiceName)) {
			o := &d.Object
			if len(in.Status) > 0 && !slices.Contains(in.Status, o.Status) || in.CreatedAt != nil && !within(in.CreatedAt, o) {
				continue
			}
			briefs = append(briefs, types.ServiceDeploymentBrief{ServiceDeploymentArn: o.ServiceDeploymentArn, ServiceArn: o.ServiceArn, ClusterArn: o.ClusterArn,
				CreatedAt: o.CreatedAt, StartedAt: o.StartedAt, FinishedAt: o.FinishedAt, Status: o.Status, StatusReason: o.StatusReason,
				TargetServiceRevisionArn: o.TargetServiceRevision.Arn})
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	key := func(b types.ServiceDeploymentBrief) string {
		return aws.ToTime(b.CreatedAt).UTC().Format("20060102150405.000") + " " + aws.ToString(b.ServiceDeploymentArn)
	}
	slices.SortFunc(briefs, func(a, b types.ServiceDeploymentBrief) int { return strings.Compare(key(b), key(a)) })
	page, next, err := paginate(c, paging{max: in.MaxResults, token: in.NextToken, limit: 100, size: 20, desc: true}, briefs, key)
	return &ecs.ListServiceDeploymentsOutput{ServiceDeployments: orEmpty(page), NextToken: next}, err
}

func within(limits *types.CreatedAt, o *types.ServiceDeployment) bool {
	at := aws.ToTime(o.CreatedAt)
	return (limits.After == nil || at.After(*limits.After)) && (limits.Before == nil || at.Before(*limits.Before))
}

func (s *Server) describeServiceDeployments(ctx context.Context, _ *call, in *ecs.DescribeServiceDeploymentsInput) (*ecs.DescribeServiceDeploymentsOutput, error) {
	found, failures, err := describeMembers(ctx, s, arn.TypeServiceDeployment, "serviceDeploymentArns", in.ServiceDeploymentArns,
		func(v *store.View, cluster, service, id string) (types.ServiceDeployment, bool) {
			d := v.ServiceDeployment(cluster, service, id)
			if d == nil {
				return types.ServiceDeployment{}, false
			}
			return s.deploymentObject(v, d), true
		})
	return &ecs.DescribeServiceDeploymentsOutput{ServiceDeployments: found, Failures: failures}, err
}

func (s *Server) describeServiceRevisions(ctx context.Context, _ *call, in *ecs.DescribeServiceRevisionsInput) (*ecs.DescribeServiceRevisionsOutput, error) {
	found, failures, err := describeMembers(ctx, s, arn.TypeServiceRevision, "serviceRevisionArns", in.ServiceRevisionArns,
		func(v *store.View, cluster, service, id string) (types.ServiceRevision, bool) {
			r := v.ServiceRevision(cluster, service, id)
			if r == nil {
				return types.ServiceRevision{}, false
			}
			return r.Object, true
		})
	return &ecs.DescribeServiceRevisionsOutput{ServiceRevisions: found, Failures: failures}, err
}

// describeMembers finds the deployments or revisions that ARNs name; those that are not there are failures.
func describeMembers[T any](ctx context.Context, s *Server, kind, member string, refs []string, find func(v *store.View, cluster, service, id string) (T, bool)) (found []T, failures []types.Failure, err error) {
	if err := someARNs(member, refs); err != nil {
		return nil, nil, err
	}
	found, failures = []T{}, []types.Failure{}
	err = s.read(ctx, func(v *store.View) error {
		for _, ref := range refs {
			path, err := s.serviceMember(kind, ref)
			if err != nil {
				return err
			}
			if o, ok := find(v, path[0], path[1], path[2]); ok {
				found = append(found, o)
			} else {
				failures = append(failures, missing(ref))
			}
		}
		return nil
	})
	return found, failures, err
}

// stopServiceDeployment ends a deployment that is under way: ROLLBACK goes back to the deployment that was completed
// before, ABORT leaves what runs. A repeated call for one that is being rolled back answers the same.
func (s *Server) stopServiceDeployment(ctx context.Context, c *call, in *ecs.StopServiceDeploymentInput) (*ecs.StopServiceDeploymentOutput, error) {
	if err := oneOf("stopType", in.StopType, in.StopType.Values()); err != nil {
		return nil, err
	}
	path, err := s.serviceMember(arn.TypeServiceDeployment, *in.ServiceDeploymentArn)
	if err != nil {
		return nil, err
	}
	err = s.change(ctx, func(v *store.View, txn *store.Txn) error {
		d, old := v.ServiceDeployment(path[0], path[1], path[2]), v.Service(path[0], path[1])
		switch {
		case d == nil || old == nil || aws.ToString(old.Object.ServiceArn) != aws.ToString(d.Object.ServiceArn):
			return errDeploymentNotFound
		case d.Object.Status == types.ServiceDeploymentStatusRollbackInProgress && in.StopType != types.StopServiceDeploymentStopTypeAbort:
			return errNothingToDo
		case d.Object.Status != types.ServiceDeploymentStatusInProgress:
			return exception("ConflictException", "The service deployment is %s; only one that is IN_PROGRESS can be stopped.", d.Object.Status)
		}
		r := *old
		if in.StopType == types.StopServiceDeploymentStopTypeAbort {
			scheduler.Abort(&r, stoppedByUser+"what runs stays.", c.now)
		} else if !scheduler.RollBack(&r, stoppedByUser, c.now) {
			return exception("ConflictException", "The service deployment can't be rolled back: the service has no earlier deployment that was completed. Use the stop type ABORT, or update the service.")
		}
		r.SteadySince, r.Failures = time.Time{}, nil
		if isDaemon(&r) {
			r.Object.DesiredCount = scheduler.DaemonDesired(v, s.cfg.Scheduling.Network, &r)
		}
		scheduler.RecordHistory(v, txn, &r, c.now)
		txn.Update(&r)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return &ecs.StopServiceDeploymentOutput{ServiceDeploymentArn: in.ServiceDeploymentArn}, nil
}

// holding tells whether a deployment holds, and what its hold is known by.
func holding(v *store.View, d *store.ServiceDeployment) (hook string, held bool) {
	r := v.Service(d.Cluster, d.Service)
	if r == nil || d.Object.Status != types.ServiceDeploymentStatusInProgress || aws.ToString(r.Object.ServiceArn) != aws.ToString(d.Object.ServiceArn) {
		return "", false
	}
	for id, rollout := range r.Rollouts {
		if scheduler.RevisionID(id) == d.ID && rollout.Held != "" {
			return "hold-" + d.ID, true
		}
	}
	return "", false
}

// continueServiceDeployment has a roll-out that holds, because the new deployment fails somewhere, go on as if it did not
// (CONTINUE), or go back (ROLLBACK). A hold is shown as a lifecycle hook of the deployment that awaits an action.
func (s *Server) continueServiceDeployment(ctx context.Context, c *call, in *ecs.ContinueServiceDeploymentInput) (*ecs.ContinueServiceDeploymentOutput, error) {
	if err := oneOf("action", in.Action, in.Action.Values()); err != nil {
		return nil, err
	}
	path, err := s.serviceMember(arn.TypeServiceDeployment, *in.ServiceDeploymentArn)
	if err != nil {
		return nil, err
	}
	err = s.change(ctx, func(v *store.View, txn *store.Txn) error {
		d, old := v.ServiceDeployment(path[0], path[1], path[2]), v.Service(path[0], path[1])
		if d == nil || old == nil {
			return errDeploymentNotFound
		}
		hook, held := holding(v, d)
		switch {
		case !held:
			return exception("ConflictException", "The service deployment does not wait for an action: it is %s.", d.Object.Status)
		case hook != *in.HookId:
			return invalid("The service deployment has no lifecycle hook %.100q that awaits an action; it has %s.", *in.HookId, hook)
		}
		r := *old
		if in.Action == types.DeploymentLifecycleHookActionRollback {
			if !scheduler.RollBack(&r, stoppedByUser, c.now) {
				return exception("ConflictException", "The service deployment can't be rolled back: the service has no earlier deployment that was completed. Update the service.")
			}
			r.SteadySince, r.Failures = time.Time{}, nil
			if isDaemon(&r) {
				r.Object.DesiredCount = scheduler.DaemonDesired(v, s.cfg.Scheduling.Network, &r)
			}
		} else {
			r.Rollouts = maps.Clone(r.Rollouts)
			for id, rollout := range r.Rollouts {
				if scheduler.RevisionID(id) == d.ID {
					rollout.Continued, rollout.Held = true, ""
					r.Rollouts[id] = rollout
				}
			}
		}
		scheduler.RecordHistory(v, txn, &r, c.now)
		txn.Update(&r)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return &ecs.ContinueServiceDeploymentOutput{ServiceDeploymentArn: in.ServiceDeploymentArn}, nil
}

func someARNs(member string, refs []string) error {
	if len(refs) == 0 {
		return invalid("%s cannot be empty.", member)
	}
	return atMost(member, refs, maxDescribed)
}

// serviceMember is cluster, service and id of a service deployment or revision that an ARN means.
func (s *Server) serviceMember(kind, ref string) ([]string, error) {
	a, err := arn.Parse(ref)
	switch {
	case err != nil:
		return nil, err
	case a.Type != kind || len(a.Path) != 3:
		return nil, invalid("Invalid identifier: %.300q is not the ARN of a %s.", ref, kind)
	case a.Region != s.owner.Region || a.Account != s.owner.Account:
		return nil, invalid("Invalid identifier: %.300q is of the account %s in %s; this control plane is %s in %s.", ref, a.Account, a.Region, s.owner.Account, s.owner.Region)
	}
	return a.Path, nil
}
