package stats

import (
	"crypto/rand"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/longshore-project/longshore/engine"
	"github.com/longshore-project/longshore/test/images"
)

// spent is the CPU time that a process has used, by the kernel's other account of it, which counts ticks of 10 ms.
func spent(t *testing.T, pid int) time.Duration {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	fields := strings.Fields(string(data[strings.LastIndexByte(string(data), ')')+1:]))
	user, err := strconv.Atoi(fields[11])
	if err != nil {
		t.Fatal(err)
	}
	system, err := strconv.Atoi(fields[12])
	if err != nil {
		t.Fatal(err)
	}
	return time.Duration(user+system) * tick
}

// TestABusyLoopThatMayHaveAPartOfACoreIsToldAsItsPercentageOfTheWholeHost compares with what the process itself has used: on a
// busy machine it gets less than its limit.
func TestABusyLoopThatMayHaveAPartOfACoreIsToldAsItsPercentageOfTheWholeHost(t *testing.T) {
	const share = 0.4 // of a core
	name := "longshore-test-" + strings.ToLower(rand.Text())
	images.MustLoad(t, images.DockerClient(t), name, images.Spec{Cmd: []string{"sh", "-c", "while :; do :; done"}})
	docker := func(args ...string) string {
		out, err := exec.Command("docker", args...).Output()
		if err != nil {
			t.Fatalf("docker %q: %v: %s", args, err, out)
		}
		return strings.TrimSpace(string(out))
	}
	t.Cleanup(func() { docker("rm", "-f", name) })
	id := docker("run", "-d", "--name", name, "--network", "none", "--cpus", fmt.Sprint(share), name)
	pid, err := strconv.Atoi(docker("inspect", "-f", "{{.State.Pid}}", name))
	if err != nil {
		t.Fatal(err)
	}
	e := &tasks{all: []engine.TaskStatus{{Arn: "arn:t", Known: "RUNNING", Containers: []engine.ContainerStatus{{Name: "loop", RuntimeID: id, Known: "RUNNING", Pid: pid, NetworkMode: "none"}}}}}
	c := New(Config{Engine: e, Log: zap.NewNop()})

	before, earliest := spent(t, pid), time.Now()
	c.Sample()
	latest, low := time.Now(), spent(t, pid)
	for deadline, look := time.After(time.Minute), time.NewTicker(50*time.Millisecond); spent(t, pid)-low < 600*time.Millisecond; {
		select {
		case <-look.C:
		case <-deadline:
			t.Fatalf("in a minute it has used %s", spent(t, pid)-low)
		}
	}
	used, first := spent(t, pid)-low, time.Now()
	c.Sample()
	last, most := time.Now(), spent(t, pid)-before

	told, _ := c.Period(true)
	if len(told) != 1 {
		t.Fatalf("%+v", told)
	}
	percent := told[0].ContainerMetrics[0].CPUStatsSet.Max
	cpus := c.cpus()
	host := func(used, of time.Duration) float64 { return 100 * float64(used) / float64(of) / cpus }
	atLeast, atMost := host(used-2*tick, last.Sub(earliest)), host(most+2*tick, first.Sub(latest))
	t.Logf("%.2f %% of %v CPUs, between %.2f and %.2f; the limit is %.2f", percent, cpus, atLeast, atMost, 100*share/cpus)
	if percent < atLeast || percent > atMost {
		t.Errorf("%.2f %% is told, and the process has used %.2f to %.2f", percent, atLeast, atMost)
	}
}
