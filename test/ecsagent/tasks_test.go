package ecsagent_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"

	"github.com/longshore-project/longshore/test/ecsagent"
)

const submit = "SubmitTaskStateChange"

// ready is a control plane with a connected agent in the cluster daemonset.
func ready(t *testing.T, change ...func(*ecsagent.Config)) (*plane, *agent) {
	t.Helper()
	p := newPlane(t)
	p.cluster("daemonset")
	a := p.join(change...)
	p.connected(a)
	return p, a
}

// settled waits until a machine has exactly one running task of a definition, and returns it.
func (p *plane) settled(a *agent, definition string) (task types.Task) {
	p.Helper()
	p.until("one running task of "+definition, func() bool {
		list := p.tasks(a, types.DesiredStatusRunning)
		if len(list) != 1 || aws.ToString(list[0].LastStatus) != "RUNNING" || !strings.HasSuffix(aws.ToString(list[0].TaskDefinitionArn), "/"+definition) {
			return false
		}
		task = list[0]
		return true
	})
	return task
}

// A small share of what a container can say, of every kind: on the wire it has to arrive in the form that agents know.
func everything() types.ContainerDefinition {
	return types.ContainerDefinition{
		Name: aws.String("main"), Image: aws.String("registry.test/app:1"), Essential: aws.Bool(true), Cpu: 128, Memory: aws.Int32(64), MemoryReservation: aws.Int32(32),
		Command: []string{"serve"}, EntryPoint: []string{"/app"}, Environment: []types.KeyValuePair{{Name: aws.String("A"), Value: aws.String("b")}},
		User: aws.String("1000:1000"), WorkingDirectory: aws.String("/srv"), Privileged: aws.Bool(true), ReadonlyRootFilesystem: aws.Bool(true), StopTimeout: aws.Int32(5),
		PortMappings:     []types.PortMapping{{ContainerPort: aws.Int32(80)}, {ContainerPort: aws.Int32(53), HostPort: aws.Int32(5353), Protocol: types.TransportProtocolUdp}},
		MountPoints:      []types.MountPoint{{SourceVolume: aws.String("data"), ContainerPath: aws.String("/data"), ReadOnly: aws.Bool(true)}, {SourceVolume: aws.String("scratch"), ContainerPath: aws.String("/scratch")}},
		DockerLabels:     map[string]string{"team": "a <b> & c"},
		LogConfiguration: &types.LogConfiguration{LogDriver: types.LogDriverJsonFile, Options: map[string]string{"max-size": "1m"}},
		Ulimits:          []types.Ulimit{{Name: types.UlimitNameNofile, SoftLimit: 1024, HardLimit: 2048}},
		LinuxParameters:  &types.LinuxParameters{InitProcessEnabled: aws.Bool(true), Capabilities: &types.KernelCapabilities{Add: []string{"NET_ADMIN"}, Drop: []string{"CHOWN"}}},
		HealthCheck:      &types.HealthCheck{Command: []string{"CMD-SHELL", "true"}},
	}
}

