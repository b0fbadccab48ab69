package api

import (
	"context"
	"errors"
	"iter"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"

	"github.com/longshore-project/longshore/controlplane/store"
	"github.com/longshore-project/longshore/controlplane/task"
)

// A task's statuses.
const (
	taskPending = task.Pending
	taskRunning = task.Running
	taskStopped = task.Stopped
)

func (s *Server) taskOperations() operations {
	unsupported := []string{
		"enableExecuteCommand", "volumeConfigurations",
		"overrides.ephemeralStorage", "overrides.inferenceAcceleratorOverrides",
		"overrides.containerOverrides[].environmentFiles", "overrides.containerOverrides[].resourceRequirements",
	}
	return operations{
		"RunTask":       handle(s.runTask).refusing(unsupported...).refusing("capacityProviderStrategy", "platformVersion"),
		"StartTask":     handle(s.startTask).refusing(unsupported...),
		"StopTask":      handle(s.stopTask),
		"DescribeTasks": handle(s.describeTasks),
		"ListTasks":     handle(s.listTasks).refusing("daemonName"),
	}
}

var errTaskNotFound = invalid("The referenced task was not found.")

// findTask is the task that an id or an ARN means.
func (s *Server) findTask(v *store.View, clusterRef *string, ref string) (*store.Task, error) {
	cluster, err := s.knownCluster(v, clusterRef)
	if err != nil {
		return nil, err
	}
	id, err := s.memberRef(kindTask, cluster, ref)
	if err != nil {
		return nil, err
	}
	if t := v.Task(cluster, id); t != nil {
		return t, nil
	}
	return nil, errTaskNotFound
}

// taskObject is a task as clients see it. A task whose instance has no connection shows that.
func taskObject(v *store.View, t *store.Task, tags bool) types.Task {
	o := t.Object
	if !tags {
		o.Tags = []types.Tag{}
	}
	if o.Connectivity == types.ConnectivityConnected && !task.IsStopped(t) && v.Connection(t.Cluster, t.Instance) == nil {
		o.Connectivity = types.ConnectivityDisconnected
		if i := v.Instance(t.Cluster, t.Instance); i != nil && !i.DisconnectedSince.IsZero() {
			o.ConnectivityAt = aws.Time(i.DisconnectedSince)
		}
	}
	return o
}

func (s *Server) describeTasks(ctx context.Context, _ *call, in *ecs.DescribeTasksInput) (*ecs.DescribeTasksOutput, error) {
	if len(in.Tasks) == 0 {
		return nil, invalid("Tasks cannot be empty.")
	}
	if err := atMost("tasks", in.Tasks, 100); err != nil {
		return nil, err
	}
	for _, field := range in.Include {
		if err := oneOf("include", field, field.Values()); err != nil {
			return nil, err
		}
	}
	tags := slices.Contains(in.Include, types.TaskFieldTags)
	out := &ecs.DescribeTasksOutput{Tasks: []types.Task{}, Failures: []types.Failure{}}
	err := s.read(ctx, func(v *store.View) error {
		cluster, err := s.knownCluster(v, in.Cluster)
		if err != nil {
			return err
		}
		for _, ref := range in.Tasks {
			id, err := s.memberRef(kindTask, cluster, ref)
			if err != nil {
				return err
			}
			if t := v.Task(cluster, id); t != nil {
				out.Tasks = append(out.Tasks, taskObject(v, t, tags))
			} else {
				out.Failures = append(out.Failures, missing(s.taskARN(cluster, id)))
			}
		}
		return nil
	})
	return out, err
}

