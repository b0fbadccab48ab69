package scheduler

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"

	"github.com/longshore-project/longshore/controlplane/scheduler/placement"
	"github.com/longshore-project/longshore/controlplane/scheduler/policy"
	"github.com/longshore-project/longshore/controlplane/store"
)

// An update of a REPLICA service that is tagged longshore:prepare-images first has its images made local where its tasks may
// land: on all instances that match, or on the mostPrepared that placement would pick. Until they have answered no task of
// another deployment is stopped for it; what is missing is started all the same. One that FAILED counts as a failed task of
// the deployment and is asked again as such; while no other is READY the roll-out holds. An agent that says nothing for
// Config.PrepareWait is not waited for any longer. A roll-out that has begun is not looked at again (store.Rollout.Prepared).

// mostPrepared is how many instances are asked to have the images of a deployment of a REPLICA service.
const mostPrepared = 20

// preparedness is what the instances that were asked for the images of the primary deployment have said.
type preparedness struct {
	ready, failed, silent []string // ids of instances that an agent is connected from
	waits                 bool     // one of them may still answer in time
	attempt               int32    // the last one of those that failed
	reason                string   // of the first that failed
}

// hopeless tells whether all that is known is that the images can't be had.
func (x *preparedness) hopeless() bool { return !x.waits && len(x.failed) > 0 && len(x.ready) == 0 }

// preparesFirst tells whether images come before the roll-out of the primary deployment.
func (r *replicaPass) preparesFirst() bool {
	return r.cfg.PrepareWait >= 0 && policy.PreparesImages(r.svc.Object.Tags) && !r.svc.Rollouts[r.primary.id].Prepared &&
		r.object(r.primary).RolloutState == types.DeploymentRolloutStateInProgress
}

// preparedness is nil when nobody was asked.
func (r *replicaPass) preparedness() *preparedness {
	var x *preparedness
	for _, id := range slices.Sorted(maps.Keys(r.preparations)) {
		n := r.preparations[id]
		if n.Deployment != r.primary.id {
			continue
		}
		if x == nil {
			x = &preparedness{}
		}
		h := r.find(id)
		switch {
		case h == nil || !h.Connected || aws.ToString(h.Instance.Object.Status) != active:
		case n.Status == store.PreparationReady:
			x.ready = append(x.ready, id)
		case n.Status == store.PreparationFailed:
			if len(x.failed) == 0 {
				x.reason = n.Reason
			}
			x.failed, x.attempt = append(x.failed, id), max(x.attempt, n.Attempt)
		case r.notYet(n.Since.Add(r.cfg.PrepareWait)):
			x.waits = true
		default:
			x.silent = append(x.silent, id)
		}
	}
	return x
}

// countUnpreparedAnywhere counts images that could be had nowhere as tasks that failed, one for each instance.
func (r *replicaPass) countUnpreparedAnywhere() {
	x, rollout := r.preparedness(), r.svc.Rollouts[r.primary.id]
	if x == nil || !r.preparesFirst() || !x.hopeless() || rollout.Unprepared >= x.attempt {
		return
	}
	all := r.svc.Failures[""]
	if all.Deployment == "" {
		all.Seen = r.service.Revision()
	}
	if all.Deployment != r.primary.id {
		all = store.Failure{Deployment: r.primary.id, Seen: all.Seen}
	}
	all.Count += int32(len(x.failed))
	all.Rounds++
	all.Task, all.At, all.NotBefore, all.Reason = fmt.Sprintf("%s%d", unpreparedPrefix, x.attempt), r.now, r.now.Add(r.delay(all.Rounds)), x.reason
	if r.svc.Failures == nil {
		r.svc.Failures = map[string]store.Failure{}
	}
	r.svc.Failures[""] = all
	rollout.Unprepared = x.attempt
	r.setRollout(rollout)
	r.sayOnce("(service %s) (deployment %s) was unable to have the images of its tasks on (container-instance %s); no task is replaced: %s", r.name, r.primary.id, strings.Join(x.failed, ", "), x.reason)
}

func (r *replicaPass) setRollout(rollout store.Rollout) {
	if r.svc.Rollouts == nil {
		r.svc.Rollouts = map[string]store.Rollout{}
	}
	r.svc.Rollouts[r.primary.id] = rollout
}

