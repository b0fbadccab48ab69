package engine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"time"

	"github.com/containerd/errdefs"
)

// settle turns observations into facts: a copy of the record with what has become certain, which containers have run,
// which have failed and which have ended for good. It is pure, and settling twice changes nothing more.
func settle(t *Task, rec *TaskRecord, obs *Observed, set Settings, now time.Time) *TaskRecord {
	s := &settling{view{t, rec.clone(), obs, set, now}}
	if t.Doom != "" && s.rec.Reason == "" {
		s.rec.Reason = t.Doom
		s.blame(nil, stepAccept, t.Doom)
	}
	if obs.Grant.State == GrantNever && s.rec.Reason == "" {
		s.rec.Reason = obs.Grant.Reason
		s.blame(nil, string(VerbAdmit), obs.Grant.Reason)
	}
	if !obs.PullStartedAt.IsZero() {
		s.rec.PullStartedAt, s.rec.PullStoppedAt = obs.PullStartedAt, obs.PullStoppedAt
	}
	for _, cr := range s.rec.Containers {
		if log := obs.of(cr.Name).Log; log != nil && cr.Log == nil {
			cr.Log = log
		}
	}
	for s.pass() {
	}
	if s.rec.StoppedAt.IsZero() && s.finished() {
		s.rec.StoppedAt = now
	}
	return s.rec
}

// view is one look at a task: what is wanted, what is on record, what is observed, the settings and the time.
type view struct {
	t   *Task
	rec *TaskRecord
	obs *Observed
	set Settings
	now time.Time
}

// Settings are the limits that plan needs.
type Settings struct {
	StopTimeout   time.Duration
	CreateTimeout time.Duration
	StartTimeout  time.Duration
	CleanupWait   time.Duration
	CleanupJitter time.Duration
	Boot          string // of the host now; empty: not known
	ResumeDaemons bool   // start daemons that a reboot ended again
	// NetworkTimeout is how long a task that starts waits for its network.
	NetworkTimeout time.Duration
	// ReadyTimeout is how long a container waits for what the host lacks.
	ReadyTimeout time.Duration
}

// stopping reports whether the whole task is to end.
func (v *view) stopping() bool {
	if v.rec.Desired == statusStopped || v.rec.Reason != "" || !v.rec.StoppedAt.IsZero() {
		return true
	}
	for _, c := range v.t.Containers {
		if cr := v.rec.container(c.Name); c.Essential && (cr.Final != nil || cr.Fault != "") {
			return true
		}
	}
	return v.onlyInternal()
}

// finished reports whether no container has a process and none will get one.
func (v *view) finished() bool {
	for _, cr := range v.rec.Containers {
		if cr.Final == nil {
			return false
		}
	}
	if len(v.rec.Containers) == 0 { // a stop of a task that is not known: the first look may find containers of it
		return v.stopping() && v.listed() && v.obs.Strays == 0
	}
	return true
}

// listed reports whether all containers were looked at since the task was accepted.
func (v *view) listed() bool {
	at := v.obs.Engine.LookedAt
	return !at.IsZero() && !at.Before(v.rec.AcceptedAt)
}

type settling struct{ view }

// pass settles each container once and reports whether that made a difference to the others.
func (s *settling) pass() bool {
	changed := false
	for _, c := range s.t.Containers {
		cr := s.rec.container(c.Name)
		if cr.Final != nil {
			continue
		}
		fault := cr.Fault
		s.observe(c, cr)
		s.blameHealth(c, s.obs.of(c.Name))
		s.fail(c, cr)
		s.end(c, cr)
		if cr.Fault != fault || cr.Final != nil {
			changed = true
		}
		if cr.Final != nil && c.Essential {
			s.essentialEnded(c, cr)
		}
	}
	return changed
}

// observe takes over what the engine shows of a container.
func (s *settling) observe(c *Container, cr *ContainerRecord) {
	co := s.obs.of(c.Name)
	if cr.ImageDigest == "" && co.Image != nil {
		cr.ImageDigest = co.Image.Digest
	}
	if !co.exists() {
		return
	}
	cr.RuntimeID = co.State.ID
	s.accountFor(cr, co)
	if cr.ImageDigest == "" {
		cr.ImageDigest = digestOf(co.State)
	}
	if cr.StartedAt.IsZero() && !co.State.StartedAt.IsZero() && co.State.Status != StatusCreated {
		cr.StartedAt = co.State.StartedAt
	}
	if co.State.Status == StatusRunning && len(co.State.Ports)+len(c.Ports) > 0 {
		cr.Bindings = bindingsOf(c, co.State)
	}
}

