package local

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/longshore-project/longshore/engine"
	"github.com/longshore-project/longshore/internal/nearest"
)

// Status is the answer of GET /v1/status. Times that are not known are left out.
type Status struct {
	Now                  time.Time  `json:"now"`
	Version              string     `json:"version"`
	Hash                 string     `json:"hash"`
	PID                  int        `json:"pid"`
	StartedAt            time.Time  `json:"startedAt"`
	Cluster              string     `json:"cluster"`
	ContainerInstanceArn string     `json:"containerInstanceArn,omitempty"` // none before the registration
	Connection           Connection `json:"connection"`
	Engine               Engine     `json:"engine"`
	Containers           Endpoints  `json:"taskEndpoints"`
	Resources            Resources  `json:"resources"`
	Disks                []Disk     `json:"disks"`
	Health               Health     `json:"health"`
	Tasks                Counts     `json:"tasks"`
	UnsentChanges        int        `json:"unsentChanges"` // state changes that the control plane has not accepted yet
	LostOutput           []LogLoss  `json:"lostOutput,omitempty"`
	Configuration        []string   `json:"configurationWarnings,omitempty"` // settings that are unknown, or not understood, with file and line
	Preloaded            *Preloaded `json:"preloaded,omitempty"`             // none where no images were to be loaded at the start
}

// Connection is the ACS session with the control plane.
type Connection struct {
	Endpoint  string    `json:"endpoint"` // of the ECS API
	Connected bool      `json:"connected"`
	Since     time.Time `json:"since,omitzero"`    // when it came, or went
	Problem   string    `json:"problem,omitempty"` // why there is none, as last tried
}

// Preloaded is what became of the archives of images that are loaded at the agent's start.
type Preloaded struct {
	Directory string            `json:"directory"`
	Done      bool              `json:"done"`
	Files     int               `json:"files"`
	Images    int               `json:"images"`
	Failed    map[string]string `json:"failed,omitempty"` // by path: why
}

// Endpoints is where containers ask for their credentials and metadata.
type Endpoints struct {
	Address string `json:"address,omitempty"` // empty: nowhere, or not yet
	Problem string `json:"problem,omitempty"` // why nobody is answered there, as last tried
}

// Engine is the container engine as it answered last.
type Engine struct {
	Name          string `json:"name,omitempty"` // empty: it has not answered yet
	Version       string `json:"version,omitempty"`
	APIVersion    string `json:"apiVersion,omitempty"`
	CgroupVersion int    `json:"cgroupVersion,omitempty"`
	Root          string `json:"root,omitempty"`
}

// Amount is what the host registered of something, and what tasks hold of it, those included that are being stopped.
type Amount struct {
	Registered int64 `json:"registered"`
	Used       int64 `json:"used"`
}

// Free is the rest. It is negative where tasks that were here before hold more than the host offers now.
func (a Amount) Free() int64 { return a.Registered - a.Used }

// Resources are those of the host.
type Resources struct {
	CPU            Amount   `json:"cpu"`            // units
	Memory         Amount   `json:"memory"`         // MiB
	ReservedMemory int64    `json:"reservedMemory"` // MiB that are not offered to tasks
	GPUs           Amount   `json:"gpus"`
	Ports          []string `json:"ports"` // taken host ports, such as 8080/tcp
}

// Disk is a file system that matters to the agent.
type Disk struct {
	Path        string `json:"path"`
	Free        int64  `json:"free"`  // bytes that others than root may have
	Total       int64  `json:"total"` // bytes
	FreeInodes  int64  `json:"freeInodes"`
	TotalInodes int64  `json:"totalInodes"` // 0: the file system has no such bound
}

// Health is what the instance's health status is made of.
type Health struct {
	OK      bool      `json:"ok"`
	Reasons []string  `json:"reasons,omitempty"`
	Since   time.Time `json:"since,omitzero"`
}

