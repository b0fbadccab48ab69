package acs

// DockerConfig carries, as JSON documents in strings, the settings that have no member of their own in [Container]:
// Config is a [ContainerConfig] and HostConfig a [HostConfig], in the field names of the Docker Engine API. Version is
// the Engine API version the container asks for; empty means the agent's default.
//
// The strings may hold any member of the Engine API's objects. The two types here hold what Longshore writes and reads;
// an agent refuses, by name, a member that it does not know and whose value is not the neutral one.
type DockerConfig struct {
	Config     string `json:"config,omitempty"`
	HostConfig string `json:"hostConfig,omitempty"`
	Version    string `json:"version,omitempty"`
}

// ContainerConfig is the document in [DockerConfig].Config.
type ContainerConfig struct {
	User            string            `json:"User,omitempty"`
	WorkingDir      string            `json:"WorkingDir,omitempty"`
	Hostname        string            `json:"Hostname,omitempty"`
	NetworkDisabled bool              `json:"NetworkDisabled,omitempty"`
	OpenStdin       bool              `json:"OpenStdin,omitempty"`
	Tty             bool              `json:"Tty,omitempty"`
	Labels          map[string]string `json:"Labels,omitempty"`
	Healthcheck     *HealthConfig     `json:"Healthcheck,omitempty"`
	StopSignal      string            `json:"StopSignal,omitempty"`
}

// HealthConfig is a health check; durations are nanoseconds.
type HealthConfig struct {
	Test        []string `json:"Test,omitempty"`
	Interval    int64    `json:"Interval,omitempty"`
	Timeout     int64    `json:"Timeout,omitempty"`
	StartPeriod int64    `json:"StartPeriod,omitempty"`
	Retries     int64    `json:"Retries,omitempty"`
}

// HostConfig is the document in [DockerConfig].HostConfig. Sizes are bytes.
type HostConfig struct {
	NetworkMode       string            `json:"NetworkMode,omitempty"`
	PidMode           string            `json:"PidMode,omitempty"`
	IpcMode           string            `json:"IpcMode,omitempty"`
	Privileged        bool              `json:"Privileged,omitempty"`
	ReadonlyRootfs    bool              `json:"ReadonlyRootfs,omitempty"`
	MemoryReservation int64             `json:"MemoryReservation,omitempty"`
	MemorySwap        int64             `json:"MemorySwap,omitempty"`
	MemorySwappiness  *int64            `json:"MemorySwappiness,omitempty"`
	CapAdd            []string          `json:"CapAdd,omitempty"`
	CapDrop           []string          `json:"CapDrop,omitempty"`
	Devices           []DeviceMapping   `json:"Devices,omitempty"`
	Init              *bool             `json:"Init,omitempty"`
	ShmSize           int64             `json:"ShmSize,omitempty"`
	Tmpfs             map[string]string `json:"Tmpfs,omitempty"`
	Ulimits           []Ulimit          `json:"Ulimits,omitempty"`
	Sysctls           map[string]string `json:"Sysctls,omitempty"`
	DNS               []string          `json:"Dns,omitempty"`
	DNSSearch         []string          `json:"DnsSearch,omitempty"`
	ExtraHosts        []string          `json:"ExtraHosts,omitempty"`
	SecurityOpt       []string          `json:"SecurityOpt,omitempty"`
	LogConfig         *LogConfig        `json:"LogConfig,omitempty"`
}

// LogConfig is where a container's output goes.
type LogConfig struct {
	Type   string            `json:"Type,omitempty"`
	Config map[string]string `json:"Config,omitempty"`
}

// DeviceMapping is a device of the host in a container.
type DeviceMapping struct {
	PathOnHost        string `json:"PathOnHost"`
	PathInContainer   string `json:"PathInContainer"`
	CgroupPermissions string `json:"CgroupPermissions"`
}

// Ulimit is a resource limit.
type Ulimit struct {
	Name string `json:"Name"`
	Soft int64  `json:"Soft"`
	Hard int64  `json:"Hard"`
}
