package poll

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"

	"github.com/longshore-project/longshore/controlplane/store"
	"github.com/longshore-project/longshore/controlplane/task"
	"github.com/longshore-project/longshore/protocol/acs"
	"github.com/longshore-project/longshore/protocol/arn"
)

// Credentials are the temporary credentials that travel with a task; each may be nil.
type Credentials struct {
	Task      *acs.IAMRoleCredentials
	Execution *acs.IAMRoleCredentials
}

// Payload is the task as its agent gets it: the definition with the overrides merged, in the form that every ECS agent
// understands (Docker-level settings in the dockerConfig documents). It is pure. An error means that the definition says
// something that has no form on the wire; it names it.
//
// def may be nil for a task whose definition is gone: a task that must stop needs no more than its ARN.
func Payload(def *types.TaskDefinition, t *store.Task, c Credentials) (*acs.Task, error) {
	out := &acs.Task{
		Arn:            aws.ToString(t.Object.TaskArn),
		TaskClusterArn: aws.ToString(t.Object.ClusterArn),
		DesiredStatus:  aws.ToString(t.Object.DesiredStatus),
	}
	if def == nil {
		if task.Wanted(t) {
			return nil, fmt.Errorf("task definition %s does not exist", aws.ToString(t.Object.TaskDefinitionArn))
		}
		return out, nil
	}
	p := payload{def: def, task: t, credentials: c, override: t.Object.Overrides}
	if p.override == nil {
		p.override = &types.TaskOverride{}
	}
	if a, err := arn.Parse(out.Arn); err == nil {
		p.region, p.id = a.Region, a.ID()
	}
	if a, err := arn.Parse(aws.ToString(def.TaskDefinitionArn)); err == nil {
		out.TaskDefinitionAccountID = a.Account
	}
	if err := p.fill(out); err != nil {
		return nil, err
	}
	return out, nil
}

// payload is what the parts of a payload are made from.
type payload struct {
	def         *types.TaskDefinition
	task        *store.Task
	override    *types.TaskOverride
	credentials Credentials
	region, id  string
	gpus        []string // of the task that no container has got yet
}

func (p *payload) fill(out *acs.Task) (err error) {
	out.Family = aws.ToString(p.def.Family)
	out.Version = strconv.Itoa(int(p.def.Revision))
	out.Overrides = "{}"
	out.RoleCredentials, out.ExecutionRoleCredentials = p.credentials.Task, p.credentials.Execution
	out.NetworkMode = p.networkMode()
	out.ElasticNetworkInterfaces = interfacesOf(p.task)
	out.PidMode, out.IpcMode = string(p.def.PidMode), string(p.def.IpcMode)
	out.LaunchType = string(p.task.Object.LaunchType)
	out.ServiceName, out.Group = p.task.Service, aws.ToString(p.task.Object.Group)
	out.EnableFaultInjection = aws.ToBool(p.def.EnableFaultInjection)
	if out.CPU, out.Memory, err = p.limits(); err != nil {
		return err
	}
	if c := p.def.ProxyConfiguration; c != nil {
		out.ProxyConfiguration = &acs.ProxyConfiguration{Type: string(c.Type), ContainerName: aws.ToString(c.ContainerName), Properties: pairs(c.Properties)}
	}
	for i := range p.def.Volumes {
		v, err := volume(&p.def.Volumes[i])
		if err != nil {
			return err
		}
		out.Volumes = append(out.Volumes, v)
	}
	p.gpus = p.task.Reserved.GPUs
	for i := range p.def.ContainerDefinitions {
		c := p.merged(&p.def.ContainerDefinitions[i])
		built, err := p.container(c)
		if err != nil {
			return fmt.Errorf("container %s: %w", aws.ToString(c.Name), err)
		}
		out.Containers = append(out.Containers, built)
		gpus, err := p.takeGPUs(c)
		if err != nil {
			return fmt.Errorf("container %s: %w", aws.ToString(c.Name), err)
		}
		out.Associations = append(out.Associations, gpus...)
	}
	return nil
}

func (p *payload) networkMode() string {
	if p.def.NetworkMode == "" {
		return string(types.NetworkModeBridge)
	}
	return string(p.def.NetworkMode)
}

// limits are the task's own limits, in vCPUs and MiB; 0 where neither the definition nor the override sets one.
func (p *payload) limits() (vcpus float64, mib int64, err error) {
	cpu, memory := aws.ToString(p.def.Cpu), aws.ToString(p.def.Memory)
	if o := aws.ToString(p.override.Cpu); o != "" {
		cpu = o
	}
	if o := aws.ToString(p.override.Memory); o != "" {
		memory = o
	}
	if cpu != "" {
		units, err := task.ParseCPU(cpu)
		if err != nil {
			return 0, 0, err
		}
		vcpus = float64(units) / 1024
	}
	if memory != "" {
		if mib, err = task.ParseMemory(memory); err != nil {
			return 0, 0, err
		}
	}
	return vcpus, mib, nil
}

