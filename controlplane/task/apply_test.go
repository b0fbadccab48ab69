package task

import (
	"fmt"
	"reflect"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"
	"github.com/google/go-cmp/cmp"

	"github.com/longshore-project/longshore/controlplane/store"
)

// deepEqual compares SDK types, which have unexported members.
var deepEqual = cmp.Comparer(func(a, b types.Task) bool { return reflect.DeepEqual(a, b) })

func show(v any) string { return fmt.Sprintf("%+v", v) }

func report(name, status string, change ...func(*types.ContainerStateChange)) types.ContainerStateChange {
	c := types.ContainerStateChange{ContainerName: aws.String(name), Status: aws.String(status)}
	for _, f := range change {
		f(&c)
	}
	return c
}

func exit(code int32) func(*types.ContainerStateChange) {
	return func(c *types.ContainerStateChange) { c.ExitCode = aws.Int32(code) }
}

func because(reason string) func(*types.ContainerStateChange) {
	return func(c *types.ContainerStateChange) { c.Reason = aws.String(reason) }
}

func apply(t *testing.T, task *store.Task, changes ...StateChange) *store.Task {
	t.Helper()
	for i, c := range changes {
		n, changed := Apply(task, c, now.Add(time.Duration(i+1)*time.Second))
		if !changed {
			t.Fatalf("report %d changed nothing: %s", i, show(c))
		}
		if n.Object.Version != task.Object.Version+1 {
			t.Fatalf("report %d: version %d after %d", i, n.Object.Version, task.Object.Version)
		}
		task = n
	}
	return task
}

func TestAReportIsTakenOver(t *testing.T) {
	before := newTask(t)
	pulled := now.Add(-time.Second)
	binding := types.NetworkBinding{BindIP: aws.String("0.0.0.0"), ContainerPort: aws.Int32(8080), HostPort: aws.Int32(8080), Protocol: types.TransportProtocolTcp}
	task := apply(t, before,
		StateChange{Status: Pending, PullStartedAt: pulled, PullStoppedAt: now, Containers: []types.ContainerStateChange{
			report("web", Pending, func(c *types.ContainerStateChange) { c.ImageDigest = aws.String("sha256:1") })}},
		StateChange{Status: Running, Containers: []types.ContainerStateChange{
			report("web", Running, func(c *types.ContainerStateChange) {
				c.RuntimeId, c.NetworkBindings = aws.String("r1"), []types.NetworkBinding{binding}
			}),
			report("helper", Stopped, exit(0))}})
	o := task.Object
	web, helper := o.Containers[0], o.Containers[1]
	if *o.LastStatus != Running || *o.DesiredStatus != Running || !o.StartedAt.Equal(now.Add(2*time.Second).Truncate(time.Millisecond)) {
		t.Errorf("task %s", show(o))
	}
	if o.Connectivity != types.ConnectivityConnected || !o.ConnectivityAt.Equal(now.Add(time.Second).Truncate(time.Millisecond)) {
		t.Errorf("connectivity %s at %v", o.Connectivity, o.ConnectivityAt)
	}
	if !o.PullStartedAt.Equal(pulled.Truncate(time.Millisecond)) || o.PullStoppedAt == nil || o.ExecutionStoppedAt != nil {
		t.Errorf("pulled from %v to %v, execution stopped %v", o.PullStartedAt, o.PullStoppedAt, o.ExecutionStoppedAt)
	}
	if *web.LastStatus != Running || *web.RuntimeId != "r1" || *web.ImageDigest != "sha256:1" || !reflect.DeepEqual(web.NetworkBindings, []types.NetworkBinding{binding}) {
		t.Errorf("web %s", show(web))
	}
	if *helper.LastStatus != Stopped || *helper.ExitCode != 0 {
		t.Errorf("helper %s", show(helper))
	}
	if *before.Object.LastStatus != Pending || *before.Object.Containers[0].LastStatus != Pending || before.Object.Version != 1 {
		t.Error("the record that was given was modified")
	}
}

