// Package stats measures what containers and the host use, from the kernel's files and nothing else: the container engine is
// not asked, and no stream of its statistics is open.
//
//	control groups (v1, v2, or some of both)   CPU time, throttling, memory, block I/O, processes, OOM kills
//	/proc/<pid>/net/dev                        traffic, as the container's network namespace sees it
//	/proc/stat, meminfo, pressure              the host: use, steal, memory, pressure stall information
//
// # What belongs to which container
//
// The engine tells the pid of each container's first process, and /proc/<pid>/cgroup which groups it is in: whatever the
// engine's driver, the parent of the groups, or another engine on the machine that gives containers the same names. A
// process whose groups do not have the container's id in their path is another one that has got its pid. That is looked up
// once for each process; a container that vanishes in the middle of a look has one sample less, and nothing else happens.
//
// # Two kinds of reading
//
// [Collector.Run] takes a small sample of each running container at each interval, and adds it to the sums of the present
// period, which [Collector.Period] takes away for TCS. [Collector.Docker] reads everything that the Docker Engine's own
// statistics have, at the moment that somebody asks.
//
// # What is counted how
//
// As the Amazon ECS agent does: CPU as a percentage of the whole host, memory in MiB without page cache (v1) or without its
// inactive part (v2), counters as they are. An ended process of a container that was started again in place is added to
// what the new one uses.
package stats

import (
	"context"
	"math"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/longshore-project/longshore/engine"
)

// Interval is the default time between two samples.
const Interval = 10 * time.Second

// Engine knows which containers there are; *engine.Engine is one.
type Engine interface {
	Tasks() []engine.TaskStatus
}

// Config configures [New]. Engine and Log are required.
type Config struct {
	Engine   Engine
	Log      *zap.Logger
	Interval time.Duration // between samples; [Interval] if zero
	Reserved int64         // MiB that are not offered to tasks, ECS_RESERVED_MEMORY
	CPUs     int           // of the host; those that the kernel shows if zero
	Proc     string        // "/proc" if empty
	Cgroup   string        // where the host's control groups are mounted; "/sys/fs/cgroup" if empty
}

// Collector measures. Its methods may be called concurrently.
type Collector struct {
	cfg Config

	mu     sync.Mutex
	reader reader
	tracks map[string]*track // by container id
	host   host
	told   complaint
}

// track is what is known of one container.
type track struct {
	container container
	groups    groups
	lost      bool // the groups could not be found for this pid
	base      sample
	last      sample // with base added
	rate      *NetworkRates
	asked     [2]reading // the last for somebody who asked, and one from at least a second before it
	period    period
	ended     bool // kept for what it used in the present period
	oom       bool // it ended by the memory limit
}

// container is one to measure.
type container struct {
	id, name, runtimeName, task, family, version string
	pid                                          int
	hostNetwork                                  bool // it has no network namespace of its own
	restarts                                     int
	restartable                                  bool
}

// New makes a Collector; nothing is read yet.
func New(cfg Config) *Collector {
	if cfg.Interval == 0 {
		cfg.Interval = Interval
	}
	if cfg.Proc == "" {
		cfg.Proc = "/proc"
	}
	if cfg.Cgroup == "" {
		cfg.Cgroup = "/sys/fs/cgroup"
	}
	return &Collector{cfg: cfg, reader: reader{proc: cfg.Proc, cgroup: cfg.Cgroup}, tracks: map[string]*track{}}
}

