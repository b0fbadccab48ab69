package config

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// load loads an environment and a file's text, JSON too if there is one.
func load(t *testing.T, env []string, file string) (*Config, []string, error) {
	t.Helper()
	name := filepath.Join(t.TempDir(), "ecs.config")
	if err := os.WriteFile(name, []byte(file), 0o600); err != nil {
		t.Fatal(err)
	}
	if env == nil {
		env = []string{}
	}
	c, warnings, err := Load(Options{Environ: env, File: name})
	for i := range warnings {
		warnings[i] = strings.ReplaceAll(warnings[i], name, "FILE")
	}
	return c, warnings, err
}

func TestWithoutAnySettingEveryDefaultHolds(t *testing.T) {
	c, warnings, err := load(t, nil, "")
	if err != nil || len(warnings) != 0 {
		t.Fatalf("%v %v", warnings, err)
	}
	want := Config{
		DockerEndpoint: "unix:///var/run/docker.sock", Engine: "docker", ContainerdAddress: "/run/containerd/containerd.sock", ContainerdNamespace: "longshore", ContainerdSnapshotter: "overlayfs", ContainerdCertsDir: "/etc/containerd/certs.d", ReservedPorts: []uint16{22, 2375, 2376, 51678, 51679}, ReservedPortsUDP: []uint16{},
		DetailedOSFamily: "LINUX", DataDir: "/var/lib/ecs/data", PropagateTagsFrom: "none", ImagePreloadDir: "/var/lib/ecs/images",
		Log:            Log{File: "/var/log/ecs/ecs-agent.log", Level: "info", Format: "logfmt", RolloverType: "size", MaxSizeMB: 5, MaxRollCount: 24},
		LoggingDrivers: []string{"json-file", "none"}, IPv6BindingsExcluded: true, StatsInterval: 10 * time.Second, TaskLimits: true, FirelensAsync: true, HostVolumeCheck: "enforce", VolumePlugin: []string{}, CDIDirs: []string{"/etc/cdi", "/var/run/cdi"},
		TaskCleanupWait: 3 * time.Hour, ContainerStopTimeout: 30 * time.Second, ContainerStartTimeout: 3 * time.Minute, ContainerCreateTimeout: 4 * time.Minute,
		ImagePullBehavior: "default", ImagePullTimeout: 2 * time.Hour, ImagePullInactivity: time.Minute, ImagePulls: 4, ImagePullsPerRegistry: 3,
		ImageCleanupInterval: 30 * time.Minute, ImageCleanupAge: time.Hour, ForeignImageCleanupAge: time.Hour, ImagesPerCleanup: 5, ForeignContainersPerCleanup: 5, ManifestPullTimeout: time.Minute, ImageHighPercent: 85, ImageLowPercent: 80, ImageSizeCheck: true,
		CgroupPath: "/sys/fs/cgroup", CgroupCPUPeriod: 100 * time.Millisecond, HostPolicyFile: "/etc/ecs/policy",
		HealthcheckHost: "localhost", CredentialProfile: "default", AlternateProfile: "default",
		TaskRoles: true, HostTaskRoles: true, RoleLogs: true, BridgeBlockIMDS: true, AwsvpcBlockIMDS: true, TaskENI: true, TaskInterfaces: 250, TaskTrunks: true, MetadataRate: 40, MetadataBurst: 60, AuditFile: "/var/log/ecs/audit.log",
		ShutdownTimeout: 90 * time.Second, ResumeOnBoot: "daemons", OrphanPolicy: "keep", Predecessor: "adopt", DiskPressurePercent: 5, ContainerLogMaxSize: "10m", ContainerLogCopy: true, ContainerLogMaxFiles: 3, StoppedTasksKept: 3,
	}
	want.Settings = c.Settings // which have a test of their own
	if d := cmp.Diff(want, *c, cmpopts.IgnoreUnexported(Setting{})); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	if c.ClusterOrDefault() != "default" {
		t.Errorf("cluster %q", c.ClusterOrDefault())
	}
}

