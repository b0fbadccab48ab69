package e2e

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestAHungEngineIsSeenAndRecoversByItself stops a host's dockerd, or containerd, in its tracks. The control plane shows the instance impaired
// with the cause, and well again when the engine goes on; nobody did anything to the agent.
func TestAHungEngineIsSeenAndRecoversByItself(t *testing.T) { onEachEngine(t, aHungEngine) }

func aHungEngine(t *testing.T, engine string) {
	l := NewLabOn(t, engine, "hung"+engine[:1], 98, 1)
	l.Do("ecs", "create-cluster", "--cluster-name", cluster)
	l.StartAgent(1)
	instance := ID(l.InstanceOf(1))
	status := func(want, cause string) func() error {
		return func() error {
			out, stderr, err := l.TryAWS("ecs", "describe-container-instances", "--cluster", cluster, "--container-instances", instance, "--include", "CONTAINER_INSTANCE_HEALTH",
				"--query", "containerInstances[0].healthStatus")
			if err != nil {
				return fmt.Errorf("%w: %s", err, stderr)
			}
			if !strings.Contains(out, `"overallStatus": "`+want+`"`) || !strings.Contains(out, cause) {
				return fmt.Errorf("%s", out)
			}
			return nil
		}
	}
	l.Until(90*time.Second, "the instance is well", status("OK", ""))
	process := l.ProcessOn(1, map[string]string{Docker: "dockerd", Containerd: "containerd"}[engine])
	if err := syscall.Kill(process, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = syscall.Kill(process, syscall.SIGCONT) }()
	l.Until(120*time.Second, "the instance is impaired", status("IMPAIRED", ""))
	if err := syscall.Kill(process, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	l.Until(120*time.Second, "the instance is well again", status("OK", ""))
}
