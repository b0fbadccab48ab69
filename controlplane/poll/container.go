package poll

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"

	"github.com/longshore-project/longshore/protocol/acs"
)

const mib = 1 << 20

// container is one container of a payload, from its definition with the overrides merged.
func (p *payload) container(c *types.ContainerDefinition) (*acs.Container, error) {
	out := &acs.Container{
		Name: aws.ToString(c.Name), ContainerArn: p.containerArn(aws.ToString(c.Name)), Image: aws.ToString(c.Image),
		Essential: c.Essential == nil || *c.Essential, CPU: int64(c.Cpu), Memory: int64(aws.ToInt32(c.Memory)),
		EntryPoint: c.EntryPoint, Command: c.Command, Environment: p.environment(c), Overrides: "{}", Links: c.Links,
		StartTimeout: int64(aws.ToInt32(c.StartTimeout)), StopTimeout: int64(aws.ToInt32(c.StopTimeout)),
		RegistryAuthentication: p.registryAuthentication(c), CredentialSpecs: c.CredentialSpecs, Secrets: p.secrets(c),
	}
	for _, f := range c.EnvironmentFiles {
		out.EnvironmentFiles = append(out.EnvironmentFiles, &acs.EnvironmentFile{Value: aws.ToString(f.Value), Type: string(f.Type)})
	}
	for _, m := range c.PortMappings {
		out.PortMappings = append(out.PortMappings, p.portMapping(m))
	}
	for _, m := range c.MountPoints {
		out.MountPoints = append(out.MountPoints, &acs.MountPoint{
			SourceVolume: aws.ToString(m.SourceVolume), ContainerPath: aws.ToString(m.ContainerPath), ReadOnly: aws.ToBool(m.ReadOnly),
		})
	}
	for _, v := range c.VolumesFrom {
		out.VolumesFrom = append(out.VolumesFrom, &acs.VolumeFrom{SourceContainer: aws.ToString(v.SourceContainer), ReadOnly: aws.ToBool(v.ReadOnly)})
	}
	for _, d := range c.DependsOn {
		out.DependsOn = append(out.DependsOn, &acs.ContainerDependency{ContainerName: aws.ToString(d.ContainerName), Condition: string(d.Condition)})
	}
	if r := c.RestartPolicy; r != nil {
		out.RestartPolicy = &acs.RestartPolicy{Enabled: aws.ToBool(r.Enabled), RestartAttemptPeriod: 300}
		if r.RestartAttemptPeriod != nil {
			out.RestartPolicy.RestartAttemptPeriod = int64(*r.RestartAttemptPeriod)
		}
		for _, code := range r.IgnoredExitCodes {
			out.RestartPolicy.IgnoredExitCodes = append(out.RestartPolicy.IgnoredExitCodes, int64(code))
		}
	}
	if f := c.FirelensConfiguration; f != nil {
		out.FirelensConfiguration = &acs.FirelensConfiguration{Type: string(f.Type), Options: f.Options}
	}
	if p.task.Object.EnableExecuteCommand {
		out.ManagedAgents = []*acs.ManagedAgent{{Name: string(types.ManagedAgentNameExecuteCommandAgent)}}
	}
	if h := c.HealthCheck; h != nil && (len(h.Command) == 0 || h.Command[0] != "NONE") {
		out.HealthCheckType = "docker"
	}
	if l := c.LogConfiguration; l != nil && l.LogDriver == types.LogDriverAwslogs && p.credentials.Execution != nil {
		out.LogsAuthStrategy = "ExecutionRole"
	}
	var err error
	out.DockerConfig, err = p.dockerConfig(c)
	return out, err
}

func (p *payload) containerArn(name string) string {
	for _, c := range p.task.Object.Containers {
		if aws.ToString(c.Name) == name {
			return aws.ToString(c.ContainerArn)
		}
	}
	return ""
}

