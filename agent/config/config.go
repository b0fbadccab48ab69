// Package config is the agent's configuration: what an operator writes in /etc/ecs/ecs.config or in the environment, under
// the names and with the meanings that the Amazon ECS agent gave them.
//
// [Knobs] is the one table of all settings: name, type, default, bounds and meaning. A setting that is not in it is
// unknown, and [Load] says so with the nearest name. The value of a setting comes from the first source that has a
// non-empty one:
//
//  1. the environment of the process
//  2. the environment file, /etc/ecs/ecs.config ([ParseEnvFile])
//  3. the JSON file that ECS_AGENT_CONFIG_FILE_PATH names
//  4. the default in the table
//
// A value that can't be understood, or is out of bounds, is replaced by the default with a warning, because an agent that
// runs with one setting wrong serves its host better than one that does not run. The exceptions are errors: the three JSON
// settings that change what an instance is (ECS_INSTANCE_ATTRIBUTES, ECS_CONTAINER_INSTANCE_TAGS,
// ECS_AWSVPC_ADDITIONAL_LOCAL_ROUTES), and the settings that guard a host (ECS_HOST_VOLUME_CHECK,
// ECS_HOST_POLICY_FILE).
//
// Configurations written for the agent in its container keep working: /data and /log, where that container sees its state
// and its logs, mean /var/lib/ecs/data and /var/log/ecs.
package config

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/longshore-project/longshore/internal/durable"
	"github.com/longshore-project/longshore/internal/nearest"
	"github.com/longshore-project/longshore/protocol/awsapi"
)

// DefaultFile is the environment file that operators edit.
const DefaultFile = "/etc/ecs/ecs.config"

