package stats

import (
	"fmt"
	"path/filepath"
	"time"

	"go.uber.org/zap"

	"github.com/longshore-project/longshore/protocol/tcs"
)

// hostSample is one look at the host.
type hostSample struct {
	at               time.Time
	times            cpuTimes
	total, available uint64    // memory, bytes
	stalled          [5]uint64 // microseconds: CPU some, memory some and full, I/O some and full
	pressure         bool      // the kernel has pressure stall information
}

// host is the last look, and the one at which the present period began.
type host struct {
	begin, last hostSample
	outside     uint64 // memory in use that is no task's, bytes
}

func (r *reader) host(name func(string) string) (hostSample, error) {
	s := hostSample{at: time.Now()}
	data, err := r.file(name("stat"))
	if err != nil {
		return s, err
	}
	if s.times, err = procStat(data); err != nil {
		return s, fmt.Errorf("%s: %w", name("stat"), err)
	}
	if data, err = r.file(name("meminfo")); err != nil {
		return s, err
	}
	if s.total, s.available, err = memInfo(data); err != nil {
		return s, fmt.Errorf("%s: %w", name("meminfo"), err)
	}
	if data, err := r.file(name("pressure/cpu")); err == nil {
		s.pressure = true
		s.stalled[0], _ = pressure(data)
		s.stalled[1], s.stalled[2] = pressure(r.optional(name("pressure/memory")))
		s.stalled[3], s.stalled[4] = pressure(r.optional(name("pressure/io")))
	}
	return s, nil
}

// lookAtHost samples the host; pinned is what its tasks hold of its memory.
func (c *Collector) lookAtHost(pinned uint64) {
	s, err := c.reader.host(c.procFile)
	if err != nil {
		c.cfg.Log.Debug("The host could not be measured", zap.Error(err))
		return
	}
	if c.host.begin.at.IsZero() {
		c.host.begin = s
	}
	c.host.last = s
	c.host.outside = less(less(s.total, s.available), pinned)
	if text := c.told.judge(s.at, c.host.outside/mib, c.cfg.Reserved, s.total/mib); text != "" {
		c.cfg.Log.Warn(text, zap.Uint64("outsideMiB", c.host.outside/mib), zap.Int64("reservedMiB", c.cfg.Reserved), zap.Uint64("totalMiB", s.total/mib))
	}
}

// Outside is the memory, in bytes, that is in use on the host and is no task's, as of the last sample.
func (c *Collector) Outside() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.host.outside
}

// metrics is the host's period for Longshore's control plane; nil while there is none. The next one begins.
func (h *host) metrics(reserved int64) *tcs.InstanceMetrics {
	a, b := h.begin, h.last
	if !b.at.After(a.at) {
		return nil
	}
	h.begin = b
	metrics := []*tcs.GeneralMetric{
		tcs.Own(tcs.HostMemoryTotal, float64(b.total)/mib, tcs.UnitMiB),
		tcs.Own(tcs.HostMemoryUtilized, float64(less(b.total, b.available))/mib, tcs.UnitMiB),
		tcs.Own(tcs.HostMemoryReserved, float64(reserved), tcs.UnitMiB),
		tcs.Own(tcs.HostMemoryOutsideTasks, float64(h.outside)/mib, tcs.UnitMiB),
	}
	if all := less(b.times.total, a.times.total); all > 0 {
		idle := min(less(b.times.idle, a.times.idle), all)
		metrics = append(metrics,
			tcs.Own(tcs.HostCPUUtilized, 100*float64(all-idle)/float64(all), tcs.UnitPercent),
			tcs.Own(tcs.HostCPUSteal, 100*float64(less(b.times.steal, a.times.steal))/float64(all), tcs.UnitPercent))
	}
	if a.pressure && b.pressure {
		elapsed := float64(b.at.Sub(a.at).Microseconds())
		for i, name := range []string{tcs.HostPressureCPUSome, tcs.HostPressureMemorySome, tcs.HostPressureMemoryFull, tcs.HostPressureIOSome, tcs.HostPressureIOFull} {
			metrics = append(metrics, tcs.Own(name, min(100, 100*float64(less(b.stalled[i], a.stalled[i]))/elapsed), tcs.UnitPercent))
		}
	}
	return &tcs.InstanceMetrics{GeneralMetricsPayload: tcs.OwnPayload(metrics...)}
}

// complaint decides when to say that more memory is used outside tasks than was reserved: when it has been so for a while,
// and again when it is much more, or after a day.
type complaint struct {
	times int // in a row that it was so
	said  time.Time
	at    uint64 // MiB, when it was said
}

const (
	complainAfter = 6  // looks
	complainSlack = 64 // MiB
)

// judge returns what is to be said now, or nothing. Amounts are in MiB.
func (c *complaint) judge(now time.Time, outside uint64, reserved int64, total uint64) string {
	if outside <= uint64(max(reserved, 0))+complainSlack {
		c.times = 0
		return ""
	}
	if c.times++; c.times < complainAfter {
		return ""
	}
	if !c.said.IsZero() && now.Sub(c.said) < 24*time.Hour && outside < c.at+c.at/4 {
		return ""
	}
	c.said, c.at = now, outside
	return fmt.Sprintf("What is no task's uses %d MiB of this host's %d MiB of memory, and ECS_RESERVED_MEMORY keeps %d MiB from tasks: tasks may be placed here whose memory is not there. Set ECS_RESERVED_MEMORY to %d, or to auto",
		outside, total, reserved, Reserve(outside))
}

// Reserve is how much memory to keep from tasks where what is no task's uses outside, both in MiB: a quarter more, at least
// 128 MiB, in steps of 32.
func Reserve(outside uint64) int64 {
	want := max(outside+outside/4, 128)
	return int64((want + 31) / 32 * 32)
}

// Measure is the memory in MiB that is in use on the host now. Without what containers hold of it if there may be tasks among
// them. It is for the time before the agent knows its tasks; proc is "/proc", cgroup where the host's control groups are.
func Measure(proc, cgroup string, without bool) (used uint64, err error) {
	r := &reader{proc: proc, cgroup: cgroup}
	s, err := r.host(func(name string) string { return proc + "/" + name })
	if err != nil {
		return 0, err
	}
	used = less(s.total, s.available)
	if without {
		l, err := r.layout()
		if err != nil {
			return 0, err
		}
		used = less(used, r.containers(l))
	}
	return used / mib, nil
}

// containers is the memory that the groups in which engines put containers hold.
func (r *reader) containers(l layout) (total uint64) {
	m, v2 := l.v1[memory], false
	if m.path == "" {
		m, v2 = l.v2, true
	}
	for _, pattern := range []string{"docker", "ecs", "ecstasks.slice", "system.slice/docker-*.scope"} {
		dirs, _ := filepath.Glob(filepath.Join(m.path, pattern))
		for _, dir := range dirs {
			usage, cache, _, err := r.memoryUse(groups{of: map[string]group{memory: {dir, v2}}})
			if err == nil {
				total += less(usage, cache)
			}
		}
	}
	return total
}
