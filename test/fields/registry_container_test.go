package fields

import (
	"fmt"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
)

func inContainer(members string) string { return definition("", ","+members) }

// ofContainer is what becomes of each member of a container definition.
var ofContainer = map[string][]claim{
	"Name":                    one(engine("bridge", func(c inspected) any { return c.Config.Labels["com.amazonaws.ecs.container-name"] }, "main")),
	"Image":                   one(engine("bridge", func(c inspected) any { return strings.HasSuffix(c.Config.Image, "/probe:1") }, true)),
	"Command[]":               one(says("alone", "ready\n")),
	"EntryPoint[]":            one(engine("bridge", func(c inspected) any { return c.Path + " " + c.Args[0] }, "sh -c")),
	"Cpu":                     one(engine("bridge", func(c inspected) any { return c.HostConfig.CPUShares }, 64)),
	"Memory":                  one(engine("bridge", func(c inspected) any { return c.HostConfig.Memory >> 20 }, 96)),
	"MemoryReservation":       one(engine("bridge", func(c inspected) any { return c.HostConfig.MemoryReservation >> 20 }, 32)),
	"Essential":               both(of("bridge", "data", func(c inspected) any { return c.State.Status }, "exited"), wants("bridge", func(s *stage) any { return aws.ToString(s.task.LastStatus) }, "RUNNING")),
	"Environment[]":           one(says("bridge", "word a b=c ")),
	"WorkingDirectory":        one(says("bridge", " dir /srv ")),
	"Hostname":                one(says("bridge", " host probe ")),
	"User":                    one(tells("bridge", "web", "1000\r\n")),
	"Interactive":             one(of("bridge", "web", func(c inspected) any { return c.Config.OpenStdin }, true)),
	"PseudoTerminal":          both(of("bridge", "web", func(c inspected) any { return c.Config.Tty }, true), tells("bridge", "web", "\r\n")),
	"ReadonlyRootFilesystem":  one(of("bridge", "web", func(c inspected) any { return c.HostConfig.ReadonlyRootfs }, true)),
	"Privileged":              one(engine("privileged", func(c inspected) any { return c.HostConfig.Privileged }, true)),
	"DisableNetworking":       both(engine("alone", func(c inspected) any { return c.Config.NetworkDisabled }, true), says("alone", "lo\nready")),
	"DnsServers[]":            one(says("bridge", "nameserver 192.0.2.53\n")),
	"DnsSearchDomains[]":      one(says("bridge", "search example.test\n")),
	"DockerLabels":            one(engine("bridge", func(c inspected) any { return c.Config.Labels["team"] }, "harbour")),
	"DockerSecurityOptions[]": one(says("bridge", "NoNewPrivs:\t1\n")),
	"ExtraHosts[]":            one(says("bridge", "192.0.2.9\tfar\n")),
	"Links[]":                 one(says("bridge", "\talias ")),
	"Ulimits[]":               one(says("bridge", "nofile 1000 2000 ")),
	"SystemControls[]":        one(says("bridge", "somaxconn 321 ")),
	"StopTimeout":             both(engine("stubborn", func(c inspected) any { return c.State.ExitCode }, 137), reason("stubborn", "main STOPPED exit code 137")),
	"StartTimeout":            one(reason("late", "its dependency slow did not reach HEALTHY within its startTimeout of 2s")),
	"DependsOn[]": both(says("bridge", "given\n"), of("bridge", "web", func(c inspected) any { return c.State.Health.Status }, "healthy"),
		claim{scene: "bridge", see: func(s *stage) error {
			if main, data := s.containers["main"].State.StartedAt, s.containers["data"].State.FinishedAt; main < data {
				return fmt.Errorf("main started at %s, before data ended at %s", main, data)
			}
			return nil
		}}),
	"HealthCheck": one(of("bridge", "web", func(c inspected) any {
		h := c.Config.Healthcheck
		return fmt.Sprint(h.Test, h.Interval, h.Timeout, h.StartPeriod, h.Retries)
	}, "[CMD-SHELL true] 5s 4s 1s 2")),
	"RestartPolicy.Enabled":              both(says("restart", "run\nrun\n"), reason("restart", "main STOPPED exit code 4")),
	"RestartPolicy.RestartAttemptPeriod": one(says("restart", "run\nrun\n")),
	"RestartPolicy.IgnoredExitCodes[]":   both(tells("ignored", "main", "run\n"), engine("ignored", func(c inspected) any { return c.State.ExitCode }, 3), reason("ignored", "main STOPPED exit code 3")),

	"LinuxParameters.Capabilities.Add[]":      one(capability(25, true)),
	"LinuxParameters.Capabilities.Drop[]":     one(capability(27, false)),
	"LinuxParameters.Devices[].HostPath":      one(says("bridge", "1,   5 ")),
	"LinuxParameters.Devices[].ContainerPath": one(says("bridge", " /dev/probe\n")),
	"LinuxParameters.Devices[].Permissions[]": one(engine("bridge", func(c inspected) any { return c.HostConfig.Devices[0].CgroupPermissions }, "r")),
	"LinuxParameters.InitProcessEnabled":      both(says("bridge", "one docker-init\n"), engine("bridge", func(c inspected) any { return *c.HostConfig.Init }, true)),
	"LinuxParameters.SharedMemorySize":        one(says("bridge", " 8192 ")),
	"LinuxParameters.Tmpfs[]":                 both(says("bridge", "tmpfs /cache tmpfs rw,nosuid,nodev,noexec,"), says("bridge", " 4096 ")),
	"LinuxParameters.MaxSwap":                 one(engine("bridge", func(c inspected) any { return c.HostConfig.MemorySwap >> 20 }, 128)),
	"LinuxParameters.Swappiness":              one(engine("bridge", func(c inspected) any { return *c.HostConfig.MemorySwappiness }, 10)),

	"LogConfiguration.LogDriver": one(engine("bridge", func(c inspected) any { return c.HostConfig.LogConfig.Type }, "json-file")),
	"LogConfiguration.Options":   one(engine("bridge", func(c inspected) any { return c.HostConfig.LogConfig.Config["max-size"] }, "1m")),

	"MountPoints[].SourceVolume":    one(says("bridge", "from-host\n", "to-docker\n")),
	"MountPoints[].ContainerPath":   one(says("bridge", " /in ", " /data ")),
	"MountPoints[].ReadOnly":        one(engine("bridge", func(c inspected) any { return writable(c, "/in") }, false)),
	"VolumesFrom[].SourceContainer": one(says("bridge", "given\n")),
	"VolumesFrom[].ReadOnly":        one(engine("bridge", func(c inspected) any { return writable(c, "/given") }, false)),

	"PortMappings[].ContainerPort": one(binding(18080, func(b bound) any { return aws.ToInt32(b.ContainerPort) }, 80)),
	"PortMappings[].HostPort":      one(engine("bridge", func(c inspected) any { return c.NetworkSettings.Ports["80/tcp"][0].HostPort }, "18080")),
	"PortMappings[].Protocol":      one(engine("bridge", func(c inspected) any { return len(c.NetworkSettings.Ports["53/udp"]) > 0 }, true)),
	"PortMappings[].ContainerPortRange": one(claim{scene: "bridge", see: func(s *stage) error {
		for _, c := range s.task.Containers {
			for _, b := range c.NetworkBindings {
				if aws.ToString(b.ContainerPortRange) != "8000-8003" {
					continue
				}
				var first, last, at int
				_, err := fmt.Sscanf(aws.ToString(b.HostPortRange), "%d-%d", &first, &last)
				_, err2 := fmt.Sscan(s.containers["main"].NetworkSettings.Ports["8002/tcp"][0].HostPort, &at)
				if err != nil || err2 != nil || last != first+3 || at != first+2 {
					return fmt.Errorf("host ports %s, and 8002 is at %d", aws.ToString(b.HostPortRange), at)
				}
				return nil
			}
		}
		return fmt.Errorf("no binding of the range in %s", reasons(s.task))
	}}),
	"PortMappings[].Name":        kept("bridge", func(s *stage) any { return aws.ToString(mainOf(s).PortMappings[0].Name) }, "http"),
	"PortMappings[].AppProtocol": kept("bridge", func(s *stage) any { return mainOf(s).PortMappings[0].AppProtocol }, "http"),
	"VersionConsistency":         kept("bridge", func(s *stage) any { return mainOf(s).VersionConsistency }, "disabled"),

	"ResourceRequirements[].SharingStrategy": one(refused(inContainer(`"resourceRequirements":[{"type":"GPU","value":"1","sharingStrategy":{"nvidiaMps":{"memory":64}}}]`), "resourceRequirements[0].sharingStrategy")),
	"CredentialSpecs[]":                      one(refused(inContainer(`"credentialSpecs":["credentialspec:x"]`), "credentialSpecs")),
	"ResourceRequirements[].Type":            both(says("gpu", "1,   3 ", " /dev/gpu0\n", "from-host\n"), refused(inContainer(`"resourceRequirements":[{"type":"InferenceAccelerator","value":"a"}]`), "resourceRequirements type InferenceAccelerator")),
	"ResourceRequirements[].Value":           one(says("gpu", "has GPU-stand-in set\n")),
}

