package tcs

// Longshore's agent tells Longshore's control plane more than Amazon ECS asks for: how the host and its containers are under
// pressure. It rides in generalMetricsPayload, which the protocol has, under the names below, each metric with one value in
// metricValueDouble. Amazon ECS never gets it: the agent sends it only where the answer to the handshake had [OwnMetricsHeader].

// OwnMetricsHeader is the header, with any value, by which a control plane says in its answer to the handshake of the web
// socket that it wants what follows.
const OwnMetricsHeader = "Longshore-Metrics"

// What [InstanceMetrics].GeneralMetricsPayload says about the host. Percentages are of the time, or the host, since the last
// message.
const (
	HostCPUUtilized        = "HostCPUUtilized"        // percent of the whole host
	HostCPUSteal           = "HostCPUSteal"           // percent of the whole host that its hypervisor gave to others
	HostMemoryTotal        = "HostMemoryTotal"        // MiB
	HostMemoryUtilized     = "HostMemoryUtilized"     // MiB, without what the kernel can take back at once
	HostMemoryReserved     = "HostMemoryReserved"     // MiB, ECS_RESERVED_MEMORY as it is in force
	HostMemoryOutsideTasks = "HostMemoryOutsideTasks" // MiB of HostMemoryUtilized that no task uses
	HostPressureCPUSome    = "HostPressureCPUSome"    // percent of the time in which some process waited for a CPU
	HostPressureMemorySome = "HostPressureMemorySome" // … for memory
	HostPressureMemoryFull = "HostPressureMemoryFull" // … in which all did
	HostPressureIOSome     = "HostPressureIOSome"     // … for a disk
	HostPressureIOFull     = "HostPressureIOFull"
)

// What [ContainerMetric].GeneralMetricsPayload says about a container. Counts are of the time since the last message.
const (
	ContainerCPUThrottled = "ContainerCPUThrottled" // seconds of CPU time that its limit, or its task's, has withheld
	ContainerOOMKills     = "ContainerOOMKills"     // processes that the kernel killed for its, or its task's, memory limit
	ContainerProcesses    = "ContainerProcesses"    // processes and threads now
	ContainerMemoryPeak   = "ContainerMemoryPeak"   // MiB: the most of usage in the period, page cache included
)

// Units of general metrics.
const (
	UnitPercent = "Percent"
	UnitMiB     = "Megabytes"
	UnitSeconds = "Seconds"
	UnitCount   = "Count"
)

// Own makes a metric of Longshore's own.
func Own(name string, value float64, unit string) *GeneralMetric {
	return &GeneralMetric{MetricName: name, MetricValueDouble: &value, Unit: unit}
}

// OwnPayload wraps metrics of Longshore's own; nil for none.
func OwnPayload(metrics ...*GeneralMetric) []*GeneralMetricsWrapper {
	if len(metrics) == 0 {
		return nil
	}
	return []*GeneralMetricsWrapper{{MetricType: "1", GeneralMetrics: metrics}}
}

// OwnValue finds a metric of Longshore's own by name.
func OwnValue(payload []*GeneralMetricsWrapper, name string) (value float64, ok bool) {
	for _, w := range payload {
		if w == nil || len(w.Dimensions) > 0 {
			continue
		}
		for _, m := range w.GeneralMetrics {
			if m != nil && m.MetricName == name && m.MetricValueDouble != nil {
				return *m.MetricValueDouble, true
			}
		}
	}
	return 0, false
}
