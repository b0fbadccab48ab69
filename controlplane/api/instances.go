package api

import (
	"context"
	"slices"
	"strconv"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"

	"github.com/longshore-project/longshore/controlplane/scheduler/placement"
	"github.com/longshore-project/longshore/controlplane/scheduler/query"
	"github.com/longshore-project/longshore/controlplane/store"
	"github.com/longshore-project/longshore/controlplane/task"
	"github.com/longshore-project/longshore/protocol/agentapi"
	"github.com/longshore-project/longshore/protocol/arn"
)

func (s *Server) instanceOperations() operations {
	empty := clientError("Container Instances cannot be empty.")
	return operations{
		"RegisterContainerInstance":     handle(s.registerContainerInstance),
		"DeregisterContainerInstance":   handle(s.deregisterContainerInstance),
		"DescribeContainerInstances":    handle(s.describeContainerInstances).orElse("containerInstances", empty),
		"ListContainerInstances":        handle(s.listContainerInstances),
		"UpdateContainerInstancesState": handle(s.updateContainerInstancesState).orElse("containerInstances", empty),
		"UpdateContainerAgent":          handle(s.updateContainerAgent),
		"DiscoverPollEndpoint":          handle(s.discoverPollEndpoint),
	}
}

// A container instance's statuses. It is DEREGISTERING while its tasks are being recorded as stopped.
const (
	instanceActive        = "ACTIVE"
	instanceDraining      = "DRAINING"
	instanceDeregistering = "DEREGISTERING"
	instanceInactive      = "INACTIVE"
)

func instanceStatus(i *store.Instance) string { return aws.ToString(i.Object.Status) }

// instanceIsRegistered says whether an instance takes part in its cluster: it is not INACTIVE.
func instanceIsRegistered(i *store.Instance) bool { return instanceStatus(i) != instanceInactive }

// errInstanceNotFound is the answer of operations that need one instance.
var errInstanceNotFound = invalid("The referenced container instance was not found.")

// lookupInstance finds an instance by id or ARN, INACTIVE ones too; nil when there is none.
func (s *Server) lookupInstance(v *store.View, cluster, ref string) (*store.Instance, error) {
	id, err := s.memberRef(kindInstance, cluster, ref)
	if err != nil {
		return nil, err
	}
	return v.Instance(cluster, id), nil
}

// hostOf is an instance as placement sees it. i may be a changed copy that is not stored yet.
func hostOf(v *store.View, i *store.Instance) *placement.Host {
	return placement.NewHost(i, v.Allocation(i.Cluster, i.ID), v.Connection(i.Cluster, i.ID) != nil, slices.Collect(v.LiveOn(i.Cluster, i.ID)))
}

// instanceObject is a container instance as clients see it: connection, counts and remaining resources computed.
// runningTasksCount counts the tasks that are desired to run, pendingTasksCount those that are not RUNNING yet.
func (s *Server) instanceObject(v *store.View, i *store.Instance, include []types.ContainerInstanceField) types.ContainerInstance {
	h := hostOf(v, i)
	o := i.Object
	o.AgentConnected = h.Connected
	o.RunningTasksCount, o.PendingTasksCount = 0, 0
	for _, t := range h.Tasks {
		if task.Wanted(t) {
			o.RunningTasksCount++
		}
		if task.Starting(t) {
			o.PendingTasksCount++
		}
	}
	o.RemainingResources = remaining(o.RegisteredResources, h.Free)
	o.Attributes, o.Attachments = orEmpty(o.Attributes), orEmpty(o.Attachments)
	o.RegisteredResources = orEmpty(o.RegisteredResources)
	o.Tags, o.HealthStatus = []types.Tag{}, nil
	if slices.Contains(include, types.ContainerInstanceFieldTags) {
		o.Tags = orEmpty(i.Object.Tags)
	}
	if slices.Contains(include, types.ContainerInstanceFieldContainerInstanceHealth) {
		o.HealthStatus = &types.ContainerInstanceHealthStatus{OverallStatus: types.InstanceHealthCheckStateInsufficientData, Details: []types.InstanceHealthCheckResult{}}
		if i.Object.HealthStatus != nil { // as its agent last told the poll endpoint
			o.HealthStatus = i.Object.HealthStatus
		} else if s.cfg.InstanceHealth != nil {
			if known := s.cfg.InstanceHealth(i.Cluster, i.ID); known != nil {
				o.HealthStatus = known
			}
		}
	}
	return o
}

var everyInstanceField = types.ContainerInstanceField("").Values()

