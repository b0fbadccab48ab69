package engine

import (
	"fmt"
	"hash/fnv"
	"slices"
	"time"
)

// Action is something that may be done now.
type Action struct {
	Verb      Verb
	Container string        // empty for the task as a whole
	Grace     time.Duration // of a stop
	From      time.Time     // of a start: StartedAt of the process before it
}

// Plan is what to do about a task: the actions that may run now, or what it waits for and why.
type Plan struct {
	Actions []Action
	Waits   []string
	Wake    time.Time // when to plan again although nothing was observed; zero: never
}

// plan decides what may be done now. It is pure: the same arguments give the same plan. rec must be settled. What is at
// work already (Busy) is not ordered again.
func plan(t *Task, rec *TaskRecord, obs *Observed, set Settings, now time.Time) Plan {
	p := &planning{view: view{t, rec, obs, set, now}}
	switch {
	case !rec.StoppedAt.IsZero():
		p.cleanUp()
	case obs.Engine.LookedAt.IsZero():
		p.wait("the first look at the container engine" + because(obs.Engine.Cause))
	case p.stopping():
		p.stopAll()
	case desiredRank[rec.Desired] < desiredRank[statusRunning]:
		p.wait("desiredStatus RUNNING; it is " + rec.Desired)
	default:
		p.runAll()
	}
	return p.Plan
}

type planning struct {
	view
	Plan
}

func (p *planning) do(c *Container, verb Verb) { p.order(Action{Verb: verb, Container: c.Name}) }

// order adds an action unless the container is at work, the engine is away, or the verb failed too short a time ago.
func (p *planning) order(a Action) {
	co := p.obs.of(a.Container)
	if a.Container != "" {
		if co.Busy != "" {
			p.wait(fmt.Sprintf("%s of container %s", co.Busy, a.Container))
			return
		}
		if !p.obs.Engine.Available {
			p.wait("the container engine" + because(p.obs.Engine.Cause))
			return
		}
		if f, failed := co.Failures[a.Verb]; failed {
			if at := f.At.Add(backOff(f.Count)); p.now.Before(at) {
				p.wakeAt(at)
				p.wait(fmt.Sprintf("another try to %s container %s: %v", a.Verb, a.Container, f.Err))
				return
			}
		}
	}
	p.Actions = append(p.Actions, a)
}

func backOff(count int) time.Duration {
	return min(time.Second<<min(max(count-1, 0), 5), 30*time.Second)
}

func (p *planning) wait(what string) { p.Waits = append(p.Waits, what) }

func (p *planning) wakeAt(t time.Time) {
	if p.Wake.IsZero() || t.Before(p.Wake) {
		p.Wake = t
	}
}

func because(cause string) string {
	if cause == "" {
		return ""
	}
	return ": " + cause
}

func (p *planning) runAll() {
	switch p.obs.Grant.State {
	case GrantNone:
		p.order(Action{Verb: VerbAdmit})
	case GrantWaiting:
		p.wait(p.obs.Grant.Reason)
	}
	for _, c := range p.t.Containers {
		p.run(c, p.rec.container(c.Name), p.obs.of(c.Name))
	}
	p.network()
}

// run takes one container a step towards running.
func (p *planning) run(c *Container, cr *ContainerRecord, co *ContainerObserved) {
	switch {
	case cr.Final != nil:
		p.lay(c, co)
	case cr.Fault != "":
		p.stop(c, cr, co)
	case co.Stale:
		p.do(c, VerbLook)
	case co.alive():
	case co.exists():
		p.start(c, cr, co)
	case cr.Intent != nil || !cr.StartedAt.IsZero():
		p.do(c, VerbLook)
	case p.rec.Rebuilt:
		p.wait("the control plane's payload, because the state file was lost and container " + c.Name + " was not on the engine")
	case co.Image == nil:
		p.do(c, VerbPull)
	case p.obs.Grant.State != GrantHeld:
	case co.Secrets == nil && needsSecrets(c):
		p.do(c, VerbFetch)
	case !p.dependenciesMet(c):
	case co.Lacks != nil:
		p.wakeAt(p.now.Add(readyLook))
		p.wait(fmt.Sprintf("container %s waits for what this host lacks: %v", c.Name, co.Lacks))
	case !co.Checked && needsCheck(c):
		p.do(c, VerbCheck)
	default:
		p.do(c, VerbCreate)
	}
}

// needsCheck reports whether there is anything about the container that VerbCheck looks at.
func needsCheck(c *Container) bool {
	return c.Binds || c.Volumes || c.payload != nil && c.payload.FirelensConfiguration != nil || slices.ContainsFunc(c.Ports, func(p Port) bool { return p.Host != 0 })
}

func (p *planning) start(c *Container, cr *ContainerRecord, co *ContainerObserved) {
	if p.rec.Rebuilt && cr.Intent == nil && !co.State.FinishedAt.After(p.rec.AcceptedAt) { // it may have been stopped, and told so, before the memory was lost
		p.wait("the control plane's payload, because the state file was lost and it is not known whether container " + c.Name + " is still to run")
		return
	}
	if p.unbound(co) {
		p.do(c, VerbDiscard)
		return
	}
	if p.obs.Grant.State == GrantHeld && (co.ended() && !p.rebooted(cr, co) || p.dependenciesMet(c)) {
		p.order(Action{Verb: VerbStart, Container: c.Name, From: co.State.StartedAt})
	}
}

