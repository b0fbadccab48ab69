package placement

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"
	"go.uber.org/goleak"

	"github.com/longshore-project/longshore/controlplane/scheduler/query"
	"github.com/longshore-project/longshore/controlplane/store"
	"github.com/longshore-project/longshore/controlplane/task"
	"github.com/longshore-project/longshore/protocol/acs"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// aHost has 2 CPUs, 4 GiB, two GPUs, port 22 reserved, and env=prod.
func aHost(id string, change ...func(*store.Instance)) *store.Instance {
	inst := &store.Instance{Cluster: "daemonset", ID: id, Object: types.ContainerInstance{
		ContainerInstanceArn: aws.String("arn:aws:ecs:us-west-2:123456789012:container-instance/daemonset/" + id),
		Status:               aws.String("ACTIVE"),
		Attributes:           []types.Attribute{{Name: aws.String("env"), Value: aws.String("prod")}, {Name: aws.String("capability.x")}},
		RegisteredResources: []types.Resource{
			{Name: aws.String("CPU"), IntegerValue: 2048}, {Name: aws.String("MEMORY"), IntegerValue: 4096},
			{Name: aws.String("PORTS"), StringSetValue: []string{"22"}}, {Name: aws.String("PORTS_UDP"), StringSetValue: []string{}},
			{Name: aws.String("GPU"), StringSetValue: []string{"gpu-0", "gpu-1"}},
		},
	}}
	for _, f := range change {
		f(inst)
	}
	return inst
}

// having is the host with tasks that take these resources.
func having(inst *store.Instance, tasks ...*store.Task) *Host {
	alloc := &store.Allocation{Cluster: inst.Cluster, Instance: inst.ID, Tasks: map[string]store.Resources{}}
	for _, t := range tasks {
		alloc.Tasks[t.ID] = t.Reserved
	}
	return NewHost(inst, alloc, true, tasks)
}

func aTask(id, service, group string, need store.Resources) *store.Task {
	t := &store.Task{Cluster: "daemonset", ID: id, Service: service, Reserved: need}
	t.Object.Group, t.Object.DesiredStatus, t.Object.LastStatus = aws.String(group), aws.String(task.Running), aws.String(task.Running)
	return t
}

func need(t testing.TB, r Request) *Request {
	t.Helper()
	if r.Definition == nil {
		r.Definition = &types.TaskDefinition{}
	}
	req, err := NewRequest(r)
	if err != nil {
		t.Fatal(err)
	}
	return req
}

func memberOfConstraint(expr string) []types.PlacementConstraint {
	return []types.PlacementConstraint{{Type: types.PlacementConstraintTypeMemberOf, Expression: aws.String(expr)}}
}

var distinctConstraint = []types.PlacementConstraint{{Type: types.PlacementConstraintTypeDistinctInstance}}

// slots is a host that can have so many network interfaces for tasks, with these tasks.
func slots(n int, tasks ...*store.Task) *Host {
	return having(aHost("h", func(i *store.Instance) {
		i.Object.Attributes = append(i.Object.Attributes, types.Attribute{Name: aws.String(acs.AttributeInterfaceSlots), Value: aws.String(strconv.Itoa(n))})
	}), tasks...)
}

