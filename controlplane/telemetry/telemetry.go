// Package telemetry keeps what agents told lately of their hosts and tasks, in the memory of this replica and nowhere else:
// it is gone with the process, is never in etcd, and each replica has that of the instances whose TCS socket it holds.
//
//	Book.Metrics    a publish of TCS: use of each container, pressure of the host (package protocol/tcs)
//	Book.Progress   what tasks wait for that are not where they are to be
//	Book.Gone       the instance's TCS socket has ended
//
// # What is kept, and for how long
//
//	of a container         the last [Recent] publishes (5 minutes of them): averages and maxima of cpu and memory. A task that
//	                       was not published for [Stale] is forgotten. About 0.8 KiB with its task; at most MaxContainers
//	of a service's         how often which use was seen in the last day, in slots of 3 h (a [sketch]: quantiles within 2.5 %),
//	container of a name    OOM kills and throttled time. 6 to 10 KiB, at most 130; at most MaxSeries. Standalone tasks count
//	                       by family
//	of a host              the last values. About 0.3 KiB
//	of a task that waits   its waits and steps, as last said
//
// What is beyond a bound is counted, not kept. [Book.Sizing] reads it for people, [Book.Collector] for Prometheus.
package telemetry

import (
	"sync"
	"time"

	"github.com/longshore-project/longshore/protocol/arn"
	"github.com/longshore-project/longshore/protocol/tcs"
)

// The bounds, see the package comment.
const (
	Recent        = 15 // publishes, of 20 s each
	Stale         = 2 * time.Minute
	MaxContainers = 300_000
	MaxSeries     = 5_000
	forget        = 24 * time.Hour // a series without news
)

// Facts is what the store knows of a task that an agent speaks of.
type Facts struct {
	Service string // empty: standalone
	Family  string
	// CPU and Memory are what the task reserves as a whole, in units and MiB.
	CPU, Memory int64
	Containers  map[string]Reservation // by name
}

// Reservation is what a container's definition gives it; 0: nothing.
type Reservation struct {
	CPU    int64 // units
	Memory int64 // MiB, memoryReservation, else memory
	Limit  int64 // MiB, memory
}

// Source tells what tasks and instances are.
type Source interface {
	// Task is a task that is placed on the instance; false: there is none.
	Task(cluster, instance, task string) (Facts, bool)
	// CPU is what the instance registered in CPU units, 0 if that is not known.
	CPU(cluster, instance string) int64
}

// Book is what is kept. It may be used concurrently.
type Book struct {
	source Source
	now    func() time.Time

	mu         sync.Mutex
	hosts      map[place]*host
	series     map[key]*series
	containers int
	dropped    int64 // what was beyond a bound
	progress   map[place]*progress
	swept      time.Time
}

// New makes a Book. now is the clock, nil for the real one.
func New(source Source, now func() time.Time) *Book {
	if now == nil {
		now = time.Now
	}
	return &Book{source: source, now: now, hosts: map[place]*host{}, series: map[key]*series{}, progress: map[place]*progress{}}
}

// place is an instance of a cluster.
type place struct{ cluster, instance string }

// key is a container of a service, or of a family's standalone tasks.
type key struct{ cluster, service, family, container string }

type host struct {
	at    time.Time
	own   map[string]float64 // metrics of our own, by name
	tasks map[string]*taskUse
}

type taskUse struct {
	at         time.Time
	facts      Facts
	containers map[string]*containerUse
}

// containerUse is a ring of the last publishes.
type containerUse struct {
	ring [Recent]sample
	next int // where the next one goes
	n    int
}

// sample is a container's use in one period: cpu in units, memory in MiB.
type sample struct{ cpu, cpuMax, memory, memoryMax float32 }

func (c *containerUse) add(s sample) {
	c.ring[c.next] = s
	c.next, c.n = (c.next+1)%Recent, min(c.n+1, Recent)
}

func (c *containerUse) last() sample { return c.ring[(c.next+Recent-1)%Recent] }

// Metrics takes a publish of an instance. It does no I/O.
func (b *Book) Metrics(cluster, instance string, m *tcs.PublishMetricsRequest) {
	at, now := place{cluster, instance}, b.now()
	units, facts := float64(b.source.CPU(cluster, instance)), b.learn(at, m.TaskMetrics)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.sweep(now)
	h := b.hosts[at]
	if h == nil {
		h = &host{tasks: map[string]*taskUse{}}
		b.hosts[at] = h
	}
	h.at = now
	if m.InstanceMetrics != nil {
		h.own = ownMetrics(m.InstanceMetrics.GeneralMetricsPayload)
	}
	for _, t := range m.TaskMetrics {
		b.task(at, h, t, facts, units, now)
	}
}

