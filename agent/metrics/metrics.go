// Package metrics is what the agent counts about itself, in the text format of Prometheus.
//
//	longshore_agent_step_seconds{step}               histogram: each step of a task, as its timeline has them (pull, create, start …)
//	longshore_agent_steps_total{step,outcome}        the same, counted; outcome is done, failed or warning
//	longshore_agent_engine_call_seconds{call}        histogram: calls of the container engine
//	longshore_agent_engine_call_failures_total{call} those that it refused or did not answer
//	longshore_agent_session_connects_total           connections to the control plane that stood
//	longshore_agent_session_connected                1 while one stands
//	longshore_agent_tasks{status}                    tasks on this host by what is known of them
//	longshore_agent_containers{status}               their containers
//	longshore_agent_engine_impaired                  1 while the container engine does not do its work
//	longshore_agent_container_cpu_seconds_total      {task,container}: what it has used
//	longshore_agent_container_memory_bytes           {task,container}: without page cache
//	longshore_agent_container_log_lines_lost_total   {task,container,reason}: reason is dropped or failed; only where some were
//	longshore_agent_disk_bytes{disk,state}           free and total of the disks of the state and of the engine
//	longshore_agent_disk_inodes{disk,state}
//	longshore_agent_memory_outside_tasks_bytes       memory in use on the host that is no task's
//	process_*, go_*                                  the agent's process
//
// Counting costs an addition. client_golang was weighed and is not used: linked and with one metric it costs 4.2 MiB of
// resident memory and 2.7 MiB of binary, against 0.2 and 0.3 of github.com/VictoriaMetrics/metrics.
package metrics

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	vm "github.com/VictoriaMetrics/metrics"
	"golang.org/x/sys/unix"

	"github.com/longshore-project/longshore/agent/stats"
	"github.com/longshore-project/longshore/engine"
)

// Metrics count. Their methods may be called concurrently, and are cheap.
type Metrics struct {
	set       *vm.Set
	connected atomic.Bool
}

// New makes Metrics.
func New() *Metrics { return &Metrics{set: vm.NewSet()} }

// bounds are the histograms', in seconds.
var bounds = []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300}

// observe counts a duration in a histogram. label is such as step="pull".
func (m *Metrics) observe(name, label string, took time.Duration) {
	seconds := took.Seconds()
	for _, b := range bounds {
		c := m.set.GetOrCreateCounter(name + "_bucket{" + label + `,le="` + strconv.FormatFloat(b, 'g', -1, 64) + `"}`)
		if seconds <= b {
			c.Inc()
		}
	}
	m.set.GetOrCreateCounter(name + "_bucket{" + label + `,le="+Inf"}`).Inc()
	m.set.GetOrCreateFloatCounter(name + "_sum{" + label + "}").Add(seconds)
	m.set.GetOrCreateCounter(name + "_count{" + label + "}").Inc()
}

// Step counts a step of a task that has ended.
func (m *Metrics) Step(s engine.Step) {
	label := "step=" + strconv.Quote(s.Name)
	m.set.GetOrCreateCounter("longshore_agent_steps_total{" + label + ",outcome=" + strconv.Quote(s.Outcome) + "}").Inc()
	if s.End.After(s.Start) {
		m.observe("longshore_agent_step_seconds", label, s.End.Sub(s.Start))
	}
}

// Call counts a call of the container engine.
func (m *Metrics) Call(name string, begun time.Time, err error) {
	label := "call=" + strconv.Quote(name)
	m.observe("longshore_agent_engine_call_seconds", label, time.Since(begun))
	if err != nil {
		m.set.GetOrCreateCounter("longshore_agent_engine_call_failures_total{" + label + "}").Inc()
	}
}

// Session is told when a session with the control plane stands or has ended.
func (m *Metrics) Session(up bool) {
	m.connected.Store(up)
	if up {
		m.set.GetOrCreateCounter("longshore_agent_session_connects_total").Inc()
	}
}

// Now is what is looked at when somebody asks.
type Now struct {
	Tasks   []engine.TaskStatus
	Health  engine.EngineHealth
	Uses    []stats.Use
	Outside uint64 // bytes
	Losses  []engine.LogLoss
	Disks   map[string]string // a path on each, by name
}

// Handler serves GET /metrics.
func (m *Metrics) Handler(now func() Now) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
		m.set.WritePrometheus(w)
		m.write(w, now())
		vm.WriteProcessMetrics(w)
	})
	return mux
}

func (m *Metrics) write(w io.Writer, now Now) {
	gauge(w, "longshore_agent_session_connected", flag(m.connected.Load()))
	gauge(w, "longshore_agent_engine_impaired", flag(now.Health.Impaired))
	gauge(w, "longshore_agent_memory_outside_tasks_bytes", float64(now.Outside))
	tasks := map[string]int{"NONE": 0, "PENDING": 0, "RUNNING": 0, "STOPPED": 0}
	containers := map[string]int{"NONE": 0, "PULLED": 0, "CREATED": 0, "RUNNING": 0, "STOPPED": 0}
	for i := range now.Tasks {
		tasks[now.Tasks[i].Known]++
		for j := range now.Tasks[i].Containers {
			containers[now.Tasks[i].Containers[j].Known]++
		}
	}
	for _, s := range []string{"NONE", "PENDING", "RUNNING", "STOPPED"} {
		gauge(w, `longshore_agent_tasks{status="`+s+`"}`, float64(tasks[s]))
	}
	for _, s := range []string{"NONE", "PULLED", "CREATED", "RUNNING", "STOPPED"} {
		gauge(w, `longshore_agent_containers{status="`+s+`"}`, float64(containers[s]))
	}
	for _, u := range now.Uses {
		label := "{task=" + quote(u.TaskArn) + ",family=" + quote(u.Family) + ",container=" + quote(u.Container) + "}"
		gauge(w, "longshore_agent_container_cpu_seconds_total"+label, u.CPU.Seconds())
		gauge(w, "longshore_agent_container_memory_bytes"+label, float64(u.Memory))
	}
	for _, l := range now.Losses {
		label := "{task=" + quote(l.TaskArn) + ",container=" + quote(l.Container) + ",reason="
		gauge(w, "longshore_agent_container_log_lines_lost_total"+label+`"dropped"}`, float64(l.Dropped))
		gauge(w, "longshore_agent_container_log_lines_lost_total"+label+`"failed"}`, float64(l.Failed))
	}
	for name, path := range now.Disks {
		disk(w, name, path)
	}
}

func disk(w io.Writer, name, path string) {
	var s unix.Statfs_t
	err := unix.Statfs(path, &s)
	for errors.Is(err, unix.EINTR) {
		err = unix.Statfs(path, &s)
	}
	if err != nil {
		return
	}
	block := float64(s.Bsize)
	for _, g := range []struct {
		metric, state string
		value         float64
	}{
		{"bytes", "free", float64(s.Bavail) * block}, {"bytes", "total", float64(s.Blocks) * block},
		{"inodes", "free", float64(s.Ffree)}, {"inodes", "total", float64(s.Files)},
	} {
		gauge(w, fmt.Sprintf(`longshore_agent_disk_%s{disk=%s,state=%q}`, g.metric, quote(name), g.state), g.value)
	}
}

func gauge(w io.Writer, name string, value float64) {
	_, _ = io.WriteString(w, name+" "+strconv.FormatFloat(value, 'f', -1, 64)+"\n")
}

func flag(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// quote is a label's value.
func quote(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`).Replace(s) + `"`
}
