package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/longshore-project/longshore/agent/config"
	"github.com/longshore-project/longshore/engine/enginetest"
	"github.com/longshore-project/longshore/protocol/agentapi"
	"github.com/longshore-project/longshore/protocol/awsjson"
)

// patience bounds a wait in these tests; it is reached only when the test fails.
const patience = time.Minute

// controlPlane is a control plane over real sockets that a test plays by hand.
type controlPlane struct {
	drained  atomic.Bool // by an operator
	t        *testing.T
	server   *httptest.Server
	events   chan string // "register …", "connected …", "submit …", "acs …", one for each thing that the agent does
	ctx      context.Context
	mu       sync.Mutex
	arn      string // answered to registrations; empty: the one that was sent, or a new one
	inactive bool   // the handshake is refused
	socket   *websocket.Conn
	serial   int
	last     map[string]any
	offered  []string // names of the attributes of the last registration
}

// offers says whether the last registration had an attribute.
func (c *controlPlane) offers(name string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Contains(c.offered, name)
}

// registered is the last registration as it came.
func (c *controlPlane) registered() map[string]any {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.last
}

func newControlPlane(t *testing.T) *controlPlane {
	ctx, cancel := context.WithCancel(context.Background())
	c := &controlPlane{t: t, events: make(chan string, 1000), ctx: ctx}
	c.server = httptest.NewServer(c)
	t.Cleanup(func() {
		cancel()
		c.server.CloseClientConnections()
		c.server.Close()
	})
	return c
}

func (c *controlPlane) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case "/acs/ws":
		c.acs(w, r)
	case "/tcs/ws":
		c.tcs(w, r)
	default:
		c.call(w, r)
	}
}

func (c *controlPlane) call(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil || r.Method != http.MethodPost { // doctor looks whether somebody is there
		return
	}
	var in map[string]any
	if err := json.Unmarshal(body, &in); err != nil {
		c.t.Error(err)
	}
	_, operation, _ := strings.Cut(r.Header.Get("X-Amz-Target"), ".")
	w.Header().Set("Content-Type", awsjson.ContentType)
	switch operation {
	case "RegisterContainerInstance":
		if in["cluster"] == "refused" {
			w.WriteHeader(http.StatusBadRequest)
			_, _ = w.Write(awsjson.EncodeError("AccessDeniedException", "not you"))
			return
		}
		arn := c.register(in)
		c.events <- fmt.Sprintf("register %v as %s", in["containerInstanceArn"], arn)
		answer(c.t, w, map[string]any{"containerInstance": map[string]any{"containerInstanceArn": arn, "status": c.status(), "attributes": in["attributes"]}})
	case "DiscoverPollEndpoint":
		answer(c.t, w, map[string]any{"endpoint": c.server.URL + "/acs/", "telemetryEndpoint": c.server.URL + "/tcs/"})
	case "SubmitTaskStateChange":
		c.events <- fmt.Sprintf("submit %v %v", in["task"], in["status"])
		answer(c.t, w, map[string]any{"acknowledgment": "ok"})
	case "UpdateContainerInstancesState":
		if in["status"] == "DRAINING" && r.Header.Get(agentapi.DepartureHeader) == "" {
			c.t.Error("a host that goes down does not say so: the control plane would stop its daemons")
		}
		c.events <- fmt.Sprintf("state %v", in["status"])
		answer(c.t, w, map[string]any{"containerInstances": []any{}, "failures": []any{}})
	default:
		w.WriteHeader(http.StatusBadRequest)
		_, _ = w.Write(awsjson.EncodeError("UnsupportedFeatureException", operation))
	}
}

// status is the instance's, as an operator has left it.
func (c *controlPlane) status() string {
	if c.drained.Load() {
		return "DRAINING"
	}
	return "ACTIVE"
}

func (c *controlPlane) register(in map[string]any) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last, c.offered = in, nil
	attributes, _ := in["attributes"].([]any)
	for _, a := range attributes {
		if a, ok := a.(map[string]any); ok {
			c.offered = append(c.offered, fmt.Sprint(a["name"]))
		}
	}
	if c.arn != "" {
		return c.arn
	}
	if arn, ok := in["containerInstanceArn"].(string); ok {
		return arn
	}
	c.serial++
	return fmt.Sprintf("arn:aws:ecs:us-west-2:123456789012:container-instance/daemonset/%d", c.serial)
}

func answer(t *testing.T, w io.Writer, v any) {
	data, err := json.Marshal(v)
	if err != nil {
		t.Error(err)
	}
	_, _ = w.Write(data)
}

func (c *controlPlane) acs(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	inactive := c.inactive
	c.mu.Unlock()
	arn := r.URL.Query().Get("containerInstanceArn")
	if inactive && strings.HasSuffix(arn, "/1") {
		c.events <- "refused " + arn
		http.Error(w, `{"InactiveInstanceException":"deregistered"}`, http.StatusBadRequest)
		return
	}
	ws, err := websocket.Accept(w, r, nil)
	if err != nil {
		return
	}
	defer ws.CloseNow()
	c.mu.Lock()
	c.socket = ws
	c.mu.Unlock()
	c.events <- "connected " + arn
	for {
		_, frame, err := ws.Read(c.ctx)
		if err != nil {
			c.events <- "disconnected"
			return
		}
		var e struct{ Type string }
		if err := json.Unmarshal(frame, &e); err != nil {
			c.t.Error(err)
		}
		c.events <- "acs " + e.Type
	}
}