// prepare has the images of the primary deployment made local before it replaces tasks. It reports whether that has to wait.
func (r *replicaPass) prepare() (wait bool) {
	x, rollout := r.preparedness(), r.svc.Rollouts[r.primary.id]
	if !r.preparesFirst() {
		r.holdNoMore()
		return false
	}
	switch {
	case x == nil:
		return r.askWhereTasksMayLand()
	case rollout.Continued:
	case x.waits:
		return true
	case x.hopeless():
		rollout.Held = fmt.Sprintf("none of the container instances that were asked can have the images, and the tasks that run are kept; container instance %s: %s", x.failed[0], x.reason)
		r.setRollout(rollout)
		if !r.notYet(r.svc.Failures[""].NotBefore) {
			for _, id := range x.failed {
				r.ask(id, x.attempt+1)
			}
		}
		return true
	}
	rollout.Prepared, rollout.Held, rollout.Instances = true, "", x.ready
	r.setRollout(rollout)
	if f := r.svc.Failures[""]; strings.HasPrefix(f.Task, unpreparedPrefix) && len(x.ready) > 0 {
		r.svc.Failures[""] = store.Failure{Deployment: f.Deployment, Seen: f.Seen}
		r.object(r.primary).FailedTasks = 0
	}
	if len(x.silent) > 0 {
		r.say("(service %s) (deployment %s) goes on, though the agents of (container-instance %s) have not said within %s whether the images are there.", r.name, r.primary.id, strings.Join(x.silent, ", "), r.cfg.PrepareWait)
	}
	if len(x.failed) > 0 {
		r.say("(service %s) (deployment %s) goes on, though the images can't be had on (container-instance %s): %s", r.name, r.primary.id, strings.Join(x.failed, ", "), x.reason)
	}
	return false
}

// holdNoMore ends a hold when no images are waited for.
func (r *replicaPass) holdNoMore() {
	if rollout := r.svc.Rollouts[r.primary.id]; rollout.Held != "" {
		rollout.Held = ""
		r.setRollout(rollout)
	}
}

// askWhereTasksMayLand asks for the images of a roll-out that has not begun. It reports whether anybody was asked.
func (r *replicaPass) askWhereTasksMayLand() bool {
	if r.count(func(x *replica) bool { return x.of == r.primary }) > 0 || len(r.replicas) == 0 {
		return false // it has begun, or there is nothing to protect
	}
	ids := r.whereTasksMayLand()
	for _, id := range ids {
		r.ask(id, 1)
	}
	if len(ids) > 0 {
		r.say("(service %s) (deployment %s) has its images made local on %d container instances before it replaces tasks.", r.name, r.primary.id, len(ids))
		return true
	}
	r.sayOnce("(service %s) (deployment %s) replaces tasks without its images being made local before: no container instance that matches has an agent that can do that.", r.name, r.primary.id)
	return false
}

// whereTasksMayLand are the instances that match and whose agents make images local when asked. If they are too many, those
// that placement would pick now come first, then those that have a task of the service.
func (r *replicaPass) whereTasksMayLand() (ids []string) {
	gate := r.look()
	match := map[string]bool{}
	for _, h := range r.hosts {
		match[h.Instance.ID] = prepares(h.Instance) && h.Connected && aws.ToString(h.Instance.Object.Status) == active &&
			r.primary.req.Satisfies(h, nil) == nil && r.primary.req.HasAttributes(h) == nil
	}
	maps.DeleteFunc(match, func(_ string, ok bool) bool { return !ok })
	all := slices.Sorted(maps.Keys(match))
	if len(all) <= mostPrepared {
		return all
	}
	if !gate.IsZero() {
		r.notYet(gate)
	}
	chosen := map[string]bool{}
	picker := r.picker(func(h *placement.Host) *placement.Refusal {
		if match[h.Instance.ID] {
			return nil
		}
		return placement.Refuse(h, "IMAGES", "its agent makes no images local when asked")
	})
	for range r.desired + mostPrepared {
		if h, _ := picker.Pick(); h != nil && len(chosen) < mostPrepared {
			chosen[h.Instance.ID] = true
		}
	}
	for _, x := range r.replicas {
		if id := x.task.Instance; match[id] && len(chosen) < mostPrepared {
			chosen[id] = true
		}
	}
	return slices.Sorted(maps.Keys(chosen))
}

// forgetAnswers drops the preparations that nobody waits for any more.
func (r *replicaPass) forgetAnswers() {
	wait := r.frozen && r.preparesFirst()
	if !wait {
		r.holdNoMore()
	}
	drop := func(n *store.Preparation) bool { return !wait || n.Deployment != r.primary.id }
	for _, id := range slices.Sorted(maps.Keys(r.preparations)) {
		n := r.preparations[id]
		if fresh := n.Revision() == 0 && slices.Contains(r.plan.prepares, n); drop(n) && !fresh {
			r.plan.unprepares = append(r.plan.unprepares, n)
		}
	}
	r.plan.prepares = slices.DeleteFunc(r.plan.prepares, drop)
}

// hasImages tells whether an instance said that it has the images of the target.
func (r *replicaPass) hasImages() func(*placement.Host) bool {
	has := map[string]bool{}
	if rollout := r.svc.Rollouts[r.target.id]; rollout.Prepared {
		for _, id := range rollout.Instances {
			has[id] = true
		}
	}
	return func(h *placement.Host) bool { return has[h.Instance.ID] }
}
