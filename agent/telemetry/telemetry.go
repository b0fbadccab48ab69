// Package telemetry is the agent's side of TCS: the web socket over which it tells the control plane how its host and its
// containers are.
//
//	PublishMetricsRequest         at connect and every 20 s: what each container used since (metrics.go); while no task is here, "idle".
//	                              Nothing is published that was not measured.
//	PublishHealthRequest          every 20 s, and at once when a container's health has changed, while a container has a health check
//	LongshoreProgress             what tasks wait for that are not where they are to be, when that changes, to Longshore's control plane only
//	PublishInstanceStatusRequest  after each heartbeat of ACS, and at once when it is another than was told last, or nothing was
//	                              told yet: whether the container engine does its work
//
// Nothing is sent again when an acknowledgement is missing: the next period says it anew. Each frame is signed
// (agent-protocol section 6.2).
package telemetry

import (
	"context"
	"errors"
	"maps"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"go.uber.org/zap"

	"github.com/longshore-project/longshore/agent/session"
	"github.com/longshore-project/longshore/engine"
	"github.com/longshore-project/longshore/protocol/envelope"
	"github.com/longshore-project/longshore/protocol/tcs"
)

// Period is the time between two reports.
const Period = 20 * time.Second

// Engine is what is reported on; *engine.Engine is one.
type Engine interface {
	Tasks() []engine.TaskStatus
	Health() engine.EngineHealth
}

// Limits are those of the session, agent-protocol section 6.1.
func Limits() session.Limits {
	l := session.DefaultLimits()
	l.BackOff = session.BackOff{First: time.Second, Most: time.Minute, Factor: 2, Jitter: 0.2}
	return l
}

// Config configures a [Publisher]. All fields are required but Stats and MetricsDisabled.
type Config struct {
	Engine    Engine
	Stats     Stats // what is measured; nil: nothing
	Log       *zap.Logger
	Client    *http.Client
	Signer    session.Signer
	Endpoints *session.Endpoints
	Limits    session.Limits

	Cluster         string // as configured
	InstanceArn     string
	AgentVersion    string
	AgentHash       string
	EngineVersion   func() string // the bare version
	MetricsDisabled bool
}

// Publisher keeps the session.
type Publisher struct {
	cfg     Config
	changed chan struct{}
	checked atomic.Bool                         // a heartbeat of ACS came since the last instance status
	told    atomic.Pointer[engine.EngineHealth] // what was told last; nil: nothing yet
	strange envelope.Strange
}

// New makes a Publisher.
func New(cfg Config) *Publisher { return &Publisher{cfg: cfg, changed: make(chan struct{}, 1)} }

// Heartbeat says that ACS sent a heartbeat. It returns at once.
func (p *Publisher) Heartbeat() { p.checked.Store(true) }

// Changed says that the health of a container, or that of the container engine, may have changed. It returns at once.
func (p *Publisher) Changed() {
	select {
	case p.changed <- struct{}{}:
	default:
	}
}

// Run keeps the session until ctx ends.
func (p *Publisher) Run(ctx context.Context) error {
	return session.Run(ctx, session.Config{
		Name: "TCS", Client: p.cfg.Client, Signer: p.cfg.Signer, Log: p.cfg.Log, Limits: p.cfg.Limits,
		URL: p.url, Serve: p.serve, Lost: p.cfg.Endpoints.Doubt,
	})
}

func (p *Publisher) url(ctx context.Context) (string, error) {
	base, err := p.cfg.Endpoints.TCS(ctx)
	if err != nil {
		return "", err
	}
	return base + "?" + url.Values{
		"agentHash":         {p.cfg.AgentHash},
		"agentVersion":      {p.cfg.AgentVersion},
		"cluster":           {p.cfg.Cluster},
		"containerInstance": {p.cfg.InstanceArn},
		"dockerVersion":     {p.cfg.EngineVersion()},
	}.Encode(), nil
}

func (p *Publisher) serve(ctx context.Context, c *session.Conn) session.Handler {
	go p.publish(ctx, c)
	if c.Answered(tcs.ProgressHeader) != "" {
		go p.tell(ctx, c)
	}
	return p.handle
}

// handle takes a frame of the control plane.
func (p *Publisher) handle(frame []byte) (alive bool, err error) {
	message, err := tcs.Decode(frame)
	if name, unknown := p.strange.Message(err); unknown {
		if name != "" {
			p.cfg.Log.Warn("The telemetry service sends messages of a type that this version does not know; they are ignored", zap.String("type", name))
		}
		return false, nil
	}
	if err != nil {
		p.cfg.Log.Warn("The telemetry service sent a message that can't be understood; it is ignored", zap.Error(err), zap.Int("bytes", len(frame)))
		return false, nil
	}
	switch m := message.(type) {
	case *tcs.HeartbeatMessage, *tcs.AckPublishMetric, *tcs.AckPublishHealth, *tcs.AckPublishInstanceStatus:
		return true, nil
	case *tcs.Exception:
		if m.Type == "InactiveInstanceException" {
			return false, &session.Inactive{Message: m.Message}
		}
		p.cfg.Log.Warn("The telemetry service sent an error", zap.String("type", m.Type), zap.String("reason", m.Message))
	case *tcs.StopTelemetrySessionMessage:
		p.cfg.Log.Info("The telemetry service will end the session", zap.String("reason", m.Message))
	default:
		p.cfg.Log.Warn("The telemetry service sent a message that is not for an agent; it is ignored", zap.String("type", tcs.TypeOf(m)))
	}
	return false, nil
}

