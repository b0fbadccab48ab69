package logprocess

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials/ec2rolecreds"
	"github.com/aws/aws-sdk-go-v2/credentials/endpointcreds"

	"github.com/longshore-project/longshore/engine/logdriver"
	"github.com/longshore-project/longshore/protocol/agentapi"
	"github.com/longshore-project/longshore/protocol/awsapi"
)

// awslogs sends to CloudWatch Logs, in calls as large as they may be, at the latest when the oldest line is five seconds old. Nothing is written
// to the disk. One batch is filled while another is on its way, which is tried until the service takes or refuses it; when the one is full and the
// other still on its way the container waits, or in the non-blocking mode lines are dropped.
//
//	Write ─► pending, an event that may go on, of each stream ─► batch ─► send: a goroutine
type awslogs struct {
	client   *awsapi.Client
	to       awsapi.LogStream
	create   func(context.Context) error // makes the stream; nil where that is not ours to do
	keys     *aws.CredentialsCache
	begins   *regexp.Regexp // the first line of an event; nil: each line is one
	interval time.Duration
	report   func(error)

	mu      sync.Mutex
	changed *sync.Cond // of what follows
	pending map[string]*event
	batch   []awsapi.LogEvent
	bytes   int
	due     bool // what has waited must go
	over    bool // nothing more comes
	timer   *time.Timer

	ctx  context.Context // ends when the last call must
	end  context.CancelFunc
	sent chan struct{} // closed when all is
}

// event is one that may go on.
type event struct {
	text  bytes.Buffer
	since time.Time
}

const (
	flushInterval = 5 * time.Second
	openTimeout   = 30 * time.Second // for the stream to be made
	// lastFlush is how long the end of a container waits for the service. containerd's shim kills a log process that takes 12 s.
	lastFlush       = 10 * time.Second
	credentialsHost = "http://169.254.170.2"
	sharedFile      = "/root/.aws/credentials"
)

func newAWSLogs(s logdriver.Settings) (Driver, error) {
	o := s.Options
	d := &awslogs{
		client:   awsapi.New(awsapi.Config{UserAgent: "longshore-log"}),
		to:       awsapi.LogStream{Endpoint: o["awslogs-endpoint"], Group: o["awslogs-group"], Name: o["awslogs-stream"], Format: o["awslogs-format"]},
		interval: flushInterval, report: func(error) {}, pending: map[string]*event{}, sent: make(chan struct{}),
	}
	d.changed = sync.NewCond(&d.mu)
	if d.to.Region = cmp.Or(o["awslogs-region"], os.Getenv("AWS_REGION")); d.to.Region == "" || d.to.Group == "" {
		return nil, errors.New("awslogs: options awslogs-region and awslogs-group are needed")
	}
	if f := d.to.Format; f != "" && f != "json/emf" {
		return nil, fmt.Errorf("option awslogs-format is %q; it must be json/emf", f)
	}
	var err error
	if d.to.Name == "" {
		d.to.Name = s.Container.FullID()
		if _, given := o["tag"]; given {
			if d.to.Name, err = tag(s); err != nil {
				return nil, err
			}
		}
	}
	if d.begins, err = multiline(o); err != nil {
		return nil, err
	}
	if d.begins != nil && d.to.Format != "" {
		return nil, errors.New("option awslogs-format excludes awslogs-multiline-pattern and awslogs-datetime-format")
	}
	if v, given := o["awslogs-force-flush-interval-seconds"]; given {
		n, err := strconv.Atoi(v)
		if err != nil || n <= 0 {
			return nil, fmt.Errorf("option awslogs-force-flush-interval-seconds is %q; it must be a number above 0", v)
		}
		d.interval = time.Duration(n) * time.Second
	}
	d.keys = aws.NewCredentialsCache(logCredentials(o["awslogs-credentials-endpoint"]))
	d.to.Credentials = d.keys
	d.ctx, d.end = context.WithCancel(context.Background())
	if err := d.open(o); err != nil {
		d.end()
		return nil, err
	}
	go d.send()
	return d, nil
}