func TestTheEnvironmentWinsOverTheFileAndTheFileOverJSON(t *testing.T) {
	name := filepath.Join(t.TempDir(), "config.json")
	document := `{"Cluster":"json","awsregion":"json","DataDir":"/json","TaskCleanupWaitDuration":60000000000,"ReservedPorts":[1,2],"External":true,"Nonsense":1}`
	if err := os.WriteFile(name, []byte(document), 0o600); err != nil {
		t.Fatal(err)
	}
	c, warnings, err := load(t, []string{"ECS_CLUSTER=env", "ECS_DATADIR="}, "ECS_CLUSTER=file\nAWS_DEFAULT_REGION=first\nAWS_DEFAULT_REGION=file\nECS_AGENT_CONFIG_FILE_PATH="+name+"\n")
	if err != nil {
		t.Fatal(err)
	}
	if c.Cluster != "env" || c.Region != "file" || c.DataDir != "/json" || c.TaskCleanupWait != time.Minute || !c.External {
		t.Errorf("%+v", c)
	}
	if d := cmp.Diff([]uint16{1, 2}, c.ReservedPorts); d != "" {
		t.Error(d)
	}
	if want := fmt.Sprintf(`unknown member "Nonsense" in %s is ignored`, name); len(warnings) != 1 || warnings[0] != want {
		t.Errorf("warnings %q", warnings)
	}
}

func TestWhatSystemdHandsOverAsACredentialWinsOverTheFileAndNotOverTheEnvironment(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, CredentialName), []byte("AWS_ACCESS_KEY_ID=sealed\nAWS_SECRET_ACCESS_KEY=s\nECS_CLUSTER=sealed\nECS_CLUSTR=x\n"), 0o400); err != nil {
		t.Fatal(err)
	}
	c, warnings, err := load(t, []string{"CREDENTIALS_DIRECTORY=" + dir, "ECS_CLUSTER=env"}, "AWS_ACCESS_KEY_ID=plain\nAWS_DEFAULT_REGION=us-west-2\n")
	if err != nil {
		t.Fatal(err)
	}
	if c.AccessKeyID != "sealed" || c.Cluster != "env" || c.Region != "us-west-2" {
		t.Errorf("access key %q, cluster %q, region %q", c.AccessKeyID, c.Cluster, c.Region)
	}
	if len(warnings) != 1 || !strings.Contains(warnings[0], "ECS_CLUSTR") || !strings.Contains(warnings[0], CredentialName+" line 4") {
		t.Errorf("%q", warnings)
	}
	if _, warnings, err = load(t, []string{"CREDENTIALS_DIRECTORY=" + t.TempDir()}, ""); err != nil || len(warnings) != 0 {
		t.Errorf("without one: %v, %q", err, warnings)
	}
}

func TestAValueThatMakesNoSenseIsReplacedByTheDefaultWithAWarning(t *testing.T) {
	for file, want := range map[string]string{
		"ECS_CONTAINER_STOP_TIMEOUT=soon":       `ECS_CONTAINER_STOP_TIMEOUT (FILE line 1): "soon" is not a duration such as 30s or 2h; it is ignored, and the default 30s is used`,
		"ECS_CONTAINER_STOP_TIMEOUT=1ms":        `ECS_CONTAINER_STOP_TIMEOUT (FILE line 1): 1ms is less than 1s, which is used`,
		"ECS_EXTERNAL=perhaps":                  `ECS_EXTERNAL (FILE line 1): "perhaps" is neither true nor false; it is ignored, and the default false is used`,
		"ECS_RESERVED_MEMORY=-1":                `ECS_RESERVED_MEMORY (FILE line 1): -1 is not between 0 and 1099511627776; it is ignored, and the default 0 is used`,
		"ECS_RESERVED_PORTS=22":                 `ECS_RESERVED_PORTS (FILE line 1): not the JSON that is expected: json: cannot unmarshal number into Go value of type []uint16; it is ignored, and the default [22,2375,2376,51678,51679] is used`,
		"ECS_DYNAMIC_HOST_PORT_RANGE=9-8":       `ECS_DYNAMIC_HOST_PORT_RANGE (FILE line 1): "9-8" is not a range of ports such as 32768-60999; it is ignored, and no value is used`,
		"ECS_DATADIR=data":                      `ECS_DATADIR (FILE line 1): "data" is not an absolute path; it is ignored, and the default /var/lib/ecs/data is used`,
		"ECS_LOGLEVEL=loud":                     `ECS_LOGLEVEL (FILE line 1): "loud" is not one of crit, error, warn, info, debug, none; it is ignored, and the default info is used`,
		"ECS_CLUSTR=x":                          `unknown setting ECS_CLUSTR in FILE line 1 is ignored; did you mean ECS_CLUSTER?`,
		"ECS_ZZZZZZZZZZZZZZZZZZZZZ=x":           `unknown setting ECS_ZZZZZZZZZZZZZZZZZZZZZ in FILE line 1 is ignored`,
		"HOST_VOLUME_CHECK=off":                 `unknown setting HOST_VOLUME_CHECK in FILE line 1 is ignored; did you mean ECS_HOST_VOLUME_CHECK?`,
		"AWS_ACCESS_KEY_ID=AKIA":                `only one of AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY is set: both are ignored, and the next source of credentials is asked`,
		"ECS_UPDATES_ENABLED=true":              `ECS_UPDATES_ENABLED (FILE line 1): refused: the host's package manager updates this agent; such messages are answered with "Updates are disabled"`,
		"ECS_AGENT_RUN_PRIVILEGED=true":         `ECS_AGENT_RUN_PRIVILEGED (FILE line 1): has no effect: it configures the container that the agent runs in, and this agent runs on the host itself`,
		"ECS_CHECKPOINT=false":                  `ECS_CHECKPOINT (FILE line 1): has no effect: this agent always keeps its state`,
		"ECS_CLUSTER a":                         `FILE: line 1 has no '=' and is ignored`,
		"ECS_AGENT_CONFIG_FILE_PATH=/none.json": `ECS_AGENT_CONFIG_FILE_PATH names /none.json, which does not exist: it is ignored`,
	} {
		_, warnings, err := load(t, nil, file+"\n")
		if err != nil || len(warnings) != 1 || warnings[0] != want {
			t.Errorf("%s\n got %q %v\nwant %q", file, warnings, err, want)
		}
	}
}

