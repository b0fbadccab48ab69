package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// asks runs longshore-control with an operation that asks the running one.
func (l *Lab) asks(args ...string) string {
	l.t.Helper()
	bin, err := binaries()
	if err != nil {
		l.t.Fatal(err)
	}
	cmd := exec.Command(filepath.Join(bin, "longshore-control"), append(args, "--endpoint", "http://"+l.api, "--cluster", cluster)...)
	cmd.Env = l.admin
	out, err := cmd.CombinedOutput()
	if err != nil {
		l.t.Fatalf("longshore-control %v: %v: %s", args, err, out)
	}
	return string(out)
}

// command is one of the agent on host i.
func (l *Lab) command(i int, args ...string) *exec.Cmd {
	l.t.Helper()
	env := append([]string{"env", "ECS_BACKEND_HOST=http://" + l.Farm.LAN() + ":" + apiPort, "ECS_CLUSTER=" + cluster, "AWS_DEFAULT_REGION=" + region, "ECS_DATADIR=/var/lib/ecs/data", "ECS_LOGFILE=/var/log/ecs/ecs-agent.log", l.host[0], l.host[1]}, l.Settings(l.engineOf(i))...)
	return l.OnHost(i, append(append(env, l.Agent()), args...)...)
}

// tells runs a command of the agent on host i.
func (l *Lab) tells(i int, args ...string) (stdout string, err error) {
	l.t.Helper()
	var out, stderr bytes.Buffer
	cmd := l.command(i, args...)
	cmd.Stdout, cmd.Stderr = &out, &stderr
	if err = cmd.Run(); err != nil {
		err = fmt.Errorf("longshore-agent %v: %w: %s%s", args, err, out.String(), stderr.String())
	}
	return out.String(), err
}

// has is an error that names what is missing of a text.
func has(text string, parts ...string) error {
	for _, part := range parts {
		if !strings.Contains(text, part) {
			return fmt.Errorf("%q is not in\n%s", part, text)
		}
	}
	return nil
}

// walkQuestions puts a task onto host i that never gets to run, and asks both sides why.
func (l *Lab) walkQuestions(i int, instance, image string) {
	t := l.t
	t.Helper()
	l.Do("ecs", "register-task-definition", "--cli-input-json", l.write("waits.json", `{"family":"waits","containerDefinitions":[
 {"name":"db","image":"`+image+`","memory":16,"stopTimeout":2,"entryPoint":["/bin/sleep"],"command":["600"],"healthCheck":{"command":["CMD-SHELL","exit 1"],"interval":300,"startPeriod":300}},
 {"name":"app","image":"`+image+`","memory":16,"stopTimeout":2,"entryPoint":["/bin/sleep"],"command":["600"],"dependsOn":[{"containerName":"db","condition":"HEALTHY"}]}]}`))
	task := AWS[struct{ Tasks []Task }](l, "ecs", "start-task", "--cluster", cluster, "--task-definition", "waits", "--container-instances", ID(instance)).Tasks[0].TaskArn
	l.Until(30*time.Second, "the control plane knows what the task waits for on its host", func() error {
		return has(l.asks("explain", "task", ID(task)), "on host "+ID(instance)+": container app waits: its dependency db has not reached HEALTHY yet")
	})
	out, err := l.tells(i, "explain", ID(task)[:10])
	if err == nil {
		err = has(out, "is PENDING", "container app waits: its dependency db has not reached HEALTHY", "What to do:", "Run the check by hand", "Timeline:", "pull db")
	}
	if err != nil {
		t.Error(err)
	}
	if out, err = l.tells(i, "tasks"); err == nil {
		err = has(out, ID(task)[:8]+"  waits:1", "db RUNNING", "datadog-agent-task:")
	}
	if err != nil {
		t.Error(err)
	}
	if out, err = l.tells(i, "status", "--json"); err == nil {
		err = has(out, `"connected": true`, instance, `"ok": true`)
	}
	if err != nil {
		t.Error(err)
	}
	l.doctor(i)
	l.Do("ecs", "stop-task", "--cluster", cluster, "--task", task)
	l.waited("tasks-stopped", task)
	l.figures()
}

// doctor looks at the host of a running agent; what a simulated host has not is not judged.
func (l *Lab) doctor(i int) {
	l.t.Helper()
	out, _ := l.tells(i, "doctor", "--json")
	var report struct {
		Checks []struct{ Name, Verdict, Says string }
	}
	if err := json.Unmarshal([]byte(out), &report); err != nil {
		l.t.Errorf("%v: %s", err, out)
	}
	verdicts := map[string]string{}
	for _, c := range report.Checks {
		verdicts[c.Name] = c.Verdict + " " + c.Says
	}
	for _, name := range []string{"agent", "session", "engine", "DNS", "TCP", "HTTP", "clock", "credentials", "introspection", "link-local", "nftables", "reserve", "capabilities"} {
		if !strings.HasPrefix(verdicts[name], "OK ") {
			l.t.Errorf("doctor: %s: %q", name, verdicts[name])
		}
	}
}

// figures are Prometheus's and the sizes.
func (l *Lab) figures() {
	l.t.Helper()
	l.Until(60*time.Second, "use stands beside the reservation", func() error {
		return has(l.asks("sizing", "--service", "datadog-agent"), "Service datadog-agent, container agent", "memory MiB  reserved ")
	})
	l.Until(60*time.Second, "Prometheus is shown what was measured", func() error {
		answer, err := http.Get("http://" + l.metrics + "/metrics")
		if err != nil {
			return err
		}
		defer answer.Body.Close()
		text, err := io.ReadAll(answer.Body)
		if err != nil {
			return err
		}
		return has(string(text), `longshore_container_tasks{cluster="daemonset",container="agent",family="",service="datadog-agent"} `, `longshore_api_call_seconds_count{operation="DescribeTasks",status="2xx"}`,
			`longshore_agent_connections{channel="acs"} 4`, "longshore_store_size_bytes", `longshore_store_seconds_count{operation="commit",outcome="ok"}`, "longshore_scheduler_pass_seconds_count", `longshore_host_memory_bytes{`, `longshore_tasks{`)
	})
}
