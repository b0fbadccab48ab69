package acs

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"

	"github.com/longshore-project/longshore/protocol/envelope"
)

// The values of desiredStatus.
const (
	StatusRunning = "RUNNING"
	StatusStopped = "STOPPED"
)

// need finds the first of the name, value pairs whose value is empty.
func need(pairs ...string) error {
	for i := 0; i < len(pairs); i += 2 {
		if pairs[i+1] == "" {
			return fmt.Errorf("%s is empty", pairs[i])
		}
	}
	return nil
}

// Validate checks what an agent needs before it may act on the message and acknowledge it. The tasks are judged one by
// one, with [Task.Validate].
func (m *PayloadMessage) Validate() error {
	return need("messageId", m.MessageID, "clusterArn", m.ClusterArn, "containerInstanceArn", m.ContainerInstanceArn)
}

// Validate checks a task's identity, its status, and that names within it are set, unique and known. A task with desired
// status STOPPED may consist of Arn and DesiredStatus alone.
func (t *Task) Validate() error {
	if err := need("arn", t.Arn); err != nil {
		return err
	}
	if t.DesiredStatus != StatusRunning && t.DesiredStatus != StatusStopped {
		return fmt.Errorf("desiredStatus is %q; it must be RUNNING or STOPPED", envelope.Clip(t.DesiredStatus))
	}
	if t.DesiredStatus == StatusRunning && len(t.Containers) == 0 {
		return fmt.Errorf("containers is empty")
	}
	volumes := map[string]bool{}
	for i, v := range t.Volumes {
		if v.Name == "" {
			return fmt.Errorf("volumes[%d].name is empty", i)
		}
		if volumes[v.Name] {
			return fmt.Errorf("volumes[%d].name %q appears twice", i, envelope.Clip(v.Name))
		}
		volumes[v.Name] = true
	}
	names := map[string]bool{}
	for i, c := range t.Containers {
		if c.Name == "" {
			return fmt.Errorf("containers[%d].name is empty", i)
		}
		if names[c.Name] {
			return fmt.Errorf("containers[%d].name %q appears twice", i, envelope.Clip(c.Name))
		}
		names[c.Name] = true
	}
	for _, c := range t.Containers {
		if err := c.validate(names, volumes); err != nil {
			return fmt.Errorf("container %s: %w", envelope.Clip(c.Name), err)
		}
	}
	return nil
}

func (c *Container) validate(containers, volumes map[string]bool) error {
	if _, err := c.CommandOverride(); err != nil {
		return err
	}
	for i, m := range c.MountPoints {
		if !volumes[m.SourceVolume] {
			return fmt.Errorf("mountPoints[%d].sourceVolume %q is not a volume of the task", i, envelope.Clip(m.SourceVolume))
		}
	}
	for i, v := range c.VolumesFrom {
		if !containers[v.SourceContainer] {
			return fmt.Errorf("volumesFrom[%d].sourceContainer %q is not a container of the task", i, envelope.Clip(v.SourceContainer))
		}
	}
	for i, d := range c.DependsOn {
		if !containers[d.ContainerName] {
			return fmt.Errorf("dependsOn[%d].containerName %q is not a container of the task", i, envelope.Clip(d.ContainerName))
		}
	}
	return nil
}

// CommandOverride reads the member Overrides: the command that replaces the container's, nil when there is none. Any other
// key in it is an error, as it is for every ECS agent.
func (c *Container) CommandOverride() ([]string, error) {
	if c.Overrides == "" {
		return nil, nil
	}
	var o struct {
		Command []string `json:"command"`
	}
	d := json.NewDecoder(strings.NewReader(c.Overrides))
	d.DisallowUnknownFields()
	if err := d.Decode(&o); err != nil {
		return nil, fmt.Errorf(`overrides must be {"command":[…]} or {}: %s`, envelope.Reason(err))
	}
	if d.More() {
		return nil, fmt.Errorf("overrides has data after its end")
	}
	return o.Command, nil
}

// Validate checks what an agent needs before it may act on the message.
func (m *TaskManifestMessage) Validate() error {
	if err := need("messageId", m.MessageID, "clusterArn", m.ClusterArn, "containerInstanceArn", m.ContainerInstanceArn); err != nil {
		return err
	}
	return validateIdentifiers("tasks", m.Tasks)
}

// Validate checks what a control plane needs before it may answer the message.
func (m *TaskStopVerificationMessage) Validate() error {
	if err := need("messageId", m.MessageID); err != nil {
		return err
	}
	return validateIdentifiers("stopCandidates", m.StopCandidates)
}

// Validate checks what an agent needs before it may act on the message.
func (m *TaskStopVerificationAck) Validate() error {
	if err := need("messageId", m.MessageID); err != nil {
		return err
	}
	return validateIdentifiers("stopTasks", m.StopTasks)
}

// maxPrepared bounds the images of one message: a task definition has at most ten containers.
const maxPrepared = 10

// Validate checks what an agent needs before it may act on the message.
func (m *PrepareImagesMessage) Validate() error {
	if err := need("messageId", m.MessageID, "containerInstanceArn", m.ContainerInstanceArn, "preparation", m.Preparation); err != nil {
		return err
	}
	if len(m.Images) == 0 || len(m.Images) > maxPrepared {
		return fmt.Errorf("images has %d entries, not 1 to %d", len(m.Images), maxPrepared)
	}
	for i, img := range m.Images {
		if err := need("name", img.Name, "image", img.Image); err != nil {
			return fmt.Errorf("images[%d].%w", i, err)
		}
	}
	return nil
}

