package introspection

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"go.uber.org/zap"

	"github.com/longshore-project/longshore/engine"
	"github.com/longshore-project/longshore/protocol/acs"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type tasks []engine.TaskStatus

func (t tasks) Tasks() []engine.TaskStatus { return t }

// serve serves introspection on a free port and returns a function that asks.
func serve(t *testing.T, c Config) func(path string) (int, string) {
	t.Helper()
	l, err := Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if c.Log == nil {
		c.Log = zap.NewNop()
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- Serve(ctx, l, c) }()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	t.Cleanup(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
	return func(path string) (int, string) {
		r, err := client.Get("http://" + l.Addr().String() + path)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = r.Body.Close() }()
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Fatal(err)
		}
		return r.StatusCode, strings.TrimSpace(string(body))
	}
}

func TestIntrospectionAnswersAsTheAmazonECSAgentDoes(t *testing.T) {
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	running := engine.TaskStatus{
		Arn: "arn:1", Desired: "RUNNING", Known: "RUNNING", Family: "demo", Version: "1",
		Payload: &acs.Task{NetworkMode: "bridge", Containers: []*acs.Container{{Name: "web", RestartPolicy: &acs.RestartPolicy{Enabled: true}}}},
		Containers: []engine.ContainerStatus{
			{Name: "web", RuntimeID: "abc123", RuntimeName: "ecs-demo-1-web", Image: "web:1", ImageID: "sha256:1", CreatedAt: at, StartedAt: at, Restarts: 2, Mounts: []engine.Mount{{Type: "bind", Source: "/srv", Target: "/data"}}, Addresses: []string{"172.17.0.2", "fd00::2"}, Bindings: []engine.NetworkBinding{{BindIP: "0.0.0.0", ContainerPort: 80, HostPort: 32768, Protocol: "tcp"}}},
			{Name: "not made yet"},
		},
	}
	pending := engine.TaskStatus{Arn: "arn:2", Known: "NONE", Family: "demo", Version: "2", Payload: &acs.Task{Containers: []*acs.Container{{Name: "x", PortMappings: []*acs.PortMapping{{ContainerPort: 80}}}}}, Containers: []engine.ContainerStatus{{Name: "x", RuntimeID: "abd456", RuntimeName: "n", Image: "i"}}}
	one := `{"Arn":"arn:1","DesiredStatus":"RUNNING","KnownStatus":"RUNNING","Family":"demo","Version":"1","Containers":[{"DockerId":"abc123","DockerName":"ecs-demo-1-web","Name":"web","Image":"web:1","ImageID":"sha256:1","CreatedAt":"2026-01-01T00:00:00Z","StartedAt":"2026-01-01T00:00:00Z","Ports":[{"ContainerPort":80,"Protocol":"tcp","HostPort":32768,"HostIp":"0.0.0.0"}],"Networks":[{"NetworkMode":"bridge","IPv4Addresses":["172.17.0.2"],"IPv6Addresses":["fd00::2"]}],"Volumes":[{"Source":"/srv","Destination":"/data"}],"RestartCount":2}]}`
	two := `{"Arn":"arn:2","KnownStatus":"PENDING","Family":"demo","Version":"2","Containers":[{"DockerId":"abd456","DockerName":"n","Name":"x","Image":"i","ImageID":"","Ports":[{"ContainerPort":80,"Protocol":"tcp"}]}]}`
	arn := ""
	get := serve(t, Config{Engine: tasks{running, pending}, Version: "Longshore Agent - v1 (abc)", License: "the licence", Instance: func() (string, string) { return "daemonset", arn }})
	for _, c := range []struct {
		path   string
		status int
		want   string
	}{
		{"/", 200, `{"AvailableCommands":["/v1/metadata","/v1/tasks","/license"]}`},
		{"/v1/metadata", 200, `{"Cluster":"daemonset","ContainerInstanceArn":null,"Version":"Longshore Agent - v1 (abc)"}`},
		{"/v1/tasks", 200, `{"Tasks":[` + one + "," + two + `]}`},
		{"/v1/tasks?taskarn=arn:1", 200, one},
		{"/v1/tasks?dockerid=abc123", 200, one},
		{"/v1/tasks?dockerid=abd", 200, two},
		{"/v1/tasks?dockerid=ab", 400, "more than one task has a container whose id begins with ab"},
		{"/v1/tasks?dockerid=ff", 404, `{"Arn":"","KnownStatus":"","Family":"","Version":"","Containers":[]}`},
		{"/v1/tasks?taskarn=arn:3", 404, `{"Arn":"","KnownStatus":"","Family":"","Version":"","Containers":[]}`},
		{"/v1/tasks?taskarn=a&dockerid=b", 400, "give taskarn or dockerid, not both"},
		{"/license", 200, "the licence"},
	} {
		status, body := get(c.path)
		if d := cmp.Diff(c.want, body); d != "" || status != c.status {
			t.Errorf("%s: %d (-want +got):\n%s", c.path, status, d)
		}
	}
	arn = "arn:instance"
	if _, body := get("/v1/metadata"); !strings.Contains(body, `"ContainerInstanceArn":"arn:instance"`) {
		t.Error(body)
	}
}

func TestWithoutTasksTheListIsEmptyAndNotNull(t *testing.T) {
	get := serve(t, Config{Engine: tasks{}})
	if _, body := get("/v1/tasks"); body != `{"Tasks":[]}` || !json.Valid([]byte(body)) {
		t.Error(body)
	}
}

func TestATakenPortIsAnErrorThatSaysSo(t *testing.T) {
	l, err := Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	if _, err := Listen(l.Addr().String()); err == nil || !strings.Contains(err.Error(), "is taken: another container agent") {
		t.Error(err)
	}
}
