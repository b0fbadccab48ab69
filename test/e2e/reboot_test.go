package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/docker/docker/api/types/container"

	"github.com/longshore-project/longshore/test/images"
)

// TestThreeHostsRebootedWithoutAControlPlane cuts the power of three hosts while the control plane is away. Their daemons are
// back within seconds of the agents' start, as the same tasks; when the control plane is back none is doubled, and what else
// ran there has ended with the reason.
func TestThreeHostsRebootedWithoutAControlPlane(t *testing.T) {
	onEachEngine(t, threeHostsRebooted)
}

func isHolder(c container.Summary) bool {
	return c.Labels["com.amazonaws.ecs.container-name"] == "~internal~ecs~pause~namespace"
}

func threeHostsRebooted(t *testing.T, engine string) {
	l := NewLabOn(t, engine, "boot"+engine[:1], 97, 3)
	image := l.Push("logging-agent:1", images.LoggingAgent())
	serving := l.Push("serving:1", images.Serving())
	l.Do("ecs", "create-cluster", "--cluster-name", cluster)
	for i := 1; i <= 3; i++ {
		if err := l.OnHost(i, "install", "-d", "-o", "1000", "-g", "1000", "/tmp/host/logs").Run(); err != nil {
			t.Fatal(err)
		}
		l.StartAgent(i)
	}
	l.Do("ecs", "register-task-definition", "--cli-input-json", l.loggingAgent(image, ""))
	l.Do("ecs", "create-service", "--cluster", cluster, "--service-name", "datadog-agent", "--scheduling-strategy", "DAEMON", "--task-definition", "datadog-agent-task:1")
	l.Connected(3)
	l.Do("ecs", "register-task-definition", "--family", "sharing", "--pid-mode", "task", "--container-definitions", fmt.Sprintf(`[{"name":"app","image":"%s","memory":16}]`, serving))
	l.Do("ecs", "create-service", "--cluster", cluster, "--service-name", "sharing", "--scheduling-strategy", "DAEMON", "--task-definition", "sharing")
	l.Steady("datadog-agent", 3)
	l.Steady("sharing", 3)
	daemons := map[string]bool{}
	for _, task := range l.Tasks("--service-name", "datadog-agent") {
		daemons[task.TaskArn] = true
	}
	l.Do("ecs", "register-task-definition", "--family", "job", "--container-definitions", fmt.Sprintf(`[{"name":"job","image":"%s","memory":16}]`, serving))
	l.Do("ecs", "start-task", "--cluster", cluster, "--task-definition", "job", "--container-instances", l.InstanceOf(1))
	l.Until(30*time.Second, "the job runs", func() error {
		if n := len(l.Running(1, "job")); n != 1 {
			return fmt.Errorf("%d", n)
		}
		return nil
	})

	bounded, err := l.Seen(1).Inspect(t.Context(), l.Running(1, "job")[0].ID)
	if err != nil || bounded.HostConfig.LogConfig.Type != "json-file" || bounded.HostConfig.LogConfig.Config["max-size"] != "10m" || bounded.HostConfig.LogConfig.Config["max-file"] != "3" {
		t.Errorf("the job's log is not bounded: %+v %v", bounded.HostConfig.LogConfig, err)
	}

	l.KillControl()
	for i := 1; i <= 3; i++ {
		l.Cut(i)
	}
	for i := 1; i <= 3; i++ {
		if err := l.Farm.Boot(t.Context(), i); err != nil {
			t.Fatal(err)
		}
		if i == 2 { // of one task the container that holds its namespaces does not outlive the cut
			holder := slices.IndexFunc(l.Containers(i, "sharing"), isHolder)
			if err := l.Seen(i).Remove(t.Context(), l.Containers(i, "sharing")[holder].ID); err != nil {
				t.Fatal(err)
			}
		}
		begun := time.Now()
		l.StartAgent(i)
		l.Until(30*time.Second, fmt.Sprintf("host %d's daemon runs", i), func() error {
			if n := len(l.Running(i, "datadog-agent-task")); n != 1 {
				return fmt.Errorf("%d run", n)
			}
			return nil
		})
		t.Logf("host %d: the daemon ran %v after the agent's start", i, time.Since(begun).Round(time.Millisecond))
	}
	started := map[int]string{}
	for i := 1; i <= 3; i++ {
		started[i] = l.Running(i, "datadog-agent-task")[0].ID
	}
	for i := 1; i <= 3; i++ {
		l.Until(30*time.Second, fmt.Sprintf("on host %d both containers that share a namespace run", i), func() error {
			if n, all := len(l.Running(i, "sharing")), len(l.Containers(i, "sharing")); n != 2 || all != 2 {
				return fmt.Errorf("%d of %d run", n, all)
			}
			return nil
		})
	}
	if n := len(l.Running(1, "job")); n != 0 {
		t.Errorf("the job was started again: %d", n)
	}

	l.StartControl()
	l.Connected(3)
	l.Steady("datadog-agent", 3)
	l.Steady("sharing", 3)
	for _, task := range l.Tasks("--service-name", "datadog-agent") {
		if !daemons[task.TaskArn] || task.LastStatus != "RUNNING" {
			t.Errorf("task %s (%s) is not one of those that ran before the reboot", task.TaskArn, task.LastStatus)
		}
	}
	for i := 1; i <= 3; i++ {
		cs := l.Running(i, "datadog-agent-task")
		if len(cs) != 1 || cs[0].ID != started[i] {
			t.Errorf("host %d runs %d daemons", i, len(cs))
		}
	}
	l.Until(30*time.Second, "the job is reported STOPPED with the reason", func() error {
		tasks := l.Tasks("--desired-status", "STOPPED", "--family", "job")
		if len(tasks) != 1 || tasks[0].LastStatus != "STOPPED" || !strings.Contains(tasks[0].StoppedReason, "the host was rebooted") {
			return fmt.Errorf("%+v", tasks)
		}
		return nil
	})
}