func TestAnUnsupportedSettingThatAsksForWhatHappensAnywayIsNotWarnedAbout(t *testing.T) {
	_, warnings, err := load(t, []string{"ECS_UPDATES_ENABLED=0", "ECS_CHECKPOINT=1", "ECS_IMAGE_CLEANUP_INTERVAL=30m"}, "PATH=/bin\nAWS_STS_REGIONAL_ENDPOINTS=x\n")
	if err != nil || len(warnings) != 0 {
		t.Errorf("%q %v", warnings, err)
	}
}

func TestASettingThatMustNotBeGuessedIsAnError(t *testing.T) {
	for file, want := range map[string]string{
		"ECS_INSTANCE_ATTRIBUTES={":                   `: not the JSON that is expected: unexpected EOF; set it to a json map (such as {"key":"value"}), or remove it`,
		`ECS_INSTANCE_ATTRIBUTES={"a":1}`:             `: not the JSON that is expected: json: cannot unmarshal number into Go value of type string; set it to a json map (such as {"key":"value"}), or remove it`,
		`ECS_CONTAINER_INSTANCE_TAGS={"a":"b"} x`:     `: not the JSON that is expected: there is more behind the value; set it to a json map (such as {"key":"value"}), or remove it`,
		"ECS_AWSVPC_ADDITIONAL_LOCAL_ROUTES=10.0.0.0": `: not the JSON that is expected: json: cannot unmarshal number into Go value of type []string; set it to a json list, or remove it`,
		"ECS_TASK_NETWORK=ipvlan:eth0":                `: "ipvlan" is none of auto, bridge and macvlan; set it to a network (auto, bridge, bridge:NAME, bridge:NAME,uplink=INTERFACE or macvlan:INTERFACE), or remove it`,
		"ECS_TASK_NETWORK=macvlan":                    `: "" is not a name of an interface; set it to`,
		"ECS_TASK_NETWORK=bridge:a/b":                 `: "a/b" is not a name of an interface; set it to`,
		"ECS_TASK_NETWORK=bridge:a,eth0":              `: "eth0" is not uplink=INTERFACE; set it to`,
		"ECS_HOST_VOLUME_CHECK=enforced":              `: "enforced" is not one of enforce, warn, off; set it to one of enforce, warn, off, or remove it`,
	} {
		_, _, err := load(t, nil, file+"\n")
		name, _, _ := strings.Cut(file, "=")
		if err == nil || !strings.HasPrefix(err.Error(), name+" (") || !strings.Contains(err.Error(), " line 1)"+want) {
			t.Errorf("%s\n got %v\nwant %v", file, err, want)
		}
	}
}

