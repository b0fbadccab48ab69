package local

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/longshore-project/longshore/engine"
)

const cluster = "arn:aws:ecs:us-west-2:000000000000:task/daemonset/"

var t0 = time.Date(2026, 11, 20, 9, 0, 0, 0, time.UTC)

func step(container, name string, at, took time.Duration, outcome, detail string) engine.Step {
	s := engine.Step{Container: container, Name: name, Start: t0.Add(at), Outcome: outcome, Detail: detail}
	if outcome != "" {
		s.End = s.Start.Add(took)
	}
	return s
}

func TestAnExplanationSaysWhatATaskDoesWhatItWaitsForAndWhatToDo(t *testing.T) {
	s := &engine.TaskStatus{
		Arn: cluster + "0123456789abcdef0123456789abcdef", Family: "web", Version: "3", Desired: "RUNNING", Known: "NONE", AcceptedAt: t0,
		Waits:      []string{"pull of container web", "host port 8080/tcp is held by process 123 (nginx)"},
		Containers: []engine.ContainerStatus{{Name: "web", Image: "r.example.com/web:1", Known: "NONE", Essential: true}, {Name: "side", Image: "side:1", Known: "RUNNING", StartedAt: t0.Add(time.Second), Restarts: 2, Health: engine.Health{Status: "UNHEALTHY", Output: "no\nanswer\n"}}},
		Timeline: []engine.Step{
			step("", "accept", 0, 0, "done", "web:3, desiredStatus RUNNING, 2 containers"),
			step("web", "pull", time.Second, 1500*time.Millisecond, "failed", "429 Too Many Requests"),
			step("web", "pull", 4*time.Second, 0, "", "downloading: 40.0 of 120.0 MiB, 1 of 3 layers"),
		},
	}
	e := Explain(s, t0.Add(16*time.Second))
	var out bytes.Buffer
	if err := e.Print(&out); err != nil {
		t.Fatal(err)
	}
	want := `Task 0123456789abcdef0123456789abcdef (web:3) is PENDING: knownStatus NONE, desiredStatus RUNNING; accepted 16s ago.
Container web (r.example.com/web:1) is NONE
Container side (side:1) is RUNNING for 15s, UNHEALTHY: no answer, restarted 2 times
Waits for:
  - host port 8080/tcp is held by process 123 (nginx)
At work:
  - pull of container web for 12s: downloading: 40.0 of 120.0 MiB, 1 of 3 layers
Last errors:
  - 15s ago, pull of container web failed: 429 Too Many Requests
What it means:
  - Another process or container of this host has the port.
  - The registry limits how often this host or account may pull.
What to do:
  - Free the host port, choose another hostPort, or hostPort 0 for any.
  - Give the agent credentials for the registry (ECS_ENGINE_AUTH_DATA), or serve the image from a registry of your own.
Timeline:
  2026-11-20T09:00:00.000Z            accept                   done    web:3, desiredStatus RUNNING, 2 containers
  2026-11-20T09:00:01.000Z      1.5s  pull web                 failed  429 Too Many Requests
  2026-11-20T09:00:04.000Z            pull web                 goes on downloading: 40.0 of 120.0 MiB, 1 of 3 layers
`
	if d := cmp.Diff(want, out.String()); d != "" {
		t.Errorf("(-want +got)\n%s", d)
	}
}

