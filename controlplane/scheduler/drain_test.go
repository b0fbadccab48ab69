package scheduler

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"
	"pgregory.net/rapid"

	"github.com/longshore-project/longshore/controlplane/scheduler/placement"
	"github.com/longshore-project/longshore/controlplane/scheduler/policy"
	"github.com/longshore-project/longshore/controlplane/store"
	"github.com/longshore-project/longshore/controlplane/task"
)

var drainBegin = time.Date(2026, 11, 20, 8, 0, 0, 0, time.UTC)

// aDrain is a drain of one host that began at drainBegin. Services whose name begins with "agent" are DAEMON services.
func aDrain(p policy.Drain, after time.Duration, tasks ...*store.Task) drain {
	w := newWorld(nil, 0)
	inst := w.join("host-1").inst
	inst.Object.Status, inst.DrainingSince = aws.String(draining), drainBegin
	return drain{host: placement.NewHost(inst, nil, true, tasks), policy: p, now: drainBegin.Add(after), service: func(name string) *store.Service {
		svc := &store.Service{Object: types.Service{SchedulingStrategy: types.SchedulingStrategyReplica,
			DeploymentConfiguration: &types.DeploymentConfiguration{MinimumHealthyPercent: aws.Int32(100), MaximumPercent: aws.Int32(200)}}}
		switch {
		case strings.HasPrefix(name, "agent"):
			svc.Object.SchedulingStrategy = types.SchedulingStrategyDaemon
		case name == "stuck":
			svc.Object.DeploymentConfiguration.MaximumPercent = aws.Int32(100)
		}
		return svc
	}}
}

func aRunningTask(id, service string) *store.Task {
	t := &store.Task{Cluster: "c", ID: id, Instance: "host-1", Service: service}
	t.Object.DesiredStatus, t.Object.LastStatus = aws.String(task.Running), aws.String(task.Running)
	return t
}

func TestADrainTellsWhatItWaitsFor(t *testing.T) {
	wait := policy.Drain{Standalone: -1}
	protected := task.Protect(aRunningTask("t", "web"), drainBegin.Add(time.Hour))
	leaving := task.Stop(aRunningTask("t", "web"), types.TaskStopCodeServiceSchedulerInitiated, "", drainBegin)
	for name, c := range map[string]struct {
		policy policy.Drain
		after  time.Duration
		tasks  []*store.Task
		reason string
		stops  int
		wake   time.Duration
	}{
		"nothing is left":          {wait, time.Minute, nil, "Drained: every task is STOPPED since 2026-11-20T08:01:00Z.", 0, 0},
		"replicas":                 {wait, 0, []*store.Task{aRunningTask("a", "web"), aRunningTask("b", "web")}, "2 tasks are left: 2 of service web (to be replaced within minimumHealthyPercent 100 and maximumPercent 200).", 0, 0},
		"percentages allow it not": {wait, 0, []*store.Task{aRunningTask("a", "stuck")}, "which allow nothing: lower the one or raise the other", 0, 0},
		"one is being stopped":     {wait, 0, []*store.Task{leaving}, "1 task is left: 1 of service web (being stopped).", 0, 0},
		"a protected one":          {wait, 0, []*store.Task{protected}, "protected from scale-in until 2026-11-20T09:00:00Z", 0, 0},
		"daemons come last":        {wait, 0, []*store.Task{aRunningTask("a", "agent"), leaving}, "1 of service agent (a daemon, stopped when every other task is STOPPED), 1 of service web (being stopped).", 0, 0},
		"only daemons":             {wait, 0, []*store.Task{aRunningTask("a", "agent")}, "1 of service agent (a daemon, stopped next)", 0, 0},
		"standalone, left alone":   {wait, time.Hour, []*store.Task{aRunningTask("a", "")}, "1 of no service (waited for: stop it, or set the tag longshore:drain-standalone)", 0, 0},
		"standalone, stopped":      {policy.Drain{}, 0, []*store.Task{aRunningTask("a", ""), aRunningTask("b", "web")}, "1 of no service (being stopped), 1 of service web", 1, 0},
		"standalone, before":       {policy.Drain{Standalone: time.Hour}, time.Minute, []*store.Task{aRunningTask("a", "")}, "stopped at 2026-11-20T09:00:00Z", 0, time.Hour},
		"standalone, after":        {policy.Drain{Standalone: time.Hour}, time.Hour, []*store.Task{aRunningTask("a", "")}, "being stopped", 1, 0},
		"before the deadline":      {policy.Drain{Standalone: -1, Deadline: time.Hour}, 0, []*store.Task{protected}, "At 2026-11-20T09:00:00Z what is left is stopped.", 0, time.Hour},
		"the deadline":             {policy.Drain{Standalone: -1, Deadline: time.Minute}, time.Minute, []*store.Task{protected, aRunningTask("a", ""), aRunningTask("b", "agent")}, "1 of no service (being stopped), 1 of service agent (a daemon, stopped when every other task is STOPPED), 1 of service web (being stopped)", 2, 0},
	} {
		p := aDrain(c.policy, c.after, c.tasks...).plan()
		var wake time.Duration
		if !p.wake.IsZero() {
			wake = p.wake.Sub(drainBegin)
		}
		if p.instance == nil || !strings.Contains(*p.instance.Object.StatusReason, c.reason) || *p.instance.Object.Status != draining || len(p.stops) != c.stops || wake != c.wake {
			t.Errorf("%s: stops %d, wakes at %s, %+v", name, len(p.stops), wake, p.instance.Object.StatusReason)
			t.Log(*p.instance.Object.StatusReason)
		}
	}
}