// publish reports until the connection ends.
func (p *Publisher) publish(ctx context.Context, c *session.Conn) {
	tick := time.NewTicker(Period)
	defer tick.Stop()
	var last map[string]string
	for regular := true; ; {
		var err error
		if last, err = p.report(ctx, c, regular, last); err != nil {
			if !errors.Is(err, context.Canceled) && ctx.Err() == nil {
				p.cfg.Log.Warn("Telemetry could not be sent", zap.Error(err))
			}
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			regular = true
		case <-p.changed:
			regular = false
		}
	}
}

// report sends what is due. A report that is not regular sends only what changed; it returns the containers' health as sent.
func (p *Publisher) report(ctx context.Context, c *session.Conn, regular bool, last map[string]string) (map[string]string, error) {
	tasks, now := p.cfg.Engine.Tasks(), tcs.At(time.Now())
	if regular && !p.cfg.MetricsDisabled {
		if err := p.reportMetrics(ctx, c, tasks, now); err != nil {
			return last, err
		}
	}
	if err := p.reportStatus(ctx, c, regular, now); err != nil {
		return last, err
	}
	health, digest := p.health(tasks, now)
	if len(digest) == 0 || (!regular && maps.Equal(digest, last)) {
		return digest, nil
	}
	for _, part := range tcs.SplitHealth(health) {
		if err := p.send(ctx, c, part); err != nil {
			return last, err
		}
	}
	return digest, nil
}

// reportStatus sends the instance's status if it is due, or another than was told last.
func (p *Publisher) reportStatus(ctx context.Context, c *session.Conn, regular bool, now *tcs.Time) error {
	h, told := p.cfg.Engine.Health(), p.told.Load()
	other := told == nil || told.Impaired != h.Impaired || len(told.Causes) != len(h.Causes)
	if !other && !(regular && p.checked.Load()) {
		return nil
	}
	if regular {
		p.checked.Store(false)
	}
	if err := p.send(ctx, c, p.status(h, now)); err != nil {
		return err
	}
	p.told.Store(&h)
	return nil
}

// health is that of the containers which have a health check and are not stopped; digest tells two of them apart.
func (p *Publisher) health(tasks []engine.TaskStatus, now *tcs.Time) (request *tcs.PublishHealthRequest, digest map[string]string) {
	digest = map[string]string{}
	request = &tcs.PublishHealthRequest{
		Metadata:  &tcs.HealthMetadata{Cluster: p.cfg.Cluster, ContainerInstance: p.cfg.InstanceArn, Fin: true, MessageID: uuid.NewString()},
		Timestamp: now,
	}
	for i := range tasks {
		t := &tasks[i]
		th := &tcs.TaskHealth{ClusterArn: t.ClusterArn, TaskArn: t.Arn, TaskDefinitionFamily: t.Family, TaskDefinitionVersion: t.Version}
		for j := range t.Containers {
			c := &t.Containers[j]
			if c.Health.Status == "" || c.Known == "STOPPED" {
				continue
			}
			ch := &tcs.ContainerHealth{ContainerName: c.Name, HealthStatus: c.Health.Status, StatusMessage: statusMessage(c.Health)}
			if !c.Health.Since.IsZero() {
				ch.StatusSince = tcs.At(c.Health.Since)
			}
			th.Containers = append(th.Containers, ch)
			digest[t.Arn+" "+c.Name] = c.Health.Status
		}
		if len(th.Containers) > 0 {
			request.Tasks = append(request.Tasks, th)
		}
	}
	return request, digest
}

// statusMessage is the check's output, bounded.
func statusMessage(h engine.Health) string {
	const most = 1024
	out := strings.ToValidUTF8(h.Output, "\uFFFD")
	if len(out) > most {
		out = strings.ToValidUTF8(out[:most], "")
	}
	return out
}

func (p *Publisher) status(h engine.EngineHealth, now *tcs.Time) *tcs.PublishInstanceStatusRequest {
	status := &tcs.InstanceStatus{Type: tcs.TypeContainerRuntime, Status: tcs.StatusOK, LastUpdated: now}
	if h.Impaired {
		status.Status, status.StatusReason = tcs.StatusImpaired, strings.Join(h.Causes, "; ")
	}
	if !h.Since.IsZero() {
		status.LastStatusChange = tcs.At(h.Since)
	}
	return &tcs.PublishInstanceStatusRequest{
		Metadata:  &tcs.InstanceStatusMetadata{Cluster: p.cfg.Cluster, ContainerInstance: p.cfg.InstanceArn, RequestID: uuid.NewString()},
		Statuses:  []*tcs.InstanceStatus{status},
		Timestamp: now,
	}
}

// send signs a message and sends it.
func (p *Publisher) send(ctx context.Context, c *session.Conn, message any) error {
	body, err := tcs.Encode(message)
	if err != nil {
		return err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, c.URL(), nil)
	if err != nil {
		return err
	}
	if err := p.cfg.Signer.Sign(ctx, request, body); err != nil {
		return err
	}
	request.Header.Set("Host", request.URL.Host)
	return c.Write(ctx, tcs.Frame(request.Header, body))
}