func TestWhatToDoFollowsFromTheText(t *testing.T) {
	cause := func(text string) engine.TaskStatus {
		return engine.TaskStatus{Known: "STOPPED", StoppedAt: t0, Cause: &engine.Cause{Container: "web", Step: "run", Text: text, At: t0},
			Waits: []string{"the control plane to accept the task's state changes before its containers are removed"}}
	}
	for text, task := range map[string]engine.TaskStatus{
		"Free space on the disk":       {Waits: []string{"another try to create container web: no space left on device"}},
		"reserved by other tasks":      {Waits: []string{"memory: 512 MiB needed, 100 of 2048 free"}},
		"systemctl status docker":      {Waits: []string{"the container engine: dial unix: connection reset"}},
		"is not in the image":          cause("essential container web ended by itself with exit code 127"),
		"stopTimeout":                  cause("container web did not end within its stopTimeout of 30s and was killed (SIGKILL, exit code 137)"),
		"See its output":               cause("essential container web ended by itself with exit code 3"),
		"Raise the container's":        cause("OutOfMemoryError: Container killed due to memory usage"),
		"Nothing is known about this":  cause("something new"),
		"has no image of this name":    {Known: "STOPPED", StoppedAt: t0, Reason: "CannotPullContainerError: manifest unknown"},
		"Nothing: it runs":             {Known: "RUNNING", Desired: "RUNNING"},
		"Nothing: it is at work":       {Known: "NONE", Desired: "RUNNING", Timeline: []engine.Step{step("web", "create", 0, 0, "", "")}},
		"grep the task's id":           {Known: "NONE", Desired: "RUNNING", Waits: []string{"something new"}},
		"hostPort 0 for any":           {Known: "STOPPED", StoppedAt: t0, Timeline: []engine.Step{step("web", "check-volumes", 0, 0, "failed", "host port 8080/tcp is taken")}},
		"Run the check by hand":        {Desired: "RUNNING", Waits: []string{"container app waits: container db is not HEALTHY: its health is UNKNOWN"}},
		"has not accepted the task's":  {Known: "STOPPED", StoppedAt: t0, Waits: []string{"the control plane to accept the task's state changes before its containers are removed"}},
		"is not one that this host":    {Known: "STOPPED", StoppedAt: t0, Reason: "CannotPullContainerError: x509: certificate signed by unknown authority"},
		"does not accept the user nam": {Known: "STOPPED", StoppedAt: t0, Reason: "CannotPullContainerError: unauthorized"},
	} {
		e := Explain(&task, t0)
		if got := strings.Join(append(e.Meaning, e.Advice...), "\n"); !strings.Contains(got, text) || len(e.Advice) != 1 {
			t.Errorf("%q is not in %q", text, got)
		}
	}
}

func TestATaskIsFoundByItsArnItsIdAndTheBeginningOfIt(t *testing.T) {
	var tasks []Task
	for _, id := range []string{"abc123", "abc456", "def000"} {
		tasks = append(tasks, Task{ID: id, Arn: cluster + id, Family: "web", Revision: "1", KnownStatus: "RUNNING", DesiredStatus: "RUNNING"})
	}
	for ref, want := range map[string]string{cluster + "abc123": "abc123", "abc123": "abc123", "daemonset/abc123": "abc123", "abc4": "abc456", "def": "def000"} {
		if got, err := Resolve(tasks, ref); err != nil || got.ID != want {
			t.Errorf("%s: %v %v", ref, got, err)
		}
	}
	for ref, want := range map[string]string{
		"":                      "name a task",
		"abc":                   `"abc" is the beginning of 2 tasks' ids: abc123 (web:1, RUNNING), abc456 (web:1, RUNNING)`,
		"de":                    `there is no task "de"; did you mean def000`,
		"abd123":                `did you mean abc123 (web:1, RUNNING)?`,
		"web":                   `"web" is a family, not a task; its tasks on this host: abc123`,
		"zzzzzz":                `"longshore-agent tasks" lists the 3`,
		"arn:other:task/abc123": `there is no task "arn:other:task/abc123"; did you mean abc123`,
	} {
		if got, err := Resolve(tasks, ref); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v %v", ref, got, err)
		}
	}
	if _, err := Resolve(nil, "abc"); err == nil || !strings.Contains(err.Error(), "no task is on record") {
		t.Error(err)
	}
}

