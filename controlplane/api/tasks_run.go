package api

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"

	"github.com/longshore-project/longshore/controlplane/network"
	"github.com/longshore-project/longshore/controlplane/scheduler/placement"
	"github.com/longshore-project/longshore/controlplane/store"
	"github.com/longshore-project/longshore/controlplane/task"
)

// maxCount is how many tasks one call starts at most.
const maxCount = 10

// start is what RunTask and StartTask have in common.
type start struct {
	cluster     *string
	definition  string
	group       *string
	startedBy   *string
	launchType  types.LaunchType
	overrides   *types.TaskOverride
	propagate   types.PropagateTags
	tags        []types.Tag
	managedTags bool
	network     *types.NetworkConfiguration
}

// runTask places count tasks, all in one transaction. What does not fit is told in failures; there is no retry later. When
// tasks would fit only where daemons come first, the call waits for these up to GateWait, and places nothing before.
//
// A client token makes a repeated call answer the tasks of the first one: their ids are made from it, so that two calls
// can't both create them.
func (s *Server) runTask(ctx context.Context, c *call, in *ecs.RunTaskInput) (*ecs.RunTaskOutput, error) {
	st := start{cluster: in.Cluster, definition: *in.TaskDefinition, group: in.Group, startedBy: in.StartedBy, launchType: in.LaunchType,
		overrides: in.Overrides, propagate: in.PropagateTags, tags: in.Tags, managedTags: in.EnableECSManagedTags, network: in.NetworkConfiguration}
	if err := checkRunTask(c, in, &st); err != nil {
		return nil, err
	}
	count := int(aws.ToInt32(in.Count))
	if in.Count == nil {
		count = 1
	}
	token, mark := aws.ToString(in.ClientToken), ""
	if token != "" {
		mark = token + " " + c.digest("clientToken", "cluster")
	}
	out := &ecs.RunTaskOutput{}
	last := false
	var turn *placement.Turn
	decide := func(v *store.View, txn *store.Txn) error {
		out.Tasks, out.Failures = []types.Task{}, []types.Failure{}
		cluster, err := s.activeCluster(v, in.Cluster)
		if err != nil {
			return err
		}
		name := aws.ToString(cluster.Object.ClusterName)
		if made := tasksOfToken(v, name, token); len(made) > 0 {
			if err := sameCall(made, mark); err != nil {
				return err
			}
			for _, t := range made {
				out.Tasks = append(out.Tasks, taskObject(v, t, true))
			}
			return errNothingToDo
		}
		def, req, err := s.startRequest(v, c, &st, in.PlacementConstraints)
		if err != nil {
			return err
		}
		chosen, refusals, none := turn.Choose(v, name, s.cfg.Now(), req, count)
		if none {
			return invalid("No Container Instances were found in your cluster.")
		}
		if !last && waitsAtGate(refusals) {
			return errAtGate
		}
		out.Failures = s.failures(name, refusals)
		ids := make([]string, len(chosen))
		for i := range ids {
			ids[i] = idOfToken(name, token, i)
		}
		out.Tasks, err = s.place(v, txn, c, &st, name, def, req.Claim, chosen, ids, mark)
		if err == nil && len(chosen) == 0 {
			return errNothingToDo
		}
		txn.Unchanged(cluster)
		return err
	}
	err := s.atGate(ctx, func(now bool) (err error) {
		last, c.now = now, s.cfg.Now().UTC().Truncate(time.Millisecond)
		if turn, err = s.rooms.Turn(ctx, in.PlacementStrategy); err != nil {
			return err
		}
		defer turn.Done()
		return s.change(ctx, decide)
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// startTask places one task on each of the instances named, whatever the constraints say.
func (s *Server) startTask(ctx context.Context, c *call, in *ecs.StartTaskInput) (*ecs.StartTaskOutput, error) {
	st := start{cluster: in.Cluster, definition: *in.TaskDefinition, group: in.Group, startedBy: in.StartedBy,
		overrides: in.Overrides, propagate: in.PropagateTags, tags: in.Tags, managedTags: in.EnableECSManagedTags, network: in.NetworkConfiguration}
	if len(in.ContainerInstances) == 0 {
		return nil, clientError("Container Instances cannot be empty.")
	}
	if err := atMost("containerInstances", in.ContainerInstances, maxCount); err != nil {
		return nil, err
	}
	if err := checkStart(c, &st); err != nil {
		return nil, err
	}
	out := &ecs.StartTaskOutput{}
	err := s.change(ctx, func(v *store.View, txn *store.Txn) error {
		out.Tasks, out.Failures = []types.Task{}, []types.Failure{}
		cluster, err := s.activeCluster(v, in.Cluster)
		if err != nil {
			return err
		}
		name := aws.ToString(cluster.Object.ClusterName)
		def, req, err := s.startRequest(v, c, &st, nil)
		if err != nil {
			return err
		}
		chosen, failures, err := s.chooseNamed(v, name, req, in.ContainerInstances)
		if err != nil {
			return err
		}
		out.Failures = failures
		out.Tasks, err = s.place(v, txn, c, &st, name, def, req.Claim, chosen, make([]string, len(chosen)), "")
		if err == nil && len(chosen) == 0 {
			return errNothingToDo
		}
		txn.Unchanged(cluster)
		return err
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// chooseNamed holds the task against each instance named; one that is named n times is to get n tasks.
func (s *Server) chooseNamed(v *store.View, cluster string, req *placement.Request, refs []string) (chosen []*placement.Host, failures []types.Failure, err error) {
	failures = []types.Failure{}
	times, order := map[string]int{}, []string{}
	for _, ref := range refs {
		id, err := s.memberRef(kindInstance, cluster, ref)
		if err != nil {
			return nil, nil, err
		}
		if times[id]++; times[id] == 1 {
			order = append(order, id)
		}
	}
	for _, id := range order {
		host := placement.HostOf(v, s.cfg.Scheduling.Network, cluster, id)
		if host == nil {
			failures = append(failures, missing(s.instanceARN(cluster, id)))
			continue
		}
		here, refusals := placement.Choose([]*placement.Host{host}, req, nil, times[id])
		chosen = append(chosen, here...)
		failures = append(failures, s.failures(cluster, refusals)...)
	}
	return chosen, failures, nil
}

// startRequest finds the definition and makes the request for a place.
func (s *Server) startRequest(v *store.View, c *call, st *start, constraints []types.PlacementConstraint) (*store.TaskDefinition, *placement.Request, error) {
	def, err := s.usableDefinition(v, st.definition, invalid("TaskDefinition is inactive"))
	if err != nil {
		return nil, nil, err
	}
	if err := s.checkNetworkConfiguration(def, st.network); err != nil {
		return nil, nil, err
	}
	if err := checkOverrides(&def.Object, st.overrides); err != nil {
		return nil, nil, err
	}
	group := aws.ToString(st.group)
	if group == "" {
		group = "family:" + aws.ToString(def.Object.Family)
	}
	object := def.Object
	if o := st.overrides; o != nil && aws.ToString(o.TaskRoleArn) != "" { // the role needs a host that can give it
		object.TaskRoleArn = o.TaskRoleArn
		object.RequiresAttributes = requiredAttributes(&object)
	}
	req, err := placement.NewRequest(placement.Request{
		Definition: &object, Need: task.Need(&def.Object, st.overrides), Constraints: constraints,
		Group: group, IgnoreConstraints: c.op == "StartTask", Network: s.cfg.Scheduling.Network, NetworkConfiguration: st.network,
	})
	if err != nil {
		return nil, nil, invalid("Invalid expression: %v", err)
	}
	return def, req, nil
}

// place fills the transaction with a task for each chosen host. An empty id is chosen at random. No task follows onto an
// instance that was drained or deregistered meanwhile: that writes its allocation too, with task.Fence.
func (s *Server) place(v *store.View, txn *store.Txn, c *call, st *start, cluster string, def *store.TaskDefinition, claim *network.Claim, chosen []*placement.Host, ids []string, mark string) ([]types.Task, error) {
	tags := append(append([]types.Tag{}, st.tags...), task.Propagated(st.propagate, nil, def.Tags)...)
	objects := []types.Task{}
	byInstance := map[string][]*store.Task{}
	for i, host := range chosen {
		t, err := task.New(task.Params{ID: ids[i], Cluster: cluster, Definition: &def.Object, Instance: host.Instance,
			Group: aws.ToString(st.group), StartedBy: aws.ToString(st.startedBy), LaunchType: st.launchType,
			Overrides: st.overrides, Tags: tags, ManagedTags: st.managedTags, ClientToken: mark, Now: c.now,
			Interfaces: claim.Give(host.Instance.ID)})
		if err != nil {
			return nil, err
		}
		var taken []string
		for _, other := range byInstance[t.Instance] {
			taken = append(taken, other.Reserved.GPUs...)
		}
		t.Reserved.GPUs = host.GPUs(&def.Object, taken)
		byInstance[t.Instance] = append(byInstance[t.Instance], t)
		objects = append(objects, taskObject(v, t, true))
	}
	for instance, tasks := range byInstance {
		task.Place(txn, v.Allocation(cluster, instance), false, tasks...)
	}
	return objects, nil
}

// failures are one for each instance that refuses. The nearest miss tells what all of them refuse for, where there are several.
func (s *Server) failures(cluster string, refusals []*placement.Refusal) []types.Failure {
	failures := []types.Failure{}
	near := placement.Nearest(refusals)
	for _, r := range refusals {
		f := types.Failure{Arn: aws.String(s.instanceARN(cluster, r.Host.Instance.ID)), Reason: aws.String(r.Reason)}
		if r.Detail != "" {
			f.Detail = aws.String(r.Detail)
		}
		if r == near && len(refusals) > 1 {
			f.Detail = aws.String(strings.TrimPrefix(r.Detail+". "+placement.Explain(refusals), ". "))
		}
		failures = append(failures, f)
	}
	return failures
}

// idOfToken is the id of the i-th task of the RunTask with a client token, empty without a token.
func idOfToken(cluster, token string, i int) string {
	if token == "" {
		return ""
	}
	sum := sha256.Sum256(fmt.Appendf(nil, "RunTask\x00%s\x00%s\x00%d", cluster, token, i))
	return hex.EncodeToString(sum[:16])
}

// tasksOfToken are the tasks that a RunTask with the token made, as far as they are remembered.
func tasksOfToken(v *store.View, cluster, token string) (made []*store.Task) {
	for i := 0; token != "" && i < maxCount; i++ {
		if t := v.Task(cluster, idOfToken(cluster, token, i)); t != nil {
			made = append(made, t)
		}
	}
	return made
}

// sameCall refuses a client token that was used with other parameters.
func sameCall(made []*store.Task, mark string) error {
	if made[0].ClientToken == mark {
		return nil
	}
	e := exception("ConflictException", "The client token %s was used before with other parameters.", mark[:strings.IndexByte(mark, ' ')])
	e.ResourceIDs = []string{}
	for _, t := range made {
		e.ResourceIDs = append(e.ResourceIDs, aws.ToString(t.Object.TaskArn))
	}
	return e
}
