package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/longshore-project/longshore/test/images"
)

// TestTheWholeWayOnThreeHosts walks through what a person does, in order; each step builds on the one before.
func TestTheWholeWayOnThreeHosts(t *testing.T) { onEachEngine(t, theWholeWay) }

func theWholeWay(t *testing.T, engine string) {
	l := NewLabOn(t, engine, "walk"+engine[:1], 96, 4, "--instance-lost-after", "1m", "--rollout-wave-wait", "1s")
	good := l.Push("logging-agent:1", images.LoggingAgent())
	crash := l.Push("crash:1", images.Crashing())
	version, _, _ := l.TryAWS("--version")
	t.Logf("the CLI is %s", strings.TrimSpace(version))

	step := func(name string, f func(t *testing.T)) {
		t.Helper()
		if !t.Run(name, func(t *testing.T) { saved := l.t; l.t = t; defer func() { l.t = saved }(); f(t) }) {
			t.FailNow()
		}
	}
	instances := map[int]string{}
	step("three hosts join", func(t *testing.T) {
		l.Do("ecs", "create-cluster", "--cluster-name", cluster)
		for i := 1; i <= 3; i++ {
			// what the container writes must land on a disk of its own user
			if err := l.OnHost(i, "install", "-d", "-o", "1000", "-g", "1000", "/tmp/host/logs").Run(); err != nil {
				t.Fatal(err)
			}
			l.StartAgent(i)
		}
		l.Connected(3)
		for i := 1; i <= 3; i++ {
			instances[i] = l.InstanceOf(i)
		}
	})
	step("a DAEMON service puts one container on every host", func(t *testing.T) {
		l.Do("ecs", "register-task-definition", "--cli-input-json", l.loggingAgent(good, ""))
		s := AWS[struct{ Service Service }](l, "ecs", "create-service", "--cluster", cluster, "--service-name", "datadog-agent", "--launch-type", "EC2",
			"--scheduling-strategy", "DAEMON", "--task-definition", "datadog-agent-task:1").Service
		if s.DesiredCount != 3 {
			t.Errorf("create-service answers desiredCount %d", s.DesiredCount)
		}
		if engine == Docker { // from the first task on, as people do; it looks every 15 seconds
			l.Do("ecs", "wait", "services-stable", "--cluster", cluster, "--services", "datadog-agent")
		}
		l.Steady("datadog-agent", 3)
		for i := 1; i <= 3; i++ {
			cs := l.Running(i, "datadog-agent-task")
			if len(cs) != 1 {
				t.Fatalf("host %d runs %d containers", i, len(cs))
			}
			labels := cs[0].Labels
			if labels["com.amazonaws.ecs.cluster"] != cluster || labels["com.amazonaws.ecs.container-name"] != "agent" || labels["com.amazonaws.ecs.task-definition-version"] != "1" {
				t.Errorf("host %d: labels %v", i, labels)
			}
			l.Until(15*time.Second, "the container's output is read through the mount", func() error {
				b, err := l.OnHost(i, "sh", "-c", "cat /tmp/host/logs/collected/*").Output()
				if err == nil && !strings.Contains(string(b), "uid 1000") {
					err = fmt.Errorf("it says %s", b)
				}
				return err
			})
		}
		l.sameByCLI("datadog-agent", l.Tasks())
		for _, task := range l.Tasks() {
			if task.LastStatus != "RUNNING" || task.LaunchType != "EC2" || task.Group != "service:datadog-agent" || !strings.HasPrefix(task.Containers[0].ImageDigest, "sha256:") {
				t.Errorf("%+v", task)
			}
		}
	})
	step("a fourth host gets its task", func(t *testing.T) {
		if err := l.OnHost(4, "install", "-d", "-o", "1000", "-g", "1000", "/tmp/host/logs").Run(); err != nil {
			t.Fatal(err)
		}
		l.StartAgent(4)
		l.Steady("datadog-agent", 4)
		instances[4] = l.InstanceOf(4)
	})
	step("what can be asked is answered", func(t *testing.T) { l.walkQuestions(3, instances[3], good) })
	step("output is read on the host, and programs are run there", func(t *testing.T) { l.walkOutput(2, instances[2], good) })
	step("an attribute decides where a constrained service runs", func(t *testing.T) { l.walkAttributes(instances, good) })
	step("a rolling update goes in waves", func(t *testing.T) { l.walkRollingUpdate(good) })
	step("a crashing image reaches one host and no more", func(t *testing.T) { l.walkCrashingImage(crash) })
	step("a drained host loses its daemon and gets it back", func(t *testing.T) { l.walkDrain(instances[2]) })
	step("a killed agent leaves its container alone and adopts it", func(t *testing.T) { l.walkKilledAgent(1, instances[1]) })
	if engine == Containerd {
		step("a killed containerd leaves containers alone", func(t *testing.T) { l.walkKilledContainerd(1) })
	}
	step("a killed control plane touches nothing and comes back", func(t *testing.T) { l.walkKilledControl() })
	step("standalone tasks run, stop and fail with reasons", func(t *testing.T) { l.walkStandalone(instances[3], good) })
	step("a host that dies is given up after the limit", func(t *testing.T) { l.walkLostHost(4, instances[4]) })
	step("a service and an instance are taken away", func(t *testing.T) { l.walkEnd(instances[1]) })
	if engine == Containerd {
		step("nothing of the containers' network is left", func(t *testing.T) { l.walkNoNetwork(3) })
	}
}

