package awsapi

import (
	"context"
)

// LogEvent is a line of a log stream. Timestamp is in milliseconds since 1970.
type LogEvent struct {
	Timestamp int64  `awsjson:"timestamp"`
	Message   string `awsjson:"message"`
}

// The bounds of PutLogEvents (CloudWatch Logs API reference): events of a call, bytes of a call, where each event counts LogEventOverhead more
// than its text, and bytes of an event.
const (
	MaxLogEvents     = 10000
	MaxLogBytes      = 1048576
	LogEventOverhead = 26
	MaxLogEvent      = 262144 - LogEventOverhead
)

type putLogEvents struct {
	Group  string     `awsjson:"logGroupName"`
	Stream string     `awsjson:"logStreamName"`
	Events []LogEvent `awsjson:"logEvents"`
}

// Rejected tells which of a call's events were not taken, by their places.
type Rejected struct {
	TooNewFrom int32 `awsjson:"tooNewLogEventStartIndex"`
	TooOldTo   int32 `awsjson:"tooOldLogEventEndIndex"`
	ExpiredTo  int32 `awsjson:"expiredLogEventEndIndex"`
}

type putLogEventsOutput struct {
	Rejected *Rejected `awsjson:"rejectedLogEventsInfo"`
}

// PutLogEvents appends events, which are in the order of their times, to a log stream.
func (c *Client) PutLogEvents(ctx context.Context, who Caller, endpoint, group, stream string, events []LogEvent) (*Rejected, error) {
	client, err := c.client(&logs, who, endpoint)
	if err != nil {
		return nil, err
	}
	var out putLogEventsOutput
	err = client.Call(ctx, "PutLogEvents", &putLogEvents{group, stream, events}, &out)
	return out.Rejected, err
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
func (c *Client) CreateLogStream(ctx context.Context, who Caller, endpoint, group, stream string) error {
	client, err := c.client(&logs, who, endpoint)
	if err != nil {
		return err
	}
	return client.Call(ctx, "CreateLogStream", &logPlace{group, stream}, &nothing{})
}

// CreateLogGroup makes a log group; ResourceAlreadyExistsException if there is one.
func (c *Client) CreateLogGroup(ctx context.Context, who Caller, endpoint, group string) error {
	client, err := c.client(&logs, who, endpoint)
	if err != nil {
		return err
	}
	return client.Call(ctx, "CreateLogGroup", &logGroup{group}, &nothing{})
}
