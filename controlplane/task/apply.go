package task

import (
	"reflect"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"

	"github.com/longshore-project/longshore/controlplane/store"
)

// StateChange is what an agent reports about a task: SubmitTaskStateChange, or SubmitContainerStateChange with an empty
// Status and one container.
type StateChange struct {
	Status     string // PENDING, RUNNING or STOPPED; empty when the report is not about the task's status
	Reason     string
	Containers []types.ContainerStateChange
	// ManagedAgents are the agents inside containers, such as ExecuteCommandAgent.
	ManagedAgents []types.ManagedAgentStateChange
	// Attachments is the state of the task's network interfaces and volumes.
	Attachments []types.AttachmentStateChange
	// Each is zero when it is not known.
	PullStartedAt, PullStoppedAt, ExecutionStoppedAt time.Time
}

// Apply applies an agent's report and tells whether it changed anything. The report that a task with an interface is STOPPED
// makes it DEPROVISIONING, and STOPPED when it is applied again. Reports may come twice, late or not at all:
// statuses only move forward, a STOPPED task never changes, and what a report does not mention stays. A RUNNING task has
// no PENDING container, since an agent reports RUNNING when every container has run; a STOPPED one has only STOPPED ones.
func Apply(t *store.Task, c StateChange, now time.Time) (*store.Task, bool) {
	if IsStopped(t) {
		return t, false
	}
	n := clone(t)
	for _, cc := range c.Containers {
		applyContainer(n, cc)
	}
	for _, m := range c.ManagedAgents {
		applyManagedAgent(n, m, now)
	}
	applyAttachments(n, c.Attachments)
	fill(&n.Object.PullStartedAt, c.PullStartedAt)
	fill(&n.Object.PullStoppedAt, c.PullStoppedAt)
	fill(&n.Object.ExecutionStoppedAt, c.ExecutionStoppedAt)
	if n.Object.Connectivity != types.ConnectivityConnected {
		n.Object.Connectivity = types.ConnectivityConnected
		n.Object.ConnectivityAt = stamp(now)
	}
	if rank(c.Status) > rank(LastStatus(n)) {
		switch c.Status {
		case Pending:
			n.Object.LastStatus = aws.String(Pending)
		case Running:
			run(n, now)
		case Stopped:
			code, reason := cause(n, c.Reason)
			stop(n, code, reason, now)
			if len(n.Interfaces) > 0 && LastStatus(t) != Deprovisioning {
				deprovision(n)
			}
		}
	}
	if reflect.DeepEqual(n.Object, t.Object) {
		return t, false
	}
	if n.AcceptedAt.IsZero() && Wanted(t) { // whoever reports about it was told of it
		n.AcceptedAt = *stamp(now)
	}
	n.Object.Version++
	return n, true
}

func run(n *store.Task, now time.Time) {
	n.Object.LastStatus = aws.String(Running)
	n.Object.StartedAt = stamp(now)
	setAttachments(n, AttachmentAttached) // it could not run without, whatever was heard of that
	for i := range n.Object.Containers {
		if c := &n.Object.Containers[i]; rank(aws.ToString(c.LastStatus)) < rank(Running) {
			c.LastStatus = aws.String(Running)
		}
	}
}

// stop makes the task STOPPED, for the given reason unless it has one already.
func stop(n *store.Task, code types.TaskStopCode, reason string, now time.Time) {
	if Wanted(n) {
		n.Object.DesiredStatus = aws.String(Stopped)
		n.Object.StopCode = code
		n.Object.StoppedReason = nonEmpty(reason)
	}
	if n.Object.StoppingAt == nil {
		n.Object.StoppingAt = stamp(now)
	}
	n.Object.LastStatus = aws.String(Stopped)
	n.Object.StoppedAt = stamp(now)
	setAttachments(n, AttachmentDeleted)
	for i := range n.Object.Containers {
		n.Object.Containers[i].LastStatus = aws.String(Stopped)
	}
}

