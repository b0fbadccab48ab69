package upgrade

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/coder/websocket"

	"github.com/longshore-project/longshore/controlplane/auth"
	"github.com/longshore-project/longshore/protocol/tcs"
)

// joinKey is the host's before it has one of its own.
const joinKey = "AKIAJOIN"

// answerer says a control plane's part of a transcript to today's agent. Calls are answered at once, as soon as they come; frames
// are sent when all that came before them in the transcript has come.
type answerer struct {
	*testing.T
	next  *next
	url   string
	steps []step
	host  *host

	mu    sync.Mutex
	bound bindings
	came  map[int]bool // steps of the agent that it has taken
	heard map[string][]json.RawMessage
	at    int           // the step that is due
	not   map[int]error // why a call was not a step
	conns map[string]*websocket.Conn
}

func TestTodaysAgentRunsUnderTheControlPlanesOfEachVersionThatIsKept(t *testing.T) {
	t.Parallel()
	for name, steps := range transcripts(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			answer(t, steps, nil)
		})
	}
}

func answer(t *testing.T, steps []step, n *next) *answerer {
	t.Helper()
	a := &answerer{T: t, next: n, bound: bindings{}, came: map[int]bool{}, heard: map[string][]json.RawMessage{}, not: map[int]error{}, conns: map[string]*websocket.Conn{}}
	front := httptest.NewServer(a)
	defer front.Close()
	a.url = front.URL
	text, err := json.Marshal(steps)
	if err == nil { // the agent is to come here, and not where the transcript's control plane was
		at := changing.FindString(lookup(steps, "DiscoverPollEndpoint"))
		err = json.Unmarshal([]byte(strings.ReplaceAll(string(text), at, strings.TrimPrefix(front.URL, "http://"))), &a.steps)
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range a.steps { // what the control plane makes, the agent repeats
		if s.From == "control" {
			a.bound.keep(string(s.Body))
		}
		if s.On != operator {
			a.bound.keep(string(s.Answer))
		}
	}
	a.host = newHost(t, front.URL, aws.Credentials{AccessKeyID: joinKey, SecretAccessKey: "secret"})
	a.host.engine.Hang("Pull")
	for i := range a.steps {
		a.mu.Lock()
		a.at = i
		a.mu.Unlock()
		a.go_(i, &a.steps[i])
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, conn := range a.conns {
		_ = conn.CloseNow()
	}
	return a
}

// lookup is the address in an operation's first answer.
func lookup(steps []step, operation string) string {
	for _, s := range steps {
		if s.Name == operation {
			for _, id := range changing.FindAllString(string(s.Answer), -1) {
				if strings.HasPrefix(id, "127.0.0.1:") {
					return id
				}
			}
		}
	}
	return "127.0.0.1:0"
}

// go_ does a step, or waits until the agent has.
func (a *answerer) go_(i int, s *step) {
	a.Helper()
	switch {
	case s.On == machine:
		a.does(s)
	case s.On == operator:
	case s.From == "control" && s.Do == "frame":
		conn := a.conn(s.On)
		if conn == nil {
			a.Fatalf("there is no socket for %s", s)
		}
		for _, frame := range append(a.next.frames(s), a.next.more(s.Body)) {
			ctx, cancel := context.WithTimeout(a.Context(), patience)
			err := conn.Write(ctx, websocket.MessageText, frame)
			cancel()
			if err != nil {
				a.Fatalf("%s: %v", s, err)
			}
		}
	case s.From == "control" && s.Do == "close":
		if conn := a.conn(s.On); conn != nil {
			_ = conn.Close(websocket.StatusCode(max(s.Status, 1001)), "")
		}
	case s.Do == "close", s.Name == "HeartbeatAckRequest", s.Name == "DiscoverPollEndpoint", strings.Contains(string(s.Body), `"status":"PENDING"`):
		// what may come or not
	case s.Do == "call" && slices.ContainsFunc(a.steps[:i], func(was step) bool { return was.Name == s.Name && string(was.Body) == string(s.Body) }):
		// how often it asks is the agent's business
	default:
		a.waits(i, s)
	}
}

func (a *answerer) conn(on string) *websocket.Conn {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.conns[on]
}

func (a *answerer) does(s *step) {
	switch s.Do {
	case "start":
		a.host.start()
	case "stop":
		a.host.stop()
	case "forget": // it has gone, and is another one
		a.mu.Lock()
		for _, conn := range a.conns {
			_ = conn.CloseNow()
		}
		clear(a.conns)
		a.mu.Unlock()
	case "exit":
		if c, ok := a.host.engine.Container(a.lastRun(), "web"); ok {
			a.host.engine.Exit(c.ID, 7)
		}
	}
}

// lastRun is the task that the transcript's administrator ran last.
func (a *answerer) lastRun() (arn string) {
	for _, s := range a.steps[:a.at] {
		if s.Name == "RunTask" {
			var out struct{ Tasks []struct{ TaskArn string } }
			_ = json.Unmarshal(s.Answer, &out)
			arn = out.Tasks[0].TaskArn
		}
	}
	return arn
}

// waits waits until the agent has said all that it said.
func (a *answerer) waits(i int, s *step) {
	a.Helper()
	until(a.T, "the agent says "+s.String(), func() error {
		a.mu.Lock()
		defer a.mu.Unlock()
		if a.came[i] {
			return nil
		}
		err := errors.Join(errors.New("not yet"), a.not[i])
		if s.Do == "frame" {
			for n, frame := range a.heard[s.On] {
				if typeOf(frame) != s.Name {
					continue
				}
				no := a.bound.matches(s.Body, frame)
				if no == nil {
					a.heard[s.On] = append(a.heard[s.On][:n:n], a.heard[s.On][n+1:]...)
					return nil
				}
				err = errors.Join(err, no)
			}
		}
		return err
	}, a.host.log)
}

func (a *answerer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if strings.HasSuffix(r.URL.Path, "/ws") {
		a.socket(w, r)
		return
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	operation := r.Header.Get("X-Amz-Target")
	if _, name, _ := strings.Cut(operation, "."); !strings.HasPrefix(operation, "Longshore") {
		operation = name
	}
	s := a.take(operation, body, !strings.HasPrefix(auth.ClaimedKey(r), joinKey))
	if s == nil { // an operation of which that version knows nothing
		w.Header().Set("X-Amzn-ErrorType", "UnknownOperationException")
		w.WriteHeader(http.StatusBadRequest)
		_, _ = fmt.Fprintf(w, `{"__type":"UnknownOperationException","message":"no %s"}`, operation)
		return
	}
	for name, value := range s.Told {
		w.Header().Set(name, value)
	}
	if a.next != nil {
		w.Header().Set("X-Longshore-Next", "1")
	}
	w.Header().Set("Content-Type", "application/x-amz-json-1.1")
	w.WriteHeader(s.Status)
	_, _ = w.Write(a.next.more(s.Answer))
}

// take is the step that a call is: the first that has not come and says no more than it; else the last of its operation that has
// come. A refusal is said once, when its turn has come.
func (a *answerer) take(operation string, body []byte, own bool) (last *step) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for i := range a.steps {
		s := &a.steps[i]
		if s.On != agentAPI || s.Name != operation || s.Own != own {
			continue
		}
		switch refused := s.Status != http.StatusOK; {
		case a.came[i]:
			last = s
			continue
		case refused && i > a.at+3: // an agent is quicker than who waits for it
			continue
		case refused:
			a.came[i] = true
			return s
		}
		if a.not[i] = a.bound.matches(s.Body, body); a.not[i] == nil {
			a.came[i] = true
			return s
		}
	}
	return last
}

func (a *answerer) socket(w http.ResponseWriter, r *http.Request) {
	on := strings.Trim(strings.TrimSuffix(r.URL.Path, "/ws"), "/")
	s := a.due(r.Context(), on)
	if s == nil {
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	for name, value := range s.Told {
		w.Header().Set(name, value)
	}
	if a.next != nil {
		w.Header().Set("X-Longshore-Next", "1")
	}
	if s.Status != http.StatusSwitchingProtocols {
		w.WriteHeader(s.Status)
		_, _ = w.Write(a.next.more(s.Answer))
		return
	}
	conn, err := websocket.Accept(w, r, &websocket.AcceptOptions{InsecureSkipVerify: true, CompressionMode: websocket.CompressionDisabled})
	if err != nil {
		return
	}
	conn.SetReadLimit(tcs.MaxFrame)
	a.mu.Lock()
	a.conns[on], a.heard[on] = conn, nil
	for i := range a.steps {
		if &a.steps[i] == s {
			a.came[i] = true
		}
	}
	a.mu.Unlock()
	for {
		_, frame, err := conn.Read(context.Background())
		if err != nil {
			return
		}
		if on == tcsWire {
			if _, frame, err = tcs.SplitFrame(frame); err != nil {
				a.Error(err)
				return
			}
		}
		a.mu.Lock()
		a.heard[on] = append(a.heard[on], frame)
		a.mu.Unlock()
	}
}

// due waits for the turn of a socket's next opening, or refusal, nil when there is none.
func (a *answerer) due(ctx context.Context, on string) *step {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		a.mu.Lock()
		var refused *step // as it was refused last, until it is let in
		for i := range a.steps {
			s := &a.steps[i]
			if s.On != on || s.Do != "open" {
				continue
			}
			if a.came[i] {
				refused = nil
				if s.Status >= 400 {
					refused = s
				}
				continue
			}
			if i > a.at && refused != nil {
				a.mu.Unlock()
				return refused
			}
			if i > a.at {
				break
			}
			a.came[i] = s.Status >= 400 // else when it is open
			a.mu.Unlock()
			return s
		}
		a.mu.Unlock()
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}
