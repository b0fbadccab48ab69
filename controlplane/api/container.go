package api

import (
	"net/netip"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"
)

const (
	minContainerMemory = 6 // MiB; what Docker needs
	maxIgnoredCodes    = 50
)

var imagePattern = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_\-:/.@#+]{0,999}$`)

// checkContainer holds one container to ECS's rules that need no other container.
func checkContainer(d *types.TaskDefinition, c *types.ContainerDefinition) error {
	name := aws.ToString(c.Name)
	switch image := aws.ToString(c.Image); {
	case name == "":
		return clientError("Container.name should not be null or empty.")
	case !namePattern.MatchString(name):
		return clientError("Container name %.300q is invalid: it must be 1 to 255 letters, digits, - and _.", name)
	case image == "":
		return clientError("Container.image should not be null or empty.")
	case !imagePattern.MatchString(image):
		return clientError("Container.image contains invalid characters: %.300q.", image)
	}
	for _, check := range []func(*types.TaskDefinition, *types.ContainerDefinition) error{
		checkContainerSize, checkPorts, checkMounts, checkNetworking, checkLogging, checkHealthCheck, checkLifecycle, checkProcess, checkLinux, checkResources, checkSecrets,
	} {
		if err := check(d, c); err != nil {
			return err
		}
	}
	return nil
}

// setting is the error about one member of one container, in ECS's words.
func setting(member string, c *types.ContainerDefinition, format string, args ...any) error {
	e := clientError(format, args...)
	e.Message = "Invalid '" + member + "' setting for container '" + *c.Name + "'. " + e.Message
	return e
}

func checkContainerSize(_ *types.TaskDefinition, c *types.ContainerDefinition) error {
	switch {
	case c.Cpu < 0:
		return setting("cpu", c, "It can't be negative, but was %d.", c.Cpu)
	case c.Memory != nil && *c.Memory < minContainerMemory:
		return setting("memory", c, "It must be at least %d MiB, but was %d.", minContainerMemory, *c.Memory)
	case c.MemoryReservation != nil && *c.MemoryReservation < minContainerMemory:
		return setting("memoryReservation", c, "It must be at least %d MiB, but was %d.", minContainerMemory, *c.MemoryReservation)
	case c.Memory != nil && c.MemoryReservation != nil && *c.Memory < *c.MemoryReservation:
		return clientError("Invalid setting for container '%s'. The 'memory' of %d MiB must be greater than the 'memoryReservation' of %d MiB.", *c.Name, *c.Memory, *c.MemoryReservation)
	}
	return nil
}

func checkPorts(d *types.TaskDefinition, c *types.ContainerDefinition) error {
	if d.NetworkMode == types.NetworkModeNone && len(c.PortMappings) > 0 {
		return clientError("When networkMode=none, container '%s' can't have port mappings.", *c.Name)
	}
	for _, m := range c.PortMappings {
		if m.ContainerPortRange != nil {
			if err := checkPortRange(d, c, m); err != nil {
				return err
			}
			continue
		}
		if m.ContainerPort == nil || *m.ContainerPort < 1 || *m.ContainerPort > 65535 {
			return clientError("Invalid 'containerPort' setting for container '%s'.", *c.Name)
		}
		if m.HostPort != nil && (*m.HostPort < 0 || *m.HostPort > 65535) {
			return clientError("Invalid 'hostPort' setting for container '%s'.", *c.Name)
		}
		if d.NetworkMode != types.NetworkModeBridge && aws.ToInt32(m.HostPort) != 0 && *m.HostPort != *m.ContainerPort {
			return clientError("When networkMode=%s, the host ports and container ports in port mappings must match.", d.NetworkMode)
		}
		if err := enumeration("portMappings.protocol", m.Protocol, m.Protocol.Values()); err != nil {
			return err
		}
		if err := enumeration("portMappings.appProtocol", m.AppProtocol, m.AppProtocol.Values()); err != nil {
			return err
		}
	}
	return checkPortOverlap(c)
}

func checkMounts(d *types.TaskDefinition, c *types.ContainerDefinition) error {
	for _, m := range c.MountPoints {
		volume := aws.ToString(m.SourceVolume)
		if !slices.ContainsFunc(d.Volumes, func(v types.Volume) bool { return aws.ToString(v.Name) == volume }) {
			return clientError("Unknown volume '%.300s'.", volume)
		}
		if target := aws.ToString(m.ContainerPath); !path.IsAbs(target) {
			return setting("mountPoints", c, "The containerPath of volume '%s' must be an absolute path, but was %.300q.", volume, target)
		}
	}
	return nil
}

