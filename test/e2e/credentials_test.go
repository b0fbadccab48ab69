package e2e

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/longshore-project/longshore/test/awsfake"
	"github.com/longshore-project/longshore/test/images"
)

const (
	roleApp   = "arn:aws:iam::123456789012:role/app"
	roleOther = "arn:aws:iam::123456789012:role/other"
	roleHost  = "arn:aws:iam::123456789012:role/host"
	roleLogs  = "arn:aws:iam::123456789012:role/logs"
)

// controlKey is the control plane's own at STS.
var controlKey = aws.Credentials{AccessKeyID: "AKCONTROL", SecretAccessKey: "planted-control"}

// askedWorld is the world of these tests: two hosts, an STS that knows four roles, and an image with the AWS SDK in it.
type askedWorld struct {
	*Lab
	sts     *awsfake.Server
	image   string
	metrics string // the control plane's
}

func newAskedWorld(t *testing.T, engine string) *askedWorld {
	w := &askedWorld{sts: &awsfake.Server{Keys: []aws.Credentials{controlKey}, Roles: map[string]time.Duration{roleApp: 0, roleOther: 0, roleHost: 0, roleLogs: 0}}}
	server := httptest.NewServer(w.sts)
	t.Cleanup(server.Close)
	w.metrics = freeAddress(t)
	w.Lab = NewLabOn(t, engine, "cred"+engine[:1], 94, 2, "--assume-roles", "--sts-endpoint", server.URL, "--metrics-listen", w.metrics)
	w.forward(awsPort, strings.TrimPrefix(server.URL, "http://"))
	probe := filepath.Join(t.TempDir(), "probe")
	build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", probe, "./probe")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building the probe: %v: %s", err, out)
	}
	program, err := os.ReadFile(probe)
	if err != nil {
		t.Fatal(err)
	}
	w.image = w.Push("probe:1", images.Spec{Files: []images.File{{Path: "/bin/probe", Bytes: program, Mode: 0o755}}, Cmd: []string{"probe", "serve"}})
	w.Do("ecs", "create-cluster", "--cluster-name", cluster)
	for i := 1; i <= 2; i++ {
		w.agent(i)
	}
	return w
}

// agent starts host i's agent.
func (w *askedWorld) agent(i int) {
	w.StartAgent(i, `ECS_AVAILABLE_LOGGING_DRIVERS=["json-file","awslogs"]`, "ECS_ENABLE_PROMETHEUS_METRICS=true", "ECS_ENABLE_CONTAINER_METADATA=true", "ECS_POLLING_METRICS_WAIT_DURATION=1s")
}

// define registers a definition of one container.
func (w *askedWorld) define(family, mode, role, more string) {
	w.t.Helper()
	if role != "" {
		role = `"taskRoleArn":"` + role + `",`
	}
	w.Do("ecs", "register-task-definition", "--cli-input-json", fmt.Sprintf(`{"family":%q,"networkMode":%q,%s"containerDefinitions":[{"name":"main","image":%q,"memory":64,"stopTimeout":2%s}]%s}`,
		family, mode, role, w.image, more, map[bool]string{true: `,"executionRoleArn":"` + roleLogs + `"`}[more != ""]))
}

// start starts a task on a host.
func (w *askedWorld) start(host int, family string, more ...string) (arn string) {
	w.t.Helper()
	out := AWS[struct {
		Tasks    []Task
		Failures []any
	}](w.Lab, append([]string{"ecs", "start-task", "--cluster", cluster, "--task-definition", family, "--container-instances", w.InstanceOf(host)}, more...)...)
	if len(out.Tasks) != 1 {
		w.t.Fatalf("%s: %+v", family, out)
	}
	return out.Tasks[0].TaskArn
}

