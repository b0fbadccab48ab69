package scheduler

import (
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"

	"github.com/longshore-project/longshore/controlplane/scheduler/placement"
	"github.com/longshore-project/longshore/controlplane/store"
	"github.com/longshore-project/longshore/protocol/arn"
)

// mostHistory is how many deployments of a service are remembered.
const mostHistory = 100

// RevisionID is the part of a deployment's id that its service deployment and its service revision share: its digits.
func RevisionID(deployment string) string { return strings.TrimPrefix(deployment, "ecs-svc/") }

// ServiceDeploymentARN is the ARN of a service deployment, RevisionARN that of a service revision.
func ServiceDeploymentARN(service, id string) string {
	return related(service, arn.TypeServiceDeployment, id)
}

// RevisionARN is the ARN of a service revision.
func RevisionARN(service, id string) string { return related(service, arn.TypeServiceRevision, id) }

func related(service, kind, id string) string {
	a, err := arn.Parse(service)
	if err != nil {
		return ""
	}
	a.Type, a.Path = kind, append(slices.Clone(a.Path), id)
	return a.String()
}

// RecordHistory adds to txn what becomes of the service deployments of a service whose record is about to be svc: those
// that are new are created with their revisions, the others follow the state of the deployments. Whoever writes a service's
// record calls it in the same transaction.
func RecordHistory(v *store.View, txn *store.Txn, svc *store.Service, now time.Time) {
	name := aws.ToString(svc.Object.ServiceName)
	at := aws.Time(now.UTC().Truncate(time.Millisecond))
	newest := primaryOf(svc)
	if newest != nil && newest.RolloutState == types.DeploymentRolloutStateInProgress && v.ServiceDeployment(svc.Cluster, name, RevisionID(aws.ToString(newest.Id))) == nil {
		createHistory(v, txn, svc, newest, at)
	}
	var over []*store.ServiceDeployment
	for d := range v.ServiceDeployments(svc.Cluster, name) {
		if aws.ToString(d.Object.ServiceArn) != aws.ToString(svc.Object.ServiceArn) {
			continue
		}
		if finished(d.Object.Status) {
			over = append(over, d)
			continue
		}
		n := *d
		follow(&n.Object, d.ID, svc, newest, at)
		if n.Object.Status != d.Object.Status {
			txn.Update(&n)
		}
	}
	forgetHistory(v, txn, svc, over)
}

func finished(s types.ServiceDeploymentStatus) bool {
	switch s {
	case types.ServiceDeploymentStatusSuccessful, types.ServiceDeploymentStatusStopped, types.ServiceDeploymentStatusRollbackSuccessful, types.ServiceDeploymentStatusRollbackFailed:
		return true
	}
	return false
}

func primaryOf(svc *store.Service) *types.Deployment {
	for i := range svc.Object.Deployments {
		if aws.ToString(svc.Object.Deployments[i].Status) == primary {
			return &svc.Object.Deployments[i]
		}
	}
	return nil
}

// createHistory begins the history of a deployment.
func createHistory(v *store.View, txn *store.Txn, svc *store.Service, d *types.Deployment, at *time.Time) {
	o, id := &svc.Object, RevisionID(aws.ToString(d.Id))
	sources := []types.ServiceRevisionSummary{}
	for _, old := range o.Deployments {
		oldID := RevisionID(aws.ToString(old.Id))
		if aws.ToString(old.Id) != aws.ToString(d.Id) && v.ServiceRevision(svc.Cluster, aws.ToString(o.ServiceName), oldID) != nil {
			sources = append(sources, types.ServiceRevisionSummary{Arn: aws.String(RevisionARN(aws.ToString(o.ServiceArn), oldID))})
		}
	}
	target := aws.String(RevisionARN(aws.ToString(o.ServiceArn), id))
	txn.Create(&store.ServiceDeployment{Cluster: svc.Cluster, Service: aws.ToString(o.ServiceName), ID: id, Object: types.ServiceDeployment{
		ServiceDeploymentArn: aws.String(ServiceDeploymentARN(aws.ToString(o.ServiceArn), id)), ServiceArn: o.ServiceArn, ClusterArn: o.ClusterArn,
		CreatedAt: d.CreatedAt, StartedAt: d.CreatedAt, UpdatedAt: at, Status: types.ServiceDeploymentStatusInProgress,
		SourceServiceRevisions: sources, TargetServiceRevision: &types.ServiceRevisionSummary{Arn: target},
		DeploymentConfiguration: o.DeploymentConfiguration,
	}})
	revision := &store.ServiceRevision{Cluster: svc.Cluster, Service: aws.ToString(o.ServiceName), ID: id, Object: types.ServiceRevision{
		ServiceRevisionArn: target, ServiceArn: o.ServiceArn, ClusterArn: o.ClusterArn, TaskDefinition: d.TaskDefinition, LaunchType: d.LaunchType,
		CreatedAt: d.CreatedAt, LoadBalancers: []types.LoadBalancer{}, ServiceRegistries: []types.ServiceRegistry{},
		NetworkConfiguration: d.NetworkConfiguration, ServiceConnectConfiguration: d.ServiceConnectConfiguration,
		ContainerImages: []types.ContainerImage{},
	}}
	if def := placement.Definition(v, aws.ToString(d.TaskDefinition)); def != nil {
		for _, c := range def.Object.ContainerDefinitions {
			revision.Object.ContainerImages = append(revision.Object.ContainerImages, types.ContainerImage{ContainerName: c.Name, Image: c.Image})
		}
	}
	txn.Create(revision)
}

