// Package acs is the wire model of the ACS web socket: what the control plane tells an agent, and how the agent answers.
//
// One text frame carries one JSON object, {"type": "<name>", "message": {…}}. [Decode] turns a frame into one of the
// message types of this package and [Encode] does the reverse; both ends of Longshore use the same two functions, so a
// shape exists once. Names, casing and types are those of the Amazon ECS agent protocol (docs/compatibility.md says where
// each is described); both an unmodified amazon-ecs-agent and the real ECS speak them.
//
//	control plane → agent   HeartbeatMessage, PayloadMessage, IAMRoleCredentialsMessage, TaskManifestMessage,
//	                        TaskStopVerificationAck, AttachTaskNetworkInterfacesMessage,
//	                        AttachInstanceNetworkInterfacesMessage, ConfirmAttachmentMessage, PerformUpdateMessage,
//	                        StageUpdateMessage, CloseMessage, ErrorMessage and the exceptions
//	agent → control plane   HeartbeatAckRequest, AckRequest, NackRequest, IAMRoleCredentialsAckRequest,
//	                        TaskStopVerificationMessage
//
// [PrepareImagesMessage] and its answer [ImagesPreparedMessage], [SecurityGroupsMessage], [AuthoritiesMessage] and its answer, and [TaskListMessage] with what follows it are Longshore's own;
// nobody is sent one that has not said that it knows them.
//
// A [Task] inside a PayloadMessage is the desired task in its final form: overrides merged, Docker settings placed in the
// two documents of [DockerConfig], which [ContainerConfig] and [HostConfig] describe. Engines read only this form.
package acs

// PayloadMessage hands an agent the tasks it must run or stop. ClusterArn, ContainerInstanceArn and MessageID must be
// set: an agent drops the message silently otherwise. It is answered with an [AckRequest] once every task in it is
// durable on the host, and sent again until then.
type PayloadMessage struct {
	ClusterArn           string  `json:"clusterArn"`
	ContainerInstanceArn string  `json:"containerInstanceArn"`
	MessageID            string  `json:"messageId"`
	GeneratedAt          int64   `json:"generatedAt,omitempty"` // milliseconds since the epoch
	SeqNum               int64   `json:"seqNum,omitempty"`
	Timeline             int64   `json:"timeline,omitempty"`
	Tasks                []*Task `json:"tasks"`
	// Undecodable are the tasks that [Decode] could not read; Tasks has the others.
	Undecodable []UndecodableTask `json:"-"`
}

// Task is a task as the agent gets it. Its Arn is its identity; everything but DesiredStatus is immutable.
type Task struct {
	Arn                      string                     `json:"arn"`
	TaskClusterArn           string                     `json:"taskClusterArn,omitempty"`
	Family                   string                     `json:"family,omitempty"`
	Version                  string                     `json:"version,omitempty"`
	TaskDefinitionAccountID  string                     `json:"taskDefinitionAccountId,omitempty"`
	DesiredStatus            string                     `json:"desiredStatus"` // RUNNING or STOPPED
	Containers               []*Container               `json:"containers,omitempty"`
	Volumes                  []*Volume                  `json:"volumes,omitempty"`
	Overrides                string                     `json:"overrides,omitempty"`
	RoleCredentials          *IAMRoleCredentials        `json:"roleCredentials,omitempty"`
	ExecutionRoleCredentials *IAMRoleCredentials        `json:"executionRoleCredentials,omitempty"`
	ElasticNetworkInterfaces []*ElasticNetworkInterface `json:"elasticNetworkInterfaces,omitempty"`
	CPU                      float64                    `json:"cpu,omitempty"`    // vCPUs, 0 = no task limit
	Memory                   int64                      `json:"memory,omitempty"` // MiB, 0 = no task limit
	NetworkMode              string                     `json:"networkMode,omitempty"`
	PidMode                  string                     `json:"pidMode,omitempty"`
	IpcMode                  string                     `json:"ipcMode,omitempty"`
	LaunchType               string                     `json:"launchType,omitempty"`
	ServiceName              string                     `json:"serviceName,omitempty"`
	Group                    string                     `json:"group,omitempty"`
	ProxyConfiguration       *ProxyConfiguration        `json:"proxyConfiguration,omitempty"`
	Associations             []*Association             `json:"associations,omitempty"`
	Attachments              []*Attachment              `json:"attachments,omitempty"`
	EnableFaultInjection     bool                       `json:"enableFaultInjection,omitempty"`
	// SchedulingStrategy is that of the task's service, DAEMON or empty. It is a member of Longshore's own, which
	// Amazon ECS never sends and Longshore's control plane sends only to agents with the attribute longshore.resume-on-boot:
	// it lets them bring their daemons back after a reboot of the host although the control plane is away.
	SchedulingStrategy string `json:"schedulingStrategy,omitempty"`
}

