package failures

import (
	"context"
	"fmt"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"

	"github.com/longshore-project/longshore/test/e2e"
)

type (
	definition = ecs.RegisterTaskDefinitionInput
	container  = types.ContainerDefinition
)

// scene causes one failure of the catalogue.
type scene struct {
	definition func(w *world, d *definition)                          // changes the task definition, whose container is main and runs on
	before     func(w *world)                                         // on the host, before the task is run
	running    func(ctx context.Context, w *world, task string) error // to a task that is RUNNING
	only       string                                                 // the engine on which there is such a failure; both if empty
}

// with changes container main.
func with(change func(w *world, c *container)) func(*world, *definition) {
	return func(w *world, d *definition) { change(w, &d.ContainerDefinitions[0]) }
}

func image(of func(w *world) string) scene {
	return scene{definition: with(func(w *world, c *container) { c.Image = aws.String(of(w)) })}
}

func sh(script string) func(*world, *definition) {
	return with(func(_ *world, c *container) { c.Command = []string{"sh", "-c", script} })
}

// secret has main want a secret, with the execution role.
func secret(executionRole, from string) scene {
	return scene{definition: func(_ *world, d *definition) {
		d.ExecutionRoleArn = &executionRole
		d.ContainerDefinitions[0].Secrets = []types.Secret{{Name: aws.String("PASSWORD"), ValueFrom: &from}}
	}}
}

// hostVolume mounts a path of the host at a target.
func hostVolume(path, target, user string) scene {
	return scene{definition: volume(types.Volume{Host: &types.HostVolumeProperties{SourcePath: &path}}, target, user)}
}

func volume(v types.Volume, target, user string) func(*world, *definition) {
	return func(_ *world, d *definition) {
		v.Name = aws.String("data")
		d.Volumes = []types.Volume{v}
		c := &d.ContainerDefinitions[0]
		c.MountPoints = []types.MountPoint{{SourceVolume: v.Name, ContainerPath: &target}}
		if user != "" {
			c.User = &user
		}
	}
}

func logTo(driver types.LogDriver, options map[string]string) scene {
	return scene{definition: with(func(_ *world, c *container) {
		c.LogConfiguration = &types.LogConfiguration{LogDriver: driver, Options: options}
	})}
}

func hostPorts(ports ...int32) func(*world, *definition) {
	return with(func(_ *world, c *container) {
		for i, p := range ports {
			c.PortMappings = append(c.PortMappings, types.PortMapping{ContainerPort: aws.Int32(80 + int32(i)), HostPort: aws.Int32(p), Protocol: types.TransportProtocolTcp})
		}
	})
}

// first puts a container before main, which depends on it.
func first(condition types.ContainerCondition, c container) func(*world, *definition) {
	return func(w *world, d *definition) {
		c.Name, c.Image, c.Memory = aws.String("first"), &w.image, aws.Int32(16)
		d.ContainerDefinitions[0].DependsOn = []types.ContainerDependency{{ContainerName: c.Name, Condition: condition}}
		d.ContainerDefinitions = append(d.ContainerDefinitions, c)
	}
}

// oneContainer is the only container of a task on the host's engine.
func (w *world) oneContainer(ctx context.Context, task string) (string, error) {
	list, err := w.lab.Seen(1).List(ctx)
	if err != nil {
		return "", err
	}
	for _, c := range list {
		if c.Labels["com.amazonaws.ecs.task-arn"] == task {
			return c.ID, nil
		}
	}
	return "", fmt.Errorf("no container of %s", task)
}

