package metadata

import (
	"encoding/json"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/longshore-project/longshore/engine"
	"github.com/longshore-project/longshore/protocol/acs"
)

// The shapes of the answers, in ECS's names. What is marked v4 is in version 4 only.

// Task is a task.
type Task struct {
	Cluster               string
	TaskARN               string
	Family                string
	Revision              string
	DesiredStatus         string `json:",omitempty"`
	KnownStatus           string
	Limits                *Limits           `json:",omitempty"`
	PullStartedAt         *time.Time        `json:",omitempty"`
	PullStoppedAt         *time.Time        `json:",omitempty"`
	ExecutionStoppedAt    *time.Time        `json:",omitempty"`
	AvailabilityZone      string            `json:",omitempty"`
	TaskTags              map[string]string `json:",omitempty"`
	ContainerInstanceTags map[string]string `json:",omitempty"`
	LaunchType            string            `json:",omitempty"` // v4
	Errors                []TagError        `json:",omitempty"` // v4
	Containers            []Container       `json:",omitempty"`
	VPCID                 string            `json:",omitempty"` // v4
	ServiceName           string            `json:",omitempty"` // v4
	FaultInjectionEnabled *bool             `json:",omitempty"` // v4, always
	AvailabilityZoneID    string            `json:",omitempty"` // v4
}

// Container is one of its containers.
type Container struct {
	DockerID      string `json:"DockerId"`
	Name          string
	DockerName    string
	Image         string
	ImageID       string
	Ports         []Port            `json:",omitempty"`
	Labels        map[string]string `json:",omitempty"`
	DesiredStatus string
	KnownStatus   string
	ExitCode      *int `json:",omitempty"`
	Limits        Limits
	CreatedAt     *time.Time `json:",omitempty"`
	StartedAt     *time.Time `json:",omitempty"`
	FinishedAt    *time.Time `json:",omitempty"`
	Type          string
	Health        *Health           `json:",omitempty"`
	Volumes       []Volume          `json:",omitempty"`
	LogDriver     string            `json:",omitempty"` // v4
	LogOptions    map[string]string `json:",omitempty"` // v4
	ContainerARN  string            `json:",omitempty"` // v4
	Networks      []Network         `json:",omitempty"`
	RestartCount  *int              `json:",omitempty"` // v4, with a restart policy
}

// Limits are the task's in vCPU, or the container's in CPU shares, and in MiB.
type Limits struct {
	CPU    *float64 `json:",omitempty"`
	Memory *int64   `json:",omitempty"`
}

// Port is a published port.
type Port struct {
	ContainerPort int32  `json:",omitempty"`
	Protocol      string `json:",omitempty"`
	HostPort      int32  `json:",omitempty"`
	HostIP        string `json:"HostIp,omitempty"` // v4
}

// Health is the outcome of a container's health check; Status is empty while it is not known.
type Health struct {
	Status   string     `json:"status,omitempty"`
	Since    *time.Time `json:"statusSince,omitempty"`
	ExitCode int        `json:"exitCode,omitempty"`
	Output   string     `json:"output,omitempty"`
}

// Volume is a mount.
type Volume struct {
	DockerName  string `json:",omitempty"`
	Source      string `json:",omitempty"`
	Destination string `json:",omitempty"`
}

// Network is one that the container is in. All but the first three are of the awsvpc network mode, and of v4.
type Network struct {
	NetworkMode   string   `json:",omitempty"`
	IPv4Addresses []string `json:",omitempty"`
	IPv6Addresses []string `json:",omitempty"`

	AttachmentIndex          *int     `json:",omitempty"`
	MACAddress               string   `json:",omitempty"`
	IPv4SubnetCIDRBlock      string   `json:",omitempty"`
	IPv6SubnetCIDRBlock      string   `json:",omitempty"`
	DomainNameServers        []string `json:",omitempty"`
	DomainNameSearchList     []string `json:",omitempty"`
	PrivateDNSName           string   `json:",omitempty"`
	SubnetGatewayIPv4Address string   `json:"SubnetGatewayIpv4Address,omitempty"`
	SubnetGatewayIPv6Address string   `json:"SubnetGatewayIpv6Address,omitempty"`
}

// TagError says why tags are missing.
type TagError struct {
	ErrorField   string `json:",omitempty"`
	ErrorCode    string `json:",omitempty"`
	ErrorMessage string `json:",omitempty"`
	StatusCode   int    `json:",omitempty"`
	RequestID    string `json:"RequestId,omitempty"`
	ResourceARN  string `json:",omitempty"`
}