func TestEachFilterSaysWhyItRefuses(t *testing.T) {
	attribute := func(name, value string) *types.TaskDefinition {
		a := types.Attribute{Name: aws.String(name)}
		if value != "" {
			a.Value = aws.String(value)
		}
		return &types.TaskDefinition{RequiresAttributes: []types.Attribute{a}}
	}
	gpus := &types.TaskDefinition{ContainerDefinitions: []types.ContainerDefinition{{ResourceRequirements: []types.ResourceRequirement{{Type: types.ResourceTypeGpu, Value: aws.String("2")}}}}}
	web := aTask("t1", "web", "service:web", store.Resources{CPU: 1024, Memory: 4000, PortsTCP: []int32{80}, PortsUDP: []int32{53}, GPUs: []string{"gpu-1"}})
	stopping := aTask("t2", "old", "service:old", store.Resources{})
	stopping.Object.DesiredStatus = aws.String(task.Stopped)
	draining := func(i *store.Instance) { i.Object.Status = aws.String("DRAINING") }
	gone := having(aHost("h", func(i *store.Instance) { i.DisconnectedSince = time.Date(2026, 11, 20, 6, 0, 0, 0, time.UTC) }))
	gone.Connected = false
	fresh := having(aHost("h"))
	fresh.Connected = false
	for name, c := range map[string]struct {
		host   *Host
		req    Request
		reason string // empty: it fits
		detail string
		short  int64
	}{
		"it fits":                       {having(aHost("h"), web, stopping), Request{Need: store.Resources{CPU: 1024, Memory: 96, PortsTCP: []int32{53}, PortsUDP: []int32{22, 80}}}, "", "", 0},
		"it needs nothing":              {having(aHost("h")), Request{}, "", "", 0},
		"draining":                      {having(aHost("h", draining)), Request{}, "INACTIVE", "its status is DRAINING", 0},
		"not connected":                 {gone, Request{}, "AGENT", "its agent has not been connected since 2026-11-20T06:00:00Z", 0},
		"never connected":               {fresh, Request{}, "AGENT", "its agent has not connected yet", 0},
		"attribute missing":             {having(aHost("h")), Request{Definition: attribute("capability.y", "")}, "ATTRIBUTE", "attribute capability.y is missing", 1},
		"attribute with another value":  {having(aHost("h")), Request{Definition: attribute("env", "dev")}, "ATTRIBUTE", `attribute env is "prod", "dev" is required`, 1},
		"attribute with the value":      {having(aHost("h")), Request{Definition: attribute("env", "prod")}, "", "", 0},
		"attribute of any value":        {having(aHost("h")), Request{Definition: attribute("env", "")}, "", "", 0},
		"attribute without a value":     {having(aHost("h")), Request{Definition: attribute("capability.x", "")}, "", "", 0},
		"memberOf of the request":       {having(aHost("h")), Request{Constraints: memberOfConstraint("attribute:env==dev")}, ReasonMemberOf, "attribute:env==dev does not hold", 0},
		"memberOf of the definition":    {having(aHost("h")), Request{Constraints: memberOfConstraint("attribute:env==prod"), Definition: &types.TaskDefinition{PlacementConstraints: []types.TaskDefinitionPlacementConstraint{{Type: types.TaskDefinitionPlacementConstraintTypeMemberOf, Expression: aws.String("attribute:gpu exists")}}}}, ReasonMemberOf, "attribute:gpu exists does not hold", 0},
		"memberOf holds":                {having(aHost("h")), Request{Constraints: memberOfConstraint("attribute:env==prod and agentConnected==true")}, "", "", 0},
		"memberOf about groups":         {having(aHost("h"), web), Request{Constraints: memberOfConstraint("not(task:group==service:web)")}, ReasonMemberOf, "not(task:group==service:web) does not hold", 0},
		"memberOf and a stopping group": {having(aHost("h"), stopping), Request{Constraints: memberOfConstraint("not(task:group==service:old) and runningTasksCount==0")}, "", "", 0},
		"StartTask ignores constraints": {having(aHost("h"), web), Request{Service: "web", Constraints: append(memberOfConstraint("attribute:env==dev"), distinctConstraint...), IgnoreConstraints: true}, "", "", 0},
		"distinct service":              {having(aHost("h"), web), Request{Service: "web", Constraints: distinctConstraint}, ReasonDistinct, "task t1 of the same service web is there", 0},
		"distinct, another service":     {having(aHost("h"), web), Request{Service: "db", Constraints: distinctConstraint}, "", "", 0},
		"distinct, stopping":            {having(aHost("h"), stopping), Request{Service: "old", Constraints: distinctConstraint}, "", "", 0},
		"distinct group":                {having(aHost("h"), aTask("t3", "", "g", store.Resources{})), Request{Group: "g", Constraints: distinctConstraint}, ReasonDistinct, "task t3 of the same group g is there", 0},
		"cpu":                           {having(aHost("h"), web), Request{Need: store.Resources{CPU: 1025}}, "RESOURCE:CPU", "it has 1024 of 2048 CPU units free, 1025 are needed (1 more)", 1},
		"memory":                        {having(aHost("h"), web), Request{Need: store.Resources{Memory: 128}}, "RESOURCE:MEMORY", "it has 96 of 4096 MiB of memory free, 128 are needed (32 more)", 32},
		"port of a task":                {having(aHost("h"), web), Request{Need: store.Resources{PortsTCP: []int32{80, 443}}}, "RESOURCE:PORTS", "host port 80/tcp is taken by task t1", 1},
		"port of the agent":             {having(aHost("h"), web), Request{Need: store.Resources{PortsTCP: []int32{22}}}, "RESOURCE:PORTS", "host port 22/tcp is taken by the agent's reservation", 1},
		"udp port":                      {having(aHost("h"), web), Request{Need: store.Resources{PortsUDP: []int32{53}}}, "RESOURCE:PORTS", "host port 53/udp is taken by task t1", 1},
		"gpu":                           {having(aHost("h"), web), Request{Definition: gpus}, "RESOURCE:GPU", "it has 1 of 2 GPUs free, 2 are needed (1 more)", 1},
		"interfaces":                    {slots(1, aTask("t4", "", "g", store.Resources{Interfaces: 1})), Request{Need: store.Resources{Interfaces: 1}}, "RESOURCE:ENI", "it has 0 of 1 network interfaces free, 1 are needed (1 more)", 1},
		"an interface is free":          {slots(2, aTask("t4", "", "g", store.Resources{Interfaces: 1})), Request{Need: store.Resources{Interfaces: 1}}, "", "", 0},
		"it needs no interface":         {slots(0), Request{}, "", "", 0},
		"gpus there":                    {having(aHost("h")), Request{Definition: gpus}, "", "", 0},
	} {
		t.Run(name, func(t *testing.T) {
			got := need(t, c.req).Check(c.host)
			if got == nil {
				if c.reason != "" {
					t.Fatalf("it fits, want %s", c.reason)
				}
				return
			}
			if got.Reason != c.reason || got.Detail != c.detail || got.Short != c.short || got.Host != c.host {
				t.Errorf("got %s (%s, %d), want %s (%s, %d)", got.Reason, got.Detail, got.Short, c.reason, c.detail, c.short)
			}
		})
	}
}