// Container is one container of a [Task].
type Container struct {
	Name                   string                  `json:"name"`
	ContainerArn           string                  `json:"containerArn,omitempty"`
	Image                  string                  `json:"image"`
	Essential              bool                    `json:"essential"`
	CPU                    int64                   `json:"cpu,omitempty"`    // CPU shares; below 2 becomes 2
	Memory                 int64                   `json:"memory,omitempty"` // hard limit in MiB, 0 = none
	EntryPoint             []string                `json:"entryPoint,omitempty"`
	Command                []string                `json:"command,omitempty"`
	Environment            map[string]string       `json:"environment,omitempty"`
	EnvironmentFiles       []*EnvironmentFile      `json:"environmentFiles,omitempty"`
	Overrides              string                  `json:"overrides,omitempty"` // a JSON document; only {"command": […]} is understood
	Links                  []string                `json:"links,omitempty"`
	PortMappings           []*PortMapping          `json:"portMappings,omitempty"`
	MountPoints            []*MountPoint           `json:"mountPoints,omitempty"`
	VolumesFrom            []*VolumeFrom           `json:"volumesFrom,omitempty"`
	DependsOn              []*ContainerDependency  `json:"dependsOn,omitempty"`
	StartTimeout           int64                   `json:"startTimeout,omitempty"` // seconds
	StopTimeout            int64                   `json:"stopTimeout,omitempty"`  // seconds
	RestartPolicy          *RestartPolicy          `json:"restartPolicy,omitempty"`
	DockerConfig           *DockerConfig           `json:"dockerConfig,omitempty"`
	HealthCheckType        string                  `json:"healthCheckType,omitempty"` // "docker"
	LogsAuthStrategy       string                  `json:"logsAuthStrategy,omitempty"`
	RegistryAuthentication *RegistryAuthentication `json:"registryAuthentication,omitempty"`
	Secrets                []*Secret               `json:"secrets,omitempty"`
	FirelensConfiguration  *FirelensConfiguration  `json:"firelensConfiguration,omitempty"`
	ManagedAgents          []*ManagedAgent         `json:"managedAgents,omitempty"`
	CredentialSpecs        []string                `json:"credentialSpecs,omitempty"`
}

// PortMapping publishes a container port. HostPort 0 asks for a dynamic one. ContainerPortRange ("8000-8010") excludes ContainerPort.
type PortMapping struct {
	ContainerPort      int64  `json:"containerPort,omitempty"`
	HostPort           int64  `json:"hostPort"`
	ContainerPortRange string `json:"containerPortRange,omitempty"`
	Protocol           string `json:"protocol,omitempty"` // tcp (default) or udp
}

// MountPoint mounts a volume of the task in a container.
type MountPoint struct {
	SourceVolume  string `json:"sourceVolume"`
	ContainerPath string `json:"containerPath"`
	ReadOnly      bool   `json:"readOnly,omitempty"`
}

// VolumeFrom mounts every volume of another container of the task.
type VolumeFrom struct {
	SourceContainer string `json:"sourceContainer"`
	ReadOnly        bool   `json:"readOnly,omitempty"`
}

// ContainerDependency holds a container back until another one meets Condition (START, COMPLETE, SUCCESS, HEALTHY).
type ContainerDependency struct {
	ContainerName string `json:"containerName"`
	Condition     string `json:"condition"`
}

// RestartPolicy restarts a container in place.
type RestartPolicy struct {
	Enabled              bool    `json:"enabled"`
	IgnoredExitCodes     []int64 `json:"ignoredExitCodes,omitempty"`
	RestartAttemptPeriod int64   `json:"restartAttemptPeriod,omitempty"` // seconds
}

// EnvironmentFile names a file of variables in S3.
type EnvironmentFile struct {
	Value string `json:"value"`
	Type  string `json:"type"` // s3
}

// Secret is a value fetched by the agent from SSM ("ssm") or Secrets Manager ("asm").
type Secret struct {
	Name          string `json:"name"`
	ValueFrom     string `json:"valueFrom"`
	Region        string `json:"region,omitempty"`
	Provider      string `json:"provider,omitempty"`
	Type          string `json:"type,omitempty"`
	Target        string `json:"target,omitempty"`
	ContainerPath string `json:"containerPath,omitempty"`
}