func TestATaskWithEverySettingArrivesInTheFormThatAgentsKnow(t *testing.T) {
	p, a := ready(t)
	main := everything()
	side := types.ContainerDefinition{Name: aws.String("init"), Image: aws.String("registry.test/init:1"), Essential: aws.Bool(false), Memory: aws.Int32(16)}
	main.DependsOn = []types.ContainerDependency{{ContainerName: aws.String("init"), Condition: types.ContainerConditionSuccess}}
	a.Run = func(_, name string) ecsagent.Script {
		if name == "init" {
			return ecsagent.Script{ExitAfter: time.Millisecond}
		}
		return ecsagent.Script{Digest: "sha256:" + strings.Repeat("ab", 32)}
	}
	family := "everything"
	must(p.admin.RegisterTaskDefinition(t.Context(), &ecs.RegisterTaskDefinitionInput{Family: &family, ContainerDefinitions: []types.ContainerDefinition{main, side},
		Volumes: []types.Volume{{Name: aws.String("data"), Host: &types.HostVolumeProperties{SourcePath: aws.String("/srv/data")}}, {Name: aws.String("scratch")}}}))(t)
	arn := p.runs(a, "everything:1")
	a.expect("RUNNING", 1, ecsagent.Is(ecsagent.Sent, submit), ecsagent.Of(arn), ecsagent.With("RUNNING"))
	p.until("RUNNING at the control plane", func() bool { return aws.ToString(p.task(arn).LastStatus) == "RUNNING" })
	for _, c := range p.task(arn).Containers {
		switch aws.ToString(c.Name) {
		case "main":
			if len(c.NetworkBindings) != 2 || aws.ToInt32(c.NetworkBindings[0].HostPort) < 32768 || aws.ToInt32(c.NetworkBindings[1].HostPort) != 5353 {
				t.Errorf("the bindings are %v", c.NetworkBindings)
			}
			if !strings.HasPrefix(aws.ToString(c.ImageDigest), "sha256:abab") || len(aws.ToString(c.RuntimeId)) != 64 {
				t.Errorf("the digest is %s, the runtime id %s", aws.ToString(c.ImageDigest), aws.ToString(c.RuntimeId))
			}
		case "init":
			if aws.ToString(c.LastStatus) != "STOPPED" || c.ExitCode == nil || *c.ExitCode != 0 {
				t.Errorf("the container that ended is %s with %v", aws.ToString(c.LastStatus), c.ExitCode)
			}
		}
	}
	a.expect("health published", 1, ecsagent.Is(ecsagent.Received, "AckPublishHealth"))
	p.until("HEALTHY", func() bool { return p.task(arn).HealthStatus == types.HealthStatusHealthy })
	if len(a.Journal(ecsagent.Is(ecsagent.Sent, submit), ecsagent.Of(arn), ecsagent.With("PENDING"))) == 0 {
		t.Error("the digest was not told with PENDING: the simulation is wrong")
	}
}

func TestOverridesAreMergedBeforeTheyReachTheAgent(t *testing.T) {
	p, a := ready(t)
	def := p.define("app")
	out := must(p.admin.StartTask(t.Context(), &ecs.StartTaskInput{Cluster: aws.String("daemonset"), TaskDefinition: &def, ContainerInstances: []string{a.InstanceARN()},
		Overrides: &types.TaskOverride{ContainerOverrides: []types.ContainerOverride{{Name: aws.String("main"), Command: []string{"other"},
			Environment: []types.KeyValuePair{{Name: aws.String("X"), Value: aws.String("y")}}}}}}))(t)
	arn := aws.ToString(out.Tasks[0].TaskArn)
	got := a.expect("the payload", 1, ecsagent.Is(ecsagent.Received, "PayloadMessage"), ecsagent.Of(arn))[0]
	var m struct {
		Tasks []struct {
			Containers []struct {
				Command     []string
				Environment map[string]string
				Overrides   *string
			}
		}
	}
	if err := json.Unmarshal(got.Body, &m); err != nil {
		t.Fatal(err)
	}
	if c := m.Tasks[0].Containers[0]; !slices.Equal(c.Command, []string{"other"}) || c.Environment["X"] != "y" || (c.Overrides != nil && *c.Overrides != "{}") {
		t.Errorf("the container is %+v", c)
	}
	p.settled(a, def)
}

func TestADaemonRunsOnEachMachineAndOnOneThatJoinsLater(t *testing.T) {
	p, a := ready(t)
	p.daemon("logging-agent", p.define("logging"))
	p.settled(a, "logging:1")
	b := p.join()
	p.connected(b)
	p.settled(b, "logging:1")
	if n := a.Running(); n != 1 {
		t.Errorf("the first machine runs %d containers", n)
	}
}

