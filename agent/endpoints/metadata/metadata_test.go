package metadata

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"go.uber.org/zap"

	"github.com/longshore-project/longshore/agent/endpoints/ids"
	"github.com/longshore-project/longshore/agent/stats"
	"github.com/longshore-project/longshore/engine"
	"github.com/longshore-project/longshore/protocol/acs"
	"github.com/longshore-project/longshore/protocol/agentapi"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	taskArn     = "arn:aws:ecs:us-west-2:123456789012:task/daemonset/0123456789abcdef0123456789abcdef"
	instanceArn = "arn:aws:ecs:us-west-2:123456789012:container-instance/daemonset/i1"
)

var at = time.Date(2026, 11, 20, 8, 0, 0, 0, time.FixedZone("", 3600))

// theTask has a container that runs, one that has ended, and one whose image was pulled.
func theTask() engine.TaskStatus {
	code := 3
	return engine.TaskStatus{
		Arn: taskArn, Family: "demo", Version: "7", Desired: "RUNNING", Known: "RUNNING", PullStartedAt: at, PullStoppedAt: at.Add(time.Second),
		Containers: []engine.ContainerStatus{
			{Name: "web", RuntimeID: "aaa", RuntimeName: "ecs-demo-7-web-x", Image: "web:1", ImageID: "sha256:1", Known: "RUNNING", NetworkMode: "bridge", Pid: 1, Restarts: 2,
				Addresses: []string{"172.17.0.2", "fd00::2"}, CreatedAt: at, StartedAt: at.Add(2 * time.Second), Health: engine.Health{Status: "HEALTHY", Since: at, Output: "fine"},
				Bindings: []engine.NetworkBinding{{BindIP: "0.0.0.0", ContainerPort: 80, HostPort: 32768, Protocol: "tcp"}, {BindIP: "::", ContainerPort: 80, HostPort: 32768, Protocol: "tcp"}},
				Labels:   map[string]string{engine.LabelTaskArn: taskArn, engine.LabelTask: "{}"},
				Mounts:   []engine.Mount{{Type: "bind", Source: "/srv", Target: "/data"}, {Type: "volume", Source: "cache", Target: "/cache", Path: "/docker/volumes/cache/_data"}}},
			{Name: "job", RuntimeID: "bbb", RuntimeName: "ecs-demo-7-job-x", Image: "job:1", ImageID: "sha256:2", Known: "STOPPED", NetworkMode: "host", ExitCode: &code, FinishedAt: at, Health: engine.Health{Status: "UNKNOWN"}},
			{Name: "late", Image: "late:1", ImageID: "sha256:3", Known: "PULLED", RuntimeName: "ecs-demo-7-late-x"},
		},
		Payload: &acs.Task{CPU: 0.5, Memory: 128, LaunchType: "EC2", ServiceName: "svc", NetworkMode: "bridge", EnableFaultInjection: true,
			Associations: []*acs.Association{{Name: "dev1", Type: "elastic-inference", Content: acs.AssociationContent{Value: `{"a":1}`}, Containers: []string{"web"}}},
			Containers: []*acs.Container{
				{Name: "web", CPU: 10, Memory: 64, ContainerArn: "arn:c1", RestartPolicy: &acs.RestartPolicy{Enabled: true}, DockerConfig: &acs.DockerConfig{HostConfig: `{"LogConfig":{"Type":"awslogs","Config":{"awslogs-group":"g"}}}`}},
				{Name: "job"}, {Name: "late"},
			}},
	}
}

