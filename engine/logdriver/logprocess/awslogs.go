package logprocess

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/credentials/ec2rolecreds"
	"github.com/aws/aws-sdk-go-v2/credentials/endpointcreds"

	"github.com/longshore-project/longshore/protocol/agentapi"
	"github.com/longshore-project/longshore/protocol/awsapi"

	"github.com/longshore-project/longshore/engine/logdriver"
)

// awslogs sends to CloudWatch Logs, in calls as large as they may be, at the latest when the oldest line is five seconds old. Nothing is written
// to the disk. While the service does not answer lines are kept, up to one call's worth, and then the container waits, or in the non-blocking
// mode lines are dropped.
type awslogs struct {
	client *awsapi.Client
	who    awsapi.Caller

	endpoint, group, stream string
	begins                  *regexp.Regexp // the first line of an event; nil: each line is one
	interval                time.Duration

	mu      sync.Mutex
	batch   []awsapi.LogEvent
	bytes   int
	pending bytes.Buffer // of an event that may go on
	since   int64        // when pending began
	timer   *time.Timer
	lost    error // of a call that was made because of the time
	ctx     context.Context
	end     context.CancelFunc
}

const (
	flushInterval   = 5 * time.Second
	lastFlush       = 30 * time.Second // how long the end of a container waits for the service
	credentialsHost = "http://169.254.170.2"
)

func newAWSLogs(s logdriver.Settings) (Driver, error) {
	d := &awslogs{
		client: awsapi.New(awsapi.Config{UserAgent: "longshore-log"}), who: awsapi.Caller{Region: s.Options["awslogs-region"]}, endpoint: s.Options["awslogs-endpoint"],
		group: s.Options["awslogs-group"], stream: s.Options["awslogs-stream"], interval: flushInterval,
	}
	if d.who.Region == "" {
		d.who.Region = os.Getenv("AWS_REGION")
	}
	if d.who.Region == "" || d.group == "" {
		return nil, errors.New("awslogs: options awslogs-region and awslogs-group are needed")
	}
	var err error
	if d.stream == "" {
		if _, given := s.Options["tag"]; given {
			if d.stream, err = tag(s); err != nil {
				return nil, err
			}
		} else {
			d.stream = s.Container.FullID()
		}
	}
	if d.begins, err = multiline(s.Options); err != nil {
		return nil, err
	}
	if v, given := s.Options["awslogs-force-flush-interval-seconds"]; given {
		n, err := strconv.Atoi(v)
		if err != nil || n <= 0 {
			return nil, fmt.Errorf("option awslogs-force-flush-interval-seconds is %q; it must be a number above 0", v)
		}
		d.interval = time.Duration(n) * time.Second
	}
	d.who.Credentials = aws.NewCredentialsCache(logCredentials(s.Options["awslogs-credentials-endpoint"]))
	d.ctx, d.end = context.WithCancel(context.Background())
	return d, d.open(s.Options)
}

// logCredentials are the execution role's, of which the agent has told the place, else the host's.
func logCredentials(path string) aws.CredentialsProvider {
	if path != "" {
		return endpointcreds.New(credentialsHost + path)
	}
	if id, key := os.Getenv("AWS_ACCESS_KEY_ID"), os.Getenv("AWS_SECRET_ACCESS_KEY"); id != "" && key != "" {
		return credentials.NewStaticCredentialsProvider(id, key, os.Getenv("AWS_SESSION_TOKEN"))
	}
	return ec2rolecreds.New()
}

// open makes the stream, and the group where that is asked for. A container whose log can't be had does not start.
func (d *awslogs) open(o map[string]string) error {
	for name, otherwise := range map[string]string{"awslogs-create-stream": "true", "awslogs-create-group": "false"} {
		if v := o[name]; v != "" {
			if _, err := strconv.ParseBool(v); err != nil {
				return fmt.Errorf("option %s is %q; it must be true or false", name, v)
			}
		} else {
			o[name] = otherwise
		}
	}
	create := func(name string) bool { is, _ := strconv.ParseBool(o[name]); return is }
	if !create("awslogs-create-stream") {
		return nil
	}
	ctx, cancel := context.WithTimeout(d.ctx, lastFlush)
	defer cancel()
	err := d.client.CreateLogStream(ctx, d.who, d.endpoint, d.group, d.stream)
	if is(err, "ResourceNotFoundException") && create("awslogs-create-group") {
		if err = d.client.CreateLogGroup(ctx, d.who, d.endpoint, d.group); err == nil || is(err, "ResourceAlreadyExistsException") {
			err = d.client.CreateLogStream(ctx, d.who, d.endpoint, d.group, d.stream)
		}
	}
	if err != nil && !is(err, "ResourceAlreadyExistsException") {
		return fmt.Errorf("awslogs: create log stream %s in group %s: %w", d.stream, d.group, err)
	}
	return nil
}

func is(err error, code string) bool {
	var api *agentapi.APIError
	return errors.As(err, &api) && api.Code == code
}

