package agent

import (
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/longshore-project/longshore/agent/config"
	"github.com/longshore-project/longshore/engine"
	"github.com/longshore-project/longshore/protocol/acs"
	"github.com/longshore-project/longshore/protocol/agentapi"
)

// The families of capability attributes.
const (
	awsCapability = "com.amazonaws.ecs.capability."
	ecsCapability = "ecs.capability."
)

// Attributes of hosts outside EC2, which have no identity document to say this.
const (
	attributeHostID      = "longshore.instance-id"
	attributeHostName    = "longshore.hostname"
	attributeHostAddress = "longshore.address"
	// attributeBoot tells a reboot from a restart of the agent: after a reboot no daemon runs any more, whatever was reported.
	attributeBoot = "longshore.boot-id"
	// attributeResume says that this agent brings daemons back after a reboot. Longshore's control plane tells it, and no
	// other agent, which tasks are daemons.
	attributeResume = "longshore.resume-on-boot"
	attributeZone   = "ecs.availability-zone"
	// What runs containers here: docker or containerd, and the OCI runtime by its name.
	attributeEngine  = "longshore.container-engine"
	attributeRuntime = "longshore.container-runtime"
)

// apiSince is the Docker API version from which a log driver is advertised.
var apiSince = map[string]int{
	"json-file": 0, "syslog": 18, "journald": 19, "none": 19, "gelf": 20, "fluentd": 20, "awslogs": 21, "splunk": 22, "logentries": 25, "sumologic": 29,
}

// abilities are what a container engine can do beyond the contract that every one keeps.
type abilities struct {
	restarts   bool // start an ended container again
	volumes    bool // volumes with drivers and options
	namespaces bool // pid and ipc namespaces of a task

	// And what this agent serves to containers.
	taskRoles     bool // credentials of tasks' roles
	hostTaskRoles bool // in the host network mode, too
	roleLogs      bool // the awslogs driver has the execution role's credentials

	taskNetworks bool // networks of tasks' own
}

func abilitiesOf(r engine.Runtime) (can abilities) {
	_, can.restarts = r.(engine.Restarter)
	_, can.volumes = r.(engine.VolumeKeeper)
	can.namespaces = engine.CanShareNamespaces(r)
	return can
}

// capabilities are the attributes that say what tasks may ask of this host. Each stands for something that this version
// of the agent does and that this host's engine answered that it can do; agent-protocol section 1.4 has the conditions.
func capabilities(cfg *config.Config, info engine.Info, can abilities) map[string]string {
	out := map[string]string{}
	add := func(family string, names ...string) {
		for _, n := range names {
			out[family+n] = ""
		}
	}
	newest := minor(info.APIVersion)
	if !cfg.PrivilegedDisabled {
		add(awsCapability, "privileged-container")
	}
	for v := 17; v < 33 && v <= newest; v++ { // older ones are listed whatever the engine's oldest is: they are what definitions ask for
		if v != 26 && v != 27 && v != 31 {
			add(awsCapability, "docker-remote-api.1."+strconv.Itoa(v))
		}
	}
	for _, driver := range cfg.LoggingDrivers {
		since, known := apiSince[driver]
		if known && newest >= since && (driver == "none" || slices.Contains(info.LogDrivers, driver)) {
			add(awsCapability, "logging-driver."+driver)
		}
	}
	if cfg.SELinuxCapable && hasSecurity(info, "selinux") {
		add(awsCapability, "selinux")
	}
	if cfg.AppArmorCapable && hasSecurity(info, "apparmor") {
		add(awsCapability, "apparmor")
	}
	if !cfg.HealthChecksDisabled && newest >= 24 {
		add(ecsCapability, "container-health-check")
	}
	add(ecsCapability, "secrets.ssm.environment-variables", "secrets.ssm.bootstrap.log-driver", "secrets.asm.environment-variables",
		"secrets.asm.bootstrap.log-driver", "env-files.s3", "private-registry-authentication.secretsmanager", "ecr-endpoint", "execution-role-ecr-pull")
	add(awsCapability, "ecr-auth")
	add(ecsCapability, "container-ordering", "full-sync", "network.container-port-range")
	if can.restarts {
		add(ecsCapability, "container-restart-policy")
	}
	addRoles(add, can, newest)
	if can.taskNetworks {
		add(ecsCapability, "task-eni", "task-eni.ipv6")
		if cfg.AwsvpcBlockIMDS {
			add(ecsCapability, "task-eni-block-instance-metadata")
		}
	}
	if can.namespaces {
		add(ecsCapability, "pid-ipc-namespace-sharing")
	}
	if can.volumes {
		add(ecsCapability, "docker-plugin.local", "efs")
		for _, driver := range info.VolumeDrivers {
			name := strings.ReplaceAll(driver, ":", ".")
			add(ecsCapability, "docker-plugin."+name, "docker-plugin."+strings.TrimSuffix(name, ".latest"))
		}
		add(ecsCapability, cfg.VolumePlugin...)
	}
	if cfg.TaskLimits {
		add(ecsCapability, "task-cpu-mem-limit", "increased-task-cpu-limit")
	}
	if slices.Contains(info.LogDrivers, "fluentd") { // what a log router's containers log by
		add(ecsCapability, "firelens.fluentd", "firelens.fluentbit", "firelens.non-root-user", "firelens.options.config.file", "firelens.options.config.s3", "logging-driver.awsfirelens.log-driver-buffer-limit")
		add(awsCapability, "logging-driver.awsfirelens")
	}
	if cfg.External {
		add(ecsCapability, "external")
	}
	return out
}