func TestAConfigurationFileThatIsNamedMustBeThereAndHaveASize(t *testing.T) {
	if _, _, err := Load(Options{Environ: []string{}, File: "/does/not/exist"}); err == nil || !strings.Contains(err.Error(), "/does/not/exist") {
		t.Errorf("%v", err)
	}
	if _, _, err := load(t, nil, strings.Repeat("# x\n", maxFile/4+1)); err == nil || !strings.Contains(err.Error(), "more than 1048576") {
		t.Errorf("%v", err)
	}
}

func TestBrokenJSONIsAnError(t *testing.T) {
	name := filepath.Join(t.TempDir(), "config.json")
	if err := os.WriteFile(name, []byte(`{"Cluster":`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := load(t, []string{"ECS_AGENT_CONFIG_FILE_PATH=" + name}, ""); err == nil || !strings.Contains(err.Error(), name) {
		t.Errorf("%v", err)
	}
}

func TestUserDataThatIsJSONConfiguresWhatNothingElseDoes(t *testing.T) {
	dir := t.TempDir()
	file, data := filepath.Join(dir, "ecs.config"), filepath.Join(dir, "user-data.txt")
	if err := os.WriteFile(file, []byte("ECS_RESERVED_MEMORY=64\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]struct {
		cluster, warning string
	}{
		`{"ECSAgentConfiguration":{"Cluster":"ours","ReservedMemory":32,"Nonsense":1}}`: {"ours", "Nonsense"},
		"\n {\"other\":1}":      {},
		"#!/bin/sh\necho":       {},
		"{\"ECSAgentConf":       {warning: "begins like JSON and is none"},
		"#cloud-config\na: b\n": {},
	} {
		if err := os.WriteFile(data, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		c, warnings, err := Load(Options{Environ: []string{}, File: file, UserData: data})
		if err != nil || c.Cluster != want.cluster || c.ReservedMemory != 64 || (len(warnings) == 1) != (want.warning != "") || !strings.Contains(strings.Join(warnings, "\n"), want.warning) {
			t.Errorf("%q: %q %d %q %v", text, c.Cluster, c.ReservedMemory, warnings, err)
		}
	}
}

func TestTheEndpointsOfServicesAreReadAndNeverGuessed(t *testing.T) {
	c, _, err := load(t, []string{"AWS_ENDPOINT_URL=http://127.0.0.1:4566"}, "AWS_ENDPOINT_URL_S3=https://minio:9000\nAWS_USE_FIPS_ENDPOINT=true\n")
	if err != nil || c.Endpoints.All != "http://127.0.0.1:4566" || c.Endpoints.S3 != "https://minio:9000" || !c.Endpoints.FIPS || c.Endpoints.DualStack {
		t.Errorf("%+v %v", c, err)
	}
	if _, _, err := load(t, nil, "AWS_ENDPOINT_URL_SSM=127.0.0.1:4566\n"); err == nil || !strings.Contains(err.Error(), "AWS_ENDPOINT_URL_SSM") {
		t.Error(err)
	}
}

func TestTheContainersPathsMeanTheHosts(t *testing.T) {
	c, _, err := load(t, nil, "ECS_DATADIR=/data/\nECS_LOGFILE=/log/ecs-agent.log\n")
	if err != nil || c.DataDir != "/var/lib/ecs/data" || c.Log.File != "/var/log/ecs/ecs-agent.log" {
		t.Errorf("%+v %v", c, err)
	}
	if got := hostPath("/database"); got != "/database" {
		t.Error(got)
	}
}

func TestTheLevelOfTheFileIsItsOwn(t *testing.T) {
	c, _, err := load(t, nil, "ECS_LOGLEVEL=error\nECS_LOGLEVEL_ON_INSTANCE=debug\nECS_BACKEND_HOST=control.example:8480\n")
	if err != nil || c.Log.Level != "error" || c.Log.FileLevel != "debug" || c.APIEndpoint != "https://control.example:8480" {
		t.Errorf("%+v %v", c, err)
	}
}

func TestEveryKnobIsDocumentedOnceAndItsDefaultIsUnderstood(t *testing.T) {
	seen := map[string]bool{}
	for i := range Knobs {
		k := &Knobs[i]
		for _, name := range append([]string{k.Name}, k.Aliases...) {
			if seen[name] {
				t.Errorf("%s stands twice", name)
			}
			seen[name] = true
		}
		if k.JSON != "" && seen["json "+strings.ToLower(k.JSON)] {
			t.Errorf("JSON member %s stands twice", k.JSON)
		}
		seen["json "+strings.ToLower(k.JSON)] = k.JSON != ""
		if k.Type == "" || k.Meaning == "" || strings.HasSuffix(k.Meaning, ".") {
			t.Errorf("%s: type %q, meaning %q", k.Name, k.Type, k.Meaning)
		}
		if k.parse != nil && k.Default != "" {
			if err := k.parse(&Config{}, k.Default); err != nil {
				t.Errorf("%s: default: %v", k.Name, err)
			}
		}
		if k.Support == Supported && k.parse == nil && k.Name != "ECS_AGENT_CONFIG_FILE_PATH" && k.Name != "ECS_LOGLEVEL_ON_INSTANCE" {
			t.Errorf("%s is read by nobody", k.Name)
		}
	}
}

func TestSecretsAreShownNowhere(t *testing.T) {
	c, warnings, err := load(t, nil, "AWS_ACCESS_KEY_ID=AKIA\nAWS_SECRET_ACCESS_KEY=topsecret\nECS_ENGINE_AUTH_DATA={\"x\":\"topsecret\"}\n")
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []string{fmt.Sprintf("%v", *c), fmt.Sprintf("%+v", c), fmt.Sprintf("%#v", *c), strings.Join(warnings, "\n")} {
		if strings.Contains(s, "topsecret") {
			t.Error(s)
		}
	}
	if string(c.SecretAccessKey) != "topsecret" {
		t.Error("the secret can't be used")
	}
}

func TestCredentialsComeFromTheFirstSourceThatHasSome(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "credentials")
	content := "# keys\n[default]\naws_access_key_id = FILE\naws_secret_access_key=s\n[ other ]\nAWS_ACCESS_KEY_ID=OTHER\naws_secret_access_key=s\naws_session_token=t\n[empty]\n"
	if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	role := aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
		return aws.Credentials{AccessKeyID: "ROLE", SecretAccessKey: "s"}, nil
	})
	base := Config{SharedCredentialsFile: name, CredentialProfile: "default", AlternateProfile: "default"}
	with := func(f func(*Config)) *Config { c := base; f(&c); return &c }
	for _, c := range []struct {
		name string
		conf *Config
		role aws.CredentialsProvider
		want string
	}{
		{"environment first", with(func(c *Config) { c.AccessKeyID, c.SecretAccessKey = "ENV", "s" }), role, "ENV"},
		{"then the file", &base, role, "FILE"},
		{"a profile", with(func(c *Config) { c.CredentialProfile = "other" }), nil, "OTHER"},
		{"an external instance's profile", with(func(c *Config) { c.External, c.AlternateProfile = true, "other" }), nil, "OTHER"},
		{"a profile without keys", with(func(c *Config) { c.CredentialProfile = "empty" }), role, "ROLE"},
		{"no file", with(func(c *Config) { c.SharedCredentialsFile = dir + "/none" }), role, "ROLE"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := c.conf.Credentials(c.role).Retrieve(t.Context())
			if err != nil || got.AccessKeyID != c.want {
				t.Errorf("%v %v", got.AccessKeyID, err)
			}
		})
	}
	missing := with(func(c *Config) { c.SharedCredentialsFile = dir + "/none" })
	failing := aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
		return aws.Credentials{}, errors.New("no role")
	})
	_, err := missing.Credentials(failing).Retrieve(t.Context())
	if err == nil || !strings.Contains(err.Error(), "no role") || !strings.Contains(err.Error(), "AWS_ACCESS_KEY_ID") || !strings.Contains(err.Error(), dir+"/none") {
		t.Errorf("%v", err)
	}
}

