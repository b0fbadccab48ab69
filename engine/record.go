package engine

import (
	"time"

	"github.com/longshore-project/longshore/protocol/acs"
)

// RecordVersion is the version of [TaskRecord] that this engine writes.
const RecordVersion = 1

// TaskRecord is what survives of a task: what was asked for, and the facts about it that the container engine alone
// can't tell after a crash. It never holds credentials. Records are replaced, not changed: a new one counts only once
// it is saved.
type TaskRecord struct {
	Version    int       `json:"version"`
	Task       *acs.Task `json:"task"`
	AcceptedAt time.Time `json:"acceptedAt"`
	// Desired is NONE, MANIFEST_PULLED, CREATED, RUNNING or STOPPED; it only moves forward.
	Desired string `json:"desired"`
	// Known is the last status that was put into a StateChange: empty, PENDING, RUNNING or STOPPED.
	Known string `json:"known,omitempty"`
	// Reason is why the task as a whole stops; empty for an ordinary exit or a stop that was asked for.
	Reason             string             `json:"reason,omitempty"`
	Cause              *Cause             `json:"cause,omitempty"` // what went wrong; nil: nothing. It is replaced, not changed
	Containers         []*ContainerRecord `json:"containers,omitempty"`
	PullStartedAt      time.Time          `json:"pullStartedAt,omitzero"`
	PullStoppedAt      time.Time          `json:"pullStoppedAt,omitzero"`
	ExecutionStoppedAt time.Time          `json:"executionStoppedAt,omitzero"` // when the first essential container stopped
	StoppedAt          time.Time          `json:"stoppedAt,omitzero"`          // when STOPPED was observed; clean-up counts from here
	// Rebuilt says that Task was read back from labels of containers and waits for the control plane's whole payload.
	Rebuilt bool `json:"rebuilt,omitempty"`
	// CleanedAt is when the containers were removed. From then on the record is kept for people, with the end of its timeline.
	CleanedAt time.Time `json:"cleanedAt,omitzero"`
	Timeline  []Step    `json:"timeline,omitempty"`
}

// ContainerRecord is the durable part of one container.
type ContainerRecord struct {
	Name      string `json:"name"`
	Attempt   int    `json:"attempt"` // counts containers made for it; part of the container's name
	RuntimeID string `json:"runtimeId,omitempty"`
	// RuntimeName is the container's name on the engine where another agent made it; empty: the one that is made of task, container
	// and attempt.
	RuntimeName string `json:"runtimeName,omitempty"`
	// EndpointID is the id in the URLs that another agent gave the container; empty: this agent's own.
	EndpointID  string `json:"endpointId,omitempty"`
	ImageDigest string `json:"imageDigest,omitempty"`
	// Intent is durable before the container is started: from then on an absent container is a lost one.
	Intent *StartIntent `json:"intent,omitempty"`
	// Restarts counts the starts that the restart policy ordered.
	Restarts  int              `json:"restarts,omitempty"`
	StartedAt time.Time        `json:"startedAt,omitzero"` // the first start that was observed
	Bindings  []NetworkBinding `json:"bindings,omitempty"`
	// Fault is why the container must end, once that is decided; it becomes the reason of Final when no process is left.
	Fault     string `json:"fault,omitempty"`
	FaultExit *int   `json:"faultExit,omitempty"` // the exit code that goes with it where there is none of a process
	// Final is set when the container has ended for good and has no process; it never changes then.
	Final *Final `json:"final,omitempty"`
	// Reported and ReportedDigest are what the last StateChange said.
	Reported       string `json:"reported,omitempty"`
	ReportedDigest string `json:"reportedDigest,omitempty"`
	// Log is the end of its output, read before it was removed.
	Log *LogTail `json:"log,omitempty"`
}

// StartIntent says that a start was about to be ordered. The start took place when the container's StartedAt is no
// longer From, which is zero for the first start.
type StartIntent struct {
	At   time.Time `json:"at"`
	From time.Time `json:"from,omitzero"`
	Boot string    `json:"boot,omitempty"` // the boot of the host in which it was ordered; empty: not known
}

// Final is how a container ended. ExitCode is nil when no process of it ended, or its code is unknown.
type Final struct {
	ExitCode   *int      `json:"exitCode,omitempty"`
	Reason     string    `json:"reason,omitempty"`
	FinishedAt time.Time `json:"finishedAt,omitzero"`
}

// clone copies everything that a turn may change.
func (r *TaskRecord) clone() *TaskRecord {
	c := *r
	c.Containers = make([]*ContainerRecord, len(r.Containers))
	for i, cr := range r.Containers {
		copied := *cr
		c.Containers[i] = &copied
	}
	return &c
}

// container returns the record of one container, or nil.
func (r *TaskRecord) container(name string) *ContainerRecord {
	for _, c := range r.Containers {
		if c.Name == name {
			return c
		}
	}
	return nil
}
