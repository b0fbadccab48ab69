package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/longshore-project/longshore/test/images"
)

// A timed task or instance is one with its times.
type timed struct {
	TaskArn, TaskDefinitionArn, ContainerInstanceArn, Group, LastStatus, StoppedReason string
	CreatedAt, StartedAt, StoppingAt, StoppedAt, RegisteredAt                          seconds
}

// seconds since 1970, as the CLI prints times.
type seconds float64

// TestWhatTheSchedulerDecidesOnTwoHosts walks through what is decided on hosts that join, are updated, drained and lost.
func TestWhatTheSchedulerDecidesOnTwoHosts(t *testing.T) { onEachEngine(t, whatTheSchedulerDecides) }

func whatTheSchedulerDecides(t *testing.T, engine string) {
	l := NewLabOn(t, engine, "schd"+engine[:1], 102, 2, "--rollout-wave-wait", "1s", "--replica-healthy-after", "1s")
	serving := l.Push("serving:1", images.Serving())
	l.Do("ecs", "create-cluster", "--cluster-name", cluster)
	for family, more := range map[string]string{"agent": "", "broken": `,"entryPoint":["/nothing"]`, "web": "", "job": ""} {
		l.Do("ecs", "register-task-definition", "--family", family, "--container-definitions", fmt.Sprintf(`[{"name":"main","image":%q,"memory":16,"cpu":10,"stopTimeout":2%s}]`, serving, more))
	}
	step := func(name string, f func()) {
		t.Helper()
		began := time.Now()
		if !t.Run(name, func(t *testing.T) { saved := l.t; l.t = t; defer func() { l.t = saved }(); f() }) {
			t.FailNow()
		}
		t.Logf("%s: %s", name, time.Since(began).Round(100*time.Millisecond))
	}
	var first, second string
	step("replicas wait at the gate of a host that joins, at most its limit", func() { first = l.walkGate() })
	step("a second host is there", func() {
		l.StartAgent(2)
		second = l.InstanceOf(2)
		l.Steady("agent", 2)
	})
	step("an update is asked first, and then starts the new daemons beside the old ones", func() { l.walkSurge() })
	step("a protected task is not scaled in", func() { l.walkProtection() })
	step("a drain lets daemons go last, and its deadline ends what stays", func() { l.walkDrainOrder(first) })
	step("replicas of a host that is away are replaced, and no daemon is doubled", func() { l.walkAway(2, second) })
}

func (l *Lab) timed(ids ...string) []timed {
	l.t.Helper()
	return Ask[struct{ Tasks []timed }](l, "describe-tasks", append([]string{"--cluster", cluster, "--tasks"}, ids...)...).Tasks
}

// timedOf are the tasks of a service, of a desired status.
func (l *Lab) timedOf(service, status string) []timed {
	l.t.Helper()
	list := Ask[struct{ TaskArns []string }](l, "list-tasks", "--cluster", cluster, "--service-name", service, "--desired-status", status).TaskArns
	if len(list) == 0 {
		return nil
	}
	return l.timed(list...)
}

