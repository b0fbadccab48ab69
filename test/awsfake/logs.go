package awsfake

import (
	"encoding/json"
	"net/http"
	"slices"
	"strconv"
	"time"
)

// Logs is CloudWatch Logs, as strict as Amazon's. A Server whose Logs is nil takes whatever it is sent. Its fields are changed by [Server.Set].
type Logs struct {
	// Groups are the streams' events, by group and stream.
	Groups map[string]map[string][]LogEvent
	// Tokens: each call must bring the token that the last one returned, as Amazon's service asked for until 2023.
	Tokens bool

	tokens map[string]int
}

// LogEvent is one of a stream's.
type LogEvent struct {
	Timestamp int64
	Message   string
}

// NewLogs has some groups, without streams.
func NewLogs(groups ...string) *Logs {
	l := &Logs{Groups: map[string]map[string][]LogEvent{}, tokens: map[string]int{}}
	for _, g := range groups {
		l.Groups[g] = map[string][]LogEvent{}
	}
	return l
}

// Events are those of a stream so far.
func (s *Server) Events(group, stream string) []LogEvent {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.Logs.Groups[group][stream])
}

// The bounds of PutLogEvents, from the API reference.
const (
	mostEvents, mostBytes, eventOverhead, mostEvent = 10000, 1048576, 26, 262144
	span, oldest, newest                            = 24 * time.Hour, 14 * 24 * time.Hour, 2 * time.Hour
)

func (s *Server) logs(w http.ResponseWriter, operation string, body []byte) {
	var in struct {
		LogGroupName, LogStreamName string
		LogEvents                   []LogEvent
		SequenceToken               *string
	}
	if err := json.Unmarshal(body, &in); err != nil {
		fail(w, http.StatusBadRequest, "SerializationException", err.Error())
		return
	}
	l := s.Logs
	if l == nil {
		answer(w, map[string]any{"nextSequenceToken": "1"})
		return
	}
	group, isGroup := l.Groups[in.LogGroupName]
	events, isStream := group[in.LogStreamName]
	switch {
	case operation == "CreateLogGroup" && isGroup, operation == "CreateLogStream" && isStream:
		fail(w, http.StatusBadRequest, "ResourceAlreadyExistsException", "it exists already")
	case operation == "CreateLogGroup":
		l.Groups[in.LogGroupName] = map[string][]LogEvent{}
		answer(w, map[string]any{})
	case !isGroup:
		fail(w, http.StatusBadRequest, "ResourceNotFoundException", "The specified log group does not exist.")
	case operation == "CreateLogStream":
		group[in.LogStreamName] = []LogEvent{}
		answer(w, map[string]any{})
	case !isStream:
		fail(w, http.StatusBadRequest, "ResourceNotFoundException", "The specified log stream does not exist.")
	default:
		s.putLogEvents(w, in.LogGroupName, in.LogStreamName, events, in.LogEvents, in.SequenceToken)
	}
}

func (s *Server) putLogEvents(w http.ResponseWriter, group, stream string, have, events []LogEvent, token *string) {
	l, key := s.Logs, group+"\x00"+stream
	if why := invalid(events); why != "" {
		fail(w, http.StatusBadRequest, "InvalidParameterException", why)
		return
	}
	if want := l.tokens[key]; l.Tokens && (want == 0 && token != nil || want > 0 && (token == nil || *token != strconv.Itoa(want))) {
		text := "null"
		if want > 0 {
			text = strconv.Itoa(want)
		}
		fail(w, http.StatusBadRequest, "InvalidSequenceTokenException", "The given sequenceToken is invalid. The next expected sequenceToken is: "+text)
		return
	}
	now := time.Now()
	old := slices.IndexFunc(events, func(e LogEvent) bool { return e.Timestamp >= now.Add(-oldest).UnixMilli() })
	if old < 0 {
		old = len(events)
	}
	tooNew := slices.IndexFunc(events, func(e LogEvent) bool { return e.Timestamp > now.Add(newest).UnixMilli() })
	rejected := map[string]int{}
	if old > 0 {
		rejected["tooOldLogEventEndIndex"] = old
	}
	if tooNew >= 0 {
		rejected["tooNewLogEventStartIndex"] = tooNew
	} else {
		tooNew = len(events)
	}
	l.Groups[group][stream] = append(have, events[min(old, tooNew):tooNew]...)
	l.tokens[key]++
	out := map[string]any{"nextSequenceToken": strconv.Itoa(l.tokens[key])}
	if len(rejected) > 0 {
		out["rejectedLogEventsInfo"] = rejected
	}
	answer(w, out)
}

// invalid is what is wrong with a call's events; empty if nothing is.
func invalid(events []LogEvent) string {
	if len(events) == 0 || len(events) > mostEvents {
		return "1 validation error detected: Value at 'logEvents' failed to satisfy constraint: Member must have length between 1 and 10000"
	}
	bytes := 0
	for i, e := range events {
		if bytes += len(e.Message) + eventOverhead; len(e.Message) == 0 || len(e.Message)+eventOverhead > mostEvent {
			return "Log event too large or empty: " + strconv.Itoa(len(e.Message)) + " bytes"
		}
		if i > 0 && e.Timestamp < events[i-1].Timestamp {
			return "Log events in a single PutLogEvents request must be in chronological order."
		}
	}
	switch first, last := events[0].Timestamp, events[len(events)-1].Timestamp; {
	case bytes > mostBytes:
		return "Upload too large: " + strconv.Itoa(bytes) + " bytes exceeds limit of 1048576"
	case last-first > span.Milliseconds():
		return "The batch of log events in a single PutLogEvents request cannot span more than 24 hours."
	}
	return ""
}
