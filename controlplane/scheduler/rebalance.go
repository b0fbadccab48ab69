package scheduler

import (
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"

	"github.com/longshore-project/longshore/controlplane/scheduler/placement"
	"github.com/longshore-project/longshore/controlplane/store"
)

// zone is a host's availability zone, empty when it has none.
func zone(h *placement.Host) string {
	if h == nil {
		return ""
	}
	z, _ := h.Attribute(strings.TrimPrefix(placement.ZoneField, "attribute:"))
	return z
}

// RebalancesZones tells whether availability-zone rebalancing is possible for a service of these strategies and
// percentages: with no strategy or one that first spreads over availability zones, and room to start a task before one is
// stopped.
func RebalancesZones(strategies []types.PlacementStrategy, maximumPercent int32) bool {
	if maximumPercent <= 100 {
		return false
	}
	return len(strategies) == 0 || strategies[0].Type == types.PlacementStrategyTypeSpread && aws.ToString(strategies[0].Field) == placement.ZoneField
}

// ahead is 1 while the task that was started to balance zones is on its way, and ends that otherwise.
func (r *replicaPass) ahead() int {
	rollout := r.svc.Rollouts[r.primary.id]
	if rollout.Ahead == "" {
		return 0
	}
	if r.count(func(x *replica) bool { return x.task.ID == rollout.Ahead && r.keeper(x) && !isHealthy(x) }) == 1 {
		return 1
	}
	r.noneAhead()
	return 0
}

// noneAhead forgets the task that is ahead.
func (r *replicaPass) noneAhead() {
	if rollout := r.svc.Rollouts[r.primary.id]; rollout.Ahead != "" {
		rollout.Ahead = ""
		r.svc.Rollouts[r.primary.id] = rollout
	}
}

// rebalance starts one task in an availability zone that has at least two fewer than another, when all is well otherwise.
// When it is healthy the surplus one is stopped, in the zone with the most.
func (r *replicaPass) rebalance() {
	c := r.svc.Object.DeploymentConfiguration
	if r.svc.Object.AvailabilityZoneRebalancing != types.AvailabilityZoneRebalancingEnabled || c == nil || !RebalancesZones(r.svc.Object.PlacementStrategy, aws.ToInt32(c.MaximumPercent)) {
		return
	}
	if r.target != r.primary || r.object(r.primary).RolloutState != types.DeploymentRolloutStateCompleted || r.stopping > 0 ||
		r.wanted() != r.desired || r.upper <= r.desired || r.count(func(x *replica) bool { return r.keeper(x) && isHealthy(x) }) != r.desired {
		return
	}
	if f := r.svc.Failures[""]; f.Deployment == r.primary.id && r.notYet(f.NotBefore) {
		return
	}
	counts := map[string]int{}
	for z := range r.zones() {
		counts[z] = 0
	}
	for z, n := range r.restingZones {
		counts[z] += n
	}
	for _, x := range r.replicas {
		if x.stands == 0 {
			counts[zone(x.host)]++
		}
	}
	most, light := 0, 0
	for _, n := range counts {
		most = max(most, n)
	}
	for _, n := range counts {
		if n <= most-2 {
			light++
		}
	}
	if light == 0 {
		return
	}
	gate := r.look()
	picker := r.picker(func(h *placement.Host) *placement.Refusal {
		if counts[zone(h)] <= most-2 {
			return nil
		}
		return placement.Refuse(h, "ZONE", "its availability zone has its share of the tasks")
	})
	if !r.startOne(picker) {
		if !gate.IsZero() {
			r.notYet(gate)
		}
		for _, refusal := range picker.Refusals() {
			if counts[zone(refusal.Host)] <= most-2 {
				r.plan.waits[refusal.Host.Instance.ID] = true
			}
		}
		return
	}
	if r.svc.Rollouts == nil {
		r.svc.Rollouts = map[string]store.Rollout{}
	}
	r.svc.SteadySince = time.Time{}
	rollout := r.svc.Rollouts[r.primary.id]
	rollout.Ahead = r.replicas[len(r.replicas)-1].task.ID
	r.svc.Rollouts[r.primary.id] = rollout
}
