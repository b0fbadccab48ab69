package awsapi

import (
	"context"

	"github.com/longshore-project/longshore/protocol/agentapi"
)

// LogStream is a stream of CloudWatch Logs, and who writes to it. Endpoint overrides where calls go, unless it is empty; Format is the
// header x-amzn-logs-format, which says that lines are in a form that the service understands (json/emf).
type LogStream struct {
	Caller
	Endpoint, Group, Name, Format string
}

// LogEvent is a line of a log stream. Timestamp is in milliseconds since 1970.
type LogEvent struct {
	Timestamp int64  `awsjson:"timestamp"`
	Message   string `awsjson:"message"`
}

// The bounds of PutLogEvents (CloudWatch Logs API reference): events of a call, bytes of a call, where each event counts LogEventOverhead more
// than its text, bytes of an event, and the milliseconds between a call's first event and its last.
const (
	MaxLogEvents     = 10000
	MaxLogBytes      = 1048576
	LogEventOverhead = 26
	MaxLogEvent      = 262144 - LogEventOverhead
	MaxLogSpan       = 24 * 60 * 60 * 1000
)

type putLogEvents struct {
	Group  string     `awsjson:"logGroupName"`
	Stream string     `awsjson:"logStreamName"`
	Events []LogEvent `awsjson:"logEvents"`
	Token  *string    `awsjson:"sequenceToken"`
}

// Rejected tells which of a call's events were not taken, by their places; a place that is missing says of none.
type Rejected struct {
	TooNewFrom *int32 `awsjson:"tooNewLogEventStartIndex"` // this one and those after it
	TooOldTo   *int32 `awsjson:"tooOldLogEventEndIndex"`   // those before it
	ExpiredTo  *int32 `awsjson:"expiredLogEventEndIndex"`  // those before it
}

// Count is how many of n events were not taken.
func (r *Rejected) Count(n int) int {
	if r == nil {
		return 0
	}
	taken := n
	if r.TooNewFrom != nil {
		taken = min(taken, int(*r.TooNewFrom))
	}
	begin := 0
	for _, end := range []*int32{r.TooOldTo, r.ExpiredTo} {
		if end != nil {
			begin = max(begin, int(*end))
		}
	}
	return n - max(0, taken-begin)
}

type putLogEventsOutput struct {
	Rejected *Rejected `awsjson:"rejectedLogEventsInfo"`
	Next     string    `awsjson:"nextSequenceToken"`
}

func (c *Client) logStream(s LogStream) (*agentapi.Client, error) {
	client, err := c.client(&logs, s.Caller, s.Endpoint)
	if err != nil || s.Format == "" {
		return client, err
	}
	return client.With("X-Amzn-Logs-Format", s.Format), nil
}

// PutLogEvents appends events, which are in the order of their times, to a log stream. token is what the last call returned, empty at first: Amazon's
// service does not ask for it any more.
func (c *Client) PutLogEvents(ctx context.Context, s LogStream, token string, events []LogEvent) (next string, _ *Rejected, err error) {
	client, err := c.logStream(s)
	if err != nil {
		return "", nil, err
	}
	in := &putLogEvents{Group: s.Group, Stream: s.Name, Events: events}
	if token != "" {
		in.Token = &token
	}
	var out putLogEventsOutput
	err = client.Call(ctx, "PutLogEvents", in, &out)
	return out.Next, out.Rejected, err
}

type logPlace struct {
	Group  string `awsjson:"logGroupName"`
	Stream string `awsjson:"logStreamName"`
}

type logGroup struct {
	Group string `awsjson:"logGroupName"`
}

type nothing struct{}

// CreateLogStream makes a log stream; ResourceAlreadyExistsException if there is one, ResourceNotFoundException if there is no such group.
func (c *Client) CreateLogStream(ctx context.Context, s LogStream) error {
	client, err := c.logStream(s)
	if err != nil {
		return err
	}
	return client.Call(ctx, "CreateLogStream", &logPlace{s.Group, s.Name}, &nothing{})
}

// CreateLogGroup makes the stream's log group; ResourceAlreadyExistsException if there is one.
func (c *Client) CreateLogGroup(ctx context.Context, s LogStream) error {
	client, err := c.logStream(s)
	if err != nil {
		return err
	}
	return client.Call(ctx, "CreateLogGroup", &logGroup{s.Group}, &nothing{})
}
