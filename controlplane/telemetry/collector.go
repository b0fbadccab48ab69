package telemetry

import (
	"cmp"
	"slices"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/longshore-project/longshore/protocol/tcs"
)

// maxHosts bounds the hosts that have series of their own; of more, those under the most pressure are shown.
const maxHosts = 1_000

// Collector serves the book to Prometheus. Its cardinality is bounded: 12 series for each container of a service (at most
// [MaxSeries] of them) and one for each measured value of at most 1,000 hosts. There are none for single tasks.
func (b *Book) Collector() prometheus.Collector { return collector{b} }

type collector struct{ b *Book }

var containerLabels = []string{"cluster", "service", "family", "container"}

func containerDesc(name, help string) *prometheus.Desc {
	return prometheus.NewDesc("longshore_container_"+name, help, containerLabels, nil)
}

var (
	running       = containerDesc("tasks", "Tasks whose container was measured lately.")
	cpuReserved   = containerDesc("cpu_reserved_units", "CPU units that these containers reserve.")
	cpuUsed       = containerDesc("cpu_used_units", "CPU units that they used on average in the last publish of each.")
	cpuPeak       = containerDesc("cpu_peak_units", "The most CPU units that one of them used in the last minutes.")
	memReserved   = containerDesc("memory_reserved_bytes", "Memory that these containers reserve.")
	memLimit      = containerDesc("memory_limit_bytes", "Memory that one of them may have at most; 0: no limit of its own.")
	memUsed       = containerDesc("memory_used_bytes", "Memory that they used on average in the last publish of each.")
	memPeak       = containerDesc("memory_peak_bytes", "The most memory that one of them used in the last minutes.")
	oomKills      = containerDesc("oom_kills_total", "Processes of these containers that the kernel killed for memory, since this replica knows them.")
	throttledTime = containerDesc("cpu_throttled_seconds_total", "Time for which CPU limits held these containers back, since this replica knows them.")
	clusterHosts  = prometheus.NewDesc("longshore_cluster_measured_instances", "Container instances that published metrics lately.", []string{"cluster"}, nil)
	droppedDesc   = prometheus.NewDesc("longshore_telemetry_dropped_total", "Measurements that were beyond this replica's bounds.", nil, nil)
	seriesDesc    = prometheus.NewDesc("longshore_telemetry_series", "Containers of services of which this replica keeps a history.", nil, nil)
	keptDesc      = prometheus.NewDesc("longshore_telemetry_containers", "Containers of which this replica keeps the last minutes.", nil, nil)
)

const mib = 1 << 20

// hostDescs are the values of a host: the metric's name, and what its value is multiplied with.
var hostDescs = func() map[string]hostDesc {
	d := func(name, help string, factor float64) hostDesc {
		return hostDesc{prometheus.NewDesc("longshore_host_"+name, help, []string{"cluster", "instance"}, nil), factor}
	}
	return map[string]hostDesc{
		tcs.HostCPUUtilized:        d("cpu_used_ratio", "Share of the host's CPU time that was used.", 0.01),
		tcs.HostCPUSteal:           d("cpu_steal_ratio", "Share of the host's CPU time that its hypervisor gave to others.", 0.01),
		tcs.HostMemoryTotal:        d("memory_bytes", "The host's memory.", mib),
		tcs.HostMemoryUtilized:     d("memory_used_bytes", "Memory in use, without what the kernel can take back at once.", mib),
		tcs.HostMemoryReserved:     d("memory_kept_bytes", "Memory that is not offered to tasks, ECS_RESERVED_MEMORY.", mib),
		tcs.HostMemoryOutsideTasks: d("memory_outside_tasks_bytes", "Memory in use that no task has.", mib),
		tcs.HostPressureCPUSome:    d("pressure_cpu_some_ratio", "Share of time in which some process waited for a CPU.", 0.01),
		tcs.HostPressureMemorySome: d("pressure_memory_some_ratio", "Share of time in which some process waited for memory.", 0.01),
		tcs.HostPressureMemoryFull: d("pressure_memory_full_ratio", "Share of time in which all processes waited for memory.", 0.01),
		tcs.HostPressureIOSome:     d("pressure_io_some_ratio", "Share of time in which some process waited for a disk.", 0.01),
		tcs.HostPressureIOFull:     d("pressure_io_full_ratio", "Share of time in which all processes waited for a disk.", 0.01),
	}
}()

