package poll

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"
	"github.com/google/go-cmp/cmp"

	"github.com/longshore-project/longshore/controlplane/store"
	"github.com/longshore-project/longshore/controlplane/task"
	"github.com/longshore-project/longshore/protocol/acs"
)

func ptr[T any](v T) *T { return &v }

func payloadTask(t *testing.T, def *types.TaskDefinition, change ...func(*task.Params)) *store.Task {
	t.Helper()
	p := task.Params{ID: "0123456789abcdef0123456789abcdef", Cluster: cluster, Definition: def, Now: time.Now(),
		Instance: &store.Instance{Cluster: cluster, ID: instance, Object: types.ContainerInstance{ContainerInstanceArn: aws.String(owner.ContainerInstance(cluster, instance))}}}
	for _, f := range change {
		f(&p)
	}
	made, err := task.New(p)
	if err != nil {
		t.Fatal(err)
	}
	return made
}

func payloadOf(t *testing.T, def *types.TaskDefinition, made *store.Task, c Credentials) *acs.Task {
	t.Helper()
	out, err := Payload(def, made, c)
	if err != nil {
		t.Fatal(err)
	}
	if err := out.Validate(); err != nil {
		t.Fatal(err)
	}
	return out
}

// object is a JSON document as a value.
func object(t *testing.T, text string) (v any) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	return v
}

func TestTheLoggingAgentsPayload(t *testing.T) {
	def := &types.TaskDefinition{
		Family: ptr("logging-agent"), Revision: 7, TaskDefinitionArn: ptr(owner.TaskDefinition("logging-agent", 7)), NetworkMode: types.NetworkModeHost,
		Cpu: ptr("256"), Memory: ptr("512"), TaskRoleArn: ptr("arn:aws:iam::123456789012:role/t"), ExecutionRoleArn: ptr("arn:aws:iam::123456789012:role/e"),
		Volumes: []types.Volume{{Name: ptr("logs"), Host: &types.HostVolumeProperties{SourcePath: ptr("/var/log")}}, {Name: ptr("scratch")}, {Name: ptr("empty"), Host: &types.HostVolumeProperties{}}},
		ContainerDefinitions: []types.ContainerDefinition{{
			Name: ptr("fluentd"), Image: ptr("fluentd:1"), User: ptr("1000"), PortMappings: []types.PortMapping{},
			MountPoints:      []types.MountPoint{{SourceVolume: ptr("logs"), ContainerPath: ptr("/logs"), ReadOnly: ptr(true)}},
			LogConfiguration: &types.LogConfiguration{LogDriver: types.LogDriverAwslogs, Options: map[string]string{"awslogs-group": "g", "awslogs-region": "r", "awslogs-stream-prefix": "p"}},
		}},
	}
	made := payloadTask(t, def, func(p *task.Params) { p.Service, p.Deployment = "datadog-agent", "ecs-svc/1" })
	out := payloadOf(t, def, made, Credentials{})
	got, err := json.Marshal(out)
	if err != nil {
		t.Fatal(err)
	}
	const id = "0123456789abcdef0123456789abcdef"
	want := `{"arn":"` + owner.Task(cluster, id) + `","taskClusterArn":"` + owner.Cluster(cluster) + `","family":"logging-agent","version":"7",
		"taskDefinitionAccountId":"123456789012","desiredStatus":"RUNNING","overrides":"{}","cpu":0.25,"memory":512,"networkMode":"host","launchType":"EC2",
		"serviceName":"datadog-agent","group":"service:datadog-agent",
		"volumes":[{"name":"logs","type":"host","host":{"sourcePath":"/var/log"}},{"name":"scratch","type":"host","host":{}},{"name":"empty","type":"host","host":{}}],
		"containers":[{"name":"fluentd","containerArn":"` + *made.Object.Containers[0].ContainerArn + `","image":"fluentd:1","essential":true,"overrides":"{}",
			"environment":{"AWS_EXECUTION_ENV":"AWS_ECS_EC2"},"mountPoints":[{"sourceVolume":"logs","containerPath":"/logs","readOnly":true}],
			"dockerConfig":{"config":"{\"User\":\"1000\"}",
			"hostConfig":"{\"NetworkMode\":\"host\",\"LogConfig\":{\"Type\":\"awslogs\",\"Config\":{\"awslogs-group\":\"g\",\"awslogs-region\":\"r\",\"awslogs-stream\":\"p/fluentd/` + id + `\"}}}"}}]}`
	if d := cmp.Diff(object(t, want), object(t, string(got))); d != "" {
		t.Error(d)
	}
	// With credentials for the roles the log driver and private registries use them.
	c := Credentials{Task: &acs.IAMRoleCredentials{CredentialsID: "t"}, Execution: &acs.IAMRoleCredentials{CredentialsID: "e"}}
	out = payloadOf(t, def, made, c)
	if out.RoleCredentials != c.Task || out.ExecutionRoleCredentials != c.Execution || out.Containers[0].LogsAuthStrategy != "ExecutionRole" {
		t.Errorf("%+v", out)
	}
	if def.ContainerDefinitions[0].LogConfiguration.Options["awslogs-stream-prefix"] != "p" {
		t.Error("the definition was modified")
	}
}