func (c *controlPlane) tcs(w http.ResponseWriter, r *http.Request) {
	ws, err := websocket.Accept(w, r, nil)
	if err != nil {
		return
	}
	defer ws.CloseNow()
	for err == nil {
		_, _, err = ws.Read(c.ctx)
	}
}

// send sends a payload with one task.
func (c *controlPlane) send(arn, task, status string) {
	c.t.Helper()
	c.sendWith(arn, task, status, "")
}

// sendWith is send with further members of the task, each with a comma after it.
func (c *controlPlane) sendWith(arn, task, status, more string) {
	c.t.Helper()
	frame := fmt.Sprintf(`{"type":"PayloadMessage","message":{"clusterArn":"c","containerInstanceArn":%q,"messageId":"m","seqNum":1,"tasks":[
		{%s"arn":%q,"taskClusterArn":"arn:aws:ecs:us-west-2:123456789012:cluster/daemonset","family":"demo","version":"1","desiredStatus":%q,"networkMode":"host","containers":[{"name":"web","image":"web:1","essential":true,"memory":16,"dockerConfig":{"hostConfig":"{\"NetworkMode\":\"host\"}"}}]}]}}`, arn, more, task, status)
	c.raw(frame)
}

// raw sends a message as it is.
func (c *controlPlane) raw(frame string) {
	c.t.Helper()
	c.mu.Lock()
	ws := c.socket
	c.mu.Unlock()
	if err := ws.Write(c.ctx, websocket.MessageText, []byte(frame)); err != nil {
		c.t.Error(err)
	}
}

// expect waits until each of the events has come, in any order, and returns all that came.
func (c *controlPlane) expect(want ...string) []string {
	c.t.Helper()
	var got []string
	timeout := time.After(patience)
	for len(want) > 0 {
		select {
		case e := <-c.events:
			got = append(got, e)
			if i := slices.Index(want, e); i >= 0 {
				want = slices.Delete(want, i, i+1)
			}
		case <-timeout:
			c.t.Fatalf("these did not come: %q; these did: %q", want, got)
		}
	}
	return got
}

// quiet returns what came since without waiting.
func (c *controlPlane) quiet() []string {
	var got []string
	for {
		select {
		case e := <-c.events:
			got = append(got, e)
		default:
			return got
		}
	}
}

// kept is an engine that outlives the agent.
type kept struct{ *enginetest.Fake }

// Close does nothing: the next agent uses it too.
func (kept) Close() error { return nil }

// testHost is a host with an engine and a state directory.
type testHost struct {
	t      *testing.T
	engine *enginetest.Fake
	dir    string
	root   string
	env    []string
	stderr lockedBuffer
	asked  string // where containers ask; nowhere if empty
}

func newTestHost(t *testing.T, c *controlPlane) *testHost {
	fake := enginetest.NewFake()
	fake.AddImage(enginetest.FakeImage{Ref: "web:1"})
	fake.Publish(enginetest.FakeImage{Ref: "web:1"})
	dir := t.TempDir()
	endpoint := "http://127.0.0.1:1"
	if c != nil {
		endpoint = c.server.URL
	}
	return &testHost{t: t, engine: fake, dir: dir, root: hostRoot(t, nil), env: []string{
		"ECS_CLUSTER=daemonset", "ECS_BACKEND_HOST=" + endpoint, "AWS_DEFAULT_REGION=us-west-2", "AWS_ACCESS_KEY_ID=AKIA", "AWS_SECRET_ACCESS_KEY=s",
		"ECS_DATADIR=" + dir, "ECS_LOGFILE=" + filepath.Join(dir, "agent.log"), "ECS_IMAGE_PULL_BEHAVIOR=prefer-cached", "AWS_EC2_METADATA_DISABLED=true",
		"ECS_DISABLE_TASK_ENDPOINTS=true",
	}}
}

// options are those of an agent on this host.
func (h *testHost) options() Options {
	file := filepath.Join(h.dir, "ecs.config")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		h.t.Fatal(err)
	}
	return Options{
		Config: config.Options{Environ: h.env, File: file}, Version: "0.1.0", Hash: "1234567", Root: h.root, Introspect: "127.0.0.1:0",
		Runtime: kept{h.engine}, Stderr: &h.stderr, EngineRetry: time.Millisecond, AskedAt: h.asked, AskedRetry: 20 * time.Millisecond,
		WarmPoolLook: 20 * time.Millisecond, NoticeLook: 20 * time.Millisecond,
	}
}

// start starts an agent; the function it returns ends it as SIGTERM does and returns Run's error.
func (h *testHost) start() (leave func() error) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- Run(ctx, h.options()) }()
	var once sync.Once
	var err error
	leave = func() error {
		once.Do(func() {
			cancel()
			select {
			case err = <-done:
			case <-time.After(patience):
				err = errors.New("the agent does not leave")
			}
		})
		return err
	}
	h.t.Cleanup(func() { _ = leave() })
	return leave
}

// run runs an agent that is expected to end by itself.
func (h *testHost) run() error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	err := Run(ctx, h.options())
	if ctx.Err() != nil {
		h.t.Error("the agent did not end by itself")
	}
	return err
}

func (h *testHost) log() string {
	data, err := os.ReadFile(filepath.Join(h.dir, "agent.log"))
	if err != nil {
		h.t.Fatal(err)
	}
	return string(data)
}

type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}