// FirelensConfiguration makes the container a log router.
type FirelensConfiguration struct {
	Type    string            `json:"type"`
	Options map[string]string `json:"options,omitempty"`
}

// ManagedAgent is an agent that runs inside a container, such as ExecuteCommandAgent.
type ManagedAgent struct {
	Name       string            `json:"name"`
	Properties map[string]string `json:"properties,omitempty"`
}

// RegistryAuthentication says where the credentials for the image's registry come from.
type RegistryAuthentication struct {
	Type        string       `json:"type"` // ecr or asm
	ECRAuthData *ECRAuthData `json:"ecrAuthData,omitempty"`
	ASMAuthData *ASMAuthData `json:"asmAuthData,omitempty"`
}

// ECRAuthData points at an Amazon ECR registry.
type ECRAuthData struct {
	RegistryID       string `json:"registryId,omitempty"`
	Region           string `json:"region,omitempty"`
	EndpointOverride string `json:"endpointOverride,omitempty"`
	UseExecutionRole bool   `json:"useExecutionRole,omitempty"`
}

// ASMAuthData points at registry credentials in Secrets Manager.
type ASMAuthData struct {
	CredentialsParameter string `json:"credentialsParameter"`
	Region               string `json:"region,omitempty"`
}

// Volume is a volume of a task. Type is empty or "host" (Host must be set), "docker" or "efs".
type Volume struct {
	Name                      string                     `json:"name"`
	Type                      string                     `json:"type,omitempty"`
	Host                      *HostVolume                `json:"host,omitempty"`
	DockerVolumeConfiguration *DockerVolumeConfiguration `json:"dockerVolumeConfiguration,omitempty"`
	EFSVolumeConfiguration    *EFSVolumeConfiguration    `json:"efsVolumeConfiguration,omitempty"`
}

// HostVolume is a path of the host, or, with an empty SourcePath, an anonymous volume that lives as long as the task.
type HostVolume struct {
	SourcePath string `json:"sourcePath,omitempty"`
}

// DockerVolumeConfiguration is a named volume of the engine.
type DockerVolumeConfiguration struct {
	Scope         string            `json:"scope,omitempty"` // task or shared
	Autoprovision bool              `json:"autoprovision,omitempty"`
	Driver        string            `json:"driver,omitempty"`
	DriverOpts    map[string]string `json:"driverOpts,omitempty"`
	Labels        map[string]string `json:"labels,omitempty"`
}

// EFSVolumeConfiguration is an Amazon EFS file system.
type EFSVolumeConfiguration struct {
	FileSystemID          string                  `json:"fileSystemId"`
	RootDirectory         string                  `json:"rootDirectory,omitempty"`
	TransitEncryption     string                  `json:"transitEncryption,omitempty"`
	TransitEncryptionPort int64                   `json:"transitEncryptionPort,omitempty"`
	AuthorizationConfig   *EFSAuthorizationConfig `json:"authorizationConfig,omitempty"`
}

// EFSAuthorizationConfig is how an EFS file system is mounted.
type EFSAuthorizationConfig struct {
	AccessPointID string `json:"accessPointId,omitempty"`
	Iam           string `json:"iam,omitempty"`
}

// ProxyConfiguration is an App Mesh proxy.
type ProxyConfiguration struct {
	Type          string            `json:"type,omitempty"`
	ContainerName string            `json:"containerName"`
	Properties    map[string]string `json:"properties,omitempty"`
}

// Association gives containers a device, such as a GPU.
type Association struct {
	Name       string             `json:"name"`
	Type       string             `json:"type"`
	Content    AssociationContent `json:"content"`
	Containers []string           `json:"containers,omitempty"`
}

// AssociationContent is what an [Association] carries.
type AssociationContent struct {
	Value    string `json:"value"`
	Encoding string `json:"encoding"`
}

// Attachment is a resource attached to a task or an instance. Neither AttachmentType nor a property's name may be empty.
type Attachment struct {
	AttachmentArn        string                `json:"attachmentArn"`
	AttachmentType       string                `json:"attachmentType"`
	AttachmentProperties []*AttachmentProperty `json:"attachmentProperties,omitempty"`
}