// LogLoss is what a container's log driver has lost, in lines.
type LogLoss struct {
	Task      string    `json:"task"` // its id
	Container string    `json:"container"`
	Driver    string    `json:"driver"`
	Dropped   int64     `json:"dropped"` // they had no room in the buffer
	Failed    int64     `json:"failed"`  // the driver could not write them
	LastError string    `json:"lastError,omitempty"`
	Since     time.Time `json:"since,omitzero"`
}

// LogLossOf is one of the engine's.
func LogLossOf(l engine.LogLoss) LogLoss {
	return LogLoss{Task: idOf(l.TaskArn), Container: l.Container, Driver: l.Driver, Dropped: l.Dropped, Failed: l.Failed, LastError: l.LastError, Since: utc(l.Since)}
}

// Counts are tasks by what they are up to.
type Counts struct {
	Running  int `json:"running"`
	Pending  int `json:"pending"`
	Stopping int `json:"stopping"`
	Stopped  int `json:"stopped"`
}

// Tasks is the answer of GET /v1/tasks.
type Tasks struct {
	Now   time.Time `json:"now"`
	Tasks []Task    `json:"tasks"`
}

// Task is a task of this host.
type Task struct {
	ID            string      `json:"id"`
	Arn           string      `json:"arn"`
	Family        string      `json:"family"`
	Revision      string      `json:"revision"`
	KnownStatus   string      `json:"knownStatus"`
	DesiredStatus string      `json:"desiredStatus"`
	Reason        string      `json:"reason,omitempty"`
	AcceptedAt    time.Time   `json:"acceptedAt,omitzero"`
	PullStartedAt time.Time   `json:"pullStartedAt,omitzero"`
	PullStoppedAt time.Time   `json:"pullStoppedAt,omitzero"`
	StoppedAt     time.Time   `json:"stoppedAt,omitzero"`
	Containers    []Container `json:"containers"`
	Waits         []string    `json:"waits,omitempty"`
	CleanedUp     bool        `json:"cleanedUp,omitempty"` // its containers are removed; this is its record
}

// Container is a container of a task.
type Container struct {
	Name        string    `json:"name"`
	KnownStatus string    `json:"knownStatus"`
	Essential   bool      `json:"essential"`
	Image       string    `json:"image"`
	RuntimeID   string    `json:"runtimeId,omitempty"`
	PID         int       `json:"pid,omitempty"` // of its first process, while it runs
	Health      string    `json:"health,omitempty"`
	HealthSays  string    `json:"healthOutput,omitempty"`
	Restarts    int       `json:"restarts,omitempty"`
	ExitCode    *int      `json:"exitCode,omitempty"`
	Reason      string    `json:"reason,omitempty"`
	StartedAt   time.Time `json:"startedAt,omitzero"`
	FinishedAt  time.Time `json:"finishedAt,omitzero"`
	LastOutput  string    `json:"lastOutput,omitempty"` // the end of it, once the container is removed
}

// Step is one step of a task's timeline. End is left out while it runs.
type Step struct {
	Container string    `json:"container,omitempty"`
	Name      string    `json:"name"`
	Start     time.Time `json:"start"`
	End       time.Time `json:"end,omitzero"`
	Outcome   string    `json:"outcome,omitempty"` // done, failed or warning; none while it runs
	Detail    string    `json:"detail,omitempty"`
}

// TaskOf is a task of the engine in the shape of the local socket.
func TaskOf(s *engine.TaskStatus) Task {
	t := Task{
		ID: idOf(s.Arn), Arn: s.Arn, Family: s.Family, Revision: s.Version, KnownStatus: s.Known, DesiredStatus: s.Desired, Reason: s.Reason, AcceptedAt: utc(s.AcceptedAt),
		PullStartedAt: utc(s.PullStartedAt), PullStoppedAt: utc(s.PullStoppedAt), StoppedAt: utc(s.StoppedAt), Containers: []Container{}, Waits: s.Waits,
	}
	for i := range s.Containers {
		c := &s.Containers[i]
		out := Container{Name: c.Name, KnownStatus: c.Known, Essential: c.Essential, Image: c.Image, RuntimeID: c.RuntimeID, PID: c.Pid, Health: c.Health.Status, HealthSays: strings.TrimSpace(c.Health.Output),
			Restarts: c.Restarts, ExitCode: c.ExitCode, Reason: c.Reason, StartedAt: utc(c.StartedAt), FinishedAt: utc(c.FinishedAt)}
		if c.Log != nil {
			out.LastOutput = c.Log.Text
		}
		t.Containers = append(t.Containers, out)
	}
	return t
}

