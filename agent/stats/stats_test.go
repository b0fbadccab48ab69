package stats

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/longshore-project/longshore/engine"
	"github.com/longshore-project/longshore/protocol/acs"
	"github.com/longshore-project/longshore/protocol/tcs"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const webID = "c02cd62d0da8c8268a112d56aa0028d23e0a59bf34f317a96917c2e0bfa0e2b7"

// kernel is a directory with the files of testdata/<name>.txtar.
func kernel(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile("testdata/" + name + ".txtar")
	if err != nil {
		t.Fatal(err)
	}
	root := t.TempDir()
	for _, f := range txtar.Parse([]byte(strings.ReplaceAll(string(data), "$ROOT", root))).Files {
		put(t, filepath.Join(root, f.Name), string(f.Data))
	}
	return root
}

func put(t *testing.T, name, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

type tasks struct {
	mu  sync.Mutex
	all []engine.TaskStatus
}

func (t *tasks) Tasks() []engine.TaskStatus {
	t.mu.Lock()
	defer t.mu.Unlock()
	return append([]engine.TaskStatus(nil), t.all...)
}

func (t *tasks) set(all ...engine.TaskStatus) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.all = all
}

// web is a task with one running container.
func web(change func(*engine.ContainerStatus)) engine.TaskStatus {
	c := engine.ContainerStatus{Name: "web", RuntimeID: webID, RuntimeName: "ecs-f-1-web", Known: "RUNNING", Pid: 42, NetworkMode: "bridge"}
	if change != nil {
		change(&c)
	}
	return engine.TaskStatus{Arn: "arn:t", Family: "f", Version: "1", Known: "RUNNING", Containers: []engine.ContainerStatus{c},
		Payload: &acs.Task{Containers: []*acs.Container{{Name: "web", RestartPolicy: &acs.RestartPolicy{Enabled: true}}}}}
}

func collector(t *testing.T, root string, all ...engine.TaskStatus) (*Collector, *tasks) {
	t.Helper()
	e := &tasks{all: all}
	return New(Config{Engine: e, Log: zap.NewNop(), Proc: root + "/proc", Cgroup: root + "/sys", Reserved: 256}), e
}

func TestASampleIsTheSameOnEveryKindOfHost(t *testing.T) {
	for name, change := range map[string]func(*sample){
		"v1":     func(*sample) {},
		"hybrid": func(s *sample) { s.throttled += 1e9; s.pids = 7 }, // its task's limit has withheld a second
		"v2":     func(s *sample) { s.cpu, s.throttled = 37690000, 123456000 },
	} {
		root := kernel(t, name)
		r := &reader{proc: root + "/proc", cgroup: root + "/sys"}
		l, err := r.layout()
		if err != nil {
			t.Fatal(err)
		}
		g, err := r.groups(l, 42, webID)
		if err != nil {
			t.Fatal(name, err)
		}
		got, err := r.sample(g, 42, false)
		if err != nil {
			t.Fatal(name, err)
		}
		want := sample{at: got.at, cpu: 37690429, throttled: 123456789, memory: 32 << 20, cache: 4096, oomKills: 2, pids: 2, read: 8192, written: 4096, networked: true,
			network: Network{RxBytes: 736, RxPackets: 8, RxErrors: 1, RxDropped: 2, TxBytes: 1200, TxPackets: 12, TxErrors: 3, TxDropped: 4}}
		change(&want)
		if d := cmp.Diff(want, got, cmp.AllowUnexported(sample{})); d != "" {
			t.Errorf("%s (-want +got):\n%s", name, d)
		}
	}
}

