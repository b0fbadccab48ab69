// Package poll is the agent's side of ACS: the web socket over which the control plane says what this instance must run.
//
// A message is answered when its effect is durable, and not before; what is not answered comes again. So a message may be
// handled any number of times, and every handler is idempotent:
//
//	HeartbeatMessage           → HeartbeatAckRequest
//	PayloadMessage             → engine.Accept for each task, STOPPED ones first → AckRequest when all are durable
//	TaskManifestMessage        → only above every sequence number seen: saved, AckRequest, TaskStopVerificationMessage
//	TaskStopVerificationAck    → only for the last manifest: the tasks in it are stopped
//	IAMRoleCredentialsMessage  → kept in memory, IAMRoleCredentialsAckRequest
//	AuthoritiesMessage         → saved, AuthoritiesSavedMessage
//	PrepareImagesMessage       → ImagesPreparedMessage, when they are there or can't be had
//	DescribeTasksMessage       → TasksDescribedMessage; before, and unasked, a TaskListMessage: tasks.go
//	StageUpdate, PerformUpdate → NackRequest "Updates are disabled"
//	others                     → logged
//
// A payload that can't be saved now, because the disk is full, is kept and tried again: again.go.
//
// A task that can't be understood is reported STOPPED with the reason, and its payload is not acknowledged; the good tasks
// in it run all the same. Source: agent-protocol section 3.
package poll

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"
	"go.uber.org/zap"

	"github.com/longshore-project/longshore/agent/session"
	"github.com/longshore-project/longshore/engine"
	"github.com/longshore-project/longshore/internal/failpoint"
	"github.com/longshore-project/longshore/protocol/acs"
	"github.com/longshore-project/longshore/protocol/agentapi"
	"github.com/longshore-project/longshore/protocol/envelope"
)

// acceptTimeout bounds making one task durable.
const acceptTimeout = 30 * time.Second

// Engine runs the tasks; *engine.Engine is one.
type Engine interface {
	Accept(ctx context.Context, task *acs.Task) error
	Tasks() []engine.TaskStatus
}

// Sequence keeps the greatest timeline of a manifest that was obeyed; it survives the agent.
type Sequence interface {
	// LoadSequence returns it, -1 when there is none.
	LoadSequence() (int64, error)
	// SaveSequence is durable when it returns nil.
	SaveSequence(int64) error
}

// Config configures a [Poller]. All fields are required but the functions.
type Config struct {
	Engine      Engine
	Sequence    Sequence
	Credentials *Credentials
	Log         *zap.Logger
	Client      *http.Client
	Signer      session.Signer
	Endpoints   *session.Endpoints
	Limits      session.Limits

	Cluster       string // as configured
	InstanceArn   string
	AgentVersion  string
	AgentHash     string
	EngineVersion func() string // "DockerVersion: 20.10.24" or "containerd"

	// Boot is the kernel's id of this boot, and Record the tasks that a control plane is told of; nil: it is told of none.
	Boot   string
	Record Record
	// Prepare is called for a request to make images local; it must return at once, and answers with [Poller.Say].
	Prepare func(*acs.PrepareImagesMessage)
	// Networks takes what concerns tasks' own networks; nil: this host has none, and such messages are not acknowledged.
	Networks Networks
	// Trusts are the fingerprints of the control plane's CAs that are saved, and Trust saves others and returns theirs; nil: none can be.
	Trusts func() []string
	Trust  func(certificates []byte) (fingerprints []string, err error)
	// Refused is called for a task that can't be understood; it must return at once.
	Refused func(taskArn, reason string)
	// Connected is called with true when a connection stands, and with false when it has ended; it must return at once.
	Connected func(bool)
	// Failed is called with why a connection ended or could not be made; it must return at once.
	Failed func(error)
	// Heartbeat is called for each heartbeat; it must return at once.
	Heartbeat func()
	// Inactive is called when the control plane says that this instance was deregistered, with how long there had been no
	// connection when it did; a returned error ends Run with it.
	Inactive func(away time.Duration) error
	// Unknown is called when the control plane does not know this instance; a returned error ends Run with it.
	Unknown func() error
	// KeyEnds, if set, is called when the control plane says that the access key which opened a connection has an end.
	KeyEnds func()
}

// Poller keeps the session.
type Poller struct {
	cfg      Config
	current  atomic.Pointer[session.Conn]
	was      atomic.Bool // connected at least once in this process
	turn     sync.Mutex  // held while a message is handled; guards what follows
	sequence int64       // the greatest seen, in payloads and manifests
	manifest string      // id of the last manifest, until its verification was answered
	strange  envelope.Strange
}

