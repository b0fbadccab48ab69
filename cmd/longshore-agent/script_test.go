package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/longshore-project/longshore/agent"
	"github.com/longshore-project/longshore/agent/config"
	"github.com/longshore-project/longshore/agent/local"
	"github.com/longshore-project/longshore/engine"
	"github.com/longshore-project/longshore/engine/enginetest"
	"github.com/longshore-project/longshore/protocol/awsjson"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"longshore-agent": main,
		"agent-in-memory": inMemory,
	})
}

// inMemory is an agent process like that of "longshore-agent run --config ecs.config", on an engine in memory.
func inMemory() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	fake := enginetest.NewFake()
	fake.Publish(enginetest.FakeImage{Ref: "web:1"})
	fake.Behave(func(engine.Spec) enginetest.Behaviour { return enginetest.Behaviour{Output: "one\ntwo\nthree\n"} })
	fake.BehaveExec(programs)
	err := agent.Run(ctx, agent.Options{Config: config.Options{File: "ecs.config"}, Version: "0.1.0", Hash: "1234567", Runtime: fake, Introspect: "127.0.0.1:0", AskedAt: "127.0.0.1:0"})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// control is a control plane that registers the agent, and sends it the payloads that the script says.
type control struct {
	*httptest.Server
	ctx    context.Context
	mu     sync.Mutex
	socket *websocket.Conn
	sent   int
}

const (
	testCluster  = "arn:aws:ecs:us-west-2:000000000000:cluster/daemonset"
	testInstance = "arn:aws:ecs:us-west-2:000000000000:container-instance/daemonset/0123456789abcdef0123456789abcdef"
)

func newControl(ctx context.Context) *control {
	c := &control{ctx: ctx}
	c.Server = httptest.NewServer(c)
	return c
}

func (c *control) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if strings.HasSuffix(r.URL.Path, "/ws") {
		c.serveSocket(w, r)
		return
	}
	var in map[string]any
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil && r.Method == http.MethodPost {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	var out any
	_, operation, _ := strings.Cut(r.Header.Get("X-Amz-Target"), ".")
	switch operation {
	case "RegisterContainerInstance":
		out = map[string]any{"containerInstance": map[string]any{"containerInstanceArn": testInstance, "attributes": in["attributes"]}}
	case "DiscoverPollEndpoint":
		out = map[string]any{"endpoint": c.URL + "/acs/", "telemetryEndpoint": c.URL + "/tcs/"}
	default:
		out = map[string]any{"acknowledgment": "ok"}
	}
	w.Header().Set("Content-Type", awsjson.ContentType)
	_ = json.NewEncoder(w).Encode(out)
}

func (c *control) serveSocket(w http.ResponseWriter, r *http.Request) {
	ws, err := websocket.Accept(w, r, nil)
	if err != nil {
		return
	}
	defer func() { _ = ws.CloseNow() }()
	if strings.HasSuffix(r.URL.Path, "/acs/ws") {
		c.mu.Lock()
		c.socket = ws
		c.mu.Unlock()
	}
	for err == nil {
		_, _, err = ws.Read(c.ctx)
	}
}

// send sends tasks, a JSON list.
func (c *control) send(tasks string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.socket == nil {
		return fmt.Errorf("no agent is connected")
	}
	c.sent++
	frame := fmt.Sprintf(`{"type":"PayloadMessage","message":{"clusterArn":%q,"containerInstanceArn":%q,"messageId":"m%d","seqNum":%d,"tasks":%s}}`, testCluster, testInstance, c.sent, c.sent, tasks)
	return c.socket.Write(c.ctx, websocket.MessageText, []byte(frame))
}

type controlKey struct{}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(env *testscript.Env) error {
			c := newControl(context.Background())
			env.Defer(func() {
				c.CloseClientConnections()
				c.Close()
			})
			env.Values[controlKey{}] = c
			env.Setenv("CONTROL", c.URL)
			return os.WriteFile(filepath.Join(env.WorkDir, "ecs.config"), fmt.Appendf(nil, `ECS_CLUSTER=daemonset
ECS_BACKEND_HOST=%s
AWS_DEFAULT_REGION=us-west-2
AWS_ACCESS_KEY_ID=AKIA
AWS_SECRET_ACCESS_KEY=secret
ECS_DATADIR=%[2]s/data
ECS_LOGFILE=%[2]s/agent.log
AWS_EC2_METADATA_DISABLED=true
ECS_AUDIT_LOGFILE=%[2]s/audit.log
ECS_RESERVED_MEMORY=0
ECS_DISK_PRESSURE_PERCENT=0
DOCKER_HOST=unix://%[2]s/docker.sock
`, c.URL, env.WorkDir), 0o600)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"until": until, "send": send, "same": same, "terminal": inTerminal, "status": status},
	})
}

// send sends the tasks of a file to the agent: send tasks.json
func send(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: send file")
	}
	ts.Check(ts.Value(controlKey{}).(*control).send(ts.ReadFile(args[0])))
}

// until waits until the answer of the agent's local socket to a path has a text: until /v1/status '"connected":true'
func until(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: until path text")
	}
	var answer json.RawMessage
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); <-tick.C {
		err := local.Client{Dir: ts.MkAbs("data")}.Call(context.Background(), http.MethodGet, args[0], nil, &answer)
		if err == nil && strings.Contains(string(answer), args[1]) {
			return
		}
	}
	ts.Fatalf("%s does not show %s, but %s", args[0], args[1], answer)
}

// what differs from run to run, and what stands for it.
var masks = []struct{ pattern, by string }{
	{`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[.\d]*Z`, "TIME"},
	{`http://127\.0\.0\.1:\d+`, "URL"},
	{`pid \d+`, "pid N"},
	{`\b(\d+m\d\ds|\d+h\d\dm|[\d.]+m?s)\b`, "AGE"},
	{`\d+ of \d+`, "N of N"},
	{`(CPU units|Memory MiB) +\d+ registered, (\d+) used, \d+ free`, "$1 N registered, $2 used, N free"},
	{`/\S*/(data|docker\.sock|fake)\b`, "DIR/$1"},
	{` +`, " "},
}

// status runs a command and looks at its exit code: status 7 longshore-agent exec …
func status(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: status code program argument…")
	}
	var exited *exec.ExitError
	if err := ts.Exec(args[1], args[2:]...); !errors.As(err, &exited) || strconv.Itoa(exited.ExitCode()) != args[0] {
		ts.Fatalf("%v; want exit status %s", err, args[0])
	}
}

// same compares what the last command printed with a file, but for times, sizes and a timeline: same want
func same(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: same file")
	}
	got, _, _ := strings.Cut(ts.ReadFile("stdout"), "Timeline:\n") // how long what took is another thing each time
	for _, m := range masks {
		got = regexp.MustCompile(m.pattern).ReplaceAllString(got, m.by)
	}
	want := regexp.MustCompile(` +`).ReplaceAllString(ts.ReadFile(args[0]), " ")
	if got != want {
		ts.Fatalf("got\n%s\nwant\n%s", got, want)
	}
}
