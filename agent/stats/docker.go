package stats

import "time"

// The shapes of the Docker Engine's statistics (GET /containers/{id}/stats, API 1.41), which the task metadata endpoints pass on.

// Docker is the statistics of one container.
type Docker struct {
	Read         time.Time          `json:"read"`
	PreRead      time.Time          `json:"preread"`
	Pids         Pids               `json:"pids_stats"`
	Blkio        Blkio              `json:"blkio_stats"`
	NumProcs     uint32             `json:"num_procs"` // Windows only
	Storage      struct{}           `json:"storage_stats"`
	CPU          CPU                `json:"cpu_stats"`
	PreCPU       CPU                `json:"precpu_stats"` // that of PreRead
	Memory       Memory             `json:"memory_stats"`
	Name         string             `json:"name"`
	ID           string             `json:"id"`
	Networks     map[string]Network `json:"networks,omitempty"`           // by interface; none in the network of the host
	NetworkRates *NetworkRates      `json:"network_rate_stats,omitempty"` // ECS's own, version 4 only
}

// Pids are the processes and threads.
type Pids struct {
	Current uint64 `json:"current,omitempty"`
	Limit   uint64 `json:"limit,omitempty"`
}

// Blkio is block I/O. Only the first two are there with today's kernels.
type Blkio struct {
	ServiceBytes []BlkioEntry `json:"io_service_bytes_recursive"`
	Serviced     []BlkioEntry `json:"io_serviced_recursive"`
	Queue        []BlkioEntry `json:"io_queue_recursive"`
	ServiceTime  []BlkioEntry `json:"io_service_time_recursive"`
	WaitTime     []BlkioEntry `json:"io_wait_time_recursive"`
	Merged       []BlkioEntry `json:"io_merged_recursive"`
	Time         []BlkioEntry `json:"io_time_recursive"`
	Sectors      []BlkioEntry `json:"sectors_recursive"`
}

// BlkioEntry is one operation on one device.
type BlkioEntry struct {
	Major uint64 `json:"major"`
	Minor uint64 `json:"minor"`
	Op    string `json:"op"`
	Value uint64 `json:"value"`
}

// CPU is processor time in nanoseconds.
type CPU struct {
	Usage      CPUUsage   `json:"cpu_usage"`
	System     uint64     `json:"system_cpu_usage,omitempty"` // of the whole host
	Online     uint32     `json:"online_cpus,omitempty"`
	Throttling Throttling `json:"throttling_data"`
}

// CPUUsage is the container's.
type CPUUsage struct {
	Total  uint64   `json:"total_usage"`
	PerCPU []uint64 `json:"percpu_usage,omitempty"` // cgroup v1 only
	Kernel uint64   `json:"usage_in_kernelmode"`
	User   uint64   `json:"usage_in_usermode"`
}

// Throttling is what a CPU limit withheld.
type Throttling struct {
	Periods   uint64 `json:"periods"`
	Throttled uint64 `json:"throttled_periods"`
	Time      uint64 `json:"throttled_time"` // nanoseconds
}

// Memory is in bytes. Usage has the page cache in it.
type Memory struct {
	Usage    uint64            `json:"usage,omitempty"`
	MaxUsage uint64            `json:"max_usage,omitempty"` // cgroup v1 only
	Stats    map[string]uint64 `json:"stats,omitempty"`     // memory.stat
	Failcnt  uint64            `json:"failcnt,omitempty"`
	Limit    uint64            `json:"limit,omitempty"` // the host's memory if there is none
}

// Network is the traffic of one interface, as the container sees it.
type Network struct {
	RxBytes   uint64 `json:"rx_bytes"`
	RxPackets uint64 `json:"rx_packets"`
	RxErrors  uint64 `json:"rx_errors"`
	RxDropped uint64 `json:"rx_dropped"`
	TxBytes   uint64 `json:"tx_bytes"`
	TxPackets uint64 `json:"tx_packets"`
	TxErrors  uint64 `json:"tx_errors"`
	TxDropped uint64 `json:"tx_dropped"`
}

func (n *Network) add(m Network) {
	n.RxBytes, n.RxPackets, n.RxErrors, n.RxDropped = n.RxBytes+m.RxBytes, n.RxPackets+m.RxPackets, n.RxErrors+m.RxErrors, n.RxDropped+m.RxDropped
	n.TxBytes, n.TxPackets, n.TxErrors, n.TxDropped = n.TxBytes+m.TxBytes, n.TxPackets+m.TxPackets, n.TxErrors+m.TxErrors, n.TxDropped+m.TxDropped
}

// NetworkRates are bytes a second of all interfaces together.
type NetworkRates struct {
	Rx float64 `json:"rx_bytes_per_sec"`
	Tx float64 `json:"tx_bytes_per_sec"`
}