// scenes are by the failure's name.
var scenes = map[string]scene{
	"pull/no-such-tag":     image(func(w *world) string { return w.lan("5480") + "/probe:absent" }),
	"pull/no-such-image":   image(func(w *world) string { return w.lan("5480") + "/absent:1" }),
	"pull/architecture":    image(func(w *world) string { return w.lan("5480") + "/other-arch:1" }),
	"pull/registry-away":   image(func(w *world) string { return w.lan(nobodyPort) + "/app:1" }),
	"pull/registry-tls":    image(func(*world) string { return elsewhere + "/app:1" }),
	"pull/unauthenticated": image(func(w *world) string { return w.lan(closedPort) + "/app:1" }),
	"pull/throttled":       {only: e2e.Containerd, definition: with(func(w *world, c *container) { c.Image = aws.String(w.lan(throttledPort) + "/app:1") })},
	"pull/truncated-layer": image(func(w *world) string { return w.lan(brokenPort) + "/app:1" }),
	"pull/damaged-layer":   image(func(w *world) string { return w.lan(damagedPort) + "/app:1" }),
	"pull/not-a-reference": image(func(w *world) string { return w.lan("5480") + "/UPPER:1" }),
	"authentication/password": {definition: func(w *world, d *definition) {
		d.ExecutionRoleArn = aws.String(role)
		c := &d.ContainerDefinitions[0]
		c.Image, c.RepositoryCredentials = aws.String(w.lan(closedPort)+"/app:1"), &types.RepositoryCredentials{CredentialsParameter: aws.String(asm + "registry")}
	}},
	"authentication/ecr": {definition: func(_ *world, d *definition) {
		d.ExecutionRoleArn = aws.String(role)
		d.ContainerDefinitions[0].Image = aws.String(ecrDomain + "/app:1")
	}},
	"credential/secret-denied":  secret(role, asm+"denied"),
	"credential/secret-absent":  secret(role, asm+"absent"),
	"credential/secret-key":     secret(role, asm+"json:password::"),
	"credential/parameter":      secret(role, "absent"),
	"credential/role-not-there": secret(noRole, "plain"),
	"credential/env-file": {definition: func(_ *world, d *definition) {
		d.ExecutionRoleArn = aws.String(role)
		d.ContainerDefinitions[0].EnvironmentFiles = []types.EnvironmentFile{{Type: types.EnvironmentFileTypeS3, Value: aws.String("arn:aws:s3:::bucket/absent.env")}}
	}},
	"volume/user":      hostVolume("/tmp/host/private", "/data", "1000"),
	"volume/parent":    hostVolume("/tmp/host/in/file/below", "/data", ""),
	"volume/file":      hostVolume("/tmp/host/in/file", "/etc", ""),
	"volume/read-only": hostVolume("/proc/longshore", "/data", ""),
	"volume/absent":    {definition: volume(types.Volume{DockerVolumeConfiguration: &types.DockerVolumeConfiguration{Scope: types.ScopeShared, Autoprovision: aws.Bool(false)}}, "/data", "")},
	"volume/efs":       {definition: volume(types.Volume{EfsVolumeConfiguration: &types.EFSVolumeConfiguration{FileSystemId: aws.String("fs-0123abcd")}}, "/data", "")},
	"user/unknown":     {definition: with(func(_ *world, c *container) { c.User = aws.String("nobody-knows") })},
	"user/group":       {definition: with(func(_ *world, c *container) { c.User = aws.String("app:nobody-knows") })},
	"port/process":     {definition: hostPorts(8099), before: func(w *world) { w.onHost("busybox httpd -p 8099 -h /tmp/host") }},
	"port/container": {only: e2e.Docker, definition: hostPorts(8098), before: func(w *world) {
		w.onHost("docker -H unix:///run/docker.sock pull -q " + w.image + " && docker -H unix:///run/docker.sock run -d -p 8098:80 " + w.image + " sleep 100000")
	}},
	"port/range": {definition: hostPorts(0, 0, 0)},
	"limit/memory": {definition: with(func(_ *world, c *container) {
		c.Memory, c.Command = aws.Int32(16), []string{"sh", "-c", "x=aaaaaaaaaaaaaaaa; while :; do x=$x$x; done"}
	})},
	"limit/ulimit": {definition: with(func(_ *world, c *container) {
		c.Ulimits = []types.Ulimit{{Name: types.UlimitNameNofile, SoftLimit: 1 << 30, HardLimit: 1 << 30}}
	})},
	"limit/task-memory": {definition: func(_ *world, d *definition) {
		d.Memory = aws.String("20")
		d.ContainerDefinitions[0].Memory, d.ContainerDefinitions[0].Command = nil, []string{"sh", "-c", "x=aaaaaaaaaaaaaaaa; while :; do x=$x$x; done"}
	}},
	"log/option":       logTo(types.LogDriverJsonFile, map[string]string{"no-such-option": "1"}),
	"log/fluentd-away": logTo(types.LogDriverFluentd, map[string]string{"fluentd-address": "tcp://127.0.0.1:24999"}),
	"log/syslog-away":  logTo(types.LogDriverSyslog, map[string]string{"syslog-address": "tcp://127.0.0.1:24998"}),
	"policy/denied":    {definition: with(func(_ *world, c *container) { c.Privileged = aws.Bool(true) })},

	"container/command":    {definition: with(func(_ *world, c *container) { c.Command = []string{"no-such-program"} })},
	"container/not-a-file": {definition: with(func(_ *world, c *container) { c.Command = []string{"/bin/text"} })},
	"container/exit":       {definition: sh("echo no configuration; exit 3")},
	"container/exit-127":   {definition: sh("no-such-program")},
	"container/unhealthy": {definition: with(func(_ *world, c *container) {
		c.HealthCheck = &types.HealthCheck{Command: []string{"CMD-SHELL", "echo sick; exit 1"}, Interval: aws.Int32(5), Timeout: aws.Int32(2), Retries: aws.Int32(1)}
	})},
	"container/dependency": {definition: first(types.ContainerConditionSuccess, container{Essential: aws.Bool(false), Command: []string{"sh", "-c", "exit 4"}})},
	"container/start-timeout": {definition: first(types.ContainerConditionHealthy, container{StartTimeout: aws.Int32(2), StopTimeout: aws.Int32(2), Command: []string{"sleep", "100000"},
		HealthCheck: &types.HealthCheck{Command: []string{"CMD-SHELL", "sleep 4; exit 1"}, Interval: aws.Int32(5), Timeout: aws.Int32(5), Retries: aws.Int32(10)}})},
	"container/stop-timeout": {definition: with(func(_ *world, c *container) {
		c.Command, c.StopTimeout = []string{"sh", "-c", "trap '' TERM; while :; do sleep 1; done"}, aws.Int32(2)
	}), running: func(ctx context.Context, w *world, task string) error {
		_, err := w.api.StopTask(ctx, &ecs.StopTaskInput{Cluster: aws.String(cluster), Task: &task, Reason: aws.String("enough")})
		return err
	}},
	"container/killed": {running: func(ctx context.Context, w *world, task string) error {
		id, err := w.oneContainer(ctx, task)
		if err == nil {
			err = w.lab.Seen(1).Kill(ctx, id)
		}
		return err
	}},
}

// unplaced cause that a service's task is placed nowhere.
var unplaced = map[string]scene{
	"placement/memory": {definition: with(func(_ *world, c *container) { c.Memory = aws.Int32(1 << 28) })},
	"placement/cpu":    {definition: with(func(_ *world, c *container) { c.Cpu = 1 << 20 })},
	"placement/port":   {definition: hostPorts(51678)},
	"placement/attribute": {definition: with(func(_ *world, c *container) {
		c.LogConfiguration = &types.LogConfiguration{LogDriver: types.LogDriverSplunk, Options: map[string]string{"splunk-url": "http://127.0.0.1", "splunk-token": "t"}}
	})},
	"placement/constraint": {definition: func(_ *world, d *definition) {
		d.PlacementConstraints = []types.TaskDefinitionPlacementConstraint{{Type: types.TaskDefinitionPlacementConstraintTypeMemberOf, Expression: aws.String("attribute:env == prod")}}
	}},
	"placement/efs-plugin": {definition: volume(types.Volume{EfsVolumeConfiguration: &types.EFSVolumeConfiguration{FileSystemId: aws.String("fs-0123abcd"), TransitEncryption: types.EFSTransitEncryptionEnabled}}, "/data", "")},
}