func TestARepeatedReportChangesNothing(t *testing.T) {
	running := StateChange{Status: Running, PullStartedAt: now, Containers: []types.ContainerStateChange{report("web", Running), report("nobody", Running)}}
	task := apply(t, newTask(t), running)
	if n, changed := Apply(task, running, now.Add(time.Hour)); changed || n != task {
		t.Errorf("changed to %s", show(n.Object))
	}
	stopped := StateChange{Status: Stopped, Containers: []types.ContainerStateChange{report("web", Stopped, exit(1))}}
	task = apply(t, task, stopped)
	for _, again := range []StateChange{running, stopped, {Status: Stopped, Reason: "other"}, {Containers: []types.ContainerStateChange{report("web", Stopped, exit(9))}}} {
		if n, changed := Apply(task, again, now.Add(time.Hour)); changed || n != task {
			t.Errorf("%s changed a STOPPED task to %s", show(again), show(n.Object))
		}
	}
}

func TestALateReportOnlyAddsWhatIsMissing(t *testing.T) {
	task := apply(t, newTask(t),
		StateChange{Containers: []types.ContainerStateChange{report("helper", Stopped, exit(3))}},
		StateChange{Status: Pending, Containers: []types.ContainerStateChange{report("helper", Running, exit(7), func(c *types.ContainerStateChange) { c.RuntimeId = aws.String("r") })}})
	helper := task.Object.Containers[1]
	if *helper.LastStatus != Stopped || *helper.ExitCode != 3 || *helper.RuntimeId != "r" {
		t.Errorf("helper %s", show(helper))
	}
	if n, changed := Apply(task, StateChange{Containers: []types.ContainerStateChange{report("helper", Stopped, exit(4))}}, now); changed {
		t.Errorf("a second end changed it to %s", show(n.Object.Containers[1]))
	}
}

func TestARunningTaskHasNoPendingContainerAndAStoppedOneOnlyStoppedOnes(t *testing.T) {
	task := apply(t, newTask(t), StateChange{Status: Running})
	for _, c := range task.Object.Containers {
		if *c.LastStatus != Running {
			t.Errorf("%s is %s in a RUNNING task", *c.Name, *c.LastStatus)
		}
	}
	task = apply(t, task, StateChange{Status: Stopped})
	for _, c := range task.Object.Containers {
		if *c.LastStatus != Stopped {
			t.Errorf("%s is %s in a STOPPED task", *c.Name, *c.LastStatus)
		}
	}
}

func TestATaskThatEndsSaysWhy(t *testing.T) {
	running := StateChange{Status: Running}
	stopped := func(reason string, containers ...types.ContainerStateChange) StateChange {
		return StateChange{Status: Stopped, Reason: reason, Containers: containers}
	}
	const exited, failed = types.TaskStopCodeEssentialContainerExited, types.TaskStopCodeTaskFailedToStart
	for _, test := range []struct {
		name    string
		reports []StateChange
		code    types.TaskStopCode
		reason  string
	}{
		{"an essential container exits", []StateChange{running, stopped("", report("web", Stopped, exit(1)))}, exited, ReasonEssentialExited},
		{"an essential container is out of memory", []StateChange{running, stopped("", report("web", Stopped, exit(137), because("OutOfMemoryError: Container killed due to memory usage")))}, exited, ReasonEssentialExited},
		{"out of memory before RUNNING was reported", []StateChange{stopped("", report("web", Stopped, exit(137), because("OutOfMemoryError: Container killed due to memory usage")))}, exited, ReasonEssentialExited},
		{"it ran too shortly to be reported RUNNING", []StateChange{stopped("", report("web", Stopped, exit(0)))}, exited, ReasonEssentialExited},
		{"an agent that says so itself", []StateChange{stopped(ReasonEssentialExited, report("web", Stopped, exit(0)))}, exited, ReasonEssentialExited},
		{"the agent has a reason for a task that ran", []StateChange{running, stopped("TaskStateError: x")}, exited, "TaskStateError: x"},
		{"the image cannot be pulled", []StateChange{stopped("", report("helper", Stopped), report("web", Stopped, because("CannotPullContainerError: no such image")))}, failed, "CannotPullContainerError: no such image"},
		{"the container cannot be started", []StateChange{stopped("", report("web", Stopped, exit(127), because("CannotStartContainerError: no such file")))}, failed, "CannotStartContainerError: no such file"},
		{"the host volume check refuses it", []StateChange{stopped("HostVolumeCheckError: /var/log/x is not readable by uid 1000")}, failed, "HostVolumeCheckError: /var/log/x is not readable by uid 1000"},
		{"nobody knows why", []StateChange{stopped("")}, failed, ReasonFailedToStart},
	} {
		t.Run(test.name, func(t *testing.T) {
			task := apply(t, newTask(t), test.reports...)
			o := task.Object
			if o.StopCode != test.code || aws.ToString(o.StoppedReason) != test.reason {
				t.Errorf("got %s %q, want %s %q", o.StopCode, aws.ToString(o.StoppedReason), test.code, test.reason)
			}
			if *o.DesiredStatus != Stopped || o.StoppedAt == nil || o.StoppingAt == nil || !Failed(task) {
				t.Errorf("task %s", show(o))
			}
			if FailedToStart(task) != (o.StartedAt == nil) {
				t.Errorf("FailedToStart is %t", FailedToStart(task))
			}
		})
	}
}

