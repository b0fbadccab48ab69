package scheduler

import (
	"fmt"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"

	"github.com/longshore-project/longshore/controlplane/store"
	"github.com/longshore-project/longshore/controlplane/task"
)

// A mirror follows the records of a store, to say of each transaction that places tasks of the REPLICA service web what it
// breaks: it is held against what was true when it was written, and not when it was decided.
type mirror struct {
	web       *store.Service
	tasks     map[string]*store.Task // of web, not STOPPED
	instances map[string]*store.Instance
	gate      time.Duration // of the DAEMON service agent, shorter than what it must stay RUNNING for; 0: there is none
	needs     int64         // MiB that the agent needs at most
}

// follow takes the changes of one transaction over, and tells what they break.
func (m *mirror) follow(changes []store.Change) (wrong []string) {
	if m.tasks == nil {
		m.tasks, m.instances = map[string]*store.Task{}, map[string]*store.Instance{}
	}
	free := map[string]int64{} // before
	var placed []*store.Task
	for _, c := range changes {
		if old, ok := c.Old.(*store.Allocation); ok && old != nil {
			free[old.Instance] = 1024
			for _, r := range old.Tasks {
				free[old.Instance] -= r.Memory
			}
		}
		switch n := c.New.(type) {
		case *store.Service:
			if aws.ToString(n.Object.ServiceName) == "web" {
				m.web = n
			}
		case *store.Instance:
			m.instances[n.ID] = n
		case *store.Task:
			if n.Service != "web" {
				continue
			}
			if task.IsStopped(n) {
				delete(m.tasks, n.ID)
				continue
			}
			if m.tasks[n.ID] == nil {
				placed = append(placed, n)
			}
			m.tasks[n.ID] = n
		}
	}
	if len(placed) == 0 || m.web == nil {
		return nil
	}
	wanted, most := 0, int(m.web.Object.DesiredCount*maximumOf(m.web)/100)
	for _, t := range m.tasks {
		if task.Wanted(t) {
			wanted++
		}
	}
	if wanted > most {
		wrong = append(wrong, fmt.Sprintf("never more than maximumPercent: %d tasks, desired %d, at most %d", wanted, m.web.Object.DesiredCount, most))
	}
	for _, t := range placed {
		inst := m.instances[t.Instance]
		if inst == nil || m.gate == 0 || free[t.Instance] < m.needs {
			continue
		}
		if young := aws.ToTime(t.Object.CreatedAt).Sub(inst.JoinedAt); young < m.gate {
			wrong = append(wrong, fmt.Sprintf("no replica before a matching daemon within the limit: %s got one %s after it joined", t.Instance, young))
		}
	}
	return wrong
}

func maximumOf(svc *store.Service) int32 {
	if c := svc.Object.DeploymentConfiguration; c != nil && c.MaximumPercent != nil {
		return *c.MaximumPercent
	}
	return 200
}

// gated is a DAEMON service whose gate keeps replicas off for a while.
func gated(limit time.Duration) func(*types.Service) {
	return func(o *types.Service) {
		o.Tags = append(o.Tags, types.Tag{Key: aws.String("longshore:daemon-gate"), Value: aws.String(limit.String())})
	}
}
