package fields

import (
	"context"
	"fmt"
	"runtime"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"
)

// idle waits for its end and takes the stop signal.
const idle = "trap 'exit 0' TERM; while :; do sleep 1000 & wait $!; done"

// shell is a container that runs a script.
func shell(name, script string) types.ContainerDefinition {
	return types.ContainerDefinition{Name: &name, Memory: aws.Int32(16), EntryPoint: []string{"sh", "-c"}, Command: []string{script}}
}

func with(c types.ContainerDefinition, change func(*types.ContainerDefinition)) types.ContainerDefinition {
	change(&c)
	return c
}

// facts is what a container says about itself.
const facts = `echo "word $WORD dir $(pwd) host $(hostname) user $(id -u)"
echo "nofile $(ulimit -Sn) $(ulimit -Hn) somaxconn $(cat /proc/sys/net/core/somaxconn) one $(cat /proc/1/comm)"
grep -E 'NoNewPrivs|CapBnd' /proc/self/status
cat /etc/hosts /etc/resolv.conf
grep -E ' (/cache|/in|/data|/given|/dev/shm) ' /proc/mounts
df -k /dev/shm /cache | tail -n +2
ls -l /dev/probe
cat /in/file /given/file
echo to-docker >/data/file && cat /data/file
echo ready
`

