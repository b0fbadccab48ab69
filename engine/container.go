package engine

import (
	"fmt"
	"strings"
	"time"

	"github.com/longshore-project/longshore/protocol/acs"
)

func parseContainer(t *Task, p *acs.Container) (*Container, error) {
	if p.Image == "" {
		return nil, fmt.Errorf("it has no image")
	}
	if err := unsupportedInContainer(p); err != nil {
		return nil, err
	}
	if err := checkSecrets(p); err != nil {
		return nil, err
	}
	c := &Container{Name: p.Name, Image: p.Image, Essential: p.Essential, payload: p,
		StartTimeout: time.Duration(p.StartTimeout) * time.Second, StopTimeout: time.Duration(p.StopTimeout) * time.Second}
	var err error
	if c.config, c.hostConfig, err = decodeDockerConfig(p.DockerConfig); err != nil {
		return nil, err
	}
	if r := c.hostConfig.MemoryReservation; r < 0 || r > 1<<51 {
		return nil, fmt.Errorf("dockerConfig.hostConfig.MemoryReservation %d is out of bounds", r)
	}
	override, err := commandOverride(p.Overrides)
	if err != nil {
		return nil, err
	}
	if c.command = p.Command; override != nil {
		c.command = override
	}
	if r := p.RestartPolicy; r != nil && r.Enabled {
		c.Restart = &RestartPolicy{Period: time.Duration(r.RestartAttemptPeriod) * time.Second}
		if r.RestartAttemptPeriod == 0 {
			c.Restart.Period = 300 * time.Second
		}
		for _, code := range r.IgnoredExitCodes {
			c.Restart.Ignored = append(c.Restart.Ignored, int(code))
		}
	}
	if err := joinModes(t, c); err != nil {
		return nil, err
	}
	if c.DependsOn, err = dependencies(p); err != nil {
		return nil, err
	}
	if err := checkMounts(t, p); err != nil {
		return nil, err
	}
	c.Ports, c.Ranges, err = portsOf(c)
	return c, err
}

func unsupportedInContainer(p *acs.Container) error {
	switch {
	case len(p.ManagedAgents) > 0:
		return fmt.Errorf("managedAgents (%s) are not supported", p.ManagedAgents[0].Name)
	case len(p.CredentialSpecs) > 0:
		return fmt.Errorf("credentialSpecs are not supported on Linux")
	case p.LogsAuthStrategy != "" && p.LogsAuthStrategy != "None" && p.LogsAuthStrategy != LogsByExecutionRole:
		return fmt.Errorf("logsAuthStrategy %q is not supported", p.LogsAuthStrategy)
	case p.HealthCheckType != "" && !strings.EqualFold(p.HealthCheckType, "docker"):
		return fmt.Errorf("healthCheckType %q is not supported; use docker", p.HealthCheckType)
	}
	for name, v := range map[string]int64{"startTimeout": p.StartTimeout, "stopTimeout": p.StopTimeout, "cpu": p.CPU, "memory": p.Memory} {
		if err := sane(name, v); err != nil {
			return err
		}
	}
	if r := p.RestartPolicy; r != nil {
		return sane("restartAttemptPeriod", r.RestartAttemptPeriod)
	}
	return nil
}

// sane bounds seconds, cpu units and MiB to what can be computed with.
func sane(name string, v int64) error {
	if v < 0 || v > 1<<31 {
		return fmt.Errorf("%s %d is out of bounds (0 to %d)", name, v, int64(1)<<31)
	}
	return nil
}

// joinModes settles the network, pid and ipc modes, which a payload may say for the task and in the host configuration.
// The latter decides, as it does for an engine.
func joinModes(t *Task, c *Container) error {
	mode := c.hostConfig.NetworkMode
	if mode == "" {
		mode = t.payload.NetworkMode
	}
	if awsvpc(t.payload) { // whatever the container says: its task has one namespace
		if err := ofTheTask(c); err != nil {
			return err
		}
		mode = modeAwsvpc
	} else if err := networkMode(mode); err != nil {
		return err
	}
	if mode == "" || mode == "default" {
		mode = "bridge"
	}
	c.NetworkMode = mode
	if c.hostConfig.PidMode == "" {
		c.hostConfig.PidMode = t.payload.PidMode
	}
	if c.hostConfig.IpcMode == "" {
		c.hostConfig.IpcMode = t.payload.IpcMode
	}
	if len(c.payload.Links) > 0 && mode != "bridge" {
		return fmt.Errorf("links need networkMode bridge, and it is %s", mode)
	}
	return nil
}

