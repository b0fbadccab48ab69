package task

import (
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"
	"pgregory.net/rapid"

	"github.com/longshore-project/longshore/controlplane/store"
)

func withInterface(p *Params) {
	p.Interfaces = []store.Interface{{Attachment: "5a1f", ID: "eni-1", Subnet: "subnet-a", MAC: "0a:58:0a:14:00:05", IPv4: "10.20.0.5", IPv4Gateway: "10.20.0.1/24", SecurityGroups: []string{"default"}}}
}

// state is where a task and its interface are.
func state(t *store.Task) string {
	return LastStatus(t) + " " + aws.ToString(t.Object.Attachments[0].Status)
}

func TestATaskWithAnInterfaceTakesTwoMoreSteps(t *testing.T) {
	attachedReport := StateChange{Attachments: []types.AttachmentStateChange{{AttachmentArn: aws.String("arn:aws:ecs:us-west-2:123456789012:attachment/5a1f"), Status: aws.String("ATTACHED")}}}
	apply := func(c StateChange) func(*store.Task) *store.Task {
		return func(was *store.Task) *store.Task {
			is, _ := Apply(was, c, now)
			return is
		}
	}
	running, stopped, pending := apply(StateChange{Status: Running}), apply(StateChange{Status: Stopped}), apply(StateChange{Status: Pending})
	lost := func(was *store.Task) *store.Task { return Lost(was, "", "the host is gone", now) }
	for name, test := range map[string]struct {
		steps []func(*store.Task) *store.Task
		want  []string
	}{
		"as it should go": {[]func(*store.Task) *store.Task{Accepted, apply(attachedReport), pending, running, stopped, stopped, stopped},
			[]string{"PROVISIONING ATTACHING", "PENDING ATTACHED", "PENDING ATTACHED", "RUNNING ATTACHED", "DEPROVISIONING DETACHING", "STOPPED DELETED", "STOPPED DELETED"}},
		"reported before its acknowledgement is recorded": {[]func(*store.Task) *store.Task{apply(attachedReport), Accepted, running}, []string{"PENDING ATTACHED", "PENDING ATTACHED", "RUNNING ATTACHED"}},
		"an agent that does not tell of interfaces":       {[]func(*store.Task) *store.Task{pending, running, stopped, stopped}, []string{"PENDING PRECREATED", "RUNNING ATTACHED", "DEPROVISIONING DETACHING", "STOPPED DELETED"}},
		"it never gets its interface":                     {[]func(*store.Task) *store.Task{Accepted, stopped, stopped}, []string{"PROVISIONING ATTACHING", "DEPROVISIONING DETACHING", "STOPPED DELETED"}},
		"late news of the interface":                      {[]func(*store.Task) *store.Task{stopped, apply(attachedReport), stopped, apply(attachedReport)}, []string{"DEPROVISIONING DETACHING", "DEPROVISIONING DETACHING", "STOPPED DELETED", "STOPPED DELETED"}},
		"its host is lost":                                {[]func(*store.Task) *store.Task{running, lost}, []string{"RUNNING ATTACHED", "STOPPED DELETED"}},
		"its host is lost between the two last steps":     {[]func(*store.Task) *store.Task{stopped, lost}, []string{"DEPROVISIONING DETACHING", "STOPPED DELETED"}},
	} {
		task := newTask(t, withInterface)
		if got := state(task); got != "PROVISIONING PRECREATED" || !Starting(task) {
			t.Fatal(got)
		}
		for i, step := range test.steps {
			task = step(task)
			if got := state(task); got != test.want[i] {
				t.Errorf("%s: step %d: %s, want %s", name, i, got, test.want[i])
			}
			if at := task.Object.StoppedAt; (at != nil) != IsStopped(task) {
				t.Errorf("%s: step %d: %s, stopped at %v", name, i, state(task), at)
			}
		}
	}
	if task := newTask(t, withInterface); AttachmentARN(task, &task.Interfaces[0]) != *attachedReport.Attachments[0].AttachmentArn {
		t.Error(AttachmentARN(task, &task.Interfaces[0]))
	}
}

func TestATaskWithAnInterfaceOnlyMovesForward(t *testing.T) {
	first := newTask(t, withInterface)
	rapid.Check(t, func(t *rapid.T) {
		task := first
		for i := range rapid.IntRange(1, 12).Draw(t, "steps") {
			at := now.Add(time.Duration(i) * time.Second)
			var next *store.Task
			switch rapid.IntRange(0, 6).Draw(t, "step") {
			case 0:
				next = Stop(task, types.TaskStopCodeUserInitiated, "asked", at)
			case 1:
				if rapid.IntRange(0, 9).Draw(t, "lost") == 0 {
					next = Lost(task, "", "lost", at)
				}
			default:
				change := drawChange(t)
				change.Attachments = []types.AttachmentStateChange{{AttachmentArn: aws.String("arn:x/5a1f"), Status: aws.String(rapid.SampledFrom(append(attachmentStatuses, "", "NONSENSE")).Draw(t, "attachment"))}}
				next, _ = Apply(task, change, at)
				for range 2 {
					once, changed := Apply(next, change, at)
					if changed && LastStatus(next) != Deprovisioning {
						t.Fatalf("a repeated %s changed %s to %s", show(change), show(next.Object), show(once.Object))
					}
				}
			}
			if next == nil {
				next = task
			}
			forward(t, task, next)
			if a, b := task.Object.Attachments[0].Status, next.Object.Attachments[0].Status; attachmentRank(b) < attachmentRank(a) {
				t.Fatalf("the interface went from %s to %s", *a, *b)
			}
			if IsStopped(next) != (aws.ToString(next.Object.Attachments[0].Status) == AttachmentDeleted) {
				t.Fatalf("the task is %s, its interface %s", LastStatus(next), *next.Object.Attachments[0].Status)
			}
			task = next
		}
	})
	if state(first) != "PROVISIONING PRECREATED" {
		t.Error("a record that was given was modified")
	}
}
