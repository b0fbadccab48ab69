package tcs

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/textproto"
	"strings"

	"github.com/longshore-project/longshore/protocol/envelope"
)

// Bounds of a frame. Set [MaxFrame] as the read limit of both ends of a socket.
const (
	MaxFrame  = envelope.MaxFrame // bytes that are read
	MaxSent   = 1 << 20           // bytes that an agent sends in one frame
	MaxTasks  = 10                // tasks that an agent sends in one frame
	maxHeader = 64 << 10          // bytes of header lines
	headerEnd = "\r\n\r\n"
)

// UnknownTypeError is a message of a type that this package does not know.
type UnknownTypeError = envelope.UnknownTypeError

// FormatError is a frame that is not a message.
type FormatError = envelope.FormatError

// Exception is an error of the service, or the answer to a refused handshake.
type Exception = envelope.Exception

var codec = envelope.New(
	[]string{"ServerException", "BadRequestException", "ResourceValidationException", "InvalidParameterException",
		"InvalidClusterException", "InvalidInstanceException", "AccessDeniedException", "InactiveInstanceException"},
	HeartbeatMessage{}, AckPublishMetric{}, AckPublishHealth{}, AckPublishInstanceStatus{}, StopTelemetrySessionMessage{},
	PublishMetricsRequest{}, PublishHealthRequest{}, PublishInstanceStatusRequest{},
	LongshoreProgress{},
)

// Messages are empty messages of all types, in order of their names.
func Messages() []any { return codec.Messages() }

// TypeOf is the name of a message's type on the wire; empty if m is not a message of this package.
func TypeOf(m any) string { return codec.TypeOf(m) }

// Encode makes the envelope of a message, a non-nil pointer to one of the message types.
func Encode(m any) ([]byte, error) { return codec.Encode(m) }

// Decode reads an envelope, or the body of a refused handshake: a pointer to one of the message types. A member that the
// type lacks is ignored, null is the same as absent, and null entries of lists are dropped. Errors are [*UnknownTypeError]
// and [*FormatError].
func Decode(body []byte) (any, error) { return codec.Decode(body) }

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
			return nil, nil, &FormatError{Reason: fmt.Sprintf("%q is not a header line", envelope.Clip(string(line)))}
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
