package stats

import (
	"cmp"
	"math"
	"slices"
	"time"

	"github.com/longshore-project/longshore/protocol/tcs"
)

// maxPeriod bounds how long a period may last when nobody takes it: what could not be told in time is not told.
const maxPeriod = 2 * time.Minute

const mib = 1 << 20

// period sums up a container's samples since the last time that they were told.
type period struct {
	begun                    time.Time
	cpu, memory              tcs.CWStatsSet
	rxRate, txRate           tcs.CWStatsSet
	network                  [8]counter
	read, written            counter
	networked                bool
	throttled, kills         uint64
	restartsBefore, restarts int
	pids, peak               uint64
}

// counter sums up a counter's values, as they are.
type counter struct {
	min, max, sum uint64
	n             int64
}

func (c *counter) add(v uint64) {
	if c.n == 0 || v < c.min {
		c.min = v
	}
	c.max, c.sum, c.n = max(c.max, v), c.sum+v, c.n+1
}

func (c *counter) wire() *tcs.ULongStatsSet {
	out := &tcs.ULongStatsSet{SampleCount: c.n}
	out.Min, out.OverflowMin = tcs.Split(c.min)
	out.Max, out.OverflowMax = tcs.Split(c.max)
	out.Sum, out.OverflowSum = tcs.Split(c.sum)
	return out
}

func addTo(s *tcs.CWStatsSet, v float64) {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return
	}
	if s.SampleCount == 0 || v < s.Min {
		s.Min = v
	}
	if s.SampleCount == 0 || v > s.Max {
		s.Max = v
	}
	s.Sum += v
	s.SampleCount++
}

// add adds a sample, the one before it, and what was computed from both.
func (p *period) add(s, last *sample, percent float64, rates *NetworkRates, restarts int) {
	if p.begun.IsZero() || s.at.Sub(p.begun) > maxPeriod {
		*p = period{begun: s.at, restartsBefore: p.restarts}
		if last.at.IsZero() {
			p.restartsBefore = restarts
		}
	}
	addTo(&p.cpu, percent)
	addTo(&p.memory, float64(s.used()/mib))
	if rates != nil {
		addTo(&p.rxRate, rates.Rx)
		addTo(&p.txRate, rates.Tx)
	}
	if s.networked {
		p.networked = true
		n := s.network
		for i, v := range [8]uint64{n.RxBytes, n.RxDropped, n.RxErrors, n.RxPackets, n.TxBytes, n.TxDropped, n.TxErrors, n.TxPackets} {
			p.network[i].add(v)
		}
	}
	p.read.add(s.read)
	p.written.add(s.written)
	if !last.at.IsZero() {
		p.throttled += less(s.throttled, last.throttled)
		p.kills += less(s.oomKills, last.oomKills)
	}
	p.restarts, p.pids, p.peak = restarts, s.pids, max(p.peak, s.memory)
}

// Period is what was measured since the last call, for TCS: a metric for each task with a container that has at least one
// value of CPU. own adds what only Longshore's control plane understands; host is nil without it.
func (c *Collector) Period(own bool) (tasks []*tcs.TaskMetric, host *tcs.InstanceMetrics) {
	c.mu.Lock()
	defer c.mu.Unlock()
	byTask := map[string]*tcs.TaskMetric{}
	for id, t := range c.tracks {
		if t.period.cpu.SampleCount > 0 || own && t.oom {
			m := byTask[t.container.task]
			if m == nil {
				m = &tcs.TaskMetric{TaskArn: t.container.task, TaskDefinitionFamily: t.container.family, TaskDefinitionVersion: t.container.version}
				byTask[t.container.task] = m
				tasks = append(tasks, m)
			}
			m.ContainerMetrics = append(m.ContainerMetrics, t.metric(own))
			t.period = period{restarts: t.period.restarts}
		}
		if t.ended {
			delete(c.tracks, id)
		}
	}
	slices.SortFunc(tasks, func(a, b *tcs.TaskMetric) int { return cmp.Compare(a.TaskArn, b.TaskArn) })
	for _, t := range tasks {
		slices.SortFunc(t.ContainerMetrics, func(a, b *tcs.ContainerMetric) int { return cmp.Compare(a.ContainerName, b.ContainerName) })
	}
	if own {
		host = c.host.metrics(c.cfg.Reserved)
	}
	return tasks, host
}

// metric is a container's period on the wire.
func (t *track) metric(own bool) *tcs.ContainerMetric {
	p := &t.period
	m := &tcs.ContainerMetric{ContainerName: t.container.name}
	if p.cpu.SampleCount > 0 {
		set, memory := p.cpu, p.memory
		m.CPUStatsSet, m.MemoryStatsSet = &set, &memory
		m.StorageStatsSet = &tcs.StorageStatsSet{ReadSizeBytes: p.read.wire(), WriteSizeBytes: p.written.wire()}
	}
	if p.networked && p.rxRate.SampleCount > 0 {
		n, rx, tx := &p.network, tcs.UDoubleCWStatsSet(p.rxRate), tcs.UDoubleCWStatsSet(p.txRate)
		m.NetworkStatsSet = &tcs.NetworkStatsSet{
			RxBytes: n[0].wire(), RxDropped: n[1].wire(), RxErrors: n[2].wire(), RxPackets: n[3].wire(), RxBytesPerSecond: &rx,
			TxBytes: n[4].wire(), TxDropped: n[5].wire(), TxErrors: n[6].wire(), TxPackets: n[7].wire(), TxBytesPerSecond: &tx,
		}
	}
	if t.container.restartable && p.restarts >= p.restartsBefore {
		m.RestartStatsSet = &tcs.RestartStatsSet{RestartCount: int64(p.restarts - p.restartsBefore)}
	}
	if own {
		kills := p.kills
		if t.oom {
			kills = max(kills, 1)
		}
		m.GeneralMetricsPayload = tcs.OwnPayload(
			tcs.Own(tcs.ContainerCPUThrottled, time.Duration(min(p.throttled, math.MaxInt64)).Seconds(), tcs.UnitSeconds),
			tcs.Own(tcs.ContainerOOMKills, float64(kills), tcs.UnitCount),
			tcs.Own(tcs.ContainerProcesses, float64(p.pids), tcs.UnitCount),
			tcs.Own(tcs.ContainerMemoryPeak, float64(p.peak)/mib, tcs.UnitMiB),
		)
	}
	return m
}