// Config is what the agent runs with. [Load] fills it; every field has its value or its default.
type Config struct {
	Cluster        string // empty when not set: the cluster is then "default", and is created if there is none
	APIEndpoint    string // base URL of the ECS API, with scheme; empty means the region's own
	Region         string
	External       bool
	DockerEndpoint string
	// Engine is EngineDocker, EngineContainerd or EngineAuto.
	Engine                                                                                              string
	ContainerdAddress, ContainerdNamespace, ContainerdSnapshotter, ContainerdCertsDir, ContainerRuntime string
	Proxy                                                                                               Proxy
	CABundle                                                                                            string
	Endpoints                                                                                           awsapi.Endpoints // of the services beside ECS
	AllowNoIdentity                                                                                     bool             // NoIID of the JSON file: register without an identity document

	// Settings are all knobs as they are set, in the order of [Knobs].
	Settings []Setting
	// Strict makes what is only warned of an error.
	Strict bool

	InstanceAttributes map[string]string
	InstanceTags       map[string]string
	PropagateTagsFrom  string // none or PropagateFromEC2
	SpotDraining       bool   // at an interruption
	RebalanceDraining  bool   // at a recommendation
	WarmPool           bool   // wait in it
	ReservedPorts      []uint16
	ReservedPortsUDP   []uint16
	ReservedMemory     int64 // MiB
	ReservedMemoryAuto bool  // it is measured
	DynamicPorts       PortRange
	DetailedOSFamily   string
	AvailabilityZone   string
	InstanceType       string
	ImageID            string
	InstanceName       string
	InstanceAddress    string

	DataDir string
	Log     Log

	LoggingDrivers         []string
	PrivilegedDisabled     bool
	SELinuxCapable         bool
	AppArmorCapable        bool
	HealthChecksDisabled   bool
	TaskLimits             bool
	TaskLimitsDemanded     bool // TaskLimits was set, and is not the default
	CgroupPath             string
	CgroupCPUPeriod        time.Duration
	TaskPidsLimit          int64 // 0: none
	TaskRoles              bool
	HostTaskRoles          bool
	RoleLogs               bool
	TaskEndpointsOff       bool
	BridgeBlockIMDS        bool
	AwsvpcBlockIMDS        bool
	TaskENI                bool // networks of tasks' own
	TaskNetwork            TaskNetwork
	TaskInterfaces         int64
	TaskTrunks             bool
	MetadataRate           int64 // requests a second of each client
	MetadataBurst          int64
	AuditFile              string
	AuditOff               bool
	PropagateTaskMemory    bool
	HostPolicyFile         string
	FirelensAsync          bool
	PauseLabels            map[string]string
	IPv6BindingsExcluded   bool
	MetricsDisabled        bool
	StatsInterval          time.Duration
	Prometheus             bool
	MetadataFiles          bool
	MetadataWithoutZone    bool
	HostVolumeCheck        string
	HostVolumeCreateAsUser bool
	MatchSharedVolumes     bool
	GPUs                   bool
	CDIDirs                []string
	VolumePlugin           []string // capabilities of the EFS volume plugin
	ShutdownTimeout        time.Duration
	ResumeOnBoot           string
	OrphanPolicy           string
	Predecessor            string // adopt or leave
	DiskPressurePercent    int64
	ContainerLogMaxSize    string
	ContainerLogCopy       bool
	ContainerLogMaxFiles   int64
	StoppedTasksKept       int64 // of each family
	TaskCleanupJitter      time.Duration
	TaskCleanupWait        time.Duration
	ContainerStopTimeout   time.Duration
	ContainerStartTimeout  time.Duration
	ContainerCreateTimeout time.Duration
	ImagePullBehavior      string
	ImagePullTimeout       time.Duration
	ImagePullInactivity    time.Duration
	ImagePulls             int64 // at the same time
	ImagePullsPerRegistry  int64 // of them
	ImageCleanupOff        bool
	ImageCleanupInterval   time.Duration
	ImageCleanupAge        time.Duration
	ForeignImageCleanupAge time.Duration
	ImagesPerCleanup       int64
	// ManifestPullTimeout is the time that a registry has to give an image's manifest.
	ManifestPullTimeout time.Duration
	ForeignImageCleanup bool
	// ForeignContainersPerCleanup is how many containers of others one clean-up removes.
	ForeignContainersPerCleanup int64
	ImagesExcluded              []string
	ImagesPinned                []string
	ImageHighPercent            int64 // 0: no watermarks
	ImageLowPercent             int64
	ImageSizeCheck              bool
	ImagePreloadDir             string
	ImagePreloadCleanup         bool
	EngineAuthType              string
	EngineAuthData              Secret
	DockerConfig                string // directory of config.json; empty: ~/.docker
	HealthcheckHost             string
	SharedCredentialsFile       string
	CredentialProfile           string
	AlternateProfile            string
	AccessKeyID                 string
	SecretAccessKey             Secret
	SessionToken                Secret
	InstanceMetadataOff         bool
	InstanceMetadataAddress     string
}

// Proxy is how the agent reaches the world outside.
type Proxy struct {
	HTTP, HTTPS, None string
}

// Log is where and how the agent logs.
type Log struct {
	File         string // empty: standard error
	Level        string // crit, error, warn, info, debug or none
	FileLevel    string // the file's; empty: Level
	Format       string // logfmt or json
	RolloverType string // size or hourly
	MaxSizeMB    int64
	MaxRollCount int64
}

// PortRange is a range of ports, both ends included; the zero value is the engine's choice.
type PortRange struct {
	First, Last uint16
}

// Secret is a value that no log line, error or dump shows. Use string(s) to read it.
type Secret string

// String hides the value.
func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return "[hidden]"
}

// GoString hides the value.
func (s Secret) GoString() string { return s.String() }

// MarshalText hides the value.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// ClusterOrDefault is the cluster to join: the configured one, or "default".
func (c *Config) ClusterOrDefault() string {
	if c.Cluster == "" {
		return "default"
	}
	return c.Cluster
}

// Options says where [Load] reads.
type Options struct {
	// Environ is the environment, KEY=VALUE each; nil means the process's.
	Environ []string
	// File is the environment file; empty means [DefaultFile], which may be absent. A file that is named must exist.
	File string
	// UserData is the file of the instance's user data; empty means where cloud-init keeps it.
	UserData string
}

