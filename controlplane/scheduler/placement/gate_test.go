package placement

import (
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"
	"pgregory.net/rapid"

	"github.com/longshore-project/longshore/controlplane/store"
	"github.com/longshore-project/longshore/controlplane/task"
)

var joinedAt = time.Date(2026, 11, 20, 8, 0, 0, 0, time.UTC)

// aDaemon is a DAEMON service whose gate is two minutes, with one deployment, and its task on a host that joined at
// joinedAt. memory is what it needs.
func aDaemon(t testing.TB, memory int64, checked bool) (daemon, *store.Task) {
	def := &store.TaskDefinition{Object: types.TaskDefinition{TaskDefinitionArn: aws.String("d"), ContainerDefinitions: []types.ContainerDefinition{{Name: aws.String("main"), Memory: aws.Int32(int32(memory))}}}}
	if checked {
		def.Object.ContainerDefinitions[0].HealthCheck = &types.HealthCheck{Command: []string{"CMD", "true"}}
	}
	svc := &store.Service{Object: types.Service{ServiceName: aws.String("agent"), Deployments: []types.Deployment{{Id: aws.String("ecs-svc/1"), Status: aws.String("PRIMARY"), RolloutState: types.DeploymentRolloutStateInProgress}}}}
	req, err := ForService(nil, svc, def, nil)
	if err != nil {
		t.Fatal(err)
	}
	own := aTask("own", "agent", "service:agent", req.Need)
	own.Deployment, own.Object.TaskDefinitionArn = "ecs-svc/1", aws.String("d")
	own.Object.StartedAt, own.Object.HealthStatus = aws.Time(joinedAt.Add(time.Second)), types.HealthStatusUnknown
	return daemon{svc: svc, req: req, limit: 2 * time.Minute, reserves: true,
		definition: func(string) *store.TaskDefinition { return def },
		connection: func(string) *store.Connection { return &store.Connection{Since: joinedAt.Add(time.Second)} },
	}, own
}