// walkGate has a host join a cluster with a daemon that runs, one that always fails, and a REPLICA service.
func (l *Lab) walkGate() (instance string) {
	t := l.t
	t.Helper()
	const limit = 4 * time.Second
	daemon := func(name, tag string) {
		l.Do("ecs", "create-service", "--cluster", cluster, "--service-name", name, "--task-definition", name, "--scheduling-strategy", "DAEMON", "--tags", tag)
	}
	daemon("agent", "key=longshore:daemon-surge,value=true")
	daemon("broken", "key=longshore:daemon-gate,value="+limit.String())
	l.Do("ecs", "create-service", "--cluster", cluster, "--service-name", "web", "--task-definition", "web", "--desired-count", "2", "--tags", "key=longshore:lost-host,value=3s")
	l.StartAgent(1)
	instance = l.InstanceOf(1)
	l.Until(30*time.Second, "the gate says what it waits for", func() error {
		return has(l.asks("explain", "service", "web"), "DAEMON", "broken")
	})
	l.Until(60*time.Second, "two replicas run", func() error {
		if n := l.Service("web").RunningCount; n != 2 {
			return fmt.Errorf("%d", n)
		}
		return nil
	})
	joined := AWS[struct{ ContainerInstances []timed }](l, "ecs", "describe-container-instances", "--cluster", cluster, "--container-instances", ID(instance)).ContainerInstances[0].RegisteredAt
	own := l.timedOf("agent", "RUNNING")
	if len(own) != 1 {
		t.Fatalf("daemons: %+v", own)
	}
	for _, replica := range l.timedOf("web", "RUNNING") {
		if replica.CreatedAt < own[0].StartedAt {
			t.Errorf("a replica was placed at %.3f, the daemon ran at %.3f", replica.CreatedAt, own[0].StartedAt)
		}
		waited := replica.CreatedAt - joined
		if t.Logf("a replica waited %.3f s for a daemon that always fails, whose limit is %s", waited, limit); float64(waited) < limit.Seconds()-0.1 { // times are whole milliseconds
			t.Error("the gate opened before its limit")
		}
	}
	l.Do("ecs", "delete-service", "--cluster", cluster, "--service", "broken")
	return instance
}

func (l *Lab) walkSurge() {
	t := l.t
	t.Helper()
	before := map[int]string{}
	for i := 1; i <= 2; i++ {
		before[i] = l.Running(i, "agent")[0].ID
	}
	asked := l.asks("explain", "update-service", "agent", "--force-new-deployment")
	if err := has(asked, "starts agent:1 of service agent", "of service agent (Scaling activity"); err != nil {
		t.Error(err)
	}
	placed := l.asks("explain", "placement", "--task-definition", "job", "--count", "2", "--constraint", "memberOf:attribute:env==prod")
	if err := has(placed, "0 of 2 tasks would be placed now", "2 instances refused it: 2 attribute:env==prod does not hold", "To change that,"); err != nil {
		t.Error(err)
	}
	for i := 1; i <= 2; i++ {
		if cs := l.Running(i, "agent"); len(cs) != 1 || cs[0].ID != before[i] {
			t.Errorf("asking changed host %d: %+v", i, cs)
		}
	}
	l.Do("ecs", "update-service", "--cluster", cluster, "--service", "agent", "--force-new-deployment")
	l.Steady("agent", 2)
	for i := 1; i <= 2; i++ {
		l.Until(30*time.Second, "the new daemon runs alone", func() error {
			if cs := l.Running(i, "agent"); len(cs) != 1 || cs[0].ID == before[i] {
				return fmt.Errorf("%+v", cs)
			}
			return nil
		})
		started, stopped := l.containerTime(i, l.Running(i, "agent")[0].ID, "StartedAt"), l.containerTime(i, before[i], "FinishedAt")
		if t.Logf("host %d ran both for %s", i, stopped.Sub(started).Round(time.Millisecond)); !started.Before(stopped) {
			t.Errorf("host %d had no daemon between %s and %s", i, stopped, started)
		}
	}
}

func (l *Lab) walkProtection() {
	t := l.t
	t.Helper()
	tasks := l.timedOf("web", "RUNNING")
	if len(tasks) != 2 {
		t.Fatalf("%+v", tasks)
	}
	asked := l.asks("explain", "update-service", "web", "--desired-count", "1")
	kept := slices.IndexFunc(tasks, func(task timed) bool { return has(asked, "stops "+ID(task.TaskArn)+" of service web") == nil })
	if kept < 0 {
		t.Fatalf("it is not said which of %+v would be stopped: %s", tasks, asked)
	}
	l.Do("ecs", "update-task-protection", "--cluster", cluster, "--tasks", tasks[kept].TaskArn, "--protection-enabled")
	l.Do("ecs", "update-service", "--cluster", cluster, "--service", "web", "--desired-count", "1")
	l.Steady("web", 1)
	if left := l.timedOf("web", "RUNNING"); len(left) != 1 || left[0].TaskArn != tasks[kept].TaskArn {
		t.Errorf("the protected task %s was scaled in: %+v", tasks[kept].TaskArn, left)
	}
	l.Do("ecs", "update-task-protection", "--cluster", cluster, "--tasks", tasks[kept].TaskArn, "--no-protection-enabled")
	l.Do("ecs", "update-service", "--cluster", cluster, "--service", "web", "--desired-count", "2")
	l.Steady("web", 2)
}