// Validate checks what the control plane needs.
func (m *ImagesPreparedMessage) Validate() error {
	if err := need("preparation", m.Preparation); err != nil {
		return err
	}
	if m.Status != PreparedReady && m.Status != PreparedFailed {
		return fmt.Errorf("status is %q, not %s or %s", m.Status, PreparedReady, PreparedFailed)
	}
	return nil
}

func validateIdentifiers(list string, ids []*TaskIdentifier) error {
	for i, t := range ids {
		if err := need("taskArn", t.TaskArn, "desiredStatus", t.DesiredStatus); err != nil {
			return fmt.Errorf("%s[%d].%w", list, i, err)
		}
	}
	return nil
}

// The values of roleType.
const (
	RoleTypeTask      = "TaskApplication"
	RoleTypeExecution = "TaskExecution"
)

// Validate checks what an agent needs before it may act on the message.
func (m *IAMRoleCredentialsMessage) Validate() error {
	if err := need("messageId", m.MessageID, "taskArn", m.TaskArn); err != nil {
		return err
	}
	if m.RoleType != RoleTypeTask && m.RoleType != RoleTypeExecution {
		return fmt.Errorf("roleType is %q; it must be TaskApplication or TaskExecution", envelope.Clip(m.RoleType))
	}
	if m.RoleCredentials == nil {
		return fmt.Errorf("roleCredentials is missing")
	}
	return need("roleCredentials.credentialsId", m.RoleCredentials.CredentialsID)
}

// Validate checks what an agent needs before it may act on the message.
func (m *AttachTaskNetworkInterfacesMessage) Validate() error {
	if err := need("messageId", m.MessageID, "clusterArn", m.ClusterArn, "containerInstanceArn", m.ContainerInstanceArn, "taskArn", m.TaskArn); err != nil {
		return err
	}
	return validateInterfaces(m.WaitTimeoutMs, m.ElasticNetworkInterfaces)
}

// Validate checks what an agent needs before it may act on the message.
func (m *AttachInstanceNetworkInterfacesMessage) Validate() error {
	if err := need("messageId", m.MessageID, "clusterArn", m.ClusterArn, "containerInstanceArn", m.ContainerInstanceArn); err != nil {
		return err
	}
	return validateInterfaces(m.WaitTimeoutMs, m.ElasticNetworkInterfaces)
}

func validateInterfaces(waitMs int64, interfaces []*ElasticNetworkInterface) error {
	if waitMs <= 0 {
		return fmt.Errorf("waitTimeoutMs is %d; it must be above 0", waitMs)
	}
	if len(interfaces) == 0 {
		return fmt.Errorf("elasticNetworkInterfaces is empty")
	}
	for i, e := range interfaces {
		if err := e.Validate(); err != nil {
			return fmt.Errorf("elasticNetworkInterfaces[%d].%w", i, err)
		}
	}
	return nil
}

// Validate checks that the interface can be found on the host and has an address and gateway of one family.
func (e *ElasticNetworkInterface) Validate() error {
	if err := need("macAddress", e.MacAddress, "ec2Id", e.Ec2ID); err != nil {
		return err
	}
	switch {
	case len(e.IPv4Addresses) > 0:
		return validateGateway("subnetGatewayIpv4Address", e.SubnetGatewayIpv4Address)
	case len(e.IPv6Addresses) > 0:
		return validateGateway("subnetGatewayIpv6Address", e.SubnetGatewayIpv6Address)
	}
	return fmt.Errorf("ipv4Addresses and ipv6Addresses are empty")
}

func validateGateway(member, cidr string) error {
	if _, err := netip.ParsePrefix(cidr); err != nil {
		return fmt.Errorf("%s is %q; it must be in CIDR form, such as 10.0.1.1/24", member, envelope.Clip(cidr))
	}
	return nil
}

// Validate checks what an agent needs before it may act on the message.
func (m *ConfirmAttachmentMessage) Validate() error {
	if err := need("messageId", m.MessageID, "clusterArn", m.ClusterArn, "containerInstanceArn", m.ContainerInstanceArn); err != nil {
		return err
	}
	if m.Attachment == nil {
		return fmt.Errorf("attachment is missing")
	}
	if err := need("attachment.attachmentArn", m.Attachment.AttachmentArn, "attachment.attachmentType", m.Attachment.AttachmentType); err != nil {
		return err
	}
	for i, p := range m.Attachment.AttachmentProperties {
		if p.Name == "" || p.Value == "" {
			return fmt.Errorf("attachment.attachmentProperties[%d] has an empty name or value", i)
		}
	}
	return nil
}

// Validate checks what an agent needs before it may act on the message.
func (m *StageUpdateMessage) Validate() error {
	if err := need("messageId", m.MessageID, "clusterArn", m.ClusterArn, "containerInstanceArn", m.ContainerInstanceArn); err != nil {
		return err
	}
	if m.UpdateInfo == nil {
		return fmt.Errorf("updateInfo is missing")
	}
	return need("updateInfo.location", m.UpdateInfo.Location, "updateInfo.signature", m.UpdateInfo.Signature)
}

// Validate checks what an agent needs before it may act on the message.
func (m *PerformUpdateMessage) Validate() error { return (*StageUpdateMessage)(m).Validate() }
