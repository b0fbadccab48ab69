package config

import "time"

var logLevelNames = []string{"crit", "error", "warn", "info", "debug", "none"}

var logLevels = func() map[string]bool {
	m := map[string]bool{}
	for _, n := range logLevelNames {
		m[n] = true
	}
	return m
}()

// Knobs is every setting, in the order in which documents list them.
var Knobs = []Knob{
	// Which control plane, and as whom.
	text("ECS_CLUSTER", "Cluster", "", "cluster to join; not set: default, which is created when it does not exist", func(c *Config) *string { return &c.Cluster }),
	text("ECS_BACKEND_HOST", "APIEndpoint", "", "base URL of the ECS API; https is assumed without a scheme; not set: the region's own endpoint", func(c *Config) *string { return &c.APIEndpoint }),
	also(text("AWS_DEFAULT_REGION", "AWSRegion", "", "region, for signatures and endpoints; not set: the instance metadata's", func(c *Config) *string { return &c.Region }), "AWS_REGION"),
	text("AWS_ACCESS_KEY_ID", "", "", "access key, first in the chain of credentials", func(c *Config) *string { return &c.AccessKeyID }),
	hidden("AWS_SECRET_ACCESS_KEY", "", "secret of the access key", func(c *Config) *Secret { return &c.SecretAccessKey }),
	hidden("AWS_SESSION_TOKEN", "", "token of a temporary access key", func(c *Config) *Secret { return &c.SessionToken }),
	text("AWS_SHARED_CREDENTIALS_FILE", "", "", "file of access keys; not set: ~/.aws/credentials", func(c *Config) *string { return &c.SharedCredentialsFile }),
	text("AWS_PROFILE", "", "default", "profile in the file of access keys", func(c *Config) *string { return &c.CredentialProfile }),
	text("ECS_ALTERNATE_CREDENTIAL_PROFILE", "", "default", "profile for external instances", func(c *Config) *string { return &c.AlternateProfile }),
	text("AWS_CA_BUNDLE", "", "", "PEM file of certificates that are trusted, in addition to the system's, for the control plane", func(c *Config) *string { return &c.CABundle }),
	endpoint("AWS_ENDPOINT_URL", "URL of all services below that have none of their own", func(c *Config) *string { return &c.Endpoints.All }),
	endpoint("AWS_ENDPOINT_URL_SSM", "URL of SSM Parameter Store, for secrets of tasks; not set: the region's own", func(c *Config) *string { return &c.Endpoints.SSM }),
	endpoint("AWS_ENDPOINT_URL_SECRETS_MANAGER", "URL of Secrets Manager, for secrets of tasks and repositoryCredentials; not set: the region's own", func(c *Config) *string { return &c.Endpoints.SecretsManager }),
	endpoint("AWS_ENDPOINT_URL_ECR", "URL of Amazon ECR's API, for tokens to pull with; not set: the region's own", func(c *Config) *string { return &c.Endpoints.ECR }),
	endpoint("AWS_ENDPOINT_URL_S3", "URL of S3 or what is compatible with it, for environmentFiles; buckets are then a part of the path; not set: the region's own", func(c *Config) *string { return &c.Endpoints.S3 }),
	boolean("AWS_USE_FIPS_ENDPOINT", "", "false", "call the services' FIPS endpoints", func(c *Config) *bool { return &c.Endpoints.FIPS }),
	boolean("AWS_USE_DUALSTACK_ENDPOINT", "", "false", "call the services' endpoints that have IPv6 addresses too", func(c *Config) *bool { return &c.Endpoints.DualStack }),
	also(text("HTTP_PROXY", "", "", "proxy for http URLs", func(c *Config) *string { return &c.Proxy.HTTP }), "http_proxy"),
	also(text("HTTPS_PROXY", "", "", "proxy for https URLs", func(c *Config) *string { return &c.Proxy.HTTPS }), "https_proxy"),
	also(text("NO_PROXY", "", "", "hosts that are reached without the proxy", func(c *Config) *string { return &c.Proxy.None }), "no_proxy"),
	text("DOCKER_HOST", "DockerEndpoint", "unix:///var/run/docker.sock", "Docker's endpoint", func(c *Config) *string { return &c.DockerEndpoint }),

	// What this instance is.
	boolean("ECS_EXTERNAL", "External", "false", "instance outside EC2, with ECS Anywhere's behaviour; a host without instance metadata needs no setting", func(c *Config) *bool { return &c.External }),
	boolean("AWS_EC2_METADATA_DISABLED", "", "false", "never ask the instance metadata service. A host whose firmware tables (DMI, ACPI, device tree) show that it is no EC2 instance does not ask without this either, unless the next is set", func(c *Config) *bool { return &c.InstanceMetadataOff }),
	text("AWS_EC2_METADATA_SERVICE_ENDPOINT", "", "", "where the instance metadata service is; not set: http://169.254.169.254", func(c *Config) *string { return &c.InstanceMetadataAddress }),
	boolean("ECS_NO_INSTANCE_IDENTITY", "NoIID", "false", "register without an identity document", func(c *Config) *bool { return &c.AllowNoIdentity }),
	strict(jsonMap("ECS_INSTANCE_ATTRIBUTES", "InstanceAttributes", "custom attributes, sent with the first registration only", func(c *Config) *map[string]string { return &c.InstanceAttributes })),
	strict(jsonMap("ECS_CONTAINER_INSTANCE_TAGS", "ContainerInstanceTags", "tags, sent with the registration", func(c *Config) *map[string]string { return &c.InstanceTags })),
	text("ECS_AVAILABILITY_ZONE", "", "", "zone of a host without instance metadata: attribute ecs.availability-zone", func(c *Config) *string { return &c.AvailabilityZone }),
	text("ECS_INSTANCE_TYPE", "", "", "kind of a host without instance metadata: attribute ecs.instance-type", func(c *Config) *string { return &c.InstanceType }),
	text("ECS_AMI_ID", "", "", "image of a host without instance metadata: attribute ecs.ami-id", func(c *Config) *string { return &c.ImageID }),
	text("ECS_INSTANCE_NAME", "", "", "name of the host: attribute longshore.hostname; not set: its host name", func(c *Config) *string { return &c.InstanceName }),
	address("ECS_INSTANCE_ADDRESS", "", "primary address of the host: attribute longshore.address; not set: that of the default route", func(c *Config) *string { return &c.InstanceAddress }),
	portList("ECS_RESERVED_PORTS", "ReservedPorts", "[22,2375,2376,51678,51679]", "TCP ports that no task may have", func(c *Config) *[]uint16 { return &c.ReservedPorts }),
	portList("ECS_RESERVED_PORTS_UDP", "ReservedPortsUDP", "[]", "UDP ports that no task may have", func(c *Config) *[]uint16 { return &c.ReservedPortsUDP }),
	reservedMemory(),
	portRange("ECS_DYNAMIC_HOST_PORT_RANGE", "DynamicHostPortRange", "host ports for containers that ask for any; not set: the kernel's ephemeral range", func(c *Config) *PortRange { return &c.DynamicPorts }),
	text("ECS_DETAILED_OS_FAMILY", "", "LINUX", "attribute ecs.os-type-detailed", func(c *Config) *string { return &c.DetailedOSFamily }),

	// Where things are.
	directory("ECS_DATADIR", "DataDir", "/var/lib/ecs/data", "directory of the agent's state", func(c *Config) *string { return &c.DataDir }),
	{Name: "ECS_AGENT_CONFIG_FILE_PATH", Type: "path", Meaning: "JSON file of settings, under their JSON names"},
	{Name: "ECS_CHECKPOINT", JSON: "Checkpoint", Type: "boolean", Default: "true", Meaning: "keep the state on disk", Support: Obsolete},
	hostService("ECS_HOST_DATA_DIR", "path", "/var/lib/ecs", "host path under which the data directory lies"),

	// Logs.
	directory("ECS_LOGFILE", "LogFile", "/var/log/ecs/ecs-agent.log", "log file; it is made, and so is its directory", func(c *Config) *string { return &c.Log.File }),
	enum("ECS_LOGLEVEL", "LogLevel", "info", "least level that is logged", logLevelNames, func(c *Config) *string { return &c.Log.Level }),
	{Name: "ECS_LOGLEVEL_ON_INSTANCE", Type: "enum", Bounds: "one of crit, error, warn, info, debug, none", Meaning: "least level that is logged to the file; not set: ECS_LOGLEVEL"},
	enum("ECS_LOG_OUTPUT_FORMAT", "", "logfmt", "form of a log line", []string{"logfmt", "json"}, func(c *Config) *string { return &c.Log.Format }),
	enum("ECS_LOG_ROLLOVER_TYPE", "", "size", "when a new log file is begun", []string{"size", "hourly"}, func(c *Config) *string { return &c.Log.RolloverType }),
	integer("ECS_LOG_MAX_FILE_SIZE_MB", "", "5", 1, 1<<20, "size at which a new log file is begun", func(c *Config) *int64 { return &c.Log.MaxSizeMB }),
	integer("ECS_LOG_MAX_ROLL_COUNT", "", "24", 1, 1<<20, "old log files that are kept", func(c *Config) *int64 { return &c.Log.MaxRollCount }),
	hostService("ECS_LOG_DRIVER", "string", "json-file", "log driver of the agent's container"),
	hostService("ECS_LOG_OPTS", "json map", "", "options of that log driver"),
	directory("ECS_AUDIT_LOGFILE", "AuditLogFile", "/var/log/ecs/audit.log", "log of requests for credentials", func(c *Config) *string { return &c.AuditFile }),
	boolean("ECS_AUDIT_LOGFILE_DISABLED", "AuditLogFileDisabled", "false", "no log of requests for credentials", func(c *Config) *bool { return &c.AuditOff }),

	// Containers.
	jsonList("ECS_AVAILABLE_LOGGING_DRIVERS", "AvailableLoggingDrivers", `["json-file","none"]`, "log drivers that tasks may use; those that the engine has are advertised", func(c *Config) *[]string { return &c.LoggingDrivers }),
	boolean("ECS_DISABLE_PRIVILEGED", "PrivilegedDisabled", "false", "refuse privileged containers", func(c *Config) *bool { return &c.PrivilegedDisabled }),
	boolean("ECS_SELINUX_CAPABLE", "SELinuxCapable", "false", "advertise SELinux, if the engine has it", func(c *Config) *bool { return &c.SELinuxCapable }),
	boolean("ECS_APPARMOR_CAPABLE", "AppArmorCapable", "false", "advertise AppArmor, if the engine has it", func(c *Config) *bool { return &c.AppArmorCapable }),
	boolean("ECS_DISABLE_DOCKER_HEALTH_CHECK", "DisableDockerHealthCheck", "false", "don't advertise container health checks", func(c *Config) *bool { return &c.HealthChecksDisabled }),
	strict(directory("ECS_HOST_POLICY_FILE", "", "/etc/ecs/policy", "what tasks may not ask of this host, whatever the control plane says; no file: everything is allowed", func(c *Config) *string { return &c.HostPolicyFile })),
	strict(enum("ECS_HOST_VOLUME_CHECK", "", "enforce", "check of a container's user against its host volumes: refuse, warn, or don't look", []string{"enforce", "warn", "off"}, func(c *Config) *string { return &c.HostVolumeCheck })),
	boolean("ECS_HOST_VOLUME_CREATE_AS_USER", "", "false", "make a missing host volume with the container's user as owner, not root", func(c *Config) *bool { return &c.HostVolumeCreateAsUser }),
	boolean("ECS_ENABLE_TASK_CPU_MEM_LIMIT", "TaskCPUMemLimit", "true", "hold each task to its own cpu and memory by a control group; where that can't be done, true is an error, and the default leaves such tasks to other hosts", func(c *Config) *bool { return &c.TaskLimits }),
	duration("ECS_CONTAINER_STOP_TIMEOUT", "DockerStopTimeout", "30s", time.Second, "time between a container's stop signal and SIGKILL", func(c *Config) *time.Duration { return &c.ContainerStopTimeout }),
	duration("ECS_CONTAINER_START_TIMEOUT", "ContainerStartTimeout", "3m", 45*time.Second, "time the engine has to start a container", func(c *Config) *time.Duration { return &c.ContainerStartTimeout }),
	duration("ECS_CONTAINER_CREATE_TIMEOUT", "ContainerCreateTimeout", "4m", time.Minute, "time the engine has to create a container", func(c *Config) *time.Duration { return &c.ContainerCreateTimeout }),
	duration("ECS_ENGINE_TASK_CLEANUP_WAIT_DURATION", "TaskCleanupWaitDuration", "3h", time.Second, "time that a stopped task's containers are kept", func(c *Config) *time.Duration { return &c.TaskCleanupWait }),
	duration("ECS_ENGINE_TASK_CLEANUP_WAIT_DURATION_JITTER", "TaskCleanupWaitDurationJitter", "0", 0, "each task gets a part of it of its own on top of that", func(c *Config) *time.Duration { return &c.TaskCleanupJitter }),
	integer("ECS_STOPPED_TASKS_KEPT_PER_FAMILY", "", "3", 0, 100, "stopped tasks of each family whose record (exit codes, reasons, the end of the output and of the timeline) is kept after their containers are removed", func(c *Config) *int64 { return &c.StoppedTasksKept }),
	integer("ECS_DISK_PRESSURE_PERCENT", "", "5", 0, 50, "a disk with less free space than this, and less than 5 GiB, is short: the instance is impaired, and stopped tasks are removed before their time; 0: never", func(c *Config) *int64 { return &c.DiskPressurePercent }),
	strict(logSize("ECS_CONTAINER_LOG_MAX_SIZE", "10m", "size at which a container's json-file log begins a new file, where neither its max-size nor its max-file is given; 0: the engine's own default", func(c *Config) *string { return &c.ContainerLogMaxSize })),
	integer("ECS_CONTAINER_LOG_MAX_FILES", "", "3", 1, 1000, "files of such a log", func(c *Config) *int64 { return &c.ContainerLogMaxFiles }),
	enum("ECS_ORPHAN_POLICY", "", "keep", "what happens to containers with the agent's labels that no task has: leave them and say so, stop them, or stop and remove them; others' containers are never touched", []string{"keep", "stop", "remove"}, func(c *Config) *string { return &c.OrphanPolicy }),
	enum("ECS_RESUME_ON_BOOT", "", "daemons", "what is started again when the host was rebooted, before the control plane answers: the tasks of DAEMON services, from the images that are there, or nothing. Only Longshore's control plane says which tasks are daemons; Amazon ECS does not", []string{"daemons", "off"}, func(c *Config) *string { return &c.ResumeOnBoot }),
	boolean("ECS_EXCLUDE_IPV6_PORTBINDING", "ShouldExcludeIPv6PortBinding", "true", "leave IPv6 bindings out of what is reported", func(c *Config) *bool { return &c.IPv6BindingsExcluded }),

	// Images.
	enum("ECS_IMAGE_PULL_BEHAVIOR", "ImagePullBehavior", "default", "when an image is pulled", []string{"default", "always", "once", "prefer-cached"}, func(c *Config) *string { return &c.ImagePullBehavior }),
	duration("ECS_IMAGE_PULL_TIMEOUT", "ImagePullTimeout", "2h", time.Second, "time a whole pull has", func(c *Config) *time.Duration { return &c.ImagePullTimeout }),
	integer("ECS_IMAGE_PULL_CONCURRENCY", "", "4", 1, 100, "pulls that run at the same time", func(c *Config) *int64 { return &c.ImagePulls }),
	integer("ECS_IMAGE_PULL_CONCURRENCY_PER_REGISTRY", "", "3", 1, 100, "of them from one registry, so that one that is slow or hangs leaves places to the others", func(c *Config) *int64 { return &c.ImagePullsPerRegistry }),
	also(duration("ECS_IMAGE_PULL_INACTIVITY_TIMEOUT", "ImagePullInactivityTimeout", "1m", time.Minute, "time a pull may show no progress", func(c *Config) *time.Duration { return &c.ImagePullInactivity }), "ECS_DOCKER_PULL_INACTIVITY_TIMEOUT"),
	later("ECS_MANIFEST_PULL_TIMEOUT", "duration", "1m", "time to resolve an image's digest; the pull's own times bound it"),
	enum("ECS_ENGINE_AUTH_TYPE", "EngineAuthType", "", "form of ECS_ENGINE_AUTH_DATA", []string{"docker", "dockercfg"}, func(c *Config) *string { return &c.EngineAuthType }),
	hidden("ECS_ENGINE_AUTH_DATA", "EngineAuthData", "credentials of private registries", func(c *Config) *Secret { return &c.EngineAuthData }),
	directory("DOCKER_CONFIG", "", "", "directory of Docker's config.json, whose credentials and credential helpers (docker-credential-<name> in the agent's PATH) are used for registries that ECS_ENGINE_AUTH_DATA does not name; not set: ~/.docker of the agent's user", func(c *Config) *string { return &c.DockerConfig }),
	later("ECS_PULL_DEPENDENT_CONTAINERS_UPFRONT", "boolean", "false", "pull images before dependsOn is met"),
	boolean("ECS_DISABLE_IMAGE_CLEANUP", "ImageCleanupDisabled", "false", "remove images only when longshore-agent gc is called; with ECS_IMAGE_PULL_BEHAVIOR=prefer-cached it is so in any case", func(c *Config) *bool { return &c.ImageCleanupOff }),
	duration("ECS_IMAGE_CLEANUP_INTERVAL", "ImageCleanupInterval", "30m", 10*time.Minute, "time between two clean-ups of images", func(c *Config) *time.Duration { return &c.ImageCleanupInterval }),
	duration("ECS_IMAGE_MINIMUM_CLEANUP_AGE", "MinimumImageDeletionAge", "1h", 0, "time since the pull before which an image is not removed, unless the disk is short", func(c *Config) *time.Duration { return &c.ImageCleanupAge }),
	duration("NON_ECS_IMAGE_MINIMUM_CLEANUP_AGE", "NonECSMinimumImageDeletionAge", "1h", 0, "the same, since its creation, for an image that no task had pulled", func(c *Config) *time.Duration { return &c.ForeignImageCleanupAge }),
	integer("ECS_NUM_IMAGES_DELETE_PER_CYCLE", "NumImagesToDeletePerCycle", "5", 1, 1000, "images removed by one clean-up, unless the disk is short", func(c *Config) *int64 { return &c.ImagesPerCleanup }),
	integer("NONECS_NUM_CONTAINERS_DELETE_PER_CYCLE", "NumNonECSContainersToDeletePerCycle", "5", 1, 1000, "containers of others removed by one clean-up, if ECS_ENABLE_UNTRACKED_IMAGE_CLEANUP is true", func(c *Config) *int64 { return &c.ForeignContainersPerCleanup }),
	boolean("ECS_ENABLE_UNTRACKED_IMAGE_CLEANUP", "DeleteNonECSImagesEnabled", "false", "remove images too that no task had pulled, or that no registry gave, and containers that no ECS agent made, with their anonymous volumes, when they have not run for ECS_ENGINE_TASK_CLEANUP_WAIT_DURATION", func(c *Config) *bool { return &c.ForeignImageCleanup }),
	commas("ECS_EXCLUDE_UNTRACKED_IMAGE", "ImageCleanupExclusionList", "images that are never removed, as references", func(c *Config) *[]string { return &c.ImagesExcluded }),
	commas("ECS_IMAGE_CLEANUP_PINNED", "", "the same, as references, repositories or patterns such as registry.example/base/*", func(c *Config) *[]string { return &c.ImagesPinned }),
	integer("ECS_IMAGE_CLEANUP_HIGH_PERCENT", "", "85", 0, 100, "when more than this of the bytes or inodes of the engine's disk is taken, images that nobody uses are removed whatever their age and number; 0: never for that reason", func(c *Config) *int64 { return &c.ImageHighPercent }),
	integer("ECS_IMAGE_CLEANUP_LOW_PERCENT", "", "80", 0, 100, "… until no more than this is", func(c *Config) *int64 { return &c.ImageLowPercent }),
	boolean("ECS_IMAGE_PULL_SIZE_CHECK", "", "true", "while less than 32 GiB or 2 million inodes of the engine's disk are free, ask the registry before a pull how large the image is: what does not fit even after a clean-up fails with the numbers, and the disk does not run full", func(c *Config) *bool { return &c.ImageSizeCheck }),

	// Metrics and diagnosis.
	boolean("ECS_DISABLE_METRICS", "DisableMetrics", "false", "send no task metrics", func(c *Config) *bool { return &c.MetricsDisabled }),
	{Name: "ECS_POLL_METRICS", JSON: "PollMetrics", Type: "boolean", Default: "false", Meaning: "poll the engine's statistics instead of streaming them", Support: "has no effect: statistics are read from the kernel's files, and the engine is not asked for any"},
	upTo(time.Minute, duration("ECS_POLLING_METRICS_WAIT_DURATION", "PollingMetricsWaitDuration", "10s", time.Second, "time between two samples of what containers and the host use", func(c *Config) *time.Duration { return &c.StatsInterval }), func(c *Config) time.Duration { return c.StatsInterval }),
	boolean("ECS_ENABLE_PROMETHEUS_METRICS", "", "false", "serve Prometheus metrics of the agent on port 51680, at /metrics, to the host's own processes and its containers", func(c *Config) *bool { return &c.Prometheus }),
	{Name: "ECS_ENABLE_RUNTIME_STATS", Type: "boolean", Default: "false", Meaning: "serve profiles of the agent", Support: "has no effect: profiles are always there, and only for root, by longshore-agent profile"},
	text("ECS_AGENT_HEALTHCHECK_HOST", "", "localhost", "host that longshore-agent healthcheck asks", func(c *Config) *string { return &c.HealthcheckHost }),

	// Features that later versions bring.
	later("ECS_UPDATES_ENABLED", "boolean", "false", "accept update messages; they are refused with \"Updates are disabled\""),
	later("ECS_UPDATE_DOWNLOAD_DIR", "path", "", "where updates go"),
	later("ECS_CONTAINER_INSTANCE_PROPAGATE_TAGS_FROM", "enum", "none", "copy the EC2 instance's tags"),
	later("ECS_INSTANCE_IP_COMPATIBILITY", "enum", "", "force an IP family"),
	boolean("ECS_ENABLE_TASK_IAM_ROLE", "TaskIAMRoleEnabled", "true", "offer task roles: containers get their credentials at 169.254.170.2 (the Amazon ECS agent's own default is false, and its host service sets true)", func(c *Config) *bool { return &c.TaskRoles }),
	boolean("ECS_ENABLE_TASK_IAM_ROLE_NETWORK_HOST", "TaskIAMRoleEnabledForNetworkHost", "true", "offer task roles to tasks in the host network mode, too (default as above)", func(c *Config) *bool { return &c.HostTaskRoles }),
	boolean("ECS_DISABLE_TASK_ENDPOINTS", "", "false", "serve containers neither credentials nor metadata, and leave the host's network as it is", func(c *Config) *bool { return &c.TaskEndpointsOff }),
	later("ECS_ENABLE_TASK_ENI", "boolean", "false", "the awsvpc network mode"),
	later("ECS_ENABLE_HIGH_DENSITY_ENI", "boolean", "true", "trunk interfaces"),
	later("ECS_CNI_PLUGINS_PATH", "path", "/amazon-ecs-cni-plugins", "CNI plugins"),
	later("ECS_AWSVPC_BLOCK_IMDS", "boolean", "false", "keep awsvpc tasks from the instance metadata"),
	strict(Knob{Name: "ECS_AWSVPC_ADDITIONAL_LOCAL_ROUTES", Type: "json list", Meaning: "routes of awsvpc tasks", Support: Later, parse: func(_ *Config, v string) error {
		var routes []string
		return decode(v, &routes)
	}}),
	directory("ECS_CGROUP_PATH", "CgroupPath", "/sys/fs/cgroup", "where the host's control groups are mounted", func(c *Config) *string { return &c.CgroupPath }),
	upTo(100*time.Millisecond, duration("ECS_CGROUP_CPU_PERIOD", "CgroupCPUPeriod", "100ms", 8*time.Millisecond, "CPU period of a task's control group", func(c *Config) *time.Duration { return &c.CgroupCPUPeriod }), func(c *Config) time.Duration { return c.CgroupCPUPeriod }),
	integer("ECS_TASK_PIDS_LIMIT", "TaskPidsLimit", "", 1, 4194304, "processes and threads that each task may have; not set: no limit", func(c *Config) *int64 { return &c.TaskPidsLimit }),
	boolean("ECS_PROPAGATE_TASK_MEMORY_LIMIT_CGROUPV2", "PropagateTaskMemoryLimitCgroupV2", "false", "with control groups v2, give the task's memory limit to its containers without one, too", func(c *Config) *bool { return &c.PropagateTaskMemory }),
	boolean("ECS_ENABLE_CONTAINER_METADATA", "ContainerMetadataEnabled", "false", "give each container a file that says what it is, named by ECS_CONTAINER_METADATA_FILE", func(c *Config) *bool { return &c.MetadataFiles }),
	boolean("ECS_DISABLE_TASK_METADATA_AZ", "", "false", "leave the zone out of task metadata", func(c *Config) *bool { return &c.MetadataWithoutZone }),
	rates("ECS_TASK_METADATA_RPS_LIMIT", "40,60", "requests a second that a container may make of credentials and metadata for long, and those at once", func(c *Config) (steady, burst *int64) { return &c.MetadataRate, &c.MetadataBurst }),
	boolean("ECS_SHARED_VOLUME_MATCH_FULL_CONFIG", "SharedVolumeMatchFullConfig", "false", "refuse a shared volume that exists with another driver, other options or other labels than the task wants", func(c *Config) *bool { return &c.MatchSharedVolumes }),
	jsonList("ECS_VOLUME_PLUGIN_CAPABILITIES", "VolumePluginCapabilities", "[]", "what the volume plugin amazon-ecs-volume-plugin of this host can do, such as [\"efsAuth\"]; EFS file systems are mounted as NFS without it", func(c *Config) *[]string { return &c.VolumePlugin }),
	boolean("ECS_ENABLE_AWSLOGS_EXECUTIONROLE_OVERRIDE", "OverrideAWSLogsExecutionRole", "true", "the awslogs driver logs with the task's execution role, where it has one (default as above)", func(c *Config) *bool { return &c.RoleLogs }),
	boolean("ECS_ENABLE_GPU_SUPPORT", "GPUSupportEnabled", "false", "offer the GPUs that the CDI specifications of the host name", func(c *Config) *bool { return &c.GPUs }),
	jsonList("ECS_CDI_SPEC_DIRS", "", `["/etc/cdi","/var/run/cdi"]`, "directories of CDI specifications", func(c *Config) *[]string { return &c.CDIDirs }),
	later("ECS_NVIDIA_RUNTIME", "string", "nvidia", "engine runtime for GPUs"),
	later("ECS_ENABLE_INF_SUPPORT", "boolean", "false", "Inferentia devices"),
	later("ECS_EBSTA_SUPPORTED", "boolean", "true", "attaching EBS volumes to tasks"),
	later("ECS_GMSA_SUPPORTED", "boolean", "false", "group managed service accounts"),
	later("ECS_DOMAIN_JOINED_LINUX_INSTANCE", "boolean", "false", "group managed service accounts"),
	later("ECS_FSX_WINDOWS_FILE_SERVER_SUPPORTED", "boolean", "false", "FSx for Windows File Server volumes"),
	later("ECS_ENABLE_SPOT_INSTANCE_DRAINING", "boolean", "false", "drain when a spot instance is to be interrupted"),
	later("ECS_WARM_POOLS_CHECK", "boolean", "false", "wait while the instance is in a warm pool"),
	boolean("ECS_ENABLE_FIRELENS_ASYNC", "FirelensAsyncEnabled", "true", "containers start, and go on, without waiting for their task's log router (Docker's fluentd-async)", func(c *Config) *bool { return &c.FirelensAsync }),
	later("ECS_PAUSE_LABELS", "json map", "", "labels of pause containers"),
	hostService("ECS_AGENT_LABELS", "json map", "", "labels of the agent's container"),
	hostService("ECS_AGENT_APPARMOR_PROFILE", "string", "", "AppArmor profile of the agent's container"),
	hostService("ECS_AGENT_PID_NAMESPACE_HOST", "boolean", "false", "PID namespace of the agent's container"),
	hostService("ECS_AGENT_RUN_PRIVILEGED", "boolean", "false", "privileges of the agent's container"),
	hostService("ECS_INIT_DOCKER_LOG_FILE_SIZE", "string", "16m", "log of the agent's container"),
	hostService("ECS_INIT_DOCKER_LOG_FILE_NUM", "integer", "4", "log of the agent's container"),
	later("ECS_SKIP_LOCALHOST_TRAFFIC_FILTER", "boolean", "false", "don't drop packets to 127.0.0.0/8 from elsewhere"),
	later("ECS_ALLOW_OFFHOST_INTROSPECTION_ACCESS", "boolean", "false", "serve introspection to other hosts; it is for this host and its containers only"),
	later("ECS_OFFHOST_INTROSPECTION_INTERFACE_NAME", "string", "", "interface of that"),
}