func (l *Lab) walkAttributes(instances map[int]string, image string) {
	t := l.t
	t.Helper()
	put := func(i int, value string) {
		l.Do("ecs", "put-attributes", "--cluster", cluster, "--attributes", "name=env,value="+value+",targetType=container-instance,targetId="+ID(instances[i]))
	}
	put(1, "prod")
	put(2, "dev")
	described := AWS[struct{ ContainerInstances []Instance }](l, "ecs", "describe-container-instances", "--cluster", cluster, "--container-instances", ID(instances[1])).ContainerInstances
	if !slices.ContainsFunc(described[0].Attributes, func(a struct{ Name, Value string }) bool { return a.Name == "env" && a.Value == "prod" }) {
		t.Errorf("the attribute is not described: %+v", described[0].Attributes)
	}
	if got := l.Instances("--filter", "attribute:env==prod"); len(got) != 1 || got[0].ContainerInstanceArn != instances[1] {
		t.Errorf("the filter finds %+v", got)
	}
	l.Do("ecs", "create-service", "--cluster", cluster, "--service-name", "prod-only", "--scheduling-strategy", "DAEMON",
		"--task-definition", "datadog-agent-task:1", "--placement-constraints", "type=memberOf,expression=attribute:env==prod")
	l.Steady("prod-only", 1)
	if tasks := l.Tasks("--service-name", "prod-only"); len(tasks) != 1 || tasks[0].ContainerInstanceArn != instances[1] {
		t.Errorf("tasks %+v", tasks)
	}
	put(1, "dev")
	put(2, "prod")
	l.Until(30*time.Second, "the service moved to the host that matches now", func() error {
		tasks := l.Tasks("--service-name", "prod-only")
		if len(tasks) != 1 || tasks[0].ContainerInstanceArn != instances[2] || tasks[0].LastStatus != "RUNNING" {
			return fmt.Errorf("tasks %+v", tasks)
		}
		return nil
	})
	l.Do("ecs", "delete-service", "--cluster", cluster, "--service", "prod-only")
	l.waited("services-inactive", "prod-only")
}

