package kill

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	dockerevents "github.com/docker/docker/api/types/events"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/client"
)

// taskLabel names the task on a container.
const taskLabel = "com.amazonaws.ecs.task-arn"

// call is one call of the agent.
type call struct {
	Operation string
	Task      string
	Status    string
	Body      string
	Code      int // of the answer; 0 when there was none
	Answer    string
}

// calls are what the agent submitted, in the order of the answers.
type calls struct {
	mu   sync.Mutex
	list []call
}

// proxy passes everything on to target, web sockets too, and notes the calls. A target that does not answer is a closed
// connection for the client, as it is without a proxy.
func (c *calls) proxy(target string, transport http.RoundTripper) http.Handler {
	return &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(&url.URL{Scheme: "http", Host: target})
			r.Out.Host = r.In.Host // it is signed
		},
		Transport:    noting{c, transport},
		ErrorLog:     log.New(io.Discard, "", 0),
		ErrorHandler: func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) },
	}
}

type noting struct {
	calls *calls
	next  http.RoundTripper
}

func (n noting) RoundTrip(r *http.Request) (*http.Response, error) {
	_, operation, _ := strings.Cut(r.Header.Get("X-Amz-Target"), ".")
	if operation == "" || r.Body == nil {
		return n.next.RoundTrip(r)
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	noted := call{Operation: operation, Body: string(body)}
	var in struct{ Task, Status string }
	_ = json.Unmarshal(body, &in)
	noted.Task, noted.Status = in.Task, in.Status
	res, err := n.next.RoundTrip(r)
	if err == nil {
		answer, readErr := io.ReadAll(res.Body)
		_ = res.Body.Close()
		if readErr != nil {
			err = readErr
		} else {
			res.Body = io.NopCloser(bytes.NewReader(answer))
			noted.Code, noted.Answer = res.StatusCode, string(answer)
		}
	}
	n.calls.mu.Lock()
	n.calls.list = append(n.calls.list, noted)
	n.calls.mu.Unlock()
	return res, err
}

// accepted are the calls of an operation for a task that were answered with 200.
func (c *calls) accepted(operation, task string) (found []call) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, one := range c.list {
		if one.Operation == operation && one.Task == task && one.Code == http.StatusOK {
			found = append(found, one)
		}
	}
	return found
}

// event is what happened to a container of a task.
type event struct {
	Action    string
	Container string
	At        time.Time
}

// events are what the engine told about containers of tasks.
type events struct {
	mu     sync.Mutex
	byTask map[string][]event
	seen   map[string]bool
}

// listen notes the engine's events until the test ends. After a break it asks for what it missed.
func listen(t *testing.T, engine *client.Client) *events {
	t.Helper()
	e := &events{byTask: map[string][]event{}, seen: map[string]bool{}}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	since := time.Now()
	var wg sync.WaitGroup
	wg.Go(func() {
		for ctx.Err() == nil {
			messages, errs := engine.Events(ctx, dockerevents.ListOptions{Since: strconv.FormatInt(since.Unix()-1, 10),
				Filters: filters.NewArgs(filters.Arg("type", "container"), filters.Arg("label", taskLabel))})
			for broken := false; !broken; {
				select {
				case m := <-messages:
					e.note(m)
				case <-errs:
					broken = true
				}
			}
			select {
			case <-ctx.Done():
			case <-time.After(20 * time.Millisecond):
			}
		}
	})
	t.Cleanup(func() { cancel(); wg.Wait() })
	return e
}

func (e *events) note(m dockerevents.Message) {
	e.mu.Lock()
	defer e.mu.Unlock()
	key := string(m.Action) + m.Actor.ID + strconv.FormatInt(m.TimeNano, 10)
	if e.seen[key] {
		return
	}
	e.seen[key] = true
	task := m.Actor.Attributes[taskLabel]
	e.byTask[task] = append(e.byTask[task], event{string(m.Action), m.Actor.ID, time.Unix(0, m.TimeNano)})
}

// of are the events of a task with one of these actions.
func (e *events) of(task string, actions ...string) (found []event) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, one := range e.byTask[task] {
		for _, a := range actions {
			if one.Action == a {
				found = append(found, one)
			}
		}
	}
	return found
}