// runs waits until a task runs, and returns its container.
func (w *askedWorld) runs(host int, family, arn string) (id string) {
	w.t.Helper()
	w.Until(90*time.Second, "the task "+family+" runs", func() error {
		if task := w.DescribeTasks(arn)[0]; task.LastStatus != "RUNNING" {
			return fmt.Errorf("it is %s: %s", task.LastStatus, task.StoppedReason)
		}
		for _, c := range w.Running(host, family) {
			if c.Labels["com.amazonaws.ecs.task-arn"] == arn {
				id = c.ID
				return nil
			}
		}
		return fmt.Errorf("it has no container")
	})
	return id
}

// in runs the probe in a container.
func (w *askedWorld) in(host int, id string, args ...string) string {
	w.t.Helper()
	// Without credentials of the container's the SDK's chain would wait for an instance metadata service that is not there.
	out, err := w.Seen(host).Exec(w.t.Context(), id, append([]string{"env", "AWS_EC2_METADATA_DISABLED=true", "probe"}, args...)...)
	if err != nil {
		w.t.Fatalf("probe %q: %v: %s", args, err, out)
	}
	return strings.TrimSpace(out)
}

// found is what the SDK's chain finds in a container.
type found struct{ AccessKeyID, Secret, Token, Source, Error string }

func (w *askedWorld) chain(host int, id string) (f found) {
	w.t.Helper()
	if err := json.Unmarshal([]byte(w.in(host, id, "chain")), &f); err != nil {
		w.t.Fatal(err)
	}
	return f
}

// hasSession checks that a container's credentials are those that STS gave for its task and its role.
func (w *askedWorld) hasSession(f found, role, arn string) {
	w.t.Helper()
	for _, s := range w.sts.Sessions(role) {
		if s.AccessKeyID == f.AccessKeyID && s.Name == ID(arn) && hash(s.SecretAccessKey) == f.Secret && hash(s.SessionToken) == f.Token {
			return
		}
	}
	w.t.Errorf("the SDK found %+v, and STS gave for %s none such", f, arn)
}

func hash(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])
}

// variable is one of a container's environment.
func (w *askedWorld) variable(host int, id, name string) string {
	w.t.Helper()
	c, err := w.Seen(host).Inspect(w.t.Context(), id)
	if err != nil {
		w.t.Fatal(err)
	}
	for _, e := range c.Config.Env {
		if v, ok := strings.CutPrefix(e, name+"="); ok {
			return v
		}
	}
	return ""
}

// TestTheSDKInAContainerHasItsTasksCredentialsAndNobodyElseHas is the whole way from STS to the AWS SDK in a bridge and in a
// host-mode container, and who does not get there; and what else containers of both kinds ask on their host.
func TestTheSDKInAContainerHasItsTasksCredentialsAndNobodyElseHas(t *testing.T) {
	t.Setenv("AWS_ACCESS_KEY_ID", controlKey.AccessKeyID)
	t.Setenv("AWS_SECRET_ACCESS_KEY", controlKey.SecretAccessKey)
	t.Setenv("AWS_CONFIG_FILE", "/dev/null")
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
	onEachEngine(t, theSDKInAContainer)
}