func (s *Server) describeContainerInstances(ctx context.Context, _ *call, in *ecs.DescribeContainerInstancesInput) (*ecs.DescribeContainerInstancesOutput, error) {
	if len(in.ContainerInstances) == 0 {
		return nil, clientError("Container Instances cannot be empty.")
	}
	if err := atMost("containerInstances", in.ContainerInstances, 100); err != nil {
		return nil, err
	}
	for _, field := range in.Include {
		if err := oneOf("include", field, everyInstanceField); err != nil {
			return nil, err
		}
	}
	out := &ecs.DescribeContainerInstancesOutput{ContainerInstances: []types.ContainerInstance{}, Failures: []types.Failure{}}
	err := s.read(ctx, func(v *store.View) error {
		cluster, err := s.knownCluster(v, in.Cluster)
		if err != nil {
			return err
		}
		for _, ref := range in.ContainerInstances {
			i, err := s.lookupInstance(v, cluster, ref)
			if err != nil {
				return err
			}
			if i == nil {
				out.Failures = append(out.Failures, s.missingInstance(cluster, ref))
				continue
			}
			out.ContainerInstances = append(out.ContainerInstances, s.instanceObject(v, i, in.Include))
		}
		return nil
	})
	return out, err
}

// missingInstance is the failure of an instance that does not exist, with the ARN it would have.
func (s *Server) missingInstance(cluster, ref string) types.Failure {
	if !arn.Is(ref) {
		ref = s.instanceARN(cluster, ref)
	}
	return missing(ref)
}

