//go:build bench

package bench

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/docker/docker/api/types/container"
)

// rest measures the agent's memory, and its and the engine's CPU: idle, and with CONTAINERS containers to watch. What the engine
// takes for these by itself, with no agent there, is the floor. An engine that has just been started takes 0.7 to 0.95 % of a core for
// nothing: containerd 1.6's scheduler of collections wakes every few milliseconds until the first one that had something to do.
func (w *world) rest() {
	d := time.Duration(setting("IDLE", 60)) * time.Second
	n := setting("CONTAINERS", 100)
	nothing := w.engineAlone(d)
	w.agent("prefer-cached")
	idle := w.watch(d)
	arns := w.run("host", n)
	w.reach(arns, "RUNNING")
	busy := w.watch(d)
	w.lab.StopAgent(1)
	alone := w.engineAlone(d)
	w.agent("prefer-cached")
	w.stop(arns)
	w.reach(arns, "STOPPED")
	w.empty()
	w.lab.StopAgent(1)

	w.table.add(fmt.Sprintf("agent's memory, idle, after %v", d), idle.memory(), "", "", "24 MiB resident")
	w.table.add(fmt.Sprintf("agent's memory with %d tasks, after %v", n, d), busy.memory(), "", "", "32 MiB resident")
	w.table.add(fmt.Sprintf("CPU of agent and engine, idle, over %v; floor: no agent", d), idle.cpu(), fmt.Sprintf("%.2f %%", nothing), "", "")
	w.table.add(fmt.Sprintf("CPU of agent and engine with %d tasks, over %v; floor: no agent", n, d), busy.cpu(), fmt.Sprintf("%.2f %%", alone), "", "0.6 % of a core")
}

// resting is what the agent takes while nothing happens, in MiB and in percent of a core.
type resting struct{ rss, anon, agent, engine float64 }

func (r resting) memory() string {
	return fmt.Sprintf("%.1f MiB resident, %.1f anonymous", r.rss, r.anon)
}
func (r resting) cpu() string {
	return fmt.Sprintf("%.2f %% (agent %.2f, engine %.2f)", r.agent+r.engine, r.agent, r.engine)
}

func (w *world) watch(d time.Duration) resting {
	still(3 * time.Second) // what was begun comes to its end
	agent, engine := w.lab.AgentPid(1), w.engineCPU()
	before := cpu(w.t, agent)
	still(d)
	r := resting{agent: percent(cpu(w.t, agent)-before, d), engine: percent(w.engineCPU()-engine, d)}
	r.rss, r.anon = memory(w.t, agent)
	return r
}

// engineAlone is the engine's CPU, in percent, while nobody asks it for anything.
func (w *world) engineAlone(d time.Duration) float64 {
	before := w.engineCPU()
	still(d)
	return percent(w.engineCPU()-before, d)
}

func percent(part, of time.Duration) float64 { return 100 * float64(part) / float64(of) }

// engineCPU is what the host's dockerd and containerd have taken.
func (w *world) engineCPU() time.Duration {
	return cpu(w.t, w.lab.ProcessOn(1, "dockerd")) + cpu(w.t, w.lab.ProcessOn(1, "containerd"))
}

// accounting is a control group for the engine's processes and all that they start: what they take is known when they have ended.
var accounting = fmt.Sprintf("/sys/fs/cgroup/cpuacct/longshore-bench-%d", os.Getpid())

// account puts the host's engine into it.
func (w *world) account() {
	if err := os.Mkdir(accounting, 0o755); err != nil {
		fmt.Printf("  what the engine's helpers take is not counted: %v\n", err)
		return
	}
	for _, name := range []string{"dockerd", "containerd"} {
		if err := os.WriteFile(accounting+"/cgroup.procs", []byte(strconv.Itoa(w.lab.ProcessOn(1, name))), 0o600); err != nil {
			w.t.Fatal(err)
		}
	}
}

// engineGroup is what the engine and its helpers have taken so far.
func (w *world) engineGroup() time.Duration {
	b, _ := os.ReadFile(accounting + "/cpuacct.usage")
	n, _ := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
	return time.Duration(n)
}