func (l *Lab) walkRollingUpdate(image string) {
	t := l.t
	t.Helper()
	l.Do("ecs", "register-task-definition", "--cli-input-json", l.loggingAgent(image, ""))
	l.Do("ecs", "update-service", "--cluster", cluster, "--service", "datadog-agent", "--task-definition", "datadog-agent-task:2")
	var sizes []int
	l.Until(90*time.Second, "the roll-out is complete", func() error {
		s := l.Service("datadog-agent")
		for _, d := range s.Deployments {
			if strings.HasSuffix(d.TaskDefinition, ":2") {
				if n := d.RunningCount + d.PendingCount; len(sizes) == 0 || sizes[len(sizes)-1] != n {
					sizes = append(sizes, n)
				}
			}
		}
		if len(s.Deployments) != 1 || s.RunningCount != 4 || s.Deployments[0].RolloutState != "COMPLETED" {
			return fmt.Errorf("%+v", s.Deployments)
		}
		return nil
	})
	if !slices.IsSorted(sizes) || !slices.Contains(sizes, 1) {
		t.Errorf("tasks of the new revision over time: %v; want waves that begin with one host", sizes)
	}
	for i := 1; i <= 4; i++ {
		if cs := l.Running(i, "datadog-agent-task"); len(cs) != 1 || cs[0].Labels["com.amazonaws.ecs.task-definition-version"] != "2" {
			t.Errorf("host %d runs %+v", i, cs)
		}
	}
}

func (l *Lab) walkCrashingImage(image string) {
	t := l.t
	t.Helper()
	l.Do("ecs", "register-task-definition", "--cli-input-json", l.loggingAgent(image, ""))
	l.Do("ecs", "update-service", "--cluster", cluster, "--service", "datadog-agent", "--task-definition", "datadog-agent-task:3")
	var held string
	l.Until(60*time.Second, "an event says that the roll-out holds", func() error {
		s := l.Service("datadog-agent")
		for _, e := range s.Events {
			if strings.Contains(e.Message, "hold") {
				held = e.Message
				return nil
			}
		}
		return fmt.Errorf("events %+v", s.Events)
	})
	t.Logf("%s", held)
	hosts := map[string]bool{}
	for _, status := range []string{"RUNNING", "STOPPED"} {
		for _, task := range l.Tasks("--family", "datadog-agent-task", "--desired-status", status) {
			if strings.HasSuffix(task.TaskDefinitionArn, ":3") {
				hosts[task.ContainerInstanceArn] = true
			}
		}
	}
	if len(hosts) != 1 {
		t.Errorf("the crashing image reached %d hosts", len(hosts))
	}
	if s := l.Service("datadog-agent"); s.RunningCount < 3 {
		t.Errorf("%d daemons run while the roll-out holds", s.RunningCount)
	}
	l.Do("ecs", "update-service", "--cluster", cluster, "--service", "datadog-agent", "--task-definition", "datadog-agent-task:2")
	l.Steady("datadog-agent", 4)
}

func (l *Lab) walkDrain(instance string) {
	t := l.t
	t.Helper()
	l.drain(instance)
	if err := atMost(l.Service("datadog-agent").RunningCount, 3, "tasks"); err != nil {
		t.Error(err)
	}
	l.Do("ecs", "update-container-instances-state", "--cluster", cluster, "--container-instances", ID(instance), "--status", "ACTIVE")
	l.Steady("datadog-agent", 4)
}

func (l *Lab) walkKilledAgent(i int, instance string) {
	t := l.t
	t.Helper()
	before := l.Running(i, "datadog-agent-task")
	task := l.Tasks("--container-instance", ID(instance))[0]
	inspect := func() (pid int, started string) {
		c, err := l.Seen(i).Inspect(t.Context(), before[0].ID)
		if err != nil {
			t.Fatal(err)
		}
		return c.State.Pid, c.State.StartedAt
	}
	pid, started := inspect()
	l.KillAgent(i)
	killed := time.Now()
	l.Until(30*time.Second, "agentConnected is false", func() error {
		for _, in := range l.Instances() {
			if in.ContainerInstanceArn == instance && in.AgentConnected {
				return errNotYet
			}
		}
		return nil
	})
	t.Logf("agentConnected was false %v after the kill", time.Since(killed).Round(10*time.Millisecond))
	l.StartAgent(i)
	l.Connected(4)
	if l.InstanceOf(i) != instance {
		t.Errorf("the instance changed from %s to %s", instance, l.InstanceOf(i))
	}
	l.Steady("datadog-agent", 4)
	if p, s := inspect(); p != pid || s != started {
		t.Errorf("the container was touched: pid %d → %d, started %s → %s", pid, p, started, s)
	}
	if after := l.DescribeTasks(task.TaskArn)[0]; after.LastStatus != "RUNNING" || after.Version != task.Version {
		t.Errorf("the task's record changed: %+v → %+v", task, after)
	}
	if cs := l.Containers(i, "datadog-agent-task"); len(l.Running(i, "datadog-agent-task")) != 1 {
		t.Errorf("containers after adoption: %+v", cs)
	}
}