// environment is the container's environment. AWS_EXECUTION_ENV is the service's to set, not the agent's.
func (p *payload) environment(c *types.ContainerDefinition) map[string]string {
	env := map[string]string{"AWS_EXECUTION_ENV": "AWS_ECS_EC2"}
	if p.task.Object.LaunchType == types.LaunchTypeExternal {
		env["AWS_EXECUTION_ENV"] = "AWS_ECS_EXTERNAL"
	}
	maps.Copy(env, pairs(c.Environment))
	return env
}

func (p *payload) portMapping(m types.PortMapping) *acs.PortMapping {
	out := &acs.PortMapping{
		ContainerPort: int64(aws.ToInt32(m.ContainerPort)), HostPort: int64(aws.ToInt32(m.HostPort)),
		ContainerPortRange: aws.ToString(m.ContainerPortRange), Protocol: string(m.Protocol),
	}
	if out.Protocol == "" {
		out.Protocol = string(types.TransportProtocolTcp)
	}
	return out
}

// secrets are the container's own and those of its log driver.
func (p *payload) secrets(c *types.ContainerDefinition) []*acs.Secret {
	var out []*acs.Secret
	for _, s := range c.Secrets {
		out = append(out, p.secret(s, "ENVIRONMENT_VARIABLE", "CONTAINER"))
	}
	if c.LogConfiguration != nil {
		for _, s := range c.LogConfiguration.SecretOptions {
			out = append(out, p.secret(s, "BOOTSTRAP", "LOG_DRIVER"))
		}
	}
	return out
}

func (p *payload) secret(s types.Secret, kind, target string) *acs.Secret {
	from := aws.ToString(s.ValueFrom)
	provider := "ssm"
	if f := strings.SplitN(from, ":", 4); len(f) == 4 && f[0] == "arn" && f[2] == "secretsmanager" {
		provider = "asm"
	}
	return &acs.Secret{Name: aws.ToString(s.Name), ValueFrom: from, Region: p.regionOf(from), Provider: provider, Type: kind, Target: target}
}

// dockerConfig makes the two documents of Docker-level settings.
func (p *payload) dockerConfig(c *types.ContainerDefinition) (*acs.DockerConfig, error) {
	host, err := p.hostConfig(c)
	if err != nil {
		return nil, err
	}
	config := acs.ContainerConfig{
		User: aws.ToString(c.User), WorkingDir: aws.ToString(c.WorkingDirectory), Hostname: aws.ToString(c.Hostname),
		NetworkDisabled: aws.ToBool(c.DisableNetworking), OpenStdin: aws.ToBool(c.Interactive), Tty: aws.ToBool(c.PseudoTerminal),
		Labels: c.DockerLabels, Healthcheck: healthCheck(c.HealthCheck),
	}
	return &acs.DockerConfig{Config: document(config), HostConfig: document(host)}, nil
}

// document is a JSON text without the escapes that are meant for HTML pages.
func document(v any) string {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		panic(err) // structs of strings and numbers cannot fail
	}
	return strings.TrimSuffix(b.String(), "\n")
}

// healthCheck fills ECS's defaults in: every 30 s, 5 s at most, 3 failures.
func healthCheck(h *types.HealthCheck) *acs.HealthConfig {
	if h == nil {
		return nil
	}
	seconds := func(v *int32, standard int32) int64 {
		if v != nil {
			standard = *v
		}
		return int64(standard) * int64(time.Second)
	}
	out := &acs.HealthConfig{Test: h.Command, Interval: seconds(h.Interval, 30), Timeout: seconds(h.Timeout, 5), StartPeriod: seconds(h.StartPeriod, 0), Retries: 3}
	if h.Retries != nil {
		out.Retries = int64(*h.Retries)
	}
	return out
}