func theSDKInAContainer(t *testing.T, engine string) {
	w := newAskedWorld(t, engine)
	w.define("app", "bridge", roleApp, "")
	w.define("other", "bridge", roleOther, "")
	w.define("onhost", "host", roleHost, "")
	w.define("none", "bridge", "", "")
	w.defineLogs()
	image := w.Push("monitor:1", images.Serving())
	w.Do("ecs", "register-task-definition", "--cli-input-json", fmt.Sprintf(monitor, image, map[string]string{Docker: "/var/run/docker.sock", Containerd: "/run/containerd/containerd.sock"}[engine]))
	w.Do("ecs", "create-service", "--cluster", cluster, "--service-name", "app", "--task-definition", "app", "--scheduling-strategy", "DAEMON")
	w.Steady("app", 2)
	tasks := map[int]string{}
	for _, task := range w.Tasks("--service-name", "app") {
		for i := 1; i <= 2; i++ {
			if task.ContainerInstanceArn == w.InstanceOf(i) {
				tasks[i] = task.TaskArn
			}
		}
	}
	w.sts.Set(func(s *awsfake.Server) {
		s.Refuse = func(c awsfake.Call) (int, string) {
			if strings.Contains(c.Body, "role%2Fother") {
				return http.StatusServiceUnavailable, "ServiceUnavailable"
			}
			return 0, ""
		}
	})
	other, onhost, noneArn, logs := w.start(1, "other"), w.start(1, "onhost"), w.start(1, "none"), w.start(1, "logs")
	monitoring := w.start(2, "monitor", "--tags", "key=owner,value=ops")
	w.Until(60*time.Second, "it is said which role STS does not give", func() error {
		return has(w.asks("explain", "task", ID(other)), "STS did not give the role "+roleOther, "the next call is at")
	})
	w.sts.Set(func(s *awsfake.Server) { s.Refuse = nil })
	app, app2 := w.runs(1, "app", tasks[1]), w.runs(2, "app", tasks[2])
	onhostID, none, otherID := w.runs(1, "onhost", onhost), w.runs(1, "none", noneArn), w.runs(1, "other", other)

	w.hasSession(w.chain(1, app), roleApp, tasks[1])
	w.hasSession(w.chain(2, app2), roleApp, tasks[2])
	w.hasSession(w.chain(1, otherID), roleOther, other)
	w.hasSession(w.chain(1, onhostID), roleHost, onhost)
	if f := w.chain(1, none); f.Error == "" || f.AccessKeyID != "" {
		t.Errorf("a container without a role has credentials: %+v", f)
	}
	var first found // what the container's own first process got, at its very start
	if err := json.Unmarshal([]byte(strings.SplitN(w.output(1, onhostID), "\n", 2)[0]), &first); err != nil {
		t.Error(err)
	}
	w.hasSession(first, roleHost, onhost)
	t.Run("boto3's own chain, in the container's network", func(t *testing.T) { w.botocore(t, app) })

	path, hostPath := w.variable(1, app, "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"), w.variable(1, onhostID, "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI")
	if !strings.HasPrefix(path, "/v2/credentials/") || len(path) != len("/v2/credentials/")+36 || w.variable(1, none, "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI") != "" {
		t.Fatalf("the path is %q", path)
	}
	url, hostURL := "http://169.254.170.2"+path, "http://169.254.170.2"+hostPath
	v1 := strings.Replace(url, "/v2/credentials/", "/v1/credentials?id=", 1)
	if got := w.in(1, app, "get", v1); !strings.HasPrefix(got, `200 {"RoleArn":"`+roleApp) {
		t.Errorf("v1: %.40s", got)
	}
	refused := func(who, got string, want ...string) {
		t.Helper()
		for _, text := range append(want, "") {
			if !strings.Contains(got, text) || strings.Contains(got, "planted") {
				t.Errorf("%s gets %q, want %q", who, got, want)
			}
		}
	}
	refused("another task's container", w.in(1, otherID, "get", url), "403", `"code":"AccessDenied"`, other, "for the containers of "+tasks[1])
	refused("a container without a role", w.in(1, none, "get", v1), "403", "AccessDenied")
	refused("a container in host mode", w.in(1, onhostID, "get", url), "403", onhost)
	refused("a bridge container, with the id of one in host mode", w.in(1, app, "get", hostURL), "403", tasks[1])
	refused("a container on another host", w.in(2, app2, "get", url), "400", "InvalidIdInRequest")
	refused("somebody with a wrong id", w.in(1, app, "get", url+"0"), "400", "InvalidIdInRequest")
	refused("somebody with no id", w.in(1, app, "get", "http://169.254.170.2/v2/credentials/"), `400 {"code":"NoIdInRequest","message":"CredentialsV2Request: No Credential ID in the request","HTTPErrorCode":400}`)
	host := func(i int, address string) string {
		out, _ := w.OnHost(i, "sh", "-c", "busybox wget -q -O - "+strings.Replace(hostURL, "169.254.170.2", address, 1)+" 2>&1").CombinedOutput()
		return string(out)
	}
	refused("a process of the host", host(1, "169.254.170.2"), "403")
	refused("another host, by the LAN", host(2, w.Farm.Address(1)), "refused")
	w.otherMachine(t, hostURL)

	w.protection(t, tasks[1], app, otherID)
	t.Run("a monitoring agent finds itself, and another machine finds nothing", func(t *testing.T) { w.monitoring(t, 2, monitoring) })
	t.Run("a container in host mode finds itself", func(t *testing.T) { w.asksFromHostMode(t, onhostID, onhost) })
	w.awslogs(t, logs)
	t.Run("the rules and the address are put back", func(t *testing.T) {
		for _, damage := range []string{"nft flush ruleset", "ip addr del 169.254.170.2/32 dev lo"} {
			if out, err := w.OnHost(1, "sh", "-c", damage).CombinedOutput(); err != nil {
				t.Fatalf("%s: %s", damage, out)
			}
			w.Until(30*time.Second, "containers get their credentials again after: "+damage, func() error {
				if got := w.in(1, app, "get", url); !strings.HasPrefix(got, "200") {
					return fmt.Errorf("%.200s", got)
				}
				return nil
			})
		}
	})
	t.Run("a killed agent gets them again", func(t *testing.T) {
		w.KillAgent(1)
		w.agent(1)
		for id, want := range map[string]string{app: url, onhostID: hostURL} {
			w.Until(60*time.Second, "containers get their credentials after a restart of the agent", func() error {
				if got := w.in(1, id, "get", want); !strings.HasPrefix(got, "200") {
					return fmt.Errorf("%.200s", got)
				}
				return nil
			})
		}
	})
	w.nowhere(t, tasks[1], strings.TrimPrefix(path, "/v2/credentials/"))
	w.leavesNothing(t)
}

