package engine

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/containerd/errdefs"

	"github.com/longshore-project/longshore/engine/firelens"
	"github.com/longshore-project/longshore/protocol/acs"
)

// Desired statuses in the order in which they may follow each other (agent protocol §4.1).
var desiredRank = map[string]int{"NONE": 0, "MANIFEST_PULLED": 1, "CREATED": 2, "RUNNING": 3, "STOPPED": 4}

// Statuses as they are reported.
const (
	statusPending = "PENDING"
	statusRunning = "RUNNING"
	statusStopped = "STOPPED"
)

// ParseDesired reads a desiredStatus of the wire, with its aliases.
func ParseDesired(s string) (string, error) {
	switch s {
	case "UNKNOWN":
		return "NONE", nil
	case "DEAD":
		return statusStopped, nil
	}
	if _, ok := desiredRank[s]; !ok {
		return "", fmt.Errorf("unrecognized desiredStatus %q", s)
	}
	return s, nil
}

// UnrecognizedTaskError says that a task of a payload can't be understood, or asks by name for something that this
// agent doesn't do. Nothing of the task was kept. Its class is InvalidArgument; its text is the detail that ECS puts
// behind "UnrecogniedTaskError: Error loading task - " (sic) in the reason of the STOPPED that is reported for the task.
type UnrecognizedTaskError struct {
	TaskArn string
	Detail  string
}

func (e *UnrecognizedTaskError) Error() string { return e.Detail }

// Unwrap gives the error its class.
func (e *UnrecognizedTaskError) Unwrap() error { return errdefs.ErrInvalidArgument }

// Task is a task as it is desired: parsed once from its payload and never changed.
type Task struct {
	Arn        string
	Cluster    string
	Family     string
	Version    string
	Containers []*Container // in the payload's order
	Need       Need
	// Doom is why a task that could be read can never run; it is accepted and then STOPPED with this reason.
	Doom string
	// Daemon says that a DAEMON service of Longshore's control plane wants it on this host as long as the host is there.
	Daemon bool
	// Warnings are remarks for the timeline.
	Warnings []string

	volumes map[string]*acs.Volume
	payload *acs.Task

	routed *Container       // the log router; nil without FireLens
	router *firelens.Router // its configuration
}

// Container is one container of a [Task].
type Container struct {
	Name         string
	Image        string
	Essential    bool
	DependsOn    []Dependency // dependsOn, links and volumesFrom, all
	StartTimeout time.Duration
	StopTimeout  time.Duration // 0: the engine's default
	Restart      *RestartPolicy
	NetworkMode  string // bridge, host, none or awsvpc
	Ports        []Port // bridge: to publish; host: what it listens on
	GPUs         []string
	Ranges       []PortRange // bridge: containerPortRanges to publish
	Binds        bool        // has bind mounts of its own or by volumesFrom
	Volumes      bool        // mounts volumes that the agent makes on the engine

	outputSecrets bool // a log router whose outputs have options that are secrets

	index      int
	config     acs.ContainerConfig
	hostConfig acs.HostConfig
	command    []string
	payload    *acs.Container
}

// Condition is what a dependency must have reached.
type Condition string

// The conditions of dependsOn, and Created, which volumesFrom needs, and Network: the namespace that Container owns is right.
const (
	ConditionCreated  Condition = "CREATED"
	ConditionStart    Condition = "START"
	ConditionComplete Condition = "COMPLETE"
	ConditionSuccess  Condition = "SUCCESS"
	ConditionHealthy  Condition = "HEALTHY"
	ConditionNetwork  Condition = "NETWORK"
)

// Dependency holds a container back until Container meets Condition.
type Dependency struct {
	Container string    `json:"container"`
	Condition Condition `json:"condition"`
}

// RestartPolicy starts a container that has exited again in place.
type RestartPolicy struct {
	Ignored []int         `json:"ignored,omitempty"` // exit codes that are final
	Period  time.Duration `json:"period,omitempty"`  // a run shorter than this is final
}

// Need is what a task takes of the host.
type Need struct {
	CPU    int64     `json:"cpu,omitempty"`    // units
	Memory int64     `json:"memory,omitempty"` // MiB
	Ports  []PortKey `json:"ports,omitempty"`  // static host ports
	GPUs   []string  `json:"gpus,omitempty"`
}

// PortKey is a port of the host.
type PortKey struct {
	Port     int32  `json:"port"`
	Protocol string `json:"protocol"` // tcp or udp
}

// String is "80/tcp".
func (k PortKey) String() string { return fmt.Sprintf("%d/%s", k.Port, k.Protocol) }

