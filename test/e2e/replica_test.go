package e2e

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/longshore-project/longshore/test/images"
)

// TestAReplicaServiceOnThreeHosts walks through the life of a REPLICA service with the real CLI and real containers.
func TestAReplicaServiceOnThreeHosts(t *testing.T) { onEachEngine(t, aReplicaService) }

func aReplicaService(t *testing.T, engine string) {
	l := NewLabOn(t, engine, "repl"+engine[:1], 97, 3, "--instance-lost-after", "1m", "--replica-healthy-after", "1s")
	good, broken := l.Push("web:1", images.LoggingAgent()), l.Push("web-broken:1", images.Startless())
	l.Do("ecs", "create-cluster", "--cluster-name", cluster)
	for i := 1; i <= 3; i++ {
		if err := l.OnHost(i, "install", "-d", "-o", "1000", "-g", "1000", "/tmp/host/logs").Run(); err != nil {
			t.Fatal(err)
		}
		l.StartAgent(i)
	}
	l.Connected(3)
	l.Do("ecs", "register-task-definition", "--cli-input-json", l.loggingAgent(good, ""))
	l.Do("ecs", "create-service", "--cluster", cluster, "--service-name", "web", "--desired-count", "3", "--task-definition", "datadog-agent-task:1",
		"--deployment-configuration", "deploymentCircuitBreaker={enable=true,rollback=true},maximumPercent=200,minimumHealthyPercent=100")
	l.Steady("web", 3)
	l.waited("services-stable", "web")
	if at := l.spread("web"); len(at) != 3 {
		t.Errorf("three tasks spread over three hosts: %v", at)
	}

	l.Do("ecs", "update-service", "--cluster", cluster, "--service", "web", "--desired-count", "5")
	l.Steady("web", 5)
	l.Do("ecs", "update-service", "--cluster", cluster, "--service", "web", "--desired-count", "2")
	l.Steady("web", 2)
	if at := l.spread("web"); len(at) != 2 {
		t.Errorf("scale-in mirrors placement: %v", at)
	}

	host := slices.Sorted(maps.Keys(l.spread("web")))[0]
	l.Do("ecs", "update-container-instances-state", "--cluster", cluster, "--container-instances", ID(host), "--status", "DRAINING")
	l.Until(60*time.Second, "the drained host is left, and two tasks run elsewhere", func() error {
		if at := l.spread("web"); at[host] != 0 || l.Service("web").RunningCount != 2 {
			return fmt.Errorf("%v", at)
		}
		return nil
	})
	l.Do("ecs", "update-container-instances-state", "--cluster", cluster, "--container-instances", ID(host), "--status", "ACTIVE")

	l.Do("ecs", "register-task-definition", "--cli-input-json", l.loggingAgent(good, ""))
	l.Do("ecs", "update-service", "--cluster", cluster, "--service", "web", "--task-definition", "datadog-agent-task:2")
	l.Until(90*time.Second, "the update is complete, and never fewer than two ran", func() error {
		s := l.Service("web")
		if s.RunningCount < 2 {
			t.Errorf("never below minimumHealthyPercent: %d run", s.RunningCount)
		}
		if len(s.Deployments) != 1 || s.Deployments[0].RolloutState != "COMPLETED" || s.RunningCount != 2 {
			return fmt.Errorf("%+v", s.Deployments)
		}
		return nil
	})

	l.Do("ecs", "register-task-definition", "--cli-input-json", l.loggingAgent(broken, ""))
	l.Do("ecs", "update-service", "--cluster", cluster, "--service", "web", "--task-definition", "datadog-agent-task:3")
	l.Until(120*time.Second, "the circuit breaker rolls back", func() error {
		s := l.Service("web")
		if len(s.Deployments) != 1 || !strings.HasSuffix(s.TaskDefinition, ":2") || s.RunningCount != 2 {
			return fmt.Errorf("%+v", s.Deployments)
		}
		return nil
	})
	if s := l.Service("web"); !slices.ContainsFunc(s.Events, func(e struct{ ID, Message string }) bool {
		return strings.Contains(e.Message, "rolling back to deployment")
	}) {
		t.Errorf("no event tells of it: %+v", s.Events)
	}

	if _, stderr, err := l.TryAWS("ecs", "delete-service", "--cluster", cluster, "--service", "web"); err == nil || !strings.Contains(stderr, "scaled above 0") {
		t.Errorf("deleting a service that is scaled above 0: %v %s", err, stderr)
	}
	l.Do("ecs", "delete-service", "--cluster", cluster, "--service", "web", "--force")
	l.waited("services-inactive", "web")
}

// spread counts a service's tasks by container instance.
func (l *Lab) spread(service string) map[string]int {
	at := map[string]int{}
	for _, task := range l.Tasks("--service-name", service, "--desired-status", "RUNNING") {
		at[task.ContainerInstanceArn]++
	}
	return at
}