// logCredentials are the execution role's, of which the agent has told the place. Else they are the host's own: of the environment that the engine
// gives this process, of root's shared file, or of the instance's role.
func logCredentials(path string) aws.CredentialsProvider {
	if path != "" {
		return endpointcreds.New(credentialsHost + path)
	}
	role := ec2rolecreds.New()
	return aws.CredentialsProviderFunc(func(ctx context.Context) (aws.Credentials, error) {
		if id, key := os.Getenv("AWS_ACCESS_KEY_ID"), os.Getenv("AWS_SECRET_ACCESS_KEY"); id != "" && key != "" {
			return aws.Credentials{AccessKeyID: id, SecretAccessKey: key, SessionToken: os.Getenv("AWS_SESSION_TOKEN"), Source: "environment"}, nil
		}
		found, fileErr := awsapi.FileKey(cmp.Or(os.Getenv("AWS_SHARED_CREDENTIALS_FILE"), sharedFile), cmp.Or(os.Getenv("AWS_PROFILE"), "default"))
		if fileErr == nil {
			return found, nil
		}
		found, err := role.Retrieve(ctx)
		if err != nil {
			return found, fmt.Errorf("no credentials for awslogs: give the task an executionRoleArn, or the host an access key or a role: %w", errors.Join(fileErr, err))
		}
		return found, nil
	})
}

// open makes the stream, and the group where that is asked for. A container whose log can't be had does not start.
func (d *awslogs) open(o map[string]string) error {
	choice := func(name string, otherwise bool) (bool, error) {
		v := o[name]
		if v == "" {
			return otherwise, nil
		}
		chosen, err := strconv.ParseBool(v)
		if err != nil {
			return false, fmt.Errorf("option %s is %q; it must be true or false", name, v)
		}
		return chosen, nil
	}
	group, err := choice("awslogs-create-group", false)
	if err != nil {
		return err
	}
	stream, err := choice("awslogs-create-stream", true)
	if err != nil || !stream {
		return err
	}
	d.create = func(ctx context.Context) error {
		err := d.client.CreateLogStream(ctx, d.to)
		if is(err, "ResourceNotFoundException") && group {
			if err = d.client.CreateLogGroup(ctx, d.to); err == nil || is(err, "ResourceAlreadyExistsException") {
				err = d.client.CreateLogStream(ctx, d.to)
			}
		}
		if err != nil && !is(err, "ResourceAlreadyExistsException") {
			return fmt.Errorf("awslogs: create log stream %s in group %s: %w", d.to.Name, d.to.Group, err)
		}
		return nil
	}
	ctx, cancel := context.WithTimeout(d.ctx, openTimeout)
	defer cancel()
	return d.create(ctx)
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

// Report has losses told that become known when no line is written.
func (d *awslogs) Report(f func(error)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.report = f
}

// Write takes a line. It waits while there is no room for it.
func (d *awslogs) Write(e Entry) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	text := bytes.TrimSuffix(e.Line, []byte("\n"))
	p := d.pending[e.Stream]
	if p == nil {
		p = &event{}
		d.pending[e.Stream] = p
	}
	if d.begins != nil && d.begins.Match(text) || p.text.Len()+len(e.Line) > awsapi.MaxLogEvent {
		d.complete(p)
	}
	if p.text.Len() == 0 {
		p.since = e.Time
	}
	if d.begins != nil {
		p.text.Write(e.Line)
	} else if p.text.Write(text); !e.Partial {
		d.complete(p)
	}
	if d.timer == nil && !d.over {
		d.timer = time.AfterFunc(d.interval, d.ripe)
	}
	return nil
}

// ripe has sent what has waited long enough. An event that may go on waits for its own time.
func (d *awslogs) ripe() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.timer = nil
	for _, p := range d.pending {
		if p.text.Len() > 0 && time.Since(p.since) >= d.interval {
			d.complete(p)
		} else if p.text.Len() > 0 && d.timer == nil && !d.over {
			d.timer = time.AfterFunc(max(0, d.interval-time.Since(p.since)), d.ripe)
		}
	}
	d.due = true
	d.changed.Broadcast()
}

// complete puts a whole event into the batch, and waits for room in it. The mutex is held, and let go of meanwhile.
func (d *awslogs) complete(p *event) {
	text, at := strings.ToValidUTF8(p.text.String(), "\uFFFD"), p.since.UnixMilli()
	p.text.Reset()
	for len(text) > 0 {
		n := cut(text, awsapi.MaxLogEvent)
		for !d.fits(n, at) && d.ctx.Err() == nil {
			d.due = true
			d.changed.Broadcast()
			d.changed.Wait()
		}
		d.batch = append(d.batch, awsapi.LogEvent{Timestamp: at, Message: text[:n]})
		d.bytes += n + awsapi.LogEventOverhead
		text = text[n:]
	}
}