func TestADaemonMatchesWhateverTheStateAndRoomOfTheHost(t *testing.T) {
	h := having(aHost("h", func(i *store.Instance) { i.Object.Status = aws.String("DRAINING") }))
	h.Connected = false
	if r := need(t, Request{Need: store.Resources{CPU: 1e6}, Constraints: memberOfConstraint("attribute:env==prod")}).Matches(h); r != nil {
		t.Errorf("refused: %s %s", r.Reason, r.Detail)
	}
	lacking := need(t, Request{Constraints: memberOfConstraint("attribute:env==prod"), Definition: &types.TaskDefinition{RequiresAttributes: []types.Attribute{{Name: aws.String("y")}}}})
	if r := lacking.Matches(h); r == nil || r.Reason != ReasonAttribute {
		t.Errorf("a host without the attribute matches: %v", r)
	}
	if r := lacking.Satisfies(h, nil); r != nil {
		t.Errorf("the constraints do not hold: %s", r.Detail)
	}
	if r := need(t, Request{Constraints: memberOfConstraint("attribute:env==dev")}).Satisfies(h, nil); r == nil || r.Reason != ReasonMemberOf {
		t.Errorf("the constraints hold: %v", r)
	}
}

func TestADaemonDoesNotCountAgainstItself(t *testing.T) {
	own := aTask("t1", "web", "service:web", store.Resources{CPU: 2048, PortsTCP: []int32{80}})
	h := having(aHost("h"), own)
	r := need(t, Request{Need: own.Reserved, Constraints: memberOfConstraint("runningTasksCount == 0 and not(task:group == service:web)")})
	if r.Satisfies(h, nil) == nil {
		t.Error("the task does not count at all")
	}
	if refusal := r.Satisfies(h, own); refusal != nil {
		t.Errorf("the task counts against itself: %s", refusal.Detail)
	}
	if refusal := r.Check(h.Without(own)); refusal != nil {
		t.Errorf("there is no room for the task's successor: %s", refusal.Detail)
	}
	if len(h.Tasks) != 1 || h.Free.CPU != 0 {
		t.Error("the host that was given changed")
	}
}

func TestWrongConstraintsAreRefused(t *testing.T) {
	for want, constraints := range map[string][]types.PlacementConstraint{
		`placement constraint memberOf "attribute:a = b": at character 13: expected an operator after attribute:a, found "=": equality is ==`: memberOfConstraint("attribute:a = b"),
		`placement constraint memberOf "": at character 1: expected a subject such as attribute:<name>, found the end`:                        {{Type: "memberOf"}},
		`placement constraint type "near" does not exist: there are distinctInstance and memberOf`:                                            {{Type: "near"}},
		`placement constraint distinctInstance takes no expression, but "a" is given`:                                                         {{Type: "distinctInstance", Expression: aws.String("a")}},
	} {
		_, err := NewRequest(Request{Constraints: constraints})
		if err == nil || err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
	}
	_, err := NewRequest(Request{Constraints: memberOfConstraint("x")})
	if bad := new(query.SyntaxError); !errors.As(err, &bad) {
		t.Errorf("%v holds no syntax error", err)
	}
}

