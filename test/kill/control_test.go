package kill

import (
	"context"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"
)

// TestAControlPlaneThatIsKilledAtAnyStepTouchesNoContainer kills the control plane at every failpoint, and at every pass of
// it, that a host's registration, a DAEMON service and a task go through.
func TestAControlPlaneThatIsKilledAtAnyStepTouchesNoContainer(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "cp", 98)
	w.define("daemon", 1)
	w.startAgent()
	bystander := w.daemon("bystander")
	w.running(bystander)

	restart := func(env string) {
		w.end(w.agent, syscall.SIGTERM)
		w.end(w.control, syscall.SIGTERM)
		w.startControl(env)
		w.startAgent()
	}
	trace := filepath.Join(w.dir, "trace")
	restart("LONGSHORE_FAILPOINT_LOG=" + trace)
	daemonChanges, taskChanges := w.controlWalk("clean")
	restart("")
	steps := passes(t, trace)
	t.Logf("a walk passes %v", steps)

	kills, rounds := 0, 0
	for _, name := range slices.Sorted(maps.Keys(steps)) {
		killed := 0
		for nth := 1; nth <= steps[name]; nth++ {
			rounds++
			w.round(t, fmt.Sprintf("%s:%d", name, nth), func() {
				restart(fmt.Sprintf("LONGSHORE_FAILPOINT=%s:%d", name, nth))
				d, s := w.controlWalk(fmt.Sprintf("round-%d", rounds))
				if d != daemonChanges || s != taskChanges {
					w.t.Errorf("the control plane recorded %d changes of the daemon and %d of the task, and undisturbed %d and %d", d, s, daemonChanges, taskChanges)
				}
				if w.kills == 0 { // what is left is that the agent goes
					w.end(w.agent, syscall.SIGTERM)
					w.disconnected()
				}
				w.running(bystander)
				killed += w.kills
			})
		}
		if killed == 0 {
			t.Errorf("the control plane was never killed at %s", name)
		}
		kills += killed
	}
	if n := len(w.events.of(bystander.arn, "die", "kill", "stop", "restart")); n != 0 {
		t.Errorf("the container beside was touched %d times", n)
	}
	t.Logf("%d kills in %d rounds", kills, rounds)
}

// disconnected waits until the control plane has noted that the agent is gone, or was killed over it.
func (w *world) disconnected() {
	w.t.Helper()
	w.until("the agent's end is noted", func(ctx context.Context) error {
		if w.kills > 0 {
			return nil
		}
		found, err := w.instances(ctx)
		if err == nil && (len(found) != 1 || found[0].AgentConnected) {
			err = errNotYet
		}
		return err
	})
}

// controlWalk is a DAEMON service and a task, each from its creation to its end. It returns how many changes the control
// plane recorded of the daemon's task and of the other.
func (w *world) controlWalk(service string) (daemonChanges, taskChanges int64) {
	w.t.Helper()
	daemon := w.daemon(service)
	w.running(daemon)
	s := w.run("serving")
	w.await(s, "RUNNING")
	w.running(s)
	w.stop(s)
	w.await(s, "STOPPED")
	w.judge(s, true)
	w.running(daemon)
	w.steady(service)
	daemon.stopped = time.Now()
	w.do("DeleteService", func(ctx context.Context) error {
		_, err := w.ecs.DeleteService(ctx, &ecs.DeleteServiceInput{Cluster: aws.String(cluster), Service: &service, Force: aws.Bool(true)})
		return notFoundIsFine(err)
	})
	w.await(daemon, "STOPPED")
	w.judge(daemon, true)
	if n := w.daemons(service); len(n) != 1 {
		w.t.Errorf("the service had %d tasks on one host: %v", len(n), n)
	}
	return daemon.last.Version, s.last.Version
}

// notFoundIsFine takes the answer to a repeated DeleteService.
func notFoundIsFine(err error) error {
	if err != nil && (strings.Contains(err.Error(), "ServiceNotFoundException") || strings.Contains(err.Error(), "ServiceNotActiveException")) {
		return nil
	}
	return err
}

// daemon creates a DAEMON service and waits for its task to be RUNNING.
func (w *world) daemon(service string) *task {
	w.t.Helper()
	token := "token-" + service
	w.do("CreateService", func(ctx context.Context) error {
		_, err := w.ecs.CreateService(ctx, &ecs.CreateServiceInput{Cluster: aws.String(cluster), ServiceName: &service, ClientToken: &token,
			TaskDefinition: aws.String("daemon"), SchedulingStrategy: types.SchedulingStrategyDaemon})
		return err
	})
	s := &task{}
	w.until("the service "+service+" has a task", func(ctx context.Context) error {
		out, err := w.ecs.ListTasks(ctx, &ecs.ListTasksInput{Cluster: aws.String(cluster), ServiceName: &service})
		switch {
		case err != nil:
			return err
		case len(out.TaskArns) > 1:
			return &fatal{fmt.Errorf("it has %d", len(out.TaskArns))}
		case len(out.TaskArns) == 0:
			return errNotYet
		}
		s.arn = out.TaskArns[0]
		return nil
	})
	w.await(s, "RUNNING")
	return s
}

// daemons are all tasks of a service, those that have ended too.
func (w *world) daemons(service string) (arns []string) {
	w.t.Helper()
	for _, status := range []types.DesiredStatus{types.DesiredStatusRunning, types.DesiredStatusStopped} {
		w.do("ListTasks", func(ctx context.Context) error {
			out, err := w.ecs.ListTasks(ctx, &ecs.ListTasksInput{Cluster: aws.String(cluster), ServiceName: &service, DesiredStatus: status})
			if err == nil {
				arns = append(arns, out.TaskArns...)
			}
			return err
		})
	}
	return arns
}

// steady waits until the service runs what it should.
func (w *world) steady(service string) {
	w.t.Helper()
	w.until("the service "+service+" is steady", func(ctx context.Context) error {
		out, err := w.ecs.DescribeServices(ctx, &ecs.DescribeServicesInput{Cluster: aws.String(cluster), Services: []string{service}})
		if err != nil {
			return err
		}
		if len(out.Services) != 1 || out.Services[0].RunningCount != 1 || out.Services[0].DesiredCount != 1 || out.Services[0].PendingCount != 0 {
			return fmt.Errorf("%+v", out.Services)
		}
		return nil
	})
}
