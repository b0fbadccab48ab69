package scheduler

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"
	"pgregory.net/rapid"

	"github.com/longshore-project/longshore/controlplane/scheduler/placement"
	"github.com/longshore-project/longshore/controlplane/scheduler/policy"
	"github.com/longshore-project/longshore/controlplane/store"
	"github.com/longshore-project/longshore/controlplane/task"
	"github.com/longshore-project/longshore/protocol/acs"
)

// model is the world as the explanations see it.
func (w *world) model() *Model {
	m := &Model{
		cluster: "c", now: w.now, cfg: w.cfg, services: map[string]*store.Service{}, instances: map[string]*store.Instance{},
		tasks: map[string]*store.Task{}, hosts: map[string]*placement.Host{}, events: map[string][]string{},
		definition: func(arn string) *store.TaskDefinition { return w.defs[arn] },
		connection: func(id string) *store.Connection {
			if h := w.hosts[id]; h != nil && h.connected {
				return &store.Connection{}
			}
			return nil
		},
	}
	if w.svc != nil {
		m.services["agent"] = w.svc
	}
	for id, h := range w.hosts {
		m.instances[id] = h.inst
	}
	for _, t := range w.tasks {
		m.tasks[t.ID] = t
	}
	return m
}

// take has another task take memory on a host.
func (w *world) take(host string, memory int32) {
	def := &types.TaskDefinition{Family: aws.String("other"), TaskDefinitionArn: aws.String(arnPrefix + "task-definition/other:1"),
		ContainerDefinitions: []types.ContainerDefinition{{Name: aws.String("other"), Memory: aws.Int32(memory)}}}
	n, err := task.New(task.Params{Cluster: "c", Definition: def, Instance: w.hosts[host].inst, ID: fmt.Sprint("other-", len(w.tasks)), Now: w.now})
	if err != nil {
		w.t.Fatalf("%v", err)
	}
	n.Object.LastStatus = aws.String(task.Running)
	w.tasks = append(w.tasks, n)
}

func (e *Explanation) text() string { return strings.Join(e.Text, "\n") }

func (e *Explanation) counted() string {
	var out []string
	for _, c := range e.Counts {
		out = append(out, fmt.Sprint(c.Count, " ", c.Reason))
	}
	return strings.Join(out, ", ")
}

func contains(t *testing.T, e *Explanation, err error, want ...string) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range want {
		if !strings.Contains(e.text(), s) {
			t.Errorf("%q is not in:\n%s", s, e.text())
		}
	}
}

func TestAServiceIsExplainedHostByHost(t *testing.T) {
	w := newWorld(t, 5)
	w.setAttribute("host-2", "dev")
	w.connect("host-3", false)
	w.take("host-4", 800)
	w.setStatus("host-5", draining)
	w.create(w.define(), constrained("attribute:env==prod"))
	w.settle()
	e, err := w.model().Service("agent")
	contains(t, e, err, "Service agent (DAEMON, ACTIVE) wants 3 tasks: 1 are RUNNING", "5 instances: 1 AGENT, 1 INACTIVE, 1 attribute:env==prod does not hold, 1 short of 512 MiB of memory, 1 RUNNING.",
		"Nearest is host-4: it has 224 of 1024 MiB of memory free, 512 are needed (288 more)", "To change that, free 288 MiB of memory on host-4, or have the task need 288 less.", "Drain of host-5: ")
	if e.Nearest == nil || e.Nearest.Instance != "host-4" || e.Nearest.Short != 288 {
		t.Errorf("%+v", e.Nearest)
	}
	if said := w.events[len(w.events)-1]; !strings.Contains(*said.Message, "it has 224 of 1024 MiB of memory free, 512 are needed (288 more)") {
		t.Errorf("an event has the same text: %s", *said.Message)
	}
	var unknown *ErrUnknown
	if _, err := w.model().Service("web"); !errors.As(err, &unknown) {
		t.Errorf("a service that does not exist: %v", err)
	}
}