// AttachmentProperty is one property of an [Attachment].
type AttachmentProperty struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// IAMRoleCredentials are temporary credentials of a role. CredentialsID stays the same when they are refreshed,
// because containers hold a URL with it. Expiration is RFC 3339.
type IAMRoleCredentials struct {
	CredentialsID   string `json:"credentialsId"`
	RoleArn         string `json:"roleArn"`
	AccessKeyID     string `json:"accessKeyId"`
	SecretAccessKey string `json:"secretAccessKey"`
	SessionToken    string `json:"sessionToken"`
	Expiration      string `json:"expiration"`
	CredentialScope string `json:"credentialScope,omitempty"`
}

// ElasticNetworkInterface is the interface of an awsvpc task. Gateways are in CIDR form ("10.0.1.1/24").
type ElasticNetworkInterface struct {
	Name                         string                   `json:"name,omitempty"`
	MacAddress                   string                   `json:"macAddress"`
	AttachmentArn                string                   `json:"attachmentArn,omitempty"`
	Ec2ID                        string                   `json:"ec2Id"`
	Index                        int64                    `json:"index"`
	InterfaceAssociationProtocol string                   `json:"interfaceAssociationProtocol,omitempty"`
	InterfaceVlanProperties      *InterfaceVlanProperties `json:"interfaceVlanProperties,omitempty"`
	InterfaceVethProperties      *InterfaceVethProperties `json:"interfaceVethProperties,omitempty"`
	IPv4Addresses                []*IPv4Address           `json:"ipv4Addresses,omitempty"`
	IPv6Addresses                []*IPv6Address           `json:"ipv6Addresses,omitempty"`
	DomainName                   []string                 `json:"domainName,omitempty"`
	DomainNameServers            []string                 `json:"domainNameServers,omitempty"`
	PrivateDNSName               string                   `json:"privateDnsName,omitempty"`
	SubnetGatewayIpv4Address     string                   `json:"subnetGatewayIpv4Address,omitempty"`
	SubnetGatewayIpv6Address     string                   `json:"subnetGatewayIpv6Address,omitempty"`
	// SecurityGroups are the groups whose rules the agent enforces at the interface, see [SecurityGroupsMessage]. Longshore's
	// own: with Amazon's control plane it is empty, and its network enforces them.
	SecurityGroups []string `json:"securityGroups,omitempty"`
}

// The values of an interface's InterfaceAssociationProtocol that are in use. An empty one is [AssociationDefault].
const (
	AssociationDefault = "default" // a network card of its own, which appears on the instance
	AssociationVlan    = "vlan"    // a branch of the instance's trunk interface
	AssociationVeth    = "veth"    // the agent makes it
)

// InterfaceVlanProperties tie a branch interface to its trunk.
type InterfaceVlanProperties struct {
	VlanID                   string `json:"vlanId"`
	TrunkInterfaceMacAddress string `json:"trunkInterfaceMacAddress"`
}

// InterfaceVethProperties name the interface on the other end.
type InterfaceVethProperties struct {
	PeerInterface string `json:"peerInterface,omitempty"`
}

// IPv4Address is an address of an interface.
type IPv4Address struct {
	PrivateAddress string `json:"privateAddress"`
	Primary        bool   `json:"primary"`
}

// IPv6Address is an address of an interface.
type IPv6Address struct {
	Address string `json:"address"`
	Primary bool   `json:"primary,omitempty"`
}

// HeartbeatMessage keeps a connection alive; one at connect and then at least every 45 s. It is answered.
type HeartbeatMessage struct {
	MessageID string `json:"messageId"`
	Healthy   bool   `json:"healthy"`
}

// HeartbeatAckRequest answers a [HeartbeatMessage].
type HeartbeatAckRequest struct {
	MessageID string `json:"messageId"`
}

// AckRequest is the positive answer to most messages; Cluster and ContainerInstance repeat the message's ARNs.
type AckRequest struct {
	Cluster           string `json:"cluster"`
	ContainerInstance string `json:"containerInstance"`
	MessageID         string `json:"messageId"`
}

// NackRequest refuses an update message.
type NackRequest struct {
	Cluster           string `json:"cluster"`
	ContainerInstance string `json:"containerInstance"`
	MessageID         string `json:"messageId"`
	Reason            string `json:"reason"`
}

// IAMRoleCredentialsMessage carries credentials of a role of a task the agent knows.
type IAMRoleCredentialsMessage struct {
	MessageID       string              `json:"messageId"`
	TaskArn         string              `json:"taskArn"`
	TaskClusterArn  string              `json:"taskClusterArn,omitempty"`
	RoleType        string              `json:"roleType"` // TaskApplication or TaskExecution
	RoleCredentials *IAMRoleCredentials `json:"roleCredentials"`
}