func TestEveryContainerFieldHasItsPlace(t *testing.T) {
	def := &types.TaskDefinition{
		Family: ptr("all"), Revision: 1, TaskDefinitionArn: ptr(owner.TaskDefinition("all", 1)), PidMode: types.PidModeHost, IpcMode: types.IpcModeTask, EnableFaultInjection: ptr(true),
		ProxyConfiguration: &types.ProxyConfiguration{Type: types.ProxyConfigurationTypeAppmesh, ContainerName: ptr("all"), Properties: []types.KeyValuePair{{Name: ptr("ProxyIngressPort"), Value: ptr("15000")}}},
		Volumes: []types.Volume{
			{Name: ptr("d"), DockerVolumeConfiguration: &types.DockerVolumeConfiguration{Scope: types.ScopeShared, Autoprovision: ptr(true), Driver: ptr("local"), DriverOpts: map[string]string{"o": "x"}, Labels: map[string]string{"l": "y"}}},
			{Name: ptr("s"), DockerVolumeConfiguration: &types.DockerVolumeConfiguration{}},
			{Name: ptr("e"), EfsVolumeConfiguration: &types.EFSVolumeConfiguration{FileSystemId: ptr("fs-1"), RootDirectory: ptr("/r"), TransitEncryption: types.EFSTransitEncryptionEnabled, TransitEncryptionPort: ptr(int32(2999)), AuthorizationConfig: &types.EFSAuthorizationConfig{AccessPointId: ptr("fsap-1"), Iam: types.EFSAuthorizationConfigIAMEnabled}}},
		},
		ContainerDefinitions: []types.ContainerDefinition{{
			Name: ptr("all"), Image: ptr("123456789012.dkr.ecr.eu-west-1.amazonaws.com/x:1"), Cpu: 10, Memory: ptr(int32(64)), MemoryReservation: ptr(int32(32)), Essential: ptr(false),
			EntryPoint: []string{"/e"}, Command: []string{"c"}, Environment: []types.KeyValuePair{{Name: ptr("A"), Value: ptr("1")}, {Name: ptr("B"), Value: nil}, {Name: nil, Value: ptr("x")}},
			EnvironmentFiles: []types.EnvironmentFile{{Value: ptr("arn:aws:s3:::b/k.env"), Type: types.EnvironmentFileTypeS3}},
			Secrets:          []types.Secret{{Name: ptr("S"), ValueFrom: ptr("arn:aws:secretsmanager:eu-west-1:123456789012:secret:x")}, {Name: ptr("P"), ValueFrom: ptr("/p")}},
			Links:            []string{"other:o"}, User: ptr("app:app"), WorkingDirectory: ptr("/w"), Hostname: ptr("h"), DisableNetworking: ptr(true), Interactive: ptr(true), PseudoTerminal: ptr(true),
			DockerLabels: map[string]string{"k": "<v>"}, Privileged: ptr(true), ReadonlyRootFilesystem: ptr(true), DnsServers: []string{"10.0.0.2"}, DnsSearchDomains: []string{"local"},
			ExtraHosts: []types.HostEntry{{Hostname: ptr("db"), IpAddress: ptr("10.0.0.3")}}, DockerSecurityOptions: []string{"no-new-privileges"},
			Ulimits:        []types.Ulimit{{Name: types.UlimitNameNofile, SoftLimit: 10, HardLimit: 20}},
			SystemControls: []types.SystemControl{{Namespace: ptr("net.core.somaxconn"), Value: ptr("512")}},
			PortMappings:   []types.PortMapping{{ContainerPort: ptr(int32(80))}, {ContainerPort: ptr(int32(53)), HostPort: ptr(int32(53)), Protocol: types.TransportProtocolUdp}, {ContainerPortRange: ptr("8000-8010")}},
			MountPoints:    []types.MountPoint{{SourceVolume: ptr("d"), ContainerPath: ptr("/d")}}, VolumesFrom: []types.VolumeFrom{{SourceContainer: ptr("other"), ReadOnly: ptr(true)}},
			DependsOn:     []types.ContainerDependency{{ContainerName: ptr("other"), Condition: types.ContainerConditionHealthy}},
			RestartPolicy: &types.ContainerRestartPolicy{Enabled: ptr(true), IgnoredExitCodes: []int32{0, 7}}, StartTimeout: ptr(int32(11)), StopTimeout: ptr(int32(12)),
			HealthCheck: &types.HealthCheck{Command: []string{"CMD-SHELL", "x"}, StartPeriod: ptr(int32(2)), Retries: ptr(int32(4))}, CredentialSpecs: []string{"credentialspec:x"},
			FirelensConfiguration: &types.FirelensConfiguration{Type: types.FirelensConfigurationTypeFluentbit, Options: map[string]string{"enable-ecs-log-metadata": "true"}},
			LogConfiguration:      &types.LogConfiguration{LogDriver: types.LogDriverSplunk, Options: map[string]string{"splunk-url": "u"}, SecretOptions: []types.Secret{{Name: ptr("splunk-token"), ValueFrom: ptr("arn:aws:ssm:eu-west-1:123456789012:parameter/t")}}},
			LinuxParameters: &types.LinuxParameters{Capabilities: &types.KernelCapabilities{Add: []string{"NET_ADMIN"}, Drop: []string{"ALL"}}, InitProcessEnabled: ptr(true), SharedMemorySize: ptr(int32(64)), MaxSwap: ptr(int32(100)), Swappiness: ptr(int32(0)),
				Devices: []types.Device{{HostPath: ptr("/dev/fuse")}, {HostPath: ptr("/dev/a"), ContainerPath: ptr("/dev/b"), Permissions: []types.DeviceCgroupPermission{types.DeviceCgroupPermissionRead, types.DeviceCgroupPermissionMknod}}},
				Tmpfs:   []types.Tmpfs{{ContainerPath: ptr("/t"), Size: 16, MountOptions: []string{"noexec"}}}},
			ResourceRequirements: []types.ResourceRequirement{{Type: types.ResourceTypeGpu, Value: ptr("2")}},
		}, {Name: ptr("other"), Image: ptr("private/x"), HealthCheck: &types.HealthCheck{Command: []string{"NONE"}}, RepositoryCredentials: &types.RepositoryCredentials{CredentialsParameter: ptr("arn:aws:secretsmanager:eu-west-1:1:secret:r")},
			ResourceRequirements: []types.ResourceRequirement{{Type: types.ResourceTypeGpu, Value: ptr("1")}}}},
	}
	made := payloadTask(t, def, func(p *task.Params) { p.LaunchType = types.LaunchTypeExternal; p.EnableExecuteCommand = true })
	made.Reserved.GPUs = []string{"g0", "g1", "g2"}
	out := payloadOf(t, def, made, Credentials{})
	c := out.Containers[0]
	if d := cmp.Diff(object(t, `{"User":"app:app","WorkingDir":"/w","Hostname":"h","NetworkDisabled":true,"OpenStdin":true,"Tty":true,"Labels":{"k":"<v>"},
		"Healthcheck":{"Test":["CMD-SHELL","x"],"Interval":30000000000,"Timeout":5000000000,"StartPeriod":2000000000,"Retries":4}}`), object(t, c.DockerConfig.Config)); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff(object(t, `{"NetworkMode":"bridge","Privileged":true,"ReadonlyRootfs":true,"MemoryReservation":33554432,"MemorySwap":171966464,"MemorySwappiness":0,
		"CapAdd":["NET_ADMIN"],"CapDrop":["ALL"],"Devices":[{"PathOnHost":"/dev/fuse","PathInContainer":"/dev/fuse","CgroupPermissions":"rwm"},{"PathOnHost":"/dev/a","PathInContainer":"/dev/b","CgroupPermissions":"rm"}],
		"Init":true,"ShmSize":67108864,"Tmpfs":{"/t":"size=16m,noexec"},"Ulimits":[{"Name":"nofile","Soft":10,"Hard":20}],"Sysctls":{"net.core.somaxconn":"512"},"Dns":["10.0.0.2"],"DnsSearch":["local"],
		"ExtraHosts":["db:10.0.0.3"],"SecurityOpt":["no-new-privileges"],"LogConfig":{"Type":"splunk","Config":{"splunk-url":"u"}}}`), object(t, c.DockerConfig.HostConfig)); d != "" {
		t.Error(d)
	}
	c.DockerConfig = nil
	out.Containers[1].DockerConfig = nil
	got, _ := json.Marshal(out)
	arns := made.Object.Containers
	want := `{"arn":"` + *made.Object.TaskArn + `","taskClusterArn":"` + owner.Cluster(cluster) + `","family":"all","version":"1","taskDefinitionAccountId":"123456789012","desiredStatus":"RUNNING","overrides":"{}",
		"networkMode":"bridge","pidMode":"host","ipcMode":"task","launchType":"EXTERNAL","group":"family:all","enableFaultInjection":true,
		"proxyConfiguration":{"type":"APPMESH","containerName":"all","properties":{"ProxyIngressPort":"15000"}},
		"volumes":[{"name":"d","type":"docker","dockerVolumeConfiguration":{"scope":"shared","autoprovision":true,"driver":"local","driverOpts":{"o":"x"},"labels":{"l":"y"}}},
			{"name":"s","type":"docker","dockerVolumeConfiguration":{"scope":"task"}},
			{"name":"e","type":"efs","efsVolumeConfiguration":{"fileSystemId":"fs-1","rootDirectory":"/r","transitEncryption":"ENABLED","transitEncryptionPort":2999,"authorizationConfig":{"accessPointId":"fsap-1","iam":"ENABLED"}}}],
		"associations":[{"name":"g0","type":"gpu","content":{"value":"g0","encoding":"identity"},"containers":["all"]},{"name":"g1","type":"gpu","content":{"value":"g1","encoding":"identity"},"containers":["all"]},{"name":"g2","type":"gpu","content":{"value":"g2","encoding":"identity"},"containers":["other"]}],
		"containers":[{"name":"all","containerArn":"` + *arns[0].ContainerArn + `","image":"123456789012.dkr.ecr.eu-west-1.amazonaws.com/x:1","essential":false,"cpu":10,"memory":64,"entryPoint":["/e"],"command":["c"],
			"environment":{"A":"1","B":"","AWS_EXECUTION_ENV":"AWS_ECS_EXTERNAL"},"environmentFiles":[{"value":"arn:aws:s3:::b/k.env","type":"s3"}],"overrides":"{}","links":["other:o"],
			"portMappings":[{"containerPort":80,"hostPort":0,"protocol":"tcp"},{"containerPort":53,"hostPort":53,"protocol":"udp"},{"hostPort":0,"containerPortRange":"8000-8010","protocol":"tcp"}],
			"mountPoints":[{"sourceVolume":"d","containerPath":"/d"}],"volumesFrom":[{"sourceContainer":"other","readOnly":true}],"dependsOn":[{"containerName":"other","condition":"HEALTHY"}],
			"startTimeout":11,"stopTimeout":12,"restartPolicy":{"enabled":true,"ignoredExitCodes":[0,7],"restartAttemptPeriod":300},"healthCheckType":"docker",
			"registryAuthentication":{"type":"ecr","ecrAuthData":{"registryId":"123456789012","region":"eu-west-1"}},
			"secrets":[{"name":"S","valueFrom":"arn:aws:secretsmanager:eu-west-1:123456789012:secret:x","region":"eu-west-1","provider":"asm","type":"ENVIRONMENT_VARIABLE","target":"CONTAINER"},
				{"name":"P","valueFrom":"/p","region":"us-west-2","provider":"ssm","type":"ENVIRONMENT_VARIABLE","target":"CONTAINER"},
				{"name":"splunk-token","valueFrom":"arn:aws:ssm:eu-west-1:123456789012:parameter/t","region":"eu-west-1","provider":"ssm","type":"BOOTSTRAP","target":"LOG_DRIVER"}],
			"firelensConfiguration":{"type":"fluentbit","options":{"enable-ecs-log-metadata":"true"}},"managedAgents":[{"name":"ExecuteCommandAgent"}],"credentialSpecs":["credentialspec:x"]},
			{"name":"other","containerArn":"` + *arns[1].ContainerArn + `","image":"private/x","essential":true,"environment":{"AWS_EXECUTION_ENV":"AWS_ECS_EXTERNAL"},"overrides":"{}",
			"registryAuthentication":{"type":"asm","asmAuthData":{"credentialsParameter":"arn:aws:secretsmanager:eu-west-1:1:secret:r","region":"eu-west-1"}},"managedAgents":[{"name":"ExecuteCommandAgent"}]}]}`
	if d := cmp.Diff(object(t, want), object(t, string(got))); d != "" {
		t.Error(d)
	}
}