// addRoles adds what is served to containers.
func addRoles(add func(family string, names ...string), can abilities, newest int) {
	if can.taskRoles && newest >= 19 {
		add(awsCapability, "task-iam-role")
	}
	if can.hostTaskRoles && newest >= 19 {
		add(awsCapability, "task-iam-role-network-host")
	}
	if can.roleLogs {
		add(ecsCapability, "execution-role-awslogs")
	}
}

// minor is the second number of an API version, 0 if there is none.
func minor(version string) int {
	_, text, _ := strings.Cut(version, ".")
	n, err := strconv.Atoi(text)
	if err != nil {
		return 0
	}
	return n
}

func hasSecurity(info engine.Info, name string) bool {
	return slices.ContainsFunc(info.SecurityOpts, func(o string) bool { return o == name || o == "name="+name || strings.HasPrefix(o, "name="+name+",") })
}

// attributes are all attributes of a registration, in order of name. first adds those that are sent only with the first.
func attributes(cfg *config.Config, host Host, info engine.Info, can abilities, ec2 *ec2Instance, first bool) []agentapi.Attribute {
	all := map[string]string{"ecs.os-type": "linux", "ecs.os-family": "LINUX", "ecs.os-type-detailed": cfg.DetailedOSFamily}
	if host.BootID != "" {
		all[attributeBoot] = host.BootID
	}
	if ec2 == nil {
		for name, value := range map[string]string{
			"ecs.cpu-architecture": host.Architecture, attributeZone: cfg.AvailabilityZone, "ecs.instance-type": cfg.InstanceType, "ecs.ami-id": cfg.ImageID,
			attributeHostID: host.MachineID, attributeHostName: host.Name, attributeHostAddress: host.Address,
		} {
			if value != "" {
				all[name] = value
			}
		}
	}
	if ec2 != nil && ec2.Outpost != "" {
		all["ecs.outpost-arn"] = ec2.Outpost
	}
	for name, value := range map[string]string{attributeEngine: info.Name, attributeRuntime: info.Runtime} {
		if value != "" {
			all[name] = value
		}
	}
	all[acs.CapabilityPrepareImages] = ""
	if can.restarts && cfg.ResumeOnBoot == "daemons" {
		all[attributeResume] = cfg.ResumeOnBoot
	}
	if can.taskNetworks {
		all[acs.CapabilitySecurityGroups], all[acs.AttributeInterfaceSlots] = "", strconv.FormatInt(cfg.TaskInterfaces, 10)
		if ec2 != nil && cfg.TaskTrunks {
			all[ecsCapability+"task-eni-trunking"] = ""
		}
		if ec2 != nil && ec2.VPC != "" && ec2.Subnet != "" {
			all["ecs.vpc-id"], all["ecs.subnet-id"] = ec2.VPC, ec2.Subnet
		}
	}
	maps.Copy(all, capabilities(cfg, info, can))
	if first {
		maps.Copy(all, cfg.InstanceAttributes)
	}
	out := make([]agentapi.Attribute, 0, len(all))
	for _, name := range slices.Sorted(maps.Keys(all)) {
		a := agentapi.Attribute{Name: &name}
		if value := all[name]; value != "" {
			a.Value = &value
		}
		out = append(out, a)
	}
	return out
}
