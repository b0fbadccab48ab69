package ecsagent_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/gorilla/websocket"

	"github.com/longshore-project/longshore/test/ecsagent"
)

const (
	stageCluster  = "arn:aws:ecs:us-east-1:123456789012:cluster/default"
	stageInstance = "arn:aws:ecs:us-east-1:123456789012:container-instance/default/0123456789abcdef0123456789abcdef"
	stageTask     = "arn:aws:ecs:us-east-1:123456789012:task/default/"
)

// stage is a scripted control plane: the tests of the simulation itself say what it answers.
type stage struct {
	*testing.T
	web *httptest.Server
	// answer overrides the answer of an operation's nth call (from 1); an empty body is the usual answer.
	answer func(operation string, n int, body []byte) (status int, answer string)
	prefix string // of the sockets, with or without a slash at its end
	refuse string // body of a refused handshake

	mu    sync.Mutex
	calls []stageCall
	acs   chan *websocket.Conn
	tcs   chan *websocket.Conn
	opens []*http.Request
}

type stageCall struct {
	operation string
	header    http.Header
	body      string
}

func newStage(t *testing.T) *stage {
	s := &stage{T: t, prefix: "/", acs: make(chan *websocket.Conn, 100), tcs: make(chan *websocket.Conn, 100)}
	s.web = httptest.NewServer(http.HandlerFunc(s.serve))
	t.Cleanup(s.web.Close)
	return s
}

func (s *stage) serve(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodGet {
		s.open(w, r)
		return
	}
	body, _ := io.ReadAll(r.Body)
	operation := strings.TrimPrefix(r.Header.Get("X-Amz-Target"), "AmazonEC2ContainerServiceV20141113.")
	r.Header.Set("Host", r.Host)
	s.mu.Lock()
	s.calls = append(s.calls, stageCall{operation, r.Header, string(body)})
	n := 0
	for _, c := range s.calls {
		if c.operation == operation {
			n++
		}
	}
	s.mu.Unlock()
	status, answer := http.StatusOK, ""
	if s.answer != nil {
		status, answer = s.answer(operation, n, body)
	}
	if answer == "" {
		status, answer = http.StatusOK, s.usual(operation, body)
	}
	w.WriteHeader(status)
	_, _ = io.WriteString(w, answer)
}

func (s *stage) usual(operation string, body []byte) string {
	switch operation {
	case "RegisterContainerInstance":
		var in struct {
			Attributes json.RawMessage `json:"attributes"`
		}
		_ = json.Unmarshal(body, &in)
		return fmt.Sprintf(`{"containerInstance":{"containerInstanceArn":%q,"attributes":%s}}`, stageInstance, in.Attributes)
	case "DiscoverPollEndpoint":
		return fmt.Sprintf(`{"endpoint":%q,"telemetryEndpoint":%q}`, s.web.URL+"/a"+s.prefix, s.web.URL+"/t"+s.prefix)
	}
	return `{"acknowledgment":"x"}`
}

func (s *stage) open(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	s.opens = append(s.opens, r)
	refuse := s.refuse
	s.mu.Unlock()
	if refuse != "" {
		w.WriteHeader(http.StatusBadRequest)
		_, _ = io.WriteString(w, refuse)
		return
	}
	conn, err := (&websocket.Upgrader{}).Upgrade(w, r, nil)
	if err != nil {
		return
	}
	switch r.URL.Path {
	case "/a" + strings.TrimSuffix(s.prefix, "/") + "/ws":
		s.acs <- conn
	case "/t" + strings.TrimSuffix(s.prefix, "/") + "/ws":
		s.tcs <- conn
	default:
		s.Errorf("a socket at %s", r.URL.Path)
		conn.Close()
	}
}

// called are the calls of an operation, of which it waits for n.
func (s *stage) called(a *agent, operation string, n int) []stageCall {
	s.Helper()
	var out []stageCall
	a.p.until(fmt.Sprint(n, " calls of ", operation), func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		out = nil
		for _, c := range s.calls {
			if c.operation == operation {
				out = append(out, c)
			}
		}
		return len(out) >= n
	})
	return out
}