func TestTheStatisticsOfTheEngineAreReadFromTheKernelsFiles(t *testing.T) {
	for name, want := range map[string]*Docker{
		"v1": {
			Pids:   Pids{Current: 2},
			CPU:    CPU{Usage: CPUUsage{Total: 37690429, PerCPU: []uint64{27037266, 10653163}, User: 1e7, Kernel: 2e7}, System: 24262170000000, Online: 2, Throttling: Throttling{20, 5, 123456789}},
			Memory: Memory{Usage: 32 << 20, MaxUsage: 40960000, Limit: 64 << 20, Failcnt: 3},
			Blkio:  Blkio{ServiceBytes: []BlkioEntry{{254, 0, "Read", 8192}, {254, 0, "Write", 4096}, {254, 0, "Sync", 12288}, {254, 0, "Async", 0}, {254, 0, "Discard", 0}, {254, 0, "Total", 12288}}},
		},
		"hybrid": {
			Pids:   Pids{Current: 7},
			CPU:    CPU{Usage: CPUUsage{Total: 37690429, PerCPU: []uint64{27037266, 10653163}, User: 1e7, Kernel: 2e7}, System: 24262170000000, Online: 2, Throttling: Throttling{20, 5, 123456789}},
			Memory: Memory{Usage: 32 << 20, MaxUsage: 40960000, Limit: 48 << 20, Failcnt: 3}, // the task's
			Blkio:  Blkio{ServiceBytes: []BlkioEntry{{254, 0, "Read", 8192}, {254, 0, "Write", 4096}, {254, 0, "Sync", 12288}, {254, 0, "Async", 0}, {254, 0, "Discard", 0}, {254, 0, "Total", 12288}}},
		},
		"v2": {
			Pids:   Pids{Current: 2, Limit: 100},
			CPU:    CPU{Usage: CPUUsage{Total: 37690000, User: 17000000, Kernel: 20690000}, System: 24262170000000, Online: 2, Throttling: Throttling{20, 5, 123456000}},
			Memory: Memory{Usage: 32 << 20, Limit: 24616580 << 10, Failcnt: 3},
			Blkio:  Blkio{ServiceBytes: []BlkioEntry{{254, 0, "read", 8192}, {254, 0, "write", 4096}}},
		},
	} {
		c, _ := collector(t, kernel(t, name), web(nil))
		c.Sample()
		got := c.Docker(webID)
		if got == nil {
			t.Fatal(name, "nothing")
		}
		if got.Memory.Stats["inactive_file"] != 4096 || got.ID != webID || got.Name != "/ecs-f-1-web" || got.Read.IsZero() {
			t.Errorf("%s: %+v", name, got)
		}
		if got.PreCPU.Usage.Total != want.CPU.Usage.Total || got.PreCPU.System == 0 || got.PreRead.IsZero() {
			t.Errorf("%s: without the sample to compare with: %+v", name, got.PreCPU)
		}
		want.Networks = map[string]Network{"eth0": {RxBytes: 736, RxPackets: 8, RxErrors: 1, RxDropped: 2, TxBytes: 1200, TxPackets: 12, TxErrors: 3, TxDropped: 4}}
		got.Read, got.PreRead, got.ID, got.Name, got.Memory.Stats, got.PreCPU = time.Time{}, time.Time{}, "", "", nil, CPU{}
		got.Blkio = Blkio{ServiceBytes: got.Blkio.ServiceBytes}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%s (-want +got):\n%s", name, d)
		}
	}
}

func TestOnlyAContainerThatRunsAndIsItselfIsMeasured(t *testing.T) {
	root := kernel(t, "v1")
	put(t, root+"/proc/43/cgroup", "4:memory:/docker/another\n")
	put(t, root+"/proc/44/cgroup", "4:memory:/../docker/"+webID+"\n0::/\n")
	for what, change := range map[string]func(*engine.ContainerStatus){
		"its pid is another's":            func(c *engine.ContainerStatus) { c.Pid = 43 },
		"it is outside the agent's view":  func(c *engine.ContainerStatus) { c.Pid = 44 },
		"its process is gone":             func(c *engine.ContainerStatus) { c.Pid = 45 },
		"it has stopped":                  func(c *engine.ContainerStatus) { c.Known = "STOPPED" },
		"the engine did not tell its pid": func(c *engine.ContainerStatus) { c.Pid = 0 },
	} {
		c, _ := collector(t, root, web(change))
		c.Sample()
		c.Sample()
		if d := c.Docker(webID); d != nil {
			t.Errorf("%s: %+v", what, d)
		}
		if tasks, _ := c.Period(false); len(tasks) != 0 {
			t.Errorf("%s: %+v", what, tasks)
		}
	}
	host := func(mode string) *Docker {
		c, _ := collector(t, root, web(func(c *engine.ContainerStatus) { c.NetworkMode = mode }))
		return c.Docker(webID)
	}
	for _, mode := range []string{"host", "none", "container:x"} {
		if d := host(mode); d == nil || d.Networks != nil {
			t.Errorf("%s: %+v", mode, d)
		}
	}
}

