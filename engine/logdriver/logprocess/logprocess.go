// Package logprocess is what a container's log process does: it takes the output that it is given to a driver. Package logdriver has the model.
package logprocess

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"text/template"
	"time"

	"github.com/longshore-project/longshore/engine/logdriver"
)

// Entry is a line of output, or a part of one that is too long.
type Entry struct {
	Time    time.Time
	Stream  string // stdout or stderr
	Line    []byte // with its newline; a part has none. It is valid until the next one is read.
	Partial bool
}

// Driver takes entries somewhere. It is called by one goroutine. One that learns of losses later also has Report(func(error)), which is called
// before the first Write.
type Driver interface {
	Write(e Entry) error
	Close() error
}

// Lost is an error that several lines have had.
type Lost struct {
	Lines int
	Err   error
}

// Error says why.
func (l *Lost) Error() string { return l.Err.Error() }

// Unwrap is why.
func (l *Lost) Unwrap() error { return l.Err }

// makers make the drivers that package logdriver names.
var makers = map[string]func(logdriver.Settings) (Driver, error){
	"json-file": newJSONFile, "journald": newJournal, "syslog": newSyslog, "fluentd": newFluentd, "awslogs": newAWSLogs,
	"none": func(logdriver.Settings) (Driver, error) { return none{}, nil },
}

// New makes a driver.
func New(s logdriver.Settings) (Driver, error) {
	if err := logdriver.Check(s.Driver, s.Options); err != nil {
		return nil, err
	}
	return makers[s.Driver](s)
}

type none struct{}

func (none) Write(Entry) error { return nil }
func (none) Close() error      { return nil }

// tag is what a driver calls the container by: a template, or the short id.
func tag(s logdriver.Settings) (string, error) {
	text, given := s.Options["tag"]
	if !given {
		return s.Container.ID(), nil
	}
	t, err := template.New("tag").Parse(text)
	if err != nil {
		return "", fmt.Errorf("option tag %q: %w", text, err)
	}
	var out strings.Builder
	if err := t.Execute(&out, s.Container); err != nil {
		return "", fmt.Errorf("option tag %q: %w", text, err)
	}
	return out.String(), nil
}

// extra are the labels and variables of the container that the options labels, labels-regex, env and env-regex name.
func extra(s logdriver.Settings, key func(string) string) (map[string]string, error) {
	out := map[string]string{}
	take := func(names, pattern string, all func(func(k, v string))) error {
		var re *regexp.Regexp
		if pattern != "" {
			var err error
			if re, err = regexp.Compile(pattern); err != nil {
				return err
			}
		}
		wanted := strings.Split(names, ",")
		all(func(k, v string) {
			if names != "" && slices.Contains(wanted, k) || re != nil && re.MatchString(k) {
				out[key(k)] = v
			}
		})
		return nil
	}
	if err := take(s.Options["labels"], s.Options["labels-regex"], func(f func(k, v string)) {
		for k, v := range s.Container.Labels {
			f(k, v)
		}
	}); err != nil {
		return nil, fmt.Errorf("option labels-regex: %w", err)
	}
	if err := take(s.Options["env"], s.Options["env-regex"], func(f func(k, v string)) {
		for _, kv := range s.Container.Env {
			k, v, _ := strings.Cut(kv, "=")
			f(k, v)
		}
	}); err != nil {
		return nil, fmt.Errorf("option env-regex: %w", err)
	}
	return out, nil
}