var scenes = map[string]scene{
	// Nearly everything that one container can have, on a bridge.
	"bridge": {ready: "ready", definition: ecs.RegisterTaskDefinitionInput{
		NetworkMode: types.NetworkModeBridge,
		Volumes: []types.Volume{
			{Name: aws.String("in"), Host: &types.HostVolumeProperties{SourcePath: aws.String("/tmp/host/in")}},
			{Name: aws.String("own")},
			{Name: aws.String("docker"), DockerVolumeConfiguration: &types.DockerVolumeConfiguration{Scope: types.ScopeTask, Driver: aws.String("local"),
				DriverOpts: map[string]string{"type": "tmpfs", "device": "tmpfs", "o": "size=2m"}, Labels: map[string]string{"made": "for-task"}}},
		},
		ContainerDefinitions: []types.ContainerDefinition{
			with(shell("data", "echo given >/given/file"), func(c *types.ContainerDefinition) {
				c.Essential = aws.Bool(false)
				c.MountPoints = []types.MountPoint{{SourceVolume: aws.String("own"), ContainerPath: aws.String("/given")}}
			}),
			with(shell("web", "id -u; httpd -f -p 8080 -h /srv"), func(c *types.ContainerDefinition) {
				c.User, c.Interactive, c.PseudoTerminal, c.ReadonlyRootFilesystem = aws.String("app"), aws.Bool(true), aws.Bool(true), aws.Bool(true)
				c.HealthCheck = &types.HealthCheck{Command: []string{"CMD-SHELL", "true"}, Interval: aws.Int32(5), Timeout: aws.Int32(4), Retries: aws.Int32(2), StartPeriod: aws.Int32(1)}
			}),
			with(shell("main", facts+idle), func(c *types.ContainerDefinition) {
				c.Cpu, c.Memory, c.MemoryReservation = 64, aws.Int32(96), aws.Int32(32)
				c.Environment = []types.KeyValuePair{{Name: aws.String("WORD"), Value: aws.String("a b=c")}}
				c.WorkingDirectory, c.Hostname = aws.String("/srv"), aws.String("probe")
				c.DnsServers, c.DnsSearchDomains = []string{"192.0.2.53"}, []string{"example.test"}
				c.ExtraHosts = []types.HostEntry{{Hostname: aws.String("far"), IpAddress: aws.String("192.0.2.9")}}
				c.DockerLabels = map[string]string{"team": "harbour"}
				c.DockerSecurityOptions = []string{"no-new-privileges"}
				c.Ulimits = []types.Ulimit{{Name: types.UlimitNameNofile, SoftLimit: 1000, HardLimit: 2000}}
				c.SystemControls = []types.SystemControl{{Namespace: aws.String("net.core.somaxconn"), Value: aws.String("321")}}
				c.StopTimeout = aws.Int32(7)
				c.LinuxParameters = &types.LinuxParameters{
					Capabilities:       &types.KernelCapabilities{Add: []string{"SYS_TIME"}, Drop: []string{"MKNOD"}},
					Devices:            []types.Device{{HostPath: aws.String("/dev/zero"), ContainerPath: aws.String("/dev/probe"), Permissions: []types.DeviceCgroupPermission{types.DeviceCgroupPermissionRead}}},
					InitProcessEnabled: aws.Bool(true), SharedMemorySize: aws.Int32(8), MaxSwap: aws.Int32(32), Swappiness: aws.Int32(10),
					Tmpfs: []types.Tmpfs{{ContainerPath: aws.String("/cache"), Size: 4, MountOptions: []string{"noexec"}}},
				}
				c.LogConfiguration = &types.LogConfiguration{LogDriver: types.LogDriverJsonFile, Options: map[string]string{"max-size": "1m"}}
				c.PortMappings = []types.PortMapping{
					{ContainerPort: aws.Int32(80), HostPort: aws.Int32(18080), Name: aws.String("http"), AppProtocol: types.ApplicationProtocolHttp},
					{ContainerPort: aws.Int32(53), Protocol: types.TransportProtocolUdp},
					{ContainerPortRange: aws.String("8000-8003")},
				}
				c.MountPoints = []types.MountPoint{
					{SourceVolume: aws.String("in"), ContainerPath: aws.String("/in"), ReadOnly: aws.Bool(true)},
					{SourceVolume: aws.String("docker"), ContainerPath: aws.String("/data")},
				}
				c.VolumesFrom = []types.VolumeFrom{{SourceContainer: aws.String("data"), ReadOnly: aws.Bool(true)}}
				c.Links = []string{"web:alias"}
				c.VersionConsistency = types.VersionConsistencyDisabled
				c.DependsOn = []types.ContainerDependency{
					{ContainerName: aws.String("data"), Condition: types.ContainerConditionSuccess}, {ContainerName: aws.String("web"), Condition: types.ContainerConditionHealthy},
				}
			}),
		},
	}},
	// The task's own pid and ipc namespaces: each container sees the other's processes and shared memory.
	"namespaces": {ready: "shared", definition: ecs.RegisterTaskDefinitionInput{
		PidMode: types.PidModeTask, IpcMode: types.IpcModeTask,
		ContainerDefinitions: []types.ContainerDefinition{
			shell("other", "echo hello >/dev/shm/letter; "+idle),
			with(shell("main", `until grep hello /dev/shm/letter; do sleep 0.1; done; cat /proc/1/comm; for p in /proc/[0-9]*; do tr '\0' ' ' <$p/cmdline; done
(sleep 0.2 &) ; sleep 1; grep -l 'State:.Z' /proc/[0-9]*/status; echo shared; `+idle), func(c *types.ContainerDefinition) {
				c.DependsOn = []types.ContainerDependency{{ContainerName: aws.String("other"), Condition: types.ContainerConditionStart}}
			}),
		},
	}, after: func(ctx context.Context, w *world, s *stage) error { return w.stop(ctx, s) }},
	// The host's namespaces, and what concerns the task as a whole.
	"host": {ready: "ready", definition: ecs.RegisterTaskDefinitionInput{
		NetworkMode: types.NetworkModeHost, PidMode: types.PidModeHost, IpcMode: types.IpcModeHost, Cpu: aws.String("128"), Memory: aws.String("64"),
		RequiresCompatibilities: []types.Compatibility{types.CompatibilityEc2},
		PlacementConstraints:    []types.TaskDefinitionPlacementConstraint{{Type: types.TaskDefinitionPlacementConstraintTypeMemberOf, Expression: aws.String("attribute:ecs.os-type == linux")}},
		Tags:                    []types.Tag{{Key: aws.String("team"), Value: aws.String("harbour")}},
		ContainerDefinitions: []types.ContainerDefinition{with(shell("main", "cat /proc/1/comm; hostname; echo ready; "+idle), func(c *types.ContainerDefinition) {
			c.Memory = nil
		})},
	}, after: seeLimit},
	// A kernel may not let the engine give every capability, so that the task may fail; the container is made either way.
	"privileged": {either: true, definition: ecs.RegisterTaskDefinitionInput{
		ContainerDefinitions: []types.ContainerDefinition{with(shell("main", idle), func(c *types.ContainerDefinition) { c.Privileged = aws.Bool(true) })},
	}},
	"alone": {ready: "ready", definition: ecs.RegisterTaskDefinitionInput{
		IpcMode: types.IpcModeNone, RuntimePlatform: &types.RuntimePlatform{CpuArchitecture: architecture()},
		ContainerDefinitions: []types.ContainerDefinition{with(shell("main", "ls /sys/class/net; echo ready; "+idle), func(c *types.ContainerDefinition) {
			c.DisableNetworking = aws.Bool(true)
		})},
	}},
	"gpu": {ready: "ready", definition: ecs.RegisterTaskDefinitionInput{
		ContainerDefinitions: []types.ContainerDefinition{with(shell("main", "echo gone >/dev/gpu0 && ls -l /dev/gpu0; cat /driver/file; echo has $NVIDIA_VISIBLE_DEVICES $GPU_ENV; echo ready; "+idle), func(c *types.ContainerDefinition) {
			c.ResourceRequirements = []types.ResourceRequirement{{Type: types.ResourceTypeGpu, Value: aws.String("1")}}
		})},
	}, after: func(ctx context.Context, w *world, s *stage) error { // the host's only GPU is taken
		out, err := w.api.RunTask(ctx, &ecs.RunTaskInput{Cluster: aws.String(cluster), TaskDefinition: s.definition.TaskDefinitionArn})
		if err == nil && (len(out.Failures) != 1 || aws.ToString(out.Failures[0].Reason) != "RESOURCE:GPU") {
			err = fmt.Errorf("a second task for the only GPU was answered %+v", out)
		}
		return err
	}},
	// A volume that outlives its task, made because autoprovision says so.
	"shared": {ready: "ready", definition: ecs.RegisterTaskDefinitionInput{
		Volumes: []types.Volume{{Name: aws.String("lasting"), DockerVolumeConfiguration: &types.DockerVolumeConfiguration{Scope: types.ScopeShared, Autoprovision: aws.Bool(true)}}},
		ContainerDefinitions: []types.ContainerDefinition{with(shell("main", "touch /data/x && echo ready; "+idle), func(c *types.ContainerDefinition) {
			c.MountPoints = []types.MountPoint{{SourceVolume: aws.String("lasting"), ContainerPath: aws.String("/data")}}
		})},
	}},
	"missing": {stopped: true, definition: ecs.RegisterTaskDefinitionInput{
		Volumes: []types.Volume{{Name: aws.String("absent"), DockerVolumeConfiguration: &types.DockerVolumeConfiguration{Scope: types.ScopeShared}}},
		ContainerDefinitions: []types.ContainerDefinition{with(shell("main", idle), func(c *types.ContainerDefinition) {
			c.MountPoints = []types.MountPoint{{SourceVolume: aws.String("absent"), ContainerPath: aws.String("/data")}}
		})},
	}},
	// No file system answers here: what is seen is the volume that the engine was given, and that it tried to mount it.
	"efs": {stopped: true, definition: ecs.RegisterTaskDefinitionInput{
		Volumes: []types.Volume{{Name: aws.String("efs"), EfsVolumeConfiguration: &types.EFSVolumeConfiguration{FileSystemId: aws.String("fs-0123abcd"), RootDirectory: aws.String("/exported")}}},
		ContainerDefinitions: []types.ContainerDefinition{with(shell("main", idle), func(c *types.ContainerDefinition) {
			c.MountPoints = []types.MountPoint{{SourceVolume: aws.String("efs"), ContainerPath: aws.String("/data")}}
		})},
	}},
	// A container that waits for another one no longer than that one's startTimeout.
	"late": {stopped: true, definition: ecs.RegisterTaskDefinitionInput{
		ContainerDefinitions: []types.ContainerDefinition{
			with(shell("slow", idle), func(c *types.ContainerDefinition) {
				c.StartTimeout = aws.Int32(2)
				c.HealthCheck = &types.HealthCheck{Command: []string{"CMD", "false"}}
			}),
			with(shell("main", idle), func(c *types.ContainerDefinition) {
				c.DependsOn = []types.ContainerDependency{{ContainerName: aws.String("slow"), Condition: types.ContainerConditionHealthy}}
			}),
		},
	}},
	// A container that does not heed its stop signal is killed after its stopTimeout.
	"stubborn": {ready: "ready", definition: ecs.RegisterTaskDefinitionInput{
		ContainerDefinitions: []types.ContainerDefinition{with(shell("main", "trap '' TERM; echo ready; while :; do sleep 1; done"), func(c *types.ContainerDefinition) {
			c.StopTimeout = aws.Int32(2)
		})},
	}, after: func(ctx context.Context, w *world, s *stage) error {
		begun := time.Now()
		if err := w.stop(ctx, s); err != nil {
			return err
		}
		if err := w.look(ctx, scene{stopped: true}, s, *s.task.TaskArn); err != nil {
			return err
		}
		if took := time.Since(begun); took < 2*time.Second || took > 15*time.Second {
			return fmt.Errorf("a container with stopTimeout 2 was stopped after %v", took)
		}
		return nil
	}},
	// The first run lasts longer than restartAttemptPeriod, so that a second follows; that one is too short.
	"restart": {stopped: true, definition: ecs.RegisterTaskDefinitionInput{
		ContainerDefinitions: []types.ContainerDefinition{with(shell("main", "echo run; test -e /again && exit 4; touch /again; sleep 60.5; exit 3"), func(c *types.ContainerDefinition) {
			c.RestartPolicy = &types.ContainerRestartPolicy{Enabled: aws.Bool(true), RestartAttemptPeriod: aws.Int32(60)}
		})},
	}},
	"ignored": {stopped: true, definition: ecs.RegisterTaskDefinitionInput{
		ContainerDefinitions: []types.ContainerDefinition{with(shell("main", "echo run; sleep 60.5; exit 3"), func(c *types.ContainerDefinition) {
			c.RestartPolicy = &types.ContainerRestartPolicy{Enabled: aws.Bool(true), RestartAttemptPeriod: aws.Int32(60), IgnoredExitCodes: []int32{3}}
		})},
	}},
	"overridden": {ready: "ready", definition: ecs.RegisterTaskDefinitionInput{
		ContainerDefinitions: []types.ContainerDefinition{
			with(shell("main", "exit 9"), func(c *types.ContainerDefinition) {
				c.Environment = []types.KeyValuePair{{Name: aws.String("KEPT"), Value: aws.String("1")}, {Name: aws.String("SET"), Value: aws.String("1")}}
			}),
			with(shell("other", idle), func(c *types.ContainerDefinition) { c.Memory = nil; c.MemoryReservation = aws.Int32(16) }),
		},
	}, overrides: &types.TaskOverride{Cpu: aws.String("256"), Memory: aws.String("80"), ContainerOverrides: []types.ContainerOverride{
		{Name: aws.String("main"), Command: []string{"echo kept $KEPT set $SET; echo ready; " + idle}, Environment: []types.KeyValuePair{{Name: aws.String("SET"), Value: aws.String("2")}},
			Cpu: aws.Int32(96), Memory: aws.Int32(48), MemoryReservation: aws.Int32(24)},
	}}, after: seeLimit},
}

func architecture() types.CPUArchitecture {
	if runtime.GOARCH == "arm64" {
		return types.CPUArchitectureArm64
	}
	return types.CPUArchitectureX8664
}

// seeLimit reads what the task's control group, version 1 or 2, limits its containers to together.
func seeLimit(_ context.Context, w *world, s *stage) error {
	parent := s.containers["main"].HostConfig.CgroupParent
	out, err := w.lab.OnHost(1, "sh", "-c", "cat /sys/fs/cgroup/memory/"+parent+"/memory.limit_in_bytes /sys/fs/cgroup/"+parent+"/memory.max 2>/dev/null").Output()
	if s.limit = strings.TrimSpace(string(out)); s.limit == "" {
		return fmt.Errorf("the task's control group %q has no limit: %w", parent, err)
	}
	return nil
}