// merged is a container's definition with the task's override of it applied.
func (p *payload) merged(def *types.ContainerDefinition) *types.ContainerDefinition {
	c := *def
	for _, o := range p.override.ContainerOverrides {
		if aws.ToString(o.Name) != aws.ToString(def.Name) {
			continue
		}
		if len(o.Command) > 0 {
			c.Command = o.Command
		}
		if o.Cpu != nil {
			c.Cpu = *o.Cpu
		}
		if o.Memory != nil {
			c.Memory = o.Memory
		}
		if o.MemoryReservation != nil {
			c.MemoryReservation = o.MemoryReservation
		}
		if len(o.EnvironmentFiles) > 0 {
			c.EnvironmentFiles = o.EnvironmentFiles
		}
		if len(o.ResourceRequirements) > 0 {
			c.ResourceRequirements = o.ResourceRequirements
		}
		c.Environment = append(append([]types.KeyValuePair(nil), c.Environment...), o.Environment...)
	}
	return &c
}

// takeGPUs gives a container the GPUs it asks for out of those reserved for the task.
func (p *payload) takeGPUs(c *types.ContainerDefinition) ([]*acs.Association, error) {
	var out []*acs.Association
	for _, r := range c.ResourceRequirements {
		if r.Type != types.ResourceTypeGpu {
			continue
		}
		n, err := strconv.Atoi(aws.ToString(r.Value))
		if err != nil || n < 0 || n > len(p.gpus) {
			return nil, fmt.Errorf("it asks for %s GPUs and %d of those reserved for the task are left", aws.ToString(r.Value), len(p.gpus))
		}
		for _, id := range p.gpus[:n] {
			out = append(out, &acs.Association{
				Name: id, Type: "gpu", Content: acs.AssociationContent{Value: id, Encoding: "identity"}, Containers: []string{aws.ToString(c.Name)},
			})
		}
		p.gpus = p.gpus[n:]
	}
	return out, nil
}

func volume(v *types.Volume) (*acs.Volume, error) {
	out := &acs.Volume{Name: aws.ToString(v.Name)}
	switch {
	case out.Name == "":
		return nil, fmt.Errorf("a volume has no name")
	case v.FsxWindowsFileServerVolumeConfiguration != nil || v.S3filesVolumeConfiguration != nil || aws.ToBool(v.ConfiguredAtLaunch):
		return nil, fmt.Errorf("volume %s is of a kind that container instances here cannot mount", out.Name)
	case v.DockerVolumeConfiguration != nil:
		d := v.DockerVolumeConfiguration
		out.Type = "docker"
		out.DockerVolumeConfiguration = &acs.DockerVolumeConfiguration{
			Scope: string(d.Scope), Autoprovision: aws.ToBool(d.Autoprovision), Driver: aws.ToString(d.Driver), DriverOpts: d.DriverOpts, Labels: d.Labels,
		}
		if out.DockerVolumeConfiguration.Scope == "" {
			out.DockerVolumeConfiguration.Scope = string(types.ScopeTask)
		}
	case v.EfsVolumeConfiguration != nil:
		e := v.EfsVolumeConfiguration
		out.Type = "efs"
		out.EFSVolumeConfiguration = &acs.EFSVolumeConfiguration{
			FileSystemID: aws.ToString(e.FileSystemId), RootDirectory: aws.ToString(e.RootDirectory),
			TransitEncryption: string(e.TransitEncryption), TransitEncryptionPort: int64(aws.ToInt32(e.TransitEncryptionPort)),
		}
		if a := e.AuthorizationConfig; a != nil {
			out.EFSVolumeConfiguration.AuthorizationConfig = &acs.EFSAuthorizationConfig{AccessPointID: aws.ToString(a.AccessPointId), Iam: string(a.Iam)}
		}
	default:
		out.Type = "host"
		out.Host = &acs.HostVolume{}
		if v.Host != nil {
			out.Host.SourcePath = aws.ToString(v.Host.SourcePath)
		}
	}
	return out, nil
}

// pairs is a list of names and values as a map; of two with one name the later counts.
func pairs(list []types.KeyValuePair) map[string]string {
	if len(list) == 0 {
		return nil
	}
	m := make(map[string]string, len(list))
	for _, kv := range list {
		if name := aws.ToString(kv.Name); name != "" {
			m[name] = aws.ToString(kv.Value)
		}
	}
	return m
}

// ecrImage recognises an image in Amazon ECR: account and region are in the host's name.
var ecrImage = regexp.MustCompile(`^(\d{12})\.dkr[.-]ecr(?:-fips)?\.([a-z0-9-]+)\.(?:amazonaws\.com(?:\.cn)?|on\.aws)/`)

// registryAuthentication says where the agent finds credentials for the image, nil for a public one.
func (p *payload) registryAuthentication(c *types.ContainerDefinition) *acs.RegistryAuthentication {
	if r := c.RepositoryCredentials; r != nil && aws.ToString(r.CredentialsParameter) != "" {
		parameter := aws.ToString(r.CredentialsParameter)
		return &acs.RegistryAuthentication{Type: "asm", ASMAuthData: &acs.ASMAuthData{CredentialsParameter: parameter, Region: p.regionOf(parameter)}}
	}
	if m := ecrImage.FindStringSubmatch(aws.ToString(c.Image)); m != nil {
		return &acs.RegistryAuthentication{Type: "ecr", ECRAuthData: &acs.ECRAuthData{RegistryID: m[1], Region: m[2], UseExecutionRole: p.credentials.Execution != nil}}
	}
	return nil
}

// regionOf is the region that an ARN of any service names, else the task's own.
func (p *payload) regionOf(ref string) string {
	if f := strings.SplitN(ref, ":", 6); len(f) == 6 && f[0] == "arn" && f[3] != "" {
		return f[3]
	}
	return p.region
}
