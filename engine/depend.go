package engine

import (
	"fmt"
	"time"
)

// meeting is how a dependency stands.
type meeting struct {
	ok    bool
	never bool      // it can no longer be met
	why   string    // what is missing
	exit  *int      // the exit code that ECS gives the dependent
	by    time.Time // when waiting ends, where the dependency has a startTimeout
}

// met says how a dependency stands (agent protocol §7.3).
func (v *view) met(d Dependency) meeting {
	dep := v.t.container(d.Container)
	cr, co := v.rec.container(d.Container), v.obs.of(d.Container)
	final := cr.Final
	switch d.Condition {
	case ConditionCreated:
		if co.exists() || final != nil && cr.RuntimeID != "" {
			return meeting{ok: true}
		}
		return unmet(final != nil, d, "it could not be created")
	case ConditionStart:
		if final != nil || !cr.StartedAt.IsZero() && !v.bygone(cr) && !(co.ended() && !performed(cr, co.State)) {
			return meeting{ok: true}
		}
		return unmet(false, d, "")
	case ConditionNetwork:
		if v.networkRight() {
			return meeting{ok: true}
		}
		m := meeting{why: "its task's network is not made yet"}
		if n := v.obs.Network; n.Problem != nil {
			m.why = "its task's network is not right: " + n.Problem.Error()
		}
		return m
	case ConditionComplete:
		if final != nil && final.ExitCode != nil {
			return meeting{ok: true}
		}
		return v.timed(unmet(final != nil, d, "it ended without an exit code"), dep, cr, d)
	case ConditionSuccess:
		if final != nil && final.ExitCode != nil {
			if *final.ExitCode == 0 {
				return meeting{ok: true}
			}
			m := unmet(true, d, fmt.Sprintf("it exited with code %d", *final.ExitCode))
			code := 143
			m.exit = &code
			return m
		}
		return v.timed(unmet(final != nil, d, "it ended without an exit code"), dep, cr, d)
	default:
		if co.alive() && co.State.Health.Status == "HEALTHY" {
			return meeting{ok: true}
		}
		return v.timed(unmet(final != nil, d, "it has stopped"), dep, cr, d)
	}
}

func unmet(never bool, d Dependency, cause string) meeting {
	m := meeting{never: never, why: fmt.Sprintf("its dependency %s has not reached %s yet", d.Container, d.Condition)}
	if never {
		m.why = fmt.Sprintf("its dependency %s can no longer reach %s: %s", d.Container, d.Condition, cause)
	}
	return m
}

// timed ends the waiting when the dependency's startTimeout has passed since its start.
func (v *view) timed(m meeting, dep *Container, cr *ContainerRecord, d Dependency) meeting {
	if m.never || dep.StartTimeout == 0 || cr.StartedAt.IsZero() {
		return m
	}
	m.by = cr.StartedAt.Add(dep.StartTimeout)
	if !v.now.Before(m.by) {
		m.never = true
		m.why = fmt.Sprintf("its dependency %s did not reach %s within its startTimeout of %s", d.Container, d.Condition, dep.StartTimeout)
	}
	return m
}