// Load reads the configuration. The warnings are sentences for the log: what was ignored, why, and what is used instead.
// The error is for settings that must not be guessed; it names each.
func Load(o Options) (*Config, []string, error) {
	l := loader{values: map[string]value{}}
	l.readSources(o)
	if len(l.errs) > 0 {
		return nil, l.warnings, errors.Join(l.errs...)
	}
	c := &Config{}
	for i := range Knobs {
		l.apply(c, &Knobs[i])
	}
	l.finish(c)
	l.strictly(c)
	if len(l.errs) > 0 {
		return nil, l.warnings, errors.Join(l.errs...)
	}
	return c, l.warnings, nil
}

// value is a setting as a source gave it.
type value struct {
	text   string
	source string
}

type loader struct {
	values   map[string]value
	warnings []string
	errs     []error
}

func (l *loader) warnf(format string, args ...any) {
	l.warnings = append(l.warnings, fmt.Sprintf(format, args...))
}

func (l *loader) errorf(format string, args ...any) {
	l.errs = append(l.errs, fmt.Errorf(format, args...))
}

// readSources gathers all sources: the environment and the file first, because they name the JSON file.
func (l *loader) readSources(o Options) {
	l.readEnvironment(o.Environ)
	l.readCredential(o.Environ)
	l.readFile(o.File)
	if v, ok := l.values["ECS_AGENT_CONFIG_FILE_PATH"]; ok {
		l.readJSON(hostPath(v.text))
	}
	l.readUserData(cmp.Or(o.UserData, userDataFile))
}

func (l *loader) readEnvironment(environ []string) {
	if environ == nil {
		environ = os.Environ()
	}
	for _, kv := range environ {
		key, text, _ := strings.Cut(kv, "=")
		if _, known := knobByName[key]; !known {
			if strings.HasPrefix(key, "ECS_") || strings.HasPrefix(key, "NON_ECS_") || strings.HasPrefix(key, "NONECS_") {
				l.unknown(key, "the environment")
			}
			continue
		}
		l.set(key, text, "the environment")
	}
}

// set keeps the first non-empty value of a setting.
func (l *loader) set(key, text, source string) {
	if _, ok := l.values[key]; !ok && strings.TrimSpace(text) != "" {
		l.values[key] = value{text: text, source: source}
	}
}

// CredentialName is the credential of systemd (LoadCredential=, SetCredentialEncrypted= in the unit) whose content is as that of the
// configuration file, and wins over it: keys that are not to lie on the disk.
const CredentialName = "longshore-agent.config"

// readCredential reads it where systemd hands one over.
func (l *loader) readCredential(environ []string) {
	if environ == nil {
		environ = os.Environ()
	}
	for _, kv := range environ {
		if dir, ok := strings.CutPrefix(kv, "CREDENTIALS_DIRECTORY="); ok && dir != "" {
			l.readAssignments(filepath.Join(dir, CredentialName), false)
		}
	}
}

func (l *loader) readFile(name string) { l.readAssignments(cmp.Or(name, DefaultFile), name != "") }

// readAssignments reads a file of them; one that must be there is missed.
func (l *loader) readAssignments(name string, must bool) {
	data, err := durable.Read(name, maxFile)
	switch {
	case errors.Is(err, fs.ErrNotExist) && !must:
		return
	case err != nil:
		l.errorf("read the configuration file: %w", err)
		return
	}
	assignments, warnings := ParseEnvFile(data)
	for _, w := range warnings {
		l.warnf("%s: %s", name, w)
	}
	for i := len(assignments) - 1; i >= 0; i-- { // the last one wins
		a := assignments[i]
		source := fmt.Sprintf("%s line %d", name, a.Line)
		if _, known := knobByName[a.Key]; known {
			l.set(a.Key, a.Value, source)
		} else if !foreign(a.Key) {
			l.unknown(a.Key, source)
		}
	}
}

// foreign says whether a variable is for somebody else who reads the same file: the SDK, Go, systemd, the shell.
func foreign(key string) bool {
	for _, prefix := range []string{"AWS_", "GO", "LC_", "SYSTEMD_", "LONGSHORE_"} {
		if strings.HasPrefix(key, prefix) {
			return true
		}
	}
	switch key {
	case "PATH", "HOME", "TZ", "LANG", "NOTIFY_SOCKET", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH", "DOCKER_API_VERSION":
		return true
	}
	return false
}

