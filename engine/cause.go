package engine

import (
	"fmt"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/longshore-project/longshore/internal/remedy"
)

// Cause is what went wrong with a task, once that is certain: the first thing, not what came of it. It is on record, so that
// it is logged as an error once, however often the agent starts; what is tried again until then is a warning in the log.
type Cause struct {
	Container string    `json:"container,omitempty"` // empty: the task as a whole
	Step      string    `json:"step"`                // a verb, or one of the words below
	Text      string    `json:"text"`
	At        time.Time `json:"at"`
	// Passing says that the task goes on: the container is not essential, or is UNHEALTHY.
	Passing bool `json:"passing,omitempty"`
}

// Steps at which a task fails that are no verbs.
const (
	stepAccept  = "accept"
	stepDepend  = "depend"
	stepHost    = "wait-for-host"
	stepRun     = "run"
	stepHealth  = "health"
	stepReboot  = "reboot"
	stepEngine  = "engine"
	stepNetwork = "network"
)

// blame notes what went wrong. The end of a task comes before what a task could go on with; else the first is kept.
func (s *settling) blame(c *Container, step, text string) {
	passing := c != nil && !c.Essential
	if was := s.rec.Cause; was != nil && (!was.Passing || passing) {
		return
	}
	s.rec.Cause = &Cause{Step: step, Text: text, At: s.now, Passing: passing}
	if c != nil && !c.internal() {
		s.rec.Cause.Container = c.Name
	}
}

// blameExit judges how a process has ended. One that ended because it was asked to is to blame only if it had to be killed.
func (s *settling) blameExit(c *Container, cr *ContainerRecord, co *ContainerObserved) {
	f, code := cr.Final, co.State.ExitCode
	switch {
	case cr.Fault != "" && f.Reason == cr.Fault:
		// that was to blame
	case f.Reason != "":
		step := stepRun
		if co.State.Error != "" {
			step = string(VerbStart)
		}
		s.blame(c, step, f.Reason)
	case co.Ordered:
		grace := (&planning{view: s.view}).grace(c)
		if code == killed && !co.OrderedAt.IsZero() && f.FinishedAt.Sub(co.OrderedAt) >= grace {
			s.blame(c, string(VerbStop), fmt.Sprintf("container %s did not end within its stopTimeout of %s and was killed (SIGKILL, exit code %d)", c.Name, grace, code))
		}
	case code != 0 && c.Essential && s.rec.Desired != statusStopped && s.rec.Reason == "":
		s.blame(c, stepRun, remedy.Exited(c.Name, code))
	}
}

// blameHealth notes that a container is UNHEALTHY, for as long as it is.
func (s *settling) blameHealth(c *Container, co *ContainerObserved) {
	if !co.exists() {
		return
	}
	was, status := s.rec.Cause, co.State.Health.Status
	switch {
	case was == nil && co.alive() && status == "UNHEALTHY":
		s.rec.Cause = &Cause{Container: c.Name, Step: stepHealth, Text: fmt.Sprintf("container %s is UNHEALTHY: its health check failed too often in a row", c.Name), At: s.now, Passing: true}
	case was != nil && was.Step == stepHealth && was.Container == c.Name && status == "HEALTHY":
		s.rec.Cause = nil
	}
}

// complain logs a cause that has become certain: the one error line of this failure.
func (w *worker) complain(c *Cause) {
	if c == nil || c == w.rec.Cause {
		return
	}
	text := "the task failed"
	switch {
	case c.Step == string(VerbStop):
		text = "a container of the task had to be killed"
	case c.Passing:
		text = "a container of the task failed, and the task goes on"
	}
	s := Step{Container: c.Container, Name: c.Step}
	w.timeline.log.Error(text, fields(&s, zap.String("error", c.Text), zap.String("remedy", remedy.Of(c.Text).Do))...)
	if !slices.ContainsFunc(w.timeline.steps, func(s *Step) bool { return s.Outcome == OutcomeFailed && s.Detail == c.Text }) {
		w.timeline.add(&Step{Container: c.Container, Name: c.Step, Start: c.At, End: c.At, Outcome: OutcomeFailed, Detail: c.Text})
	}
}
