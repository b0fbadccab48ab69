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

// stay is how long a daemon that nobody checks must have stayed RUNNING: a program that ends at once, because of what it is
// configured with, was RUNNING too. It doubles with each failure in a row on the instance. What comes first may take a moment;
// daemons themselves never wait for it.
const stay = 3 * time.Second

// gate is the gate that the daemon holds closed on a host, nil when it is open: the daemon is HEALTHY, or has no check and
// stays RUNNING, does not fit there, or its deployment has failed.
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
		ready, why := d.ready(h, own, def)
		if !now.Before(ready) {
			return nil
		}
		if g.Why = why; ready.Before(until) {
			g.Until = ready
		}
	}
	return g
}

// ready is when a daemon that is RUNNING, and HEALTHY if it has a check, opens its gate, and why not before.
func (d *daemon) ready(h *Host, own *store.Task, def *store.TaskDefinition) (at time.Time, why string) {
	started, joined := aws.ToTime(own.Object.StartedAt), h.Instance.JoinedAt
	if started.Before(joined) {
		at = joined
		if c := d.connection(h.Instance.ID); c != nil && c.Since.After(at) {
			at = c.Since
		}
		at, why = at.Add(settle), "its task "+own.ID+" ran before that, and the agent has not had the time to say otherwise"
	}
	if def != nil && task.Checked(&def.Object) {
		return at, why
	}
	long, f := stay, d.svc.Failures[h.Instance.ID]
	if f.Deployment != own.Deployment {
		f.Count = 0
	}
	for range f.Count {
		long = min(2*long, d.limit)
	}
	if stayed := started.Add(long); stayed.After(at) {
		at, why = stayed, fmt.Sprintf("its task %s is RUNNING and has to stay so for %s, since it has no health check", own.ID, long)
		if f.Count > 0 {
			why += fmt.Sprintf(" and failed %d times here, the last time at %s (%s)", f.Count, f.At.UTC().Format(time.RFC3339), f.Reason)
		}
	}
	return at, why
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
