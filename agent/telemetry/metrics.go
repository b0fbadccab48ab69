package telemetry

import (
	"context"

	"github.com/google/uuid"

	"github.com/longshore-project/longshore/agent/session"
	"github.com/longshore-project/longshore/engine"
	"github.com/longshore-project/longshore/protocol/tcs"
)

// Stats is what was measured; *stats.Collector is one.
type Stats interface {
	// Period is what each task's containers used since the last call, and, with own, what only Longshore's control plane
	// understands, the host's own use among it.
	Period(own bool) (tasks []*tcs.TaskMetric, host *tcs.InstanceMetrics)
}

// reportMetrics sends the metrics of a period: those of at most ten tasks a message, an idle one when there is no task, and
// none when there are tasks and nothing of them was measured yet.
func (p *Publisher) reportMetrics(ctx context.Context, c *session.Conn, tasks []engine.TaskStatus, now *tcs.Time) error {
	m := &tcs.PublishMetricsRequest{
		Metadata:  &tcs.MetricsMetadata{Cluster: p.cfg.Cluster, ContainerInstance: p.cfg.InstanceArn, Fin: true, MessageID: uuid.NewString()},
		Timestamp: now,
	}
	if p.cfg.Stats != nil {
		m.TaskMetrics, m.InstanceMetrics = p.cfg.Stats.Period(c.Answered(tcs.OwnMetricsHeader) != "")
	}
	m.Metadata.Idle = idle(tasks) && len(m.TaskMetrics) == 0
	if !m.Metadata.Idle && len(m.TaskMetrics) == 0 && m.InstanceMetrics == nil {
		return nil
	}
	for _, part := range tcs.SplitMetrics(m) {
		if err := p.send(ctx, c, part); err != nil {
			return err
		}
	}
	return nil
}

// idle says whether no task uses the host.
func idle(tasks []engine.TaskStatus) bool {
	for i := range tasks {
		if tasks[i].Known != "STOPPED" {
			return false
		}
	}
	return true
}