type hostDesc struct {
	*prometheus.Desc
	factor float64
}

// Describe names nothing: what there is depends on what agents measure.
func (collector) Describe(chan<- *prometheus.Desc) {}

// Collect reads the book.
func (c collector) Collect(out chan<- prometheus.Metric) {
	for _, m := range c.b.collect() {
		out <- m
	}
}

// sum is what the containers of a series use now.
type sum struct {
	tasks                                               int
	cpuReserved, cpuUsed, cpuPeak                       float64
	memoryReserved, memoryUsed, memoryPeak, memoryLimit float64
}

func (b *Book) collect() (out []prometheus.Metric) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.sweep(b.now())
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		out = append(out, prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...))
	}
	counter := func(d *prometheus.Desc, v float64, labels ...string) {
		out = append(out, prometheus.MustNewConstMetric(d, prometheus.CounterValue, v, labels...))
	}
	sums, clusters := b.sums()
	for k, s := range b.series {
		labels := []string{k.cluster, k.service, k.family, k.container}
		counter(oomKills, s.kills, labels...)
		counter(throttledTime, s.throttled, labels...)
		u := sums[k]
		if u == nil {
			continue // none runs now
		}
		gauge(running, float64(u.tasks), labels...)
		gauge(cpuReserved, u.cpuReserved, labels...)
		gauge(cpuUsed, u.cpuUsed, labels...)
		gauge(cpuPeak, u.cpuPeak, labels...)
		gauge(memReserved, u.memoryReserved*mib, labels...)
		gauge(memLimit, u.memoryLimit*mib, labels...)
		gauge(memUsed, u.memoryUsed*mib, labels...)
		gauge(memPeak, u.memoryPeak*mib, labels...)
	}
	for cluster, n := range clusters {
		gauge(clusterHosts, float64(n), cluster)
	}
	for _, at := range b.shown() {
		for name, v := range b.hosts[at].own {
			gauge(hostDescs[name].Desc, v*hostDescs[name].factor, at.cluster, at.instance)
		}
	}
	counter(droppedDesc, float64(b.dropped))
	gauge(seriesDesc, float64(len(b.series)))
	gauge(keptDesc, float64(b.containers))
	return out
}

// sums adds up what runs.
func (b *Book) sums() (map[key]*sum, map[string]int) {
	sums, clusters := map[key]*sum{}, map[string]int{}
	for at, h := range b.hosts {
		clusters[at.cluster]++
		for _, t := range h.tasks {
			for name, c := range t.containers {
				k := key{cluster: at.cluster, service: t.facts.Service, container: name}
				if k.service == "" {
					k.family = t.facts.Family
				}
				u := sums[k]
				if u == nil {
					u = &sum{}
					sums[k] = u
				}
				u.add(c, t.facts.Containers[name])
			}
		}
	}
	return sums, clusters
}

func (u *sum) add(c *containerUse, r Reservation) {
	last := c.last()
	u.tasks++
	u.cpuReserved += float64(r.CPU)
	u.memoryReserved += float64(r.Memory)
	u.memoryLimit = max(u.memoryLimit, float64(r.Limit))
	u.cpuUsed += float64(last.cpu)
	u.memoryUsed += float64(last.memory)
	for i := range c.n {
		u.cpuPeak, u.memoryPeak = max(u.cpuPeak, float64(c.ring[i].cpuMax)), max(u.memoryPeak, float64(c.ring[i].memoryMax))
	}
}

// shown are the hosts that have series: all, or those under the most pressure.
func (b *Book) shown() []place {
	all := make([]place, 0, len(b.hosts))
	for at := range b.hosts {
		all = append(all, at)
	}
	if len(all) <= maxHosts {
		return all
	}
	strain := func(at place) float64 {
		own := b.hosts[at].own
		return max(own[tcs.HostPressureCPUSome], own[tcs.HostPressureMemorySome], own[tcs.HostPressureIOSome], own[tcs.HostCPUSteal])
	}
	slices.SortFunc(all, func(x, y place) int {
		return cmp.Or(cmp.Compare(strain(y), strain(x)), cmp.Compare(x.cluster, y.cluster), cmp.Compare(x.instance, y.instance))
	})
	return all[:maxHosts]
}