// fits reports whether the batch has room for an event of n bytes.
func (d *awslogs) fits(n int, at int64) bool {
	return len(d.batch) == 0 || len(d.batch) < awsapi.MaxLogEvents && d.bytes+n+awsapi.LogEventOverhead <= awsapi.MaxLogBytes && max(at-d.batch[0].Timestamp, d.batch[0].Timestamp-at) < awsapi.MaxLogSpan/2
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

// send sends batch after batch, until nothing more comes.
func (d *awslogs) send() {
	defer close(d.sent)
	token := ""
	for {
		d.mu.Lock()
		for !d.over && (!d.due || len(d.batch) == 0) {
			d.due = d.due && len(d.batch) > 0
			d.changed.Wait()
		}
		batch, report, over := d.batch, d.report, d.over
		d.batch, d.bytes, d.due = nil, 0, false
		d.changed.Broadcast()
		d.mu.Unlock()
		if len(batch) > 0 {
			// The service wants them in order; the streams' events come in that of their ends, and a clock may go back.
			slices.SortStableFunc(batch, func(a, b awsapi.LogEvent) int { return cmp.Compare(a.Timestamp, b.Timestamp) })
			var err error
			if token, err = d.put(token, batch); err != nil {
				report(err)
			}
		} else if over {
			return
		}
	}
}

// put sends a batch, trying until the service has taken or refused it, or the time is over. The token is for the next one.
func (d *awslogs) put(token string, batch []awsapi.LogEvent) (string, error) {
	lost := func(n int, err error) error {
		return &Lost{n, fmt.Errorf("awslogs: %d of %d lines for %s in log group %s: %w", n, len(batch), d.to.Name, d.to.Group, err)}
	}
	made, renewed := false, false
	for pause := time.Second; ; pause = min(2*pause, flushInterval) {
		next, rejected, err := d.client.PutLogEvents(d.ctx, d.to, token, batch)
		switch n := rejected.Count(len(batch)); {
		case err == nil && n > 0:
			return next, lost(n, errors.New("they are too old or too new for it"))
		case err == nil, is(err, "DataAlreadyAcceptedException"):
			return next, nil
		case d.ctx.Err() != nil:
			return token, lost(len(batch), fmt.Errorf("the container has ended, and the service did not take them within %s: %w", lastFlush, err))
		case is(err, "InvalidSequenceTokenException") && expected(err) != token:
			token = expected(err)
			continue
		case is(err, "ResourceNotFoundException") && d.create != nil && !made: // somebody has removed it
			made = true
			if err := d.create(d.ctx); err != nil && refused(err) {
				return token, lost(len(batch), err)
			}
			continue
		case (is(err, "ExpiredTokenException") || is(err, "UnrecognizedClientException")) && !renewed:
			renewed = true
			d.keys.Invalidate()
			continue
		case refused(err):
			return token, lost(len(batch), err)
		}
		t := time.NewTimer(pause)
		select {
		case <-t.C:
		case <-d.ctx.Done():
			t.Stop()
		}
	}
}

// expected is the token that a service asks for that still wants one; it is the last word of what it says.
func expected(err error) string {
	var api *agentapi.APIError
	if !errors.As(err, &api) {
		return ""
	}
	words := strings.Fields(api.Message)
	if len(words) == 0 || words[len(words)-1] == "null" {
		return ""
	}
	return words[len(words)-1]
}

// refused reports whether sending the same again is of no use.
func refused(err error) bool {
	var api *agentapi.APIError
	return errors.As(err, &api) && !api.Retryable() && api.StatusCode >= http.StatusBadRequest && api.StatusCode != http.StatusTooManyRequests
}

// Close sends what is left; for some time, if the service does not answer.
func (d *awslogs) Close() error {
	stop := time.AfterFunc(lastFlush, d.end)
	defer stop.Stop()
	defer d.end()
	wake := context.AfterFunc(d.ctx, func() { // who waits for room goes on
		d.mu.Lock()
		defer d.mu.Unlock()
		d.changed.Broadcast()
	})
	defer wake()
	d.mu.Lock()
	if d.timer != nil {
		d.timer.Stop()
	}
	for _, p := range d.pending {
		d.complete(p)
	}
	d.over = true
	d.changed.Broadcast()
	d.mu.Unlock()
	<-d.sent
	return nil
}
