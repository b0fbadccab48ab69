package task

import (
	"fmt"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"

	"github.com/longshore-project/longshore/controlplane/store"
)

// Stop asks for the task's end: desired STOPPED, for the reason given. It returns nil when that was asked before, so the
// first reason stays. The agent stops the containers and reports STOPPED later.
func Stop(t *store.Task, code types.TaskStopCode, reason string, now time.Time) *store.Task {
	if !Wanted(t) || IsStopped(t) {
		return nil
	}
	n := clone(t)
	n.Object.DesiredStatus = aws.String(Stopped)
	n.Object.StopCode = code
	n.Object.StoppedReason = nonEmpty(reason)
	n.Object.StoppingAt = stamp(now)
	n.Object.Version++
	n.AcceptedAt = time.Time{}
	return n
}

// Protected tells whether a service may not stop the task to scale in or to roll out. StopTask, force and the loss of the
// host end it nevertheless.
func Protected(t *store.Task, now time.Time) bool { return now.Before(t.ProtectedUntil) }

// Protect sets until when the task is protected; zero: no longer.
func Protect(t *store.Task, until time.Time) *store.Task {
	n := clone(t)
	n.ProtectedUntil = until
	n.Object.Version++
	return n
}

// Lost makes the task STOPPED without a report of its agent, because the instance is gone: lost, or deregistered by
// force. A reason that was given to Stop before stays. It returns nil for a task that is STOPPED already.
//
// What becomes of its containers is not known: an agent that comes back with the task is told to stop it, for as long as the
// record is there; it stays for long, see [store.PurgeConfig].
func Lost(t *store.Task, code types.TaskStopCode, reason string, now time.Time) *store.Task {
	if IsStopped(t) {
		return nil
	}
	n := clone(t)
	stop(n, code, reason, now)
	n.Unreported = true
	n.Object.Connectivity = types.ConnectivityDisconnected
	n.Object.ConnectivityAt = stamp(now)
	n.Object.Version++
	return n
}

// Reported is the STOPPED task of which its agent has said that it runs no more; nil when that is known.
func Reported(t *store.Task) *store.Task {
	if !t.Unreported || !IsStopped(t) {
		return nil
	}
	n := *t
	n.Unreported = false
	return &n
}

// HostLost is the stoppedReason of tasks whose host was given up after it had been away for a time. It names the host by
// every name it is known by.
func HostLost(inst *store.Instance, away time.Duration) string {
	host := inst.ID
	if ec2 := aws.ToString(inst.Object.Ec2InstanceId); ec2 != "" {
		host = ec2
	}
	return fmt.Sprintf("Host EC2 (instance %s) terminated. Container instance %s was lost: its agent has not been connected for %s.",
		host, inst.ID, away.Round(time.Second))
}

// Deployed is the stoppedReason of a task that a service's deployment no longer wants.
func Deployed(deployment string) string {
	return "Scaling activity initiated by (deployment " + deployment + ")"
}

// SetHealth takes over the health of containers, by name, as an agent sends it over telemetry, and tells whether it changed
// anything. The task is UNHEALTHY if an essential container with a health check is, HEALTHY if all of those are, else
// UNKNOWN. A STOPPED task never changes.
func SetHealth(t *store.Task, def *types.TaskDefinition, health map[string]types.HealthStatus) (*store.Task, bool) {
	if IsStopped(t) {
		return t, false
	}
	n, changed := clone(t), false
	for i := range n.Object.Containers {
		c := &n.Object.Containers[i]
		if s, ok := health[aws.ToString(c.Name)]; ok && s != c.HealthStatus && known(s) {
			c.HealthStatus, changed = s, true
		}
	}
	if !changed {
		return t, false
	}
	n.Object.HealthStatus = overall(n, def)
	n.Object.Version++
	return n, true
}

func known(s types.HealthStatus) bool {
	return s == types.HealthStatusHealthy || s == types.HealthStatusUnhealthy || s == types.HealthStatusUnknown
}

func overall(t *store.Task, def *types.TaskDefinition) types.HealthStatus {
	checked, healthy := 0, 0
	for _, d := range def.ContainerDefinitions {
		c := container(t, aws.ToString(d.Name))
		if c == nil || !decidesHealth(d) {
			continue
		}
		checked++
		switch c.HealthStatus {
		case types.HealthStatusUnhealthy:
			return types.HealthStatusUnhealthy
		case types.HealthStatusHealthy:
			healthy++
		}
	}
	if checked > 0 && healthy == checked {
		return types.HealthStatusHealthy
	}
	return types.HealthStatusUnknown
}

// decidesHealth tells whether the container's health check counts for its task. NONE switches off a check of the image.
func decidesHealth(d types.ContainerDefinition) bool {
	return (d.Essential == nil || *d.Essential) && d.HealthCheck != nil &&
		len(d.HealthCheck.Command) > 0 && d.HealthCheck.Command[0] != "NONE"
}