func (p *planning) dependenciesMet(c *Container) bool {
	all := true
	for _, d := range c.DependsOn {
		m := p.met(d)
		if m.by.After(p.now) {
			p.wakeAt(m.by)
		}
		if !m.ok {
			all = false
			p.wait(fmt.Sprintf("container %s waits: %s", c.Name, m.why))
		}
	}
	return all
}

// stopAll ends every container, each after those that depend on it.
func (p *planning) stopAll() {
	for _, c := range p.t.Containers {
		if cr := p.rec.container(c.Name); cr.Final == nil {
			p.stop(c, cr, p.obs.of(c.Name))
		} else {
			p.lay(c, p.obs.of(c.Name))
		}
	}
	p.network() // what ends slowly is still held to its rules
}

// lay stops a container that runs although it has ended for good: something other than the agent started it, or a start
// that was given up took effect late.
func (p *planning) lay(c *Container, co *ContainerObserved) {
	switch {
	case co.Stale && co.Failures[VerbLook].Count == 0:
		p.do(c, VerbLook)
	case co.alive():
		p.end(c, co)
	case co.Stale:
		p.do(c, VerbLook)
	}
}

// end stops a container that runs, and kills it when a stop was not answered in time.
func (p *planning) end(c *Container, co *ContainerObserved) {
	if f := co.Failures[VerbStop]; f.Count > 0 && isDeadline(f.Err) {
		p.do(c, VerbKill)
		return
	}
	p.order(Action{Verb: VerbStop, Container: c.Name, Grace: p.grace(c)})
}

func (p *planning) grace(c *Container) time.Duration {
	if c.StopTimeout == 0 {
		return p.set.StopTimeout
	}
	return c.StopTimeout
}

func (p *planning) stop(c *Container, cr *ContainerRecord, co *ContainerObserved) {
	switch {
	case co.Busy == VerbPull || co.Busy == VerbFetch || co.Busy == VerbCheck:
		p.Actions = append(p.Actions, Action{Verb: VerbCancel, Container: c.Name})
	case co.Stale && co.Failures[VerbLook].Count == 0: // it may have ended; what can't be looked at is ended without
		p.do(c, VerbLook)
	case co.alive():
		for _, other := range p.t.Containers {
			if cr := p.rec.container(other.Name); cr.Final == nil && dependsOn(other, c.Name) && p.stopping() {
				p.wait(fmt.Sprintf("container %s stops after container %s, which depends on it", c.Name, other.Name))
				return
			}
		}
		p.end(c, co)
	default: // only a look can settle it
		p.do(c, VerbLook)
	}
}

func dependsOn(c *Container, name string) bool {
	for _, d := range c.DependsOn {
		if d.Container == name {
			return true
		}
	}
	return false
}

// cleanUp removes what is left of a stopped task once its time is over and the control plane has heard of its end.
func (p *planning) cleanUp() {
	for _, c := range p.t.Containers {
		p.lay(c, p.obs.of(c.Name))
	}
	due := p.rec.StoppedAt.Add(p.set.CleanupWait + spread(p.t.Arn, p.set.CleanupJitter))
	over := !p.now.Before(due)
	if !over {
		p.wakeAt(due)
	}
	unsent := p.obs.Unsent && p.now.Before(due.Add(unsentLimit))
	if unsent && over {
		p.wakeAt(p.now.Add(unsentInterval))
		p.wait("the control plane to accept the task's state changes before its containers are removed")
		p.order(Action{Verb: VerbUnsent})
	}
	if p.obs.Urgent || over && !unsent {
		if left := p.removeAll(); !left && over && !unsent {
			p.order(Action{Verb: VerbForget})
		}
	}
}

// removeAll removes containers that have ended, each once the end of its output is on record. It reports whether any is left.
func (p *planning) removeAll() (left bool) {
	for _, c := range p.t.Containers {
		cr, co := p.rec.container(c.Name), p.obs.of(c.Name)
		if co.Removed {
			continue
		}
		left = true
		switch {
		case co.alive() || co.Stale:
		case cr.Log == nil && cr.RuntimeID != "" && !co.Absent && co.Failures[VerbLogs].Count < logTries:
			p.do(c, VerbLogs)
		default:
			p.do(c, VerbRemove)
		}
	}
	return left
}

// How often a stopped task asks whether its changes were accepted, and for how long (agent protocol §7.8).
const (
	unsentInterval = 30 * time.Second
	unsentLimit    = 72 * time.Hour
)

// spread is a task's own part of the jitter, which is the same each time.
func spread(arn string, jitter time.Duration) time.Duration {
	h := fnv.New32a()
	_, _ = h.Write([]byte(arn))
	return jitter / 1000 * time.Duration(h.Sum32()%1000)
}
