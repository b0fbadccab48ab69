package acs

import (
	"fmt"

	"github.com/longshore-project/longshore/protocol/envelope"
)

// A control plane whose store is empty or was restored from a backup does not know what its hosts run. Longshore's agents
// tell it, when a connection stands and before they are told anything:
//
//	agent → control plane   TaskListMessage: every task, with its statuses
//	control plane → agent   DescribeTasksMessage: those that it does not know
//	agent → control plane   TasksDescribedMessage …: what a record is made from, in as many messages as it takes
//
// The handshake says that both know this: the request has [BootHeader], the answer [TaskListHeader].

// BootHeader is the header with which Longshore's agent says, when it opens its ACS socket, in which boot of its host's
// kernel it runs: two machines with one identity differ in it. It may be empty.
const BootHeader = "X-Longshore-Boot"

// TaskListHeader is the header of the answer with which the control plane asks for a [TaskListMessage].
const TaskListHeader = "X-Longshore-Task-List"

// The bounds of what an agent says about its tasks.
const (
	MaxListedTasks    = 10_000
	MaxDescribedTasks = 20 // in one message
)

// TaskListMessage lists every task that an agent has on record, those that are STOPPED included.
type TaskListMessage struct {
	// Incomplete is set while the agent has not looked at all its containers yet: there may be more tasks.
	Incomplete bool          `json:"incomplete,omitempty"`
	Tasks      []*ListedTask `json:"tasks"`
}

// ListedTask is a task as its agent knows it.
type ListedTask struct {
	TaskArn       string `json:"taskArn"`
	DesiredStatus string `json:"desiredStatus"`
	KnownStatus   string `json:"knownStatus"` // PENDING, RUNNING or STOPPED
	// Unsent is set while state changes of the task wait to be submitted: what they say needs no description.
	Unsent bool `json:"unsent,omitempty"`
}

// DescribeTasksMessage asks for what the control plane needs to know of tasks of the list; a task that is gone meanwhile is
// left out of the answer.
type DescribeTasksMessage struct {
	MessageID string   `json:"messageId"`
	TaskArns  []string `json:"taskArns"`
}

// TasksDescribedMessage answers a [DescribeTasksMessage]. While More is set another one follows.
type TasksDescribedMessage struct {
	MessageID string             `json:"messageId"` // of the message that is answered
	More      bool               `json:"more,omitempty"`
	Tasks     []*TaskDescription `json:"tasks"`
}

// TaskDescription is what a task's record is made from when nothing else is left of it. It has no values of variables, no
// secrets and no credentials. Times are in milliseconds since the epoch, by the host's clock, 0 when they are not known.
type TaskDescription struct {
	TaskArn            string  `json:"taskArn"`
	DesiredStatus      string  `json:"desiredStatus"`
	KnownStatus        string  `json:"knownStatus"`
	Reason             string  `json:"reason,omitempty"`
	Family             string  `json:"family"`
	Version            string  `json:"version"`
	ServiceName        string  `json:"serviceName,omitempty"`
	Group              string  `json:"group,omitempty"`
	LaunchType         string  `json:"launchType,omitempty"`
	SchedulingStrategy string  `json:"schedulingStrategy,omitempty"`
	NetworkMode        string  `json:"networkMode,omitempty"`
	CPU                float64 `json:"cpu,omitempty"`    // vCPUs, as in [Task]
	Memory             int64   `json:"memory,omitempty"` // MiB

	// CredentialsID and ExecutionCredentialsID are what the task's containers know their credentials by.
	CredentialsID          string                     `json:"credentialsId,omitempty"`
	ExecutionCredentialsID string                     `json:"executionCredentialsId,omitempty"`
	Interfaces             []*ElasticNetworkInterface `json:"interfaces,omitempty"`
	GPUs                   []string                   `json:"gpus,omitempty"`
	Containers             []*ContainerDescription    `json:"containers"`

	Ran                bool  `json:"ran,omitempty"` // one of its containers has been started
	PullStartedAt      int64 `json:"pullStartedAt,omitempty"`
	PullStoppedAt      int64 `json:"pullStoppedAt,omitempty"`
	ExecutionStoppedAt int64 `json:"executionStoppedAt,omitempty"`
	StoppedAt          int64 `json:"stoppedAt,omitempty"`
}

