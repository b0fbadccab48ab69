package poll

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"
	"github.com/coder/websocket"
	"go.uber.org/zap"

	"github.com/longshore-project/longshore/controlplane/store"
	"github.com/longshore-project/longshore/controlplane/task"
	"github.com/longshore-project/longshore/protocol/arn"
	"github.com/longshore-project/longshore/protocol/tcs"
)

// tcsSession is the TCS connection of one instance. Each publish is acknowledged by the reading goroutine; what it says
// about health is written to the store by another, which there is while there is something to write and which keeps only
// the latest word on each container. Heartbeats are turns in the crew.
type tcsSession struct {
	*socket
	seat
	server *Server

	beat     *time.Timer // of the next turn
	changed  atomic.Bool // the store says something new
	nonsense int         // frames that were no messages

	mu      sync.Mutex
	tasks   map[string]map[string]types.HealthStatus // by task id and container name, not yet written
	status  []*tcs.InstanceStatus                    // not yet written
	writing bool
	writers sync.WaitGroup
}

// maxUnwritten bounds the tasks whose health waits to be written.
const maxUnwritten = 10_000

func (s *Server) serveTCS(w http.ResponseWriter, r *http.Request) {
	if s.cfg.Telemetry != nil { // agents that are not ours don't mind
		w.Header().Set(tcs.OwnMetricsHeader, "1")
		w.Header().Set(tcs.ProgressHeader, "1")
	}
	socket, at := s.handshake(w, r, "cluster", "containerInstance")
	if socket == nil {
		return
	}
	c := &tcsSession{socket: socket, server: s, tasks: map[string]map[string]types.HealthStatus{}}
	c.seat.crew, c.seat.turn = &s.crew, c.turn
	c.beat = time.AfterFunc(time.Hour, c.seat.wake)
	if !add(s, s.tcs, at, c) {
		c.beat.Stop()
		socket.end(statusGoingAway, "the control plane is not ready")
		_ = socket.run(func([]byte) {})
		return
	}
	s.recheck(socket)
	go func() { // the server's goroutine, and the request that it holds, end here
		defer func() {
			if remove(s, s.tcs, at, c) && s.cfg.Telemetry != nil {
				s.cfg.Telemetry.Gone(at.cluster, at.id)
			}
		}()
		c.log().Debug("telemetry connected")
		c.seat.wake()
		err := c.run(c.receive)
		c.beat.Stop()
		c.writers.Wait()
		c.log().Debug("telemetry disconnected", zap.NamedError("reason", err))
	}()
}

func (c *tcsSession) common() *socket { return c.socket }

func (c *tcsSession) notify() {
	c.changed.Store(true)
	c.seat.wake()
}

// turn ends the session when the instance is deregistered, and sends a heartbeat when it was not the store that woke it.
func (c *tcsSession) turn() {
	if c.ctx.Err() != nil {
		return
	}
	if c.changed.Swap(false) {
		gone := false
		c.cfg.Store.Peek(func(v *store.View) {
			i := v.Instance(c.at.cluster, c.at.id)
			gone = i == nil || !registered(i)
		})
		if gone {
			c.end(websocket.StatusNormalClosure, "the container instance was deregistered")
		}
		return
	}
	if c.crew.aside(func() error { return c.send(&tcs.HeartbeatMessage{Healthy: true}) }) != nil {
		return
	}
	pause := c.cfg.Heartbeat
	if c.cfg.HeartbeatJitter > 0 {
		pause += rand.N(c.cfg.HeartbeatJitter)
	}
	c.beat.Reset(pause)
}

func (c *tcsSession) send(m any) error {
	frame, err := tcs.Encode(m)
	if err != nil {
		c.fail(err)
		return err
	}
	return c.write(frame)
}

