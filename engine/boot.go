package engine

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"
)

// The boot id of the kernel tells a reboot of the host from a restart of the agent. Each start is on record with the boot
// in which it was ordered, so that a process of another boot is known to be gone whatever the container engine says, and
// however often the agent was started since.
//
// A reboot is the end of a task, and is reported as that. A daemon is another thing: it belongs to the host as long as the
// control plane does not say otherwise, and the control plane may be away when the host comes up. With
// Config.ResumeDaemons its containers are started again in place, from the images that are there; one that is no longer on
// the engine is made again from the record. It stays the same task with the same ARN, so that nothing is doubled when the
// control plane is back. A container that is bound to another one of its task (its namespaces, network, volumes or links) is bound to
// that very container: where that one had to be made again, it is removed and made again, too.

// schedulingDaemon is the scheduling strategy whose tasks are daemons.
const schedulingDaemon = "DAEMON"

// rebooted reports whether a container's last process was ended by a reboot of the host.
func (v *view) rebooted(cr *ContainerRecord, co *ContainerObserved) bool {
	return v.bygone(cr) && co.ended() && performed(cr, co.State)
}

// resumes reports whether what a reboot ended is started again.
func (v *view) resumes() bool { return v.set.ResumeDaemons && v.t.Daemon && !v.stopping() }

// rebootReason is why a container that is not started again has ended.
func (v *view) rebootReason(cr *ContainerRecord) string {
	return fmt.Sprintf("HostRebootedError: the host was rebooted, which ended the container (it was started in boot %s, and this is boot %s)", cr.Intent.Boot, v.set.Boot)
}

// accountFor keeps the boot of a process that runs although it was started in another boot: something else started it.
func (v *view) accountFor(cr *ContainerRecord, co *ContainerObserved) {
	if i := cr.Intent; i != nil && i.Boot != "" && v.set.Boot != "" && i.Boot != v.set.Boot && co.alive() && performed(cr, co.State) {
		again := *i
		again.Boot = v.set.Boot
		cr.Intent = &again
	}
}

// bygone reports whether the last start of a container was ordered in an earlier boot, and nothing of it is known to run in this one.
func (v *view) bygone(cr *ContainerRecord) bool {
	return v.set.Boot != "" && cr.Intent != nil && cr.Intent.Boot != "" && cr.Intent.Boot != v.set.Boot
}

// joinsOf are the names of those containers, in their present attempts, to which a container is bound when it is made.
func joinsOf(t *Task, rec *TaskRecord, c *Container) (names []string) {
	join := func(container string) {
		if rec.container(container) != nil {
			names = append(names, nameOf(t, rec, container))
		}
	}
	if c.hostConfig.PidMode == modeTask || c.hostConfig.IpcMode == modeTask {
		join(pauseName)
	}
	if c.NetworkMode == modeAwsvpc {
		join(networkPause)
	}
	for _, link := range c.payload.Links {
		name, _, _ := strings.Cut(link, ":")
		join(name)
	}
	for _, from := range c.payload.VolumesFrom {
		join(from.SourceContainer)
	}
	return names
}

// unbound reports whether a container is bound to one that is no longer its task's, so that it can't run any more.
func (v *view) unbound(co *ContainerObserved) bool {
	var l taskLabel
	if v.rec.Rebuilt || json.Unmarshal([]byte(co.State.Labels[LabelTask]), &l) != nil {
		return false
	}
	return slices.ContainsFunc(l.Joins, func(name string) bool {
		return !slices.ContainsFunc(v.rec.Containers, func(cr *ContainerRecord) bool { return nameOf(v.t, v.rec, cr.Name) == name })
	})
}

// lostInReboot reports whether a container that is no longer on the engine belongs to a daemon which a reboot ended, so that it
// is made again: the engine's disk did not outlive the reboot, or something cleaned it up.
func (v *view) lostInReboot(cr *ContainerRecord) bool {
	return v.bygone(cr) && cr.Fault == "" && !v.rec.Rebuilt && v.resumes()
}

// makeAgain begins another attempt at a container. The control plane hears of it when it runs.
func (v *view) makeAgain(cr *ContainerRecord) {
	cr.Attempt++
	cr.RuntimeName, cr.EndpointID = "", ""
	cr.Restarts++
	cr.Intent, cr.RuntimeID, cr.StartedAt, cr.Reported = nil, "", time.Time{}, ""
}