// walkDrainOrder drains a host with a replica, a standalone task that never ends, and a daemon.
func (l *Lab) walkDrainOrder(instance string) {
	t := l.t
	t.Helper()
	job := AWS[struct{ Tasks []timed }](l, "ecs", "start-task", "--cluster", cluster, "--task-definition", "job", "--container-instances", ID(instance)).Tasks[0].TaskArn
	l.waited("tasks-running", job)
	here := AWS[struct{ TaskArns []string }](l, "ecs", "list-tasks", "--cluster", cluster, "--container-instance", ID(instance)).TaskArns
	if err := has(l.asks("explain", "drain", ID(instance)), "1 of no service (waited for: ", "1 of service agent (a daemon, stopped when every other task is STOPPED)", "starts web:1 of service web", "would not be drained"); err != nil {
		t.Error(err)
	}
	l.Do("ecs", "tag-resource", "--resource-arn", instance, "--tags", "key=longshore:drain-deadline,value=3s")
	l.Do("ecs", "update-container-instances-state", "--cluster", cluster, "--container-instances", ID(instance), "--status", "DRAINING")
	reason := func(begins string) func() error {
		return func() error {
			out := Ask[struct{ ContainerInstances []Instance }](l, "describe-container-instances", "--cluster", cluster, "--container-instances", ID(instance)).ContainerInstances[0]
			if !strings.Contains(out.StatusReason, begins) {
				return fmt.Errorf("%+v", out.StatusReason)
			}
			return nil
		}
	}
	l.Until(60*time.Second, "the instance is drained", reason("Drained: every task is STOPPED"))
	var daemon timed
	var others []timed
	for _, task := range l.timed(here...) {
		if task.Group == "service:agent" {
			daemon = task
		} else {
			others = append(others, task)
		}
	}
	for _, other := range others {
		if other.StoppedAt == 0 || daemon.StoppingAt < other.StoppedAt {
			t.Errorf("the daemon was asked to stop at %.3f, %s was STOPPED at %.3f", daemon.StoppingAt, other.Group, other.StoppedAt)
		}
		if other.TaskArn == job && !strings.Contains(other.StoppedReason, "its deadline of 3s has passed") {
			t.Errorf("the standalone task was stopped: %s", other.StoppedReason)
		}
	}
	if len(others) == 0 || daemon.StoppedAt == 0 {
		t.Errorf("tasks that were drained: %+v", l.timed(here...))
	}
	l.Do("ecs", "update-container-instances-state", "--cluster", cluster, "--container-instances", ID(instance), "--status", "ACTIVE")
	l.Steady("agent", 2)
}

// walkAway kills the agent of the host that has all replicas, and starts it again.
func (l *Lab) walkAway(i int, instance string) {
	t := l.t
	t.Helper()
	daemon := l.Running(i, "agent")
	there := 0
	for _, task := range l.timedOf("web", "RUNNING") {
		if task.ContainerInstanceArn == instance {
			there++
		}
	}
	if there == 0 || len(daemon) != 1 {
		t.Fatalf("%d replicas and %d daemons on host %d", there, len(daemon), i)
	}
	l.KillAgent(i)
	l.Until(60*time.Second, "the replicas run elsewhere", func() error {
		elsewhere := 0
		for _, task := range l.timedOf("web", "RUNNING") {
			if task.ContainerInstanceArn != instance && task.LastStatus == "RUNNING" {
				elsewhere++
			}
		}
		if elsewhere < 2 {
			return fmt.Errorf("%d", elsewhere)
		}
		return nil
	})
	l.StartAgent(i)
	l.Connected(2)
	l.Steady("web", 2)
	l.Steady("agent", 2)
	if again := l.Running(i, "agent"); len(again) != 1 || again[0].ID != daemon[0].ID {
		t.Errorf("host %d runs %d daemons, %+v was there", i, len(again), daemon)
	}
}