func (s *Server) shapeTask(t *engine.TaskStatus, four bool) *Task {
	cluster, _ := s.cfg.Instance()
	place := s.cfg.Place()
	out := &Task{
		Cluster: cluster, TaskARN: t.Arn, Family: t.Family, Revision: t.Version, DesiredStatus: t.Desired, KnownStatus: statusOf(t), AvailabilityZone: place.Zone,
		PullStartedAt: moment(t.PullStartedAt), PullStoppedAt: moment(t.PullStoppedAt), ExecutionStoppedAt: moment(t.ExecutionStoppedAt),
	}
	if p := t.Payload; p != nil {
		if p.CPU != 0 || p.Memory != 0 {
			out.Limits = &Limits{}
			if p.CPU != 0 {
				out.Limits.CPU = &p.CPU
			}
			if p.Memory != 0 {
				out.Limits.Memory = &p.Memory
			}
		}
	}
	if four {
		out.VPCID, out.AvailabilityZoneID = place.VPC, place.ZoneID
		fault := false
		if p := t.Payload; p != nil {
			out.LaunchType, out.ServiceName, fault = p.LaunchType, p.ServiceName, p.EnableFaultInjection
		}
		out.FaultInjectionEnabled = &fault
	}
	for i := range t.Pauses {
		if c := &t.Pauses[i]; c.RuntimeID != "" {
			shaped := s.shapeContainer(t, c, four)
			shaped.Type = "CNI_PAUSE"
			if strings.HasSuffix(c.Name, "~namespace") {
				shaped.Type = "NAMESPACE_PAUSE"
			}
			out.Containers = append(out.Containers, *shaped)
		}
	}
	for i := range t.Containers {
		c := &t.Containers[i]
		if c.RuntimeID != "" || four && c.Known == "PULLED" {
			out.Containers = append(out.Containers, *s.shapeContainer(t, c, four))
		}
	}
	return out
}

// statusOf is a task's status in the agent's words, which are finer than the control plane's: a task that is PENDING there
// is as far as its last container.
func statusOf(t *engine.TaskStatus) string {
	if t.Known != "PENDING" {
		return t.Known
	}
	order := []string{"NONE", "PULLED", "CREATED", "RUNNING", "STOPPED"}
	at := len(order) - 1
	for i := range t.Containers {
		at = min(at, max(0, slices.Index(order, t.Containers[i].Known)))
	}
	return order[at]
}

// leastShares is what a container has at the least: fewer are not possible.
const leastShares = 2

func (s *Server) shapeContainer(t *engine.TaskStatus, c *engine.ContainerStatus, four bool) *Container {
	cpu, memory := float64(leastShares), int64(0)
	out := &Container{
		DockerID: c.RuntimeID, Name: c.Name, DockerName: c.RuntimeName, Image: c.Image, ImageID: c.ImageID, Labels: labels(c.Labels),
		DesiredStatus: t.Desired, KnownStatus: c.Known, ExitCode: c.ExitCode, Limits: Limits{&cpu, &memory}, Type: "NORMAL",
		CreatedAt: moment(c.CreatedAt), StartedAt: moment(c.StartedAt), FinishedAt: moment(c.FinishedAt), Health: health(&c.Health), Ports: ports(c, four),
	}
	for _, m := range c.Mounts {
		v := Volume{Source: m.Source, Destination: m.Target}
		if m.Type == "volume" {
			v.DockerName, v.Source = m.Source, m.Path
		}
		out.Volumes = append(out.Volumes, v)
	}
	if c.RuntimeID != "" {
		out.Networks = networks(t, c, four)
	} else {
		out.DockerName = ""
	}
	p := definition(t, c.Name)
	if p == nil {
		return out
	}
	cpu, memory = max(float64(p.CPU), leastShares), p.Memory
	if four {
		out.ContainerARN = p.ContainerArn
		out.LogDriver, out.LogOptions = logging(p)
		if p.RestartPolicy != nil && p.RestartPolicy.Enabled {
			out.RestartCount = &c.Restarts
		}
	}
	return out
}

func definition(t *engine.TaskStatus, name string) *acs.Container {
	if t.Payload == nil {
		return nil
	}
	for _, p := range t.Payload.Containers {
		if p != nil && p.Name == name {
			return p
		}
	}
	return nil
}

