package scheduler

import (
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"

	"github.com/longshore-project/longshore/controlplane/store"
)

// breaking is how a reason begins that the circuit breaker gave.
const breaking = "ECS deployment circuit breaker: "

// breakCircuit ends a deployment as FAILED whose tasks failed as often in a row as its circuit breaker allows, and with
// rollback makes the newest COMPLETED one PRIMARY again. It tells whether there is another PRIMARY now.
func (p *pass) breakCircuit(desired int) bool {
	o := p.object(p.primary)
	var breaker *types.DeploymentCircuitBreaker
	if c := p.svc.Object.DeploymentConfiguration; c != nil {
		breaker = c.DeploymentCircuitBreaker
	}
	if breaker == nil || !breaker.Enable || o.RolloutState != types.DeploymentRolloutStateInProgress || int(o.FailedTasks) < threshold(breaker, desired) {
		return false
	}
	now := aws.Time(p.now.UTC().Truncate(time.Millisecond))
	o.RolloutState, o.UpdatedAt = types.DeploymentRolloutStateFailed, now
	o.RolloutStateReason = aws.String(breaking + "tasks failed to start.")
	p.say("(service %s) (deployment %s) deployment failed: tasks failed to start.", p.name, p.primary.id)
	if !breaker.Rollback || p.base == nil || p.base.object.RolloutState != types.DeploymentRolloutStateCompleted {
		return false
	}
	RollBack(p.svc, breaking, p.now)
	p.say("(service %s) (deployment %s) rolling back to deployment %s.", p.name, p.primary.id, p.base.id)
	return true
}

// BreakerThreshold is how many failures in a row a circuit breaker allows a service of this desired count.
func BreakerThreshold(b *types.DeploymentCircuitBreaker, desired int) int {
	return threshold(b, desired)
}

// threshold is how many failures in a row a circuit breaker allows.
func threshold(b *types.DeploymentCircuitBreaker, desired int) int {
	kind, value := types.ThresholdTypeBoundedPercent, 50
	if t := b.ThresholdConfiguration; t != nil {
		kind, value = t.Type, int(t.Value)
	}
	percent := (desired*value + 99) / 100
	switch kind {
	case types.ThresholdTypeCount:
		return max(value, 1)
	case types.ThresholdTypeUnboundedPercent:
		return max(percent, 1)
	}
	return min(max(percent, 3), 200)
}

// resets tells whether a healthy task ends the circuit breaker's count.
func (p *pass) resets() bool {
	c := p.svc.Object.DeploymentConfiguration
	return c == nil || c.DeploymentCircuitBreaker == nil || c.DeploymentCircuitBreaker.ResetOnHealthyTask == nil || *c.DeploymentCircuitBreaker.ResetOnHealthyTask
}

// tally counts a failure of a DAEMON service's deployment for a circuit breaker whose count no healthy task ends.
func (p *pass) tally(deployment string) {
	if p.svc.Rollouts == nil {
		p.svc.Rollouts = map[string]store.Rollout{}
	}
	rollout := p.svc.Rollouts[deployment]
	rollout.Failed++
	p.svc.Rollouts[deployment] = rollout
}

// desired is on how many instances the service belongs.
func (p *pass) desired() int {
	n := p.calm.belong()
	for _, pl := range p.places {
		if pl.belongs {
			n++
		}
	}
	return n
}

// reasonOf is why a deployment is in the state it is.
func (p *pass) reasonOf(o *types.Deployment) string {
	id, before := aws.ToString(o.Id), aws.ToString(o.RolloutStateReason)
	switch o.RolloutState {
	case types.DeploymentRolloutStateCompleted:
		return "ECS deployment " + id + " completed."
	case types.DeploymentRolloutStateFailed:
		return before
	}
	reason := "ECS deployment " + id + " in progress."
	if strings.HasPrefix(before, breaking) {
		reason, _, _ = strings.Cut(before, " It holds: ")
	}
	if held := p.svc.Rollouts[id].Held; held != "" {
		reason += " It holds: " + held
	}
	return reason
}