// asks returns a function that asks a server.
func asks(t *testing.T, change func(*Config)) (get func(path string) (int, string), id func(container string) string) {
	t.Helper()
	own, err := ids.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	cfg := Config{
		Tasks: func() []engine.TaskStatus { return []engine.TaskStatus{theTask()} }, Find: own.Find, Known: own.Known,
		Caller: func(*http.Request) (string, error) { return taskArn, nil },
		Stats: func(id string) *stats.Docker {
			return map[string]*stats.Docker{"aaa": {ID: id, NetworkRates: &stats.NetworkRates{Rx: 1}}}[id]
		},
		Instance: func() (string, string) { return "daemonset", instanceArn },
		Place:    func() Place { return Place{Zone: "us-west-2a", ZoneID: "usw2-az1", VPC: "vpc-1"} },
		Log:      zap.NewNop(),
	}
	change(&cfg)
	cfg.Task = func(arn string) (engine.TaskStatus, bool) { // as the engine has it
		for _, task := range cfg.Tasks() {
			if task.Arn == arn {
				return task, true
			}
		}
		return engine.TaskStatus{}, false
	}
	mux := http.NewServeMux()
	New(cfg).Register(mux.Handle)
	get = func(path string) (int, string) {
		w := httptest.NewRecorder()
		mux.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
		if got := w.Header().Get("Content-Type"); got != "application/json" {
			t.Errorf("%s: %s", path, got)
		}
		if !json.Valid(w.Body.Bytes()) {
			t.Errorf("%s: %s", path, w.Body)
		}
		return w.Code, w.Body.String()
	}
	return get, func(container string) string { return own.Of(taskArn, container) }
}

// The shapes are those of docs.aws.amazon.com/AmazonECS/latest/developerguide/task-metadata-endpoint*.html and of agent-protocol
// section 8.3.
const (
	goldenWeb = `{"DockerId":"aaa","Name":"web","DockerName":"ecs-demo-7-web-x","Image":"web:1","ImageID":"sha256:1","Ports":[{"ContainerPort":80,"Protocol":"tcp","HostPort":32768},{"ContainerPort":80,"Protocol":"tcp","HostPort":32768}],"Labels":{"com.amazonaws.ecs.task-arn":"` + taskArn + `"},"DesiredStatus":"RUNNING","KnownStatus":"RUNNING","Limits":{"CPU":10,"Memory":64},"CreatedAt":"2026-11-20T07:00:00Z","StartedAt":"2026-11-20T07:00:02Z","Type":"NORMAL","Health":{"status":"HEALTHY","statusSince":"2026-11-20T07:00:00Z","output":"fine"},"Volumes":[{"Source":"/srv","Destination":"/data"},{"DockerName":"cache","Source":"/docker/volumes/cache/_data","Destination":"/cache"}],"Networks":[{"NetworkMode":"bridge","IPv4Addresses":["172.17.0.2"],"IPv6Addresses":["fd00::2"]}]}`
	goldenJob = `{"DockerId":"bbb","Name":"job","DockerName":"ecs-demo-7-job-x","Image":"job:1","ImageID":"sha256:2","DesiredStatus":"RUNNING","KnownStatus":"STOPPED","ExitCode":3,"Limits":{"CPU":2,"Memory":0},"FinishedAt":"2026-11-20T07:00:00Z","Type":"NORMAL","Health":{},"Networks":[{"NetworkMode":"host","IPv4Addresses":[""]}]}`

	goldenWeb4  = `{"DockerId":"aaa","Name":"web","DockerName":"ecs-demo-7-web-x","Image":"web:1","ImageID":"sha256:1","Ports":[{"ContainerPort":80,"Protocol":"tcp","HostPort":32768,"HostIp":"0.0.0.0"},{"ContainerPort":80,"Protocol":"tcp","HostPort":32768,"HostIp":"::"}],"Labels":{"com.amazonaws.ecs.task-arn":"` + taskArn + `"},"DesiredStatus":"RUNNING","KnownStatus":"RUNNING","Limits":{"CPU":10,"Memory":64},"CreatedAt":"2026-11-20T07:00:00Z","StartedAt":"2026-11-20T07:00:02Z","Type":"NORMAL","Health":{"status":"HEALTHY","statusSince":"2026-11-20T07:00:00Z","output":"fine"},"Volumes":[{"Source":"/srv","Destination":"/data"},{"DockerName":"cache","Source":"/docker/volumes/cache/_data","Destination":"/cache"}],"LogDriver":"awslogs","LogOptions":{"awslogs-group":"g"},"ContainerARN":"arn:c1","Networks":[{"NetworkMode":"bridge","IPv4Addresses":["172.17.0.2"],"IPv6Addresses":["fd00::2"]}],"RestartCount":2}`
	goldenLate4 = `{"DockerId":"","Name":"late","DockerName":"","Image":"late:1","ImageID":"sha256:3","DesiredStatus":"RUNNING","KnownStatus":"PULLED","Limits":{"CPU":2,"Memory":0},"Type":"NORMAL"}`

	goldenHead = `{"Cluster":"daemonset","TaskARN":"` + taskArn + `","Family":"demo","Revision":"7","DesiredStatus":"RUNNING","KnownStatus":"RUNNING","Limits":{"CPU":0.5,"Memory":128},"PullStartedAt":"2026-11-20T07:00:00Z","PullStoppedAt":"2026-11-20T07:00:01Z","AvailabilityZone":"us-west-2a",`
	goldenTask = goldenHead + `"Containers":[` + goldenWeb + "," + goldenJob + `]}`
	goldenTags = goldenHead + `"TaskTags":{"team":"a"},"ContainerInstanceTags":{"rack":"1"},`
	golden4    = `"LaunchType":"EC2","Containers":[` + goldenWeb4 + "," + goldenJob + "," + goldenLate4 + `],"VPCID":"vpc-1","ServiceName":"svc","FaultInjectionEnabled":true,"AvailabilityZoneID":"usw2-az1"}`
)