// fail finds out whether the container must end because something about it went wrong.
func (s *settling) fail(c *Container, cr *ContainerRecord) {
	if cr.Fault != "" {
		return
	}
	co := s.obs.of(c.Name)
	if s.rebooted(cr, co) && !s.resumes() {
		cr.Fault = s.rebootReason(cr)
		s.blame(c, stepReboot, cr.Fault)
		return
	}
	for _, fault := range []struct{ step, why string }{{stepEngine, s.wentWithEngine(c, cr, co)}, {stepNetwork, s.networkFault(c)}, {stepHost, s.lackFault(c)}} {
		if fault.why != "" {
			cr.Fault = fault.why
			s.blame(c, fault.step, fault.why)
			return
		}
	}
	for _, verb := range []Verb{VerbPull, VerbFetch, VerbCheck, VerbCreate, VerbStart} {
		f, failed := co.Failures[verb]
		if !failed {
			continue
		}
		if reason := s.verdict(c, verb, f); reason != "" {
			cr.Fault = reason
			s.blame(c, string(verb), reason)
			if verb == VerbFetch && s.rec.Reason == "" { // the whole task can't have what it names, whichever container asked
				s.rec.Reason = reason
			}
			return
		}
	}
	if cr.Intent != nil || co.exists() || s.stopping() {
		return
	}
	for _, d := range c.DependsOn {
		if m := s.met(d); m.never {
			cr.Fault, cr.FaultExit = "CannotStartContainerError: "+m.why, m.exit
			if s.rec.Cause == nil { // else it comes of that
				s.blame(c, stepDepend, cr.Fault)
			}
			return
		}
	}
}

// verdict says with what reason a failure is final; empty if the verb is to be tried again. An engine that did not
// answer has said nothing: the verdict waits until it was looked at after the failure.
func (s *settling) verdict(c *Container, verb Verb, f Failure) string {
	if errors.Is(f.Err, ErrNotReady) {
		return ""
	}
	unavailable, timeout := errdefs.IsUnavailable(f.Err), isDeadline(f.Err)
	if (unavailable || timeout) && !s.lookedSince(f.At) {
		return ""
	}
	if unavailable && f.Count < triesOf(verb) {
		return ""
	}
	text := f.Err.Error()
	if named.MatchString(text) {
		return text
	}
	switch verb {
	case VerbPull:
		return "CannotPullContainerError: " + text
	case VerbCheck, VerbFetch:
		return "ResourceInitializationError: " + text
	case VerbCreate:
		if timeout {
			return fmt.Sprintf("DockerTimeoutError: Could not transition to created; timed out after waiting %s", s.set.CreateTimeout)
		}
		return "CannotCreateContainerError: " + text
	default:
		if timeout {
			return fmt.Sprintf("DockerTimeoutError: Could not transition to started; timed out after waiting %s", s.set.StartTimeout)
		}
		return "CannotStartContainerError: " + text
	}
}

// triesOf is how often a verb is tried when there was no answer although the engine has one again. A pull has tried the
// registry often enough by itself.
func triesOf(verb Verb) int {
	if verb == VerbPull {
		return 2
	}
	return 4
}

// named matches a reason that begins with one of ECS's error names already.
var named = regexp.MustCompile(`^[A-Z][A-Za-z]+Error: `)

func (v *view) lookedSince(t time.Time) bool {
	return v.obs.Engine.Available && v.obs.Engine.LookedAt.After(t)
}

func isDeadline(err error) bool {
	return errdefs.IsDeadlineExceeded(err) || errors.Is(err, context.DeadlineExceeded)
}

