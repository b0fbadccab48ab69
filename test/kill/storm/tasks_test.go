package storm

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/containerd/errdefs"

	"github.com/longshore-project/longshore/engine/enginetest"
	"github.com/longshore-project/longshore/protocol/acs"
)

const (
	clusterArn = "arn:aws:ecs:us-west-2:123456789012:cluster/storm"
	taskPrefix = "arn:aws:ecs:us-west-2:123456789012:task/storm/"
)

// job is a task, and what its processes do.
type job struct {
	*acs.Task
	behaviour map[string]enginetest.Behaviour // by container
	lasts     bool                            // it runs until it is stopped
}

// drawJob makes a random task. Those that last do nothing that would end them.
func drawJob(r *rand.Rand, n int) *job {
	j := &job{behaviour: map[string]enginetest.Behaviour{}, lasts: r.IntN(3) == 0}
	j.Task = &acs.Task{Arn: fmt.Sprintf("%s%06d", taskPrefix, n), TaskClusterArn: clusterArn, DesiredStatus: "RUNNING", Family: fmt.Sprintf("family%d", r.IntN(5)), Version: "1"}
	if r.IntN(4) == 0 {
		j.SchedulingStrategy = "DAEMON"
	}
	for i := range 1 + r.IntN(3) {
		name := fmt.Sprintf("c%d", i)
		c := &acs.Container{Name: name, Image: "app:1", CPU: int64(1 + r.IntN(20)), Memory: 16, Essential: i == 0 || r.IntN(2) == 0, StopTimeout: 2}
		on := ""
		if i > 0 && r.IntN(2) == 0 {
			on = fmt.Sprintf("c%d", r.IntN(i))
		}
		j.Containers = append(j.Containers, c)
		if j.lasts {
			j.behaviour[name] = enginetest.Behaviour{StopAfter: millis(r, 60), Health: "HEALTHY"}
			if on != "" {
				depend(c, on, "START")
			}
		} else {
			j.behaviour[name] = drawBehaviour(r)
			if on != "" {
				depend(c, on, []string{"START", "COMPLETE", "SUCCESS", "HEALTHY"}[r.IntN(4)])
			}
			if r.IntN(15) == 0 {
				c.Image = "gone:1"
			}
		}
		if r.IntN(4) == 0 {
			c.DockerConfig = &acs.DockerConfig{Config: `{"Healthcheck":{"Test":["CMD","true"]}}`}
		}
		if r.IntN(6) == 0 {
			c.RestartPolicy = &acs.RestartPolicy{Enabled: true, RestartAttemptPeriod: 1, IgnoredExitCodes: []int64{3}}
		}
		if r.IntN(8) == 0 {
			c.PortMappings = []*acs.PortMapping{{ContainerPort: int64(80 + i), HostPort: int64(8000 + 10*i + r.IntN(5))}}
		}
	}
	return j
}

func depend(c *acs.Container, on, condition string) {
	c.DependsOn = []*acs.ContainerDependency{{ContainerName: on, Condition: condition}}
}

func drawBehaviour(r *rand.Rand) enginetest.Behaviour {
	b := enginetest.Behaviour{Exits: r.IntN(2) == 0, After: millis(r, 800), ExitCode: r.IntN(4), StopAfter: millis(r, 120), Output: "said\n"}
	switch r.IntN(20) {
	case 0:
		b = enginetest.Behaviour{StartError: fmt.Errorf("exec format error: %w", errdefs.ErrInvalidArgument)}
	case 1:
		b = enginetest.Behaviour{StartError: errors.New("the engine's own trouble")}
	case 2:
		b.OOM, b.Exits = true, true
	case 3:
		b.After = 1100 * time.Millisecond // long enough for a restart policy
	}
	if r.IntN(2) == 0 {
		b.Health = "HEALTHY"
	}
	return b
}

func millis(r *rand.Rand, most int) time.Duration {
	return time.Duration(r.IntN(most)) * time.Millisecond
}
