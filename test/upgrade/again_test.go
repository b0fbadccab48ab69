package upgrade

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
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

// speaker says an agent's and an administrator's part of a transcript to today's control plane.
type speaker struct {
	*plane
	next  *next // what the version after the transcript's says beside; nil: nothing
	bound bindings
	own   aws.Credentials
	open  map[string]*line // by socket
}

// line is a web socket, and what came over it that the transcript has not.
type line struct {
	conn  *websocket.Conn
	url   string
	ended chan struct{}

	mu   sync.Mutex
	came []json.RawMessage
	code websocket.StatusCode
}

func (l *line) read() {
	defer close(l.ended)
	for {
		_, frame, err := l.conn.Read(context.Background())
		l.mu.Lock()
		if err != nil {
			l.code = websocket.CloseStatus(err)
			l.mu.Unlock()
			return
		}
		l.came = append(l.came, frame)
		l.mu.Unlock()
	}
}

func TestTodaysControlPlaneServesTheAgentsOfEachVersionThatIsKept(t *testing.T) {
	t.Parallel()
	for name, steps := range transcripts(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			speak(t, steps, nil)
		})
	}
}

func speak(t *testing.T, steps []step, n *next) *speaker {
	t.Helper()
	s := &speaker{plane: newPlane(t), next: n, bound: bindings{}, open: map[string]*line{}}
	t.Cleanup(s.hangUp)
	for i := range steps {
		s.say(&steps[i])
	}
	return s
}

func (s *speaker) hangUp() {
	for _, l := range s.open {
		_ = l.conn.CloseNow()
		<-l.ended
	}
	clear(s.open)
}

func (s *speaker) url() string { return "http://" + s.address }

// signer is who signed a step.
func (s *speaker) signer(of *step) aws.Credentials {
	switch {
	case of.On == operator:
		return s.key(auth.AdminFile)
	case of.Own:
		return s.own
	}
	return s.key(auth.HostFile)
}

func (s *speaker) say(of *step) {
	s.Helper()
	switch of.On + " " + of.Do {
	case "machine rotate":
		s.rotate()
	case "machine forget":
		s.forget()
	case "machine start", "machine stop", "machine exit":
	case "operator call", "agent call":
		s.calls(of)
	case "acs open", "tcs open":
		s.opens(of)
	case "acs close", "tcs close":
		s.closes(of)
	case "acs frame", "tcs frame":
		if l := s.open[of.On]; l == nil {
			s.Fatalf("there is no socket for %s", of)
		} else if of.From == agentAPI {
			s.sends(of, l)
		} else {
			s.hears(of, l)
		}
	default:
		s.Fatalf("what is %s", of)
	}
}

// calls makes a call. Questions are asked until their answer is the one that they had.
func (s *speaker) calls(of *step) {
	s.Helper()
	name := of.Name
	if !strings.Contains(name, ".") {
		name = target(name)
	}
	body, header := []byte(s.bound.translate(string(of.Body))), of.Header
	if of.On != operator {
		body, header = s.next.agent(body, header)
	}
	asks := of.On == operator && (strings.HasPrefix(of.Name, "Describe") || strings.HasPrefix(of.Name, "List"))
	until(s.T, "a call is answered as it was: "+of.String(), func() error {
		answer, text, err := s.send(s.signer(of), s.url(), name, body, header, of.Hours)
		if err == nil && answer.StatusCode != of.Status {
			err = fmt.Errorf("%s: %s", answer.Status, text)
		}
		if err == nil {
			err = s.told(of, answer.Header)
		}
		if err == nil && of.Status == http.StatusOK {
			err = s.bound.matches(of.Answer, text)
		}
		if err != nil && !asks {
			s.Fatalf("%s, said as %s: %v", of, body, err)
		}
		if of.Name == "LongshoreV1.HostKey" && err == nil {
			var own struct{ AccessKeyID, SecretAccessKey string }
			if err := json.Unmarshal(text, &own); err != nil {
				return err
			}
			s.own = aws.Credentials{AccessKeyID: own.AccessKeyID, SecretAccessKey: own.SecretAccessKey}
		}
		return err
	})
}

// told holds an answer to the headers that it had.
func (s *speaker) told(of *step, h http.Header) error {
	for name := range of.Told {
		if h.Get(name) == "" {
			return fmt.Errorf("the answer has no header %s", name)
		}
	}
	return nil
}

func (s *speaker) opens(of *step) {
	s.Helper()
	ctx, cancel := context.WithTimeout(s.Context(), patience)
	defer cancel()
	header := of.Header
	query := s.bound.translate(of.Query)
	if s.next != nil {
		_, header = s.next.agent(nil, header)
		query += "&longshoreNext=1"
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url()+"/"+of.On+"/ws?"+query, nil)
	if err != nil {
		s.Fatal(err)
	}
	for name, value := range header {
		r.Header.Set(name, value)
	}
	if err := sign(ctx, s.signer(of), r, nil, of.Hours); err != nil {
		s.Fatal(err)
	}
	conn, answer, err := websocket.Dial(ctx, r.URL.String(), &websocket.DialOptions{HTTPHeader: r.Header, HTTPClient: s.web})
	if answer == nil || answer.StatusCode != of.Status {
		s.Fatalf("%s: %v", of, err)
	}
	if err := s.told(of, answer.Header); err != nil {
		s.Fatalf("%s: %v", of, err)
	}
	if conn == nil {
		return
	}
	conn.SetReadLimit(tcs.MaxFrame)
	l := &line{conn: conn, url: r.URL.String(), ended: make(chan struct{})}
	s.open[of.On] = l
	go l.read()
}

// sends sends a frame, and before it one of a type that nobody knows yet.
func (s *speaker) sends(of *step, l *line) {
	s.Helper()
	body, _ := s.next.agent([]byte(s.bound.translate(string(of.Body))), nil)
	frames := append(s.next.frames(of), body)
	for _, frame := range frames {
		if of.On == tcsWire {
			frame = tcs.Frame(http.Header{"X-Amz-Date": {"20260101T000000Z"}}, frame)
		}
		ctx, cancel := context.WithTimeout(s.Context(), patience)
		err := l.conn.Write(ctx, websocket.MessageText, frame)
		cancel()
		if err != nil {
			s.Fatalf("%s: %v", of, err)
		}
	}
}

// hears waits for a frame that says all that the transcript's did.
func (s *speaker) hears(of *step, l *line) {
	s.Helper()
	var last error
	until(s.T, "the control plane says "+of.String(), func() error {
		l.mu.Lock()
		defer l.mu.Unlock()
		for i, frame := range l.came {
			if typeOf(frame) != of.Name {
				continue
			}
			if last = s.bound.matches(of.Body, frame); last == nil {
				l.came = slices.Delete(l.came, i, i+1)
				return nil
			}
		}
		return errors.Join(errors.New("not yet"), last)
	})
}

func (s *speaker) closes(of *step) {
	s.Helper()
	l := s.open[of.On]
	if l == nil {
		s.Fatalf("there is no socket for %s", of)
	}
	delete(s.open, of.On)
	if of.From == agentAPI {
		_ = l.conn.CloseNow()
	}
	select {
	case <-l.ended:
	case <-time.After(patience):
		s.Fatalf("the socket does not end: %s", of)
	}
	if of.From == "control" && of.Status > 0 && int(l.code) != of.Status {
		s.Errorf("the socket ended with %d: %s", l.code, of)
	}
}