func cpu(t *testing.T, pid int) time.Duration {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	f := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+2:]))
	user, _ := strconv.Atoi(f[11])
	system, _ := strconv.Atoi(f[12])
	return time.Duration(user+system) * 10 * time.Millisecond
}

func memory(t *testing.T, pid int) (rss, anon float64) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		n, _ := strconv.ParseFloat(f[min(1, len(f)-1)], 64)
		switch f[0] {
		case "VmRSS:":
			rss = n / 1024
		case "RssAnon:":
			anon = n / 1024
		}
	}
	return rss, anon
}

// restart kills the agent with CONTAINERS tasks and starts it again, several times: how long until it is connected, and until it
// has looked at each of its containers again.
func (w *world) restart() {
	n := setting("CONTAINERS", 100)
	w.agent("prefer-cached")
	arns := w.run("host", n)
	w.reach(arns, "RUNNING")
	var connected, reconciled series
	for range setting("RESTARTS", 7) {
		still(2 * time.Second)
		before, told := w.processes(), w.connections()
		w.lab.KillAgent(1)
		began := time.Now()
		profiled := w.startAgain()
		a, b := w.back(n, told, began)
		connected.add(a)
		reconciled.add(b)
		profiled()
		if after := w.processes(); after != before {
			w.t.Fatalf("the agent's restart touched the containers:\n%s\nwere\n%s", after, before)
		}
	}
	w.table.add(fmt.Sprintf("restart with %d tasks: killed → connected", n), connected.String(), "", "", "300 ms")
	w.table.add(fmt.Sprintf("restart with %d tasks: killed → every container looked at", n), reconciled.String(), "", "", "300 ms")
	w.stop(arns)
	w.reach(arns, "STOPPED")
	w.empty()
	w.lab.StopAgent(1)
}

// startAgain starts the agent as it was started before.
func (w *world) startAgain() (profiled func()) {
	w.lab.StartAgent(1, w.settings...)
	return w.profile("restart", 1)
}

// processes lists the containers' processes with the times of their starts.
func (w *world) processes() string {
	list, err := w.docker.ContainerList(w.t.Context(), container.ListOptions{All: true})
	if err != nil {
		w.t.Fatal(err)
	}
	lines := make([]string, 0, len(list))
	for _, c := range list {
		full, err := w.docker.ContainerInspect(w.t.Context(), c.ID)
		if err != nil {
			w.t.Fatal(err)
		}
		lines = append(lines, fmt.Sprintf("%s %d %s", c.ID, full.State.Pid, full.State.StartedAt))
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// back waits until an agent that was just started is connected, and has looked at its n containers.
func (w *world) back(n, told int, began time.Time) (connected, reconciled time.Duration) {
	both := func() bool {
		if connected == 0 && w.connections() > told {
			connected = time.Since(began)
		}
		if reconciled == 0 && w.looked() >= n {
			reconciled = time.Since(began)
		}
		return connected > 0 && reconciled > 0
	}
	w.await("the agent is back", both)
	return connected, reconciled
}

// connections counts how often the agents so far have told of a connection.
func (w *world) connections() int {
	b, _ := os.ReadFile(filepath.Join(w.lab.Farm.Disk(1, "/var/log/ecs"), "ecs-agent.log"))
	return bytes.Count(b, []byte(`msg="Connected to the control plane"`))
}

// looked counts the containers that the agent has inspected: only then it knows when they were created.
func (w *world) looked() (n int) {
	var known struct {
		Tasks []struct {
			KnownStatus string
			Containers  []struct{ CreatedAt *time.Time }
		}
	}
	if json.Unmarshal(w.introspect("/v1/tasks"), &known) != nil {
		return 0
	}
	for _, t := range known.Tasks {
		for _, c := range t.Containers {
			if t.KnownStatus == "RUNNING" && c.CreatedAt != nil {
				n++
			}
		}
	}
	return n
}
