package api_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"

	"github.com/longshore-project/longshore/controlplane/auth"
	"github.com/longshore-project/longshore/controlplane/store"
	"github.com/longshore-project/longshore/protocol/agentapi"
	"github.com/longshore-project/longshore/protocol/ecsapi"
	"github.com/longshore-project/longshore/protocol/join"
)

// TestAHostSpeaksOnlyForItself goes through every operation there is, with the key of another host.
func TestAHostSpeaksOnlyForItself(t *testing.T) {
	p := newPlane(t)
	p.define("job", 10, 10)
	mine := p.key(store.Key{Role: store.RoleHost})
	_, err := p.join(mine, "", "a")
	p.must(err)
	joining := p.key(store.Key{Role: store.RoleHost, Enrolment: true}) // which the other host had, and so may have leaked
	theirs, err := p.join(joining, "", "b")
	p.must(err)
	own, err := p.exchange(joining, theirs, "b")
	p.must(err)
	p.connect(theirs[len(theirs)-32:])
	started, err := p.admin.StartTask(p.ctx, &ecs.StartTaskInput{Cluster: aws.String(testCluster), ContainerInstances: []string{theirs}, TaskDefinition: aws.String("job")})
	p.must(err)
	if len(started.Tasks) != 1 {
		t.Fatalf("no task: %+v", started.Failures)
	}
	task := *started.Tasks[0].TaskArn
	attachment := p.attach(task)
	calls := speaking(testCluster, theirs, task, attachment)
	var operations []string
	for _, o := range ecsapi.Operations() {
		operations = append(operations, o.Name)
	}
	operations = append(operations, "Explain", "Sizing", join.HostOperation, agentapi.HostKeyOperation)
	for _, k := range []auth.Key{mine, joining} {
		for _, operation := range operations {
			in, allowed := calls[operation]
			if !allowed {
				in = struct{}{} // it does not come to what is asked
			}
			before := p.picture(theirs, task)
			err := p.invoke(k, operation, in)
			var refused *agentapi.APIError
			if harmless[operation] {
				if err != nil {
					t.Errorf("%s: %v", operation, err)
				}
			} else if !errors.As(err, &refused) || refused.Code != "AccessDeniedException" {
				t.Errorf("%s with the key of another host (join key: %t): %v", operation, k.Enrolment, err)
			}
			if after := p.picture(theirs, task); after != before {
				t.Errorf("%s changed what is another host's:\n%s\n%s", operation, before, after)
			}
		}
	}
	p.disconnect(theirs[len(theirs)-32:])
	for operation, in := range calls { // the host itself may
		if operation == "DeregisterContainerInstance" {
			continue // the last thing that it does
		}
		if err := p.invoke(*own, operation, in); err != nil {
			t.Errorf("%s for itself: %v", operation, err)
		}
	}
	if err := p.invoke(*own, "DeregisterContainerInstance", calls["DeregisterContainerInstance"]); err != nil {
		t.Errorf("DeregisterContainerInstance for itself: %v", err)
	}
}

// invoke calls any operation.
func (p *plane) invoke(k auth.Key, operation string, in any) error {
	p.t.Helper()
	target := ecsapi.TargetPrefix
	if _, err := ecsapi.ByTarget(target + operation); err != nil {
		target = agentapi.OwnTarget
	}
	c, err := agentapi.New(agentapi.Config{Endpoint: p.url, Region: "us-west-2", Service: "ecs", Target: target, MaxAttempts: 1,
		Credentials: credentials.NewStaticCredentialsProvider(k.AccessKeyID, k.Secret, ""), HTTPClient: p.http})
	p.must(err)
	return c.Call(p.ctx, operation, in, nil)
}

// attach gives a task an attachment that is not attached yet.
func (p *plane) attach(task string) (attachment string) {
	p.t.Helper()
	const id = "11111111-2222-3333-4444-555555555555"
	p.must(p.store.Read(p.ctx, func(v *store.View) error {
		next := *v.Task(testCluster, task[strings.LastIndexByte(task, '/')+1:])
		next.Object.Attachments = []types.Attachment{{Id: aws.String(id), Type: aws.String("eni"), Status: aws.String("ATTACHING")}}
		return p.store.Txn().Update(&next).Commit(p.ctx)
	}))
	return "arn:aws:ecs:us-west-2:123456789012:attachment/" + testCluster + "/" + id
}

// picture tells whether the records of an instance and a task are still the same.
func (p *plane) picture(instance, task string) (picture string) {
	p.t.Helper()
	instance, task = instance[strings.LastIndexByte(instance, '/')+1:], task[strings.LastIndexByte(task, '/')+1:]
	p.must(p.store.Read(p.ctx, func(v *store.View) error {
		picture = fmt.Sprint(v.Instance(testCluster, instance).Revision(), v.Task(testCluster, task).Revision(), v.Allocation(testCluster, instance).Revision())
		return nil
	}))
	return picture
}

// harmless operations are answered to any host, with nothing about another one.
var harmless = map[string]bool{"SubmitAttachmentStateChanges": true, "CreateCluster": true}

// speaking are the calls of an agent, about an instance and a task of it.
func speaking(cluster, instance, task, attachment string) map[string]any {
	stopped, forced, token := "STOPPED", true, "anew"
	return map[string]any{
		"RegisterContainerInstance":     &agentapi.RegisterContainerInstanceInput{Cluster: &cluster, ContainerInstanceArn: &instance, ClientToken: &token},
		"DeregisterContainerInstance":   &agentapi.DeregisterContainerInstanceInput{Cluster: &cluster, ContainerInstance: &instance, Force: &forced},
		"DiscoverPollEndpoint":          &agentapi.DiscoverPollEndpointInput{Cluster: &cluster, ContainerInstance: &instance},
		"SubmitTaskStateChange":         &agentapi.SubmitTaskStateChangeInput{Cluster: &cluster, Task: &task, Status: &stopped},
		"SubmitContainerStateChange":    &agentapi.SubmitContainerStateChangeInput{Cluster: &cluster, Task: &task, ContainerName: aws.String("main"), Status: &stopped},
		"SubmitAttachmentStateChanges":  &agentapi.SubmitAttachmentStateChangesInput{Cluster: &cluster, Attachments: []agentapi.AttachmentStateChange{{AttachmentArn: &attachment, Status: aws.String("ATTACHED")}}},
		"UpdateContainerInstancesState": &agentapi.UpdateContainerInstancesStateInput{Cluster: &cluster, ContainerInstances: []string{instance}, Status: "DRAINING"},
		"ListTagsForResource":           &agentapi.ListTagsForResourceInput{ResourceArn: &instance},
		"CreateCluster":                 &agentapi.CreateClusterInput{ClusterName: aws.String("default")},
		join.HostOperation:              &join.HostInput{Cluster: &cluster, ContainerInstance: &instance},
		agentapi.HostKeyOperation:       &agentapi.HostKeyInput{ContainerInstance: &instance, ClientToken: &token},
	}
}