func TestOverridesAreMerged(t *testing.T) {
	def := definition()
	def.Cpu, def.Memory = ptr("1 vCPU"), ptr("2GB")
	def.ContainerDefinitions[0].Command = []string{"old"}
	def.ContainerDefinitions[0].Environment = []types.KeyValuePair{{Name: ptr("A"), Value: ptr("old")}, {Name: ptr("K"), Value: ptr("kept")}, {Name: ptr("AWS_EXECUTION_ENV"), Value: ptr("mine")}}
	made := payloadTask(t, def, func(p *task.Params) {
		p.Overrides = &types.TaskOverride{Cpu: ptr("512"), Memory: ptr("1024"), ContainerOverrides: []types.ContainerOverride{{
			Name: ptr("web"), Command: []string{"new", "x"}, Cpu: ptr(int32(5)), Memory: ptr(int32(6)), MemoryReservation: ptr(int32(7)),
			Environment: []types.KeyValuePair{{Name: ptr("A"), Value: ptr("new")}, {Name: ptr("N"), Value: ptr("added")}}, EnvironmentFiles: []types.EnvironmentFile{{Value: ptr("f"), Type: "s3"}},
		}}}
	})
	out := payloadOf(t, def, made, Credentials{})
	if out.CPU != 0.5 || out.Memory != 1024 {
		t.Error(out.CPU, out.Memory)
	}
	c := out.Containers[0]
	if d := cmp.Diff(map[string]string{"A": "new", "K": "kept", "N": "added", "AWS_EXECUTION_ENV": "mine"}, c.Environment); d != "" {
		t.Error(d)
	}
	if strings.Join(c.Command, " ") != "new x" || c.CPU != 5 || c.Memory != 6 || !strings.Contains(c.DockerConfig.HostConfig, `"MemoryReservation":7340032`) || len(c.EnvironmentFiles) != 1 || c.Overrides != "{}" {
		t.Errorf("%+v %s", c, c.DockerConfig.HostConfig)
	}
	if len(out.Containers[1].Command) != 0 || len(def.ContainerDefinitions[0].Environment) != 3 {
		t.Error("another container or the definition was changed")
	}
}