func someTags(_ context.Context, arn string) (map[string]string, error) {
	if arn == instanceArn {
		return map[string]string{"rack": "1"}, nil
	}
	return map[string]string{"team": "a"}, nil
}

func TestEveryPathAnswersAsDocumented(t *testing.T) {
	get, id := asks(t, func(c *Config) { c.Tags = someTags })
	three, four, job, late := "/v3/"+id("web"), "/v4/"+id("web"), id("job"), id("late")
	noStats := `"Unable to get container stats for: bbb"`
	for _, c := range []struct {
		path   string
		status int
		want   string
	}{
		{"/v2/metadata", 200, goldenTask},
		{"/v2/metadata/", 200, goldenTask},
		{"/v2/metadata/aaa", 200, goldenWeb},
		{"/v2/metadata/bbb", 200, goldenJob},
		{"/v2/metadata/ccc", 400, `"Unable to generate metadata for container ccc"`},
		{"/v2/metadataWithTags", 200, goldenTags + `"Containers":[` + goldenWeb + "," + goldenJob + `]}`},
		{"/v2/metadataWithTags/", 200, goldenTags + `"Containers":[` + goldenWeb + "," + goldenJob + `]}`},
		{three, 200, goldenWeb},
		{three + "/task", 200, goldenTask},
		{three + "/taskWithTags", 200, goldenTags + `"Containers":[` + goldenWeb + "," + goldenJob + `]}`},
		{three + "/associations/elastic-inference", 200, `{"Associations":["dev1"]}`},
		{three + "/associations/other", 200, `{"Associations":[]}`},
		{three + "/associations/elastic-inference/dev1", 200, `{"a":1}`},
		{three + "/associations/elastic-inference/", 400, `"Unable to write container association response: the container has no association  of the type elastic-inference"`},
		{"/v3/" + job + "/associations/elastic-inference/dev1", 400, `"Unable to write container association response: the container has no association dev1 of the type elastic-inference"`},
		{"/v3/" + job, 200, goldenJob},
		{"/v3/unknown", 500, `"V3 container metadata handler: unable to find the container of the endpoint id unknown"`},
		{"/v3/unknown/task", 500, `"V3 task metadata handler: unable to find the container of the endpoint id unknown"`},
		{"/v3/unknown/stats", 400, `"V3 container stats handler: unable to find the container of the endpoint id unknown"`},
		{"/v3/unknown/task/stats", 400, `"V3 task stats handler: unable to find the container of the endpoint id unknown"`},
		{"/v3/unknown/associations/x", 400, `"V3 container associations handler: unable to find the container of the endpoint id unknown"`},
		{"/v3/" + job + "/stats", 400, noStats},
		{four, 200, goldenWeb4},
		{four + "/task", 200, goldenHead + golden4},
		{four + "/taskWithTags", 200, goldenTags + golden4},
		{four + "/associations/elastic-inference/dev1", 200, `{"a":1}`},
		{"/v4/" + job + "/stats", 500, noStats},
		{"/v4/" + late, 404, `"V4 container metadata handler: unable to find the container of the endpoint id ` + late + `"`}, // it is not made yet
		{"/v4/unknown", 404, `"V4 container metadata handler: unable to find the container of the endpoint id unknown"`},
		{"/v4/unknown/task", 404, `"V4 task metadata handler: unable to find the container of the endpoint id unknown"`},
		{"/v4/unknown/stats", 404, `"V4 container stats handler: unable to find the container of the endpoint id unknown"`},
		{"/v4/unknown/task/stats", 404, `"V4 task stats handler: unable to find the container of the endpoint id unknown"`},
	} {
		status, body := get(c.path)
		if d := cmp.Diff(c.want, body); d != "" || status != c.status {
			t.Errorf("%s: %d (-want +got):\n%s", c.path, status, d)
		}
	}
}

