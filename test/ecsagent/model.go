package ecsagent

import "encoding/json"

// The messages of the control channel and what is in them. Pointers tell null and absent from empty. Names are compared
// without case, as Go's decoder does.

type envelope struct {
	Type    string          `json:"type"`
	Message json.RawMessage `json:"message"`
}

type heartbeatMessage struct {
	Healthy   *bool   `json:"healthy"`
	MessageID *string `json:"messageId"`
}

type payloadMessage struct {
	ClusterArn           *string     `json:"clusterArn"`
	ContainerInstanceArn *string     `json:"containerInstanceArn"`
	MessageID            *string     `json:"messageId"`
	Tasks                []*wireTask `json:"tasks"`
	GeneratedAt          *int64      `json:"generatedAt"`
	SeqNum               *int64      `json:"seqNum"`
	Timeline             *int64      `json:"timeline"`
}

type manifestMessage struct {
	ContainerInstanceArn *string           `json:"containerInstanceArn"`
	ClusterArn           *string           `json:"clusterArn"`
	MessageID            *string           `json:"messageId"`
	GeneratedAt          *int64            `json:"generatedAt"`
	Timeline             *int64            `json:"timeline"`
	Tasks                []*taskIdentifier `json:"tasks"`
}

type taskIdentifier struct {
	TaskArn        *string `json:"taskArn"`
	TaskClusterArn *string `json:"taskClusterArn"`
	DesiredStatus  *string `json:"desiredStatus"`
}

type stopVerificationAck struct {
	GeneratedAt *int64            `json:"generatedAt"`
	MessageID   *string           `json:"messageId"`
	StopTasks   []*taskIdentifier `json:"stopTasks"`
}

type credentialsMessage struct {
	MessageID       *string      `json:"messageId"`
	TaskArn         *string      `json:"taskArn"`
	TaskClusterArn  *string      `json:"taskClusterArn"`
	RoleType        *string      `json:"roleType"`
	RoleCredentials *credentials `json:"roleCredentials"`
}

type credentials struct {
	CredentialsID   *string `json:"credentialsId"`
	RoleArn         *string `json:"roleArn"`
	AccessKeyID     *string `json:"accessKeyId"`
	SecretAccessKey *string `json:"secretAccessKey"`
	SessionToken    *string `json:"sessionToken"`
	Expiration      *string `json:"expiration"`
	CredentialScope *string `json:"credentialScope"`
}

type wireTask struct {
	Arn                           *string            `json:"arn"`
	TaskClusterArn                *string            `json:"taskClusterArn"`
	Family                        *string            `json:"family"`
	Version                       *string            `json:"version"`
	TaskDefinitionAccountID       *string            `json:"taskDefinitionAccountId"`
	DesiredStatus                 *string            `json:"desiredStatus"`
	Containers                    []*wireContainer   `json:"containers"`
	Volumes                       []*wireVolume      `json:"volumes"`
	Overrides                     *string            `json:"overrides"`
	Zone                          *string            `json:"zone"`
	AgentConfiguration            json.RawMessage    `json:"agentConfiguration"`
	TrustedExecutionConfiguration json.RawMessage    `json:"trustedExecutionConfiguration"`
	RoleCredentials               *credentials       `json:"roleCredentials"`
	ExecutionRoleCredentials      *credentials       `json:"executionRoleCredentials"`
	ElasticNetworkInterfaces      []*wireENI         `json:"elasticNetworkInterfaces"`
	CPU                           *float64           `json:"cpu"`
	Memory                        *int64             `json:"memory"`
	NetworkMode                   *string            `json:"networkMode"`
	PidMode                       *string            `json:"pidMode"`
	IpcMode                       *string            `json:"ipcMode"`
	LaunchType                    *string            `json:"launchType"`
	ServiceName                   *string            `json:"serviceName"`
	Group                         *string            `json:"group"`
	ProxyConfiguration            json.RawMessage    `json:"proxyConfiguration"`
	Associations                  []*wireAssociation `json:"associations"`
	Attachments                   []*wireAttachment  `json:"attachments"`
	EnableFaultInjection          *bool              `json:"enableFaultInjection"`
}

type wireAssociation struct {
	Name       *string         `json:"name"`
	Type       *string         `json:"type"`
	Content    json.RawMessage `json:"content"`
	Containers []*string       `json:"containers"`
}

type wireAttachment struct {
	AttachmentArn        *string `json:"attachmentArn"`
	AttachmentType       *string `json:"attachmentType"`
	AttachmentProperties []*struct {
		Name  *string `json:"name"`
		Value *string `json:"value"`
	} `json:"attachmentProperties"`
}