func TestAStopKeepsItsReasonThroughTheReportOfTheEnd(t *testing.T) {
	task := apply(t, newTask(t), StateChange{Status: Running})
	task.AcceptedAt = now
	asked := Stop(task, types.TaskStopCodeUserInitiated, "maintenance", now)
	if *asked.Object.DesiredStatus != Stopped || *asked.Object.LastStatus != Running || asked.Object.StoppingAt == nil || !asked.AcceptedAt.IsZero() {
		t.Fatalf("asked to stop: %s", show(asked.Object))
	}
	if Stop(asked, types.TaskStopCodeServiceSchedulerInitiated, "other", now) != nil {
		t.Error("a second stop changed the task")
	}
	ended := apply(t, asked, StateChange{Status: Stopped, Reason: "TaskStateError: x", Containers: []types.ContainerStateChange{report("web", Stopped, exit(143))}})
	if ended.Object.StopCode != types.TaskStopCodeUserInitiated || *ended.Object.StoppedReason != "maintenance" || Failed(ended) {
		t.Errorf("ended: %s", show(ended.Object))
	}
	if Stop(ended, types.TaskStopCodeUserInitiated, "again", now) != nil || Lost(ended, "", "lost", now) != nil {
		t.Error("a STOPPED task was changed")
	}
}

func TestATaskOfALostHostIsStoppedWithTheHostNamed(t *testing.T) {
	task := apply(t, newTask(t), StateChange{Status: Running})
	lost := Lost(task, "", HostLost(instance(), 15*time.Minute), now)
	want := "Host EC2 (instance i-0123456789abcdef0) terminated. Container instance e2814b69ab604db2a89dcd0ea8dd1a7b was lost: its agent has not been connected for 15m0s."
	if *lost.Object.StoppedReason != want || *lost.Object.LastStatus != Stopped || lost.Object.Connectivity != types.ConnectivityDisconnected || Failed(lost) {
		t.Errorf("lost: %s %q", show(lost.Object), *lost.Object.StoppedReason)
	}
}

func TestHealthIsThatOfEssentialContainersWithACheck(t *testing.T) {
	def := definition()
	task := apply(t, newTask(t), StateChange{Status: Running})
	if Healthy(task, def) {
		t.Error("healthy before the check said so")
	}
	helperOnly, changed := SetHealth(task, def, map[string]types.HealthStatus{"helper": types.HealthStatusUnhealthy, "nobody": types.HealthStatusUnhealthy, "web": "SICK"})
	if !changed || helperOnly.Object.HealthStatus != types.HealthStatusUnknown {
		t.Errorf("task is %s", helperOnly.Object.HealthStatus)
	}
	well, changed := SetHealth(helperOnly, def, map[string]types.HealthStatus{"web": types.HealthStatusHealthy})
	if !changed || well.Object.HealthStatus != types.HealthStatusHealthy || well.Object.Version != helperOnly.Object.Version+1 || !Healthy(well, def) {
		t.Errorf("task is %s", well.Object.HealthStatus)
	}
	if _, changed := SetHealth(well, def, map[string]types.HealthStatus{"web": types.HealthStatusHealthy}); changed {
		t.Error("the same health was a change")
	}
	ill, _ := SetHealth(well, def, map[string]types.HealthStatus{"web": types.HealthStatusUnhealthy})
	if ill.Object.HealthStatus != types.HealthStatusUnhealthy || Healthy(ill, def) {
		t.Errorf("task is %s", ill.Object.HealthStatus)
	}
	def.ContainerDefinitions[0].HealthCheck = nil
	if !Healthy(task, def) {
		t.Error("a RUNNING task without a check is not healthy")
	}
}