func (t *Task) container(name string) *Container {
	for _, c := range t.Containers {
		if c.Name == name {
			return c
		}
	}
	return nil
}

// maxArn is the longest ARN of a task that is taken; it is a key of the state database.
const maxArn = 2048

// ParseTask reads a payload. Its error is an [*UnrecognizedTaskError]. What can be read but can never work on this host
// is a Task with Doom.
func ParseTask(p *acs.Task, host Host) (*Task, error) {
	t, err := parseTask(p, host)
	if err != nil {
		return nil, &UnrecognizedTaskError{TaskArn: p.Arn, Detail: err.Error()}
	}
	return t, nil
}

func parseTask(p *acs.Task, host Host) (*Task, error) {
	if p.Arn == "" || len(p.Arn) > maxArn {
		return nil, fmt.Errorf("the task's arn has %d characters; it needs 1 to %d", len(p.Arn), maxArn)
	}
	if err := sane("the task's memory", p.Memory); err != nil {
		return nil, err
	}
	if p.CPU < 0 || p.CPU > 1<<20 {
		return nil, fmt.Errorf("the task's cpu %g is out of bounds", p.CPU)
	}
	if err := unsupportedInTask(p); err != nil {
		return nil, err
	}
	desired, err := ParseDesired(p.DesiredStatus)
	if err != nil {
		return nil, err
	}
	if len(p.Containers) == 0 && desired != statusStopped {
		return nil, fmt.Errorf("the task has no containers")
	}
	t := &Task{Arn: p.Arn, Cluster: p.TaskClusterArn, Family: p.Family, Version: p.Version,
		volumes: map[string]*acs.Volume{}, payload: withoutCredentials(p), Daemon: p.SchedulingStrategy == schedulingDaemon}
	if t.Cluster == "" {
		t.Cluster = host.Cluster
	}
	for i, v := range p.Volumes {
		if err := checkVolume(v, host); err != nil {
			return nil, fmt.Errorf("volumes[%d]: %w", i, err)
		}
		if t.volumes[v.Name] != nil {
			return nil, fmt.Errorf("volumes[%d]: the name %q is used twice", i, v.Name)
		}
		t.volumes[v.Name] = v
	}
	for i, pc := range p.Containers {
		if pc == nil || pc.Name == "" {
			return nil, fmt.Errorf("containers[%d] has no name", i)
		}
		if t.container(pc.Name) != nil {
			return nil, fmt.Errorf("containers[%d]: the name %q is used twice", i, pc.Name)
		}
		c, err := parseContainer(t, pc)
		if err != nil {
			return nil, fmt.Errorf("container %s: %w", pc.Name, err)
		}
		c.index = i
		t.Containers = append(t.Containers, c)
	}
	if err := routing(t, host); err != nil {
		return nil, err
	}
	if err := addPauses(t); err != nil {
		return nil, err
	}
	t.Need = needOf(t)
	if err := pinGPUs(t, host); err != nil {
		return nil, err
	}
	t.Doom = doomOf(t, host)
	for _, c := range t.Containers {
		c.Binds, c.Volumes = hasBinds(t, c, map[string]bool{}), keepsVolumes(t, c)
	}
	return t, nil
}

func unsupportedInTask(p *acs.Task) error {
	switch {
	case p.ProxyConfiguration != nil:
		return fmt.Errorf("proxyConfiguration is not supported")
	case len(p.Attachments) > 0:
		return fmt.Errorf("attachments (%s) are not supported", p.Attachments[0].AttachmentType)
	case p.EnableFaultInjection:
		return fmt.Errorf("enableFaultInjection is not supported")
	case p.PidMode != "" && p.PidMode != "host" && p.PidMode != modeTask:
		return fmt.Errorf("pidMode %q is not supported; use host or task, or leave it out", p.PidMode)
	case p.IpcMode != "" && p.IpcMode != "host" && p.IpcMode != "none" && p.IpcMode != modeTask:
		return fmt.Errorf("ipcMode %q is not supported; use host, task or none, or leave it out", p.IpcMode)
	}
	if awsvpc(p) {
		return interfaces(p)
	}
	return networkMode(p.NetworkMode)
}

func networkMode(mode string) error {
	switch mode {
	case "", "default", "bridge", "host", "none":
		return nil
	}
	return fmt.Errorf("networkMode %q is not supported; use bridge, host, none or awsvpc", mode)
}