// Run samples until ctx ends.
func (c *Collector) Run(ctx context.Context) error {
	tick := time.NewTicker(c.cfg.Interval)
	defer tick.Stop()
	for {
		c.Sample()
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// Sample looks once at every running container and at the host.
func (c *Collector) Sample() {
	running, stopped := running(c.cfg.Engine.Tasks())
	c.mu.Lock()
	defer c.mu.Unlock()
	for id, t := range c.tracks {
		if _, is := running[id]; !is {
			t.ended = true
			t.oom = t.oom || strings.HasPrefix(stopped[id], "OutOfMemoryError")
		}
	}
	var pinned uint64
	for id := range running {
		pinned += c.look(running[id])
	}
	c.lookAtHost(pinned)
}

// running are the containers that have a process, by id, and of those that have ended the reason.
func running(tasks []engine.TaskStatus) (live map[string]container, stopped map[string]string) {
	live, stopped = map[string]container{}, map[string]string{}
	for i := range tasks {
		t := &tasks[i]
		for j := range t.Containers {
			c := &t.Containers[j]
			switch {
			case c.RuntimeID == "":
			case c.Known == "STOPPED":
				stopped[c.RuntimeID] = c.Reason
			case c.Pid > 0:
				live[c.RuntimeID] = container{id: c.RuntimeID, name: c.Name, runtimeName: c.RuntimeName, task: t.Arn, family: t.Family, version: t.Version, pid: c.Pid,
					hostNetwork: !ownNetwork(c.NetworkMode), restarts: c.Restarts, restartable: restartable(t, c.Name)}
			}
		}
	}
	return live, stopped
}

// ownNetwork says whether a container has an interface of its own.
func ownNetwork(mode string) bool {
	return mode != "host" && mode != "none" && !strings.HasPrefix(mode, "container:")
}

func restartable(t *engine.TaskStatus, name string) bool {
	if t.Payload == nil {
		return false
	}
	for _, c := range t.Payload.Containers {
		if c != nil && c.Name == name {
			return c.RestartPolicy != nil && c.RestartPolicy.Enabled
		}
	}
	return false
}

// look samples a container and returns the memory that the kernel could not take back from it.
func (c *Collector) look(want container) (pinned uint64) {
	t := c.find(want)
	if t.lost {
		return 0
	}
	s, err := c.reader.sample(t.groups, want.pid, want.hostNetwork)
	if err != nil { // it ends, or has ended; the engine will say so
		c.cfg.Log.Debug("A container could not be measured", zap.String("task", want.task), zap.String("container", want.name), zap.Error(err))
		return 0
	}
	pinned = s.used()
	s.plus(&t.base)
	t.note(s, c.cpus())
	return pinned
}

// find is the track of a container, with the groups of its present process.
func (c *Collector) find(want container) *track {
	t := c.tracks[want.id]
	if t != nil && t.container.pid == want.pid {
		t.container = want
		return t
	}
	if t == nil {
		t = &track{}
		c.tracks[want.id] = t
	} else {
		t.base = t.last // another process in the same container: counters begin anew
		t.base.memory, t.base.cache, t.base.pids = 0, 0, 0
		t.asked = [2]reading{}
	}
	t.container, t.ended = want, false
	l, err := c.reader.layout()
	if err == nil {
		t.groups, err = c.reader.groups(l, want.pid, want.id)
	}
	if t.lost = err != nil; t.lost {
		c.cfg.Log.Debug("A container has no control groups that can be measured", zap.String("task", want.task), zap.String("container", want.name), zap.Int("pid", want.pid), zap.Error(err))
	}
	return t
}

func (c *Collector) cpus() float64 {
	switch {
	case c.cfg.CPUs > 0:
		return float64(c.cfg.CPUs)
	case c.host.last.times.cpus > 0:
		return float64(c.host.last.times.cpus)
	}
	return float64(runtime.NumCPU())
}

// plus adds what ended processes of the container used.
func (s *sample) plus(base *sample) {
	s.cpu += base.cpu
	s.throttled += base.throttled
	s.oomKills += base.oomKills
	s.read += base.read
	s.written += base.written
	s.network.add(base.network)
}

// note adds a sample to the period.
func (t *track) note(s sample, cpus float64) {
	last := t.last
	t.last = s
	percent, rates := math.NaN(), (*NetworkRates)(nil)
	if elapsed := s.at.Sub(last.at); !last.at.IsZero() && elapsed > 0 {
		percent = 100 * float64(less(s.cpu, last.cpu)) / float64(elapsed) / cpus
		if s.networked {
			rates = &NetworkRates{Rx: float64(less(s.network.RxBytes, last.network.RxBytes)) / elapsed.Seconds(), Tx: float64(less(s.network.TxBytes, last.network.TxBytes)) / elapsed.Seconds()}
		}
	}
	t.rate = rates
	t.period.add(&s, &last, percent, rates, t.container.restarts)
}

// less is a − b, and 0 where a counter went backwards.
func less(a, b uint64) uint64 {
	if a < b {
		return 0
	}
	return a - b
}

// reading is CPU time at a time.
type reading struct {
	at  time.Time
	cpu CPU
}

// Docker is what the Docker Engine would say about a running container now; nil if it can't be measured. The CPU of before is
// that of when somebody asked before, at least a second ago and at most a minute, else that of the last sample.
func (c *Collector) Docker(id string) *Docker {
	live, _ := running(c.cfg.Engine.Tasks())
	want, ok := live[id]
	if !ok {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	t := c.find(want)
	if t.lost {
		return nil
	}
	d, err := c.reader.docker(t.groups, want.pid, want.hostNetwork, c.host.last.total)
	if err != nil {
		c.cfg.Log.Debug("A container could not be measured", zap.String("task", want.task), zap.String("container", want.name), zap.Error(err))
		return nil
	}
	d.ID, d.Name, d.NetworkRates = id, "/"+want.runtimeName, t.rate
	pre := c.before(t, d.Read)
	d.PreRead, d.PreCPU = pre.at, pre.cpu
	if d.Read.Sub(t.asked[0].at) >= time.Second {
		t.asked[1] = t.asked[0]
	}
	t.asked[0] = reading{d.Read, d.CPU}
	return d
}

// before is the reading that one of now is compared with; zero if there is none.
func (c *Collector) before(t *track, now time.Time) reading {
	for _, r := range t.asked {
		if age := now.Sub(r.at); age >= time.Second && age < time.Minute {
			return r
		}
	}
	if t.last.at.IsZero() || c.host.last.at.Before(t.last.at) {
		return reading{}
	}
	r := reading{at: t.last.at.UTC()}
	r.cpu.Usage.Total, r.cpu.System, r.cpu.Online = less(t.last.cpu, t.base.cpu), c.host.last.times.total*tick, uint32(c.host.last.times.cpus)
	return r
}

// Use is what one container uses now.
type Use struct {
	TaskArn, Family, Container string
	CPU                        time.Duration // since it was made
	Memory                     uint64        // bytes, as ECS counts them
}

// Uses are those of all running containers, as of the last sample.
func (c *Collector) Uses() []Use {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []Use
	for _, t := range c.tracks {
		if !t.ended && !t.last.at.IsZero() {
			out = append(out, Use{TaskArn: t.container.task, Family: t.container.family, Container: t.container.name, CPU: time.Duration(min(t.last.cpu, math.MaxInt64)), Memory: t.last.used()})
		}
	}
	return out
}

func (c *Collector) procFile(name string) string { return filepath.Join(c.cfg.Proc, name) }
