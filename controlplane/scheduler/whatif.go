package scheduler

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"

	"github.com/longshore-project/longshore/controlplane/scheduler/placement"
	"github.com/longshore-project/longshore/controlplane/store"
	"github.com/longshore-project/longshore/controlplane/task"
)

// Update is what UpdateService would change.
type Update struct {
	TaskDefinition *store.TaskDefinition // nil: it stays
	DesiredCount   *int32
	Force          bool // a new deployment though nothing changed
}

// UpdateService is what an update of a service would stop, start and leave without room, if what it starts becomes healthy.
func (m *Model) UpdateService(name string, u Update) (*Explanation, error) {
	old := m.services[name]
	if old == nil {
		return nil, &ErrUnknown{"service", name}
	}
	svc := *old
	svc.Failures = nil
	if u.DesiredCount != nil {
		svc.Object.DesiredCount = *u.DesiredCount
	}
	changed := u.TaskDefinition != nil && aws.ToString(u.TaskDefinition.Object.TaskDefinitionArn) != aws.ToString(svc.Object.TaskDefinition)
	if changed || u.Force {
		if u.TaskDefinition != nil {
			svc.Object.TaskDefinition = u.TaskDefinition.Object.TaskDefinitionArn
		}
		now := aws.Time(m.now)
		deployments := []types.Deployment{{
			Id: aws.String("the new deployment"), Status: aws.String(primary), TaskDefinition: svc.Object.TaskDefinition,
			CreatedAt: now, UpdatedAt: now, RolloutState: types.DeploymentRolloutStateInProgress, LaunchType: svc.Object.LaunchType,
		}}
		for _, d := range svc.Object.Deployments {
			d.Status = aws.String(active)
			deployments = append(deployments, d)
		}
		svc.Object.Deployments = deployments
		svc.Rollouts = maps.Clone(svc.Rollouts)
	}
	m.services[name] = &svc
	return m.effect([]string{name}), nil
}

// PutAttributes is what other attributes of instances would stop, start and leave without room. A nil value takes the
// attribute away.
func (m *Model) PutAttributes(instances []string, attributes map[string]*string) (*Explanation, error) {
	for _, id := range instances {
		if m.instances[id] == nil {
			return nil, &ErrUnknown{"container instance", id}
		}
		inst := *m.instances[id]
		inst.Object.Attributes = slices.DeleteFunc(slices.Clone(inst.Object.Attributes), func(a types.Attribute) bool {
			_, other := attributes[aws.ToString(a.Name)]
			return other
		})
		for _, name := range slices.Sorted(maps.Keys(attributes)) {
			if value := attributes[name]; value != nil {
				inst.Object.Attributes = append(inst.Object.Attributes, types.Attribute{Name: aws.String(name), Value: value})
			}
		}
		m.instances[id] = &inst
		delete(m.hosts, id)
	}
	return m.effect(slices.Sorted(maps.Keys(m.services))), nil
}

// Drain is what draining instances would stop, start elsewhere and leave without room, and what would be left there.
func (m *Model) Drain(instances []string) (*Explanation, error) {
	for _, id := range instances {
		if m.instances[id] == nil {
			return nil, &ErrUnknown{"container instance", id}
		}
		inst := *m.instances[id]
		if aws.ToString(inst.Object.Status) != draining {
			inst.Object.Status, inst.DrainingSince = aws.String(draining), m.now
		}
		m.instances[id] = &inst
		delete(m.hosts, id)
	}
	e := m.effect(slices.Sorted(maps.Keys(m.services)))
	for _, id := range instances {
		if left := len(m.host(id).Tasks); left > 0 {
			e.say("%s would not be drained after %s: %d tasks would be left.", id, trialTime, left)
		} else {
			e.say("%s would be drained.", id)
		}
	}
	return e, nil
}

// effect lets the cluster go on and tells what changed.
func (m *Model) effect(services []string) *Explanation {
	e := &Explanation{Instances: len(m.instances)}
	begin := m.now
	e.Stops, e.Starts = m.try(services)
	took := m.now.Sub(begin)
	room, _ := m.room()
	for _, name := range services {
		svc := m.services[name]
		verdicts, refusals, err := m.verdicts(svc, room)
		if err != nil {
			e.say("Service %s: %v.", name, err)
			continue
		}
		if m.isDaemon(name) {
			for _, v := range verdicts {
				if m.wantsDaemon(svc, v.Instance) && taskOn(m.host(v.Instance), name) == nil {
					e.NoRoom = append(e.NoRoom, v)
				}
			}
			continue
		}
		wanted := 0
		for _, t := range m.tasksOf(name) {
			if task.Wanted(t) && !task.IsStopped(t) {
				wanted++
			}
		}
		if missing := int(svc.Object.DesiredCount) - wanted; missing > 0 {
			e.NoRoom = append(e.NoRoom, Miss{Service: name, Reason: "MISSING", Short: int64(missing), Detail: placement.Explain(refusals)})
		}
	}
	e.say("%d tasks would be stopped and %d started, within %s if what starts becomes healthy.", len(e.Stops), len(e.Starts), took.Round(time.Second))
	byHost := map[string][]string{}
	for _, s := range e.Stops {
		byHost[s.Instance] = append(byHost[s.Instance], fmt.Sprintf("stops %s of %s (%s)", s.Task, nameOf(s.Service), s.Reason))
	}
	for _, s := range e.Starts {
		byHost[s.Instance] = append(byHost[s.Instance], fmt.Sprintf("starts %s of %s", s.TaskDefinition, nameOf(s.Service)))
	}
	for _, id := range slices.Sorted(maps.Keys(byHost)) {
		for _, what := range byHost[id] {
			e.say("%s: %s.", id, what)
		}
	}
	for _, n := range e.NoRoom {
		if n.Instance == "" {
			e.say("Service %s would have %d tasks too few. %s", n.Service, n.Short, n.Detail)
		} else {
			e.say("%s: without room for service %s: %s, %s.", n.Instance, n.Service, n.Reason, n.Detail)
		}
	}
	e.states(m, room)
	return e
}

// wantsDaemon tells whether a DAEMON service belongs on an instance.
func (m *Model) wantsDaemon(svc *store.Service, id string) bool {
	def := m.definition(aws.ToString(svc.Object.TaskDefinition))
	if def == nil {
		return false
	}
	req, err := placement.ForService(m.cfg.Network, svc, def, svc.Object.NetworkConfiguration)
	if err != nil {
		return false
	}
	h := m.host(id)
	ok, _ := belongs(req, h, taskOn(h, aws.ToString(svc.Object.ServiceName)))
	return ok
}

func nameOf(service string) string {
	if service == "" {
		return "no service"
	}
	return "service " + service
}