type wireVolume struct {
	Name *string `json:"name"`
	Type *string `json:"type"`
	Host *struct {
		SourcePath *string `json:"sourcePath"`
	} `json:"host"`
	DockerVolumeConfiguration *struct {
		Scope         *string           `json:"scope"`
		Autoprovision *bool             `json:"autoprovision"`
		Driver        *string           `json:"driver"`
		DriverOpts    map[string]string `json:"driverOpts"`
		Labels        map[string]string `json:"labels"`
	} `json:"dockerVolumeConfiguration"`
	EFSVolumeConfiguration                  json.RawMessage `json:"efsVolumeConfiguration"`
	FSxWindowsFileServerVolumeConfiguration json.RawMessage `json:"fsxWindowsFileServerVolumeConfiguration"`
	EBSVolumeConfiguration                  json.RawMessage `json:"ebsVolumeConfiguration"`
	LogDriverVolumeConfiguration            json.RawMessage `json:"logDriverVolumeConfiguration"`
}

type wireContainer struct {
	Name             *string           `json:"name"`
	ContainerArn     *string           `json:"containerArn"`
	Image            *string           `json:"image"`
	Essential        *bool             `json:"essential"`
	CPU              *int64            `json:"cpu"`
	Memory           *int64            `json:"memory"`
	EntryPoint       []*string         `json:"entryPoint"`
	Command          []*string         `json:"command"`
	Environment      map[string]string `json:"environment"`
	EnvironmentFiles []*struct {
		Value *string `json:"value"`
		Type  *string `json:"type"`
	} `json:"environmentFiles"`
	Overrides    *string     `json:"overrides"`
	Links        []*string   `json:"links"`
	PortMappings []*wirePort `json:"portMappings"`
	MountPoints  []*struct {
		SourceVolume  *string `json:"sourceVolume"`
		ContainerPath *string `json:"containerPath"`
		ReadOnly      *bool   `json:"readOnly"`
	} `json:"mountPoints"`
	VolumesFrom []*struct {
		SourceContainer *string `json:"sourceContainer"`
		ReadOnly        *bool   `json:"readOnly"`
	} `json:"volumesFrom"`
	DependsOn []*struct {
		ContainerName *string `json:"containerName"`
		Condition     *string `json:"condition"`
	} `json:"dependsOn"`
	StartTimeout  *int64 `json:"startTimeout"`
	StopTimeout   *int64 `json:"stopTimeout"`
	RestartPolicy *struct {
		Enabled              *bool    `json:"enabled"`
		IgnoredExitCodes     []*int64 `json:"ignoredExitCodes"`
		RestartAttemptPeriod *int64   `json:"restartAttemptPeriod"`
	} `json:"restartPolicy"`
	DockerConfig *struct {
		Config     *string `json:"config"`
		HostConfig *string `json:"hostConfig"`
		Version    *string `json:"version"`
	} `json:"dockerConfig"`
	HealthCheckType        *string         `json:"healthCheckType"`
	LogsAuthStrategy       *string         `json:"logsAuthStrategy"`
	RegistryAuthentication json.RawMessage `json:"registryAuthentication"`
	Secrets                []*struct {
		Name          *string `json:"name"`
		ValueFrom     *string `json:"valueFrom"`
		Region        *string `json:"region"`
		Provider      *string `json:"provider"`
		Type          *string `json:"type"`
		Target        *string `json:"target"`
		ContainerPath *string `json:"containerPath"`
	} `json:"secrets"`
	FirelensConfiguration *struct {
		Type    *string           `json:"type"`
		Options map[string]string `json:"options"`
	} `json:"firelensConfiguration"`
	ManagedAgents []*struct {
		Name       *string           `json:"name"`
		Properties map[string]string `json:"properties"`
	} `json:"managedAgents"`
	CredentialSpecs       []*string       `json:"credentialSpecs"`
	LinuxParameters       json.RawMessage `json:"linuxParameters"`
	Privileged            *bool           `json:"privileged"`
	NetworkInterfaceNames []*string       `json:"networkInterfaceNames"`
}

type wirePort struct {
	ContainerPort      *int64  `json:"containerPort"`
	HostPort           *int64  `json:"hostPort"`
	ContainerPortRange *string `json:"containerPortRange"`
	Protocol           *string `json:"protocol"`
}

// deref is the value behind a pointer, the zero value for nil.
func deref[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}