// listTasks lists the tasks that all filters let through. Without desiredStatus it lists those desired RUNNING, PENDING
// ones among them; nothing is ever desired PENDING.
func (s *Server) listTasks(ctx context.Context, c *call, in *ecs.ListTasksInput) (*ecs.ListTasksOutput, error) {
	desired := string(in.DesiredStatus)
	if desired == "" {
		desired = taskRunning
	}
	if err := errors.Join(
		oneOf("desiredStatus", in.DesiredStatus, in.DesiredStatus.Values()),
		oneOf("launchType", in.LaunchType, in.LaunchType.Values()),
	); err != nil {
		return nil, err
	}
	family := aws.ToString(in.Family)
	others := aws.ToString(in.ContainerInstance) + family + aws.ToString(in.ServiceName) + string(in.LaunchType)
	if aws.ToString(in.StartedBy) != "" && others != "" {
		return nil, invalid("startedBy cannot be combined with the filters containerInstance, family, serviceName and launchType; give it alone.")
	}
	from, err := c.pageStart(in.NextToken)
	if err != nil {
		return nil, err
	}
	var arns []string
	err = s.read(ctx, func(v *store.View) error {
		tasks, ordered, err := s.candidates(v, in, from)
		if err != nil {
			return err
		}
		for t := range tasks {
			if ordered && len(arns) > maxListed+1 { // the page, and that there is another one, are known
				break
			}
			if aws.ToString(t.Object.DesiredStatus) == desired && asks(in.LaunchType, t.Object.LaunchType) &&
				asks(aws.ToString(in.StartedBy), aws.ToString(t.Object.StartedBy)) && (family == "" || s.isOfFamily(t, family)) {
				arns = append(arns, aws.ToString(t.Object.TaskArn))
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	slices.Sort(arns)
	page, next, err := paginate(c, paging{max: in.MaxResults, token: in.NextToken, limit: maxListed, size: maxListed}, arns, itself)
	return &ecs.ListTasksOutput{TaskArns: orEmpty(page), NextToken: next}, err
}

// maxListed is how many tasks a page has at most.
const maxListed = 100

// pageStart is the id of the last task of the page before, empty for the first page.
func (c *call) pageStart(token *string) (id string, err error) {
	if aws.ToString(token) == "" {
		return "", nil
	}
	last, err := c.openToken(*token)
	return last[strings.LastIndexByte(last, '/')+1:], err
}

// candidates are the tasks of the service, of the instance, of both, or of the cluster, as the call asks. Those of the
// cluster are in order and begin with the id from, so that a page costs what is on it.
func (s *Server) candidates(v *store.View, in *ecs.ListTasksInput, from string) (tasks iter.Seq[*store.Task], ordered bool, err error) {
	cluster, err := s.clusterOf(v, in.Cluster)
	if err != nil {
		return nil, false, err
	}
	instance := ""
	if ref := aws.ToString(in.ContainerInstance); ref != "" {
		if instance, err = s.memberRef(kindInstance, cluster, ref); err != nil {
			return nil, false, err
		}
		if v.Instance(cluster, instance) == nil {
			return nil, false, invalid("The referenced container instance was not found: %.200s", ref)
		}
	}
	if ref := aws.ToString(in.ServiceName); ref != "" {
		service, err := s.findService(v, in.Cluster, ref)
		if err != nil {
			return nil, false, err
		}
		tasks := slices.Collect(v.TasksOf(cluster, aws.ToString(service.Object.ServiceName)))
		return slices.Values(slices.DeleteFunc(tasks, func(t *store.Task) bool { return instance != "" && t.Instance != instance })), false, nil
	}
	if instance != "" {
		return v.TasksOn(cluster, instance), false, nil
	}
	return v.TasksFrom(cluster, from), true, nil
}

func (s *Server) isOfFamily(t *store.Task, family string) bool {
	f, _, err := s.taskDefinitionRef(aws.ToString(t.Object.TaskDefinitionArn))
	return err == nil && f == family
}

// stopTask asks for a task's end. A task that was asked before, or is STOPPED, is answered as it is.
func (s *Server) stopTask(ctx context.Context, c *call, in *ecs.StopTaskInput) (*ecs.StopTaskOutput, error) {
	if err := checkText("reason", in.Reason, 1024); err != nil {
		return nil, err
	}
	reason := task.ReasonUser
	if r := aws.ToString(in.Reason); r != "" {
		reason = r
	}
	var object types.Task
	err := s.change(ctx, func(v *store.View, txn *store.Txn) error {
		old, err := s.findTask(v, in.Cluster, *in.Task)
		if err != nil {
			return err
		}
		t := task.Stop(old, types.TaskStopCodeUserInitiated, reason, c.now)
		if t == nil {
			object = taskObject(v, old, true)
			return errNothingToDo
		}
		object = taskObject(v, t, true)
		txn.Update(t).StateChange()
		return nil
	})
	if err != nil {
		return nil, err
	}
	return &ecs.StopTaskOutput{Task: &object}, nil
}
