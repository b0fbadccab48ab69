package api_test

import (
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"

	"github.com/longshore-project/longshore/controlplane/auth"
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

// withKey is a client that signs with a key which was issued for a task.
func (p *plane) withKey(id, secret, token, region string) *ecs.Client {
	return ecs.New(ecs.Options{Region: region, BaseEndpoint: aws.String(p.url), HTTPClient: p.http, Retryer: aws.NopRetryer{}, Credentials: credentials.NewStaticCredentialsProvider(id, secret, token)})
}

// issue keeps a key for a task, as the control plane does with what STS has answered.
func (p *plane) issue(arn, id string, expires time.Time) {
	p.t.Helper()
	k := auth.NewTaskKey(id, "secret-"+id, "token-"+id, []string{"us-west-2", "ap-south-1"}, time.Now(), expires)
	k.Cluster, k.Task = testCluster, arn[strings.LastIndex(arn, "/")+1:]
	if err := p.store.Txn().Create(k).Commit(p.ctx); err != nil {
		p.t.Fatal(err)
	}
}

func TestATaskProtectsItselfOnlyAndMayDoNothingElse(t *testing.T) {
	p := newPlane(t)
	p.define("agent", 10, 10)
	p.daemon("s", "agent")
	own, other := p.schedule("s", p.register(p.host, 1024, 1000)), p.schedule("s", p.register(p.admin, 1024, 1000))
	p.issue(*own, "ASIAOWN", time.Now().Add(time.Hour))
	p.issue(*other, "ASIAOLD", time.Now().Add(-time.Second))
	in := func(task *string) *ecs.UpdateTaskProtectionInput {
		return &ecs.UpdateTaskProtectionInput{Cluster: aws.String(testCluster), Tasks: []string{*task}, ProtectionEnabled: true}
	}
	task := p.withKey("ASIAOWN", "secret-ASIAOWN", "token-ASIAOWN", "us-west-2")
	if out, err := task.UpdateTaskProtection(p.ctx, in(own)); err != nil || len(out.ProtectedTasks) != 1 || !out.ProtectedTasks[0].ProtectionEnabled {
		t.Errorf("%+v, %v", out, err)
	}
	if out, err := p.withKey("ASIAOWN", "secret-ASIAOWN", "token-ASIAOWN", "ap-south-1").UpdateTaskProtection(p.ctx, in(own)); err != nil || len(out.ProtectedTasks) != 1 {
		t.Errorf("signed for the region of the instance's ARN: %+v, %v", out, err)
	}
	if out, err := task.GetTaskProtection(p.ctx, &ecs.GetTaskProtectionInput{Cluster: aws.String(testCluster), Tasks: []string{*own}}); err != nil || len(out.ProtectedTasks) != 1 {
		t.Errorf("%+v, %v", out, err)
	}
	_, err := task.UpdateTaskProtection(p.ctx, in(other))
	p.refused(err, "AccessDeniedException", "not authorized")
	_, err = task.GetTaskProtection(p.ctx, &ecs.GetTaskProtectionInput{Cluster: aws.String(testCluster), Tasks: []string{*own, *other}})
	p.refused(err, "AccessDeniedException", "not authorized")
	_, err = task.GetTaskProtection(p.ctx, &ecs.GetTaskProtectionInput{Cluster: aws.String(testCluster)})
	p.refused(err, "AccessDeniedException", "not authorized")
	_, err = task.ListTasks(p.ctx, &ecs.ListTasksInput{Cluster: aws.String(testCluster)})
	p.refused(err, "AccessDeniedException", "not authorized")
	_, err = task.StopTask(p.ctx, &ecs.StopTaskInput{Cluster: aws.String(testCluster), Task: own})
	p.refused(err, "AccessDeniedException", "not authorized")
	for name, c := range map[string]struct {
		client *ecs.Client
		code   string
	}{
		"no token":       {p.withKey("ASIAOWN", "secret-ASIAOWN", "", "us-west-2"), "UnrecognizedClientException"},
		"another token":  {p.withKey("ASIAOWN", "secret-ASIAOWN", "token-ASIAOLD", "us-west-2"), "UnrecognizedClientException"},
		"another secret": {p.withKey("ASIAOWN", "secret", "token-ASIAOWN", "us-west-2"), "InvalidSignatureException"},
		"another region": {p.withKey("ASIAOWN", "secret-ASIAOWN", "token-ASIAOWN", "eu-west-1"), "InvalidSignatureException"},
		"expired":        {p.withKey("ASIAOLD", "secret-ASIAOLD", "token-ASIAOLD", "us-west-2"), "ExpiredTokenException"},
		"never issued":   {p.withKey("ASIANEW", "s", "t", "us-west-2"), "UnrecognizedClientException"},
	} {
		_, err := c.client.UpdateTaskProtection(p.ctx, in(own))
		t.Log(name)
		p.refused(err, c.code, "")
	}
	for name, c := range map[string]*ecs.Client{"a host": p.host, "a reader": p.client(p.keys[store.RoleReadOnly])} {
		_, err := c.UpdateTaskProtection(p.ctx, in(own))
		t.Log(name)
		p.refused(err, "AccessDeniedException", "not authorized")
	}
}

func TestStaticKeysOfARoleProtectTheTasksThatHaveIt(t *testing.T) {
	p := newPlane(t)
	const role = "arn:aws:iam::123456789012:role/app"
	p.static = map[string]*auth.TaskKey{
		"AKIAAPP":   auth.Static("s", "", time.Time{}, []string{role}),
		"AKIAOTHER": auth.Static("s", "", time.Time{}, []string{"arn:aws:iam::123456789012:role/other"}),
	}
	p.define("agent", 10, 10)
	p.daemon("with", p.define("app", 10, 10, func(in *ecs.RegisterTaskDefinitionInput) { in.TaskRoleArn = aws.String(role) }))
	p.daemon("without", "agent")
	i := p.register(p.host, 1024, 1000)
	with, without := p.schedule("with", i), p.schedule("without", i)
	in := func(task *string) *ecs.UpdateTaskProtectionInput {
		return &ecs.UpdateTaskProtectionInput{Cluster: aws.String(testCluster), Tasks: []string{*task}, ProtectionEnabled: true}
	}
	if out, err := p.withKey("AKIAAPP", "s", "", "eu-west-1").UpdateTaskProtection(p.ctx, in(with)); err != nil || len(out.ProtectedTasks) != 1 {
		t.Errorf("%+v, %v", out, err)
	}
	for _, c := range []struct {
		id   string
		task *string
	}{{"AKIAAPP", without}, {"AKIAOTHER", with}, {"AKIAOTHER", without}} {
		_, err := p.withKey(c.id, "s", "", "us-west-2").UpdateTaskProtection(p.ctx, in(c.task))
		p.refused(err, "AccessDeniedException", "not authorized")
	}
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