func (l *loader) unknown(key, source string) {
	names := make([]string, 0, len(Knobs))
	for i := range Knobs {
		names = append(names, Knobs[i].Name)
	}
	slices.Sort(names)
	if near := nearest.Word(key, names); near != "" {
		l.warnf("unknown setting %s in %s is ignored; did you mean %s?", key, source, near)
		return
	}
	l.warnf("unknown setting %s in %s is ignored", key, source)
}

// apply gives one knob its value: parsed, or the default with a warning.
func (l *loader) apply(c *Config, k *Knob) {
	v, ok := l.values[k.Name]
	for i := 0; !ok && i < len(k.Aliases); i++ {
		v, ok = l.values[k.Aliases[i]]
	}
	note := ""
	if ok && k.Support != Supported && !k.neutral(v.text) {
		note = string(k.Support)
		l.warnf("%s (%s): %s", k.Name, v.source, k.Support)
	}
	if k.parse == nil {
		l.note(c, k, v, ok, note)
		return
	}
	if ok {
		err := k.parse(c, strings.TrimSpace(v.text))
		if err == nil {
			l.note(c, k, v, ok, note)
			return
		}
		var low *tooLittle
		if k.Raised && errors.As(err, &low) && k.parse(c, low.least.String()) == nil {
			note = fmt.Sprintf("%v, which is used", err)
			l.warnf("%s (%s): %v, which is used", k.Name, v.source, err)
			v.text = low.least.String()
			l.note(c, k, v, ok, note)
			return
		}
		if k.Strict {
			l.errorf("%s (%s): %w; set it to %s, or remove it", k.Name, v.source, err, k.Expect())
			return
		}
		note = fmt.Sprintf("what %s says is ignored: %v", v.source, err)
		l.warnf("%s (%s): %v; it is ignored, and %s is used", k.Name, v.source, err, k.fallback())
	}
	l.note(c, k, value{}, false, note)
	if k.Default == "" {
		return
	}
	if err := k.parse(c, k.Default); err != nil {
		l.errorf("%s: the default %q: %w", k.Name, k.Default, err)
	}
}

// finish settles what depends on more than one setting.
func (l *loader) finish(c *Config) {
	_, c.TaskLimitsDemanded = l.values["ECS_ENABLE_TASK_CPU_MEM_LIMIT"]
	c.TaskLimitsDemanded = c.TaskLimitsDemanded && c.TaskLimits
	if v, ok := l.values["ECS_LOGLEVEL_ON_INSTANCE"]; ok && c.Log.File != "" {
		level := strings.ToLower(strings.TrimSpace(v.text))
		if logLevels[level] {
			c.Log.FileLevel = level
		}
	}
	if (c.AccessKeyID == "") != (c.SecretAccessKey == "") {
		l.warnf("only one of AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY is set: both are ignored, and the next source of credentials is asked")
		c.AccessKeyID, c.SecretAccessKey, c.SessionToken = "", "", ""
	}
	if c.APIEndpoint != "" && !strings.Contains(c.APIEndpoint, "://") {
		c.APIEndpoint = "https://" + c.APIEndpoint
	}
	if c.Proxy.None == "" && (c.Proxy.HTTP != "" || c.Proxy.HTTPS != "") {
		c.Proxy.None = "169.254.169.254,169.254.170.2,127.0.0.1,localhost"
	}
}

// hostPath maps the paths of the agent's container to those of the host.
func hostPath(p string) string {
	if p == "" {
		return ""
	}
	p = path.Clean(p)
	for from, to := range map[string]string{"/data": "/var/lib/ecs/data", "/log": "/var/log/ecs"} {
		if p == from || strings.HasPrefix(p, from+"/") {
			return to + strings.TrimPrefix(p, from)
		}
	}
	return p
}

// PropagateFromEC2 is the value of PropagateTagsFrom that asks for the EC2 instance's tags.
const PropagateFromEC2 = "ec2_instance"

// The values of Engine.
const (
	EngineDocker     = "docker"
	EngineContainerd = "containerd"
	EngineAuto       = "auto"
)
