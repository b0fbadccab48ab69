// Package daemons_test runs real daemons as tasks, the whole way: programs of Debian's packages and a log router, in images
// that a host's engine pulls from a registry, through the real CLI, the control plane and the agent.
package daemons_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/pkg/stdcopy"
	"go.uber.org/goleak"

	"github.com/longshore-project/longshore/test/awsfake"
	"github.com/longshore-project/longshore/test/e2e"
	"github.com/longshore-project/longshore/test/images"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const cluster = "daemonset"

// stage is one host with an agent.
type stage struct {
	*e2e.Lab
	t *testing.T
}

func newStage(t *testing.T, name string, subnet int) *stage {
	t.Helper()
	s := &stage{e2e.NewLab(t, name, subnet, 1), t}
	s.begin()
	return s
}

// begin makes the host a container instance.
func (s *stage) begin(settings ...string) {
	s.t.Helper()
	s.Do("ecs", "create-cluster", "--cluster-name", cluster)
	s.StartAgent(1, append(settings, "ECS_CONTAINER_STOP_TIMEOUT=5s")...)
	s.InstanceOf(1)
}

// newStageWithAWS is a stage with a stand-in for AWS and the credentials of an execution role.
func newStageWithAWS(t *testing.T, name string, subnet int, store *awsfake.Server) *stage {
	t.Helper()
	server := httptest.NewServer(store)
	t.Cleanup(server.Close)
	roles := filepath.Join(t.TempDir(), "roles.json")
	store.Keys = []aws.Credentials{{AccessKeyID: "ROLE", SecretAccessKey: "role-secret"}}
	if err := os.WriteFile(roles, []byte(`{"roles":{"`+executionRole+`":{"accessKeyId":"ROLE","secretAccessKey":"role-secret"}}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	s := &stage{e2e.NewLab(t, name, subnet, 1, "--role-credentials", roles), t}
	const port = "4566"
	s.Forward(port, strings.TrimPrefix(server.URL, "http://"))
	s.begin("AWS_ENDPOINT_URL=http://" + s.Farm.LAN() + ":" + port)
	return s
}

const executionRole = "arn:aws:iam::123456789012:role/execution"

func (s *stage) register(definition string) {
	s.t.Helper()
	s.Do("ecs", "register-task-definition", "--cli-input-json", definition)
}

// run runs a task of a family and waits until it is RUNNING.
func (s *stage) run(family string) e2e.Task {
	s.t.Helper()
	type tasks struct {
		Tasks    []e2e.Task
		Failures []e2e.Failure
	}
	got := e2e.AWS[tasks](s.Lab, "ecs", "run-task", "--cluster", cluster, "--task-definition", family)
	if len(got.Tasks) != 1 {
		s.t.Fatalf("%+v", got)
	}
	var task e2e.Task
	s.Until(60*time.Second, "the task of "+family+" is RUNNING", func() error {
		task = s.DescribeTasks(got.Tasks[0].TaskArn)[0]
		if task.LastStatus != "RUNNING" {
			return fmt.Errorf("%+v", task)
		}
		return nil
	})
	return task
}

// get fetches a URL from beside the host, over the LAN.
func (s *stage) get(url string) string {
	s.t.Helper()
	var body []byte
	s.Until(20*time.Second, url+" answers", func() (err error) {
		body, err = s.Farm.Command(s.t.Context(), "lan", "busybox", "wget", "-q", "-O", "-", url).Output()
		return err
	})
	return string(body)
}

// output is what a container of a family has written.
func (s *stage) output(family, name string) string {
	s.t.Helper()
	for _, c := range s.Containers(1, family) {
		if c.Labels["com.amazonaws.ecs.container-name"] != name {
			continue
		}
		stream, err := s.Engine(1).ContainerLogs(s.t.Context(), c.ID, container.LogsOptions{ShowStdout: true, ShowStderr: true})
		if err != nil {
			s.t.Fatal(err)
		}
		defer stream.Close()
		var text bytes.Buffer
		if _, err := stdcopy.StdCopy(&text, &text, stream); err != nil {
			s.t.Fatal(err)
		}
		return text.String()
	}
	return ""
}

func TestANodeExporterRunsAsADaemonInHostModeAndIsScraped(t *testing.T) {
	d := unpack(t, "prometheus-node-exporter")
	s := newStage(t, "dnode", 92)
	image := s.Push("node-exporter:1", images.Spec{Files: d.programs("/usr/bin/prometheus-node-exporter"), Entrypoint: []string{"/usr/bin/prometheus-node-exporter"}})
	s.register(`{"family":"node-exporter","networkMode":"host","pidMode":"host","cpu":"128","memory":"64","containerDefinitions":[{"name":"exporter","image":"` + image + `",
		"user":"65534","readonlyRootFilesystem":true,"command":["--path.rootfs=/host","--collector.disable-defaults","--collector.uname","--collector.loadavg","--collector.meminfo"],
		"portMappings":[{"containerPort":9100}],"mountPoints":[{"sourceVolume":"root","containerPath":"/host","readOnly":true}]}],
		"volumes":[{"name":"root","host":{"sourcePath":"/"}}]}`)
	s.Do("ecs", "create-service", "--cluster", cluster, "--service-name", "node-exporter", "--scheduling-strategy", "DAEMON", "--task-definition", "node-exporter")
	s.Steady("node-exporter", 1)
	metrics := s.get("http://" + s.Farm.Address(1) + ":9100/metrics")
	for _, want := range []string{`nodename="` + s.Farm.Name + `1"`, "node_load1 ", "node_memory_MemTotal_bytes "} {
		if !strings.Contains(metrics, want) {
			t.Errorf("the scrape has no %s: %.2000s", want, metrics)
		}
	}
}

const nginxConfig = `daemon off;
user www-data;
error_log stderr;
pid /tmp/nginx.pid;
events {}
http {
  access_log off;
  client_body_temp_path /tmp/b; proxy_temp_path /tmp/p; fastcgi_temp_path /tmp/f; uwsgi_temp_path /tmp/u; scgi_temp_path /tmp/s;
  server { listen 80; location / { return 200 "this is nginx\n"; } }
}
`

func TestNginxAnswersOnADynamicPort(t *testing.T) {
	d := unpack(t, "nginx", "nginx-common", "libpcre2-8-0", "libssl3", "zlib1g", "libcrypt1")
	s := newStage(t, "dngin", 93)
	image := s.Push("nginx:1", images.Spec{Entrypoint: []string{"/usr/sbin/nginx", "-c", "/etc/nginx.conf"}, StopSignal: "SIGQUIT", Files: append(d.programs("/usr/sbin/nginx"),
		images.File{Path: "/etc/nginx.conf", Data: nginxConfig}, images.File{Path: "/etc/passwd", Data: "root:x:0:0::/:/bin/sh\nwww-data:x:33:33::/:/bin/sh\n"},
		images.File{Path: "/etc/group", Data: "root:x:0:\nwww-data:x:33:\n"}, images.File{Path: "/var/log/nginx/README", Data: "nginx opens its logs here before it reads its configuration\n"})})
	s.register(`{"family":"nginx","containerDefinitions":[{"name":"web","image":"` + image + `","memory":32,"portMappings":[{"containerPort":80}]}]}`)
	ports := map[int]bool{}
	for range 2 {
		task := s.run("nginx")
		bindings := task.Containers[0].NetworkBindings
		if len(bindings) != 1 || bindings[0].ContainerPort != 80 || bindings[0].HostPort < 1024 {
			t.Fatalf("the task is bound as %+v", bindings)
		}
		ports[bindings[0].HostPort] = true
		if got := s.get("http://" + s.Farm.Address(1) + ":" + strconv.Itoa(bindings[0].HostPort)); got != "this is nginx\n" {
			t.Errorf("it answers %q", got)
		}
	}
	if len(ports) != 2 {
		t.Errorf("two tasks share the ports %v", ports)
	}
}

func TestRedisIsHealthyBeforeItsDependentStarts(t *testing.T) {
	d := unpack(t, "redis-server", "redis-tools", "libssl3", "libatomic1", "liblzf1", "libjemalloc2", "libsystemd0", "liblua5.1-0", "lua-cjson", "lua-bitop", "libhiredis0.14")
	s := newStage(t, "dredi", 94)
	image := s.Push("redis:1", images.Spec{Files: d.programs("/usr/bin/redis-server", "/usr/bin/redis-cli")})
	s.register(`{"family":"redis","containerDefinitions":[
		{"name":"store","image":"` + image + `","memory":64,"command":["sh","-c","sleep 2; exec /usr/bin/redis-server --save '' --protected-mode no"],
		 "healthCheck":{"command":["CMD-SHELL","[ \"$(/usr/bin/redis-cli ping)\" = PONG ]"],"interval":5,"timeout":2,"retries":3,"startPeriod":1}},
		{"name":"client","image":"` + image + `","memory":32,"essential":false,"links":["store:redis"],"dependsOn":[{"containerName":"store","condition":"HEALTHY"}],
		 "command":["sh","-c","/usr/bin/redis-cli -h redis set a longshore && /usr/bin/redis-cli -h redis get a"]}]}`)
	task := s.run("redis")
	s.Until(60*time.Second, "the client has ended well", func() error {
		for _, c := range s.DescribeTasks(task.TaskArn)[0].Containers {
			if c.Name == "client" && c.ExitCode != nil && *c.ExitCode == 0 {
				return nil
			}
		}
		return fmt.Errorf("%+v", s.DescribeTasks(task.TaskArn)[0])
	})
	if got := s.output("redis", "client"); got != "OK\nlongshore\n" {
		t.Errorf("the client says %q", got)
	}
	store, client := s.inspect("redis", "store"), s.inspect("redis", "client")
	began, err := time.Parse(time.RFC3339Nano, client.State.StartedAt)
	if err != nil {
		t.Fatal(err)
	}
	if store.State.Health.Status != "healthy" || len(store.State.Health.Log) == 0 || !began.After(store.State.Health.Log[0].End) {
		t.Errorf("the client started at %v, and the store's health is %+v", began, store.State.Health)
	}
}

func (s *stage) inspect(family, name string) container.InspectResponse {
	s.t.Helper()
	for _, c := range s.Containers(1, family) {
		if c.Labels["com.amazonaws.ecs.container-name"] == name {
			got, err := s.Engine(1).ContainerInspect(s.t.Context(), c.ID)
			if err != nil {
				s.t.Fatal(err)
			}
			return got
		}
	}
	s.t.Fatalf("there is no container %s of %s", name, family)
	return container.InspectResponse{}
}

// routedLine is what the router prints of a record.
type routedLine struct {
	Tag    string
	Record map[string]string
	Output map[string]string
}

func TestALogRouterReceivesWhatATasksContainersWrite(t *testing.T) {
	s := newStageWithAWS(t, "dfire", 95, &awsfake.Server{
		Parameters: map[string]string{"/logs/key": "planted-key"},
		Objects:    map[string]string{"config/extra.conf": "[FILTER]\n    Name record_modifier\n    Match *\n    Record from_s3 yes\n"},
	})
	router := s.Push("fluent-bit:1", images.Spec{Files: []images.File{standIn(t)}, Entrypoint: []string{"/fluent-bit/bin/fluent-bit"}})
	app := s.Push("app:1", images.Spec{})
	// The app writes lines, sends one record by itself to where FLUENT_HOST says, and has a last word when it is stopped.
	script := `trap 'echo the last word; exit 0' TERM; echo hello; echo debug: not this; printf '\223\261app-firelens-self\316\145\000\000\000\201\243log\244self' | nc -w 2 $FLUENT_HOST $FLUENT_PORT; while :; do sleep 1; done`
	command, err := json.Marshal([]string{"sh", "-c", script})
	if err != nil {
		t.Fatal(err)
	}
	s.register(`{"family":"fire","executionRoleArn":"` + executionRole + `","containerDefinitions":[
		{"name":"app","image":"` + app + `","memory":32,"command":` + string(command) + `,
		 "logConfiguration":{"logDriver":"awsfirelens","options":{"Name":"stdout","format":"json_lines","exclude-pattern":"^debug","log-driver-buffer-limit":"1048576"},
		   "secretOptions":[{"name":"api_key","valueFrom":"/logs/key"}]}},
		{"name":"router","image":"` + router + `","memory":64,"user":"1000","firelensConfiguration":{"type":"fluentbit","options":{"config-file-type":"s3","config-file-value":"arn:aws:s3:::config/extra.conf"}},
		 "healthCheck":{"command":["CMD-SHELL","echo | nc 127.0.0.1 8877"],"interval":5}}]}`)
	task := s.run("fire")
	lines := func() map[string]routedLine {
		got := map[string]routedLine{}
		for line := range strings.Lines(s.output("fire", "router")) {
			var l routedLine
			if err := json.Unmarshal([]byte(line), &l); err != nil {
				t.Fatalf("the router says %s", line)
			}
			got[l.Record["log"]] = l
		}
		return got
	}
	s.Until(30*time.Second, "the router has the app's lines", func() error {
		if got := lines(); got["hello"].Tag == "" || got["self"].Tag == "" {
			return fmt.Errorf("it has %v", got)
		}
		return nil
	})
	hello := lines()["hello"]
	for field, want := range map[string]string{"source": "stdout", "ecs_cluster": cluster, "ecs_task_arn": task.TaskArn, "ecs_task_definition": "fire:1", "from_s3": "yes"} {
		if hello.Record[field] != want {
			t.Errorf("%s is %q, want %q", field, hello.Record[field], want)
		}
	}
	if hello.Tag != "app-firelens-"+e2e.ID(task.TaskArn) || hello.Output["format"] != "json_lines" || hello.Output["api_key"] != "planted-key" {
		t.Errorf("it came as %+v", hello)
	}
	files, err := filepath.Glob(s.Farm.Disk(1, "/var/lib/ecs/data/firelens/*/config/*"))
	if err != nil || len(files) != 2 {
		t.Errorf("the router's files: %v, %v", files, err)
	}
	for _, name := range files {
		if data, err := os.ReadFile(name); err != nil || strings.Contains(string(data), "planted-key") {
			t.Errorf("%s: %v: it holds the value of a secret option", name, err)
		}
	}
	if l, ok := lines()["debug: not this"]; ok {
		t.Errorf("what exclude-pattern names came: %+v", l)
	}
	s.Do("ecs", "stop-task", "--cluster", cluster, "--task", task.TaskArn)
	s.Until(30*time.Second, "the task is STOPPED", func() error {
		if got := s.DescribeTasks(task.TaskArn)[0]; got.LastStatus != "STOPPED" {
			return fmt.Errorf("%+v", got)
		}
		return nil
	})
	if lines()["the last word"].Tag == "" {
		t.Errorf("the router stopped before it had the app's last word: %s", s.output("fire", "router"))
	}
}
