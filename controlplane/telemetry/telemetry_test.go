package telemetry

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/longshore-project/longshore/protocol/tcs"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// world is a book, its clock and what the store would say.
type world struct {
	book  *Book
	now   time.Time
	tasks map[string]Facts // by instance and task
}

func newWorld() *world {
	w := &world{now: time.Date(2026, 11, 20, 9, 0, 0, 0, time.UTC), tasks: map[string]Facts{}}
	w.book = New(w, func() time.Time { return w.now })
	return w
}

func (w *world) Task(cluster, instance, task string) (Facts, bool) {
	f, ok := w.tasks[cluster+instance+task]
	return f, ok
}

func (w *world) CPU(string, string) int64 { return 2048 }

const taskArn = "arn:aws:ecs:us-west-2:000000000000:task/c/"

func id(n int) string { return fmt.Sprintf("%032x", n) }

// place puts a task of a service, or a family if service is empty, on an instance.
func (w *world) place(instance string, n int, service string) {
	w.tasks["c"+instance+id(n)] = Facts{Service: service, Family: "fam", CPU: 256, Memory: 64, Containers: map[string]Reservation{"web": {CPU: 256, Memory: 64, Limit: 128}}}
}

// publish has an instance publish that a task's container used a percentage of the host's CPU and some MiB.
func (w *world) publish(instance string, n int, cpu, memory float64, more ...*tcs.GeneralMetric) {
	set := func(v float64) *tcs.CWStatsSet {
		return &tcs.CWStatsSet{Sum: 2 * v, SampleCount: 2, Min: v / 2, Max: 2 * v}
	}
	w.book.Metrics("c", instance, &tcs.PublishMetricsRequest{TaskMetrics: []*tcs.TaskMetric{{TaskArn: taskArn + id(n), ContainerMetrics: []*tcs.ContainerMetric{
		{ContainerName: "web", CPUStatsSet: set(cpu), MemoryStatsSet: set(memory), GeneralMetricsPayload: tcs.OwnPayload(more...)},
		{ContainerName: "not-in-the-definition", CPUStatsSet: set(cpu)},
	}}}})
	w.now = w.now.Add(20 * time.Second)
}