func TestTheExplanationCountsReasonsAndNamesTheNearestMiss(t *testing.T) {
	busy := func(id string, memory int64) *Host {
		return having(aHost(id), aTask("t-"+id, "", "", store.Resources{Memory: memory}))
	}
	away := having(aHost("d"))
	away.Connected = false
	hosts := []*Host{away, busy("a", 4000), busy("b", 3996), busy("c", 4096)}
	_, refusals := Choose(hosts, need(t, Request{Need: store.Resources{Memory: 128}}), nil, 1)
	want := "4 instances refused it: 3 short of 128 MiB of memory, 1 AGENT. Nearest is b: it has 100 of 4096 MiB of memory free, 128 are needed (28 more)."
	if got := Explain(refusals); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if got := Explain(refusals[:1]); got != "1 instance refused it: 1 AGENT. Nearest is d: its agent has not connected yet." {
		t.Errorf("got %s", got)
	}
	if got := Explain(nil); got != "There is no container instance in the cluster." {
		t.Errorf("got %s", got)
	}
	if f := refusals[0].Failure(); *f.Arn != *away.Instance.Object.ContainerInstanceArn || *f.Reason != "AGENT" || *f.Detail == "" {
		t.Errorf("failure %+v", f)
	}
}

func TestTheExplanationCountsPortsAttributesAndShortages(t *testing.T) {
	var hosts []*Host
	add := func(n int, prefix string, tasks func(id string) []*store.Task, change ...func(*store.Instance)) {
		for i := range n {
			id := fmt.Sprint(prefix, i)
			hosts = append(hosts, having(aHost(id, change...), tasks(id)...))
		}
	}
	none := func(string) []*store.Task { return nil }
	port := func(ports ...int32) func(id string) []*store.Task {
		return func(id string) []*store.Task {
			return []*store.Task{aTask("t-"+id, "", "", store.Resources{PortsTCP: ports, PortsUDP: ports})}
		}
	}
	add(6, "p", port(8080))
	add(1, "q", port(8080, 53))
	add(3, "e", none, func(i *store.Instance) { i.Object.Attributes[0].Value = aws.String("dev") })
	add(2, "c", func(id string) []*store.Task {
		return []*store.Task{aTask("t-"+id, "", "", store.Resources{CPU: 4000})}
	})
	_, refusals := Choose(hosts, need(t, Request{Need: store.Resources{CPU: 256, PortsTCP: []int32{8080}, PortsUDP: []int32{53}},
		Constraints: memberOfConstraint("attribute:env!=dev")}), nil, 1)
	want := "12 instances refused it: 6 port 8080 in use, 3 attribute:env!=dev does not hold, 2 short of 256 CPU units, 1 ports 8080, 53/udp in use. Nearest is p0: host port 8080/tcp is taken by task t-p0."
	if got := Explain(refusals); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestAnEventBeginsWithECSsOwnText(t *testing.T) {
	h := having(aHost("h"))
	const head = "(service web) was unable to place a task because no container instance met all of its requirements. "
	const tail = " For more information, see the Troubleshooting section of the Amazon ECS Developer Guide. 1 instance refused it: "
	for reason, want := range map[string]string{
		ReasonCPU:       "The closest matching (container-instance h) has insufficient CPU units available.",
		ReasonMemory:    "The closest matching (container-instance h) has insufficient memory available.",
		ReasonPorts:     "The closest matching (container-instance h) is already using a port required by your task.",
		ReasonAttribute: "The closest matching (container-instance h) is missing an attribute required by your task.",
		ReasonAgent:     `The closest matching (container-instance h) encountered error "AGENT".`,
		ReasonMemberOf:  `The closest matching (container-instance h) encountered error "MemberOf placement constraint unsatisfied.".`,
	} {
		if got := Event("web", []*Refusal{{Host: h, Reason: reason, Detail: "d"}}); !strings.HasPrefix(got, head+want+tail) {
			t.Errorf("%s: got %s", reason, got)
		}
	}
	if got := Event("web", nil); got != head+"Reason: No Container Instances were found in your cluster. For more information, see the Troubleshooting section of the Amazon ECS Developer Guide." {
		t.Errorf("got %s", got)
	}
}

func TestStrategiesRefineEachOther(t *testing.T) {
	zone := func(z string) func(*store.Instance) {
		return func(i *store.Instance) {
			if z != "" {
				i.Object.Attributes = append(i.Object.Attributes, types.Attribute{Name: aws.String("zone"), Value: aws.String(z)})
			}
		}
	}
	load := func(cpu, memory int64) *store.Task {
		return aTask(fmt.Sprint("t", cpu, memory), "", "other", store.Resources{CPU: cpu, Memory: memory})
	}
	hosts := []*Host{
		having(aHost("a1", zone("a")), load(100, 100)),
		having(aHost("a2", zone("a")), load(200, 50)),
		having(aHost("b1", zone("b")), load(0, 300)),
		having(aHost("n1", zone("")), load(0, 0)),
	}
	req := need(t, Request{Group: "g", Need: store.Resources{CPU: 10, Memory: 10}})
	for _, c := range []struct {
		name       string
		strategies []types.PlacementStrategy
		n          int
		want       string
	}{
		{"binpack cpu takes the fullest until it is full", []types.PlacementStrategy{{Type: "binpack", Field: aws.String("CPU")}}, 3, "a2 a2 a2"},
		{"binpack memory", []types.PlacementStrategy{{Type: "binpack", Field: aws.String("memory")}}, 2, "b1 b1"},
		{"spread over instances, then binpack", []types.PlacementStrategy{{Type: "spread", Field: aws.String("instanceId")}, {Type: "binpack", Field: aws.String("cpu")}}, 4, "a2 a1 b1|n1 b1|n1"},
		{"spread over zones counts no zone as one, then binpack", []types.PlacementStrategy{{Type: "spread", Field: aws.String("attribute:zone")}, {Type: "binpack", Field: aws.String("memory")}}, 4, "b1 a1 n1 b1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			chosen, refusals := Choose(hosts, req, c.strategies, c.n)
			if refusals != nil {
				t.Fatalf("refused: %s", Explain(refusals))
			}
			for i, want := range strings.Fields(c.want) {
				if !slices.Contains(strings.Split(want, "|"), chosen[i].Instance.ID) {
					t.Fatalf("choice %d is %s, want %s", i, chosen[i].Instance.ID, c.want)
				}
			}
		})
	}
	seen := map[string]bool{}
	for range 200 {
		chosen, _ := Choose(hosts, req, nil, 1)
		seen[chosen[0].Instance.ID] = true
	}
	if len(seen) != 4 {
		t.Errorf("200 random choices among four hosts met %v", seen)
	}
}