func TestADrainIsAbandonedAtItsDeadlineWhenThatIsSaid(t *testing.T) {
	p := aDrain(policy.Drain{Standalone: -1, Deadline: time.Minute, Abandon: true}, time.Minute, aRunningTask("a", "web")).plan()
	if len(p.stops) != 0 || p.instance == nil || *p.instance.Object.Status != active || !p.instance.DrainingSince.IsZero() ||
		!strings.Contains(*p.instance.Object.StatusReason, "abandoned at its deadline 1m0s later: 1 task is left: 1 of service web") {
		t.Errorf("%+v", p)
	}
	if p := aDrain(policy.Drain{Standalone: -1, Deadline: time.Minute, Abandon: true}, time.Minute).plan(); *p.instance.Object.Status != draining {
		t.Error("a drain that is over is abandoned")
	}
}

var leftCounts = regexp.MustCompile(`(\d+) of (?:no )?service`)

func TestPropertyOfDrains(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var tasks []*store.Task
		for i := range rapid.IntRange(0, 8).Draw(t, "tasks") {
			n := aRunningTask(fmt.Sprint("t", i), rapid.SampledFrom([]string{"", "web", "stuck", "agent", "agent-2"}).Draw(t, "service"))
			if rapid.Bool().Draw(t, "protected") {
				n = task.Protect(n, drainBegin.Add(time.Duration(rapid.IntRange(-60, 180).Draw(t, "until"))*time.Minute))
			}
			if rapid.Bool().Draw(t, "stopping") {
				n = task.Stop(n, types.TaskStopCodeUserInitiated, "", drainBegin)
			}
			tasks = append(tasks, n)
		}
		d := aDrain(policy.Drain{
			Standalone: time.Duration(rapid.IntRange(-1, 90).Draw(t, "standalone")) * time.Minute,
			Deadline:   time.Duration(rapid.IntRange(0, 90).Draw(t, "deadline")) * time.Minute,
			Abandon:    rapid.Bool().Draw(t, "abandon"),
		}, time.Duration(rapid.IntRange(0, 120).Draw(t, "after"))*time.Minute, tasks...)
		d.host.Connected = rapid.Bool().Draw(t, "connected")
		p := d.plan()
		reason := aws.ToString(p.instance.Object.StatusReason)
		if strings.HasPrefix(reason, drained) != (len(tasks) == 0) {
			t.Fatalf("drained only when every task is STOPPED: %d are not, and it says %q", len(tasks), reason)
		}
		sum := 0
		for _, m := range leftCounts.FindAllStringSubmatch(reason, -1) {
			n, _ := strconv.Atoi(m[1])
			sum += n
		}
		if sum != len(tasks) {
			t.Fatalf("what a drain says adds up to the tasks: %d of %d in %q", sum, len(tasks), reason)
		}
		for _, s := range p.stops {
			if d.daemon(s) {
				t.Fatalf("a drain leaves daemons to their service, which stops them last; it stopped %s", s.Service)
			}
			if s.Service != "" && (d.policy.Deadline == 0 || d.now.Before(drainBegin.Add(d.policy.Deadline))) {
				t.Fatalf("a drain leaves tasks of services to these until its deadline; it stopped %s", s.ID)
			}
		}
		// The same again on what was written: nothing more.
		for _, s := range p.stops {
			for i := range tasks {
				if tasks[i].ID == s.ID {
					tasks[i] = s
				}
			}
		}
		if *p.instance.Object.Status == draining {
			d.host = placement.NewHost(p.instance, nil, d.host.Connected, tasks)
			if again := d.plan(); again.instance != nil || len(again.stops) > 0 {
				t.Fatalf("a second look changes nothing: %+v", again)
			}
		}
	})
}