func TestATaskWithoutALimitHasNone(t *testing.T) {
	def := definition()
	if out := payloadOf(t, def, payloadTask(t, def), Credentials{}); out.CPU != 0 || out.Memory != 0 {
		t.Error(out.CPU, out.Memory)
	}
}

func TestWhatHasNoFormOnTheWireIsNamed(t *testing.T) {
	for want, change := range map[string]func(*types.TaskDefinition, *store.Task){
		"volume v is of a kind": func(d *types.TaskDefinition, _ *store.Task) {
			d.Volumes = []types.Volume{{Name: ptr("v"), ConfiguredAtLaunch: ptr(true)}}
		},
		"a volume has no name": func(d *types.TaskDefinition, _ *store.Task) { d.Volumes = []types.Volume{{}} },
		"container web: linuxParameters.maxSwap needs a hard memory limit": func(d *types.TaskDefinition, _ *store.Task) {
			d.ContainerDefinitions[0].Memory, d.ContainerDefinitions[0].LinuxParameters = nil, &types.LinuxParameters{MaxSwap: ptr(int32(1))}
		},
		"container web: it asks for 3 GPUs and 1": func(d *types.TaskDefinition, t *store.Task) {
			t.Reserved.GPUs = []string{"g"}
			d.ContainerDefinitions[0].ResourceRequirements = []types.ResourceRequirement{{Type: types.ResourceTypeGpu, Value: ptr("3")}}
		},
	} {
		def := definition()
		made := payloadTask(t, def)
		change(def, made)
		if _, err := Payload(def, made, Credentials{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
	made := payloadTask(t, definition())
	if _, err := Payload(nil, made, Credentials{}); err == nil {
		t.Error("a task to run without a definition has a payload")
	}
	stopping := task.Stop(made, types.TaskStopCodeUserInitiated, "", time.Now())
	if out := payloadOf(t, nil, stopping, Credentials{}); out.DesiredStatus != "STOPPED" || out.Containers != nil {
		t.Errorf("%+v", out)
	}
}
