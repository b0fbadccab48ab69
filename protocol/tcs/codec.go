package tcs

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/textproto"
	"reflect"
	"strings"
)

// Bounds of a frame. Set [MaxFrame] as the read limit of both ends of a socket.
const (
	MaxFrame  = 4 << 20  // bytes that are read
	MaxSent   = 1 << 20  // bytes that an agent sends in one frame
	MaxTasks  = 10       // tasks that an agent sends in one frame
	maxHeader = 64 << 10 // bytes of header lines
	headerEnd = "\r\n\r\n"
)

// UnknownTypeError is a message of a type that this package does not know.
type UnknownTypeError struct{ Type string }

func (e *UnknownTypeError) Error() string { return fmt.Sprintf("unknown message type %q", e.Type) }

// FormatError is a frame that is not a message. Type is the message's type if that could be read.
type FormatError struct {
	Type   string
	Reason string
}

func (e *FormatError) Error() string {
	if e.Type == "" {
		return "malformed message: " + e.Reason
	}
	return "malformed " + e.Type + ": " + e.Reason
}

var messages = map[string]reflect.Type{}

func init() {
	for _, m := range []any{
		HeartbeatMessage{}, AckPublishMetric{}, AckPublishHealth{}, AckPublishInstanceStatus{}, StopTelemetrySessionMessage{},
		PublishMetricsRequest{}, PublishHealthRequest{}, PublishInstanceStatusRequest{},
		LongshoreProgress{},
	} {
		t := reflect.TypeOf(m)
		messages[t.Name()] = t
	}
}

func isException(name string) bool {
	switch name {
	case "ServerException", "BadRequestException", "ResourceValidationException", "InvalidParameterException",
		"InvalidClusterException", "InvalidInstanceException", "AccessDeniedException", "InactiveInstanceException":
		return true
	}
	return false
}

type envelope struct {
	Type    string          `json:"type"`
	Message json.RawMessage `json:"message"`
}

// TypeOf is the name of a message's type on the wire; empty if m is not a message of this package.
func TypeOf(m any) string {
	if e, ok := m.(*Exception); ok {
		if e != nil && isException(e.Type) {
			return e.Type
		}
		return ""
	}
	t := reflect.TypeOf(m)
	if t == nil || t.Kind() != reflect.Pointer || messages[t.Elem().Name()] != t.Elem() {
		return ""
	}
	return t.Elem().Name()
}

// Encode makes the envelope of a message, a non-nil pointer to one of the message types.
func Encode(m any) ([]byte, error) {
	name := TypeOf(m)
	if name == "" || reflect.ValueOf(m).IsNil() {
		return nil, fmt.Errorf("%T is not a message", m)
	}
	body, err := json.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	frame, err := json.Marshal(envelope{name, body})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if len(frame) > MaxFrame {
		return nil, fmt.Errorf("%s: the frame has %d bytes; at most %d are allowed", name, len(frame), MaxFrame)
	}
	return frame, nil
}

// Decode reads an envelope, or the body of a refused handshake: a pointer to one of the message types. A member that the
// type lacks is ignored, null is the same as absent, and null entries of lists are dropped. Errors are [*UnknownTypeError]
// and [*FormatError].
func Decode(body []byte) (any, error) {
	if len(body) > MaxFrame {
		return nil, &FormatError{Reason: fmt.Sprintf("%d bytes; at most %d are accepted", len(body), MaxFrame)}
	}
	var members map[string]json.RawMessage
	if err := json.Unmarshal(body, &members); err != nil {
		return nil, &FormatError{Reason: reason(err)}
	}
	if len(members) == 1 {
		for name, text := range members {
			if isException(name) {
				e := &Exception{Type: name}
				_ = json.Unmarshal(text, &e.Message) // a message that is not a string is left out
				return e, nil
			}
		}
	}
	var env envelope
	if err := json.Unmarshal(body, &env); err != nil {
		return nil, &FormatError{Reason: reason(err)}
	}
	if env.Type == "" {
		return nil, &FormatError{Reason: `the member "type" is missing`}
	}
	m := any(&Exception{Type: env.Type})
	if !isException(env.Type) {
		t := messages[env.Type]
		if t == nil {
			return nil, &UnknownTypeError{clip(env.Type)}
		}
		m = reflect.New(t).Interface()
	}
	if len(env.Message) > 0 && string(env.Message) != "null" {
		if err := json.Unmarshal(env.Message, m); err != nil {
			return nil, &FormatError{env.Type, reason(err)}
		}
	}
	dropNulls(reflect.ValueOf(m).Elem())
	return m, nil
}