// multiline is what the first line of an event matches.
func multiline(o map[string]string) (*regexp.Regexp, error) {
	pattern, layout := o["awslogs-multiline-pattern"], o["awslogs-datetime-format"]
	switch {
	case pattern != "" && layout != "":
		return nil, errors.New("options awslogs-multiline-pattern and awslogs-datetime-format exclude each other")
	case layout != "":
		pattern = strftime(layout)
	case pattern == "":
		return nil, nil
	}
	re, err := regexp.Compile(pattern)
	if err != nil {
		return nil, fmt.Errorf("option awslogs-multiline-pattern %q: %w", pattern, err)
	}
	return re, nil
}

// strftime is the expression for what a format of strftime(3) prints.
func strftime(format string) string {
	parts := map[byte]string{
		'A': `\w+`, 'a': `\w+`, 'B': `\w+`, 'b': `\w+`, 'c': `.+`, 'd': `\d{1,2}`, 'f': `\d{1,6}`, 'H': `\d{1,2}`, 'I': `\d{1,2}`, 'j': `\d{1,3}`, 'L': `\.\d{1,3}`,
		'M': `\d{1,2}`, 'm': `\d{1,2}`, 'p': `[AP]M`, 'S': `\d{1,2}`, 'w': `\d`, 'Y': `\d{4}`, 'y': `\d{2}`, 'Z': `\w+`, 'z': `[+-]\d{4}`, '%': `%`,
	}
	var out strings.Builder
	for i := 0; i < len(format); i++ {
		if format[i] == '%' && i+1 < len(format) && parts[format[i+1]] != "" {
			i++
			out.WriteString(parts[format[i]])
			continue
		}
		out.WriteString(regexp.QuoteMeta(format[i : i+1]))
	}
	return out.String()
}

func (d *awslogs) Write(e Entry) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	lost := d.lost
	d.lost = nil
	text := bytes.TrimSuffix(e.Line, []byte("\n"))
	if d.begins != nil && d.begins.Match(text) || d.pending.Len()+len(e.Line) > awsapi.MaxLogEvent {
		lost = errors.Join(lost, d.complete())
	}
	if d.pending.Len() == 0 {
		d.since = e.Time.UnixMilli()
	}
	switch {
	case d.begins != nil:
		d.pending.Write(e.Line)
	default:
		d.pending.Write(text)
		if !e.Partial {
			lost = errors.Join(lost, d.complete())
		}
	}
	if d.timer == nil {
		d.timer = time.AfterFunc(d.interval, d.due)
	}
	return lost
}

// due sends what has waited long enough.
func (d *awslogs) due() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.timer = nil
	d.lost = errors.Join(d.lost, d.complete(), d.flush())
}

// complete puts a whole event into the batch, which it sends if there is no room. The mutex is held.
func (d *awslogs) complete() error {
	if d.pending.Len() == 0 {
		return nil
	}
	text := d.pending.String()
	d.pending.Reset()
	var err error
	for len(text) > 0 {
		n := cut(text, awsapi.MaxLogEvent)
		if len(d.batch) == awsapi.MaxLogEvents || d.bytes+n+awsapi.LogEventOverhead > awsapi.MaxLogBytes {
			err = errors.Join(err, d.flush())
		}
		at := d.since
		if len(d.batch) > 0 { // the service wants their order, and a clock may go back
			at = max(at, d.batch[len(d.batch)-1].Timestamp)
		}
		d.batch = append(d.batch, awsapi.LogEvent{Timestamp: at, Message: text[:n]})
		d.bytes += n + awsapi.LogEventOverhead
		text = text[n:]
	}
	return err
}

// cut is how much of a text fits, without cutting a character.
func cut(text string, limit int) int {
	if len(text) <= limit {
		return len(text)
	}
	n := limit
	for n > limit-utf8.UTFMax && !utf8.RuneStart(text[n]) {
		n--
	}
	return n
}

// flush sends the batch, trying until the service has taken or refused it. The mutex is held: who writes meanwhile waits.
func (d *awslogs) flush() error {
	if len(d.batch) == 0 {
		return nil
	}
	batch := d.batch
	d.batch, d.bytes = nil, 0
	for pause := time.Second; ; pause = min(2*pause, flushInterval) {
		rejected, err := d.client.PutLogEvents(d.ctx, d.who, d.endpoint, d.group, d.stream, batch)
		switch {
		case err == nil && rejected != nil:
			return fmt.Errorf("awslogs: some of %d lines are too old or too new for log group %s", len(batch), d.group)
		case err == nil:
			return nil
		case d.ctx.Err() != nil || refused(err):
			return fmt.Errorf("awslogs: %d lines for %s in log group %s: %w", len(batch), d.stream, d.group, err)
		}
		t := time.NewTimer(pause)
		select {
		case <-t.C:
		case <-d.ctx.Done():
			t.Stop()
		}
	}
}

// refused reports whether sending the same again is of no use.
func refused(err error) bool {
	var api *agentapi.APIError
	return errors.As(err, &api) && api.StatusCode >= http.StatusBadRequest && api.StatusCode < http.StatusInternalServerError && api.StatusCode != http.StatusTooManyRequests &&
		!strings.Contains(api.Code, "Throttl") && !strings.Contains(api.Code, "ExpiredToken")
}

// Close sends what is left; for some time, if the service does not answer.
func (d *awslogs) Close() error {
	stop := time.AfterFunc(lastFlush, d.end)
	defer stop.Stop()
	defer d.end()
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.timer != nil {
		d.timer.Stop()
	}
	return errors.Join(d.lost, d.complete(), d.flush())
}
