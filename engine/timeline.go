package engine

import (
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// timelineLimit bounds a task's timeline; the oldest steps but the first few go first.
const (
	timelineLimit = 200
	timelineFirst = 20
)

// timeline is what happened to a task, step by step. Its owner is the task's worker. Each step is logged as it begins
// and as it ends.
type timeline struct {
	log   *zap.Logger // carries the task
	ended func(Step)  // is told of each step that has ended; may be nil
	steps []*Step
}

func (tl *timeline) tell(s *Step) {
	if tl.ended != nil {
		tl.ended(*s)
	}
}

// begin opens a step.
func (tl *timeline) begin(container, name, detail string, now time.Time) *Step {
	s := &Step{Container: container, Name: name, Start: now, Detail: detail}
	tl.add(s)
	tl.log.Info(name+" begins", fields(s, zap.String("detail", detail))...)
	return s
}

// end closes a step.
func (tl *timeline) end(s *Step, err error, now time.Time) {
	s.End, s.Outcome = now, OutcomeDone
	level := zapcore.InfoLevel
	more := []zap.Field{zap.Duration("duration", now.Sub(s.Start))}
	if err != nil {
		s.Outcome, s.Detail = OutcomeFailed, err.Error()
		level = zapcore.WarnLevel // it may be tried again; what is certain is logged by complain
		more = append(more, zap.Error(err))
	} else if s.Detail != "" {
		more = append(more, zap.String("detail", s.Detail))
	}
	tl.log.Log(level, s.Name+" "+s.Outcome, fields(s, more...)...)
	tl.tell(s)
}

// note adds a step that took no time.
func (tl *timeline) note(container, name, outcome, detail string, now time.Time) {
	s := &Step{Container: container, Name: name, Start: now, End: now, Outcome: outcome, Detail: detail}
	tl.add(s)
	level := zapcore.InfoLevel
	if outcome != OutcomeDone {
		level = zapcore.WarnLevel
	}
	tl.log.Log(level, name+" "+outcome, fields(s, zap.String("detail", detail))...)
	tl.tell(s)
}

func (tl *timeline) add(s *Step) {
	tl.steps = append(tl.steps, s)
	if len(tl.steps) > timelineLimit {
		tl.steps = append(tl.steps[:timelineFirst:timelineFirst], tl.steps[len(tl.steps)-timelineLimit+timelineFirst:]...)
	}
}

func (tl *timeline) snapshot() []Step {
	steps := make([]Step, len(tl.steps))
	for i, s := range tl.steps {
		steps[i] = *s
	}
	return steps
}

func fields(s *Step, more ...zap.Field) []zap.Field {
	f := []zap.Field{zap.String("step", s.Name)}
	if s.Container != "" {
		f = append(f, zap.String("container", s.Container))
	}
	for _, m := range more {
		if m.Type != zapcore.StringType || m.String != "" {
			f = append(f, m)
		}
	}
	return f
}