// labels are the container's without those that only the agent reads.
func labels(all map[string]string) map[string]string {
	out := map[string]string{}
	for k, v := range all {
		if !strings.HasPrefix(k, "longshore.") {
			out[k] = v
		}
	}
	return out
}

func health(h *engine.Health) *Health {
	switch h.Status {
	case "":
		return nil
	case "UNKNOWN":
		return &Health{ExitCode: h.ExitCode, Output: h.Output}
	}
	return &Health{Status: h.Status, Since: moment(h.Since), ExitCode: h.ExitCode, Output: h.Output}
}

func ports(c *engine.ContainerStatus, four bool) []Port {
	var out []Port
	for _, b := range bindings(c) {
		p := Port{ContainerPort: b.ContainerPort, Protocol: b.Protocol, HostPort: b.HostPort}
		if four {
			p.HostIP = b.BindIP
		}
		out = append(out, p)
	}
	return out
}

// bindings are a container's, port by port.
func bindings(c *engine.ContainerStatus) []engine.NetworkBinding {
	var out []engine.NetworkBinding
	for _, b := range c.Bindings {
		out = append(out, b.Ports()...)
	}
	return out
}

// networks are those of a container. One without an address of its own has an empty one, as in ECS.
func networks(t *engine.TaskStatus, c *engine.ContainerStatus, four bool) []Network {
	mode := c.NetworkMode
	if t.Payload != nil && t.Payload.NetworkMode == "awsvpc" && len(t.Payload.ElasticNetworkInterfaces) > 0 && t.Payload.ElasticNetworkInterfaces[0] != nil {
		return []Network{elastic(t.Payload.ElasticNetworkInterfaces[0], four)}
	}
	if mode == "" && t.Payload != nil {
		mode = t.Payload.NetworkMode
	}
	if mode == "" || mode == "default" {
		mode = "bridge"
	}
	n := Network{NetworkMode: mode}
	for _, a := range c.Addresses {
		if strings.Contains(a, ":") {
			n.IPv6Addresses = append(n.IPv6Addresses, a)
		} else {
			n.IPv4Addresses = append(n.IPv4Addresses, a)
		}
	}
	if len(c.Addresses) == 0 {
		n.IPv4Addresses = []string{""}
	}
	return []Network{n}
}

// elastic is the network interface of a task in the awsvpc network mode.
func elastic(e *acs.ElasticNetworkInterface, four bool) Network {
	n := Network{NetworkMode: "awsvpc"}
	for _, a := range e.IPv4Addresses {
		if a != nil {
			n.IPv4Addresses = append(n.IPv4Addresses, a.PrivateAddress)
		}
	}
	for _, a := range e.IPv6Addresses {
		if a != nil {
			n.IPv6Addresses = append(n.IPv6Addresses, a.Address)
		}
	}
	if !four {
		return n
	}
	index := 0
	n.AttachmentIndex, n.MACAddress, n.DomainNameServers, n.DomainNameSearchList, n.PrivateDNSName = &index, e.MacAddress, e.DomainNameServers, e.DomainName, e.PrivateDNSName
	n.SubnetGatewayIPv4Address = e.SubnetGatewayIpv4Address
	if len(n.IPv4Addresses) == 0 {
		n.SubnetGatewayIPv6Address = e.SubnetGatewayIpv6Address
	}
	n.IPv4SubnetCIDRBlock = block(e.SubnetGatewayIpv4Address)
	if len(n.IPv6Addresses) > 0 {
		if a, err := netip.ParseAddr(n.IPv6Addresses[0]); err == nil {
			n.IPv6SubnetCIDRBlock = netip.PrefixFrom(a, 64).Masked().String()
		}
	}
	return n
}

// block is the network of an address with its prefix length.
func block(cidr string) string {
	p, err := netip.ParsePrefix(cidr)
	if err != nil {
		return ""
	}
	return p.Masked().String()
}

// logging is where the container's output goes, by its definition; secret options are not in it.
func logging(p *acs.Container) (driver string, options map[string]string) {
	if p.DockerConfig == nil || p.DockerConfig.HostConfig == "" {
		return "", nil
	}
	var host struct{ LogConfig *acs.LogConfig }
	if json.Unmarshal([]byte(p.DockerConfig.HostConfig), &host) != nil || host.LogConfig == nil {
		return "", nil
	}
	return host.LogConfig.Type, host.LogConfig.Config
}

func moment(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}
