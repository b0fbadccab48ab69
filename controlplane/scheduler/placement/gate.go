package placement

import (
	"fmt"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"

	"github.com/longshore-project/longshore/controlplane/store"
	"github.com/longshore-project/longshore/controlplane/task"
)

// Gate is a daemon that belongs on an instance which joined, or whose agent registered again as after a reboot, and does
// not run there yet. Until it does, and at the latest until Until, the instance takes no task that is not a daemon, but for
// those that StartTask sends there by name.
type Gate struct {
	Service string
	Why     string // what the daemon is doing, for a person
	Until   time.Time
}

// settle is how long after an agent is back its word about a daemon that ran before is waited for: after a reboot the daemon
// does not run any more, but the control plane learns that only then.
const settle = 5 * time.Second

// gate is the gate that the daemon holds closed on a host, nil when it is open: the daemon runs (and is HEALTHY if it has a
// check), does not fit there, or its deployment has failed.
func (d *daemon) gate(h *Host, own *store.Task, until, now time.Time) *Gate {
	g := &Gate{Service: d.req.Service, Until: until}
	if own == nil {
		if d.failed(aws.ToString(d.primary().Id)) || d.req.run(h, cpuFilter, gateFilter) != nil {
			return nil
		}
		g.Why = "it is not placed yet"
		if f, ok := d.svc.Failures[h.Instance.ID]; ok {
			g.Why = fmt.Sprintf("it failed %d times here, the last time at %s (%s)", f.Count, f.At.UTC().Format(time.RFC3339), f.Reason)
		}
		return g
	}
	def := d.definition(aws.ToString(own.Object.TaskDefinitionArn))
	switch {
	case d.failed(own.Deployment):
		return nil
	case !task.Wanted(own):
		g.Why = "its task " + own.ID + " is being stopped"
	case task.LastStatus(own) != task.Running:
		g.Why = "its task " + own.ID + " is " + task.LastStatus(own)
	case def != nil && !task.Healthy(own, &def.Object):
		g.Why = fmt.Sprintf("its task %s is RUNNING and its health is %s", own.ID, own.Object.HealthStatus)
	default:
		joined := h.Instance.JoinedAt
		if !aws.ToTime(own.Object.StartedAt).Before(joined) {
			return nil
		}
		back := joined
		if c := d.connection(h.Instance.ID); c != nil && c.Since.After(back) {
			back = c.Since
		}
		if back = back.Add(settle); !now.Before(back) {
			return nil
		}
		if back.Before(until) {
			g.Until = back
		}
		g.Why = "its task " + own.ID + " ran before that, and the agent has not had the time to say otherwise"
	}
	return g
}

func (d *daemon) primary() (none types.Deployment) {
	for _, o := range d.svc.Object.Deployments {
		if aws.ToString(o.Status) == "PRIMARY" {
			return o
		}
	}
	return none
}

func (d *daemon) failed(deployment string) bool {
	for _, o := range d.svc.Object.Deployments {
		if aws.ToString(o.Id) == deployment {
			return o.RolloutState == types.DeploymentRolloutStateFailed
		}
	}
	return false
}

// Detail tells what the gate waits for, for a person.
func (g *Gate) Detail(joined time.Time) string {
	return fmt.Sprintf("it joined at %s and the daemon of service %s comes first: %s; other tasks are placed as soon as that runs, and from %s on in any case",
		joined.UTC().Format(time.RFC3339), g.Service, g.Why, g.Until.UTC().Format(time.RFC3339))
}

// gates is the filter that keeps tasks off an instance whose daemons do not run yet.
func gates(_ *Request, h *Host) *Refusal {
	if len(h.Gates) == 0 {
		return nil
	}
	var details []string
	for _, g := range h.Gates {
		details = append(details, g.Detail(h.Instance.JoinedAt))
	}
	return &Refusal{Reason: ReasonDaemon, Detail: strings.Join(details, "; "), Short: int64(len(h.Gates))}
}
