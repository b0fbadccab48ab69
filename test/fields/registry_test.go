package fields

import (
	"fmt"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/volume"
)

type (
	inspected  = container.InspectResponse
	mountPoint = container.MountPoint
	volumeOf   = volume.Volume
	bound      = types.NetworkBinding
)

func both(claims ...claim) []claim { return claims }

func one(c claim) []claim { return []claim{c} }

// kept is a member that no container sees: the definition of the running task has it.
func kept(scene string, show func(s *stage) any, want any) []claim {
	return one(wants(scene, show, want))
}

// mainOf is container main as it was defined.
func mainOf(s *stage) types.ContainerDefinition {
	i := slices.IndexFunc(s.definition.ContainerDefinitions, func(c types.ContainerDefinition) bool { return aws.ToString(c.Name) == "main" })
	return s.definition.ContainerDefinitions[i]
}

// registry is what becomes of each member, by its path or that of a structure it is in.
var registry = map[string][]claim{
	"Family":                          one(engine("bridge", func(c inspected) any { return c.Config.Labels["com.amazonaws.ecs.task-definition-family"] }, "bridge")),
	"NetworkMode":                     both(engine("host", func(c inspected) any { return c.HostConfig.NetworkMode }, "host"), engine("bridge", func(c inspected) any { return c.HostConfig.NetworkMode }, "bridge")),
	"PidMode":                         both(engine("host", func(c inspected) any { return c.HostConfig.PidMode }, "host"), says("namespaces", "pause\n", "hello >/dev/shm/letter"), noZombie, hidden),
	"IpcMode":                         both(engine("host", func(c inspected) any { return c.HostConfig.IpcMode }, "host"), engine("alone", func(c inspected) any { return c.HostConfig.IpcMode }, "none"), says("namespaces", "hello\n")),
	"Cpu":                             one(wants("host", func(s *stage) any { return aws.ToString(s.task.Cpu) }, "128")),
	"Memory":                          one(wants("host", func(s *stage) any { return s.limit }, 64<<20)),
	"RequiresCompatibilities[]":       kept("host", func(s *stage) any { return s.definition.RequiresCompatibilities }, "[EC2]"),
	"PlacementConstraints[]":          both(engine("host", func(c inspected) any { return c.State.Running }, true), wants("host", func(s *stage) any { return len(s.definition.PlacementConstraints) }, 1)),
	"Tags[]":                          kept("host", func(s *stage) any { return aws.ToString(s.task.Tags[0].Key) + "=" + aws.ToString(s.task.Tags[0].Value) }, "team=harbour"),
	"RuntimePlatform.CpuArchitecture": both(engine("alone", func(c inspected) any { return c.State.Running }, true), wants("alone", func(s *stage) any { return s.definition.RuntimePlatform.CpuArchitecture }, architecture())),

	"RuntimePlatform.OperatingSystemFamily": one(refused(definition(`,"runtimePlatform":{"operatingSystemFamily":"WINDOWS_SERVER_2022_CORE"}`, ""), "runtimePlatform.operatingSystemFamily")),
	"EnableFaultInjection":                  one(refused(definition(`,"enableFaultInjection":true`, ""), "enableFaultInjection")),
	"EphemeralStorage":                      one(refused(definition(`,"ephemeralStorage":{"sizeInGiB":30}`, ""), "ephemeralStorage")),
	"InferenceAccelerators[]":               one(refused(definition(`,"inferenceAccelerators":[{"deviceName":"a","deviceType":"b"}]`, ""), "inferenceAccelerators")),
	"ProxyConfiguration":                    one(refused(definition(`,"proxyConfiguration":{"containerName":"c","properties":[{"name":"a","value":"b"}]}`, ""), "proxyConfiguration")),

	"Volumes[].Name":            one(engine("shared", func(c inspected) any { return mount(c, "/data") }, "lasting")),
	"Volumes[].Host.SourcePath": one(says("bridge", "from-host\n")),
	"Volumes[].DockerVolumeConfiguration.Scope": both(
		wants("shared", func(s *stage) any { return s.volumes["lasting"].Name }, "lasting"),
		engine("bridge", func(c inspected) any { return strings.HasPrefix(mount(c, "/data"), "ecs-bridge-1-docker-") }, true)),
	"Volumes[].DockerVolumeConfiguration.Autoprovision": both(
		wants("shared", func(s *stage) any { return s.volumes["lasting"].Driver }, "local"),
		reason("missing", "CannotCreateVolumeError: volume absent: the shared volume absent does not exist on this host, and autoprovision is off")),
	"Volumes[].DockerVolumeConfiguration.Driver":                         one(wants("bridge", dockerVolume(func(v volumeOf) any { return v.Driver }), "local")),
	"Volumes[].DockerVolumeConfiguration.DriverOpts":                     both(wants("bridge", dockerVolume(func(v volumeOf) any { return v.Options["o"] }), "size=2m"), says("bridge", "tmpfs /data tmpfs rw,relatime,size=2048k")),
	"Volumes[].DockerVolumeConfiguration.Labels":                         one(wants("bridge", dockerVolume(func(v volumeOf) any { return v.Labels["made"] }), "for-task")),
	"Volumes[].EfsVolumeConfiguration.FileSystemId":                      both(wants("efs", efsVolume("o"), "addr=fs-0123abcd.efs.us-west-2.amazonaws.com,nfsvers=4.1,rsize=1048576,wsize=1048576,hard,timeo=600,retrans=2,noresvport"), reason("efs", "CannotStartContainerError")),
	"Volumes[].EfsVolumeConfiguration.RootDirectory":                     both(wants("efs", efsVolume("device"), ":/exported"), wants("efs", efsVolume("type"), "nfs")),
	"Volumes[].EfsVolumeConfiguration.TransitEncryption":                 both(byPlugin, unplaced(efs(`,"transitEncryption":"ENABLED"`), "ecs.capability.efsAuth")),
	"Volumes[].EfsVolumeConfiguration.TransitEncryptionPort":             both(byPlugin, unplaced(efs(`,"transitEncryption":"ENABLED","transitEncryptionPort":2999`), "ecs.capability.efsAuth")),
	"Volumes[].EfsVolumeConfiguration.AuthorizationConfig.AccessPointId": both(byPlugin, unplaced(efs(`,"transitEncryption":"ENABLED","authorizationConfig":{"accessPointId":"fsap-0123abcd"}`), "ecs.capability.efsAuth")),
	"Volumes[].EfsVolumeConfiguration.AuthorizationConfig.Iam":           one(refused(efs(`,"authorizationConfig":{"iam":"ENABLED"}`), "efsVolumeConfiguration.authorizationConfig.iam")),
	"Volumes[].FsxWindowsFileServerVolumeConfiguration":                  one(refused(definition(`,"volumes":[{"name":"v","fsxWindowsFileServerVolumeConfiguration":{"fileSystemId":"fs-1","rootDirectory":"a","authorizationConfig":{"credentialsParameter":"a","domain":"b"}}}]`, ""), "fsxWindowsFileServerVolumeConfiguration")),
	"Volumes[].S3filesVolumeConfiguration":                               one(refused(definition(`,"volumes":[{"name":"v","s3filesVolumeConfiguration":{"fileSystemArn":"arn:x"}}]`, ""), "s3filesVolumeConfiguration")),
	"Volumes[].ConfiguredAtLaunch":                                       one(refused(definition(`,"volumes":[{"name":"v","configuredAtLaunch":true}]`, ""), "configuredAtLaunch")),

	"Overrides.Cpu":                                         one(wants("overridden", func(s *stage) any { return aws.ToString(s.task.Cpu) }, "256")),
	"Overrides.Memory":                                      both(wants("overridden", func(s *stage) any { return aws.ToString(s.task.Memory) }, "80"), wants("overridden", func(s *stage) any { return s.limit }, 80<<20)),
	"Overrides.ContainerOverrides[].Name":                   one(says("overridden", "ready\n")),
	"Overrides.ContainerOverrides[].Command[]":              one(says("overridden", "ready\n")),
	"Overrides.ContainerOverrides[].Environment[]":          one(says("overridden", "kept 1 set 2\n")),
	"Overrides.ContainerOverrides[].Cpu":                    one(engine("overridden", func(c inspected) any { return c.HostConfig.CPUShares }, 96)),
	"Overrides.ContainerOverrides[].Memory":                 one(engine("overridden", func(c inspected) any { return c.HostConfig.Memory >> 20 }, 48)),
	"Overrides.ContainerOverrides[].MemoryReservation":      one(engine("overridden", func(c inspected) any { return c.HostConfig.MemoryReservation >> 20 }, 24)),
	"Overrides.ContainerOverrides[].ResourceRequirements[]": one(refused(`{"containerOverrides":[{"name":"c","resourceRequirements":[{"type":"GPU","value":"1"}]}]}`, "resourceRequirements")),
	"Overrides.EphemeralStorage":                            one(refused(`{"ephemeralStorage":{"sizeInGiB":30}}`, "ephemeralStorage")),
	"Overrides.InferenceAcceleratorOverrides[]":             one(refused(`{"inferenceAcceleratorOverrides":[{"deviceName":"a","deviceType":"b"}]}`, "inferenceAcceleratorOverrides")),
	"Overrides.ContainerOverrides[].EnvironmentFiles[]":     one(refused(`{"containerOverrides":[{"name":"c","environmentFiles":[{"type":"s3","value":"arn:aws:s3:::b/k.env"}]}]}`, "environmentFiles")),
	"ContainerDefinitions[].FirelensConfiguration":          one(elsewhere("test/daemons TestALogRouterReceivesWhatATasksContainersWrite")),
	"TaskRoleArn": one(elsewhere("test/e2e TestTheSDKInAContainerHasItsTasksCredentialsAndNobodyElseHas")),
}

