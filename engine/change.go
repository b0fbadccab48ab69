package engine

import "time"

// StateChange is one thing that the control plane must learn about a task: a SubmitTaskStateChange that has not been
// accepted yet. Changes of a task are submitted in the order of Sequence, each until it is accepted.
type StateChange struct {
	Sequence           uint64 // given when it is saved; rises over the life of the state file
	TaskArn            string
	Status             string // PENDING, RUNNING or STOPPED
	Reason             string
	Containers         []ContainerChange
	PullStartedAt      time.Time
	PullStoppedAt      time.Time
	ExecutionStoppedAt time.Time
	Time               time.Time // when it was observed
	// Attachments are what this change is about, if there are any; it says nothing of the task then, and without a task they are the
	// instance's. After Expires it is not submitted any more.
	Attachments []AttachmentChange `json:",omitempty"`
	Expires     time.Time          `json:",omitzero"`
}

// AttachmentChange is an attachment of a [StateChange].
type AttachmentChange struct {
	Arn    string
	Status string // ATTACHED
}

// ContainerChange is one container of a [StateChange].
type ContainerChange struct {
	Name            string
	RuntimeID       string
	ImageDigest     string
	Status          string // PENDING, RUNNING or STOPPED
	ExitCode        *int
	Reason          string
	NetworkBindings []NetworkBinding
	Health          string
}

// NetworkBinding is a port as it was bound.
type NetworkBinding struct {
	BindIP        string
	ContainerPort int32
	HostPort      int32
	Protocol      string
	// Of a containerPortRange: both ranges, and the single ports are 0.
	ContainerPortRange string `json:",omitempty"`
	HostPortRange      string `json:",omitempty"`
}