// IAMRoleCredentialsAckRequest answers an [IAMRoleCredentialsMessage], and each set of credentials in a payload.
type IAMRoleCredentialsAckRequest struct {
	MessageID     string `json:"messageId"`
	Expiration    string `json:"expiration"`
	CredentialsID string `json:"credentialsId"`
}

// TaskManifestMessage lists the tasks an instance should have. An agent obeys it only when Timeline is above every
// sequence number it has seen, and ignores it without an ack otherwise.
type TaskManifestMessage struct {
	ContainerInstanceArn string            `json:"containerInstanceArn"`
	ClusterArn           string            `json:"clusterArn"`
	MessageID            string            `json:"messageId"`
	GeneratedAt          int64             `json:"generatedAt"`
	Timeline             int64             `json:"timeline"`
	Tasks                []*TaskIdentifier `json:"tasks"`
}

// TaskIdentifier names a task and what it should be. TaskArn and DesiredStatus must be set.
type TaskIdentifier struct {
	TaskArn        string `json:"taskArn"`
	TaskClusterArn string `json:"taskClusterArn"`
	DesiredStatus  string `json:"desiredStatus"`
}

// TaskStopVerificationMessage asks which of the tasks that a manifest did not list should really stop.
type TaskStopVerificationMessage struct {
	MessageID      string            `json:"messageId"` // the manifest's
	StopCandidates []*TaskIdentifier `json:"stopCandidates"`
}

// TaskStopVerificationAck lists the candidates that must stop.
type TaskStopVerificationAck struct {
	GeneratedAt int64             `json:"generatedAt"`
	MessageID   string            `json:"messageId"` // the manifest's
	StopTasks   []*TaskIdentifier `json:"stopTasks"`
}

// CapabilityPrepareImages is the attribute with which an agent says that it answers a [PrepareImagesMessage]. Longshore's
// agents have it; to others, the Amazon ECS agent and Amazon ECS among them, the messages do not exist.
const CapabilityPrepareImages = "longshore.capability.prepare-images"

// PrepareImagesMessage asks an agent to make images local before a task that needs them is placed, so that the task which
// it replaces runs until then. It is sent again until it is answered; the agent does the work of one Preparation once.
type PrepareImagesMessage struct {
	ClusterArn           string          `json:"clusterArn"`
	ContainerInstanceArn string          `json:"containerInstanceArn"`
	MessageID            string          `json:"messageId"`
	Preparation          string          `json:"preparation"`           // names it: the same name is the same work
	KeepSeconds          int64           `json:"keepSeconds,omitempty"` // for how long the images are kept though nobody uses them
	Images               []*PrepareImage `json:"images"`
	// ExecutionRoleCredentials are those of the tasks that are to come, where their definition has an execution role.
	ExecutionRoleCredentials *IAMRoleCredentials `json:"executionRoleCredentials,omitempty"`
}

// PrepareImage is an image, as a [Container] names it.
type PrepareImage struct {
	Name                   string                  `json:"name"` // of the container
	Image                  string                  `json:"image"`
	RegistryAuthentication *RegistryAuthentication `json:"registryAuthentication,omitempty"`
}

// ImagesPreparedMessage answers a [PrepareImagesMessage], when the images are there or can't be had.
type ImagesPreparedMessage struct {
	MessageID   string `json:"messageId"` // of the message that is answered
	Preparation string `json:"preparation"`
	Status      string `json:"status"` // READY or FAILED
	Reason      string `json:"reason,omitempty"`
}

// The statuses of an [ImagesPreparedMessage].
const (
	PreparedReady  = "READY"
	PreparedFailed = "FAILED"
)

// CapabilitySecurityGroups is the attribute with which an agent says that it makes tasks' network interfaces itself and
// enforces their security groups, so that it may be sent interfaces with [AssociationVeth] and [SecurityGroupsMessage].
// Longshore's own.
const CapabilitySecurityGroups = "longshore.capability.security-groups"

// AttributeInterfaceSlots is the attribute with which such an agent says how many tasks' network interfaces its host can have.
const AttributeInterfaceSlots = "longshore.interface-slots"

