package ecsagent

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"time"
)

// The kinds of an [Entry].
const (
	Called     = "called"     // an API call was answered with success: Type is the operation, Body the request
	Refused    = "refused"    // an API call was answered with an error: Text has code and message
	Connected  = "connected"  // a socket is open: Type is ACS or TCS, Text its URL
	Rejected   = "rejected"   // a socket's handshake was refused: Text is the answer
	Ended      = "ended"      // a socket has ended: Text says how
	Received   = "received"   // a message of a known type came
	Unknown    = "unknown"    // a frame of an unknown type was dropped; it does not count as traffic
	Ignored    = "ignored"    // a message was not acted upon and not acknowledged: Text says why
	Sent       = "sent"       // a message was sent
	Lost       = "lost"       // a message was made and lost on the way, as the test asked for
	Dropped    = "dropped"    // a state change was given up, because the control plane does not know the task
	Started    = "started"    // a container was started: Task, Text is its name
	Exited     = "exited"     // a container ended: Task, Text is its name
	Process    = "process"    // the agent's process has ended: Text is its exit code
	Suspended  = "suspended"  // the instance is inactive; nothing is tried for an hour
	Unreadable = "unreadable" // a task of a payload can't be decoded: Text says why
)

// Entry is one line of a machine's journal.
type Entry struct {
	At        time.Time
	Process   int // the number of the agent's process, from 1
	Kind      string
	Type      string // operation or message
	MessageID string
	Task      string // task ARN
	Status    string // of a task, desired or reported
	Seq       int64  // seqNum of a payload, timeline of a manifest
	Text      string
	Body      json.RawMessage
}

func (e Entry) String() string {
	return strings.Join(strings.Fields(fmt.Sprintf("#%d %s %s %s %s seq=%d %s %s", e.Process, e.Kind, e.Type, e.Task, e.Status, e.Seq, e.Text, e.Body)), " ")
}

type journal struct {
	mu      sync.Mutex
	entries []Entry
	faults  []string
	changed chan struct{}
}

func (j *journal) write(e Entry) {
	j.mu.Lock()
	defer j.mu.Unlock()
	e.At = time.Now()
	j.entries = append(j.entries, e)
	j.wake()
}

func (j *journal) wake() {
	if j.changed != nil {
		close(j.changed)
		j.changed = nil
	}
}

func (j *journal) fault(format string, args ...any) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.faults = append(j.faults, fmt.Sprintf(format, args...))
	j.wake()
}

// Journal is a copy of the journal, of the entries that all of the filters let through.
func (j *journal) Journal(filters ...func(Entry) bool) []Entry {
	j.mu.Lock()
	defer j.mu.Unlock()
	return filter(j.entries, filters)
}

func filter(entries []Entry, filters []func(Entry) bool) []Entry {
	out := make([]Entry, 0, len(entries))
next:
	for _, e := range entries {
		for _, f := range filters {
			if !f(e) {
				continue next
			}
		}
		out = append(out, e)
	}
	return out
}

// Faults are what the real agent would have choked on or lost.
func (j *journal) Faults() []string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return append([]string(nil), j.faults...)
}

// Until waits until at least n entries pass all filters, and returns them.
func (j *journal) Until(ctx context.Context, n int, filters ...func(Entry) bool) ([]Entry, error) {
	for {
		j.mu.Lock()
		found := filter(j.entries, filters)
		if len(found) >= n {
			j.mu.Unlock()
			return found, nil
		}
		if j.changed == nil {
			j.changed = make(chan struct{})
		}
		changed := j.changed
		j.mu.Unlock()
		select {
		case <-ctx.Done():
			return found, fmt.Errorf("%d of %d entries were seen: %w", len(found), n, context.Cause(ctx))
		case <-changed:
		}
	}
}

// Is passes entries of a kind and type; an empty type passes any.
func Is(kind, typ string) func(Entry) bool {
	return func(e Entry) bool { return e.Kind == kind && (typ == "" || e.Type == typ) }
}

// Of passes entries about a task.
func Of(task string) func(Entry) bool { return func(e Entry) bool { return e.Task == task } }

// With passes entries with a status.
func With(status string) func(Entry) bool { return func(e Entry) bool { return e.Status == status } }

// In passes entries of an agent's process.
func In(process int) func(Entry) bool { return func(e Entry) bool { return e.Process == process } }