func TestAGateIsClosedUntilTheDaemonRuns(t *testing.T) {
	pending := func(own *store.Task) *store.Task { own.Object.LastStatus = aws.String(task.Pending); return own }
	for name, c := range map[string]struct {
		own    func(own *store.Task) *store.Task // nil: none
		change func(d *daemon, h *store.Instance)
		after  time.Duration
		why    string        // empty: open
		until  time.Duration // after joining
	}{
		"not placed yet":          {nil, nil, time.Second, "it is not placed yet", 2 * time.Minute},
		"PENDING":                 {pending, nil, time.Second, "its task own is PENDING", 2 * time.Minute},
		"running, since just now": {func(own *store.Task) *store.Task { return own }, nil, 2 * time.Second, "has to stay so for 3s, since it has no health check", 4 * time.Second},
		"running, and stays so":   {func(own *store.Task) *store.Task { return own }, nil, 4 * time.Second, "", 0},
		"running, having failed": {func(own *store.Task) *store.Task { return own }, func(d *daemon, _ *store.Instance) {
			d.svc.Failures = map[string]store.Failure{"h": {Deployment: "ecs-svc/1", Count: 2, At: joinedAt, Reason: "exit 1"}}
		}, 12 * time.Second, "has to stay so for 12s, since it has no health check and failed 2 times here, the last time at 2026-11-20T08:00:00Z (exit 1)", 13 * time.Second},
		"... and stays so": {func(own *store.Task) *store.Task { return own }, func(d *daemon, _ *store.Instance) {
			d.svc.Failures = map[string]store.Failure{"h": {Deployment: "ecs-svc/1", Count: 2, At: joinedAt}}
		}, 13 * time.Second, "", 0},
		"... very often": {func(own *store.Task) *store.Task { return own }, func(d *daemon, _ *store.Instance) {
			d.svc.Failures = map[string]store.Failure{"h": {Deployment: "ecs-svc/1", Count: 1000, At: joinedAt}}
		}, 119 * time.Second, "failed 1000 times here", 2 * time.Minute},
		"another deployment had failed": {func(own *store.Task) *store.Task { return own }, func(d *daemon, _ *store.Instance) {
			d.svc.Failures = map[string]store.Failure{"h": {Deployment: "ecs-svc/0", Count: 2, At: joinedAt}}
		}, 4 * time.Second, "", 0},
		"running, not HEALTHY":          {func(own *store.Task) *store.Task { return own }, func(d *daemon, _ *store.Instance) { *d, _ = aDaemon(t, 100, true) }, time.Second, "its health is UNKNOWN", 2 * time.Minute},
		"running, HEALTHY":              {func(own *store.Task) *store.Task { own.Object.HealthStatus = types.HealthStatusHealthy; return own }, func(d *daemon, _ *store.Instance) { *d, _ = aDaemon(t, 100, true) }, time.Second, "", 0},
		"being stopped":                 {func(own *store.Task) *store.Task { own.Object.DesiredStatus = aws.String(task.Stopped); return own }, nil, time.Second, "its task own is being stopped", 2 * time.Minute},
		"the limit":                     {pending, nil, 2 * time.Minute, "", 0},
		"just before the limit":         {pending, nil, 2*time.Minute - time.Nanosecond, "its task own is PENDING", 2 * time.Minute},
		"never joined since it is told": {pending, func(_ *daemon, h *store.Instance) { h.JoinedAt = time.Time{} }, time.Second, "", 0},
		"switched off":                  {pending, func(d *daemon, _ *store.Instance) { d.limit = 0 }, time.Second, "", 0},
		"belongs elsewhere": {nil, func(d *daemon, _ *store.Instance) {
			d.req = need(t, Request{Service: "agent", Constraints: memberOfConstraint("attribute:env==dev")})
		}, time.Second, "", 0},
		"can't fit": {nil, func(d *daemon, _ *store.Instance) {
			d.req = need(t, Request{Service: "agent", Need: store.Resources{Memory: 5000}})
		}, time.Second, "", 0},
		"its deployment failed": {nil, func(d *daemon, _ *store.Instance) {
			d.svc.Object.Deployments[0].RolloutState = types.DeploymentRolloutStateFailed
		}, time.Second, "", 0},
		"... and its task hangs": {pending, func(d *daemon, _ *store.Instance) {
			d.svc.Object.Deployments[0].RolloutState = types.DeploymentRolloutStateFailed
		}, time.Second, "", 0},
		"it fails": {nil, func(d *daemon, _ *store.Instance) {
			d.svc.Failures = map[string]store.Failure{"h": {Count: 3, At: joinedAt, Reason: "exit 1"}}
		}, time.Second, "it failed 3 times here, the last time at 2026-11-20T08:00:00Z (exit 1)", 2 * time.Minute},
		"it ran before": {func(own *store.Task) *store.Task {
			own.Object.StartedAt = aws.Time(joinedAt.Add(-time.Hour))
			return own
		}, nil, 2 * time.Second, "ran before that", 6 * time.Second},
		"... and nothing changed": {func(own *store.Task) *store.Task {
			own.Object.StartedAt = aws.Time(joinedAt.Add(-time.Hour))
			return own
		}, nil, 6 * time.Second, "", 0},
	} {
		d, own := aDaemon(t, 100, false)
		var tasks []*store.Task
		if c.own != nil {
			tasks = append(tasks, c.own(own))
		}
		h := having(aHost("h", func(i *store.Instance) { i.JoinedAt = joinedAt }), tasks...)
		if c.change != nil {
			c.change(&d, h.Instance)
		}
		n, gate := d.come(h, h, joinedAt.Add(c.after))
		refusal := need(t, Request{Group: "family:job"}).Check(n)
		switch {
		case c.why == "":
			if gate != nil || refusal != nil {
				t.Errorf("%s: the gate is closed: %+v", name, gate)
			}
		case gate == nil || refusal == nil || refusal.Reason != ReasonDaemon || !strings.Contains(refusal.Detail, c.why) || gate.Until.Sub(joinedAt) != c.until:
			t.Errorf("%s: %+v, %+v", name, gate, refusal)
		}
		if len(h.Gates) != 0 || len(h.Kept) != 0 {
			t.Errorf("%s: the given host was changed", name)
		}
	}
}

func TestRoomIsKeptForALargerDaemonThanTheOneThatRuns(t *testing.T) {
	d, own := aDaemon(t, 1000, false)
	own.Reserved = store.Resources{Memory: 400}
	d.req.Need.PortsTCP = []int32{80}
	h := having(aHost("h"), own)
	n, _ := d.come(h, h, joinedAt)
	if n.Free.Memory != 4096-1000 || len(n.Kept) != 1 || n.Kept[0].Need.Memory != 600 || h.Free.Memory != 4096-400 {
		t.Errorf("free %d, kept %+v; the given host has %d free", n.Free.Memory, n.Kept, h.Free.Memory)
	}
	if r := need(t, Request{Need: store.Resources{PortsTCP: []int32{80}}}).Check(n); r == nil || r.Reason != ReasonPorts || !strings.Contains(r.Detail, "the daemon of service agent, for which it is kept") {
		t.Errorf("its port is kept: %+v", r)
	}
	d.reserves = false
	if n, _ := d.come(h, h, joinedAt); n != h {
		t.Error("room is kept though that is switched off")
	}
}

