package api

import (
	"context"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"

	"github.com/longshore-project/longshore/controlplane/store"
	"github.com/longshore-project/longshore/controlplane/task"
)

func (s *Server) submitOperations() operations {
	return operations{
		"SubmitTaskStateChange":        handle(s.submitTaskStateChange),
		"SubmitContainerStateChange":   handle(s.submitContainerStateChange),
		"SubmitAttachmentStateChanges": handle(s.submitAttachmentStateChanges),
	}
}

// Longer texts from an agent are cut.
const (
	maxReason = 1024
	maxID     = 255
)

// submitTaskStateChange records what an agent reports about a task. An InvalidParameterException tells the agent that the
// task is not known here, and to forget it.
func (s *Server) submitTaskStateChange(_ context.Context, c *call, in *ecs.SubmitTaskStateChangeInput) (*ecs.SubmitTaskStateChangeOutput, error) {
	change := task.StateChange{
		Status: aws.ToString(in.Status), Reason: aws.ToString(cut(in.Reason, maxReason)),
		Containers: in.Containers, ManagedAgents: in.ManagedAgents, Attachments: in.Attachments,
		PullStartedAt: known(in.PullStartedAt), PullStoppedAt: known(in.PullStoppedAt), ExecutionStoppedAt: known(in.ExecutionStoppedAt),
	}
	ack, err := s.submit(c, in.Cluster, in.Task, change)
	return &ecs.SubmitTaskStateChangeOutput{Acknowledgment: ack}, err
}

func (s *Server) submitContainerStateChange(_ context.Context, c *call, in *ecs.SubmitContainerStateChangeInput) (*ecs.SubmitContainerStateChangeOutput, error) {
	ack, err := s.submit(c, in.Cluster, in.Task, task.StateChange{Containers: []types.ContainerStateChange{{
		ContainerName: in.ContainerName, Status: in.Status, ExitCode: in.ExitCode, Reason: in.Reason,
		RuntimeId: in.RuntimeId, NetworkBindings: in.NetworkBindings,
	}}})
	return &ecs.SubmitContainerStateChangeOutput{Acknowledgment: ack}, err
}

// submit applies a report to a task of an instance that the caller may speak for.
func (s *Server) submit(c *call, clusterRef, ref *string, change task.StateChange) (*string, error) {
	if err := checkReport(&change); err != nil {
		return nil, err
	}
	if aws.ToString(ref) == "" {
		return nil, errTaskNotFound
	}
	return acknowledged(c), s.reports.record(&report{c: c, cluster: clusterRef, ref: *ref, change: change})
}

// reportedTask is the task that a report is about.
func (s *Server) reportedTask(v *store.View, c *call, clusterRef *string, ref string) (*store.Task, error) {
	cluster, err := s.clusterRef(clusterRef)
	if err != nil {
		return nil, err
	}
	id, err := s.memberRef(kindTask, cluster, ref)
	if err != nil {
		return nil, err
	}
	t := v.Task(cluster, id)
	if t == nil {
		return nil, errTaskNotFound
	}
	instance := v.Instance(cluster, t.Instance)
	if instance == nil {
		return nil, errTaskNotFound
	}
	return t, c.speaksFor(instance)
}

// checkReport cuts what is too long and refuses statuses that nobody knows.
func checkReport(change *task.StateChange) error {
	if err := checkStatus("status", change.Status); err != nil {
		return err
	}
	for i := range change.Containers {
		r := &change.Containers[i]
		if err := checkStatus("containers[].status", aws.ToString(r.Status)); err != nil {
			return err
		}
		r.Reason, r.RuntimeId, r.ImageDigest = cut(r.Reason, maxReason), cut(r.RuntimeId, maxID), cut(r.ImageDigest, maxID)
	}
	for i := range change.ManagedAgents {
		change.ManagedAgents[i].Reason = cut(change.ManagedAgents[i].Reason, maxReason)
	}
	return nil
}

func checkStatus(member, status string) error {
	switch status {
	case "", taskPending, taskRunning, taskStopped:
		return nil
	}
	return invalid("%s should be one of [PENDING, RUNNING, STOPPED], but was %.200q.", member, status)
}

// submitAttachmentStateChanges records the state of attachments of tasks on the caller's instances. Attachments that no
// task has are acknowledged: an instance's own are not followed here.
func (s *Server) submitAttachmentStateChanges(ctx context.Context, c *call, in *ecs.SubmitAttachmentStateChangesInput) (*ecs.SubmitAttachmentStateChangesOutput, error) {
	err := s.change(ctx, func(v *store.View, txn *store.Txn) error {
		cluster, err := s.clusterRef(in.Cluster)
		if err != nil {
			return err
		}
		var changed []*store.Task
		seen := map[string]bool{}
		for _, r := range in.Attachments {
			ref := aws.ToString(r.AttachmentArn)
			t := v.Attached(cluster, ref[strings.LastIndexByte(ref, '/')+1:])
			if t == nil || seen[t.ID] {
				continue
			}
			seen[t.ID] = true
			if instance := v.Instance(cluster, t.Instance); instance == nil || c.speaksFor(instance) != nil {
				continue
			}
			if n, ok := task.Apply(t, task.StateChange{Attachments: in.Attachments}, c.now); ok && len(changed) < task.MaxFinish {
				changed = append(changed, n)
			}
		}
		if len(changed) == 0 {
			return errNothingToDo
		}
		task.Finish(txn, v, changed...)
		return nil
	})
	return &ecs.SubmitAttachmentStateChangesOutput{Acknowledgment: acknowledged(c)}, err
}

// acknowledged is what an agent is told; it only looks whether there is an error.
func acknowledged(c *call) *string { return aws.String(c.requestID) }

// cut shortens a text to n bytes, at the end of a character.
func cut(text *string, n int) *string {
	if text == nil || len(*text) <= n {
		return text
	}
	for n > 0 && !utf8.RuneStart((*text)[n]) {
		n--
	}
	return aws.String((*text)[:n])
}

func known(t *time.Time) time.Time {
	if t == nil {
		return time.Time{}
	}
	return *t
}