// follow brings a service deployment to the state that the service's deployments are in.
func follow(o *types.ServiceDeployment, id string, svc *store.Service, newest *types.Deployment, at *time.Time) {
	end := func(s types.ServiceDeploymentStatus, why string) {
		o.Status, o.FinishedAt, o.UpdatedAt = s, at, at
		if s == types.ServiceDeploymentStatusStopped {
			o.StoppedAt = at
		}
		if why != "" {
			o.StatusReason = aws.String(why)
		}
	}
	if newest == nil || aws.ToString(svc.Object.Status) != active {
		end(types.ServiceDeploymentStatusStopped, "The service was deleted.")
		return
	}
	newestID := RevisionID(aws.ToString(newest.Id))
	switch {
	case newestID == id && newest.RolloutState == types.DeploymentRolloutStateCompleted:
		end(types.ServiceDeploymentStatusSuccessful, "")
	case newestID == id && newest.RolloutState == types.DeploymentRolloutStateFailed:
		end(types.ServiceDeploymentStatusStopped, aws.ToString(newest.RolloutStateReason))
	case newestID == id:
	case aws.ToTime(newest.CreatedAt).After(aws.ToTime(o.CreatedAt)):
		end(types.ServiceDeploymentStatusStopped, "It was replaced by the deployment "+aws.ToString(newest.Id)+".")
	default: // an older deployment is PRIMARY again
		if o.Rollback == nil {
			why := breaking + "tasks failed to start."
			for _, d := range svc.Object.Deployments {
				if RevisionID(aws.ToString(d.Id)) == id && aws.ToString(d.RolloutStateReason) != "" {
					why = aws.ToString(d.RolloutStateReason)
				}
			}
			o.Rollback = &types.Rollback{Reason: aws.String(why), StartedAt: at, ServiceRevisionArn: aws.String(RevisionARN(aws.ToString(svc.Object.ServiceArn), newestID))}
			o.StatusReason, o.UpdatedAt = aws.String(why), at
		}
		switch newest.RolloutState {
		case types.DeploymentRolloutStateCompleted:
			end(types.ServiceDeploymentStatusRollbackSuccessful, "")
		case types.DeploymentRolloutStateFailed:
			end(types.ServiceDeploymentStatusRollbackFailed, "")
		default:
			o.Status = types.ServiceDeploymentStatusRollbackInProgress
		}
	}
}

// forgetHistory drops the oldest finished deployments beyond the number that is remembered, with their revisions unless
// these are still in use.
func forgetHistory(v *store.View, txn *store.Txn, svc *store.Service, over []*store.ServiceDeployment) {
	if len(over) <= mostHistory {
		return
	}
	slices.SortFunc(over, func(a, b *store.ServiceDeployment) int {
		return aws.ToTime(a.Object.CreatedAt).Compare(aws.ToTime(b.Object.CreatedAt))
	})
	for _, d := range over[:min(len(over)-mostHistory, 4)] {
		if slices.ContainsFunc(svc.Object.Deployments, func(o types.Deployment) bool { return RevisionID(aws.ToString(o.Id)) == d.ID }) {
			continue
		}
		txn.Delete(d)
		if r := v.ServiceRevision(d.Cluster, d.Service, d.ID); r != nil {
			txn.Delete(r)
		}
	}
}

// RollBack makes the newest COMPLETED one of a service's older deployments PRIMARY again, and the one that was PRIMARY a
// FAILED one, for the reason given. svc is changed; it is not when there is none to go back to.
func RollBack(svc *store.Service, why string, now time.Time) bool {
	svc.Object.Deployments = slices.Clone(svc.Object.Deployments)
	failed := primaryOf(svc)
	var back *types.Deployment
	for i := range svc.Object.Deployments {
		d := &svc.Object.Deployments[i]
		if d != failed && d.RolloutState == types.DeploymentRolloutStateCompleted && (back == nil || aws.ToTime(d.CreatedAt).After(aws.ToTime(back.CreatedAt))) {
			back = d
		}
	}
	if failed == nil || back == nil {
		return false
	}
	at := aws.Time(now.UTC().Truncate(time.Millisecond))
	reason := aws.String(why + "rolling back to deploymentId " + aws.ToString(back.Id) + ".")
	failed.Status, failed.RolloutState, failed.RolloutStateReason, failed.UpdatedAt = aws.String(active), types.DeploymentRolloutStateFailed, reason, at
	back.Status, back.RolloutState, back.RolloutStateReason, back.UpdatedAt = aws.String(primary), types.DeploymentRolloutStateInProgress, reason, at
	svc.Object.TaskDefinition, svc.Object.NetworkConfiguration = back.TaskDefinition, back.NetworkConfiguration
	if svc.Object.SchedulingStrategy == types.SchedulingStrategyReplica { // whose images were there: they don't come first
		rollouts := map[string]store.Rollout{}
		maps.Copy(rollouts, svc.Rollouts)
		rollout := rollouts[aws.ToString(back.Id)]
		rollout.Prepared = true
		rollouts[aws.ToString(back.Id)], svc.Rollouts = rollout, rollouts
	}
	return true
}

// Abort ends the PRIMARY deployment of a service as FAILED, without going back: what runs stays. svc is changed.
func Abort(svc *store.Service, why string, now time.Time) {
	svc.Object.Deployments = slices.Clone(svc.Object.Deployments)
	if d := primaryOf(svc); d != nil {
		d.RolloutState, d.RolloutStateReason, d.UpdatedAt = types.DeploymentRolloutStateFailed, aws.String(why), aws.Time(now.UTC().Truncate(time.Millisecond))
	}
}