func (l *Lab) walkKilledControl() {
	t := l.t
	t.Helper()
	ids := map[int]string{}
	for i := 1; i <= 4; i++ {
		ids[i] = l.Running(i, "datadog-agent-task")[0].ID
	}
	l.KillControl()
	l.StartControl("--instance-lost-after", "10s", "--rollout-wave-wait", "1s") // that a host is given up is seen soon
	l.Connected(4)
	l.Steady("datadog-agent", 4)
	for i, id := range ids {
		if cs := l.Running(i, "datadog-agent-task"); len(cs) != 1 || cs[0].ID != id {
			t.Errorf("host %d: container %s became %+v", i, id, cs)
		}
	}
}

func (l *Lab) walkStandalone(instance, image string) {
	t := l.t
	t.Helper()
	once := func(family, body string) {
		l.Do("ecs", "register-task-definition", "--cli-input-json", l.write(family+".json", `{"family":"`+family+`",`+body+`}`))
	}
	type started struct {
		Tasks    []Task
		Failures []Failure
	}
	once("sleeper", `"containerDefinitions":[{"name":"main","image":"`+image+`","memory":32,"stopTimeout":2,"entryPoint":["/bin/sleep"],"command":["600"],"portMappings":[{"containerPort":80}]}]`)
	run := AWS[started](l, "ecs", "run-task", "--cluster", cluster, "--task-definition", "sleeper", "--count", "2")
	if len(run.Tasks) != 2 || len(run.Failures) != 0 {
		t.Fatalf("run-task: %+v", run)
	}
	ids := []string{run.Tasks[0].TaskArn, run.Tasks[1].TaskArn}
	l.waited("tasks-running", ids...)
	for _, task := range l.DescribeTasks(ids...) {
		if b := task.Containers[0].NetworkBindings; len(b) != 1 || b[0].ContainerPort != 80 || b[0].HostPort == 0 {
			t.Errorf("network bindings %+v", b)
		}
	}
	l.publishes(image)
	for _, id := range ids {
		l.Do("ecs", "stop-task", "--cluster", cluster, "--task", id, "--reason", "enough")
	}
	l.waited("tasks-stopped", ids...)
	for _, task := range l.DescribeTasks(ids...) {
		if task.StoppedReason != "enough" || task.StopCode != "UserInitiated" || task.Containers[0].ExitCode == nil {
			t.Errorf("%+v", task)
		}
	}

	stops := func(what string, wantCode string, parts ...string) {
		t.Helper()
		got := AWS[started](l, "ecs", "start-task", "--cluster", cluster, "--task-definition", what, "--container-instances", ID(instance))
		if len(got.Tasks) != 1 {
			t.Fatalf("start-task %s: %+v", what, got)
		}
		l.waited("tasks-stopped", got.Tasks[0].TaskArn)
		task := l.DescribeTasks(got.Tasks[0].TaskArn)[0]
		all := task.StoppedReason
		for _, c := range task.Containers {
			all += " " + c.Reason
		}
		t.Logf("%s: %s: %s", what, task.StopCode, all)
		for _, part := range parts {
			if !strings.Contains(all, part) {
				t.Errorf("%s stopped with %q, want %q in it", what, all, part)
			}
		}
		if task.StopCode != wantCode {
			t.Errorf("%s has stop code %s", what, task.StopCode)
		}
	}
	once("exits", `"containerDefinitions":[{"name":"main","image":"`+image+`","memory":32,"entryPoint":["/bin/sh"],"command":["-c","exit 3"]}]`)
	stops("exits", "EssentialContainerExited", "Essential container in task exited")
	once("no-image", `"containerDefinitions":[{"name":"main","image":"`+strings.Replace(image, "logging-agent:1", "nothing-here:7", 1)+`","memory":32}]`)
	stops("no-image", "TaskFailedToStart", "CannotPullContainerError", "nothing-here:7")
	if err := l.OnHost(3, "install", "-d", "-m", "700", "/tmp/host/private").Run(); err != nil {
		t.Fatal(err)
	}
	once("no-access", `"containerDefinitions":[{"name":"main","image":"`+image+`","memory":32,"user":"1000","mountPoints":[{"sourceVolume":"v","containerPath":"/data"}]}],"volumes":[{"name":"v","host":{"sourcePath":"/tmp/host/private"}}]`)
	stops("no-access", "TaskFailedToStart", "/tmp/host/private", "no x", "uid 1000", "mode 0700", "chown")
	once("huge", `"containerDefinitions":[{"name":"main","image":"`+image+`","memory":99000000}]`)
	huge := AWS[started](l, "ecs", "run-task", "--cluster", cluster, "--task-definition", "huge")
	if len(huge.Tasks) != 0 || len(huge.Failures) != 4 || huge.Failures[0].Reason != "RESOURCE:MEMORY" {
		t.Errorf("a task that fits nowhere: %+v", huge)
	}
	for _, bad := range [][2]string{{"describe-services --services nothing-here --cluster nowhere", "ClusterNotFoundException"}, {"run-task --cluster daemonset --task-definition nothing-here", "ClientException"},
		{"stop-task --cluster daemonset --task 00000000000000000000000000000000", "InvalidParameterException"}, {"create-capacity-provider --name x --auto-scaling-group-provider autoScalingGroupArn=arn:x", "UnsupportedFeatureException"}} {
		if _, stderr, err := l.TryAWS(append([]string{"ecs"}, strings.Fields(bad[0])...)...); err == nil || !strings.Contains(stderr, bad[1]) {
			t.Errorf("aws ecs %s: %v: %s; want %s", bad[0], err, stderr, bad[1])
		}
	}
}