// ContainerDescription is a container of a [TaskDescription].
type ContainerDescription struct {
	Name              string         `json:"name"`
	ContainerArn      string         `json:"containerArn,omitempty"`
	Image             string         `json:"image,omitempty"`
	Essential         bool           `json:"essential"`
	CPU               int64          `json:"cpu,omitempty"`
	Memory            int64          `json:"memory,omitempty"`            // MiB
	MemoryReservation int64          `json:"memoryReservation,omitempty"` // MiB
	PortMappings      []*PortMapping `json:"portMappings,omitempty"`
	RuntimeID         string         `json:"runtimeId,omitempty"`
	ImageDigest       string         `json:"imageDigest,omitempty"`
	Status            string         `json:"status"` // PENDING, RUNNING or STOPPED
	ExitCode          *int32         `json:"exitCode,omitempty"`
	Reason            string         `json:"reason,omitempty"`
	Bindings          []*PortBinding `json:"bindings,omitempty"`
}

// PortBinding is a port as it is bound on the host.
type PortBinding struct {
	BindIP             string `json:"bindIP,omitempty"`
	ContainerPort      int32  `json:"containerPort,omitempty"`
	HostPort           int32  `json:"hostPort,omitempty"`
	ContainerPortRange string `json:"containerPortRange,omitempty"`
	HostPortRange      string `json:"hostPortRange,omitempty"`
	Protocol           string `json:"protocol,omitempty"`
}

// Validate checks what the control plane needs.
func (m *TaskListMessage) Validate() error {
	if len(m.Tasks) > MaxListedTasks {
		return fmt.Errorf("tasks has %d entries; at most %d are allowed", len(m.Tasks), MaxListedTasks)
	}
	for i, t := range m.Tasks {
		if err := need("taskArn", t.TaskArn); err != nil {
			return fmt.Errorf("tasks[%d].%w", i, err)
		}
		if err := checkKnown(t.KnownStatus); err != nil {
			return fmt.Errorf("tasks[%d].%w", i, err)
		}
	}
	return nil
}

// Validate checks what an agent needs.
func (m *DescribeTasksMessage) Validate() error {
	if len(m.TaskArns) > MaxListedTasks {
		return fmt.Errorf("taskArns has %d entries; at most %d are allowed", len(m.TaskArns), MaxListedTasks)
	}
	return need("messageId", m.MessageID)
}

// Validate checks what the control plane needs.
func (m *TasksDescribedMessage) Validate() error {
	if len(m.Tasks) > MaxDescribedTasks {
		return fmt.Errorf("tasks has %d entries; at most %d are allowed", len(m.Tasks), MaxDescribedTasks)
	}
	if err := need("messageId", m.MessageID); err != nil {
		return err
	}
	for i, t := range m.Tasks {
		if err := t.validate(); err != nil {
			return fmt.Errorf("tasks[%d].%w", i, err)
		}
	}
	return nil
}

// maxContainers bounds the containers of a task; a definition has at most ten.
const maxContainers = 20

func (t *TaskDescription) validate() error {
	if err := need("taskArn", t.TaskArn, "family", t.Family, "version", t.Version); err != nil {
		return err
	}
	if err := checkKnown(t.KnownStatus); err != nil {
		return err
	}
	if len(t.Containers) == 0 || len(t.Containers) > maxContainers {
		return fmt.Errorf("containers has %d entries, not 1 to %d", len(t.Containers), maxContainers)
	}
	for i, c := range t.Containers {
		if err := need("name", c.Name); err != nil {
			return fmt.Errorf("containers[%d].%w", i, err)
		}
		if err := checkKnown(c.Status); err != nil {
			return fmt.Errorf("containers[%d].%w", i, err)
		}
	}
	return nil
}

func checkKnown(status string) error {
	switch status {
	case "PENDING", StatusRunning, StatusStopped:
		return nil
	}
	return fmt.Errorf("status is %q, not PENDING, RUNNING or STOPPED", envelope.Clip(status))
}