func dependencies(p *acs.Container) ([]Dependency, error) {
	var deps []Dependency
	for i, d := range p.DependsOn {
		if d == nil || d.ContainerName == "" {
			return nil, fmt.Errorf("dependsOn[%d] names no container", i)
		}
		switch condition := Condition(strings.ToUpper(d.Condition)); condition {
		case ConditionStart, ConditionComplete, ConditionSuccess, ConditionHealthy:
			deps = append(deps, Dependency{d.ContainerName, condition})
		default:
			return nil, fmt.Errorf("dependsOn[%d]: unrecognized condition %q", i, d.Condition)
		}
	}
	for i, link := range p.Links {
		name, _, _ := strings.Cut(link, ":")
		if name == "" {
			return nil, fmt.Errorf("links[%d] %q names no container", i, link)
		}
		deps = append(deps, Dependency{name, ConditionStart})
	}
	for i, v := range p.VolumesFrom {
		if v == nil || v.SourceContainer == "" {
			return nil, fmt.Errorf("volumesFrom[%d] names no container", i)
		}
		deps = append(deps, Dependency{v.SourceContainer, ConditionCreated})
	}
	return deps, nil
}

func checkMounts(t *Task, p *acs.Container) error {
	for i, m := range p.MountPoints {
		switch {
		case m == nil || m.SourceVolume == "":
			return fmt.Errorf("mountPoints[%d] names no volume", i)
		case t.volumes[m.SourceVolume] == nil:
			return fmt.Errorf("mountPoints[%d]: the task has no volume %q", i, m.SourceVolume)
		case !strings.HasPrefix(m.ContainerPath, "/"):
			return fmt.Errorf("mountPoints[%d]: containerPath %q is not absolute", i, m.ContainerPath)
		}
	}
	return nil
}

// portsOf reads port mappings. In host mode the container's port is the host's; without a network there is none.
func portsOf(c *Container) (ports []Port, ranges []PortRange, err error) {
	for i, m := range c.payload.PortMappings {
		if m == nil {
			return nil, nil, fmt.Errorf("portMappings[%d] is null", i)
		}
		protocol := strings.ToLower(m.Protocol)
		if protocol == "" {
			protocol = "tcp"
		}
		switch {
		case protocol != "tcp" && protocol != "udp":
			return nil, nil, fmt.Errorf("portMappings[%d]: protocol %q is neither tcp nor udp", i, m.Protocol)
		case m.ContainerPortRange != "":
			r, err := parseRange(m, protocol, c.NetworkMode)
			if err != nil {
				return nil, nil, fmt.Errorf("portMappings[%d]: %w", i, err)
			}
			ranges = append(ranges, r)
			continue
		case m.ContainerPort < 1 || m.ContainerPort > 65535:
			return nil, nil, fmt.Errorf("portMappings[%d]: containerPort %d is not a port", i, m.ContainerPort)
		case m.HostPort < 0 || m.HostPort > 65535:
			return nil, nil, fmt.Errorf("portMappings[%d]: hostPort %d is not a port", i, m.HostPort)
		}
		port := Port{Container: int32(m.ContainerPort), Host: int32(m.HostPort), Protocol: protocol}
		switch c.NetworkMode {
		case "host":
			if m.HostPort != 0 && m.HostPort != m.ContainerPort {
				return nil, nil, fmt.Errorf("portMappings[%d]: in networkMode host hostPort %d must be containerPort %d", i, m.HostPort, m.ContainerPort)
			}
			port.Host = port.Container
		case "none":
			return nil, nil, fmt.Errorf("portMappings[%d]: networkMode none has no ports", i)
		case modeAwsvpc: // the ports are those of the task's own addresses: nothing is published
			if m.HostPort != 0 && m.HostPort != m.ContainerPort {
				return nil, nil, fmt.Errorf("portMappings[%d]: in networkMode awsvpc hostPort %d must be containerPort %d", i, m.HostPort, m.ContainerPort)
			}
			continue
		}
		ports = append(ports, port)
	}
	return ports, ranges, nil
}