func TestInterfaceSlotsAreCountedAndExplained(t *testing.T) {
	w := newReplicaWorld(t, 2)
	for _, h := range w.hosts {
		h.inst.Object.Attributes = append(h.inst.Object.Attributes, types.Attribute{Name: aws.String(acs.CapabilitySecurityGroups)},
			types.Attribute{Name: aws.String(acs.AttributeInterfaceSlots), Value: aws.String("1")})
	}
	w.create(w.define(func(d *types.TaskDefinition) {
		d.NetworkMode, d.ContainerDefinitions[0].Memory = types.NetworkModeAwsvpc, aws.Int32(1)
	}), replicas(3))
	w.settle()
	if wanted, _, _ := w.counts(); wanted != 2 {
		t.Errorf("%d tasks are placed on two hosts of one interface each", wanted)
	}
	w.expectTold(1, "has 0 of 1 network interfaces free, 1 are needed (1 more)")
	e, err := w.model().Service("agent")
	contains(t, e, err, "wants 3 tasks", "it has 0 of 1 network interfaces free, 1 are needed (1 more)", "To change that, free a network interface for tasks on host-")
}

func TestATaskAndAHostAreExplained(t *testing.T) {
	w := newWorld(t, 1)
	w.agents = func(*store.Task) string { return "" }
	w.create(w.define())
	w.settle()
	w.hosts["host-1"].inst.JoinedAt = w.now
	own := w.own("host-1")
	e, err := w.model().Task(own.ID)
	contains(t, e, err, "It is PENDING: task "+own.ID+"; the agent has not acknowledged it.", "Gate of host-1: ")
	e, err = w.model().Host("host-1")
	contains(t, e, err, "Container instance host-1 is ACTIVE, its agent is connected: true.", "512 of 1024 MiB of memory", "Service agent: PENDING")
	if len(e.Gates) != 1 || !e.Gates[0].Until.Equal(w.now.Add(policy.DefaultGate)) {
		t.Errorf("%+v", e.Gates)
	}
	w.agents = func(*store.Task) string { return task.Stopped }
	w.report()
	e, err = w.model().Task(own.ID)
	contains(t, e, err, "It is STOPPED since", "(container agent: exit code 1)")
	for _, err := range []error{second(w.model().Task("x")), second(w.model().Host("x")), second(w.model().Drain([]string{"x"}))} {
		var unknown *ErrUnknown
		if !errors.As(err, &unknown) {
			t.Error(err)
		}
	}
}

func second(_ *Explanation, err error) error { return err }

func TestADryRunTellsWhereTasksWouldGo(t *testing.T) {
	w := newWorld(t, 3)
	w.connect("host-3", false)
	def := w.defs[w.define()]
	req, err := placement.NewRequest(placement.Request{Definition: &def.Object, Need: task.Need(&def.Object, nil), Group: "family:agent"})
	if err != nil {
		t.Fatal(err)
	}
	e := w.model().Placement(req, nil, 6)
	contains(t, e, nil, "4 of 6 tasks would be placed now.", "On host-1: 2.", "On host-2: 2.", "3 instances: 2 short of 512 MiB of memory, 1 AGENT.")
	if len(e.Starts) != 4 || e.Nearest == nil || e.Nearest.Short != 512 {
		t.Errorf("%+v", e)
	}
}

