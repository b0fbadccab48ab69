package e2e

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/longshore-project/longshore/test/images"
)

// TestAHostMovesFromOneEngineToTheOtherByDraining has a host with both engines, which keeps its name through both moves. With tasks on it the
// agent does not start on the other engine, and nothing is touched.
func TestAHostMovesFromOneEngineToTheOtherByDraining(t *testing.T) {
	l := NewLabOn(t, Both, "move", 95, 1)
	image := l.Push("serving:1", images.Serving())
	l.Do("ecs", "create-cluster", "--cluster-name", cluster)
	l.startOn(1, Docker)
	l.Connected(1)
	instance := l.InstanceOf(1)
	l.Do("ecs", "register-task-definition", "--family", "agent", "--container-definitions", fmt.Sprintf(`[{"name":"main","image":%q,"memory":16,"stopTimeout":2,"portMappings":[{"containerPort":80,"hostPort":8088}]}]`, image))
	l.Do("ecs", "create-service", "--cluster", cluster, "--service-name", "agent", "--scheduling-strategy", "DAEMON", "--task-definition", "agent")
	l.Steady("agent", 1)
	before := l.processes(1, "agent")

	l.StopAgent(1)
	l.startOn(1, Containerd)
	<-l.agents[1].done // on its own
	said, err := os.ReadFile(l.agents[1].log)
	if err != nil || has(string(said), "ECS_ENGINE is containerd, and 1 tasks of this host are on docker, where they stay: set ECS_ENGINE=docker back and drain the instance") != nil {
		t.Errorf("%v: %s", err, said)
	}
	l.startOn(1, Docker)
	l.Connected(1)
	l.Steady("agent", 1)
	if after := l.processes(1, "agent"); after != before {
		t.Errorf("the daemon was %s and is %s", before, after)
	}

	for _, engine := range []string{Containerd, Docker} {
		other := l.engineOf(1)
		l.drain(instance)
		l.StopAgent(1)
		l.startOn(1, engine)
		l.Connected(1)
		l.Do("ecs", "update-container-instances-state", "--cluster", cluster, "--container-instances", ID(instance), "--status", "ACTIVE")
		l.Steady("agent", 1)
		if now := l.InstanceOf(1); now != instance {
			t.Errorf("the host was %s and is %s", instance, now)
		}
		if n := len(l.Running(1, "agent")); n != 1 {
			t.Errorf("%s runs %d daemons", engine, n)
		}
		left, err := l.SeenOn(1, other).List(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range left {
			if c.State == "running" {
				t.Errorf("%s still runs %+v", other, c)
			}
		}
		if engine == Containerd { // what is found by itself does not change by itself, though Docker's socket comes first
			process := l.processes(1, "agent")
			l.StopAgent(1)
			l.startOn(1, Containerd, "ECS_ENGINE=auto")
			l.Connected(1)
			l.Steady("agent", 1)
			if now := l.processes(1, "agent"); now != process {
				t.Errorf("the daemon was %s and is %s", process, now)
			}
		}
	}
	l.StopAgent(1)
}

// startOn starts host i's agent on one of its engines.
func (l *Lab) startOn(i int, engine string, settings ...string) {
	l.t.Helper()
	l.moved[i] = engine
	l.StartAgent(i, append(append(l.Settings(engine), "ECS_ENGINE="+engine), settings...)...)
}

// drain drains an instance, and waits until it has no task.
func (l *Lab) drain(instance string) {
	l.t.Helper()
	l.Do("ecs", "update-container-instances-state", "--cluster", cluster, "--container-instances", ID(instance), "--status", "DRAINING")
	l.Until(60*time.Second, "the drained host has no task", func() error {
		of := Ask[struct{ ContainerInstances []Instance }](l, "describe-container-instances", "--cluster", cluster, "--container-instances", ID(instance)).ContainerInstances[0]
		if !strings.HasPrefix(of.StatusReason, "Drained: every task is STOPPED") {
			return fmt.Errorf("%+v", of)
		}
		return nil
	})
}