// SecurityGroupsMessage is everything that an agent needs to know about the security groups of its tasks' interfaces: it
// replaces what an earlier one said. It is sent before the first interface that names a group, at each connect while the
// instance has such interfaces, and whenever a rule or a membership changes that matters to them. It is answered with
// [AckRequest] when it is durable; one with a Generation that is not above the last one is answered and ignored.
type SecurityGroupsMessage struct {
	MessageID            string           `json:"messageId"`
	ClusterArn           string           `json:"clusterArn"`
	ContainerInstanceArn string           `json:"containerInstanceArn"`
	Generation           int64            `json:"generation"` // rises, across restarts and restores of the control plane too
	Groups               []*SecurityGroup `json:"groups"`
}

// SecurityGroup is a named set of rules, and the addresses of the interfaces that are in it.
type SecurityGroup struct {
	GroupID string               `json:"groupId"`
	Ingress []*SecurityGroupRule `json:"ingress,omitempty"` // nothing else may come in, but answers
	Egress  []*SecurityGroupRule `json:"egress,omitempty"`  // nothing else may go out, but answers
	// Members are the addresses, IPv4 and IPv6, of all interfaces in the group, on whatever host. Groups of which another's
	// rule speaks have them, and may have no rules.
	Members []string `json:"members,omitempty"`
}

// SecurityGroupRule allows what it describes, as EC2's IpPermission does. With neither Cidrs nor Groups it allows nothing.
type SecurityGroupRule struct {
	Protocol string   `json:"protocol"` // tcp, udp, icmp, icmpv6, a number, or -1 for all
	FromPort int32    `json:"fromPort"` // tcp, udp: the first port; icmp, icmpv6: the type, -1 for all
	ToPort   int32    `json:"toPort"`   // tcp, udp: the last port; icmp, icmpv6: the code, -1 for all
	Cidrs    []string `json:"cidrs,omitempty"`
	Groups   []string `json:"groups,omitempty"`
}

// AttachTaskNetworkInterfacesMessage announces the interface of an awsvpc task.
type AttachTaskNetworkInterfacesMessage struct {
	MessageID                string                     `json:"messageId"`
	ClusterArn               string                     `json:"clusterArn"`
	ContainerInstanceArn     string                     `json:"containerInstanceArn"`
	TaskArn                  string                     `json:"taskArn"`
	TaskClusterArn           string                     `json:"taskClusterArn"`
	GeneratedAt              int64                      `json:"generatedAt"`
	WaitTimeoutMs            int64                      `json:"waitTimeoutMs"`
	ElasticNetworkInterfaces []*ElasticNetworkInterface `json:"elasticNetworkInterfaces"`
}

// AttachInstanceNetworkInterfacesMessage announces an interface of the instance (a trunk).
type AttachInstanceNetworkInterfacesMessage struct {
	MessageID                string                     `json:"messageId"`
	ClusterArn               string                     `json:"clusterArn"`
	ContainerInstanceArn     string                     `json:"containerInstanceArn"`
	GeneratedAt              int64                      `json:"generatedAt"`
	WaitTimeoutMs            int64                      `json:"waitTimeoutMs"`
	ElasticNetworkInterfaces []*ElasticNetworkInterface `json:"elasticNetworkInterfaces"`
}

// ConfirmAttachmentMessage announces another resource, such as a volume.
type ConfirmAttachmentMessage struct {
	MessageID            string      `json:"messageId"`
	ClusterArn           string      `json:"clusterArn"`
	ContainerInstanceArn string      `json:"containerInstanceArn"`
	TaskArn              string      `json:"taskArn,omitempty"`
	TaskClusterArn       string      `json:"taskClusterArn,omitempty"`
	GeneratedAt          int64       `json:"generatedAt"`
	WaitTimeoutMs        int64       `json:"waitTimeoutMs,omitempty"`
	Attachment           *Attachment `json:"attachment"`
}

// StageUpdateMessage asks the agent to download a new version of itself.
type StageUpdateMessage struct {
	ContainerInstanceArn string      `json:"containerInstanceArn"`
	ClusterArn           string      `json:"clusterArn"`
	MessageID            string      `json:"messageId"`
	UpdateInfo           *UpdateInfo `json:"updateInfo"`
}

// PerformUpdateMessage asks the agent to become the version it staged.
type PerformUpdateMessage StageUpdateMessage

// UpdateInfo says where an update lies and what its SHA-256 is.
type UpdateInfo struct {
	Location  string `json:"location"`
	Signature string `json:"signature"`
}

// CloseMessage announces that the server will close the connection.
type CloseMessage struct {
	Message string `json:"message"`
}

// ErrorMessage is an error that has no type of its own.
type ErrorMessage struct {
	Message string `json:"message"`
}