func TestAChangeTellsWhatItWouldDo(t *testing.T) {
	w := newWorld(t, 4)
	w.create(w.define(), constrained("attribute:env==prod"))
	w.settle()
	e, err := w.model().Drain([]string{"host-1"})
	contains(t, e, err, "1 tasks would be stopped and 0 started", "host-1: stops "+w.own("host-1").ID+" of service agent (Container instance host-1 is draining).", "host-1 would be drained.")

	e, err = w.model().PutAttributes([]string{"host-2"}, map[string]*string{"env": aws.String("dev")})
	contains(t, e, err, "1 tasks would be stopped and 0 started", "host-2: stops")
	e, err = w.model().PutAttributes([]string{"host-2"}, map[string]*string{"env": nil})
	contains(t, e, err, "host-2: stops")

	w.take("host-3", 400)
	larger := w.define(func(d *types.TaskDefinition) { d.ContainerDefinitions[0].Memory = aws.Int32(700) })
	e, err = w.model().UpdateService("agent", Update{TaskDefinition: w.defs[larger]})
	contains(t, e, err, "3 tasks would be stopped and 3 started")
	for _, s := range e.Stops {
		if s.Instance == "host-3" {
			t.Error("an old daemon is stopped where the new one finds no room")
		}
	}
	if w.running() != "1 1 1 1" || len(w.svc.Object.Deployments) != 1 {
		t.Errorf("asking changes nothing: %s", w.running())
	}
	w.create(larger)
	w.tasks = w.tasks[len(w.tasks)-1:] // the other task on host-3
	e, err = w.model().UpdateService("agent", Update{Force: true})
	contains(t, e, err, "host-3: without room for service agent: RESOURCE:MEMORY, it has 624 of 1024 MiB of memory free, 700 are needed (76 more).")
	if len(e.NoRoom) != 1 || e.NoRoom[0].Short != 76 {
		t.Errorf("%+v", e.NoRoom)
	}
}

func TestPropertyOfExplanations(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t, rapid.IntRange(0, 6).Draw(t, "hosts"))
		for id := range w.hosts {
			if rapid.Bool().Draw(t, "connected") {
				w.connect(id, rapid.Bool().Draw(t, "is"))
			}
			w.setAttribute(id, rapid.SampledFrom([]string{"prod", "dev"}).Draw(t, "env"))
			w.setStatus(id, rapid.SampledFrom([]string{active, draining}).Draw(t, "status"))
			if rapid.Bool().Draw(t, "young") {
				w.hosts[id].inst.JoinedAt = w.now
			}
			if rapid.Bool().Draw(t, "full") {
				w.take(id, int32(rapid.IntRange(1, 1024).Draw(t, "taken")))
			}
		}
		w.create(w.define(), constrained("attribute:env==prod"))
		if rapid.Bool().Draw(t, "replica") {
			w.svc.Object.SchedulingStrategy, w.svc.Object.DesiredCount = types.SchedulingStrategyReplica, 2
		} else if rapid.Bool().Draw(t, "placed") {
			w.settle()
		}
		m := w.model()
		service, err := m.Service("agent")
		if err != nil {
			t.Fatal(err)
		}
		def := w.defs[*w.svc.Object.TaskDefinition]
		req, _ := placement.NewRequest(placement.Request{Definition: &def.Object, Need: task.Need(&def.Object, nil), Group: "family:job"})
		count := rapid.IntRange(1, 5).Draw(t, "count")
		dry := m.Placement(req, nil, count)
		if len(dry.Starts) > count {
			t.Fatalf("a dry run places what was asked for: %d of %d", len(dry.Starts), count)
		}
		for what, e := range map[string]*Explanation{"a service's": service, "a dry run's": dry} {
			sum := 0
			for _, c := range e.Counts {
				sum += c.Count
			}
			if sum != len(w.hosts) || e.Instances != len(w.hosts) || len(e.Hosts) != len(w.hosts) {
				t.Fatalf("%s counts add up to the instances: %d of %d (%s)", what, sum, len(w.hosts), e.counted())
			}
			refused := 0
			for _, h := range e.Hosts {
				if h.Change != "" {
					refused++
				}
			}
			if (e.Nearest != nil) != (refused > 0) {
				t.Fatalf("%s nearest miss is there when something is refused: %+v, %d", what, e.Nearest, refused)
			}
		}
		before := w.running()
		e, err := m.Drain(nil)
		if err != nil {
			t.Fatal(err)
		}
		if w.svc.Object.SchedulingStrategy == types.SchedulingStrategyDaemon {
			here := map[string]int{}
			for _, s := range e.Starts {
				if here[s.Instance]++; here[s.Instance] > 1 {
					t.Fatalf("never two daemons of a service on an instance, in a trial too: %s", e.text())
				}
			}
		}
		if w.running() != before {
			t.Fatalf("asking changes nothing: %s, before %s", w.running(), before)
		}
	})
}
