// Package audit is the log of who was given credentials, and who has run what in a container: one line for each request to the credentials
// endpoint, for each request that was one too many, and for each process that is run in a container. It is ECS's:
//
//	<time> <status> <client> "<path>" "<user agent>" <task ARN> <event> <version> <cluster> <instance ARN>
//
// A path is written without the id in it, and what a client chose is quoted and cut, so that no secret and no line of a
// client's own gets in. Source: agent-protocol section 8.4.
package audit

import (
	"io"
	"strconv"
	"strings"
	"sync"
	"time"
)

// The events.
const (
	GetCredentials              = "GetCredentials"
	GetCredentialsExecutionRole = "GetCredentialsExecutionRole"
	GetCredentialsInvalidRole   = "GetCredentialsInvalidRoleType"
	ExecuteCommand              = "ExecuteCommand" // ours: somebody on this host runs a process in a container
)

// version is that of the line's form.
const version = "2"

// Entry is one line.
type Entry struct {
	Status    int
	Client    string // address and port, or a process of this host
	Path      string // without ids
	UserAgent string
	TaskArn   string // empty: not known
	Event     string
}

// Log writes lines. A nil *Log writes none. It is safe for concurrent use.
type Log struct {
	mu       sync.Mutex
	w        io.WriteCloser
	instance func() (cluster, arn string)
	now      func() time.Time
}

// New makes a log that writes to w, which rotates. instance says who this host is; the ARN is empty before the registration.
func New(w io.WriteCloser, instance func() (cluster, arn string)) *Log {
	return &Log{w: w, instance: instance, now: time.Now}
}

// Write writes a line.
func (l *Log) Write(e Entry) error {
	if l == nil {
		return nil
	}
	cluster, arn := l.instance()
	line := strings.Join([]string{
		l.now().UTC().Format(time.RFC3339), strconv.Itoa(e.Status), word(e.Client), quoted(e.Path), quoted(e.UserAgent),
		word(e.TaskArn), word(e.Event), version, word(cluster), word(arn),
	}, " ") + "\n"
	l.mu.Lock()
	defer l.mu.Unlock()
	_, err := io.WriteString(l.w, line)
	return err
}

// Close closes the file.
func (l *Log) Close() error {
	if l == nil {
		return nil
	}
	return l.w.Close()
}

const maxText = 256

func quoted(s string) string {
	if len(s) > maxText {
		s = strings.ToValidUTF8(s[:maxText], "")
	}
	return strconv.QuoteToASCII(s)
}

// word is a field without blanks; a minus where there is nothing to say.
func word(s string) string {
	if s == "" || strings.ContainsAny(s, " \t\r\n\"") {
		return "-"
	}
	return s
}