func (p *payload) hostConfig(c *types.ContainerDefinition) (*acs.HostConfig, error) {
	out := &acs.HostConfig{
		NetworkMode: p.networkMode(), Privileged: aws.ToBool(c.Privileged), ReadonlyRootfs: aws.ToBool(c.ReadonlyRootFilesystem),
		MemoryReservation: int64(aws.ToInt32(c.MemoryReservation)) * mib,
		DNS:               c.DnsServers, DNSSearch: c.DnsSearchDomains, SecurityOpt: c.DockerSecurityOptions, LogConfig: p.logConfig(c),
	}
	for _, h := range c.ExtraHosts {
		out.ExtraHosts = append(out.ExtraHosts, aws.ToString(h.Hostname)+":"+aws.ToString(h.IpAddress))
	}
	for _, u := range c.Ulimits {
		out.Ulimits = append(out.Ulimits, acs.Ulimit{Name: string(u.Name), Soft: int64(u.SoftLimit), Hard: int64(u.HardLimit)})
	}
	for _, s := range c.SystemControls {
		if out.Sysctls == nil {
			out.Sysctls = map[string]string{}
		}
		out.Sysctls[aws.ToString(s.Namespace)] = aws.ToString(s.Value)
	}
	if l := c.LinuxParameters; l != nil {
		if err := linux(out, l, int64(aws.ToInt32(c.Memory))); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// linux places linuxParameters. memory is the container's hard limit in MiB: Docker counts swap on top of it.
func linux(out *acs.HostConfig, l *types.LinuxParameters, memory int64) error {
	if l.Capabilities != nil {
		out.CapAdd, out.CapDrop = l.Capabilities.Add, l.Capabilities.Drop
	}
	for _, d := range l.Devices {
		out.Devices = append(out.Devices, device(d))
	}
	out.Init = l.InitProcessEnabled
	out.ShmSize = int64(aws.ToInt32(l.SharedMemorySize)) * mib
	for _, t := range l.Tmpfs {
		if out.Tmpfs == nil {
			out.Tmpfs = map[string]string{}
		}
		options := append([]string{fmt.Sprintf("size=%dm", t.Size)}, t.MountOptions...)
		out.Tmpfs[aws.ToString(t.ContainerPath)] = strings.Join(options, ",")
	}
	if l.MaxSwap != nil {
		if memory == 0 {
			return fmt.Errorf("linuxParameters.maxSwap needs a hard memory limit (memory)")
		}
		out.MemorySwap = (memory + int64(*l.MaxSwap)) * mib
		if l.Swappiness != nil { // without maxSwap it has no effect
			swappiness := int64(*l.Swappiness)
			out.MemorySwappiness = &swappiness
		}
	}
	return nil
}

func device(d types.Device) acs.DeviceMapping {
	out := acs.DeviceMapping{PathOnHost: aws.ToString(d.HostPath), PathInContainer: aws.ToString(d.ContainerPath)}
	if out.PathInContainer == "" {
		out.PathInContainer = out.PathOnHost
	}
	for _, p := range d.Permissions {
		switch p {
		case types.DeviceCgroupPermissionRead:
			out.CgroupPermissions += "r"
		case types.DeviceCgroupPermissionWrite:
			out.CgroupPermissions += "w"
		case types.DeviceCgroupPermissionMknod:
			out.CgroupPermissions += "m"
		}
	}
	if out.CgroupPermissions == "" {
		out.CgroupPermissions = "rwm"
	}
	return out
}

// logConfig places logConfiguration. The option awslogs-stream-prefix is ECS's own: it becomes the stream's name,
// prefix/container/task id.
func (p *payload) logConfig(c *types.ContainerDefinition) *acs.LogConfig {
	l := c.LogConfiguration
	if l == nil {
		return nil
	}
	out := &acs.LogConfig{Type: string(l.LogDriver), Config: maps.Clone(l.Options)}
	if prefix, ok := out.Config["awslogs-stream-prefix"]; ok && l.LogDriver == types.LogDriverAwslogs {
		delete(out.Config, "awslogs-stream-prefix")
		out.Config["awslogs-stream"] = prefix + "/" + aws.ToString(c.Name) + "/" + p.id
	}
	return out
}
