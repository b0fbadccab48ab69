package metrics

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/longshore-project/longshore/agent/stats"
	"github.com/longshore-project/longshore/engine"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// line is what a line of Prometheus's text format looks like.
var line = regexp.MustCompile(`^[a-zA-Z_:][a-zA-Z0-9_:]*(\{[a-zA-Z_]+="([^"\\]|\\.)*"(, ?[a-zA-Z_]+="([^"\\]|\\.)*")*\})? [0-9.eE+-]+$`)

func TestWhatIsCountedIsServedInPrometheusFormat(t *testing.T) {
	m, at := New(), time.Date(2026, 11, 20, 8, 0, 0, 0, time.UTC)
	m.Step(engine.Step{Name: "pull", Start: at, End: at.Add(2 * time.Second), Outcome: engine.OutcomeDone})
	m.Step(engine.Step{Name: "pull", Start: at, End: at.Add(20 * time.Millisecond), Outcome: engine.OutcomeFailed})
	m.Step(engine.Step{Name: "exit", Start: at, End: at, Outcome: engine.OutcomeDone})
	m.Call("create", time.Now(), nil)
	m.Call("create", time.Now(), errors.New("no"))
	m.Session(true)
	m.Session(false)
	m.Session(true)
	now := Now{
		Tasks:  []engine.TaskStatus{{Known: "RUNNING", Containers: []engine.ContainerStatus{{Known: "RUNNING"}, {Known: "STOPPED"}}}},
		Health: engine.EngineHealth{Impaired: true}, Outside: 1 << 20, Disks: map[string]string{"state": "/", "gone": "/does/not/exist"},
		Losses: []engine.LogLoss{{TaskArn: "arn:t", Container: "web", Dropped: 3, Failed: 1}},
		Uses:   []stats.Use{{TaskArn: "arn:t", Family: "f", Container: "a\"b\n", CPU: 1500 * time.Millisecond, Memory: 7}},
	}
	w := httptest.NewRecorder()
	m.Handler(func() Now { return now }).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	body := w.Body.String()
	for _, want := range []string{
		`longshore_agent_step_seconds_bucket{step="pull",le="0.01"} 0`, `longshore_agent_step_seconds_bucket{step="pull",le="0.025"} 1`, `longshore_agent_step_seconds_bucket{step="pull",le="2.5"} 2`,
		`longshore_agent_step_seconds_bucket{step="pull",le="+Inf"} 2`, `longshore_agent_step_seconds_sum{step="pull"} 2.02`, `longshore_agent_step_seconds_count{step="pull"} 2`,
		`longshore_agent_steps_total{step="pull",outcome="failed"} 1`, `longshore_agent_steps_total{step="exit",outcome="done"} 1`,
		`longshore_agent_engine_call_seconds_count{call="create"} 2`, `longshore_agent_engine_call_failures_total{call="create"} 1`,
		`longshore_agent_session_connects_total 2`, `longshore_agent_session_connected 1`, `longshore_agent_engine_impaired 1`, `longshore_agent_memory_outside_tasks_bytes 1048576`,
		`longshore_agent_tasks{status="RUNNING"} 1`, `longshore_agent_tasks{status="PENDING"} 0`, `longshore_agent_containers{status="STOPPED"} 1`,
		`longshore_agent_container_log_lines_lost_total{task="arn:t",container="web",reason="dropped"} 3`, `longshore_agent_container_log_lines_lost_total{task="arn:t",container="web",reason="failed"} 1`,
		`longshore_agent_container_cpu_seconds_total{task="arn:t",family="f",container="a\"b\n"} 1.5`, `longshore_agent_container_memory_bytes{task="arn:t",family="f",container="a\"b\n"} 7`,
	} {
		if !strings.Contains("\n"+body, "\n"+want+"\n") {
			t.Errorf("there is no %s", want)
		}
	}
	for _, want := range []string{"\nlongshore_agent_disk_bytes{disk=\"state\",state=\"free\"} ", "\nlongshore_agent_disk_inodes{disk=\"state\",state=\"total\"} ", "\nprocess_resident_memory_bytes ", "\ngo_goroutines "} {
		if !strings.Contains(body, want) {
			t.Errorf("there is no %s", want)
		}
	}
	for text := range strings.Lines(body) {
		if text = strings.TrimSuffix(text, "\n"); !line.MatchString(text) {
			t.Errorf("%q is no metric", text)
		}
	}
	if t.Failed() {
		t.Log(body)
	}
}
