package dropin

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/longshore-project/longshore/engine"
	"github.com/longshore-project/longshore/protocol/acs"
	"github.com/longshore-project/longshore/protocol/arn"
)

// Task is a task of the other agent's.
type Task struct {
	Arn    string             // the task's id, if nothing more can be read
	Record *engine.TaskRecord // nil if it can't be read
	// Obstacle is why the task can't be taken over; empty if it can.
	Obstacle string
}

const (
	running = "RUNNING"
	stopped = "STOPPED"

	maxContainers = 100
	maxName       = 1024
	ownPrefix     = "~internal~" // of the names of containers that the other agent has made for itself
)

// key is a container of a task.
type key struct{ task, name string }

// task is what is read of a task. The names of members are compared without case.
type task struct {
	Arn, Family, Version, ServiceName, Group                    string
	DesiredStatus, KnownStatus, SentStatus                      string
	NetworkMode, PidMode, IpcMode, LaunchType                   string
	KnownTime, PullStartedAt, PullStoppedAt, ExecutionStoppedAt time.Time
	CPU                                                         float64
	Memory                                                      int64
	Associations                                                []*acs.Association
	Containers                                                  []*container
}

// container is what is read of a container.
type container struct {
	Name, RuntimeID, TaskArn, V3EndpointID, Image, ImageDigest, ContainerArn string
	CPU, Memory, StartTimeout, StopTimeout                                   int64
	Essential                                                                bool
	IsInternal                                                               json.RawMessage
	PortMappings                                                             []*acs.PortMapping
	DependsOn                                                                []*acs.ContainerDependency
	RestartPolicy                                                            *acs.RestartPolicy
	RestartTracker                                                           *struct{ RestartCount int }
	DockerConfig                                                             struct{ HostConfig *string }
	KnownStatus, SentStatus                                                  string
	KnownExitCode                                                            *int
	ApplyingError                                                            json.RawMessage
	StartedAt                                                                time.Time

	id, name string // on the engine, as the bucket of containers has them
}

// taskOf reads a task. What can't be read of it is told in its Obstacle.
func taskOf(id string, value []byte, newer map[key]*container) Task {
	bad := func(format string, args ...any) Task { return Task{Arn: id, Obstacle: fmt.Sprintf(format, args...)} }
	if len(value) > maxValue {
		return bad("its record has %d bytes; at most %d are read", len(value), maxValue)
	}
	var t task
	if err := json.Unmarshal(value, &t); err != nil {
		return bad("its record can't be read: %v", err)
	}
	if _, err := arn.Parse(t.Arn); err != nil || len(t.Arn) > maxName {
		return bad("its record has no ARN of a task: %.100q", t.Arn)
	}
	if len(t.Containers) == 0 || len(t.Containers) > maxContainers {
		return bad("its record has %d containers", len(t.Containers))
	}
	out := Task{Arn: t.Arn}
	for i, c := range t.Containers {
		if c == nil || c.Name == "" || len(c.Name) > maxName {
			return bad("container %d of its record has no name of 1 to %d characters", i, maxName)
		}
		if n := newer[key{t.Arn, c.Name}]; n != nil {
			t.Containers[i] = n
		}
		if kind := strings.Trim(string(c.IsInternal), `"`); strings.HasPrefix(c.Name, ownPrefix) || kind != "" && kind != "NORMAL" && kind != "false" && kind != "null" {
			out.Obstacle = fmt.Sprintf("container %s is that agent's own, for the task's network or namespaces", c.Name)
		}
	}
	if t.NetworkMode == "awsvpc" {
		out.Obstacle = "its network (awsvpc) was made by that agent"
	}
	out.Record = t.record()
	return out
}

// record is the task as the engine of tasks keeps it.
func (t *task) record() *engine.TaskRecord {
	p := &acs.Task{Arn: t.Arn, TaskClusterArn: clusterOf(t.Arn), Family: t.Family, Version: t.Version, ServiceName: t.ServiceName, Group: t.Group, DesiredStatus: desired(t.DesiredStatus),
		CPU: t.CPU, Memory: t.Memory, PidMode: t.PidMode, IpcMode: t.IpcMode, LaunchType: t.LaunchType, Associations: t.Associations}
	rec := &engine.TaskRecord{Version: engine.RecordVersion, Task: p, Desired: p.DesiredStatus, Known: sent(t.SentStatus), Rebuilt: true,
		AcceptedAt: earliest(t.PullStartedAt, t.KnownTime), PullStartedAt: t.PullStartedAt, PullStoppedAt: t.PullStoppedAt, ExecutionStoppedAt: t.ExecutionStoppedAt}
	over := t.KnownStatus == stopped
	if over {
		rec.StoppedAt = t.KnownTime
	}
	for _, c := range t.Containers {
		p.Containers = append(p.Containers, c.payload(t))
		rec.Containers = append(rec.Containers, c.record(t, over))
	}
	return rec
}