// use writes what the container has used until now.
func use(t *testing.T, root string, cpu, memory, throttled, kills, rx int) {
	t.Helper()
	base := "/docker/" + webID
	put(t, root+"/sys/cpuacct"+base+"/cpuacct.usage", fmt.Sprintln(cpu))
	put(t, root+"/sys/memory"+base+"/memory.usage_in_bytes", fmt.Sprintln(memory))
	put(t, root+"/sys/memory"+base+"/memory.oom_control", fmt.Sprintln("oom_kill", kills))
	put(t, root+"/sys/cpu"+base+"/cpu.stat", fmt.Sprintln("throttled_time", throttled))
	put(t, root+"/proc/42/net/dev", fmt.Sprintf("  eth0: %d 1 0 0 0 0 0 0 5 1 0 0 0 0 0 0\n", rx))
}

// age makes the last samples older.
func (c *Collector) age(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, t := range c.tracks {
		t.last.at = t.last.at.Add(-d)
		t.period.begun = t.period.begun.Add(-d)
	}
	c.host.last.at, c.host.begin.at = c.host.last.at.Add(-d), c.host.begin.at.Add(-d)
}

func TestAPeriodHasTheSumsOfItsSamplesAndIsToldOnce(t *testing.T) {
	root := kernel(t, "v1")
	c, e := collector(t, root, web(nil))
	use(t, root, 1e9, 32<<20, 0, 0, 1000)
	c.Sample()
	if tasks, _ := c.Period(true); len(tasks) != 0 {
		t.Fatalf("one sample has no CPU percentage: %+v", tasks)
	}
	c.age(10 * time.Second)
	use(t, root, 5e9, 64<<20, 2e9, 1, 11000)
	c.Sample()
	c.age(10 * time.Second)
	use(t, root, 7e9, 16<<20, 3e9, 1, 11000)
	c.Sample()
	tasks, host := c.Period(true)
	if len(tasks) != 1 || len(tasks[0].ContainerMetrics) != 1 || tasks[0].TaskArn != "arn:t" || tasks[0].TaskDefinitionFamily != "f" || tasks[0].TaskDefinitionVersion != "1" {
		t.Fatalf("%+v", tasks)
	}
	m := tasks[0].ContainerMetrics[0]
	near := func(what string, set *tcs.CWStatsSet, low, high, sum float64, n int64) {
		t.Helper()
		off := func(a, b float64) bool { return math.Abs(a-b) > 0.02*math.Abs(b)+1e-9 }
		if set == nil || set.SampleCount != n || off(set.Min, low) || off(set.Max, high) || off(set.Sum, sum) {
			t.Errorf("%s: %+v", what, set)
		}
	}
	near("cpu", m.CPUStatsSet, 10, 20, 30, 2)             // of two CPUs
	near("memory", m.MemoryStatsSet, 15, 63, 31+63+15, 3) // without the page cache
	rate := tcs.CWStatsSet(*m.NetworkStatsSet.RxBytesPerSecond)
	near("received a second", &rate, 0, 1000, 1000, 2)
	if d := cmp.Diff(&tcs.ULongStatsSet{Min: 1000, Max: 11000, Sum: 23000, SampleCount: 3}, m.NetworkStatsSet.RxBytes); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff(&tcs.ULongStatsSet{Min: 8192, Max: 8192, Sum: 3 * 8192, SampleCount: 3}, m.StorageStatsSet.ReadSizeBytes); d != "" {
		t.Error(d)
	}
	if m.RestartStatsSet == nil || m.RestartStatsSet.RestartCount != 0 {
		t.Errorf("%+v", m.RestartStatsSet)
	}
	for name, want := range map[string]float64{tcs.ContainerCPUThrottled: 3, tcs.ContainerOOMKills: 1, tcs.ContainerProcesses: 2, tcs.ContainerMemoryPeak: 64} {
		if v, ok := tcs.OwnValue(m.GeneralMetricsPayload, name); !ok || v != want {
			t.Errorf("%s: %v, %v", name, v, ok)
		}
	}
	for name, want := range map[string]float64{tcs.HostMemoryTotal: 24616580.0 / 1024, tcs.HostMemoryReserved: 256, tcs.HostPressureIOSome: 0} {
		if v, ok := tcs.OwnValue(host.GeneralMetricsPayload, name); !ok || math.Abs(v-want) > 1 {
			t.Errorf("%s: %v, %v", name, v, ok)
		}
	}
	if outside, _ := tcs.OwnValue(host.GeneralMetricsPayload, tcs.HostMemoryOutsideTasks); math.Abs(outside-((24616580.0-20480000)/1024-16)) > 1 {
		t.Error(outside)
	}
	if tasks, _ := c.Period(false); len(tasks) != 0 {
		t.Errorf("it was told already: %+v", tasks)
	}
	c.age(10 * time.Second)
	c.Sample()
	if tasks, host := c.Period(false); len(tasks) != 1 || tasks[0].ContainerMetrics[0].GeneralMetricsPayload != nil || host != nil {
		t.Errorf("what is our own is for our own control plane: %+v %+v", tasks, host)
	}
	e.set()
	c.Sample()
	if tasks, _ := c.Period(false); len(tasks) != 0 || len(c.Uses()) != 0 {
		t.Errorf("%+v", tasks)
	}
}