func TestStatisticsHaveTheEnginesShapeAndInVersion4RatesOfTheNetworkToo(t *testing.T) {
	get, id := asks(t, func(*Config) {})
	for path, want := range map[string][2]bool{ // of a task, with rates
		"/v2/stats": {true, false}, "/v2/stats/": {true, false}, "/v2/stats/aaa": {false, false}, "/v3/" + id("web") + "/stats": {false, false},
		"/v3/" + id("job") + "/task/stats": {true, false}, "/v4/" + id("web") + "/stats": {false, true}, "/v4/" + id("web") + "/task/stats": {true, true},
	} {
		status, body := get(path)
		if want[0] {
			var all map[string]json.RawMessage
			if err := json.Unmarshal([]byte(body), &all); err != nil || len(all) != 2 || string(all["bbb"]) != "null" {
				t.Errorf("%s: %s", path, body)
			}
			body = string(all["aaa"])
		}
		if status != 200 || !strings.HasPrefix(body, `{"read":"`) || !strings.Contains(body, `"precpu_stats":{"cpu_usage":{"total_usage":0`) || strings.Contains(body, `"network_rate_stats":{"rx_bytes_per_sec":1,"tx_bytes_per_sec":0}`) != want[1] {
			t.Errorf("%s: %d %s", path, status, body)
		}
	}
}

func TestACallerThatIsNoTasksGetsNothingByAddress(t *testing.T) {
	get, _ := asks(t, func(c *Config) {
		c.Caller = func(*http.Request) (string, error) {
			return "", errors.New("unable to associate '192.0.2.1' with task")
		}
	})
	for _, path := range []string{"/v2/metadata", "/v2/metadata/aaa", "/v2/metadataWithTags", "/v2/stats", "/v2/stats/aaa"} {
		if status, body := get(path); status != 400 || body != `"Unable to get task arn from request: unable to associate '192.0.2.1' with task"` {
			t.Errorf("%s: %d %s", path, status, body)
		}
	}
}

func TestTagsThatCannotBeHadAreMissingAndSaidInVersion4(t *testing.T) {
	asked := 0
	get, id := asks(t, func(c *Config) {
		c.Tags = func(_ context.Context, arn string) (map[string]string, error) {
			asked++
			if arn == taskArn {
				return nil, fmt.Errorf("tags: %w", &agentapi.APIError{Operation: "ListTagsForResource", Code: "AccessDeniedException", Message: "no", StatusCode: 400, RequestID: "r1"})
			}
			return someTags(context.Background(), arn)
		}
	})
	status, body := get("/v4/" + id("web") + "/taskWithTags")
	if want := `"Errors":[{"ErrorField":"TaskTags","ErrorCode":"AccessDeniedException","ErrorMessage":"no","StatusCode":400,"RequestId":"r1","ResourceARN":"` + taskArn + `"}]`; status != 200 || !strings.Contains(body, want) || !strings.Contains(body, `"ContainerInstanceTags":{"rack":"1"}`) {
		t.Errorf("%d %s", status, body)
	}
	if status, body := get("/v3/" + id("web") + "/taskWithTags"); status != 200 || strings.Contains(body, "Errors") || strings.Contains(body, "TaskTags") {
		t.Errorf("%d %s", status, body)
	}
	if asked != 2 {
		t.Errorf("the control plane was asked %d times", asked)
	}
}