// withoutCredentials is the payload as it may be stored: role credentials live in memory only. What they are asked for by
// stays, as containers have it in their environment.
func withoutCredentials(p *acs.Task) *acs.Task {
	c := *p
	c.RoleCredentials, c.ExecutionRoleCredentials = credentialsID(p.RoleCredentials), credentialsID(p.ExecutionRoleCredentials)
	return &c
}

func credentialsID(c *acs.IAMRoleCredentials) *acs.IAMRoleCredentials {
	if c == nil || c.CredentialsID == "" {
		return nil
	}
	return &acs.IAMRoleCredentials{CredentialsID: c.CredentialsID}
}

// needOf is what the control plane reserves for the task (ECS: task-level values, else the sum of the containers').
func needOf(t *Task) Need {
	var n Need
	seen := map[PortKey]bool{}
	for _, c := range t.Containers {
		n.CPU += c.payload.CPU
		if r := c.hostConfig.MemoryReservation; r > 0 {
			n.Memory += (r + 1<<20 - 1) >> 20
		} else {
			n.Memory += c.payload.Memory
		}
		for _, p := range c.Ports {
			if k := (PortKey{p.Host, p.Protocol}); p.Host != 0 && !seen[k] {
				seen[k] = true
				n.Ports = append(n.Ports, k)
			}
		}
	}
	if t.payload.CPU > 0 {
		n.CPU = int64(t.payload.CPU * 1024)
	}
	if t.payload.Memory > 0 {
		n.Memory = t.payload.Memory
	}
	return n
}

// doomOf says why the task as it was read can never run here; empty if it may.
func doomOf(t *Task, host Host) string {
	published := map[PortKey]string{}
	for _, c := range t.Containers {
		for _, d := range c.DependsOn {
			if t.container(d.Container) == nil {
				return fmt.Sprintf("TaskDependencyError: container %s depends on container %s, which the task does not have", c.Name, d.Container)
			}
		}
		if host.DisablePrivileged && c.hostConfig.Privileged {
			return fmt.Sprintf("HostConfigError: container %s asks for privileged, which this host forbids (ECS_DISABLE_PRIVILEGED)", c.Name)
		}
		if m := t.payload.Memory; m > 0 && c.payload.Memory > m {
			return fmt.Sprintf("ResourceInitializationError: container %s asks for %d MiB of memory, more than the task's %d MiB", c.Name, c.payload.Memory, m)
		}
		for _, p := range c.Ports {
			k := PortKey{p.Host, p.Protocol}
			if p.Host == 0 {
				continue
			}
			if other := published[k]; other != "" && other != c.Name {
				return fmt.Sprintf("CannotCreateContainerError: containers %s and %s of the task both ask for host port %s", other, c.Name, k)
			}
			published[k] = c.Name
		}
	}
	if cyclic(t) {
		return "Task dependencies cannot be resolved, taskArn: " + t.Arn
	}
	return ""
}

func cyclic(t *Task) bool {
	const visiting, done = 1, 2
	state := map[string]int{}
	var visit func(name string) bool
	visit = func(name string) bool {
		switch state[name] {
		case visiting:
			return true
		case done:
			return false
		}
		state[name] = visiting
		for _, d := range t.container(name).DependsOn {
			if visit(d.Container) {
				return true
			}
		}
		state[name] = done
		return false
	}
	for _, c := range t.Containers {
		if visit(c.Name) {
			return true
		}
	}
	return false
}

func hasBinds(t *Task, c *Container, seen map[string]bool) bool {
	if seen[c.Name] {
		return false
	}
	seen[c.Name] = true
	for _, m := range c.payload.MountPoints {
		if v := t.volumes[m.SourceVolume]; v != nil && hostPath(v) != "" {
			return true
		}
	}
	for _, from := range c.payload.VolumesFrom {
		if o := t.container(from.SourceContainer); o != nil && hasBinds(t, o, seen) {
			return true
		}
	}
	return false
}

// commandOverride reads the only override that agents know.
func commandOverride(overrides string) ([]string, error) {
	if overrides == "" {
		return nil, nil
	}
	var doc map[string]json.RawMessage
	if err := json.Unmarshal([]byte(overrides), &doc); err != nil {
		return nil, fmt.Errorf("overrides is not a JSON object: %w", err)
	}
	var command []string
	for k, raw := range doc {
		if k != "command" {
			return nil, fmt.Errorf("overrides: unrecognized member %q; only command is understood here", k)
		}
		if err := json.Unmarshal(raw, &command); err != nil {
			return nil, fmt.Errorf("overrides.command: %w", err)
		}
	}
	return command, nil
}