// end sets Final once the container has no process and gets none.
func (s *settling) end(c *Container, cr *ContainerRecord) {
	co := s.obs.of(c.Name)
	unwanted := s.stopping() || cr.Fault != ""
	switch {
	case co.alive(), starting(co.Busy) && !co.ended():
		// a process may be there
	case co.ended() && performed(cr, co.State):
		if again := s.rebooted(cr, co) && s.resumes() && cr.Fault == ""; !again && !s.restarts(c, cr, co.State) {
			cr.Final = s.exitOf(cr, co)
			s.blameExit(c, cr, co)
		}
	case co.Gone:
		cr.Final = &Final{FinishedAt: s.now, Reason: cmp.Or(cr.Fault, fmt.Sprintf("ContainerEngineError: the kernel no longer has the container's process (%d), "+
			"which the container engine goes on showing as running; its exit code is not known", co.State.Pid))}
		s.blame(c, stepRun, cr.Final.Reason)
	case co.Busy != "" || co.Stale:
		// what is at work says more soon
	case co.ended():
		if unwanted {
			cr.Final = s.exitOf(cr, co)
		}
	case co.exists(): // created
		if unwanted {
			cr.Final = s.neverRan(cr)
			if code := co.State.ExitCode; co.State.Error != "" && code != 0 && cr.Intent != nil {
				cr.Final.ExitCode = &code
			}
		}
	case cr.Intent != nil || !cr.StartedAt.IsZero():
		if co.Absent && s.lostInReboot(cr) {
			s.makeAgain(cr)
		} else if co.Absent {
			cr.Final = &Final{FinishedAt: s.now, Reason: fmt.Sprintf("ContainerVanishedError: container %s (%s) is no longer on the engine; "+
				"something other than the agent removed it, and its exit code is not known", c.Name, shortID(cr.RuntimeID))}
			s.blame(c, stepRun, cr.Final.Reason)
		}
	case unwanted && (co.Absent || s.listed()): // a container may be there that was not looked for yet
		cr.Final = s.neverRan(cr)
	}
}

func (s *settling) neverRan(cr *ContainerRecord) *Final {
	return &Final{ExitCode: cr.FaultExit, Reason: cr.Fault, FinishedAt: s.now}
}

// starting reports whether a verb that may bring a process into being is at work.
func starting(verb Verb) bool { return verb == VerbCreate || verb == VerbStart }

// performed reports whether the ended process is that of the last ordered start, and not one from before it.
func performed(cr *ContainerRecord, st *State) bool {
	return cr.Intent == nil || !st.StartedAt.Equal(cr.Intent.From)
}

// restarts reports whether the restart policy starts an ended container again.
func (v *view) restarts(c *Container, cr *ContainerRecord, st *State) bool {
	return c.Restart != nil && !v.stopping() && cr.Fault == "" && !slices.Contains(c.Restart.Ignored, st.ExitCode) &&
		st.FinishedAt.Sub(st.StartedAt) >= c.Restart.Period
}

// essentialEnded notes the end of an essential container, which is the end of the task.
func (s *settling) essentialEnded(c *Container, cr *ContainerRecord) {
	if s.rec.ExecutionStoppedAt.IsZero() {
		s.rec.ExecutionStoppedAt = s.now
		if at := cr.Final.FinishedAt; !at.IsZero() {
			s.rec.ExecutionStoppedAt = at
		}
	}
	if s.rec.Reason == "" && s.rec.Desired != statusStopped && cr.Fault != "" {
		s.rec.Reason = cr.Fault
	}
}

func bindingsOf(c *Container, st *State) []NetworkBinding {
	var bindings []NetworkBinding
	if c.NetworkMode == "host" {
		for _, p := range c.Ports {
			bindings = append(bindings, NetworkBinding{BindIP: "0.0.0.0", ContainerPort: p.Container, HostPort: p.Container, Protocol: p.Protocol})
		}
		return bindings
	}
	for _, b := range st.Ports {
		ip := b.HostIP
		if ip == "" {
			ip = "0.0.0.0"
		}
		bindings = append(bindings, NetworkBinding{BindIP: ip, ContainerPort: b.Container, HostPort: b.Host, Protocol: b.Protocol})
	}
	return gather(c.Ranges, bindings)
}

func shortID(id string) string {
	switch {
	case id == "":
		return "id unknown"
	case len(id) > 12:
		return id[:12]
	}
	return id
}
