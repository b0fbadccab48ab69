package engine

import (
	"time"

	"github.com/longshore-project/longshore/protocol/acs"
)

// TaskStatus is a task as the engine knows it now. It is a snapshot: nothing in it changes, and nothing may be changed.
type TaskStatus struct {
	Arn                string
	ClusterArn         string
	Family             string
	Version            string
	Desired            string // desiredStatus: NONE, MANIFEST_PULLED, CREATED, RUNNING or STOPPED
	Known              string // knownStatus: NONE, PENDING, RUNNING or STOPPED
	Reason             string
	Cause              *Cause // what went wrong; nil: nothing
	Containers         []ContainerStatus
	Pauses             []ContainerStatus // that the agent has added, to own namespaces
	Waits              []string          // what it waits for now, and why
	Timeline           []Step
	AcceptedAt         time.Time
	PullStartedAt      time.Time
	PullStoppedAt      time.Time
	ExecutionStoppedAt time.Time
	StoppedAt          time.Time
	Rebuilt            bool      // read back from container labels after the state file was lost
	Payload            *acs.Task // as accepted, without credentials; partial when Rebuilt
}

// ContainerStatus is one container of a [TaskStatus].
type ContainerStatus struct {
	Name        string
	RuntimeID   string
	RuntimeName string
	EndpointID  string // in the URLs that another agent gave the container; empty: this agent's own
	Image       string
	ImageID     string
	ImageDigest string
	Essential   bool
	Known       string // NONE, PULLED, CREATED, RUNNING or STOPPED
	Health      Health
	Restarts    int
	ExitCode    *int
	Reason      string
	Bindings    []NetworkBinding
	Addresses   []string
	NetworkMode string // as the engine shows it; empty before it is created
	Pid         int    // of its first process, while it runs
	Labels      map[string]string
	Mounts      []Mount // as the engine shows them
	CreatedAt   time.Time
	StartedAt   time.Time
	FinishedAt  time.Time
	Removed     bool     // the agent has removed it from the engine
	Log         *LogTail // the end of its output, from the time of its removal on
}

// Step is one entry of a task's timeline. End is zero while the step runs.
type Step struct {
	Container string // empty for a step of the task as a whole
	Name      string // accept, admit, pull, check-volumes, create, start, stop, exit, restart, report, adopt, remove …
	Start     time.Time
	End       time.Time
	Outcome   string // empty while it runs, then done, failed or warning
	Detail    string // the cause of a failure, the text of a warning, else a remark
}

// The outcomes of a [Step].
const (
	OutcomeDone    = "done"
	OutcomeFailed  = "failed"
	OutcomeWarning = "warning"
)

// EngineHealth says whether the engine can do its work. While Impaired, running containers are unaffected and tasks
// wait; Causes says for what.
type EngineHealth struct {
	Impaired bool
	Causes   []string
	Since    time.Time // of the present verdict
	Engine   Info      // the container engine as it answered last
}