// joins starts an agent on the stage. Its faults must be those that the test expects, by a part of each.
func (s *stage) joins(faults []string, change ...func(*ecsagent.Config)) *agent {
	s.Helper()
	a := &agent{Machine: ecsagent.NewMachine(), p: &plane{T: s.T}, cfg: ecsagent.Config{
		Endpoint: s.web.URL, Region: "us-east-1", Key: aws.Credentials{AccessKeyID: "AKID", SecretAccessKey: "secret"}, Timers: quick,
	}}
	for _, f := range change {
		f(&a.cfg)
	}
	a.Agent = a.Machine.Start(a.cfg)
	s.Cleanup(func() {
		a.Agent.Stop()
		a.Machine.Close()
		got := a.Faults()
		for i, f := range got {
			if i >= len(faults) || !strings.Contains(f, faults[i]) {
				s.Errorf("fault %d is %q, want %q", i, f, faults)
			}
		}
		if len(got) < len(faults) {
			s.Errorf("the faults are %q, want %q", got, faults)
		}
		for _, all := range []chan *websocket.Conn{s.acs, s.tcs} {
			for len(all) > 0 {
				(<-all).Close()
			}
		}
	})
	return a
}

// control is the next control channel.
func (s *stage) control() *stageConn {
	s.Helper()
	ctx, cancel := context.WithTimeout(s.Context(), patience)
	defer cancel()
	select {
	case c := <-s.acs:
		s.Cleanup(func() { c.Close() })
		return &stageConn{s.T, c}
	case <-ctx.Done():
		s.Fatal("no control channel was opened")
		return nil
	}
}

type stageConn struct {
	*testing.T
	*websocket.Conn
}

func (c *stageConn) sends(typ, message string) {
	c.Helper()
	if err := c.WriteMessage(websocket.TextMessage, []byte(`{"type":"`+typ+`","message":`+message+`}`)); err != nil {
		c.Fatal(err)
	}
}

// hears is the next message; it must be of one of the types.
func (c *stageConn) hears(typ string) map[string]any {
	c.Helper()
	_ = c.SetReadDeadline(time.Now().Add(patience))
	_, frame, err := c.ReadMessage()
	if err != nil {
		c.Fatalf("waiting for %s: %v", typ, err)
	}
	var e struct {
		Type    string
		Message map[string]any
	}
	if err := json.Unmarshal(frame, &e); err != nil {
		c.Fatal(err)
	}
	if e.Type != typ {
		c.Fatalf("got %s, want %s", frame, typ)
	}
	return e.Message
}

// heartbeat makes sure that all before it was handled and that nothing was answered to it.
func (c *stageConn) heartbeat(id string) {
	c.Helper()
	c.sends("HeartbeatMessage", `{"healthy":true,"messageId":"`+id+`"}`)
	if m := c.hears("HeartbeatAckRequest"); m["messageId"] != id {
		c.Fatalf("the heartbeat's ack is %v", m)
	}
}

// payload is a message with tasks, each given as JSON.
func payload(id string, seq int, tasks ...string) string {
	return fmt.Sprintf(`{"clusterArn":%q,"containerInstanceArn":%q,"messageId":%q,"generatedAt":1767225600000,"seqNum":%d,"tasks":[%s]}`,
		stageCluster, stageInstance, id, seq, strings.Join(tasks, ","))
}

// oneTask is a good task, with more members.
func oneTask(id, more string) string {
	return fmt.Sprintf(`{"arn":%q,"taskClusterArn":%q,"desiredStatus":"RUNNING","family":"demo","version":"1","networkMode":"bridge",
		"containers":[{"name":"web","image":"example/web:1","cpu":10,"memory":64,"essential":true,"overrides":"{}","containerArn":"arn:c",
		"portMappings":[{"containerPort":8080,"hostPort":0,"protocol":"tcp"}],
		"dockerConfig":{"config":"{}","hostConfig":"{\"NetworkMode\":\"bridge\",\"CapAdd\":[],\"LogConfig\":{\"Type\":\"json-file\",\"Config\":{}}}"}}]%s}`,
		stageTask+id, stageCluster, more)
}