// learn asks for the facts of those tasks that the book does not know. The source may have a lock of its own that is held
// by who asks the book, so that it is not asked under the book's.
func (b *Book) learn(at place, tasks []*tcs.TaskMetric) map[string]Facts {
	unknown := map[string]Facts{}
	b.mu.Lock()
	h := b.hosts[at]
	for _, t := range tasks {
		if a, err := arn.Parse(t.TaskArn); err == nil && a.Type == arn.TypeTask && (h == nil || h.tasks[a.ID()] == nil) {
			unknown[a.ID()] = Facts{}
		}
	}
	b.mu.Unlock()
	for id := range unknown {
		f, ok := b.source.Task(at.cluster, at.instance, id)
		if unknown[id] = f; !ok {
			delete(unknown, id) // not of this instance
		}
	}
	return unknown
}

// hostMetrics are those of the host that are kept.
var hostMetrics = []string{
	tcs.HostCPUUtilized, tcs.HostCPUSteal, tcs.HostMemoryTotal, tcs.HostMemoryUtilized, tcs.HostMemoryReserved, tcs.HostMemoryOutsideTasks,
	tcs.HostPressureCPUSome, tcs.HostPressureMemorySome, tcs.HostPressureMemoryFull, tcs.HostPressureIOSome, tcs.HostPressureIOFull,
}

func ownMetrics(payload []*tcs.GeneralMetricsWrapper) map[string]float64 {
	out := map[string]float64{}
	for _, name := range hostMetrics {
		if v, ok := tcs.OwnValue(payload, name); ok && v >= 0 {
			out[name] = v
		}
	}
	return out
}

// task takes the metrics of one task.
func (b *Book) task(at place, h *host, m *tcs.TaskMetric, learnt map[string]Facts, units float64, now time.Time) {
	a, err := arn.Parse(m.TaskArn)
	if err != nil || a.Type != arn.TypeTask {
		return
	}
	t := h.tasks[a.ID()]
	if t == nil {
		facts, ok := learnt[a.ID()]
		if !ok {
			return
		}
		t = &taskUse{facts: facts, containers: map[string]*containerUse{}}
		h.tasks[a.ID()] = t
	}
	t.at = now
	for _, m := range m.ContainerMetrics {
		if _, known := t.facts.Containers[m.ContainerName]; known {
			b.container(at, t, m, units, now)
		}
	}
}

// container takes the metrics of one container of the task's definition.
func (b *Book) container(at place, t *taskUse, m *tcs.ContainerMetric, units float64, now time.Time) {
	c := t.containers[m.ContainerName]
	if c == nil {
		if b.containers >= MaxContainers {
			b.dropped++
			return
		}
		b.containers++
		c = &containerUse{}
		t.containers[m.ContainerName] = c
	}
	s := b.seriesOf(at.cluster, t, m.ContainerName)
	var now1 sample
	if set := m.CPUStatsSet; set != nil && set.SampleCount > 0 && units > 0 {
		now1.cpu, now1.cpuMax = float32(set.Sum/float64(set.SampleCount)/100*units), float32(set.Max/100*units)
	}
	if set := m.MemoryStatsSet; set != nil && set.SampleCount > 0 {
		now1.memory, now1.memoryMax = float32(set.Sum/float64(set.SampleCount)), float32(set.Max)
	}
	c.add(now1)
	if s == nil {
		b.dropped++
		return
	}
	throttled, _ := tcs.OwnValue(m.GeneralMetricsPayload, tcs.ContainerCPUThrottled)
	kills, _ := tcs.OwnValue(m.GeneralMetricsPayload, tcs.ContainerOOMKills)
	s.add(now1, max(0, throttled), max(0, kills), t.facts.Containers[m.ContainerName], now)
}

// seriesOf is the series of a container; nil when there are too many.
func (b *Book) seriesOf(cluster string, t *taskUse, container string) *series {
	k := key{cluster: cluster, service: t.facts.Service, container: container}
	if k.service == "" {
		k.family = t.facts.Family
	}
	s := b.series[k]
	if s == nil && len(b.series) < MaxSeries {
		s = &series{}
		b.series[k] = s
	}
	return s
}

// sweep forgets what is old, at most twice a minute.
func (b *Book) sweep(now time.Time) {
	if now.Sub(b.swept) < Stale/4 {
		return
	}
	b.swept = now
	for at, h := range b.hosts {
		for id, t := range h.tasks {
			if now.Sub(t.at) > Stale {
				b.containers -= len(t.containers)
				delete(h.tasks, id)
			}
		}
		if now.Sub(h.at) > Stale && len(h.tasks) == 0 {
			delete(b.hosts, at)
		}
	}
	for k, s := range b.series {
		if now.Sub(s.at) > forget {
			delete(b.series, k)
		}
	}
}

// Gone says that an instance's TCS socket has ended: what its tasks wait for is not known any more. What was measured
// stays until it is old.
func (b *Book) Gone(cluster, instance string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.progress, place{cluster, instance})
}
