package scheduler

import (
	"fmt"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"

	"github.com/longshore-project/longshore/controlplane/scheduler/policy"
	"github.com/longshore-project/longshore/controlplane/store"
	"github.com/longshore-project/longshore/controlplane/task"
)

// A DAEMON service that is tagged so is rolled out start-first: on a place that a wave reached, the new task is started
// beside the old one ([store.Task].Beside), and the old one is stopped when the new one is healthy. The new task takes the
// service's slot on the instance over in the transaction that creates it, and the slot names the old one as long as that
// lasts; so there are never more than these two, and never two of one deployment. A new task that fails leaves the old one.
// The images of the new one are prepared before, as they are without the tag: an image that can't be had takes no room. Where
// there is no room for both, replicas are moved if the service is tagged for that too, and that is waited for; else the old one
// is stopped first, as it is without the tag, and an event says what is short.

// SurgeRefusal tells why two tasks of the definition can't be on one instance at a time, for a service with these tags;
// empty: they can, or the service does not ask for it.
func SurgeRefusal(tags []types.Tag, def *types.TaskDefinition) string {
	surge := policy.Surges(tags)
	if surge == policy.NoSurge {
		return ""
	}
	var ports []string
	need := task.Need(def, nil)
	for _, p := range need.PortsTCP {
		ports = append(ports, fmt.Sprintf("%d/tcp", p))
	}
	for _, p := range need.PortsUDP {
		ports = append(ports, fmt.Sprintf("%d/udp", p))
	}
	switch {
	case len(ports) > 0 && def.NetworkMode == types.NetworkModeHost:
		return "its network mode is host and it declares " + strings.Join(ports, ", ")
	case len(ports) > 0:
		return "it has the static host ports " + strings.Join(ports, ", ")
	}
	for _, v := range def.Volumes {
		name := aws.ToString(v.Name)
		if aws.ToBool(v.ConfiguredAtLaunch) {
			return "volume " + name + " can be attached to one task only"
		}
		if surge == policy.SurgeSharing || !outlives(&v) {
			continue
		}
		if by := writer(def, name); by != "" {
			return fmt.Sprintf("container %s writes to volume %s, which both would have; mount it readOnly, or tag the service %s=writable-volumes if two writers do no harm",
				by, name, policy.DaemonSurge)
		}
	}
	return ""
}

// outlives tells whether another task on the host would see the same files.
func outlives(v *types.Volume) bool {
	d := v.DockerVolumeConfiguration
	return v.Host != nil && aws.ToString(v.Host.SourcePath) != "" || d != nil && d.Scope == types.ScopeShared
}

// writer is a container that can write to a volume; empty: none can.
func writer(def *types.TaskDefinition, volume string) string {
	for _, c := range def.ContainerDefinitions {
		for _, m := range c.MountPoints {
			if aws.ToString(m.SourceVolume) == volume && !aws.ToBool(m.ReadOnly) {
				return aws.ToString(c.Name)
			}
		}
	}
	return ""
}

// surges tells whether new tasks of the service are started beside the old ones where there is room.
func (p *pass) surges() bool {
	return policy.Surges(p.svc.Object.Tags) != policy.NoSurge && SurgeRefusal(p.svc.Object.Tags, &p.primary.def.Object) == ""
}

// asked tells whether the place has an old task beside which a new one may be started, if it fits there.
func (p *pass) asked(pl *place) bool {
	return p.surges() && pl.belongs && pl.healthy() && pl.of != p.primary && pl.old == nil && pl.host.Connected && !p.protected(pl)
}

// beside tells whether the new task is to be started beside the old one of a place that a wave reached.
func (p *pass) beside(pl *place) bool { return p.asked(pl) && p.primary.req.Check(pl.host) == nil }

// roomComes tells whether replicas leave a place so that the new task can be started beside the old one, and has them do so.
// It takes no longer than RolloutPatience from the first of them on, when that is not the only way.
func (p *pass) roomComes(pl *place) bool {
	if !p.asked(pl) {
		return false
	}
	since := p.now
	for _, t := range pl.host.Tasks {
		if t.MakesRoomFor == p.name && t.MakesRoomSince.Before(since) {
			since = t.MakesRoomSince
		}
	}
	if p.spare > 0 && !p.notYet(since.Add(p.cfg.RolloutPatience)) {
		return false
	}
	p.plan.waits[pl.id] = true
	return p.makeRoom(pl, p.primary.req)
}