func TestAContainerThatEndedByItsMemoryLimitIsToldOnceMore(t *testing.T) {
	root := kernel(t, "v1")
	c, e := collector(t, root, web(nil))
	c.Sample()
	e.set(web(func(c *engine.ContainerStatus) {
		c.Known, c.Pid, c.Reason = "STOPPED", 0, "OutOfMemoryError: Container killed due to memory usage"
	}))
	c.Sample()
	tasks, _ := c.Period(true)
	if len(tasks) != 1 {
		t.Fatal(tasks)
	}
	if v, _ := tcs.OwnValue(tasks[0].ContainerMetrics[0].GeneralMetricsPayload, tcs.ContainerOOMKills); v != 1 {
		t.Error(v)
	}
	if tasks, _ := c.Period(true); len(tasks) != 0 {
		t.Error(tasks)
	}
}

func TestAContainerThatIsStartedAgainInPlaceCountsOn(t *testing.T) {
	root := kernel(t, "v1")
	c, e := collector(t, root, web(nil))
	use(t, root, 8e9, 32<<20, 0, 0, 1000)
	c.Sample()
	use(t, root, 1e9, 32<<20, 0, 0, 10) // the next process has begun
	groups, err := os.ReadFile(root + "/proc/42/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	put(t, root+"/proc/142/cgroup", string(groups))
	put(t, root+"/proc/142/net/dev", "  eth0: 10 1 0 0 0 0 0 0 5 1 0 0 0 0 0 0\n")
	e.set(web(func(c *engine.ContainerStatus) { c.Pid, c.Restarts = 142, 1 }))
	c.age(10 * time.Second)
	c.Sample()
	if u := c.Uses(); len(u) != 1 || u[0].CPU != 9*time.Second {
		t.Errorf("%+v", u)
	}
	tasks, _ := c.Period(false)
	if m := tasks[0].ContainerMetrics[0]; m.NetworkStatsSet.RxBytes.Max != 1010 || m.RestartStatsSet.RestartCount != 1 || m.CPUStatsSet.Max > 10 {
		t.Errorf("%+v %+v %+v", m.NetworkStatsSet.RxBytes, m.RestartStatsSet, m.CPUStatsSet)
	}
}

func TestMemoryOutsideTasksIsComplainedAboutAfterAWhileAndNotAgainAtOnce(t *testing.T) {
	core, logs := observer.New(zap.WarnLevel)
	root := kernel(t, "v1")
	c := New(Config{Engine: &tasks{}, Log: zap.New(core), Proc: root + "/proc", Cgroup: root + "/sys", Reserved: 512})
	for range complainAfter - 1 {
		c.Sample()
	}
	if logs.Len() != 0 {
		t.Fatal(logs.All())
	}
	c.Sample()
	c.Sample()
	if logs.Len() != 1 || !strings.Contains(logs.All()[0].Message, "uses 4039 MiB of this host's 24039 MiB of memory, and ECS_RESERVED_MEMORY keeps 512 MiB from tasks") || !strings.Contains(logs.All()[0].Message, "Set ECS_RESERVED_MEMORY to 5056, or to auto") {
		t.Fatal(logs.All())
	}
	var quiet complaint
	for range 2 * complainAfter {
		if text := quiet.judge(time.Now(), 570, 512, 1000); text != "" {
			t.Error(text)
		}
	}
	for without, want := range map[bool]uint64{false: 4039, true: 4039 - 100} {
		put(t, root+"/sys/memory/docker/memory.usage_in_bytes", fmt.Sprint(110<<20))
		put(t, root+"/sys/memory/docker/memory.stat", fmt.Sprintln("total_cache", 10<<20))
		if used, err := Measure(root+"/proc", root+"/sys", without); used != want || err != nil {
			t.Error(without, used, err)
		}
	}
	for outside, want := range map[uint64]int64{0: 128, 100: 128, 103: 128, 200: 256, 4039: 5056} {
		if got := Reserve(outside); got != want {
			t.Errorf("%d: %d", outside, got)
		}
	}
}