// checkNetworking looks at what depends on the network mode.
func checkNetworking(d *types.TaskDefinition, c *types.ContainerDefinition) error {
	switch {
	case len(c.Links) > 0 && d.NetworkMode != types.NetworkModeBridge:
		return clientError("Links are not supported when networkMode=%s.", d.NetworkMode)
	case d.NetworkMode != types.NetworkModeAwsvpc:
	case aws.ToString(c.Hostname) != "":
		return clientError("The hostname of container '%s' is not supported when networkMode=awsvpc.", *c.Name)
	case len(c.ExtraHosts) > 0:
		return clientError("Extra hosts are not supported when networkMode=awsvpc.")
	}
	for _, h := range c.ExtraHosts {
		if _, err := netip.ParseAddr(aws.ToString(h.IpAddress)); err != nil || aws.ToString(h.Hostname) == "" {
			return setting("extraHosts", c, "Each needs a hostname and an IP address, but one was %.200q, %.200q.", aws.ToString(h.Hostname), aws.ToString(h.IpAddress))
		}
	}
	for _, x := range c.SystemControls {
		namespace := aws.ToString(x.Namespace)
		switch {
		case namespace == "":
			return setting("systemControls", c, "A namespace should not be null or empty.")
		case strings.HasPrefix(namespace, "net.") && d.NetworkMode == types.NetworkModeHost:
			return setting("systemControls", c, "%.200s can't be set when networkMode=host.", namespace)
		case !strings.HasPrefix(namespace, "net.") && (d.IpcMode == types.IpcModeHost || d.IpcMode == types.IpcModeTask):
			return setting("systemControls", c, "%.200s can't be set when ipcMode=%s.", namespace, d.IpcMode)
		}
	}
	return nil
}

func checkLogging(_ *types.TaskDefinition, c *types.ContainerDefinition) error {
	l := c.LogConfiguration
	if l == nil {
		return nil
	}
	if l.LogDriver == "" {
		return setting("logConfiguration", c, "The logDriver should not be null or empty.")
	}
	if err := enumeration("logConfiguration.logDriver", l.LogDriver, l.LogDriver.Values()); err != nil {
		return err
	}
	switch l.LogDriver {
	case types.LogDriverAwslogs:
		var missing []string
		for _, option := range []string{"awslogs-group", "awslogs-region"} {
			if l.Options[option] == "" {
				missing = append(missing, option)
			}
		}
		if missing != nil {
			return clientError("Log driver awslogs requires options: %s", strings.Join(missing, ", "))
		}
	}
	return nil
}

func checkHealthCheck(_ *types.TaskDefinition, c *types.ContainerDefinition) error {
	h := c.HealthCheck
	if h == nil {
		return nil
	}
	if len(h.Command) == 0 || !slices.Contains([]string{"CMD", "CMD-SHELL", "NONE"}, h.Command[0]) || len(h.Command) == 1 && h.Command[0] != "NONE" {
		return setting("healthCheck", c, "The command must start with CMD or CMD-SHELL, followed by what to run, or be NONE.")
	}
	for _, r := range []struct {
		member    string
		value     *int32
		low, high int32
	}{{"interval", h.Interval, 5, 300}, {"timeout", h.Timeout, 2, 60}, {"retries", h.Retries, 1, 10}, {"startPeriod", h.StartPeriod, 0, 300}} {
		if r.value != nil && (*r.value < r.low || *r.value > r.high) {
			return setting("healthCheck", c, "The %s must be between %d and %d, but was %d.", r.member, r.low, r.high, *r.value)
		}
	}
	return nil
}

// checkLifecycle looks at how a container is started again and stopped.
func checkLifecycle(_ *types.TaskDefinition, c *types.ContainerDefinition) error {
	if aws.ToInt32(c.StartTimeout) < 0 {
		return setting("startTimeout", c, "It can't be negative, but was %d.", *c.StartTimeout)
	}
	if aws.ToInt32(c.StopTimeout) < 0 {
		return setting("stopTimeout", c, "It can't be negative, but was %d.", *c.StopTimeout)
	}
	r := c.RestartPolicy
	switch {
	case r == nil:
	case r.Enabled == nil:
		return setting("restartPolicy", c, "The member enabled is required.")
	case len(r.IgnoredExitCodes) > maxIgnoredCodes:
		return setting("restartPolicy", c, "It ignores %d exit codes; at most %d are allowed.", len(r.IgnoredExitCodes), maxIgnoredCodes)
	case r.RestartAttemptPeriod != nil && (*r.RestartAttemptPeriod < 60 || *r.RestartAttemptPeriod > 1800):
		return setting("restartPolicy", c, "The restartAttemptPeriod must be between 60 and 1800, but was %d.", *r.RestartAttemptPeriod)
	}
	return nil
}

