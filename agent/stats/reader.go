package stats

import (
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// reader reads the kernel's files into one buffer. It is for one goroutine at a time.
type reader struct {
	proc   string // "/proc" but in tests
	cgroup string // where the host's control groups are mounted
	buffer []byte
}

// file is what a file says; it is valid until the next call.
func (r *reader) file(name string) ([]byte, error) {
	fd, err := unix.Open(name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	defer func() { _ = unix.Close(fd) }()
	if r.buffer == nil {
		r.buffer = make([]byte, 16<<10)
	}
	for n := 0; ; {
		got, err := unix.Read(fd, r.buffer[n:])
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return nil, fmt.Errorf("%s: %w", name, err)
		case got <= 0:
			return r.buffer[:n], nil
		}
		if n += got; n < len(r.buffer) {
			continue
		}
		if n >= maxFile {
			return nil, fmt.Errorf("%s has more than %d bytes", name, maxFile)
		}
		r.buffer = append(r.buffer, make([]byte, len(r.buffer))...)
	}
}

// optional is a file that not every kernel has: empty if it can't be read.
func (r *reader) optional(name string) []byte {
	data, err := r.file(name)
	if err != nil {
		return nil
	}
	return data
}

func (r *reader) number(name string) (uint64, error) {
	data, err := r.file(name)
	if err != nil {
		return 0, err
	}
	n, err := number(data)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", name, err)
	}
	return n, nil
}

func (r *reader) count(name string) uint64 {
	n, err := r.number(name)
	if err != nil {
		return 0
	}
	return n
}

// layout is where control groups are now.
func (r *reader) layout() (layout, error) {
	data, err := r.file(filepath.Join(r.proc, "self/mountinfo"))
	if err != nil {
		return layout{}, err
	}
	return parseLayout(data, r.cgroup), nil
}

// groups are those of a container.
func (r *reader) groups(l layout, pid int, id string) (groups, error) {
	data, err := r.file(filepath.Join(r.proc, strconv.Itoa(pid), "cgroup"))
	if err != nil {
		return groups{}, err
	}
	return l.find(data, id)
}

// sample is what is read of a container each time.
type sample struct {
	at            time.Time
	cpu           uint64 // nanoseconds
	throttled     uint64 // nanoseconds, by its own limit and its task's
	memory        uint64 // bytes, page cache included
	cache         uint64 // of it what counts as cache
	oomKills      uint64
	pids          uint64
	read, written uint64
	network       Network // all interfaces
	networked     bool    // it has a network of its own
}

// used is the memory as ECS counts it: without the page cache (v1), or without that of it which is inactive (v2).
func (s *sample) used() uint64 {
	if s.cache < s.memory {
		return s.memory - s.cache
	}
	return s.memory
}

// sample reads a container's files. An error means that there is no container to measure any more, or not yet.
func (r *reader) sample(g groups, pid int, hostNetwork bool) (sample, error) {
	s := sample{at: time.Now()}
	var err error
	if s.cpu, s.throttled, err = r.cpuTime(g); err != nil {
		return s, err
	}
	if s.memory, s.cache, s.oomKills, err = r.memoryUse(g); err != nil {
		return s, err
	}
	if b, ok := g.of[block]; ok {
		s.read, s.written = r.blockBytes(b)
	}
	if p, ok := g.of[pids]; ok {
		s.pids = r.count(p.file("pids.current"))
	}
	if hostNetwork {
		return s, nil
	}
	data, err := r.file(filepath.Join(r.proc, strconv.Itoa(pid), "net/dev"))
	if err != nil {
		return s, err
	}
	s.networked = true
	for _, n := range netDev(data) {
		s.network.add(n)
	}
	return s, nil
}

func (r *reader) cpuTime(g groups) (usage, throttled uint64, err error) {
	a, ok := g.of[cpuacct]
	if !ok {
		return 0, 0, errors.New("the host has no control groups that count CPU time")
	}
	if !a.v2 {
		if usage, err = r.number(a.file("cpuacct.usage")); err != nil {
			return 0, 0, err
		}
	}
	for _, in := range []map[string]group{g.of, g.parents} {
		c, ok := in[cpu]
		if !ok {
			continue
		}
		data := r.optional(c.file("cpu.stat"))
		if !c.v2 {
			throttled += keyOf(data, "throttled_time")
			continue
		}
		throttled += keyOf(data, "throttled_usec") * 1000
		if c == g.of[cpu] && a.v2 {
			if len(data) == 0 {
				return 0, 0, fmt.Errorf("%s can't be read: %w", c.file("cpu.stat"), unix.ENOENT)
			}
			usage = keyOf(data, "usage_usec") * 1000
		}
	}
	return usage, throttled, nil
}

func (r *reader) memoryUse(g groups) (usage, cache, kills uint64, err error) {
	m, ok := g.of[memory]
	if !ok {
		return 0, 0, 0, errors.New("the host has no control groups that count memory")
	}
	if m.v2 {
		if usage, err = r.number(m.file("memory.current")); err != nil {
			return 0, 0, 0, err
		}
		cache = keyOf(r.optional(m.file("memory.stat")), "inactive_file")
		return usage, cache, keyOf(r.optional(m.file("memory.events")), "oom_kill"), nil
	}
	if usage, err = r.number(m.file("memory.usage_in_bytes")); err != nil {
		return 0, 0, 0, err
	}
	cache = keyOf(r.optional(m.file("memory.stat")), "total_cache")
	return usage, cache, keyOf(r.optional(m.file("memory.oom_control")), "oom_kill"), nil
}