// stopsFirst tells why the old task of a place is stopped before the new one is started, though the service is tagged.
func (p *pass) stopsFirst(pl *place) {
	if policy.Surges(p.svc.Object.Tags) == policy.NoSurge || !pl.healthy() {
		return
	}
	why := SurgeRefusal(p.svc.Object.Tags, &p.primary.def.Object)
	if why == "" {
		refusal := p.primary.req.Check(pl.host)
		if refusal == nil {
			return
		}
		why = refusal.Reason + ": " + refusal.Detail
	}
	p.sayOnce("(service %s) (deployment %s) stops the old task on (container-instance %s) before it starts the new one, since both can't be there: %s.",
		p.name, p.primary.id, pl.id, why)
}

// pair puts a second live task of the service to a place. Of the two, the place's task is the one that is to stay: the one
// started beside the other, unless it is stopping and the other is not.
func (pl *place) pair(t *store.Task) {
	first, second := pl.task, t
	if first.Beside == second.ID {
		first, second = second, first
	}
	if !task.Wanted(second) && task.Wanted(first) {
		first, second = second, first
	}
	pl.task, pl.old = second, first
}

// failedBesides are the newest tasks of the newest deployment that ended beside another one, by the id of that.
func (p *pass) failedBesides() map[string]*store.Task {
	last := map[string]*store.Task{}
	for _, t := range p.tasks {
		if t.Beside != "" && t.Deployment == p.primary.id && task.IsStopped(t) && (last[t.Beside] == nil || newer(t, last[t.Beside])) {
			last[t.Beside] = t
		}
	}
	return last
}

// lastBeside makes a task that failed beside the one that is still there the place's last one: it is what was tried last.
func (p *pass) lastBeside(pl *place, tried map[string]*store.Task) {
	if pl.task == nil || pl.task.Deployment == p.primary.id {
		return
	}
	if last := tried[pl.task.ID]; last != nil {
		pl.last = last
	}
}

// served tells whether a healthy task of the service is there, be it the old one.
func (p *pass) served(pl *place) bool {
	if pl.healthy() {
		return true
	}
	if pl.old == nil {
		return false
	}
	of := p.deployment(pl.old.Deployment)
	return of != nil && task.Healthy(pl.old, &of.def.Object)
}

// handOver ends that a place has two tasks: the old one is stopped when the new one is healthy; the new one, when the old
// one is what should run, when it is not to be replaced by that new one any more, or when its host is being drained.
func (p *pass) handOver() {
	for _, pl := range p.places {
		if pl.old == nil || !task.Wanted(pl.old) || !pl.runs() {
			continue
		}
		drained := aws.ToString(pl.host.Instance.Object.Status) != active
		switch {
		case pl.old.Deployment == p.primary.id, !pl.healthy() && (pl.of != p.primary || drained):
			p.stop(pl, task.Deployed(p.primary.id))
			pl.task, pl.old = pl.old, pl.task
			pl.of = p.deployment(pl.task.Deployment)
		case !pl.belongs && !drained:
			p.stopOld(pl, "Container instance "+pl.id+" no longer satisfies the placement constraints of the service")
		case pl.healthy() && pl.host.Connected && !p.protectedTask(pl.old):
			p.stopOld(pl, task.Deployed(p.primary.id))
		}
	}
}

func (p *pass) stopOld(pl *place, reason string) {
	if t := task.Stop(pl.old, types.TaskStopCodeServiceSchedulerInitiated, reason, p.now); t != nil {
		pl.old = t
		p.plan.stops = append(p.plan.stops, t)
	}
}

// protectedTask tells whether a task may not be replaced now.
func (p *pass) protectedTask(t *store.Task) bool {
	return !t.ProtectedUntil.IsZero() && p.notYet(t.ProtectedUntil)
}

// failedBeside tells whether a new task failed beside the old one, which is still there.
func (p *pass) failedBeside(pl *place) bool {
	return pl.task != nil && pl.of != p.primary && p.surges() && p.failure(pl, p.primary).Count > 0
}
