package local

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/coder/websocket"

	"github.com/longshore-project/longshore/engine"
	"github.com/longshore-project/longshore/engine/execstream"
)

// brokeTrailer is the trailer of an answer that broke off: why.
const brokeTrailer = "Longshore-Error"

// Logs is the query of GET /v1/logs.
type Logs struct {
	Task, Container string // the container may be empty where there is but one
	engine.LogOptions
}

// query is the form that it has in a URL.
func (l Logs) query() string {
	q := url.Values{"task": {l.Task}, "container": {l.Container}, "lines": {strconv.Itoa(l.Lines)}, "follow": {strconv.FormatBool(l.Follow)}, "times": {strconv.FormatBool(l.Times)}}
	if !l.Since.IsZero() {
		q.Set("since", l.Since.Format(time.RFC3339Nano))
	}
	return q.Encode()
}

// LogsOf reads the query of a request.
func LogsOf(r *http.Request) (Logs, error) {
	q := r.URL.Query()
	l := Logs{Task: q.Get("task"), Container: q.Get("container")}
	var errs [4]error
	l.Lines, errs[0] = strconv.Atoi(q.Get("lines"))
	l.Follow, errs[1] = strconv.ParseBool(q.Get("follow"))
	l.Times, errs[2] = strconv.ParseBool(q.Get("times"))
	if since := q.Get("since"); since != "" {
		l.Since, errs[3] = time.Parse(time.RFC3339Nano, since)
	}
	return l, errors.Join(errs[:]...)
}

// Stream answers with what f writes, as it comes. An error before anything is written is the answer; one after it breaks the answer off, and
// [Client.Logs] returns it.
func Stream(w http.ResponseWriter, f func(io.Writer) error) {
	control := http.NewResponseController(w)
	// It may take as long as it is wanted.
	_ = errors.Join(control.SetReadDeadline(time.Time{}), control.SetWriteDeadline(time.Time{}))
	out := &flushed{w: w, flush: control.Flush}
	switch err := f(out); {
	case err == nil && !out.begun:
		w.WriteHeader(http.StatusOK)
	case err != nil && !out.begun:
		Refuse(w, http.StatusConflict, err)
	case err != nil:
		w.Header().Set(http.TrailerPrefix+brokeTrailer, url.QueryEscape(err.Error()))
	}
}

// flushed passes on each piece at once.
type flushed struct {
	w     io.Writer
	flush func() error
	begun bool
}

func (f *flushed) Write(b []byte) (int, error) {
	f.begun = true
	n, err := f.w.Write(b)
	if err == nil {
		err = f.flush()
	}
	return n, err
}

// Logs copies a container's output to w.
func (c Client) Logs(ctx context.Context, l Logs, w io.Writer) error {
	speak, done, err := c.open()
	if err != nil {
		return err
	}
	defer done()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://longshore-agent/v1/logs?"+l.query(), nil)
	if err != nil {
		return err
	}
	answer, err := speak.Do(r)
	if err != nil {
		return asked(err)
	}
	defer func() { _ = answer.Body.Close() }()
	if answer.StatusCode != http.StatusOK {
		return refused(answer)
	}
	if _, err := io.Copy(w, answer.Body); err != nil {
		return fmt.Errorf("the answer broke off, as it does when the agent ends: %w", err)
	}
	if text, err := url.QueryUnescape(answer.Trailer.Get(brokeTrailer)); err == nil && text != "" {
		return errors.New(text)
	}
	return nil
}

// Exec has the agent run a process in a container, as engine.Runtime.Exec does.
func (c Client) Exec(ctx context.Context, s execstream.Start) (int, error) {
	speak, done, err := c.open()
	if err != nil {
		return 0, err
	}
	defer done()
	ws, answer, err := websocket.Dial(ctx, "http://longshore-agent/v1/exec", &websocket.DialOptions{HTTPClient: speak})
	switch {
	case err != nil && answer != nil && answer.Body != nil:
		defer func() { _ = answer.Body.Close() }()
		return 0, refused(answer)
	case err != nil:
		return 0, asked(err)
	}
	return execstream.Run(ctx, ws, s)
}

// Choose finds a container by its name; without one, the task's only one. Those that the agent adds do not count.
func (t *Task) Choose(name string) (*Container, error) {
	var names []string
	var only *Container
	for i := range t.Containers {
		c := &t.Containers[i]
		if c.Name == name {
			return c, nil
		}
		if !engine.Internal(c.Name) {
			names, only = append(names, c.Name), c
		}
	}
	slices.Sort(names)
	switch {
	case name != "":
		return nil, fmt.Errorf("task %s has no container %q; it has: %s", t.ID, name, strings.Join(names, ", "))
	case len(names) > 1:
		return nil, fmt.Errorf("task %s has %d containers, name one: %s", t.ID, len(names), strings.Join(names, ", "))
	case only == nil:
		return nil, fmt.Errorf("task %s has no containers", t.ID)
	}
	return only, nil
}
