package api_test

import (
	"maps"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"

	"github.com/longshore-project/longshore/controlplane/store"
)

func TestADaemonDeploymentIsStoppedAndAHeldOneContinued(t *testing.T) {
	p := newPlane(t)
	p.define("agent", 10, 10)
	p.define("agent", 20, 20)
	instance := p.register(p.host, 1024, 1000)
	name, first := "", ""
	fresh := func(is string) {
		name, first = is, *p.daemon(is, "agent:1").Deployments[0].Id
		p.schedule(is, instance) // a deployment that has no task is not kept
		p.settle(is)
	}
	update := func() (arn *string) {
		t.Helper()
		_, err := p.admin.UpdateService(p.ctx, &ecs.UpdateServiceInput{Cluster: aws.String(testCluster), Service: &name, TaskDefinition: aws.String("agent:2"), ForceNewDeployment: true})
		p.must(err)
		out, err := p.admin.ListServiceDeployments(p.ctx, &ecs.ListServiceDeploymentsInput{Cluster: aws.String(testCluster), Service: &name})
		p.must(err)
		return out.ServiceDeployments[0].ServiceDeploymentArn
	}
	described := func(arn *string) types.ServiceDeployment {
		t.Helper()
		out, err := p.admin.DescribeServiceDeployments(p.ctx, &ecs.DescribeServiceDeploymentsInput{ServiceDeploymentArns: []string{*arn}})
		p.must(err)
		return out.ServiceDeployments[0]
	}
	hold := func() { // as the scheduler does when a task of the new deployment fails
		t.Helper()
		var r store.Service
		p.must(p.store.Read(p.ctx, func(v *store.View) error { r = *v.Service(testCluster, name); return nil }))
		rollouts := map[string]store.Rollout{}
		maps.Copy(rollouts, r.Rollouts)
		for _, d := range r.Object.Deployments {
			if *d.Status == "PRIMARY" {
				rollouts[*d.Id] = store.Rollout{Held: "task x on container instance y failed"}
			}
		}
		r.Rollouts = rollouts
		p.must(p.store.Txn().Update(&r).Commit(p.ctx))
	}
	goOn := func(arn, hook *string, action types.DeploymentLifecycleHookAction) error {
		_, err := p.admin.ContinueServiceDeployment(p.ctx, &ecs.ContinueServiceDeploymentInput{ServiceDeploymentArn: arn, HookId: hook, Action: action})
		return err
	}

	fresh("a")
	arn := update()
	p.refused(goOn(arn, aws.String("x"), ""), "ConflictException", "The service deployment does not wait for an action: it is IN_PROGRESS.")
	hold()
	hooks := described(arn).LifecycleHookDetails
	if len(hooks) != 1 || hooks[0].Status != types.DeploymentLifecycleHookStatusAwaitingAction {
		t.Fatalf("a deployment that holds shows %+v", hooks)
	}
	p.must(goOn(arn, hooks[0].HookId, ""))
	if d := described(arn); len(d.LifecycleHookDetails) != 0 || d.Status != types.ServiceDeploymentStatusInProgress {
		t.Errorf("continued: %s, %+v", d.Status, d.LifecycleHookDetails)
	}
	_, err := p.admin.StopServiceDeployment(p.ctx, &ecs.StopServiceDeploymentInput{ServiceDeploymentArn: arn, StopType: types.StopServiceDeploymentStopTypeRollback})
	p.must(err)
	primary := func() (id string) {
		for _, d := range p.service(name).Deployments {
			if *d.Status == "PRIMARY" {
				id = *d.Id
			}
		}
		return id
	}
	if d := described(arn); d.Status != types.ServiceDeploymentStatusRollbackInProgress || primary() != first {
		t.Errorf("rolled back: %s, PRIMARY is %s, not %s", d.Status, primary(), first)
	}

	fresh("b")
	arn = update()
	hold()
	p.must(goOn(arn, described(arn).LifecycleHookDetails[0].HookId, types.DeploymentLifecycleHookActionRollback))
	if primary() != first {
		t.Errorf("PRIMARY is %s after the roll-back, not %s", primary(), first)
	}
	// A REPLICA service holds when its images can't be had; going back leaves what is desired.
	name = "replica"
	created, err := p.admin.CreateService(p.ctx, &ecs.CreateServiceInput{Cluster: aws.String(testCluster), ServiceName: &name, TaskDefinition: aws.String("agent:1"), DesiredCount: aws.Int32(7)})
	p.must(err)
	first = *created.Service.Deployments[0].Id
	p.schedule(name, instance)
	p.settle(name)
	arn = update()
	hold()
	p.must(goOn(arn, described(arn).LifecycleHookDetails[0].HookId, types.DeploymentLifecycleHookActionRollback))
	if got := p.service(name); primary() != first || got.DesiredCount != 7 {
		t.Errorf("PRIMARY is %s after the roll-back, not %s; desired are %d", primary(), first, got.DesiredCount)
	}

	fresh("c")
	arn = update()
	_, err = p.admin.StopServiceDeployment(p.ctx, &ecs.StopServiceDeploymentInput{ServiceDeploymentArn: arn, StopType: types.StopServiceDeploymentStopTypeAbort})
	p.must(err)
	if got := p.service(name); got.DesiredCount != 1 || *got.Status != "ACTIVE" {
		t.Errorf("aborted: %+v", got)
	}
}
