package poll

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"
	"go.uber.org/zap"

	"github.com/longshore-project/longshore/controlplane/scheduler/placement"
	"github.com/longshore-project/longshore/controlplane/store"
	"github.com/longshore-project/longshore/controlplane/task"
	"github.com/longshore-project/longshore/protocol/acs"
	"github.com/longshore-project/longshore/protocol/tcs"
)

// An agent that is not Longshore's does not list its tasks. After a restore it is told none until it is known what it runs: it
// asks about those that the manifest does not list, and its metrics name a task's definition and containers. That makes a
// record, of which the service can only be guessed: the DAEMON service that runs this family, where there is one.
const (
	// settleAnswer is how long the answer to the manifest may take, and settleQuestion how long after it the question about
	// tasks may come.
	settleAnswer   = 5 * time.Second
	settleQuestion = time.Second
	// settleMetrics is how long metrics that name the unknown tasks may take; agents send them every 20 s.
	settleMetrics = 90 * time.Second
	// runsUntold is how long ago a task that is measured, and of which no word came that it runs, must have been accepted.
	runsUntold = time.Minute
)

// settling holds tasks back while it is not known what the agent runs. It tells until when, zero when nothing is held back;
// false when the socket has ended.
func (c *acsSession) settling(now time.Time) (until time.Time, ok bool) {
	if c.settleAt.IsZero() {
		return until, true
	}
	known := false
	c.cfg.Store.Peek(func(v *store.View) {
		known = len(c.unknown) > 0 && !slices.ContainsFunc(c.unknown, func(id string) bool { return v.Task(c.at.cluster, id) == nil })
	})
	if !known && now.Before(c.settleAt) {
		return c.settleAt, true
	}
	err := c.server.changeInstance(c.ctx, c.at, func(i *store.Instance) bool {
		was := i.Unlisted
		i.Unlisted = false
		return was
	})
	if err != nil {
		c.log().Warn("what an agent runs could not be recorded: closing the connection", zap.Error(err))
		c.end(statusGoingAway, "what the agent runs could not be recorded")
		return until, false
	}
	if !known && len(c.unknown) > 0 {
		c.log().Warn("the agent's metrics do not name tasks that this control plane does not know, so they have no record; they are left alone: stop them on the host if they are not wanted",
			zap.Strings("tasks", c.unknown[:min(len(c.unknown), 10)]), zap.Int("count", len(c.unknown)))
	}
	c.settleAt, c.unknown = time.Time{}, nil
	c.changed.Store(true)
	return until, true
}

// settles begins to hold tasks back when what the instance runs is not known.
func (c *acsSession) settles() {
	c.cfg.Store.Peek(func(v *store.View) {
		if i := v.Instance(c.at.cluster, c.at.id); i != nil && i.Unlisted && !c.lists {
			c.settleAt = time.Now().Add(settleAnswer)
		}
	})
}

// answered notes that the manifest was acknowledged: a question about tasks that it does not list follows at once.
func (c *acsSession) answered(message string) {
	if message == c.manifest && !c.settleAt.IsZero() && len(c.unknown) == 0 {
		c.settleAt = time.Now().Add(settleQuestion)
	}
}

// asks notes the tasks that the agent runs and the store does not know.
func (c *acsSession) asks(unknown []string) {
	if c.settleAt.IsZero() || len(unknown) == 0 {
		return
	}
	c.unknown = unknown
	c.settleAt = time.Now().Add(settleMetrics)
}

