package e2e

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// publishes has one host ask another at the port that a container on it publishes.
func (l *Lab) publishes(image string) {
	l.t.Helper()
	l.Do("ecs", "register-task-definition", "--family", "hello", "--container-definitions", fmt.Sprintf(`[{"name":"main","image":%q,"memory":16,"stopTimeout":2,"portMappings":[{"containerPort":8080}],
		"entryPoint":["/bin/sh","-c"],"command":["while :; do echo hello | nc -l -p 8080; done"]}]`, image))
	instance := l.InstanceOf(1)
	task := AWS[struct{ Tasks []Task }](l, "ecs", "start-task", "--cluster", cluster, "--task-definition", "hello", "--container-instances", instance).Tasks[0]
	task = l.reached(task, "RUNNING")
	if b := task.Containers[0].NetworkBindings; len(b) != 1 || b[0].HostPort == 0 {
		l.t.Fatalf("%+v", task)
	}
	port := strconv.Itoa(task.Containers[0].NetworkBindings[0].HostPort)
	l.Until(30*time.Second, "the published port answers on the other host", func() error {
		out, err := l.OnHost(2, "busybox", "timeout", "5", "busybox", "nc", l.Farm.Address(1), port).Output()
		if err == nil && strings.TrimSpace(string(out)) != "hello" {
			err = fmt.Errorf("it says %q", out)
		}
		return err
	})
	l.Do("ecs", "stop-task", "--cluster", cluster, "--task", task.TaskArn)
	l.reached(task, "STOPPED")
}

// walkKilledContainerd kills host i's containerd and its agent, which come back to the same process.
func (l *Lab) walkKilledContainerd(i int) {
	t := l.t
	t.Helper()
	before := l.processes(i, "datadog-agent-task")
	l.KillAgent(i)
	l.forget(i)
	if err := l.OnHost(i, "sh", "-c", "kill -9 $(cat /run/containerd.pid)").Run(); err != nil {
		t.Fatal(err)
	}
	if err := l.Farm.Engines(t.Context(), i); err != nil {
		t.Fatal(err)
	}
	l.StartAgent(i)
	l.Connected(4)
	l.Steady("datadog-agent", 4)
	if after := l.processes(i, "datadog-agent-task"); after != before || !strings.Contains(before, "pid") {
		t.Errorf("the container's process was %s and is %s", before, after)
	}
}

// processes are those of a family's containers on host i, and since when.
func (l *Lab) processes(i int, family string) string {
	l.t.Helper()
	var all []string
	for _, c := range l.Running(i, family) {
		got, err := l.Seen(i).Inspect(l.t.Context(), c.ID)
		if err != nil {
			l.t.Fatal(err)
		}
		all = append(all, fmt.Sprintf("%s pid %d since %s", c.ID, got.State.Pid, got.State.StartedAt))
	}
	return strings.Join(all, ", ")
}

// walkNoNetwork looks at hosts 1 to n, on which nothing runs any more.
func (l *Lab) walkNoNetwork(n int) {
	l.t.Helper()
	for i := 1; i <= n; i++ {
		l.Until(30*time.Second, fmt.Sprintf("nothing of the network is left on host %d", i), func() error {
			out, _ := l.OnHost(i, "sh", "-c", "ls -A /run/longshore/leases /run/longshore/netns 2>/dev/null | grep -v :$; ip -o link show type veth | grep -v eth0").CombinedOutput()
			if text := strings.Join(strings.Fields(string(out)), " "); text != "" { // a folder that was not needed is not there
				return fmt.Errorf("%q", text)
			}
			return nil
		})
	}
}
