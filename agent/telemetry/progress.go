package telemetry

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/longshore-project/longshore/agent/session"
	"github.com/longshore-project/longshore/engine"
	"github.com/longshore-project/longshore/protocol/tcs"
)

// How often what tasks wait for is looked at, and after what time it is said again although nothing of it changed. What
// changed several times between two looks is said once.
const (
	progressEvery  = 2 * time.Second
	progressRepeat = 30 * time.Second
)

// tell keeps the control plane informed of what tasks wait for, until the connection ends.
func (p *Publisher) tell(ctx context.Context, c *session.Conn) {
	tick := time.NewTicker(progressEvery)
	defer tick.Stop()
	var said []byte
	var at time.Time
	for {
		var err error
		tasks := Progress(p.cfg.Engine.Tasks())
		digest, marshalErr := json.Marshal(tasks)
		repeat := len(tasks) > 0 && time.Since(at) >= progressRepeat
		if marshalErr == nil && (repeat || !bytes.Equal(digest, said) && (said != nil || len(tasks) > 0)) {
			err = p.sendProgress(ctx, c, tasks)
			said, at = digest, time.Now()
		}
		if err != nil {
			if !errors.Is(err, context.Canceled) && ctx.Err() == nil {
				p.cfg.Log.Warn("What tasks wait for could not be sent", zap.Error(err))
			}
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// sendProgress sends it, in as many messages as it takes.
func (p *Publisher) sendProgress(ctx context.Context, c *session.Conn, tasks []*tcs.TaskProgress) error {
	for {
		n := min(len(tasks), tcs.MaxProgressTasks)
		m := &tcs.LongshoreProgress{Timestamp: tcs.At(time.Now()), Tasks: tasks[:n], Fin: n == len(tasks)}
		if err := p.send(ctx, c, m); err != nil || m.Fin {
			return err
		}
		tasks = tasks[n:]
	}
}

// Progress is what those tasks wait for that are not where they are to be, within the bounds of the message. It is pure.
func Progress(tasks []engine.TaskStatus) []*tcs.TaskProgress {
	var out []*tcs.TaskProgress
	for i := range tasks {
		t := &tasks[i]
		if !t.StoppedAt.IsZero() || t.Known == "STOPPED" || t.Known == t.Desired {
			continue
		}
		tp := &tcs.TaskProgress{TaskArn: t.Arn}
		for _, w := range t.Waits[:min(len(t.Waits), tcs.MaxProgressLines)] {
			tp.Waits = append(tp.Waits, cut(w))
		}
		tp.Steps = steps(t.Timeline)
		out = append(out, tp)
	}
	return out
}

// steps are those at work, and then the last ones that failed, the newest last.
func steps(timeline []engine.Step) []*tcs.TaskStep {
	var doing, failed []*tcs.TaskStep
	for i := range timeline {
		s := &timeline[i]
		step := &tcs.TaskStep{Container: s.Container, Name: s.Name, Start: tcs.At(s.Start), Outcome: s.Outcome, Detail: cut(s.Detail)}
		switch {
		case s.End.IsZero():
			doing = append(doing, step)
		case s.Outcome == engine.OutcomeFailed: // warnings are in the log; what they warn of is waited for
			step.End = tcs.At(s.End)
			failed = append(failed, step)
		}
	}
	doing = doing[:min(len(doing), tcs.MaxProgressLines-1)]
	room := min(3, tcs.MaxProgressLines-len(doing))
	return append(doing, failed[max(0, len(failed)-room):]...)
}

// cut bounds a text.
func cut(s string) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	if len(s) > tcs.MaxProgressText {
		s = strings.ToValidUTF8(s[:tcs.MaxProgressText-3], "") + "…"
	}
	return s
}
