package kill

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"
)

// TestAnAgentThatIsKilledAtAnyStepRunsEachTaskOnce kills the agent at every failpoint that the start and the end of a task
// pass, at every pass of it.
func TestAnAgentThatIsKilledAtAnyStepRunsEachTaskOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "ag", 97)
	join, walk := filepath.Join(w.dir, "join.trace"), filepath.Join(w.dir, "walk.trace")
	w.startAgent("LONGSHORE_FAILPOINT_LOG=" + join)
	w.joined()
	w.end(w.agent, syscall.SIGTERM)
	w.startAgent("LONGSHORE_FAILPOINT_LOG=" + walk)
	clean := w.agentWalk()
	w.removed(clean)
	w.said("the task is forgotten")
	w.end(w.agent, syscall.SIGTERM)
	joins, steps := passes(t, join), passes(t, walk)
	t.Logf("joining passes %v, a task %v", joins, steps)

	kills, points := 0, 0
	for _, name := range slices.Sorted(maps.Keys(steps)) {
		for nth := 1; nth <= steps[name]; nth++ {
			points++
			w.round(t, fmt.Sprintf("%s:%d", name, nth), func() {
				w.startAgent(fmt.Sprintf("LONGSHORE_FAILPOINT=%s:%d", name, nth))
				s := w.agentWalk()
				if w.kills == 0 {
					w.removed(s)
				}
				if w.kills == 0 && !w.killed(2*time.Second) && nth == 1 {
					w.t.Errorf("the failpoint was not passed")
				}
				if s.last.Version != clean.last.Version {
					w.t.Errorf("the control plane recorded %d changes, and undisturbed %d; seen: %v", s.last.Version, clean.last.Version, s.statuses)
				}
				kills += w.kills
				w.end(w.agent, syscall.SIGTERM)
			})
		}
	}
	w.startAgent()
	w.nothingLeft() // a host that joins anew keeps what another instance has left
	w.end(w.agent, syscall.SIGTERM)
	for _, name := range slices.Sorted(maps.Keys(joins)) {
		points++
		w.round(t, "join/"+name, func() {
			w.leave()
			w.startAgent("LONGSHORE_FAILPOINT=" + name)
			w.joined()
			w.until("the failpoint is passed", func(context.Context) error {
				if w.kills == 0 {
					return errNotYet
				}
				return nil
			})
			w.joined()
			kills += w.kills
			w.end(w.agent, syscall.SIGTERM)
		})
	}
	w.startAgent()
	w.nothingLeft()
	t.Logf("%d kills at %d failpoints", kills, points)
}

// killed waits for the agent to be killed, and starts it again.
func (w *world) killed(limit time.Duration) bool {
	w.t.Helper()
	select {
	case <-w.agent.ended:
		w.revive()
		return true
	case <-time.After(limit):
		return false
	}
}

// round is a subtest inside the same world.
func (w *world) round(t *testing.T, name string, f func()) {
	t.Helper()
	ok := t.Run(name, func(t *testing.T) {
		outer := w.t
		w.t = t
		w.kills = 0
		w.begin()
		defer func() {
			if t.Failed() {
				w.dump()
			}
			w.t = outer
		}()
		f()
	})
	if !ok {
		w.end(w.agent, syscall.SIGKILL) // the next round begins as usual
	}
}

// agentWalk is a task's whole life.
func (w *world) agentWalk() *task {
	w.t.Helper()
	s := w.run("serving")
	w.await(s, "RUNNING")
	w.running(s)
	w.stop(s)
	w.await(s, "STOPPED")
	w.judge(s, true)
	if reason := aws.ToString(s.last.StoppedReason); reason != walkOver {
		w.t.Errorf("stoppedReason is %q", reason)
	}
	return s
}

// joined waits until exactly one container instance is ACTIVE and connected.
func (w *world) joined() {
	w.t.Helper()
	w.until("the host is a container instance", func(ctx context.Context) error {
		found, err := w.instances(ctx)
		switch {
		case err != nil:
			return err
		case len(found) > 1:
			return &fatal{fmt.Errorf("the host is %d container instances", len(found))}
		case len(found) == 0 || !found[0].AgentConnected:
			return errNotYet
		}
		return nil
	})
}

func (w *world) instances(ctx context.Context) ([]types.ContainerInstance, error) {
	listed, err := w.ecs.ListContainerInstances(ctx, &ecs.ListContainerInstancesInput{Cluster: aws.String(cluster)})
	if err != nil || len(listed.ContainerInstanceArns) == 0 {
		return nil, err
	}
	out, err := w.ecs.DescribeContainerInstances(ctx, &ecs.DescribeContainerInstancesInput{Cluster: aws.String(cluster), ContainerInstances: listed.ContainerInstanceArns,
		Include: []types.ContainerInstanceField{types.ContainerInstanceFieldContainerInstanceHealth}})
	if err != nil {
		return nil, err
	}
	return out.ContainerInstances, nil
}

// leave takes the host, whose agent is not running, out of the cluster, and what it remembers away.
func (w *world) leave() {
	w.t.Helper()
	w.do("DeregisterContainerInstance", func(ctx context.Context) error {
		found, err := w.instances(ctx)
		if err != nil {
			return err
		}
		for _, i := range found {
			if _, err := w.ecs.DeregisterContainerInstance(ctx, &ecs.DeregisterContainerInstanceInput{Cluster: aws.String(cluster), ContainerInstance: i.ContainerInstanceArn, Force: aws.Bool(true)}); err != nil {
				return err
			}
		}
		return nil
	})
	if err := os.RemoveAll(w.farm.Disk(1, dataDir)); err != nil {
		w.t.Fatal(err)
	}
}

// nothingLeft waits until the engine has no container of a task any more: what was killed on the way is cleaned up after all.
func (w *world) nothingLeft(but ...*task) {
	w.t.Helper()
	w.until("every container is removed", func(context.Context) error {
		w.events.mu.Lock()
		defer w.events.mu.Unlock()
		left := map[string]bool{}
		for arn, list := range w.events.byTask {
			if slices.ContainsFunc(but, func(s *task) bool { return s.arn == arn }) {
				continue
			}
			for _, e := range list {
				switch e.Action {
				case "create":
					left[e.Container] = true
				case "destroy":
					delete(left, e.Container)
				}
			}
		}
		if len(left) > 0 {
			return fmt.Errorf("%d are left", len(left))
		}
		return nil
	})
}