func TestABatchSeesItsOwnPlacements(t *testing.T) {
	hosts := []*Host{having(aHost("a")), having(aHost("b"))}
	req := need(t, Request{Group: "g", Need: store.Resources{PortsTCP: []int32{80}}})
	chosen, refusals := Choose(hosts, req, nil, 3)
	if len(chosen) != 2 || chosen[0] == chosen[1] || len(refusals) != 2 || refusals[0].Reason != ReasonPorts {
		t.Errorf("chose %d hosts, %s", len(chosen), Explain(refusals))
	}
	if len(hosts[0].Tasks) != 0 || !slices.Equal(hosts[0].Free.PortsTCP, []int32{22}) {
		t.Errorf("the hosts that were given changed: %+v", hosts[0].Free)
	}
	chosen, refusals = Choose(hosts, need(t, Request{Group: "g", Constraints: distinctConstraint}), nil, 3)
	if len(chosen) != 2 || chosen[0] == chosen[1] || refusals[0].Reason != ReasonDistinct {
		t.Errorf("distinctInstance chose %d hosts, %s", len(chosen), Explain(refusals))
	}
	gpu := &types.TaskDefinition{ContainerDefinitions: []types.ContainerDefinition{{ResourceRequirements: []types.ResourceRequirement{{Type: types.ResourceTypeGpu, Value: aws.String("1")}}}}}
	if chosen, _ = Choose(hosts, need(t, Request{Definition: gpu}), nil, 5); len(chosen) != 4 {
		t.Errorf("%d tasks got one of four GPUs", len(chosen))
	}
	if chosen, refusals = Choose(nil, req, nil, 1); len(chosen) != 0 || len(refusals) != 0 {
		t.Errorf("a cluster without hosts gave %d, %d", len(chosen), len(refusals))
	}
}