func TestAGPUIsKeptForADaemonThatNeedsASecondOne(t *testing.T) {
	gpus := func(d *daemon, n string) {
		d.req.Definition.ContainerDefinitions[0].ResourceRequirements = []types.ResourceRequirement{{Type: types.ResourceTypeGpu, Value: aws.String(n)}}
		req, err := ForService(nil, d.svc, &store.TaskDefinition{Object: *d.req.Definition}, nil)
		if err != nil {
			t.Fatal(err)
		}
		d.req = req
	}
	for name, c := range map[string]struct {
		wants  string
		change func(d *daemon, own *store.Task)
		free   int
	}{
		"it has what it wants":       {"1", func(*daemon, *store.Task) {}, 1},
		"its definition wants two":   {"2", func(*daemon, *store.Task) {}, 0},
		"it is started beside it":    {"1", func(d *daemon, own *store.Task) { own.Deployment = "ecs-svc/0" }, 0},
		"... where no wave came yet": {"1", func(d *daemon, own *store.Task) { own.Deployment, d.svc.Rollouts = "ecs-svc/0", nil }, 1},
	} {
		d, own := aDaemon(t, 100, false)
		d.svc.Object.Tags = []types.Tag{{Key: aws.String("longshore:daemon-surge"), Value: aws.String("true")}, {Key: aws.String("longshore:make-room"), Value: aws.String("true")}}
		d.svc.Rollouts = map[string]store.Rollout{"ecs-svc/1": {Instances: []string{"h"}}}
		own.Reserved.GPUs = []string{"gpu-0"}
		gpus(&d, c.wants)
		c.change(&d, own)
		h := having(aHost("h"), own)
		n, _ := d.come(h, h, joinedAt.Add(time.Hour))
		if len(n.Free.GPUs) != c.free {
			t.Errorf("%s: %d GPUs are left for others, not %d", name, len(n.Free.GPUs), c.free)
		}
		if len(h.Free.GPUs) != 1 {
			t.Errorf("%s: the host itself has %d", name, len(h.Free.GPUs))
		}
	}
}

func TestPropertyOfGates(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		checked, memory := rapid.Bool().Draw(rt, "checked"), int64(rapid.SampledFrom([]int{10, 3000, 9000}).Draw(rt, "memory"))
		d, own := aDaemon(t, memory, checked)
		d.limit = time.Duration(rapid.IntRange(0, 300).Draw(rt, "limit")) * time.Second
		failed := rapid.Bool().Draw(rt, "failed")
		if failed {
			d.svc.Object.Deployments[0].RolloutState = types.DeploymentRolloutStateFailed
		}
		other := aTask("other", "web", "service:web", store.Resources{Memory: int64(rapid.IntRange(0, 4096).Draw(rt, "other"))})
		tasks := []*store.Task{other}
		placed := rapid.Bool().Draw(rt, "placed")
		if placed {
			own.Object.LastStatus = aws.String(rapid.SampledFrom([]string{task.Pending, task.Running}).Draw(rt, "last"))
			own.Object.DesiredStatus = aws.String(rapid.SampledFrom([]string{task.Stopped, task.Running}).Draw(rt, "desired"))
			own.Object.HealthStatus = rapid.SampledFrom([]types.HealthStatus{types.HealthStatusUnknown, types.HealthStatusHealthy, types.HealthStatusUnhealthy}).Draw(rt, "health")
			tasks = append(tasks, own)
		}
		started, failures := rapid.IntRange(0, 300).Draw(rt, "started"), rapid.IntRange(0, 9).Draw(rt, "failures")
		own.Object.StartedAt = aws.Time(joinedAt.Add(time.Duration(started) * time.Second))
		d.svc.Failures = map[string]store.Failure{"h": {Deployment: own.Deployment, Count: int32(failures)}}
		h := having(aHost("h", func(i *store.Instance) { i.JoinedAt = joinedAt }), tasks...)
		after := time.Duration(rapid.IntRange(0, 400).Draw(rt, "after")) * time.Second
		n, gate := d.come(h, h, joinedAt.Add(after))
		refusal := need(t, Request{Group: "family:job"}).Check(n)
		if (gate != nil) != (refusal != nil) {
			rt.Fatalf("a gate refuses a task, and nothing else refuses one that needs nothing: %+v, %+v", gate, refusal)
		}
		if gate != nil && (after >= d.limit || gate.Until.After(joinedAt.Add(d.limit))) {
			rt.Fatalf("a daemon that always fails costs a joining host at most the limit: closed %s after joining, limit %s, until %s", after, d.limit, gate.Until)
		}
		stays := joinedAt.Add(after).Sub(*own.Object.StartedAt) >= min(stay<<failures, max(stay, d.limit))
		runs := placed && task.Wanted(own) && task.LastStatus(own) == task.Running && (!checked && stays || checked && own.Object.HealthStatus == types.HealthStatusHealthy)
		fits := placed || memory <= h.Free.Memory
		if gate == nil && !runs && fits && !failed && after < d.limit {
			rt.Fatalf("no replica before a matching daemon within the limit: the gate is open %s after joining, limit %s", after, d.limit)
		}
		if gate != nil && (runs || !fits || failed) {
			rt.Fatalf("a gate opens at once when the daemon is HEALTHY or stays RUNNING (%t), can't fit (%t) or its deployment has failed (%t)", runs, !fits, failed)
		}
	})
}