func TestTheTableOfTasksShowsAsMuchOfAnIdAsItTakes(t *testing.T) {
	code := 1
	tasks := Tasks{Now: t0.Add(3 * time.Hour), Tasks: []Task{
		{ID: "0123456789a", Family: "web", Revision: "1", KnownStatus: "RUNNING", DesiredStatus: "RUNNING", AcceptedAt: t0, Containers: []Container{{Name: "web", KnownStatus: "RUNNING", Health: "HEALTHY"}, {Name: "side", KnownStatus: "RUNNING", Restarts: 1}}},
		{ID: "0123456789b", Family: "job", Revision: "12", KnownStatus: "RUNNING", DesiredStatus: "STOPPED", AcceptedAt: t0.Add(2*time.Hour + 59*time.Minute), Containers: []Container{{Name: "job", KnownStatus: "STOPPED", ExitCode: &code}}, CleanedUp: true},
	}}
	var out bytes.Buffer
	if err := tasks.Print(&out); err != nil {
		t.Fatal(err)
	}
	want := `TASK         DEFINITION  STATUS             AGE    CONTAINERS
0123456789a  web:1       RUNNING            3h00m  web RUNNING HEALTHY, side RUNNING restarts 1
0123456789b  job:12      RUNNING → STOPPED  1m00s  job STOPPED (1), containers removed
`
	if d := cmp.Diff(want, out.String()); d != "" {
		t.Errorf("(-want +got)\n%s", d)
	}
}

func TestAStatusSaysWhatIsWrong(t *testing.T) {
	s := Status{
		Now: t0.Add(time.Hour), Version: "0.1.0", Hash: "1234567", PID: 7, StartedAt: t0, Cluster: "daemonset",
		Connection: Connection{Endpoint: "http://c:8480", Since: t0.Add(59 * time.Minute), Problem: "dial tcp: refused"}, Engine: Engine{Name: "docker", Version: "20.10", APIVersion: "1.41", CgroupVersion: 1, Root: "/var/lib/docker"},
		Resources: Resources{CPU: Amount{2048, 512}, Memory: Amount{1000, 1200}, ReservedMemory: 256, Ports: []string{"80/tcp"}}, Containers: Endpoints{"169.254.170.2:80", "port taken"}, Disks: []Disk{{"/data", 1 << 30, 4 << 30, 10, 20}, {"/xfs", 1 << 20, 2 << 20, 0, 0}},
		Health: Health{Reasons: []string{"the disk is short\nx"}, Since: t0}, Tasks: Counts{1, 2, 3, 4}, UnsentChanges: 2,
	}
	var out bytes.Buffer
	if err := s.Print(&out); err != nil {
		t.Fatal(err)
	}
	want := `Longshore Agent  0.1.0 (1234567), pid 7, up 1h00m
Cluster          daemonset
Instance         not registered yet
Control plane    NOT connected for 1m00s, http://c:8480: dial tcp: refused
                 2 state changes are not accepted by it yet
Engine           docker 20.10, API 1.41, cgroup v1, /var/lib/docker
Task endpoints   NOT served at 169.254.170.2:80: port taken
CPU units        2048 registered, 512 used, 1536 free
Memory MiB       1000 registered, 1200 used, -200 free, 256 more not offered to tasks
Host ports       80/tcp
Disks            /data: 1024 of 4096 MiB free, 10 of 20 inodes free
                 /xfs: 1 of 2 MiB free, no bound on inodes
Tasks            1 running, 2 pending, 3 stopping, 4 stopped on record
Health           IMPAIRED for 1h00m
                 - the disk is short x
`
	if d := cmp.Diff(want, out.String()); d != "" {
		t.Errorf("(-want +got)\n%s", d)
	}
	for d, want := range map[time.Duration]string{-1: "0ms", 1: "0ms", 1500 * time.Millisecond: "1.5s", 59 * time.Second: "59s", 49 * time.Hour: "2d01h"} {
		if got := duration(d); got != want {
			t.Error(fmt.Sprint(d), got)
		}
	}
}
