package poll

import (
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/longshore-project/longshore/agent/session"
	"github.com/longshore-project/longshore/engine"
	"github.com/longshore-project/longshore/protocol/acs"
)

// Record is what the agent has on record of its tasks.
type Record interface {
	// Tasks are all tasks, those that have ended and were cleaned up included. complete says that containers without a record
	// were looked for.
	Tasks() (tasks []engine.TaskStatus, complete bool)
	// Unsent says whether state changes of a task wait to be submitted.
	Unsent(taskArn string) (bool, error)
}

// header is what the handshake says besides the signature: the boot, with which the control plane may ask for a list of tasks, and what is
// trusted.
func (p *Poller) header() http.Header {
	if p.cfg.Record == nil {
		return nil
	}
	h := http.Header{acs.BootHeader: {p.cfg.Boot}}
	if p.cfg.Trust != nil {
		h.Set(acs.TrustsHeader, acs.Trusts(p.cfg.Trusts()))
	}
	return h
}

// list tells a control plane that asks for it what runs here, before it says anything itself.
func (p *Poller) list(ctx context.Context, c *session.Conn) {
	if p.cfg.Record == nil || c.Answered(acs.TaskListHeader) == "" {
		return
	}
	tasks, complete := p.cfg.Record.Tasks()
	m := &acs.TaskListMessage{Incomplete: !complete, Tasks: []*acs.ListedTask{}}
	for i := range tasks[:min(len(tasks), acs.MaxListedTasks)] {
		t := &tasks[i]
		unsent, err := p.cfg.Record.Unsent(t.Arn)
		m.Tasks = append(m.Tasks, &acs.ListedTask{TaskArn: t.Arn, DesiredStatus: t.Desired, KnownStatus: known(t.Known), Unsent: unsent || err != nil})
	}
	data, err := acs.Encode(m)
	if err == nil {
		err = c.Write(ctx, data)
	}
	if err != nil && ctx.Err() == nil {
		p.cfg.Log.Warn("The tasks could not be listed to the control plane; it asks again with the next connection", zap.Int("tasks", len(m.Tasks)), zap.Error(err))
	}
}

// describe answers the question for what the control plane does not know.
func (p *Poller) describe(m *acs.DescribeTasksMessage, answer func(any) error) error {
	if err := m.Validate(); err != nil || p.cfg.Record == nil {
		p.cfg.Log.Warn("A question about tasks that lacks a required member is dropped", zap.String("message", m.MessageID), zap.Error(err))
		return nil
	}
	p.cfg.Log.Warn("The control plane does not know tasks that run here; they are described to it, and go on as they are", zap.Int("tasks", len(m.TaskArns)))
	asked := map[string]bool{}
	for _, arn := range m.TaskArns {
		asked[arn] = true
	}
	tasks, _ := p.cfg.Record.Tasks()
	tasks = slices.DeleteFunc(tasks, func(t engine.TaskStatus) bool { return !asked[t.Arn] || t.Payload == nil || len(t.Containers) == 0 })
	if len(tasks) == 0 {
		return answer(&acs.TasksDescribedMessage{MessageID: m.MessageID, Tasks: []*acs.TaskDescription{}})
	}
	for len(tasks) > 0 {
		part := tasks[:min(len(tasks), acs.MaxDescribedTasks)]
		tasks = tasks[len(part):]
		out := &acs.TasksDescribedMessage{MessageID: m.MessageID, More: len(tasks) > 0}
		for i := range part {
			out.Tasks = append(out.Tasks, describe(&part[i]))
		}
		if err := answer(out); err != nil {
			return err
		}
	}
	return nil
}

// describe is what a record of a task is made from.
func describe(t *engine.TaskStatus) *acs.TaskDescription {
	p := t.Payload
	d := &acs.TaskDescription{
		TaskArn: t.Arn, DesiredStatus: t.Desired, KnownStatus: known(t.Known), Reason: t.Reason, Family: t.Family, Version: t.Version,
		ServiceName: p.ServiceName, Group: p.Group, LaunchType: p.LaunchType, SchedulingStrategy: p.SchedulingStrategy, NetworkMode: p.NetworkMode,
		CPU: p.CPU, Memory: p.Memory, Interfaces: p.ElasticNetworkInterfaces,
		PullStartedAt: milliseconds(t.PullStartedAt), PullStoppedAt: milliseconds(t.PullStoppedAt),
		ExecutionStoppedAt: milliseconds(t.ExecutionStoppedAt), StoppedAt: milliseconds(t.StoppedAt),
	}
	if c := p.RoleCredentials; c != nil {
		d.CredentialsID = c.CredentialsID
	}
	if c := p.ExecutionRoleCredentials; c != nil {
		d.ExecutionCredentialsID = c.CredentialsID
	}
	for _, a := range p.Associations {
		if a.Type == "gpu" {
			d.GPUs = append(d.GPUs, a.Content.Value)
		}
	}
	for i := range t.Containers {
		c := &t.Containers[i]
		d.Ran = d.Ran || !c.StartedAt.IsZero()
		d.Containers = append(d.Containers, describeContainer(c, p))
	}
	return d
}

func describeContainer(c *engine.ContainerStatus, p *acs.Task) *acs.ContainerDescription {
	d := &acs.ContainerDescription{
		Name: c.Name, Image: c.Image, Essential: c.Essential, RuntimeID: c.RuntimeID, ImageDigest: c.ImageDigest, Status: known(c.Known), Reason: c.Reason,
	}
	if c.ExitCode != nil {
		code := int32(*c.ExitCode)
		d.ExitCode = &code
	}
	for _, b := range c.Bindings {
		d.Bindings = append(d.Bindings, &acs.PortBinding{
			BindIP: b.BindIP, ContainerPort: b.ContainerPort, HostPort: b.HostPort, ContainerPortRange: b.ContainerPortRange, HostPortRange: b.HostPortRange, Protocol: b.Protocol,
		})
	}
	for _, of := range p.Containers {
		if of.Name != c.Name {
			continue
		}
		d.ContainerArn, d.CPU, d.Memory, d.PortMappings = of.ContainerArn, of.CPU, of.Memory, of.PortMappings
		var host acs.HostConfig
		if of.DockerConfig != nil && json.Unmarshal([]byte(of.DockerConfig.HostConfig), &host) == nil {
			d.MemoryReservation = host.MemoryReservation >> 20
		}
	}
	return d
}

// known is a status as the control plane is told.
func known(status string) string {
	if status == acs.StatusRunning || status == acs.StatusStopped {
		return status
	}
	return "PENDING"
}

func milliseconds(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}