// receive takes one frame of the agent, in the socket's reading goroutine.
func (c *tcsSession) receive(frame []byte) {
	_, body, err := tcs.SplitFrame(frame)
	var m any
	if err == nil {
		m, err = tcs.Decode(body)
	}
	if name, unknown := c.server.strange.Message(err); unknown {
		if name != "" {
			c.log().Warn("an agent sent messages of a type that this version does not know; they are ignored", zap.String("type", name))
		}
		return
	}
	if err != nil {
		c.nonsense++
		c.server.nonsense.Add(1)
		if c.nonsense == 1 || c.nonsense == c.cfg.MaxNonsense {
			c.log().Warn("an agent sent what is not a telemetry message; it is ignored", zap.Int("bytes", len(frame)), zap.Int("count", c.nonsense), zap.Error(err))
		}
		if c.nonsense >= c.cfg.MaxNonsense {
			c.end(statusNonsense, "too many frames that are not messages")
		}
		return
	}
	switch m := m.(type) {
	case *tcs.PublishMetricsRequest:
		c.server.metrics.Add(1)
		if c.cfg.Telemetry != nil {
			c.cfg.Telemetry.Metrics(c.at.cluster, c.at.id, m)
		}
		c.server.measured(c.ctx, c.at, m)
		_ = c.send(&tcs.AckPublishMetric{Message: "OK"}) // an error has ended the socket
	case *tcs.PublishHealthRequest:
		c.server.health.Add(1)
		c.keepHealth(m)
		_ = c.send(&tcs.AckPublishHealth{Message: "OK"})
	case *tcs.LongshoreProgress:
		if c.cfg.Telemetry != nil {
			c.cfg.Telemetry.Progress(c.at.cluster, c.at.id, m)
		}
	case *tcs.PublishInstanceStatusRequest:
		c.keepStatus(m)
		_ = c.send(&tcs.AckPublishInstanceStatus{Message: "OK"})
	}
}

// keepHealth keeps what a publish says, to be written.
func (c *tcsSession) keepHealth(m *tcs.PublishHealthRequest) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, t := range m.Tasks {
		a, err := arn.Parse(t.TaskArn)
		if err != nil || a.Type != arn.TypeTask || len(c.tasks) >= maxUnwritten {
			continue
		}
		if c.tasks[a.ID()] == nil {
			c.tasks[a.ID()] = map[string]types.HealthStatus{}
		}
		for _, container := range t.Containers {
			if len(c.tasks[a.ID()]) < maxUnwritten {
				c.tasks[a.ID()][container.ContainerName] = types.HealthStatus(container.HealthStatus)
			}
		}
	}
	c.persist()
}

func (c *tcsSession) keepStatus(m *tcs.PublishInstanceStatusRequest) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.status = m.Statuses[:min(len(m.Statuses), 100)]
	c.persist()
}

// persist has what is kept written; the caller holds mu.
func (c *tcsSession) persist() {
	if !c.writing && c.ctx.Err() == nil {
		c.writing = true
		c.writers.Go(c.record)
	}
}

// record writes health to the store until nothing is left; only what changes something costs a write.
func (c *tcsSession) record() {
	for {
		c.mu.Lock()
		tasks, status := c.tasks, c.status
		c.tasks, c.status = map[string]map[string]types.HealthStatus{}, nil
		c.writing = len(tasks) > 0 || status != nil
		again := c.writing
		c.mu.Unlock()
		if !again {
			return
		}
		ctx, cancel := context.WithTimeout(c.ctx, 30*time.Second)
		err := errors.Join(c.server.recordHealth(ctx, c.at, tasks), c.server.recordStatus(ctx, c.at, status))
		cancel()
		if err != nil && c.ctx.Err() == nil {
			c.log().Warn("health was not recorded; the agent sends it again", zap.Int("tasks", len(tasks)), zap.Error(err))
		}
	}
}