func init() {
	for member, claims := range ofContainer {
		registry["ContainerDefinitions[]."+member] = claims
	}
}

// capability looks at the bounding set of container main in scene bridge (capabilities(7), numbers of capability.h).
func capability(bit int, want bool) claim {
	return claim{scene: "bridge", see: func(s *stage) error {
		_, rest, _ := strings.Cut(s.output["main"], "CapBnd:")
		var set uint64
		if _, err := fmt.Sscanf(strings.TrimSpace(rest), "%x", &set); err != nil {
			return err
		}
		if got := set>>bit&1 == 1; got != want {
			return fmt.Errorf("the bounding set is %x", set)
		}
		return nil
	}}
}

func writable(c inspected, target string) bool {
	i := slices.IndexFunc(c.Mounts, func(m mountPoint) bool { return m.Destination == target })
	return i < 0 || c.Mounts[i].RW
}

// binding looks at the network binding of a host port as the control plane tells it.
func binding(hostPort int32, show func(bound) any, want any) claim {
	return wants("bridge", func(s *stage) any {
		for _, c := range s.task.Containers {
			for _, b := range c.NetworkBindings {
				if aws.ToInt32(b.HostPort) == hostPort {
					return show(b)
				}
			}
		}
		return "no such binding"
	}, want)
}