func TestATaskIsAsFarAsItsLastContainer(t *testing.T) {
	for want, known := range map[string][]string{"NONE": {"RUNNING", "NONE"}, "PULLED": {"PULLED", "RUNNING"}, "CREATED": {"CREATED", "RUNNING"}, "RUNNING": {"RUNNING", "STOPPED"}} {
		s := engine.TaskStatus{Known: "PENDING"}
		for _, k := range known {
			s.Containers = append(s.Containers, engine.ContainerStatus{Known: k})
		}
		if got := statusOf(&s); got != want {
			t.Errorf("%v: %s", known, got)
		}
	}
}

func TestAnElasticNetworkInterfaceIsShown(t *testing.T) {
	task := theTask()
	task.Payload.NetworkMode = "awsvpc"
	task.Payload.ElasticNetworkInterfaces = []*acs.ElasticNetworkInterface{{MacAddress: "0e:1", IPv4Addresses: []*acs.IPv4Address{{PrivateAddress: "10.0.2.106"}}, DomainNameServers: []string{"10.0.0.2"},
		PrivateDNSName: "ip-10-0-2-106.us-west-2.compute.internal", SubnetGatewayIpv4Address: "10.0.2.1/24", IPv6Addresses: []*acs.IPv6Address{{Address: "2001:db8::7"}}}}
	data, err := json.Marshal(networks(&task, &task.Containers[0], true))
	want := `[{"NetworkMode":"awsvpc","IPv4Addresses":["10.0.2.106"],"IPv6Addresses":["2001:db8::7"],"AttachmentIndex":0,"MACAddress":"0e:1","IPv4SubnetCIDRBlock":"10.0.2.0/24","IPv6SubnetCIDRBlock":"2001:db8::/64","DomainNameServers":["10.0.0.2"],"PrivateDNSName":"ip-10-0-2-106.us-west-2.compute.internal","SubnetGatewayIpv4Address":"10.0.2.1/24"}]`
	if d := cmp.Diff(want, string(data)); d != "" || err != nil {
		t.Error(err, d)
	}
}

func TestTheContainersThatOwnNamespacesAreShownFirst(t *testing.T) {
	get, id := asks(t, func(c *Config) {
		c.Tasks = func() []engine.TaskStatus {
			task := theTask()
			task.Pauses = []engine.ContainerStatus{{Name: "~internal~ecs~pause", RuntimeID: "ppp"}, {Name: "~internal~ecs~pause~namespace", RuntimeID: "nnn"}, {Name: "~internal~ecs~pause"}}
			return []engine.TaskStatus{task}
		}
	})
	_, body := get("/v4/" + id("web") + "/task")
	var got struct{ Containers []struct{ Name, Type string } }
	if err := json.Unmarshal([]byte(body), &got); err != nil {
		t.Fatal(err)
	}
	if len(got.Containers) < 4 || got.Containers[0].Type != "CNI_PAUSE" || got.Containers[1].Type != "NAMESPACE_PAUSE" || got.Containers[2].Type != "NORMAL" {
		t.Errorf("%+v", got)
	}
}