// deprovision takes the last step of stop back.
func deprovision(n *store.Task) {
	n.Object.LastStatus, n.Object.StoppedAt = aws.String(Deprovisioning), nil
	for i := range n.Object.Attachments {
		if aws.ToString(n.Object.Attachments[i].Type) == attachmentType {
			n.Object.Attachments[i].Status = aws.String(AttachmentDetaching)
		}
	}
}

// cause is why a task ended that nobody asked to end, from the agent's words and what its containers came to.
func cause(t *store.Task, reason string) (types.TaskStopCode, string) {
	const exited, failed = types.TaskStopCodeEssentialContainerExited, types.TaskStopCodeTaskFailedToStart
	switch {
	case reason == ReasonEssentialExited, reason == "" && t.Object.StartedAt != nil:
		return exited, ReasonEssentialExited
	case t.Object.StartedAt != nil:
		return exited, reason
	case reason != "":
		return failed, reason
	}
	ran := false
	for _, c := range t.Object.Containers {
		why := aws.ToString(c.Reason)
		if why != "" && !strings.HasPrefix(why, "OutOfMemoryError") {
			return failed, why
		}
		ran = ran || c.ExitCode != nil
	}
	if ran {
		return exited, ReasonEssentialExited
	}
	return failed, ReasonFailedToStart
}

// applyContainer takes over one container's report. One that is behind what is known only adds what is missing, and so
// does a repeated STOPPED: a container ends once.
func applyContainer(n *store.Task, r types.ContainerStateChange) {
	c := container(n, aws.ToString(r.ContainerName))
	if c == nil {
		return
	}
	is, was := rank(aws.ToString(r.Status)), rank(aws.ToString(c.LastStatus))
	late := is < was || was == rank(Stopped)
	take(&c.RuntimeId, r.RuntimeId, late)
	take(&c.ImageDigest, r.ImageDigest, late)
	if len(r.NetworkBindings) > 0 && (!late || len(c.NetworkBindings) == 0) {
		c.NetworkBindings = r.NetworkBindings
	}
	if is == rank(Stopped) {
		take(&c.ExitCode, r.ExitCode, late)
	}
	if !late || is == rank(Stopped) {
		take(&c.Reason, r.Reason, late)
	}
	if is > was {
		c.LastStatus = r.Status
	}
}

// applyManagedAgent takes over the state of an agent inside a container.
func applyManagedAgent(n *store.Task, r types.ManagedAgentStateChange, now time.Time) {
	c := container(n, aws.ToString(r.ContainerName))
	if c == nil {
		return
	}
	m := types.ManagedAgent{Name: r.ManagedAgentName, LastStatus: r.Status, Reason: r.Reason}
	agents := append([]types.ManagedAgent(nil), c.ManagedAgents...)
	for i := range agents {
		if agents[i].Name == r.ManagedAgentName {
			if m.LastStartedAt = agents[i].LastStartedAt; aws.ToString(r.Status) == Running && aws.ToString(agents[i].LastStatus) != Running {
				m.LastStartedAt = stamp(now)
			}
			agents[i], c.ManagedAgents = m, agents
			return
		}
	}
	if aws.ToString(r.Status) == Running {
		m.LastStartedAt = stamp(now)
	}
	c.ManagedAgents = append(agents, m)
}

func container(n *store.Task, name string) *types.Container {
	for i := range n.Object.Containers {
		if aws.ToString(n.Object.Containers[i].Name) == name {
			return &n.Object.Containers[i]
		}
	}
	return nil
}

// take replaces a value by the reported one, or only fills an empty one when the report is late. Nothing is taken from a
// report that says nothing.
func take[T comparable](into **T, reported *T, late bool) {
	var zero T
	switch {
	case reported == nil, late && *into != nil:
	case reflect.TypeOf(zero).Kind() == reflect.String && *reported == zero:
	default:
		*into = reported
	}
}

// fill sets a time that was not known yet.
func fill(into **time.Time, t time.Time) {
	if *into == nil && !t.IsZero() && t.Unix() > 0 {
		*into = stamp(t)
	}
}