func TestReservedMemoryIsANumberOrMeasured(t *testing.T) {
	for text, want := range map[string]Config{"512": {ReservedMemory: 512}, "auto": {ReservedMemoryAuto: true}} {
		c, warnings, err := Load(Options{Environ: []string{"ECS_RESERVED_MEMORY=" + text, "AWS_DEFAULT_REGION=us-west-2"}})
		if err != nil || len(warnings) != 0 || c.ReservedMemory != want.ReservedMemory || c.ReservedMemoryAuto != want.ReservedMemoryAuto {
			t.Errorf("%s: %v %v %v", text, c, warnings, err)
		}
	}
}

func TestWhatTasksInterfacesHangOnIsReadInEachForm(t *testing.T) {
	for text, want := range map[string]TaskNetwork{
		"auto":                      {},
		"bridge":                    {Bridge: "longshore-task"},
		"bridge:br0":                {Bridge: "br0"},
		"bridge:br0,uplink=eth1":    {Bridge: "br0", Uplink: "eth1"},
		"bridge,uplink=eth1":        {Bridge: "longshore-task", Uplink: "eth1"},
		"macvlan:enp1s0f0":          {Macvlan: "enp1s0f0"},
		"bridge:br0,uplink=eth0.12": {Bridge: "br0", Uplink: "eth0.12"},
	} {
		if c, warnings, err := load(t, nil, "ECS_TASK_NETWORK="+text+"\n"); err != nil || len(warnings) != 0 || c.TaskNetwork != want {
			t.Errorf("%s: %+v %q %v", text, c.TaskNetwork, warnings, err)
		}
	}
}

