package api

import (
	"context"
	"slices"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"

	"github.com/longshore-project/longshore/controlplane/store"
	"github.com/longshore-project/longshore/controlplane/task"
)

func (s *Server) protectionOperations() operations {
	empty := invalid("Tasks cannot be empty.")
	return operations{
		"UpdateTaskProtection": handle(s.updateTaskProtection).orElse("tasks", empty),
		"GetTaskProtection":    handle(s.getTaskProtection),
	}
}

const (
	defaultProtection = 120  // minutes
	maxProtection     = 2880 // minutes
)

// updateTaskProtection protects tasks of services from scale-in and roll-outs until a time, or no longer. What each task
// is refused for is a failure of its own; the others are written together.
func (s *Server) updateTaskProtection(ctx context.Context, c *call, in *ecs.UpdateTaskProtectionInput) (*ecs.UpdateTaskProtectionOutput, error) {
	if len(in.Tasks) == 0 {
		return nil, invalid("Tasks cannot be empty.")
	}
	if err := atMost("tasks", in.Tasks, 10); err != nil {
		return nil, err
	}
	minutes := int32(defaultProtection)
	if in.ExpiresInMinutes != nil {
		if minutes = *in.ExpiresInMinutes; minutes < 1 || minutes > maxProtection {
			return nil, invalid("expiresInMinutes should be between 1 and %d, but was %d.", maxProtection, minutes)
		}
	}
	var until time.Time
	if in.ProtectionEnabled {
		until = c.now.UTC().Truncate(time.Millisecond).Add(time.Duration(minutes) * time.Minute)
	}
	out := &ecs.UpdateTaskProtectionOutput{}
	err := s.change(ctx, func(v *store.View, txn *store.Txn) error {
		out.ProtectedTasks, out.Failures = []types.ProtectedTask{}, []types.Failure{}
		cluster, err := s.clusterOf(v, in.Cluster)
		if err != nil {
			return err
		}
		seen := map[string]bool{}
		for _, ref := range in.Tasks {
			id, err := s.memberRef(kindTask, cluster, ref)
			if err != nil {
				return err
			}
			t := v.Task(cluster, id)
			if seen[id] {
				continue
			}
			seen[id] = true
			if err := c.speaksForTask(v, t); err != nil {
				return err
			}
			if failure := s.unprotectable(v, cluster, id, t, in.ProtectionEnabled, c.now); failure != nil {
				out.Failures = append(out.Failures, *failure)
				continue
			}
			n := task.Protect(t, until)
			txn.Update(n)
			out.ProtectedTasks = append(out.ProtectedTasks, protectedTask(n, c.now))
		}
		if len(out.ProtectedTasks) == 0 {
			return errNothingToDo
		}
		txn.StateChange()
		return nil
	})
	return out, err
}

// unprotectable is why the protection of a task can't be changed; nil: it can.
func (s *Server) unprotectable(v *store.View, cluster, id string, t *store.Task, enable bool, now time.Time) *types.Failure {
	failure := func(reason, detail string) *types.Failure {
		f := types.Failure{Arn: aws.String(s.taskARN(cluster, id)), Reason: aws.String(reason)}
		if detail != "" {
			f.Detail = aws.String(detail)
		}
		return &f
	}
	switch {
	case t == nil:
		return failure("MISSING", "")
	case t.Service == "":
		return failure("TASK_NOT_VALID", "The task is part of no service; only tasks of services can be protected.")
	case !task.Wanted(t) || task.IsStopped(t):
		return failure("TASK_NOT_VALID", "The task is being stopped or STOPPED.")
	case enable && blocksDeployment(v, t, now):
		return failure("DEPLOYMENT_BLOCKED", "Protected tasks of earlier deployments keep the service's deployment from its end, and this task is one of an earlier deployment.")
	}
	return nil
}

// blocksDeployment tells whether protecting the task would prolong a roll-out that waits for protected tasks only.
func blocksDeployment(v *store.View, t *store.Task, now time.Time) bool {
	svc := v.Service(t.Cluster, t.Service)
	if svc == nil {
		return false
	}
	primary := ""
	for _, d := range svc.Object.Deployments {
		if aws.ToString(d.Status) == deploymentPrimary {
			primary = aws.ToString(d.Id)
		}
	}
	if t.Deployment == primary {
		return false
	}
	blocked := false
	for o := range v.LiveOf(t.Cluster, t.Service) {
		if !task.Wanted(o) || o.Deployment == primary {
			continue
		}
		if !task.Protected(o, now) {
			return false
		}
		blocked = true
	}
	return blocked
}

// getTaskProtection answers for the tasks named, or for all of the cluster's services.
func (s *Server) getTaskProtection(ctx context.Context, c *call, in *ecs.GetTaskProtectionInput) (*ecs.GetTaskProtectionOutput, error) {
	if err := atMost("tasks", in.Tasks, 100); err != nil {
		return nil, err
	}
	out := &ecs.GetTaskProtectionOutput{ProtectedTasks: []types.ProtectedTask{}, Failures: []types.Failure{}}
	err := s.read(ctx, func(v *store.View) error {
		cluster, err := s.clusterOf(v, in.Cluster)
		if err != nil {
			return err
		}
		if len(in.Tasks) == 0 && c.identity.Role == store.RoleTask {
			return c.denied("*")
		}
		if len(in.Tasks) == 0 {
			for t := range v.Tasks(cluster) {
				if t.Service != "" && !task.IsStopped(t) {
					out.ProtectedTasks = append(out.ProtectedTasks, protectedTask(t, c.now))
				}
			}
			return nil
		}
		for _, ref := range in.Tasks {
			id, err := s.memberRef(kindTask, cluster, ref)
			if err != nil {
				return err
			}
			t := v.Task(cluster, id)
			if err := c.speaksForTask(v, t); err != nil {
				return err
			}
			switch {
			case t == nil:
				return errResourceNotFound
			case t.Service == "":
				out.Failures = append(out.Failures, *s.unprotectable(v, cluster, id, t, false, c.now))
			default:
				out.ProtectedTasks = append(out.ProtectedTasks, protectedTask(t, c.now))
			}
		}
		return nil
	})
	return out, err
}

// speaksForTask refuses a task's key that is used for a task which it was not issued for, or for one that does not exist. Static
// keys of a role are those of every task that has it.
func (c *call) speaksForTask(v *store.View, t *store.Task) error {
	switch {
	case c.identity.Role != store.RoleTask:
		return nil
	case t == nil:
		return c.denied("*")
	case c.identity.Task.ID != "":
		if t.ID == c.identity.Task.ID && t.Cluster == c.identity.Task.Cluster {
			return nil
		}
	case !task.IsStopped(t):
		if d, err := c.s.lookupTaskDefinition(v, aws.ToString(t.Object.TaskDefinitionArn)); err == nil && d != nil {
			if role, _ := task.Roles(&d.Object, t); role != "" && slices.Contains(c.identity.Task.Roles, task.RoleArn(role, c.s.cfg.AccountID)) {
				return nil
			}
		}
	}
	return c.denied(aws.ToString(t.Object.TaskArn))
}

func protectedTask(t *store.Task, now time.Time) types.ProtectedTask {
	p := types.ProtectedTask{TaskArn: t.Object.TaskArn, ProtectionEnabled: task.Protected(t, now)}
	if p.ProtectionEnabled {
		p.ExpirationDate = aws.Time(t.ProtectedUntil)
	}
	return p
}
