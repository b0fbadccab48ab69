package local

import (
	"slices"
	"time"

	"github.com/longshore-project/longshore/engine"
	"github.com/longshore-project/longshore/internal/remedy"
)

// Explanation is the answer of GET /v1/explain.
type Explanation struct {
	Now      time.Time `json:"now"`
	Task     Task      `json:"task"`
	State    string    `json:"state"`           // RUNNING, PENDING, STOPPING or STOPPED
	Waits    []string  `json:"waits"`           // what it waits for now and why; empty if for nothing
	Doing    []Step    `json:"doing"`           // at work now
	Errors   []Step    `json:"errors"`          // the newest failures and warnings, the newest last
	Cause    *Cause    `json:"cause,omitempty"` // what went wrong, once that is certain
	Meaning  []string  `json:"meaning"`         // the causes in words, of what went wrong or is waited for
	Advice   []string  `json:"advice"`          // what to do
	Timeline []Step    `json:"timeline"`
	Log      []string  `json:"log,omitempty"` // the newest lines of the agent's log about it, when the agent itself could not be asked
}

// Explanations is the answer of GET /v1/explanations: several tasks.
type Explanations struct {
	Now   time.Time      `json:"now"`
	Note  string         `json:"note,omitempty"` // where this is from, if not from the agent
	Tasks []*Explanation `json:"tasks"`
}

// mostExplained bounds how many tasks are explained at once.
const mostExplained = 20

// ExplainNamed explains the tasks of a family, family:revision or service, or, of an empty name, those that do not run as they should: the
// newest first, each as it comes to Explain.
func ExplainNamed(tasks []engine.TaskStatus, name string, now time.Time) *Explanations {
	out := &Explanations{Now: now.UTC(), Tasks: []*Explanation{}}
	sorted := slices.Clone(tasks)
	slices.SortStableFunc(sorted, func(a, b engine.TaskStatus) int { return b.AcceptedAt.Compare(a.AcceptedAt) })
	for i := range sorted {
		s := &sorted[i]
		service := ""
		if s.Payload != nil {
			service = s.Payload.ServiceName
		}
		named := name == s.Family || name == s.Family+":"+s.Version || name == service
		e := Explain(s, now)
		if name == "" {
			named = e.Cause != nil || e.State != stateRunning && e.State != stateStopped
		}
		if named && len(out.Tasks) < mostExplained {
			out.Tasks = append(out.Tasks, e)
		}
	}
	return out
}

// Cause is what went wrong with a task first, and not what came of it. The log has it as its one error line.
type Cause struct {
	Container string    `json:"container,omitempty"`
	Step      string    `json:"step"`
	Text      string    `json:"text"`
	At        time.Time `json:"at"`
}

// maxErrors is how many failures an explanation repeats.
const maxErrors = 5

// Explain explains a task. It is pure.
func Explain(s *engine.TaskStatus, now time.Time) *Explanation {
	e := &Explanation{Now: now.UTC(), Task: TaskOf(s), Waits: []string{}, Doing: []Step{}, Errors: []Step{}, Meaning: []string{}, Advice: []string{}, Timeline: []Step{}}
	e.State = e.Task.State()
	if c := s.Cause; c != nil {
		e.Cause = &Cause{Container: c.Container, Step: c.Step, Text: c.Text, At: c.At.UTC()}
	}
	e.Waits = append(e.Waits, s.Waits...)
	for i := range s.Timeline {
		step := Step{Container: s.Timeline[i].Container, Name: s.Timeline[i].Name, Start: s.Timeline[i].Start.UTC(), End: utc(s.Timeline[i].End), Outcome: s.Timeline[i].Outcome, Detail: s.Timeline[i].Detail}
		e.Timeline = append(e.Timeline, step)
		switch {
		case step.End.IsZero() && e.State != stateStopped:
			e.Doing = append(e.Doing, step)
		case step.Outcome == engine.OutcomeFailed || step.Outcome == engine.OutcomeWarning:
			e.Errors = append(e.Errors, step)
		}
	}
	// What is at work is said with its progress; the plan's own word for it says less.
	e.Waits = slices.DeleteFunc(e.Waits, func(w string) bool {
		return slices.ContainsFunc(e.Doing, func(d Step) bool { return d.Container != "" && w == d.Name+" of container "+d.Container })
	})
	e.Errors = e.Errors[max(0, len(e.Errors)-maxErrors):]
	e.advise()
	return e
}

// advise says what is known about what went wrong, or else about what the task waits for, and what to do.
func (e *Explanation) advise() {
	say := func(text string) {
		if r, ok := remedy.Known(text); ok && !slices.Contains(e.Advice, r.Do) {
			e.Meaning, e.Advice = append(e.Meaning, r.Means), append(e.Advice, r.Do)
		}
	}
	if e.Cause == nil || e.State != stateStopped {
		for _, w := range e.Waits {
			say(w)
		}
	}
	switch {
	case e.Cause != nil:
		say(e.Cause.Text)
	case e.State == stateRunning:
	default: // nothing is certain yet, or the record is of an agent that noted no cause
		for _, c := range e.Task.Containers {
			say(c.Reason)
		}
		say(e.Task.Reason)
		if n := len(e.Errors); n > 0 && e.Errors[n-1].Outcome == engine.OutcomeFailed {
			say(e.Errors[n-1].Detail)
		}
	}
	if len(e.Advice) == 0 {
		e.Advice = append(e.Advice, e.otherwise()...)
	}
}

// otherwise is what to do about a task about which no message is known.
func (e *Explanation) otherwise() []string {
	switch {
	case e.Cause != nil:
		return []string{remedy.Of(e.Cause.Text).Do}
	case len(e.Doing) > 0:
		return []string{"Nothing: it is at work. Ask again to see whether it moves."}
	case e.State == stateRunning:
		return []string{"Nothing: it runs."}
	case e.State == statePending && len(e.Waits) > 0:
		return []string{"What it waits for is named above; the agent's log has the rest: grep the task's id in /var/log/ecs/ecs-agent.log."}
	}
	return nil
}
