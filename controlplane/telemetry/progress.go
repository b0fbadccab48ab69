package telemetry

import (
	"fmt"
	"strings"
	"time"

	"github.com/longshore-project/longshore/protocol/arn"
	"github.com/longshore-project/longshore/protocol/tcs"
)

// maxWaiting bounds the tasks of an instance whose progress is kept.
const maxWaiting = 2_000

// progress is what the tasks of an instance wait for: as last said completely, and what of the next word has come.
type progress struct {
	at   time.Time
	now  map[string]*tcs.TaskProgress // by task id
	next map[string]*tcs.TaskProgress
}

// Progress takes a message of an instance. What is beyond the message's bounds is dropped.
func (b *Book) Progress(cluster, instance string, m *tcs.LongshoreProgress) {
	b.mu.Lock()
	defer b.mu.Unlock()
	at := place{cluster, instance}
	p := b.progress[at]
	if p == nil {
		p = &progress{}
		b.progress[at] = p
	}
	if p.next == nil {
		p.next = map[string]*tcs.TaskProgress{}
	}
	for _, t := range m.Tasks[:min(len(m.Tasks), tcs.MaxProgressTasks)] {
		if a, err := arn.Parse(t.TaskArn); err == nil && a.Type == arn.TypeTask && len(p.next) < maxWaiting {
			p.next[a.ID()] = bounded(t)
		}
	}
	if m.Fin {
		p.at, p.now, p.next = b.now(), p.next, nil
	}
	if len(p.now) == 0 && len(p.next) == 0 {
		delete(b.progress, at)
	}
}

// bounded is t within the bounds of the message.
func bounded(t *tcs.TaskProgress) *tcs.TaskProgress {
	out := &tcs.TaskProgress{}
	for _, w := range t.Waits[:min(len(t.Waits), tcs.MaxProgressLines)] {
		out.Waits = append(out.Waits, clip(w))
	}
	for _, s := range t.Steps[:min(len(t.Steps), tcs.MaxProgressLines)] {
		copied := *s
		copied.Name, copied.Container, copied.Outcome, copied.Detail = clip(s.Name), clip(s.Container), clip(s.Outcome), clip(s.Detail)
		out.Steps = append(out.Steps, &copied)
	}
	return out
}

// clip bounds a text of an agent, and keeps it on its line.
func clip(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, s)
	if len(s) > tcs.MaxProgressText {
		s = strings.ToValidUTF8(s[:tcs.MaxProgressText], "")
	}
	return s
}

// Waits says in words what a task does and waits for on its instance, as the agent told; nothing if it told nothing.
func (b *Book) Waits(cluster, instance, task string) []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	p := b.progress[place{cluster, instance}]
	if p == nil || p.now[task] == nil {
		return nil
	}
	return words(p.now[task], b.now())
}

// words are the lines: what is at work with its progress, then the other waits, then what failed before.
func words(t *tcs.TaskProgress, now time.Time) (out []string) {
	doing := map[string]bool{}
	for _, s := range t.Steps {
		if s.End == nil {
			line := s.Name + of(s.Container)
			doing[line] = true
			if s.Start != nil {
				line += " for " + max(now.Sub(s.Start.Time), 0).Round(time.Second).String()
			}
			out = append(out, "at work: "+line+because(s.Detail))
		}
	}
	for _, w := range t.Waits {
		switch {
		case doing[w]: // said with its progress already
		case strings.Contains(w, " waits: "): // it says who waits
			out = append(out, w)
		default:
			out = append(out, "waits for "+w)
		}
	}
	for _, s := range t.Steps {
		if s.End != nil {
			out = append(out, fmt.Sprintf("%s%s %s at %s%s", s.Name, of(s.Container), s.Outcome, s.End.UTC().Format(time.RFC3339), because(s.Detail)))
		}
	}
	return out
}

func of(container string) string {
	if container == "" {
		return ""
	}
	return " of container " + container
}

func because(why string) string {
	if why == "" {
		return ""
	}
	return ": " + why
}
