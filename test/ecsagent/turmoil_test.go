package ecsagent_test

import (
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"

	"github.com/longshore-project/longshore/test/ecsagent"
)

// What no host may ever see, whatever fails when: two daemons of one service at a time. And when all is calm again, each
// has one, of the newest revision, and the control plane knows that one.
func TestInTurmoilNoMachineEverRunsTwoDaemonsAndInTheEndEachHasOne(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	p := newPlane(t)
	p.cluster("daemonset")
	agents := make([]*agent, 4)
	for i := range agents {
		agents[i] = p.join(func(c *ecsagent.Config) {
			c.Timers.MaxAge, c.Timers.MaxAgeJitter = 700*time.Millisecond, 500*time.Millisecond
			var n atomic.Int64
			c.Lose = func(e ecsagent.Entry) bool { // every fifth ack of a payload or a manifest
				return e.Type == "AckRequest" && n.Add(1)%5 == 0
			}
		})
	}
	for _, a := range agents {
		p.connected(a)
	}
	p.daemon("logging-agent", p.define("logging"))
	revision := 1
	pause := time.NewTicker(80 * time.Millisecond)
	defer pause.Stop()
	for range 40 {
		<-pause.C
		a := agents[random.IntN(len(agents))]
		switch random.IntN(8) {
		case 0, 1:
			a.Stop()
			a.restart()
		case 2, 3, 4:
			for _, c := range a.Containers("") {
				if c.Running {
					a.Kill(c.Task, c.Name, random.IntN(256))
				}
			}
		case 5:
			p.state(a, types.ContainerInstanceStatusDraining)
		case 6:
			revision++
			p.define("logging")
			must(p.admin.UpdateService(t.Context(), &ecs.UpdateServiceInput{Cluster: aws.String("daemonset"), Service: aws.String("logging-agent"), TaskDefinition: aws.String("logging")}))(t)
		case 7:
			p.stop()
			p.start()
		}
	}
	for _, a := range agents {
		p.state(a, types.ContainerInstanceStatusActive)
	}
	p.patience = 3 * patience // replacements of what failed come with growing delay
	for i, a := range agents {
		task := p.settled(a, fmt.Sprintf("logging:%d", revision))
		p.until("one container", func() bool { return a.Running() == 1 })
		for _, c := range a.Containers("") {
			if c.Running && c.Task != aws.ToString(task.TaskArn) {
				t.Errorf("machine %d runs %s, and the control plane knows %s", i, c.Task, aws.ToString(task.TaskArn))
			}
		}
		running := 0
		for _, e := range a.Journal() {
			switch e.Kind {
			case ecsagent.Started:
				running++
			case ecsagent.Exited:
				running--
			}
			if running > 1 {
				t.Errorf("machine %d runs %d daemons at %s", i, running, e.At)
			}
		}
	}
}

func (p *plane) state(a *agent, s types.ContainerInstanceStatus) {
	p.Helper()
	must(p.admin.UpdateContainerInstancesState(p.Context(), &ecs.UpdateContainerInstancesStateInput{Cluster: aws.String("daemonset"), ContainerInstances: []string{a.InstanceARN()}, Status: s}))(p.T)
}