// New makes a Poller. The error is that of reading the saved sequence number.
func New(cfg Config) (*Poller, error) {
	sequence, err := cfg.Sequence.LoadSequence()
	if err != nil {
		return nil, fmt.Errorf("read the sequence number of the last task manifest: %w", err)
	}
	return &Poller{cfg: cfg, sequence: sequence}, nil
}

// Connected says whether a connection stands now.
func (p *Poller) Connected() bool { return p.current.Load() != nil }

// Run keeps the session until ctx ends.
func (p *Poller) Run(ctx context.Context) error {
	return session.Run(ctx, session.Config{
		Name: "ACS", Client: p.cfg.Client, Signer: p.cfg.Signer, Log: p.cfg.Log, Limits: p.cfg.Limits,
		URL: p.url, Serve: p.serve, Lost: p.cfg.Endpoints.Doubt, Failed: p.cfg.Failed, Inactive: p.cfg.Inactive,
		Header: p.header, Unknown: p.cfg.Unknown,
	})
}

func (p *Poller) url(ctx context.Context) (string, error) {
	base, err := p.cfg.Endpoints.ACS(ctx)
	if err != nil {
		return "", err
	}
	return base + "?" + url.Values{
		"agentHash":            {p.cfg.AgentHash},
		"agentVersion":         {p.cfg.AgentVersion},
		"clusterArn":           {p.cfg.Cluster},
		"containerInstanceArn": {p.cfg.InstanceArn},
		"dockerVersion":        {p.cfg.EngineVersion()},
		"protocolVersion":      {"2"},
		"seqNum":               {"1"},
		"sendCredentials":      {strconv.FormatBool(!p.was.Load())},
	}.Encode(), nil
}

func (p *Poller) serve(ctx context.Context, c *session.Conn) session.Handler {
	p.cfg.Log.Info("Connected to the control plane", zap.String("endpoint", strings.SplitN(c.URL(), "?", 2)[0]))
	if p.cfg.KeyEnds != nil && c.Answered(agentapi.KeyExpiresHeader) != "" {
		p.cfg.KeyEnds()
	}
	p.list(ctx, c)
	p.was.Store(true)
	p.current.Store(c)
	p.tell(true)
	context.AfterFunc(ctx, func() {
		if p.current.CompareAndSwap(c, nil) { // else a newer connection stands already
			p.tell(false)
		}
	})
	u := &unsaved{came: make(chan struct{}, 1)}
	answer := func(v any) error {
		data, err := acs.Encode(v)
		if err != nil {
			return err
		}
		return c.Write(ctx, data)
	}
	go p.tryAgain(ctx, u, answer)
	return func(frame []byte) (bool, error) {
		p.turn.Lock()
		defer p.turn.Unlock()
		return p.handle(ctx, u, answer, frame)
	}
}

func (p *Poller) tell(up bool) {
	if p.cfg.Connected != nil {
		p.cfg.Connected(up)
	}
}