// recordHealth writes the health of the instance's tasks.
func (s *Server) recordHealth(ctx context.Context, at place, health map[string]map[string]types.HealthStatus) error {
	ids := make([]string, 0, len(health))
	s.cfg.Store.Peek(func(v *store.View) { // most reports say what is known
		for id := range health {
			if _, changed := withHealth(v, at, id, health[id]); changed {
				ids = append(ids, id)
			}
		}
	})
	slices.Sort(ids)
	for part := range slices.Chunk(ids, task.MaxFinish) {
		err := store.Retry(ctx, func() error {
			txn, n := s.cfg.Store.Txn(), 0
			err := s.cfg.Store.Read(ctx, func(v *store.View) error {
				for _, id := range part {
					if t, changed := withHealth(v, at, id, health[id]); changed {
						txn.Update(t)
						n++
					}
				}
				return nil
			})
			if err != nil || n == 0 {
				return err
			}
			return txn.StateChange().Commit(ctx)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// withHealth is the task with a report of its containers' health applied, and whether that changes it.
func withHealth(v *store.View, at place, id string, health map[string]types.HealthStatus) (*store.Task, bool) {
	t := v.Task(at.cluster, id)
	if t == nil || t.Instance != at.id {
		return nil, false
	}
	a, err := arn.Parse(aws.ToString(t.Object.TaskDefinitionArn))
	if err != nil {
		return nil, false
	}
	family, revision, err := (arn.Owner{}).ParseTaskDefinition(a.ID())
	if err != nil {
		return nil, false
	}
	def := v.TaskDefinition(family, revision)
	if def == nil {
		return nil, false
	}
	return task.SetHealth(t, &def.Object, health)
}

// recordStatus writes the outcome of an agent's checks of its host when one of them has changed.
func (s *Server) recordStatus(ctx context.Context, at place, statuses []*tcs.InstanceStatus) error {
	is := instanceHealth(statuses)
	if is == nil {
		return nil
	}
	same := false
	s.cfg.Store.Peek(func(v *store.View) {
		i := v.Instance(at.cluster, at.id)
		same = i == nil || sameHealth(i.Object.HealthStatus, is)
	})
	if same {
		return nil
	}
	return s.changeInstance(ctx, at, func(i *store.Instance) bool {
		if sameHealth(i.Object.HealthStatus, is) {
			return false
		}
		i.Object.HealthStatus = is
		i.Object.Version++
		return true
	})
}

// instanceHealth is the checks' outcome as clients see it, nil for none that clients know. The instance is IMPAIRED if one
// of them is, INITIALIZING or of INSUFFICIENT_DATA if one of them is, else OK.
func instanceHealth(statuses []*tcs.InstanceStatus) *types.ContainerInstanceHealthStatus {
	kinds := map[string]types.InstanceHealthCheckType{
		tcs.TypeContainerRuntime: types.InstanceHealthCheckTypeContainerRuntime, tcs.TypeEBSDaemon: types.InstanceHealthCheckTypeDaemon,
		tcs.TypeAgent: types.InstanceHealthCheckTypeAgentConnectivity, tcs.TypeAccelerated: types.InstanceHealthCheckTypeAcceleratedCompute,
	}
	worse := []types.InstanceHealthCheckState{
		types.InstanceHealthCheckStateOk, types.InstanceHealthCheckStateInsufficientData, types.InstanceHealthCheckStateInitializing, types.InstanceHealthCheckStateImpaired,
	}
	out := &types.ContainerInstanceHealthStatus{OverallStatus: types.InstanceHealthCheckStateOk}
	for _, s := range statuses {
		kind, state := kinds[s.Type], types.InstanceHealthCheckState(s.Status)
		rank := slices.Index(worse, state)
		if kind == "" || rank < 0 {
			continue
		}
		result := types.InstanceHealthCheckResult{Type: kind, Status: state}
		if s.StatusReason != "" {
			result.StatusReason = aws.String(clip(s.StatusReason))
		}
		if s.LastUpdated != nil {
			result.LastUpdated = aws.Time(s.LastUpdated.Time)
		}
		if s.LastStatusChange != nil {
			result.LastStatusChange = aws.Time(s.LastStatusChange.Time)
		}
		out.Details = append(out.Details, result)
		if rank > slices.Index(worse, out.OverallStatus) {
			out.OverallStatus = state
		}
	}
	if len(out.Details) == 0 {
		return nil
	}
	return out
}

// sameHealth compares all but times.
func sameHealth(a, b *types.ContainerInstanceHealthStatus) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.OverallStatus == b.OverallStatus && slices.EqualFunc(a.Details, b.Details, func(x, y types.InstanceHealthCheckResult) bool {
		return x.Type == y.Type && x.Status == y.Status && aws.ToString(x.StatusReason) == aws.ToString(y.StatusReason)
	})
}