// metrics are what Prometheus would see, "name{labels} value" each.
func (w *world) metrics(t *testing.T) string {
	t.Helper()
	r := prometheus.NewPedanticRegistry()
	if err := r.Register(w.book.Collector()); err != nil {
		t.Fatal(err)
	}
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, f := range families {
		for _, m := range f.Metric {
			line := f.GetName() + "{"
			for _, l := range m.Label {
				line += l.GetName() + "=" + l.GetValue() + " "
			}
			lines = append(lines, fmt.Sprintf("%s} %g", strings.TrimSpace(line), m.GetGauge().GetValue()+m.GetCounter().GetValue()))
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

func TestUseStandsBesideTheReservationForEachContainerOfAService(t *testing.T) {
	w := newWorld()
	w.place("i1", 1, "web")
	w.place("i2", 2, "web")
	w.publish("i1", 1, 10, 50)
	w.publish("i2", 2, 20, 30, tcs.Own(tcs.ContainerOOMKills, 1, tcs.UnitCount), tcs.Own(tcs.ContainerCPUThrottled, 1.5, tcs.UnitSeconds))
	w.publish("i2", 1, 99, 99) // a task of another instance
	got := w.metrics(t)
	for _, want := range []string{
		"longshore_container_tasks{cluster=c container=web family= service=web} 2",
		"longshore_container_cpu_reserved_units{cluster=c container=web family= service=web} 512",
		"longshore_container_cpu_used_units{cluster=c container=web family= service=web} 614.4",
		"longshore_container_cpu_peak_units{cluster=c container=web family= service=web} 819.2",
		"longshore_container_memory_used_bytes{cluster=c container=web family= service=web} 8.388608e+07",
		"longshore_container_memory_reserved_bytes{cluster=c container=web family= service=web} 1.34217728e+08",
		"longshore_container_oom_kills_total{cluster=c container=web family= service=web} 1",
		"longshore_container_cpu_throttled_seconds_total{cluster=c container=web family= service=web} 1.5",
	} {
		if !strings.Contains(got, strings.SplitN(want, "} ", 2)[0]) || !near(got, want) {
			t.Errorf("%s is not in\n%s", want, got)
		}
	}
	if strings.Contains(got, "not-in-the-definition") {
		t.Error("a name that no definition has is a series")
	}
	w.now = w.now.Add(Stale + time.Minute)
	if got := w.metrics(t); strings.Contains(got, "longshore_container_tasks") || !strings.Contains(got, "oom_kills_total") {
		t.Errorf("tasks that are not published any more are shown:\n%s", got)
	}
}

// near finds a line whose value is about the one that is wanted.
func near(all, want string) bool {
	name, value, _ := strings.Cut(want, "} ")
	var v float64
	fmt.Sscan(value, &v)
	for line := range strings.Lines(all) {
		n, got, _ := strings.Cut(strings.TrimSpace(line), "} ")
		var g float64
		fmt.Sscan(got, &g)
		if n == name && math.Abs(g-v) <= math.Abs(v)/1e4 {
			return true
		}
	}
	return false
}

func TestASuggestionHasItsReasonsAndNeedsEnoughSamples(t *testing.T) {
	w := newWorld()
	w.place("i1", 1, "web")
	for range Enough - 1 {
		w.publish("i1", 1, 10, 50)
	}
	if s := w.book.Sizing("c", ""); s.Containers[0].CPU.Suggested != 0 || !strings.Contains(strings.Join(s.Text, "\n"), "too little") {
		t.Errorf("%+v", s)
	}
	for range 60 {
		w.publish("i1", 1, 10, 50)
	}
	s := w.book.Sizing("c", "web")
	c := s.Containers[0]
	if math.Abs(c.CPU.P50-204.8) > 6 || math.Abs(c.CPU.P95-204.8) > 6 || math.Abs(c.CPU.Max-409.6) > 0.1 || c.CPU.Reserved != 256 || c.CPU.Suggested%32 != 0 || c.CPU.Suggested < 200 || c.CPU.Suggested > 240 {
		t.Errorf("%+v", c.CPU)
	}
	if c.Memory.Max != 100 || c.Memory.Suggested != 112 || c.Samples != Enough+59 || !strings.Contains(c.Reasoning, "89 samples in 30m") {
		t.Errorf("%+v", c)
	}
	if len(s.Warnings) != 1 || !strings.Contains(s.Warnings[0], "used up to 100 MiB and reserves 64") {
		t.Error(s.Warnings)
	}
	w.publish("i1", 1, 10, 50, tcs.Own(tcs.ContainerOOMKills, 1, tcs.UnitCount))
	if s := w.book.Sizing("c", "web"); s.Containers[0].Memory.Suggested != 192 || !strings.Contains(s.Warnings[0], "killed for memory 1 times") {
		t.Errorf("%+v", s)
	}
	if s := w.book.Sizing("c", "other"); len(s.Containers) != 0 || len(s.Text) == 0 {
		t.Errorf("%+v", s)
	}
	w.now = w.now.Add(Window)
	if s := w.book.Sizing("c", "web"); len(s.Containers) != 0 {
		t.Errorf("what is older than the window counts: %+v", s)
	}
}

func TestAHostThatUsesMoreOutsideOfTasksThanItReservesIsWarnedOf(t *testing.T) {
	w := newWorld()
	for instance, outside := range map[string]float64{"i1": 900, "i2": 400} {
		w.book.Metrics("c", instance, &tcs.PublishMetricsRequest{InstanceMetrics: &tcs.InstanceMetrics{GeneralMetricsPayload: tcs.OwnPayload(
			tcs.Own(tcs.HostMemoryOutsideTasks, outside, tcs.UnitMiB), tcs.Own(tcs.HostMemoryReserved, 512, tcs.UnitMiB), tcs.Own(tcs.HostPressureCPUSome, 25, tcs.UnitPercent), tcs.Own("unknown", 1, ""))}})
	}
	s := w.book.Sizing("c", "")
	if len(s.Hosts) != 2 || len(s.Warnings) != 1 || !strings.Contains(s.Warnings[0], "On i1 900 MiB are used outside of tasks, and ECS_RESERVED_MEMORY keeps 512 MiB") || !strings.Contains(s.Warnings[0], "at least 992") {
		t.Errorf("%+v", s)
	}
	if got := w.metrics(t); !strings.Contains(got, "longshore_host_pressure_cpu_some_ratio{cluster=c instance=i1} 0.25") || !strings.Contains(got, "longshore_host_memory_outside_tasks_bytes{cluster=c instance=i2} 4.194304e+08") {
		t.Error(got)
	}
}

func TestTheBookIsBounded(t *testing.T) {
	w := newWorld()
	for n := range MaxSeries + 10 {
		w.place("i1", n, fmt.Sprint("service-", n))
		w.publish("i1", n, 1, 1)
		w.now = w.now.Add(-20 * time.Second)
	}
	if len(w.book.series) != MaxSeries || w.book.dropped != 10 {
		t.Error(len(w.book.series), w.book.dropped)
	}
	for n := range maxHosts + 10 {
		w.book.Metrics("c", fmt.Sprint("host-", n), &tcs.PublishMetricsRequest{InstanceMetrics: &tcs.InstanceMetrics{GeneralMetricsPayload: tcs.OwnPayload(tcs.Own(tcs.HostPressureCPUSome, float64(n), tcs.UnitPercent))}})
	}
	got := w.metrics(t)
	if n := strings.Count(got, "longshore_host_pressure_cpu_some_ratio"); n != maxHosts || !strings.Contains(got, "instance=host-1009}") || strings.Contains(got, "instance=host-0}") {
		t.Error(n)
	}
	w.now = w.now.Add(forget + Stale)
	w.book.Metrics("c", "i1", &tcs.PublishMetricsRequest{})
	if len(w.book.series) != 0 || len(w.book.hosts) != 1 || w.book.containers != 0 {
		t.Error(len(w.book.series), len(w.book.hosts), w.book.containers)
	}
}

func TestAQuantileIsNearTheTrueOne(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		values := rapid.SliceOfN(rapid.Float64Range(1.1, 1e6), 1, 200).Draw(rt, "values")
		q := rapid.Float64Range(0, 1).Draw(rt, "q")
		var whole, half sketch
		for i, v := range values {
			if i%2 == 0 {
				whole.add(v, v)
			} else {
				half.add(v, v)
			}
		}
		whole.merge(&half)
		slices.Sort(values)
		want := values[max(1, int(math.Ceil(q*float64(len(values)))))-1]
		if got := whole.quantile(q); math.Abs(got-want) > want*0.026 {
			rt.Errorf("quantile %g of %v is %g, not %g", q, values, got, want)
		}
		if whole.most != values[len(values)-1] {
			rt.Error(whole.most)
		}
	})
	var odd sketch
	for _, v := range []float64{math.NaN(), math.Inf(1), math.Inf(-1), -1, 0} {
		odd.add(v, v)
	}
	if got := odd.quantile(1); math.IsNaN(got) || math.IsInf(got, 0) {
		t.Error(got)
	}
}

func TestWhatATaskWaitsForIsSaidWithItsProgressUntilItsInstanceIsGone(t *testing.T) {
	w := newWorld()
	start := tcs.At(w.now.Add(-12 * time.Second))
	m := &tcs.LongshoreProgress{Fin: true, Tasks: []*tcs.TaskProgress{{TaskArn: taskArn + id(1), Waits: []string{"pull of container web", "host port 8080/tcp is held by process 123 (nginx)\nx"}, Steps: []*tcs.TaskStep{
		{Container: "web", Name: "pull", Start: start, Detail: "40.0 of 120.0 MiB"}, {Container: "web", Name: "pull", Start: start, End: start, Outcome: "failed", Detail: "429"},
	}}, {TaskArn: "nonsense"}}}
	w.book.Progress("c", "i1", m)
	want := []string{"at work: pull of container web for 12s: 40.0 of 120.0 MiB", "waits for host port 8080/tcp is held by process 123 (nginx) x", "pull of container web failed at 2026-11-20T08:59:48Z: 429"}
	if got := w.book.Waits("c", "i1", id(1)); !slices.Equal(got, want) {
		t.Errorf("\n got %q\nwant %q", got, want)
	}
	if got := w.book.Waits("c", "i2", id(1)); got != nil {
		t.Error(got)
	}
	w.book.Progress("c", "i1", &tcs.LongshoreProgress{Tasks: []*tcs.TaskProgress{{TaskArn: taskArn + id(2)}}})
	if w.book.Waits("c", "i1", id(1)) == nil {
		t.Error("a part of the next word made the last one forgotten")
	}
	w.book.Progress("c", "i1", &tcs.LongshoreProgress{Fin: true})
	if got := w.book.Waits("c", "i1", id(1)); got != nil {
		t.Error(got)
	}
	w.book.Progress("c", "i1", m)
	w.book.Gone("c", "i1")
	if got := w.book.Waits("c", "i1", id(1)); got != nil || len(w.book.progress) != 0 {
		t.Error(got)
	}
	many := &tcs.LongshoreProgress{Fin: true}
	for n := range tcs.MaxProgressTasks + 50 {
		many.Tasks = append(many.Tasks, &tcs.TaskProgress{TaskArn: taskArn + id(n), Waits: slices.Repeat([]string{strings.Repeat("x", 5000)}, 100)})
	}
	w.book.Progress("c", "i1", many)
	if p := w.book.progress[place{"c", "i1"}].now; len(p) != tcs.MaxProgressTasks || len(p[id(0)].Waits) != tcs.MaxProgressLines || len(p[id(0)].Waits[0]) != tcs.MaxProgressText {
		t.Error(len(p))
	}
}