// byPlugin: where the host has Amazon's plugin, it gets them.
var byPlugin = elsewhere("test/daemons TestVolumesOfAPluginAndAnEFSFileSystemByAmazonsPlugin")

func efs(more string) string {
	return definition(`,"volumes":[{"name":"v","efsVolumeConfiguration":{"fileSystemId":"fs-0123abcd"`+more+`}}]`, "")
}

// mount is the volume of the engine that a container has at a target.
func mount(c inspected, target string) string {
	for _, m := range c.Mounts {
		if m.Destination == target {
			return m.Name
		}
	}
	return ""
}

func dockerVolume(show func(v volumeOf) any) func(*stage) any {
	return func(s *stage) any { return show(s.volumes[mount(s.containers["main"], "/data")]) }
}

func efsVolume(option string) func(*stage) any {
	return dockerVolume(func(v volumeOf) any { return v.Options[option] })
}

// reason looks for the reason that a task's container main, or the task, stopped with.
func reason(scene, text string) claim {
	return claim{scene: scene, see: func(s *stage) error {
		if all := aws.ToString(s.task.StoppedReason) + "; " + reasons(s.task); !strings.Contains(all, text) {
			return fmt.Errorf("it stopped with %q, want %q", all, text)
		}
		return nil
	}}
}

// noZombie: process 1 of a task's pid namespace reaps what others leave behind.
var noZombie = claim{scene: "namespaces", see: func(s *stage) error {
	if out := s.output["main"]; strings.Contains(out, "/status\n") {
		return fmt.Errorf("there are zombies: %s", out)
	}
	return nil
}}

// hidden: the container that holds the namespaces is none of the task's.
var hidden = claim{scene: "namespaces", see: func(s *stage) error {
	if _, there := s.containers["~internal~ecs~pause~namespace"]; !there || len(s.task.Containers) != 2 {
		return fmt.Errorf("the engine has %d containers of the task, the control plane %d", len(s.containers), len(s.task.Containers))
	}
	return nil
}}