// payload is what is needed of a container's definition to look after it: the order of stopping, its time for that, its restarts, and what it holds
// of the host.
func (c *container) payload(t *task) *acs.Container {
	p := &acs.Container{Name: c.Name, ContainerArn: c.ContainerArn, Image: cmp.Or(c.Image, "unknown"), Essential: c.Essential, CPU: c.CPU, Memory: c.Memory,
		StartTimeout: c.StartTimeout, StopTimeout: c.StopTimeout, RestartPolicy: c.RestartPolicy}
	for _, m := range c.PortMappings {
		if m != nil {
			p.PortMappings = append(p.PortMappings, m)
		}
	}
	for _, d := range c.DependsOn {
		if d != nil && slices.ContainsFunc(t.Containers, func(o *container) bool { return o.Name == d.ContainerName }) {
			p.DependsOn = append(p.DependsOn, d)
		}
	}
	var host struct {
		NetworkMode       string
		MemoryReservation int64
	}
	if h := c.DockerConfig.HostConfig; h != nil {
		_ = json.Unmarshal([]byte(*h), &host) // the definition's; the engine has taken it
	}
	host.NetworkMode = cmp.Or(host.NetworkMode, t.NetworkMode)
	raw, _ := json.Marshal(host)
	p.DockerConfig = &acs.DockerConfig{HostConfig: string(raw)}
	return p
}

// record is what is known of a container. over says that the task has ended.
func (c *container) record(t *task, over bool) *engine.ContainerRecord {
	r := &engine.ContainerRecord{Name: c.Name, Attempt: 1, RuntimeID: cmp.Or(c.id, c.RuntimeID), RuntimeName: c.name, EndpointID: c.V3EndpointID, ImageDigest: c.ImageDigest, StartedAt: c.StartedAt}
	if c.RestartTracker != nil {
		r.Restarts = c.RestartTracker.RestartCount
	}
	if r.Reported = sent(c.SentStatus); r.Reported != "" {
		r.ReportedDigest = c.ImageDigest
	}
	ended := c.KnownStatus == stopped
	if began := c.KnownStatus == running || c.KnownStatus == "RESOURCES_PROVISIONED"; began || ended && !c.StartedAt.IsZero() {
		r.Intent = &engine.StartIntent{At: cmp.Or(c.StartedAt, t.PullStoppedAt)}
	}
	if ended || over {
		r.Final = &engine.Final{ExitCode: c.KnownExitCode, Reason: c.reason(), FinishedAt: cmp.Or(t.ExecutionStoppedAt, t.KnownTime)}
		if ended && r.Reported == "" && over && sent(t.SentStatus) == stopped { // the end of the task told it
			r.Reported = stopped
		}
	}
	return r
}

// reason is why a container failed.
func (c *container) reason() string {
	var e struct{ Error, Name string }
	if len(c.ApplyingError) == 0 || json.Unmarshal(c.ApplyingError, &e) != nil || e.Error == "" {
		return ""
	}
	if e.Name == "" {
		return e.Error
	}
	return e.Name + ": " + e.Error
}

// desired is a desiredStatus as it is on record: that agent's steps on the way to RUNNING are its own.
func desired(status string) string {
	if status == stopped {
		return stopped
	}
	return running
}

// sent is a status that the control plane was told; what is before RUNNING tells it nothing.
func sent(status string) string {
	switch status {
	case running, stopped:
		return status
	case "RESOURCES_PROVISIONED":
		return running
	}
	return ""
}

// earliest is the earliest of the times that are known.
func earliest(times ...time.Time) (first time.Time) {
	for _, t := range times {
		if !t.IsZero() && (first.IsZero() || t.Before(first)) {
			first = t
		}
	}
	return first
}

// clusterOf is the ARN of a task's cluster, if the task's has the cluster's name in it.
func clusterOf(task string) string {
	head, rest, _ := strings.Cut(task, ":task/")
	cluster, _, ok := strings.Cut(rest, "/")
	if !ok {
		return ""
	}
	return head + ":cluster/" + cluster
}

func inode(st fs.FileInfo) uint64 {
	if sys, ok := st.Sys().(*syscall.Stat_t); ok {
		return sys.Ino
	}
	return 0
}