// handle takes one frame. Its error ends the connection: an answer that could not be written, or a deregistered instance.
func (p *Poller) handle(ctx context.Context, u *unsaved, answer func(any) error, frame []byte) (alive bool, err error) {
	message, err := acs.Decode(frame)
	if name, unknown := p.strange.Message(err); unknown {
		if name != "" {
			p.cfg.Log.Warn("The control plane sends messages of a type that this version does not know; they are ignored", zap.String("type", name))
		}
		return false, nil
	}
	if err != nil {
		p.cfg.Log.Warn("The control plane sent a message that can't be understood; it is ignored", zap.Error(err), zap.Int("bytes", len(frame)))
		return false, nil
	}
	switch m := message.(type) {
	case *acs.HeartbeatMessage:
		if p.cfg.Heartbeat != nil {
			p.cfg.Heartbeat()
		}
		return true, answer(&acs.HeartbeatAckRequest{MessageID: m.MessageID})
	case *acs.PayloadMessage:
		again, err := p.payload(ctx, m, answer)
		u.note(m, again)
		return true, err
	case *acs.TaskManifestMessage:
		return true, p.taskManifest(m, answer)
	case *acs.TaskStopVerificationAck:
		p.stopVerified(ctx, m)
	case *acs.IAMRoleCredentialsMessage:
		return true, p.credentials(m, answer)
	case *acs.PrepareImagesMessage:
		p.prepare(m)
	case *acs.AuthoritiesMessage:
		return true, p.authorities(m, answer)
	case *acs.DescribeTasksMessage:
		return true, p.describe(m, answer)
	case *acs.StageUpdateMessage:
		return true, p.noUpdate(m, answer)
	case *acs.PerformUpdateMessage:
		return true, p.noUpdate((*acs.StageUpdateMessage)(m), answer)
	case *acs.CloseMessage:
		p.cfg.Log.Info("The control plane will close the connection", zap.String("reason", m.Message))
	case *acs.Exception:
		if m.Type == acs.InactiveInstanceException {
			return true, &session.Inactive{Message: m.Message}
		}
		p.cfg.Log.Error("The control plane sent an error", zap.String("type", m.Type), zap.String("reason", m.Message))
	case *acs.ErrorMessage:
		p.cfg.Log.Error("The control plane sent an error", zap.String("reason", m.Message))
	case *acs.AttachTaskNetworkInterfacesMessage:
		return true, p.network(m.MessageID, m.ClusterArn, m.ContainerInstanceArn, m, func() error { return p.cfg.Networks.AttachTask(m) }, answer)
	case *acs.AttachInstanceNetworkInterfacesMessage:
		return true, p.network(m.MessageID, m.ClusterArn, m.ContainerInstanceArn, m, func() error { return p.cfg.Networks.AttachInstance(m) }, answer)
	case *acs.SecurityGroupsMessage:
		return true, p.network(m.MessageID, m.ClusterArn, m.ContainerInstanceArn, m, func() error { return p.cfg.Networks.SecurityGroups(m) }, answer)
	case *acs.ConfirmAttachmentMessage:
		p.cfg.Log.Warn("The control plane announced an attachment; this version attaches none, so it is not acknowledged", zap.String("type", acs.TypeOf(m)))
	default:
		p.cfg.Log.Warn("The control plane sent a message that is not for an agent; it is ignored", zap.String("type", acs.TypeOf(m)))
		return false, nil
	}
	return true, nil
}

// payload makes its tasks durable and then acknowledges. again says that one of them could not be saved now.
func (p *Poller) payload(ctx context.Context, m *acs.PayloadMessage, answer func(any) error) (again bool, err error) {
	if err := m.Validate(); err != nil {
		p.cfg.Log.Warn("A payload that lacks a required member is dropped", zap.String("message", m.MessageID), zap.Error(err))
		return false, nil
	}
	if !p.mine(m.ContainerInstanceArn) {
		p.cfg.Log.Error("A payload for another container instance is dropped", zap.String("message", m.MessageID), zap.String("instance", m.ContainerInstanceArn), zap.String("own", p.cfg.InstanceArn))
		return false, nil
	}
	p.sequence = max(p.sequence, m.SeqNum)
	good := len(m.Undecodable) == 0
	for _, u := range m.Undecodable {
		p.refuse(u.Arn, u.Err)
	}
	for _, stopped := range []bool{true, false} {
		for _, task := range m.Tasks {
			if (task.DesiredStatus == acs.StatusStopped) == stopped {
				err := p.accept(ctx, task)
				good = good && err == nil
				again = again || err != nil && !errors.Is(err, errRefused)
			}
		}
	}
	if err := p.payloadCredentials(m, answer); err != nil {
		return again, err
	}
	if !good {
		return again, nil
	}
	failpoint.Hit("poll/ack-before")
	err = answer(&acs.AckRequest{Cluster: m.ClusterArn, ContainerInstance: m.ContainerInstanceArn, MessageID: m.MessageID})
	failpoint.Hit("poll/ack-after")
	return false, err
}

// errRefused says that a task can't be understood, however often it comes.
var errRefused = errors.New("the task can't be understood")

// accept makes one task durable, and reports it if that can never be.
func (p *Poller) accept(ctx context.Context, task *acs.Task) error {
	ctx, cancel := context.WithTimeout(ctx, acceptTimeout)
	defer cancel()
	log := p.cfg.Log.With(zap.String("task", task.Arn), zap.String("step", "accept"))
	begun := time.Now()
	err := p.cfg.Engine.Accept(ctx, task)
	switch {
	case err == nil:
		log.Info("Accepted the task's desired status", zap.String("desired", task.DesiredStatus), zap.Duration("duration", time.Since(begun)))
	case errdefs.IsInvalidArgument(err):
		p.refuse(task.Arn, err)
		return errRefused
	case errors.Is(err, context.Canceled):
	default:
		log.Error("The task could not be saved; its payload is not acknowledged, and is tried again", zap.Error(err), zap.Duration("duration", time.Since(begun)))
	}
	return err
}