func TestADrainOnARealStoreEndsWithTheLastTask(t *testing.T) {
	s := newStage(t, 2)
	s.schedule()
	s.create("agent", s.define(100))
	s.wait("each host runs it", func(v *store.View) bool { return runs(v, "agent") == "host-1:1 host-2:1" })
	s.place("job", "host-2", "", 100)
	reason := func(v *store.View) string { return aws.ToString(v.Instance("c", "host-2").Object.StatusReason) }
	s.setStatus("host-2", draining)
	s.wait("the instance tells what its drain waits for", func(v *store.View) bool {
		return strings.Contains(reason(v), "1 of no service (waited for: stop it, or set the tag longshore:drain-standalone), 1 of service agent (a daemon, stopped when every other task is STOPPED)")
	})
	s.change("host-2", func(o *types.ContainerInstance) {
		o.Tags = []types.Tag{{Key: aws.String(policy.DrainStandalone), Value: aws.String("stop")}}
	})
	s.wait("the instance is drained", func(v *store.View) bool {
		for own := range v.TasksOn("c", "host-2") {
			if !task.IsStopped(own) && strings.HasPrefix(reason(v), drained) {
				t.Errorf("drained only when every task is STOPPED: %s is not", own.ID)
			}
		}
		return strings.HasPrefix(reason(v), drained) && *v.Instance("c", "host-2").Object.Status == draining
	})
	s.change("host-2", func(o *types.ContainerInstance) { o.Status = aws.String(active) })
	s.wait("it is used again", func(v *store.View) bool { return runs(v, "agent") == "host-1:1 host-2:1" })
	s.place("job-2", "host-2", "", 100)
	s.change("host-2", func(o *types.ContainerInstance) {
		o.Tags = []types.Tag{{Key: aws.String(policy.DrainDeadline), Value: aws.String("300ms")}, {Key: aws.String(policy.DrainAtDeadline), Value: aws.String("abandon")}}
	})
	s.commit(func(v *store.View, txn *store.Txn) {
		inst := *v.Instance("c", "host-2")
		inst.Object.Status, inst.DrainingSince = aws.String(draining), time.Now()
		txn.Update(&inst)
	})
	s.wait("the drain is abandoned at its deadline", func(v *store.View) bool {
		return *v.Instance("c", "host-2").Object.Status == active && strings.HasPrefix(reason(v), "The drain that began at ") && runs(v, "agent") == "host-1:1 host-2:1"
	})
}