func utc(t time.Time) time.Time {
	if t.IsZero() {
		return t
	}
	return t.UTC()
}

// idOf is the last part of an ARN.
func idOf(arn string) string { return arn[strings.LastIndexByte(arn, '/')+1:] }

// The words of [Task.State].
const (
	stateRunning  = "RUNNING"
	statePending  = "PENDING"
	stateStopping = "STOPPING"
	stateStopped  = "STOPPED"
)

// State is the word for what a task is up to: RUNNING, PENDING, STOPPING or STOPPED.
func (t *Task) State() string {
	switch {
	case t.KnownStatus == "STOPPED" || !t.StoppedAt.IsZero():
		return stateStopped
	case t.DesiredStatus == "STOPPED":
		return stateStopping
	case t.KnownStatus == "RUNNING":
		return stateRunning
	}
	return statePending
}

// Count counts tasks.
func Count(tasks []Task) (c Counts) {
	for i := range tasks {
		switch tasks[i].State() {
		case stateRunning:
			c.Running++
		case statePending:
			c.Pending++
		case stateStopping:
			c.Stopping++
		default:
			c.Stopped++
		}
	}
	return c
}

// leastPrefix is how much of an id must be given.
const leastPrefix = 3

// Resolve finds the task that ref names: its ARN, its id, or the beginning of its id if no other begins so. The error of one
// that is none of them names those that were perhaps meant.
func Resolve(tasks []Task, ref string) (*Task, error) {
	if ref == "" {
		return nil, fmt.Errorf("name a task: its ARN, its id, or the beginning of its id")
	}
	id := idOf(ref)
	var ids []string
	var begin, family []*Task
	for i := range tasks {
		t := &tasks[i]
		if t.Arn == ref || t.ID == id && (id == ref || !strings.HasPrefix(ref, "arn:")) {
			return t, nil
		}
		if strings.HasPrefix(t.ID, id) {
			begin = append(begin, t)
		}
		if t.Family == ref || t.Family+":"+t.Revision == ref {
			family = append(family, t)
		}
		ids = append(ids, t.ID)
	}
	switch {
	case len(begin) == 1 && len(id) >= leastPrefix && !strings.HasPrefix(ref, "arn:"):
		return begin[0], nil
	case len(begin) > 1:
		return nil, fmt.Errorf("%q is the beginning of %d tasks' ids: %s", ref, len(begin), listed(begin))
	case len(begin) == 1:
		return nil, fmt.Errorf("there is no task %q; did you mean %s?", ref, listed(begin))
	case len(family) > 0:
		return nil, fmt.Errorf("%q is a family, not a task; its tasks on this host: %s", ref, listed(family))
	case len(tasks) == 0:
		return nil, fmt.Errorf("there is no task %q: no task is on record on this host", ref)
	}
	if near := nearest.Word(id, ids); near != "" {
		i := slices.Index(ids, near)
		return nil, fmt.Errorf("there is no task %q; did you mean %s?", ref, listed([]*Task{&tasks[i]}))
	}
	return nil, fmt.Errorf("there is no task %q on this host; \"longshore-agent tasks\" lists the %d that are on record", ref, len(tasks))
}

// listed names tasks in a message.
func listed(tasks []*Task) string {
	const most = 5
	var names []string
	for _, t := range tasks[:min(len(tasks), most)] {
		names = append(names, fmt.Sprintf("%s (%s:%s, %s)", t.ID, t.Family, t.Revision, t.State()))
	}
	if n := len(tasks) - most; n > 0 {
		names = append(names, fmt.Sprintf("and %d more", n))
	}
	return strings.Join(names, ", ")
}