func TestADeploymentReplacesTheDaemonAndTheOldOneIsGoneFirst(t *testing.T) {
	p, a := ready(t)
	p.daemon("logging-agent", p.define("logging"))
	old := p.settled(a, "logging:1")
	must(p.admin.UpdateService(t.Context(), &ecs.UpdateServiceInput{Cluster: aws.String("daemonset"), Service: aws.String("logging-agent"), TaskDefinition: aws.String(p.define("logging"))}))(t)
	now := p.settled(a, "logging:2")
	if n := a.Running(); n != 1 {
		t.Errorf("%d containers run", n)
	}
	stopped := a.expect("STOPPED", 1, ecsagent.Is(ecsagent.Sent, submit), ecsagent.Of(aws.ToString(old.TaskArn)), ecsagent.With("STOPPED"))[0]
	started := a.Journal(ecsagent.Is(ecsagent.Started, ""), ecsagent.Of(aws.ToString(now.TaskArn)))[0]
	exited := a.Journal(ecsagent.Is(ecsagent.Exited, ""), ecsagent.Of(aws.ToString(old.TaskArn)))[0]
	if exited.At.After(started.At) {
		t.Errorf("the new one started at %s, before the old one ended at %s (told at %s)", started.At, exited.At, stopped.At)
	}
}

func TestADrainStopsTheDaemonAndAnActiveMachineGetsItBack(t *testing.T) {
	p, a := ready(t)
	p.daemon("logging-agent", p.define("logging"))
	p.settled(a, "logging:1")
	p.state(a, types.ContainerInstanceStatusDraining)
	p.until("nothing runs", func() bool { return a.Running() == 0 && len(p.tasks(a, types.DesiredStatusRunning)) == 0 })
	p.state(a, types.ContainerInstanceStatusActive)
	p.settled(a, "logging:1")
}

func TestStopTaskStopsItAndItsExitCodeIsKept(t *testing.T) {
	p, a := ready(t)
	arn := p.runs(a, p.define("app"))
	p.settled(a, "app:1")
	must(p.admin.StopTask(t.Context(), &ecs.StopTaskInput{Cluster: aws.String("daemonset"), Task: &arn, Reason: aws.String("enough")}))(t)
	p.until("STOPPED", func() bool { return aws.ToString(p.task(arn).LastStatus) == "STOPPED" })
	got := p.task(arn)
	if got.StopCode != types.TaskStopCodeUserInitiated || aws.ToString(got.StoppedReason) != "enough" || aws.ToInt32(got.Containers[0].ExitCode) != 143 {
		t.Errorf("it is stopped with %s, %q, exit code %v", got.StopCode, aws.ToString(got.StoppedReason), got.Containers[0].ExitCode)
	}
	if left := must(p.admin.DescribeContainerInstances(t.Context(), &ecs.DescribeContainerInstancesInput{Cluster: aws.String("daemonset"), ContainerInstances: []string{a.InstanceARN()}}))(t).ContainerInstances[0]; left.RunningTasksCount != 0 || left.PendingTasksCount != 0 {
		t.Errorf("%d and %d tasks are counted", left.RunningTasksCount, left.PendingTasksCount)
	}
}

func TestAnEssentialContainerThatExitsEndsItsTaskWithTheServicesWords(t *testing.T) {
	p, a := ready(t)
	arn := p.runs(a, p.define("app"))
	p.settled(a, "app:1")
	a.Kill(arn, "main", 3)
	p.until("STOPPED", func() bool { return aws.ToString(p.task(arn).LastStatus) == "STOPPED" })
	got := p.task(arn)
	if got.StopCode != types.TaskStopCodeEssentialContainerExited || aws.ToString(got.StoppedReason) != "Essential container in task exited" || aws.ToInt32(got.Containers[0].ExitCode) != 3 || got.ExecutionStoppedAt == nil {
		t.Errorf("it is stopped with %s, %q, exit code %v, at %v", got.StopCode, aws.ToString(got.StoppedReason), got.Containers[0].ExitCode, got.ExecutionStoppedAt)
	}
}

