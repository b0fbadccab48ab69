package api_test

import (
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"

	"github.com/longshore-project/longshore/controlplane/store"
)

func TestTasksOfServicesAreProtectedUntilATime(t *testing.T) {
	p := newPlane(t)
	p.define("agent", 10, 10)
	p.define("job", 10, 10)
	p.daemon("s", "agent")
	id := p.register(p.host, 1024, 1000)
	own := p.schedule("s", id)
	p.submit(own, "RUNNING")
	alone := p.run(&ecs.RunTaskInput{TaskDefinition: aws.String("job")}).Tasks[0].TaskArn
	protect := func(enable bool, minutes *int32, tasks ...string) *ecs.UpdateTaskProtectionOutput {
		t.Helper()
		out, err := p.admin.UpdateTaskProtection(p.ctx, &ecs.UpdateTaskProtectionInput{Cluster: aws.String(testCluster), Tasks: tasks, ProtectionEnabled: enable, ExpiresInMinutes: minutes})
		p.must(err)
		return out
	}
	none := "arn:aws:ecs:us-west-2:123456789012:task/" + testCluster + "/00000000000000000000000000000000"
	out := protect(true, nil, *own, *alone, none)
	if len(out.ProtectedTasks) != 1 || !out.ProtectedTasks[0].ProtectionEnabled || time.Until(*out.ProtectedTasks[0].ExpirationDate).Round(time.Hour) != 2*time.Hour {
		t.Errorf("a task of a service is protected for two hours: %+v", out.ProtectedTasks)
	}
	if len(out.Failures) != 2 || *out.Failures[0].Reason != "TASK_NOT_VALID" || *out.Failures[1].Reason != "MISSING" || *out.Failures[1].Arn != none {
		t.Errorf("each task that can't be is a failure: %+v", out.Failures)
	}
	got, err := p.admin.GetTaskProtection(p.ctx, &ecs.GetTaskProtectionInput{Cluster: aws.String(testCluster), Tasks: []string{*own}})
	if p.must(err); len(got.ProtectedTasks) != 1 || !got.ProtectedTasks[0].ExpirationDate.Equal(*out.ProtectedTasks[0].ExpirationDate) {
		t.Errorf("%+v", got)
	}
	if got, err = p.admin.GetTaskProtection(p.ctx, &ecs.GetTaskProtectionInput{Cluster: aws.String(testCluster)}); err != nil || len(got.ProtectedTasks) != 1 {
		t.Errorf("without names, all of the cluster's services: %+v, %v", got, err)
	}
	_, err = p.admin.GetTaskProtection(p.ctx, &ecs.GetTaskProtectionInput{Cluster: aws.String(testCluster), Tasks: []string{none}})
	p.refused(err, "ResourceNotFoundException", "wasn't found")
	for _, minutes := range []int32{0, 2881} {
		_, err := p.admin.UpdateTaskProtection(p.ctx, &ecs.UpdateTaskProtectionInput{Cluster: aws.String(testCluster), Tasks: []string{*own}, ProtectionEnabled: true, ExpiresInMinutes: aws.Int32(minutes)})
		p.refused(err, "InvalidParameterException", "expiresInMinutes should be between 1 and 2880")
	}
	if out := protect(false, nil, *own); out.ProtectedTasks[0].ProtectionEnabled || out.ProtectedTasks[0].ExpirationDate != nil {
		t.Errorf("the protection is gone: %+v", out.ProtectedTasks)
	}
	stopped, err := p.admin.StopTask(p.ctx, &ecs.StopTaskInput{Cluster: aws.String(testCluster), Task: own})
	if p.must(err); *stopped.Task.DesiredStatus != "STOPPED" {
		t.Error("StopTask does not stop the task")
	}
	if out := protect(true, nil, *own); len(out.Failures) != 1 || *out.Failures[0].Reason != "TASK_NOT_VALID" {
		t.Errorf("a task that is being stopped can't be protected: %+v", out)
	}
}

// A host may protect its own tasks, since agents ask for them, and no others.
func TestAHostProtectsItsOwnTasksOnly(t *testing.T) {
	p := newPlane(t)
	p.define("agent", 10, 10)
	p.daemon("s", "agent")
	own := p.schedule("s", p.register(p.host, 1024, 1000))
	in := &ecs.UpdateTaskProtectionInput{Cluster: aws.String(testCluster), Tasks: []string{*own}, ProtectionEnabled: true}
	if out, err := p.host.UpdateTaskProtection(p.ctx, in); err != nil || len(out.ProtectedTasks) != 1 {
		t.Errorf("%+v, %v", out, err)
	}
	other := p.schedule("s", p.register(p.admin, 1024, 1000))
	_, err := p.host.UpdateTaskProtection(p.ctx, &ecs.UpdateTaskProtectionInput{Cluster: aws.String(testCluster), Tasks: []string{*other}, ProtectionEnabled: true})
	p.refused(err, "AccessDeniedException", "not authorized")
	_, err = p.client(p.keys[store.RoleReadOnly]).UpdateTaskProtection(p.ctx, in)
	p.refused(err, "AccessDeniedException", "not authorized")
}

func TestProtectionDoesNotProlongABlockedDeployment(t *testing.T) {
	p := newPlane(t)
	p.define("agent", 10, 10)
	p.daemon("s", "agent")
	a, b := p.register(p.host, 1024, 1000), p.register(p.host, 1024, 1000)
	one, two := p.schedule("s", a), p.schedule("s", b)
	protect := func(arn *string) []types.Failure {
		t.Helper()
		out, err := p.admin.UpdateTaskProtection(p.ctx, &ecs.UpdateTaskProtectionInput{Cluster: aws.String(testCluster), Tasks: []string{*arn}, ProtectionEnabled: true})
		p.must(err)
		return out.Failures
	}
	if f := protect(one); len(f) != 0 {
		t.Fatalf("%+v", f)
	}
	p.define("agent", 10, 20)
	_, err := p.admin.UpdateService(p.ctx, &ecs.UpdateServiceInput{Cluster: aws.String(testCluster), Service: aws.String("s"), TaskDefinition: aws.String("agent")})
	p.must(err)
	if f := protect(two); len(f) != 0 {
		t.Fatalf("the deployment has something to do yet: %+v", f)
	}
	if f := protect(one); len(f) != 1 || *f[0].Reason != "DEPLOYMENT_BLOCKED" {
		t.Errorf("only protected tasks of the deployment before are left: %+v", f)
	}
}