// botocore runs the machine's Python SDK in the container's network namespace, where the container's address is its own.
func (w *askedWorld) botocore(t *testing.T, id string) {
	c, err := w.Seen(1).Inspect(w.t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	cmd := w.OnHost(1, "nsenter", "-t", fmt.Sprint(c.State.Pid), "-n", "env", "-i", "PATH="+os.Getenv("PATH"), "HOME=/nonexistent", "AWS_EC2_METADATA_DISABLED=true",
		"AWS_CONTAINER_CREDENTIALS_RELATIVE_URI="+w.variable(1, id, "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"), "aws", "configure", "list")
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "container-role") {
		t.Errorf("%v: %s", err, out)
	}
}

// otherMachine asks from beside the hosts, with a route to the address by host 1.
func (w *askedWorld) otherMachine(t *testing.T, url string) {
	t.Helper()
	lan := func(script string) string {
		out, _ := w.Farm.Command(t.Context(), "lan", "sh", "-c", script).CombinedOutput()
		return string(out)
	}
	lan("ip route add 169.254.170.2/32 via " + w.Farm.Address(1))
	ask := func(at string) string { return "(timeout 2 busybox wget -q -O - " + at + " 2>&1 && echo answered) & " }
	if got := lan(ask(url) + ask(strings.Replace(url, "169.254.170.2/", "169.254.170.2:51679/", 1)) + "wait"); strings.Contains(got, "answered") {
		t.Errorf("another machine is answered: %s", got)
	}
}