func TestADaemonThatDiesIsReplaced(t *testing.T) {
	p, a := ready(t)
	p.daemon("logging-agent", p.define("logging"))
	first := p.settled(a, "logging:1")
	a.Kill(aws.ToString(first.TaskArn), "main", 1)
	p.until("another one", func() bool {
		list := p.tasks(a, types.DesiredStatusRunning)
		return len(list) == 1 && aws.ToString(list[0].TaskArn) != aws.ToString(first.TaskArn) && aws.ToString(list[0].LastStatus) == "RUNNING"
	})
	if n := a.Running(); n != 1 {
		t.Errorf("%d containers run", n)
	}
}

func TestAnImageThatDoesNotExistEndsTheTaskWithTheReason(t *testing.T) {
	p, a := ready(t)
	a.Run = func(string, string) ecsagent.Script {
		return ecsagent.Script{Pull: func(<-chan struct{}) error { return errors.New("manifest unknown") }}
	}
	arn := p.runs(a, p.define("app"))
	p.until("STOPPED", func() bool { return aws.ToString(p.task(arn).LastStatus) == "STOPPED" })
	got := p.task(arn)
	if r := aws.ToString(got.Containers[0].Reason); !strings.Contains(r, "CannotPullImageManifestError") {
		t.Errorf("the container's reason is %q, the task's %q", r, aws.ToString(got.StoppedReason))
	}
	if got.PullStartedAt == nil || got.PullStoppedAt == nil {
		t.Errorf("it was pulled from %v to %v", got.PullStartedAt, got.PullStoppedAt)
	}
}

func TestATaskThatIsStoppedWhileItsImageIsPulledNeverStarts(t *testing.T) {
	p, a := ready(t)
	pulling := make(chan struct{}, 1)
	a.Run = func(string, string) ecsagent.Script {
		return ecsagent.Script{Pull: func(done <-chan struct{}) error { pulling <- struct{}{}; <-done; return errors.New("given up") }}
	}
	arn := p.runs(a, p.define("app"))
	<-pulling
	must(p.admin.StopTask(t.Context(), &ecs.StopTaskInput{Cluster: aws.String("daemonset"), Task: &arn}))(t)
	p.until("STOPPED", func() bool { return aws.ToString(p.task(arn).LastStatus) == "STOPPED" })
	if n := len(a.Containers(arn)); n != 0 {
		t.Errorf("%d containers were started", n)
	}
}

func TestTheControlPlaneNeverSendsMoreThanAMachineHolds(t *testing.T) {
	p, a := ready(t, func(c *ecsagent.Config) { c.Memory = 200 })
	def := p.define("app") // 64 MiB
	out := must(p.admin.RunTask(t.Context(), &ecs.RunTaskInput{Cluster: aws.String("daemonset"), TaskDefinition: &def, Count: aws.Int32(5)}))(t)
	if len(out.Tasks) != 3 || len(out.Failures) == 0 {
		t.Fatalf("%d tasks were placed, failures %v", len(out.Tasks), out.Failures)
	}
	p.until("three run", func() bool { return a.Running() == 3 })
}

func TestFiftyAgentsAtOnceEachGetExactlyOneDaemon(t *testing.T) {
	p := newPlane(t)
	p.cluster("daemonset")
	p.daemon("logging-agent", p.define("logging"))
	agents := make([]*agent, 50)
	for i := range agents {
		agents[i] = p.join(func(c *ecsagent.Config) { c.Timers.Publish, c.Timers.Drain = time.Minute, time.Minute })
	}
	for _, a := range agents {
		a.expect("RUNNING", 1, ecsagent.Is(ecsagent.Sent, submit), ecsagent.With("RUNNING"))
	}
	p.until("the service is steady", func() bool {
		s := must(p.admin.DescribeServices(t.Context(), &ecs.DescribeServicesInput{Cluster: aws.String("daemonset"), Services: []string{"logging-agent"}}))(t).Services[0]
		return s.DesiredCount == 50 && s.RunningCount == 50 && s.PendingCount == 0
	})
	for i, a := range agents {
		if started := a.Journal(ecsagent.Is(ecsagent.Started, "")); len(started) != 1 || a.Running() != 1 {
			t.Errorf("machine %d started %d containers: %s", i, len(started), fmt.Sprint(started))
		}
	}
}