func (r *reader) blockBytes(b group) (read, written uint64) {
	if b.v2 {
		sizes, _ := ioStat(r.optional(b.file("io.stat")))
		return readAndWritten(sizes)
	}
	return readAndWritten(blkio(r.optional(b.file("blkio.throttle.io_service_bytes_recursive"))))
}

// docker reads all that the engine's own statistics have. Pre is the CPU of the sample before.
func (r *reader) docker(g groups, pid int, hostNetwork bool, hostMemory uint64) (*Docker, error) {
	d := &Docker{Read: time.Now().UTC()}
	var err error
	if d.CPU, err = r.dockerCPU(g); err != nil {
		return nil, err
	}
	if d.Memory, err = r.dockerMemory(g, hostMemory); err != nil {
		return nil, err
	}
	d.Blkio = r.dockerBlkio(g)
	if p, ok := g.of[pids]; ok {
		d.Pids.Current = r.count(p.file("pids.current"))
		if limit := r.count(p.file("pids.max")); limit != math.MaxUint64 {
			d.Pids.Limit = limit
		}
	}
	if hostNetwork {
		return d, nil
	}
	data, err := r.file(filepath.Join(r.proc, strconv.Itoa(pid), "net/dev"))
	if err != nil {
		return nil, err
	}
	d.Networks = netDev(data)
	return d, nil
}

// tick is the unit of cpuacct.stat and /proc/stat in nanoseconds: USER_HZ is 100 everywhere.
const tick = 10_000_000

func (r *reader) dockerCPU(g groups) (CPU, error) {
	var c CPU
	a, ok := g.of[cpuacct]
	if !ok {
		return c, errors.New("the host has no control groups that count CPU time")
	}
	var err error
	if !a.v2 {
		if c.Usage.Total, err = r.number(a.file("cpuacct.usage")); err != nil {
			return c, err
		}
		c.Usage.PerCPU = numbers(r.optional(a.file("cpuacct.usage_percpu")))
		stat := keyed(r.optional(a.file("cpuacct.stat")))
		c.Usage.User, c.Usage.Kernel = stat["user"]*tick, stat["system"]*tick
	}
	if own, ok := g.of[cpu]; ok {
		data, err := r.file(own.file("cpu.stat"))
		if err != nil {
			return c, err
		}
		stat := keyed(data)
		c.Throttling = Throttling{Periods: stat["nr_periods"], Throttled: stat["nr_throttled"], Time: stat["throttled_time"]}
		if own.v2 {
			c.Throttling.Time = stat["throttled_usec"] * 1000
		}
		if a.v2 {
			c.Usage.Total, c.Usage.User, c.Usage.Kernel = stat["usage_usec"]*1000, stat["user_usec"]*1000, stat["system_usec"]*1000
		}
	}
	data, err := r.file(filepath.Join(r.proc, "stat"))
	if err != nil {
		return c, err
	}
	times, err := procStat(data)
	if err != nil {
		return c, err
	}
	c.System, c.Online = times.total*tick, uint32(times.cpus)
	return c, nil
}

func (r *reader) dockerMemory(g groups, hostMemory uint64) (Memory, error) {
	var out Memory
	m, ok := g.of[memory]
	if !ok {
		return out, errors.New("the host has no control groups that count memory")
	}
	usage, limit := "memory.usage_in_bytes", "memory.limit_in_bytes"
	if m.v2 {
		usage, limit = "memory.current", "memory.max"
	}
	var err error
	if out.Usage, err = r.number(m.file(usage)); err != nil {
		return out, err
	}
	out.Limit = r.count(m.file(limit))
	if p, ok := g.parents[memory]; ok { // the task's limit holds for the container too
		if task := r.count(p.file(limit)); task != 0 {
			out.Limit = min(out.Limit, task)
		}
	}
	if hostMemory != 0 {
		out.Limit = min(out.Limit, hostMemory)
	}
	out.Stats = keyed(r.optional(m.file("memory.stat")))
	if m.v2 {
		out.Failcnt = keyOf(r.optional(m.file("memory.events")), "oom")
		return out, nil
	}
	out.MaxUsage, out.Failcnt = r.count(m.file("memory.max_usage_in_bytes")), r.count(m.file("memory.failcnt"))
	return out, nil
}

func (r *reader) dockerBlkio(g groups) Blkio {
	b, ok := g.of[block]
	if !ok {
		return Blkio{}
	}
	if b.v2 {
		var out Blkio
		out.ServiceBytes, out.Serviced = ioStat(r.optional(b.file("io.stat")))
		return out
	}
	none := func() []BlkioEntry { return []BlkioEntry{} }
	return Blkio{
		ServiceBytes: blkio(r.optional(b.file("blkio.throttle.io_service_bytes_recursive"))),
		Serviced:     blkio(r.optional(b.file("blkio.throttle.io_serviced_recursive"))),
		Queue:        none(), ServiceTime: none(), WaitTime: none(), Merged: none(), Time: none(), Sectors: none(),
	}
}