// measured takes over what the metrics of an agent that lists no tasks say of tasks that the store does not know, or believes
// not to run yet.
func (s *Server) measured(ctx context.Context, at place, m *tcs.PublishMetricsRequest) {
	s.mu.Lock()
	c := s.acs[at]
	s.mu.Unlock()
	if c == nil || c.lists {
		return
	}
	for _, t := range m.TaskMetrics {
		var d *acs.TaskDescription
		now := time.Now()
		s.cfg.Store.Peek(func(v *store.View) { d = measuredTask(v, at, t, now) })
		if d == nil {
			continue
		}
		if err := s.replaced(ctx, at, d.ServiceName); err != nil {
			s.log.Warn("a task that is measured could not be recorded; its metrics come again", zap.Stringer("containerInstance", at), zap.Error(err))
			return
		}
		if err := s.takeOver(ctx, at, []*acs.TaskDescription{d}, []string{d.TaskArn}); err != nil {
			s.log.Warn("a task that is measured could not be recorded; its metrics come again", zap.Stringer("containerInstance", at), zap.Error(err))
			return
		}
	}
}

// measuredTask describes a task as far as its metrics tell, nil when the store knows as much.
func measuredTask(v *store.View, at place, m *tcs.TaskMetric, now time.Time) *acs.TaskDescription {
	i := v.Instance(at.cluster, at.id)
	if i == nil || m == nil || len(m.ContainerMetrics) == 0 {
		return nil
	}
	id, own := ownTask(i, m.TaskArn)
	known := v.Task(at.cluster, id)
	if !own || known == nil && !i.Unlisted || known != nil && (!task.Starting(known) || known.AcceptedAt.IsZero() || now.Sub(known.AcceptedAt) < runsUntold) {
		return nil
	}
	d := &acs.TaskDescription{
		TaskArn: m.TaskArn, DesiredStatus: acs.StatusRunning, KnownStatus: acs.StatusRunning, Ran: true, Family: m.TaskDefinitionFamily, Version: m.TaskDefinitionVersion,
	}
	for _, c := range m.ContainerMetrics {
		if c != nil && c.ContainerName != "" {
			d.Containers = append(d.Containers, &acs.ContainerDescription{Name: c.ContainerName, Essential: true, Status: acs.StatusRunning})
		}
	}
	if len(d.Containers) == 0 || !essentialsRun(definitionOf(v, i, d), d) {
		return nil
	}
	if known == nil {
		d.ServiceName = daemonOf(v, at.cluster, d.Family)
	}
	return d
}

// essentialsRun tells whether all essential containers of a definition are among those described; true without a definition.
func essentialsRun(def *types.TaskDefinition, d *acs.TaskDescription) bool {
	if def == nil {
		return true
	}
	for _, c := range def.ContainerDefinitions {
		named := func(x *acs.ContainerDescription) bool { return x.Name == aws.ToString(c.Name) }
		if (c.Essential == nil || *c.Essential) && !slices.ContainsFunc(d.Containers, named) {
			return false
		}
	}
	return true
}

// daemonOf is the one DAEMON service of a cluster that runs a family, empty when there is none or more than one.
func daemonOf(v *store.View, cluster, family string) (name string) {
	for svc := range v.Services(cluster) {
		runs := func(d types.Deployment) bool {
			def := placement.Definition(v, aws.ToString(d.TaskDefinition))
			return def != nil && aws.ToString(def.Object.Family) == family
		}
		if svc.Object.SchedulingStrategy != types.SchedulingStrategyDaemon || !slices.ContainsFunc(svc.Object.Deployments, runs) {
			continue
		}
		if name != "" {
			return ""
		}
		name = aws.ToString(svc.Object.ServiceName)
	}
	return name
}

// replaced makes the daemon STOPPED that a restored store has in the place of one that is measured: there is one of each.
func (s *Server) replaced(ctx context.Context, at place, service string) error {
	if service == "" {
		return nil
	}
	var gone []string
	s.cfg.Store.Peek(func(v *store.View) {
		if slot := v.DaemonSlot(at.cluster, service, at.id); slot != nil {
			gone = slices.DeleteFunc([]string{slot.Task, slot.Beside}, func(id string) bool { return strings.TrimSpace(id) == "" })
		}
	})
	return s.settleGone(ctx, at, findings{gone: gone})
}