func TestWhatTasksInterfacesHangOnWhereNothingIsSaid(t *testing.T) {
	const head = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n"
	for table, want := range map[string]TaskNetwork{
		"": {Bridge: "longshore-task"},
		head + "docker0\t000011AC\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0\n":                                                               {Bridge: "longshore-task"},
		head + "wlan0\t00000000\t0100A8C0\t0003\t0\t0\t600\t00000000\t0\t0\t0\neth0\t00000000\t0100A8C0\t0003\t0\t0\t100\t00000000\t0\t0\t0\n": {Macvlan: "eth0"},
		head + "tun0\t00000000\t00000000\t0001\t0\t0\t0\t00000080\t0\t0\t0\nshort\n":                                                           {Bridge: "longshore-task"},
	} {
		if got := (TaskNetwork{}).On(DefaultRoute(table)); got != want {
			t.Errorf("%q: %+v, want %+v", table, got, want)
		}
	}
	if got := (TaskNetwork{Bridge: "br0"}).On("eth0"); got.Bridge != "br0" || got.Macvlan != "" {
		t.Errorf("what is named became %+v", got)
	}
}

func TestEverySettingIsShownWithItsSourceAndWhatBecameOfIt(t *testing.T) {
	file := filepath.Join(t.TempDir(), "ecs.config")
	if err := os.WriteFile(file, []byte("# mine\nECS_LOGLEVEL=loud\nECS_CLUSTER=daemonset\nAWS_SECRET_ACCESS_KEY=planted\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c, _, err := Load(Options{Environ: []string{"ECS_INSTANCE_NAME=rack-7"}, File: file})
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Settings) != len(Knobs) {
		t.Errorf("%d of %d settings are shown", len(c.Settings), len(Knobs))
	}
	shown := map[string]string{}
	for _, s := range c.Settings {
		shown[s.Name] = s.Value + " from " + s.Source + " " + s.Note
	}
	for name, want := range map[string]string{
		"ECS_CLUSTER": "daemonset from " + file + " line 3 ", "ECS_INSTANCE_NAME": "rack-7 from the environment ",
		"ECS_LOGLEVEL":        "info from default what " + file + " line 2 says is ignored: ",
		"ECS_LOGFILE":         "/var/log/ecs/ecs-agent.log from default ",
		"AWS_SESSION_TOKEN":   " from default ",
		"ECS_BACKEND_HOST":    " from default ",
		"ECS_SELINUX_CAPABLE": "false from default ",
	} {
		if !strings.HasPrefix(shown[name], want) {
			t.Errorf("%s is shown as %q, not %q", name, shown[name], want)
		}
	}
	if all := fmt.Sprint(shown, c.Settings); strings.Contains(shown["AWS_SECRET_ACCESS_KEY"], "planted") || !strings.Contains(all, "[hidden]") {
		t.Error("a secret is shown")
	}
}

func TestWithStrictConfigurationAWarningIsAnError(t *testing.T) {
	for _, setting := range []string{"ECS_LOGLEVEL=loud", "ECS_CLUSTRE=x"} {
		if _, warnings, err := Load(Options{Environ: []string{setting}, File: emptyFile(t)}); err != nil || len(warnings) != 1 {
			t.Errorf("%s: %q, %v", setting, warnings, err)
		}
		_, warnings, err := Load(Options{Environ: []string{setting, "ECS_CONFIG_STRICT=true"}, File: emptyFile(t)})
		if name, _, _ := strings.Cut(setting, "="); err == nil || len(warnings) != 0 || !strings.Contains(err.Error(), name) {
			t.Errorf("%s, strictly: %q, %v", setting, warnings, err)
		}
	}
}

func emptyFile(t *testing.T) string {
	file := filepath.Join(t.TempDir(), "ecs.config")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}