func TestTheEnvironmentSaysWhereToAsk(t *testing.T) {
	s := engine.Spec{Env: []string{"A=1", "ECS_CONTAINER_METADATA_URI_V4=http://elsewhere"}}
	if err := Environment(func(arn, name string) string { return name })(&acs.Task{Arn: taskArn}, "web", &s); err != nil {
		t.Fatal(err)
	}
	want := []string{"A=1", "ECS_CONTAINER_METADATA_URI=http://169.254.170.2/v3/web", "ECS_CONTAINER_METADATA_URI_V4=http://169.254.170.2/v4/web", "ECS_AGENT_URI=http://169.254.170.2/api/web"}
	if d := cmp.Diff(want, s.Env); d != "" {
		t.Error(d)
	}
}

func TestTheMetadataFileIsThereBeforeTheContainerAndCompleteOnceItRuns(t *testing.T) {
	task := theTask()
	var tasks []engine.TaskStatus
	f := NewFiles(FilesConfig{
		Dir: filepath.Join(t.TempDir(), "metadata"), Tasks: func() []engine.TaskStatus { return tasks }, Instance: func() (string, string) { return "daemonset", instanceArn },
		Place: func() Place { return Place{Zone: "us-west-2a"} }, Address: func() (string, string, string) { return "192.0.2.7", "", "" }, Log: zap.NewNop(),
	})
	var s engine.Spec
	if err := f.Prepare(&acs.Task{Arn: taskArn, Family: "demo", Version: "7"}, "web", &s); err != nil {
		t.Fatal(err)
	}
	if len(s.Mounts) != 1 || !s.Mounts[0].ReadOnly || len(s.Env) != 1 || s.Env[0] != "ECS_CONTAINER_METADATA_FILE="+s.Mounts[0].Target+"/"+FileName {
		t.Fatalf("%+v", s)
	}
	name := filepath.Join(s.Mounts[0].Source, FileName)
	head := `{"Cluster":"daemonset","ContainerInstanceARN":"` + instanceArn + `","TaskARN":"` + taskArn + `","TaskDefinitionFamily":"demo","TaskDefinitionRevision":"7",`
	tail := `"AvailabilityZone":"us-west-2a","HostPrivateIPv4Address":"192.0.2.7"}`
	is := func(want string) {
		t.Helper()
		data, err := os.ReadFile(name)
		if d := cmp.Diff(want, string(data)); d != "" || err != nil {
			t.Error(err, d)
		}
	}
	is(head + `"ContainerName":"web","MetadataFileStatus":"INITIAL",` + tail)
	task.Containers = task.Containers[:1]
	task.Containers[0].Known = "CREATED"
	if tasks = []engine.TaskStatus{task}; !f.look() {
		t.Error("a container that is about to run is not waited for")
	}
	task.Containers[0].Known, task.Containers[0].Bindings = "RUNNING", task.Containers[0].Bindings[:1]
	if f.look() {
		t.Error("it is waited for something else")
	}
	is(head + `"ContainerID":"aaa","ContainerName":"web","DockerContainerName":"/ecs-demo-7-web-x","ImageID":"sha256:1","ImageName":"web:1","PortMappings":[{"ContainerPort":80,"HostPort":32768,"BindIp":"0.0.0.0","Protocol":"tcp"}],"Networks":[{"NetworkMode":"bridge","IPv4Addresses":["172.17.0.2"],"IPv6Addresses":["fd00::2"]}],"MetadataFileStatus":"READY",` + tail)
	if info, err := os.Stat(name); err != nil || info.Mode().Perm() != 0o644 {
		t.Error(info, err)
	}
	tasks = nil
	f.look()
	is2 := func(there bool) {
		t.Helper()
		if _, err := os.Stat(name); (err == nil) != there {
			t.Error(err)
		}
	}
	is2(true) // a task that is being accepted is not removed from under
	old := time.Now().Add(-2 * keepTask)
	if err := os.Chtimes(filepath.Dir(filepath.Dir(name)), old, old); err != nil {
		t.Fatal(err)
	}
	f.look()
	is2(false)
	for _, bad := range []string{"", "..", "a/b"} {
		if err := f.Prepare(&acs.Task{Arn: taskArn}, bad, &engine.Spec{}); err == nil {
			t.Errorf("%q became a directory", bad)
		}
	}
}