// protection has a task protect itself, and another one try.
func (w *askedWorld) protection(t *testing.T, arn, id, otherID string) {
	t.Helper()
	const path = "/task-protection/v1/state"
	uri := w.variable(1, id, "ECS_AGENT_URI")
	if got := w.in(1, id, "put", "$ECS_AGENT_URI"+path, `{"ProtectionEnabled":true,"ExpiresInMinutes":5}`); !strings.HasPrefix(got, `200 {"protection":{"ExpirationDate":"`) || !strings.Contains(got, arn) {
		t.Errorf("a task protects itself: %s", got)
	}
	if got := w.in(1, id, "get", "$ECS_AGENT_URI"+path); !strings.Contains(got, `"ProtectionEnabled":true`) {
		t.Errorf("it sees it: %s", got)
	}
	out := AWS[struct {
		ProtectedTasks []struct{ ProtectionEnabled bool }
	}](w.Lab, "ecs", "get-task-protection", "--cluster", cluster, "--tasks", arn)
	if len(out.ProtectedTasks) != 1 || !out.ProtectedTasks[0].ProtectionEnabled {
		t.Errorf("and so does the control plane: %+v", out)
	}
	for got, want := range map[string]string{
		w.in(1, otherID, "put", uri+path, `{"ProtectionEnabled":false}`):                                `403 {"error":{"Arn":"` + arn + `","Code":"AccessDeniedException"`,
		w.in(1, otherID, "put", "$ECS_AGENT_URI"+path, `{"ProtectionEnabled":true}`):                    `200 {"failure":{`, // it is no service's
		w.in(1, id, "put", "$ECS_AGENT_URI"+path, `{"ExpiresInMinutes":5}`):                             `400 {"error":{"Arn":"` + arn + `","Code":"InvalidParameterException"`,
		w.in(1, id, "put", "$ECS_AGENT_URI"+path, `{"ProtectionEnabled":true,"Other":1}`):               `400`,
		w.in(1, id, "put", "$ECS_AGENT_URI"+path, `{"ProtectionEnabled":true,"ExpiresInMinutes":9999}`): `400 {"error":{"Arn":"` + arn + `","Code":"InvalidParameterException","Message":"expiresInMinutes should be between`,
		w.in(1, id, "get", uri+"0"+path):                                                                `404 {"error":{"Code":"ResourceNotFoundException"`,
	} {
		if !strings.HasPrefix(got, want) {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

// defineLogs registers a task that logs with its execution role.
func (w *askedWorld) defineLogs() {
	w.t.Helper()
	w.define("logs", "bridge", roleOther, fmt.Sprintf(`,"command":["sh","-c","echo a line for CloudWatch; exec probe serve"],"logConfiguration":{"logDriver":"awslogs","options":{"awslogs-group":"/app",
		"awslogs-region":"us-west-2","awslogs-endpoint":"http://%s:%s","awslogs-stream-prefix":"e2e"}}`, w.Farm.LAN(), awsPort))
}

// awslogs has the container engine log with the credentials of a task's execution role, which it asks the agent for. No container
// gets these.
func (w *askedWorld) awslogs(t *testing.T, arn string) {
	t.Helper()
	id := w.runs(1, "logs", arn)
	w.hasSession(w.chain(1, id), roleOther, arn)
	w.Until(60*time.Second, "the engine has written a line with the execution role's credentials", func() error {
		calls := w.sts.Calls("PutLogEvents")
		for _, c := range calls {
			for _, s := range w.sts.Sessions(roleLogs) {
				if s.AccessKeyID == c.AccessKeyID && s.Name == ID(arn) && strings.Contains(c.Body, "a line for CloudWatch") {
					return nil
				}
			}
		}
		return fmt.Errorf("%d calls, none of them is it", len(calls))
	})
	c, err := w.Seen(1).Inspect(w.t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	path := c.HostConfig.LogConfig.Config["awslogs-credentials-endpoint"]
	if got := w.in(1, id, "get", "http://169.254.170.2"+path); !strings.HasPrefix(got, "403") || !strings.Contains(got, "for the container engine only") {
		t.Errorf("the task's own container asks %s and gets %s", path, got)
	}
}

// nowhere looks for everything that STS gave in what the agents and the control plane have written and what they show. An id is no
// secret of STS, but must not be in a log either.
func (w *askedWorld) nowhere(t *testing.T, arn, id string) {
	t.Helper()
	searched := 0
	search := func(where string, data []byte) {
		searched += len(data)
		if i := bytes.Index(data, []byte("planted-")); i >= 0 {
			t.Errorf("%s has a secret in it: …%q", where, data[max(0, i-80):min(len(data), i+40)])
		}
		if strings.HasSuffix(where, ".log") && bytes.Contains(data, []byte(id)) {
			t.Errorf("%s has the id of a task's credentials in it", where)
		}
	}
	for _, dir := range []string{w.Farm.Disk(1, "/var/lib/ecs"), w.Farm.Disk(1, "/var/log/ecs"), w.Farm.Disk(2, "/var/lib/ecs"), filepath.Join(w.dir, "control"), w.dir} {
		_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() && path == filepath.Join(w.dir, "hosts") {
				return fs.SkipDir
			}
			if data, err := os.ReadFile(path); err == nil && d.Type().IsRegular() {
				search(path, data)
			}
			return nil
		})
	}
	for _, path := range []string{"/v1/tasks", "/v1/tasks/stopped", "/v1/metadata"} {
		out, _ := w.OnHost(1, "busybox", "wget", "-q", "-O", "-", "http://127.0.0.1:51678"+path).Output()
		search("introspection "+path, out)
	}
	metrics, err := w.OnHost(1, "busybox", "wget", "-q", "-O", "-", "http://127.0.0.1:51680/metrics").Output()
	if err != nil {
		t.Errorf("the agent's metrics: %v", err)
	}
	search("the agent's metrics", metrics)
	search("the control plane's metrics", w.scrape(t))
	for _, args := range [][]string{{"tasks", "--json"}, {"status", "--json"}, {"explain", arn, "--json"}} {
		out, err := w.OnHost(1, append([]string{w.Agent()}, args...)...).Output()
		if err != nil {
			t.Errorf("longshore-agent %q: %v", args, err)
		}
		search("longshore-agent "+args[0], out)
	}
	for _, c := range w.Running(1, "app") {
		out, err := w.Seen(1).Inspect(t.Context(), c.ID)
		if err != nil {
			t.Error(err)
		}
		told, err := json.Marshal(out)
		if err != nil {
			t.Error(err)
		}
		search("what the engine tells", told)
	}
	audit, err := os.ReadFile(filepath.Join(w.Farm.Disk(1, "/var/log/ecs"), "audit.log"))
	if err != nil || bytes.Count(audit, []byte("GetCredentials 2 "+cluster)) < 4 || !bytes.Contains(audit, []byte(` "/v2/credentials" `)) || !bytes.Contains(audit, []byte(" 403 ")) {
		t.Errorf("%v, the audit log: %s", err, audit)
	}
	if searched < 100<<10 {
		t.Errorf("only %d bytes were searched", searched)
	}
}

// scrape reads the control plane's metrics.
func (w *askedWorld) scrape(t *testing.T) []byte {
	t.Helper()
	r, err := http.Get("http://" + w.metrics + "/metrics")
	if err != nil {
		t.Error(err)
		return nil
	}
	defer r.Body.Close()
	data, err := io.ReadAll(r.Body)
	if err != nil || r.StatusCode != http.StatusOK {
		t.Errorf("%s, %v", r.Status, err)
	}
	http.DefaultClient.CloseIdleConnections()
	return data
}

// leavesNothing removes what the agent has added to host 1's network.
func (w *askedWorld) leavesNothing(t *testing.T) {
	t.Helper()
	if out, err := w.OnHost(1, w.Agent(), "cleanup").CombinedOutput(); err == nil || !strings.Contains(string(out), "stop it first") {
		t.Errorf("while the agent runs: %v, %s", err, out)
	}
	w.StopAgent(1)
	things := map[string]int{Docker: 2, Containerd: 3}[w.engineOf(1)] // the table, the address, and with containerd the bridge
	if out, err := w.OnHost(1, w.Agent(), "cleanup").CombinedOutput(); err != nil || strings.Count(string(out), "removed: ") != things {
		t.Errorf("%v, %s", err, out)
	}
	out, err := w.OnHost(1, "sh", "-c", "nft list tables; ip addr show dev lo").CombinedOutput()
	if err != nil || strings.Contains(string(out), "longshore") || strings.Contains(string(out), "169.254.170.2") {
		t.Errorf("%v, left: %s", err, out)
	}
}
