package api

import (
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"
)

// The families of capability attributes.
const (
	awsCapability = "com.amazonaws.ecs.capability."
	ecsCapability = "ecs.capability."
	dockerAPI     = awsCapability + "docker-remote-api."
)

// ecrImage is an image of a private Amazon ECR registry.
var ecrImage = regexp.MustCompile(`^[0-9]{12}\.dkr[.-]ecr(-fips)?\.[a-z0-9-]+\.(amazonaws\.com(\.cn)?|on\.aws)/`)

// limitOfTenCPUs is the task size above which an instance must know larger tasks, in CPU units.
const limitOfTenCPUs = 10 * 1024

// requiredAttributes are the attributes that an instance needs to run the definition, in order of name.
func requiredAttributes(d *types.TaskDefinition) []types.Attribute {
	need := map[string]string{} // name to value, empty for any
	add := func(names ...string) {
		for _, n := range names {
			need[n] = ""
		}
	}
	if aws.ToString(d.TaskRoleArn) != "" {
		add(dockerAPI + "1.19")
		if d.NetworkMode == types.NetworkModeHost {
			add(awsCapability + "task-iam-role-network-host")
		} else {
			add(awsCapability + "task-iam-role")
		}
	}
	if d.Cpu != nil || d.Memory != nil {
		add(ecsCapability + "task-cpu-mem-limit")
	}
	if cpu, _ := strconv.Atoi(aws.ToString(d.Cpu)); cpu > limitOfTenCPUs {
		add(ecsCapability + "increased-task-cpu-limit")
	}
	if d.PidMode != "" || d.IpcMode != "" {
		add(ecsCapability + "pid-ipc-namespace-sharing")
	}
	if d.NetworkMode == types.NetworkModeAwsvpc {
		add(ecsCapability + "task-eni")
	}
	for i := range d.Volumes {
		add(requiredByVolume(&d.Volumes[i])...)
	}
	if p := d.RuntimePlatform; p != nil && p.CpuArchitecture != "" {
		need[attributeArchitecture] = strings.ToLower(string(p.CpuArchitecture))
	}
	for i := range d.ContainerDefinitions {
		add(requiredByContainer(d, &d.ContainerDefinitions[i])...)
	}
	out := make([]types.Attribute, 0, len(need))
	for name, value := range need {
		a := types.Attribute{Name: aws.String(name)}
		if value != "" {
			a.Value = aws.String(value)
		}
		out = append(out, a)
	}
	slices.SortFunc(out, func(a, b types.Attribute) int { return strings.Compare(*a.Name, *b.Name) })
	return out
}

func requiredByContainer(d *types.TaskDefinition, c *types.ContainerDefinition) (names []string) {
	add := func(n ...string) { names = append(names, n...) }
	execution := aws.ToString(d.ExecutionRoleArn) != ""
	if aws.ToBool(c.Privileged) {
		add(awsCapability + "privileged-container")
	}
	if l := c.LogConfiguration; l != nil {
		add(awsCapability+"logging-driver."+string(l.LogDriver), dockerAPI+"1.18")
		if l.LogDriver == types.LogDriverAwslogs && execution {
			add(ecsCapability+"execution-role-awslogs", dockerAPI+"1.19")
		}
	}
	add(requiredByFirelens(c)...)
	add(requiredBySecrets(c)...)
	if ecrImage.MatchString(aws.ToString(c.Image)) {
		add(awsCapability+"ecr-auth", dockerAPI+"1.19")
		if execution {
			add(ecsCapability + "execution-role-ecr-pull")
		}
	}
	if c.HealthCheck != nil && c.HealthCheck.Command[0] != "NONE" {
		add(ecsCapability + "container-health-check")
	}
	for _, m := range c.PortMappings {
		if m.ContainerPortRange != nil {
			add(ecsCapability + "network.container-port-range")
		}
	}
	if len(c.DependsOn) > 0 {
		add(ecsCapability + "container-ordering")
	}
	if c.RestartPolicy != nil && aws.ToBool(c.RestartPolicy.Enabled) {
		add(ecsCapability + "container-restart-policy")
	}
	if c.LinuxParameters != nil && aws.ToBool(c.LinuxParameters.InitProcessEnabled) {
		add(dockerAPI + "1.29")
	}
	for _, option := range c.DockerSecurityOptions {
		switch {
		case strings.HasPrefix(option, "label:"), strings.HasPrefix(option, "label="):
			add(awsCapability + "selinux")
		case strings.HasPrefix(option, "apparmor:"), strings.HasPrefix(option, "apparmor="):
			add(awsCapability + "apparmor")
		}
	}
	return names
}

// requiredByVolume: a driver that is not the engine's own is a plugin of the host, and what only the EFS plugin can do
// needs the host to have it.
func requiredByVolume(v *types.Volume) (names []string) {
	if d := v.DockerVolumeConfiguration; d != nil {
		names = append(names, ecsCapability+"docker-plugin."+strings.ReplaceAll(dockerDriver(d), ":", "."))
	}
	if e := v.EfsVolumeConfiguration; e != nil {
		names = append(names, ecsCapability+"efs")
		if a := e.AuthorizationConfig; e.TransitEncryption == types.EFSTransitEncryptionEnabled || a != nil && aws.ToString(a.AccessPointId) != "" {
			names = append(names, ecsCapability+"efsAuth")
		}
	}
	return names
}