// refuse reports a task that can't be understood.
func (p *Poller) refuse(taskArn string, err error) {
	p.cfg.Log.Error("The task can't be understood; it is reported STOPPED, and its payload is not acknowledged", zap.String("task", taskArn), zap.String("step", "accept"), zap.Error(err))
	if taskArn != "" && p.cfg.Refused != nil {
		p.cfg.Refused(taskArn, "UnrecogniedTaskError: Error loading task - "+err.Error())
	}
}

// taskManifest compares what should run with what does.
func (p *Poller) taskManifest(m *acs.TaskManifestMessage, answer func(any) error) error {
	log := p.cfg.Log.With(zap.String("message", m.MessageID), zap.Int64("timeline", m.Timeline))
	if err := m.Validate(); err != nil {
		log.Warn("A task manifest that lacks a required member is dropped", zap.Error(err))
		return nil
	}
	if !p.mine(m.ContainerInstanceArn) {
		log.Error("A task manifest for another container instance is dropped", zap.String("instance", m.ContainerInstanceArn), zap.String("own", p.cfg.InstanceArn))
		return nil
	}
	if m.Timeline <= p.sequence {
		log.Info("The task manifest is older than what is known already; it is ignored", zap.Int64("known", p.sequence))
		return nil
	}
	failpoint.Hit("poll/manifest-before")
	if err := p.cfg.Sequence.SaveSequence(m.Timeline); err != nil {
		log.Error("The task manifest's sequence number could not be saved; the manifest is not acknowledged, so that it comes again", zap.Error(err))
		return nil
	}
	failpoint.Hit("poll/manifest-after")
	p.sequence, p.manifest = m.Timeline, m.MessageID
	if err := answer(&acs.AckRequest{Cluster: m.ClusterArn, ContainerInstance: m.ContainerInstanceArn, MessageID: m.MessageID}); err != nil {
		return err
	}
	candidates := stopCandidates(m.Tasks, p.cfg.Engine.Tasks())
	if len(candidates) == 0 {
		return nil
	}
	log.Warn("Tasks run here that the control plane did not list; asking whether they must stop", zap.Int("tasks", len(candidates)))
	return answer(&acs.TaskStopVerificationMessage{MessageID: m.MessageID, StopCandidates: candidates})
}

// stopCandidates are the tasks that should run here as far as the agent knows, and that the manifest does not list as such.
func stopCandidates(listed []*acs.TaskIdentifier, local []engine.TaskStatus) []*acs.TaskIdentifier {
	running := map[string]bool{}
	for _, t := range listed {
		if t.DesiredStatus == acs.StatusRunning {
			running[t.TaskArn] = true
		}
	}
	var candidates []*acs.TaskIdentifier
	for i := range local {
		if t := &local[i]; t.Desired != acs.StatusStopped && t.Known != acs.StatusStopped && !running[t.Arn] {
			candidates = append(candidates, &acs.TaskIdentifier{TaskArn: t.Arn, TaskClusterArn: t.ClusterArn, DesiredStatus: acs.StatusStopped})
		}
	}
	return candidates
}

// stopVerified stops what the control plane confirmed.
func (p *Poller) stopVerified(ctx context.Context, m *acs.TaskStopVerificationAck) {
	if err := m.Validate(); err != nil || m.MessageID != p.manifest {
		p.cfg.Log.Warn("A stop verification that does not belong to the last task manifest, or lacks a required member, is ignored", zap.String("message", m.MessageID), zap.Error(err))
		return
	}
	p.manifest = ""
	for _, t := range m.StopTasks {
		_ = p.accept(ctx, &acs.Task{Arn: t.TaskArn, TaskClusterArn: t.TaskClusterArn, DesiredStatus: acs.StatusStopped})
	}
}

// noUpdate refuses an update.
func (p *Poller) noUpdate(m *acs.StageUpdateMessage, answer func(any) error) error {
	if err := m.Validate(); err != nil {
		p.cfg.Log.Warn("An update message that lacks a required member is dropped", zap.Error(err))
		return nil
	}
	p.cfg.Log.Warn("The control plane offers an update of the agent; updates are disabled", zap.String("message", m.MessageID))
	return answer(&acs.NackRequest{Cluster: m.ClusterArn, ContainerInstance: m.ContainerInstanceArn, MessageID: m.MessageID, Reason: "Updates are disabled"})
}

// mine says whether an ARN is this instance's; the two forms of ARNs are the same instance.
func (p *Poller) mine(arn string) bool { return lastSegment(arn) == lastSegment(p.cfg.InstanceArn) }

func lastSegment(arn string) string {
	for i := len(arn) - 1; i >= 0; i-- {
		if arn[i] == '/' {
			return arn[i+1:]
		}
	}
	return arn
}