func reason(err error) string {
	var e *json.UnmarshalTypeError
	if errors.As(err, &e) {
		return fmt.Sprintf("%s: JSON %s where %s belongs", e.Field, e.Value, e.Type)
	}
	return strings.TrimPrefix(err.Error(), "json: ")
}

func clip(s string) string {
	if len(s) > 100 {
		return strings.ToValidUTF8(s[:100], "") + "…"
	}
	return s
}

// dropNulls removes nil pointers from every list in a message.
func dropNulls(v reflect.Value) {
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			dropNulls(v.Elem())
		}
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[Time]() {
			return
		}
		for i := range v.NumField() {
			dropNulls(v.Field(i))
		}
	case reflect.Slice:
		if v.Type().Elem().Kind() != reflect.Pointer {
			return
		}
		n := 0
		for i := range v.Len() {
			if e := v.Index(i); !e.IsNil() {
				dropNulls(e)
				v.Index(n).Set(e)
				n++
			}
		}
		v.SetLen(n)
	}
}

// Frame puts the header lines of an agent's frame before the envelope: those of Host, Authorization, X-Amz-Date and
// X-Amz-Security-Token that header has, in this order.
func Frame(header http.Header, body []byte) []byte {
	var b bytes.Buffer
	for _, name := range []string{"Host", "Authorization", "X-Amz-Date", "X-Amz-Security-Token"} {
		if v := header.Get(name); v != "" {
			fmt.Fprintf(&b, "%s: %s\r\n", name, strings.NewReplacer("\r", "", "\n", "").Replace(v))
		}
	}
	b.WriteString("\r\n")
	b.Write(body)
	return b.Bytes()
}

// SplitFrame takes an agent's frame apart: the header lines, nil when the frame begins with the envelope at once, and the
// envelope for [Decode]. The envelope points into frame. Errors are [*FormatError].
func SplitFrame(frame []byte) (http.Header, []byte, error) {
	if trimmed := bytes.TrimLeft(frame, " \t\r\n"); len(trimmed) > 0 && trimmed[0] == '{' {
		return nil, trimmed, nil
	}
	end := bytes.Index(frame[:min(len(frame), maxHeader)], []byte(headerEnd))
	if end < 0 {
		return nil, nil, &FormatError{Reason: fmt.Sprintf("no empty line after the header lines within %d bytes", maxHeader)}
	}
	header := http.Header{}
	for line := range bytes.SplitSeq(frame[:end], []byte("\r\n")) {
		name, value, ok := bytes.Cut(line, []byte(":"))
		if !ok {
			return nil, nil, &FormatError{Reason: fmt.Sprintf("%q is not a header line", clip(string(line)))}
		}
		header.Add(textproto.CanonicalMIMEHeaderKey(string(bytes.TrimSpace(name))), string(bytes.TrimSpace(value)))
	}
	return header, frame[end+len(headerEnd):], nil
}

// SplitMetrics divides the metrics of a period into messages of at most [MaxTasks] tasks and about [MaxSent] bytes. All
// share the metadata of m but for Fin, which only the last one has. InstanceMetrics goes into the first. A task that is too
// large alone gets a message alone.
func SplitMetrics(m *PublishMetricsRequest) []*PublishMetricsRequest {
	parts := split(m.TaskMetrics)
	var out []*PublishMetricsRequest
	for i, tasks := range parts {
		part := *m
		part.TaskMetrics = tasks
		if m.Metadata != nil {
			meta := *m.Metadata
			meta.Fin = i == len(parts)-1
			part.Metadata = &meta
		}
		if i > 0 {
			part.InstanceMetrics = nil
		}
		out = append(out, &part)
	}
	return out
}

// SplitHealth divides the health of a period in the same way.
func SplitHealth(m *PublishHealthRequest) []*PublishHealthRequest {
	parts := split(m.Tasks)
	var out []*PublishHealthRequest
	for i, tasks := range parts {
		part := *m
		part.Tasks = tasks
		if m.Metadata != nil {
			meta := *m.Metadata
			meta.Fin = i == len(parts)-1
			part.Metadata = &meta
		}
		out = append(out, &part)
	}
	return out
}

// envelopeSize is reserved in each message for all but its tasks.
const envelopeSize = 64 << 10

// split divides tasks; there is always at least one part.
func split[T any](tasks []*T) [][]*T {
	var parts [][]*T
	var part []*T
	size := 0
	for _, t := range tasks {
		b, err := json.Marshal(t)
		if err != nil {
			continue // a number that JSON does not have: this task has no metrics in this period
		}
		if len(part) > 0 && (len(part) == MaxTasks || size+len(b) > MaxSent-envelopeSize) {
			parts, part, size = append(parts, part), nil, 0
		}
		part, size = append(part, t), size+len(b)+1
	}
	return append(parts, part)
}