// checkProcess looks at what the container's process is given.
func checkProcess(_ *types.TaskDefinition, c *types.ContainerDefinition) error {
	for _, e := range c.Environment {
		if name := aws.ToString(e.Name); name == "" || strings.ContainsAny(name, "=\x00") || strings.Contains(aws.ToString(e.Value), "\x00") {
			return setting("environment", c, "The variable name %.200q is invalid.", name)
		}
	}
	if user := aws.ToString(c.User); c.User != nil && (strings.Count(user, ":") > 1 || strings.HasPrefix(user, ":") || strings.HasSuffix(user, ":") || strings.ContainsAny(user, " \t\n\x00")) {
		return setting("user", c, "It must be uid, uid:gid, user, user:group, uid:group or user:gid, but was %.200q.", user)
	}
	if dir := aws.ToString(c.WorkingDirectory); dir != "" && !path.IsAbs(dir) {
		return setting("workingDirectory", c, "It must be an absolute path, but was %.300q.", dir)
	}
	for _, u := range c.Ulimits {
		if u.Name == "" {
			return setting("ulimits", c, "A name should not be null or empty.")
		}
		if err := enumeration("ulimits.name", u.Name, u.Name.Values()); err != nil {
			return err
		}
		if u.SoftLimit > u.HardLimit && u.HardLimit != -1 {
			return setting("ulimits", c, "The softLimit %d of %s is above the hardLimit %d.", u.SoftLimit, u.Name, u.HardLimit)
		}
	}
	for label := range c.DockerLabels {
		if label == "" {
			return setting("dockerLabels", c, "A label's name should not be empty.")
		}
	}
	return enumeration("versionConsistency", c.VersionConsistency, c.VersionConsistency.Values())
}

// capabilities are Linux's, as Docker spells them without CAP_.
var capabilities = strings.Fields(`ALL AUDIT_CONTROL AUDIT_READ AUDIT_WRITE BLOCK_SUSPEND BPF CHECKPOINT_RESTORE CHOWN DAC_OVERRIDE
	DAC_READ_SEARCH FOWNER FSETID IPC_LOCK IPC_OWNER KILL LEASE LINUX_IMMUTABLE MAC_ADMIN MAC_OVERRIDE MKNOD NET_ADMIN
	NET_BIND_SERVICE NET_BROADCAST NET_RAW PERFMON SETFCAP SETGID SETPCAP SETUID SYS_ADMIN SYS_BOOT SYS_CHROOT SYS_MODULE
	SYS_NICE SYS_PACCT SYS_PTRACE SYS_RAWIO SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG SYSLOG WAKE_ALARM`)

func checkLinux(_ *types.TaskDefinition, c *types.ContainerDefinition) error {
	l := c.LinuxParameters
	if l == nil {
		return nil
	}
	if l.Capabilities != nil {
		for _, name := range slices.Concat(l.Capabilities.Add, l.Capabilities.Drop) {
			if !slices.Contains(capabilities, strings.TrimPrefix(name, "CAP_")) {
				return setting("linuxParameters", c, "There is no capability %.100q.", name)
			}
		}
	}
	for _, d := range l.Devices {
		if !path.IsAbs(aws.ToString(d.HostPath)) {
			return setting("linuxParameters", c, "The hostPath of a device must be an absolute path, but was %.300q.", aws.ToString(d.HostPath))
		}
		for _, p := range d.Permissions {
			if err := enumeration("linuxParameters.devices.permissions", p, p.Values()); err != nil {
				return err
			}
		}
	}
	for _, t := range l.Tmpfs {
		if !path.IsAbs(aws.ToString(t.ContainerPath)) || t.Size < 1 {
			return setting("linuxParameters", c, "A tmpfs needs an absolute containerPath and a size in MiB, but had %.300q and %d.", aws.ToString(t.ContainerPath), t.Size)
		}
	}
	switch {
	case l.SharedMemorySize != nil && *l.SharedMemorySize < 0:
		return setting("linuxParameters", c, "The sharedMemorySize can't be negative, but was %d.", *l.SharedMemorySize)
	case l.MaxSwap != nil && *l.MaxSwap < 0:
		return setting("linuxParameters", c, "The maxSwap can't be negative, but was %d.", *l.MaxSwap)
	case l.Swappiness != nil && (*l.Swappiness < 0 || *l.Swappiness > 100):
		return setting("linuxParameters", c, "The swappiness must be between 0 and 100, but was %d.", *l.Swappiness)
	}
	return nil
}

// completeContainer fills in the defaults that ECS shows.
func completeContainer(d *types.TaskDefinition, c *types.ContainerDefinition) {
	if c.Essential == nil {
		c.Essential = aws.Bool(true)
	}
	c.Environment, c.MountPoints, c.VolumesFrom, c.SystemControls = orEmpty(c.Environment), orEmpty(c.MountPoints), orEmpty(c.VolumesFrom), orEmpty(c.SystemControls)
	mappings := make([]types.PortMapping, len(c.PortMappings))
	for i, m := range c.PortMappings {
		if m.Protocol == "" {
			m.Protocol = types.TransportProtocolTcp
		}
		if m.ContainerPortRange != nil {
			mappings[i] = m
			continue
		}
		if d.NetworkMode == types.NetworkModeBridge {
			m.HostPort = aws.Int32(aws.ToInt32(m.HostPort))
		} else {
			m.HostPort = m.ContainerPort
		}
		mappings[i] = m
	}
	c.PortMappings = mappings
}