func (s *Server) listContainerInstances(ctx context.Context, c *call, in *ecs.ListContainerInstancesInput) (*ecs.ListContainerInstancesOutput, error) {
	if err := oneOf("status", in.Status, in.Status.Values()); err != nil {
		return nil, err
	}
	var filter *query.Expr
	if text := aws.ToString(in.Filter); text != "" {
		var err error
		if filter, err = query.Parse(text); err != nil {
			return nil, invalid("Invalid expression: %v", err)
		}
	}
	arns := []string{}
	err := s.read(ctx, func(v *store.View) error {
		cluster, err := s.clusterOf(v, in.Cluster)
		if err != nil {
			return err
		}
		for i := range v.Instances(cluster) {
			status := instanceStatus(i)
			if in.Status != "" && status != string(in.Status) || in.Status == "" && status == instanceInactive {
				continue
			}
			if filter == nil || filter.Match(hostOf(v, i).Subject()) {
				arns = append(arns, s.instanceARN(cluster, i.ID))
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	slices.Sort(arns)
	page, next, err := paginate(c, paging{max: in.MaxResults, token: in.NextToken, limit: 100, size: 100}, arns, itself)
	return &ecs.ListContainerInstancesOutput{ContainerInstanceArns: orEmpty(page), NextToken: next}, err
}

// updateContainerInstancesState drains instances, or makes them ACTIVE again, all in one transaction.
func (s *Server) updateContainerInstancesState(ctx context.Context, c *call, in *ecs.UpdateContainerInstancesStateInput) (*ecs.UpdateContainerInstancesStateOutput, error) {
	if len(in.ContainerInstances) == 0 {
		return nil, clientError("Container Instances cannot be empty.")
	}
	if err := atMost("containerInstances", in.ContainerInstances, 10); err != nil {
		return nil, err
	}
	if in.Status != instanceActive && in.Status != instanceDraining {
		return nil, invalid("Container instance status should be one of [ACTIVE, DRAINING]")
	}
	var out *ecs.UpdateContainerInstancesStateOutput
	err := s.change(ctx, func(v *store.View, txn *store.Txn) error {
		out = &ecs.UpdateContainerInstancesStateOutput{ContainerInstances: []types.ContainerInstance{}, Failures: []types.Failure{}}
		cluster, err := s.clusterOf(v, in.Cluster)
		if err != nil {
			return err
		}
		seen, writes := map[string]bool{}, 0
		for _, ref := range in.ContainerInstances {
			i, err := s.lookupInstance(v, cluster, ref)
			switch {
			case err != nil:
				return err
			case i == nil:
				out.Failures = append(out.Failures, s.missingInstance(cluster, ref))
				continue
			case c.speaksFor(i) != nil:
				return c.speaksFor(i)
			case seen[i.ID]:
				continue
			}
			seen[i.ID] = true
			switch instanceStatus(i) {
			case string(in.Status):
			case instanceActive, instanceDraining:
				changed := *i
				changed.Object.Status = aws.String(string(in.Status))
				changed.Object.Version++
				changed.Object.StatusReason, changed.DrainingSince = nil, time.Time{}
				changed.DrainedItself = false
				if in.Status == instanceDraining {
					changed.DrainingSince, changed.DrainedItself = c.now, c.identity.Role == store.RoleHost && c.request.Header.Get(agentapi.DepartureHeader) != ""
				}
				txn.Update(&changed)
				if a := v.Allocation(cluster, i.ID); a != nil && in.Status == instanceDraining {
					task.Fence(txn, a)
				}
				i, writes = &changed, writes+1
			default:
				out.Failures = append(out.Failures, types.Failure{Arn: i.Object.ContainerInstanceArn, Reason: aws.String(instanceStatus(i)),
					Detail: aws.String("Only an ACTIVE or DRAINING container instance can change its state.")})
				continue
			}
			out.ContainerInstances = append(out.ContainerInstances, s.instanceObject(v, i, everyInstanceField))
		}
		if writes == 0 {
			return errNothingToDo
		}
		txn.StateChange()
		return nil
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// deregisterContainerInstance makes an instance INACTIVE. By force, its tasks are recorded as stopped before that, as many
// at once as fit in a transaction; the instance is DEREGISTERING while that goes on, and repeating the call finishes what
// was begun.
func (s *Server) deregisterContainerInstance(ctx context.Context, c *call, in *ecs.DeregisterContainerInstanceInput) (*ecs.DeregisterContainerInstanceOutput, error) {
	for done := false; !done; {
		err := s.change(ctx, func(v *store.View, txn *store.Txn) error {
			i, err := s.instanceToChange(v, c, in.Cluster, aws.ToString(in.ContainerInstance))
			if err != nil {
				return err
			}
			if done = !instanceIsRegistered(i); done {
				return errNothingToDo
			}
			done, err = s.deregister(v, txn, i, aws.ToBool(in.Force))
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	out := &ecs.DeregisterContainerInstanceOutput{}
	err := s.read(ctx, func(v *store.View) error {
		i, err := s.instanceToChange(v, c, in.Cluster, aws.ToString(in.ContainerInstance))
		if err == nil {
			object := s.instanceObject(v, i, everyInstanceField)
			out.ContainerInstance = &object
		}
		return err
	})
	return out, err
}

// instanceToChange is the instance that a call is about, when its caller may speak for it.
func (s *Server) instanceToChange(v *store.View, c *call, clusterRef *string, ref string) (*store.Instance, error) {
	cluster, err := s.clusterOf(v, clusterRef)
	if err != nil {
		return nil, err
	}
	i, err := s.lookupInstance(v, cluster, ref)
	switch {
	case err != nil:
		return nil, err
	case i == nil:
		return nil, errInstanceNotFound
	}
	return i, c.speaksFor(i)
}

// deregister adds the next step of a deregistration to txn, and says whether it is the last.
func (s *Server) deregister(v *store.View, txn *store.Txn, i *store.Instance, force bool) (done bool, err error) {
	var ended []*store.Task
	done = true
	for t := range v.LiveOn(i.Cluster, i.ID) {
		if !force {
			return false, invalid("Found running tasks on the instance.")
		}
		if len(ended) == task.MaxFinish {
			done = false
			break
		}
		ended = append(ended, task.Lost(t, types.TaskStopCodeUserInitiated, task.ReasonForced, s.cfg.Now()))
	}
	changed := *i
	changed.Object.Status = aws.String(instanceDeregistering)
	if done {
		changed.Object.Status, changed.InactiveSince = aws.String(instanceInactive), s.cfg.Now()
	}
	changed.Object.Version++
	txn.Update(&changed).StateChange()
	if len(ended) > 0 {
		task.Finish(txn, v, ended...)
	} else if a := v.Allocation(i.Cluster, i.ID); a != nil {
		task.Fence(txn, a)
	}
	return done, nil
}

// updateContainerAgent knows no newer agent: agents are updated with their host's packages.
func (s *Server) updateContainerAgent(ctx context.Context, c *call, in *ecs.UpdateContainerAgentInput) (*ecs.UpdateContainerAgentOutput, error) {
	err := s.read(ctx, func(v *store.View) error {
		i, err := s.instanceToChange(v, c, in.Cluster, aws.ToString(in.ContainerInstance))
		if err == nil && !instanceIsRegistered(i) {
			err = errInstanceNotFound
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return nil, exception("NoUpdateAvailableException", "There is no update available for your container agent: this control plane does not distribute agents, update it with the host's packages.")
}

// remaining is what is left of the registered resources. The entries PORTS and PORTS_UDP list, despite the name, the
// ports that are taken.
func remaining(registered []types.Resource, free store.Resources) []types.Resource {
	out := make([]types.Resource, len(registered))
	for i, r := range registered {
		switch aws.ToString(r.Name) {
		case "CPU":
			r.IntegerValue = int32(free.CPU)
		case "MEMORY":
			r.IntegerValue = int32(free.Memory)
		case "PORTS":
			r.StringSetValue = portTexts(free.PortsTCP)
		case "PORTS_UDP":
			r.StringSetValue = portTexts(free.PortsUDP)
		case "GPU":
			r.StringSetValue = orEmpty(free.GPUs)
		}
		out[i] = r
	}
	return out
}

func portTexts(ports []int32) []string {
	out := make([]string, len(ports))
	for i, p := range ports {
		out[i] = strconv.Itoa(int(p))
	}
	return out
}