func (l *Lab) walkLostHost(i int, instance string) {
	t := l.t
	t.Helper()
	lost := l.Tasks("--container-instance", ID(instance))
	if len(lost) != 1 {
		t.Fatalf("tasks on the host: %+v", lost)
	}
	l.Cut(i)
	l.Until(30*time.Second, "the host's task is STOPPED", func() error {
		task := l.DescribeTasks(lost[0].TaskArn)[0]
		if task.LastStatus != "STOPPED" {
			return fmt.Errorf("%+v", task)
		}
		if !strings.Contains(task.StoppedReason, "ost") {
			t.Errorf("the reason does not name the host: %s", task.StoppedReason)
		}
		t.Logf("%s", task.StoppedReason)
		return nil
	})
	l.Steady("datadog-agent", 3)
}

func (l *Lab) walkEnd(instance string) {
	t := l.t
	t.Helper()
	if _, stderr, err := l.TryAWS("ecs", "deregister-container-instance", "--cluster", cluster, "--container-instance", ID(instance)); err == nil || !strings.Contains(stderr, "Found running tasks on the instance") {
		t.Errorf("deregistering a busy instance: %v %s", err, stderr)
	}
	l.Do("ecs", "delete-service", "--cluster", cluster, "--service", "datadog-agent")
	l.waited("services-inactive", "datadog-agent")
	l.Until(30*time.Second, "no container of the service runs", func() error {
		for i := 1; i <= 3; i++ {
			if n := len(l.Running(i, "datadog-agent-task")); n != 0 {
				return fmt.Errorf("host %d runs %d", i, n)
			}
		}
		return nil
	})
	l.Do("ecs", "deregister-container-instance", "--cluster", cluster, "--container-instance", ID(instance))
	if got := l.Instances(); len(got) != 2 {
		t.Errorf("instances left: %+v", got)
	}
}
