// Package report sends what happened to tasks to the control plane: one SubmitTaskStateChange per change, from a queue that
// survives the agent.
//
// The rules of agent-protocol section 5.4:
//
//   - changes of one task go one at a time, in the order in which they were saved; the next goes when the one before it is accepted
//   - at most ten tasks submit at the same time, oldest change first
//   - a change is sent until it is accepted; each task has its own growing wait between attempts
//   - a change that only brings news of a task that is not RUNNING yet, such as digests, lingers for a moment: a change that comes
//     meanwhile says the same and more, and is sent in its place, so that a task that starts at once costs one call
//   - InvalidParameterException means that the control plane does not know the task: the change is dropped, and that is logged
//
// The queue forgets a change after it was accepted, so a crash in between sends it once more: changes are idempotent.
package report

import (
	"context"
	"errors"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/longshore-project/longshore/agent/session"
	"github.com/longshore-project/longshore/engine"
	"github.com/longshore-project/longshore/internal/failpoint"
	"github.com/longshore-project/longshore/protocol/agentapi"
)

// Queue keeps the changes that were not accepted yet.
type Queue interface {
	// Changes returns them in order of Sequence.
	Changes() ([]*engine.StateChange, error)
	// Accepted forgets one, durably. Forgetting what is not there does nothing.
	Accepted(sequence uint64) error
}

// API makes the call; protocol/agentapi's Client is one.
type API interface {
	Call(ctx context.Context, operation string, in, out any) error
}

// Config configures a [Reporter].
type Config struct {
	API     API
	Queue   Queue
	Log     *zap.Logger
	Cluster string // as configured
	// IPv6BindingsExcluded leaves bindings to IPv6 addresses out.
	IPv6BindingsExcluded bool
	// Parallel is how many tasks submit at the same time; 0 means 10.
	Parallel int
	// Linger is how long a change to PENDING waits for one that says more; 0 means 1 s.
	Linger time.Duration
	// BackOff is the wait between attempts for one task; the zero value means 100 ms doubling to 30 s.
	BackOff session.BackOff
	// Beat is called each time round the loop, at least once a minute; it must return at once. May be nil.
	Beat func()
}

// Reporter sends changes while [Reporter.Run] runs.
type Reporter struct {
	cfg    Config
	wake   chan struct{}
	hurry  chan struct{}
	extra  chan *engine.StateChange
	lanes  map[string]*lane // by task ARN; owned by Run
	flying int
}

// lane is one task's place in the sending. It exists while the task is in flight or waits.
type lane struct {
	inFlight  bool
	notBefore time.Time
	backOff   session.BackOff
	failures  int
}

// outcome is how one submission ended.
type outcome struct {
	change *engine.StateChange
	err    error
}

// New makes a Reporter.
func New(cfg Config) *Reporter {
	if cfg.Parallel == 0 {
		cfg.Parallel = 10
	}
	if cfg.Linger == 0 {
		cfg.Linger = time.Second
	}
	if cfg.BackOff.First == 0 {
		cfg.BackOff = session.BackOff{First: 100 * time.Millisecond, Most: 30 * time.Second, Factor: 2, Jitter: 0.2}
	}
	return &Reporter{cfg: cfg, wake: make(chan struct{}, 1), hurry: make(chan struct{}, 1), extra: make(chan *engine.StateChange, 64), lanes: map[string]*lane{}}
}

// Wake says that the queue has something new. It returns at once.
func (r *Reporter) Wake() { signal(r.wake) }

// Hurry says that the control plane can be reached again: what waits for its next attempt is tried now. It returns at once.
func (r *Reporter) Hurry() { signal(r.hurry) }

// Refused reports a task that the agent could not even accept: STOPPED with the reason. It is not durable: the payload that
// held the task is not acknowledged, and so it comes again. It is dropped when too many wait already.
func (r *Reporter) Refused(taskArn, reason string) {
	select {
	case r.extra <- &engine.StateChange{TaskArn: taskArn, Status: "STOPPED", Reason: reason, Time: time.Now()}:
	default:
		r.cfg.Log.Warn("Too many tasks that could not be loaded wait to be reported; this one is reported when its payload comes again", zap.String("task", taskArn), zap.String("step", "report"))
	}
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Run sends until ctx ends; calls in flight are then cut, and what was not accepted stays in the queue.
func (r *Reporter) Run(ctx context.Context) error {
	results := make(chan outcome)
	defer func() {
		for ; r.flying > 0; r.flying-- {
			r.settle(<-results)
		}
	}()
	timer := time.NewTimer(0)
	defer timer.Stop()
	refused := map[string]*engine.StateChange{}
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-r.wake:
		case <-timer.C:
		case <-r.hurry:
			for _, l := range r.lanes {
				l.notBefore, l.backOff = time.Time{}, r.cfg.BackOff
			}
		case c := <-r.extra:
			refused[c.TaskArn] = c
		case out := <-results:
			r.flying--
			if r.settle(out) && out.change.Sequence == 0 {
				delete(refused, out.change.TaskArn)
			}
		}
		timer.Reset(r.launch(ctx, refused, results))
		if r.cfg.Beat != nil {
			r.cfg.Beat()
		}
	}
}

// launch starts what may go now and returns when to look again.
func (r *Reporter) launch(ctx context.Context, refused map[string]*engine.StateChange, results chan<- outcome) time.Duration {
	const idle = time.Minute
	changes, err := r.cfg.Queue.Changes()
	if err == nil {
		changes, err = r.withoutPast(changes)
	}
	if err != nil {
		r.cfg.Log.Error("The queue of state changes can't be read; trying again", zap.String("step", "report"), zap.Error(err), zap.Duration("retry", time.Second))
		return time.Second
	}
	for _, c := range refused {
		changes = append(changes, c)
	}
	now, next := time.Now(), idle
	seen := map[string]bool{}
	for _, c := range changes {
		if seen[c.TaskArn] {
			continue // its turn comes after the one before it
		}
		seen[c.TaskArn] = true
		l := r.lanes[c.TaskArn]
		if l == nil {
			l = &lane{backOff: r.cfg.BackOff}
			r.lanes[c.TaskArn] = l
		}
		switch {
		case l.inFlight:
		case now.Before(l.notBefore):
			next = min(next, l.notBefore.Sub(now))
		case c.Status == pending && now.Before(c.Time.Add(r.cfg.Linger)) && c.Time.Before(now.Add(r.cfg.Linger)): // a clock that was set back holds up nothing
			next = min(next, c.Time.Add(r.cfg.Linger).Sub(now))
		case r.flying < r.cfg.Parallel:
			l.inFlight = true
			r.flying++
			go func() { results <- outcome{c, r.submit(ctx, c)} }()
		}
	}
	for arn, l := range r.lanes {
		if !seen[arn] && !l.inFlight {
			delete(r.lanes, arn)
		}
	}
	return next
}

const pending = "PENDING"

// withoutPast forgets the changes to PENDING that a later change of their task includes, and those whose time is over, as far as
// they are not being sent.
func (r *Reporter) withoutPast(changes []*engine.StateChange) ([]*engine.StateChange, error) {
	newest, now := map[string]uint64{}, time.Now()
	for _, c := range changes {
		if len(c.Attachments) == 0 {
			newest[c.TaskArn] = c.Sequence
		}
	}
	left := changes[:0:0]
	for _, c := range changes {
		l := r.lanes[c.TaskArn]
		expired := !c.Expires.IsZero() && now.After(c.Expires)
		if !expired && (c.Status != pending || c.Sequence == newest[c.TaskArn]) || l != nil && l.inFlight {
			left = append(left, c)
			continue
		}
		if expired {
			r.cfg.Log.Warn("The control plane could not be told in time that a network interface is attached", zap.String("task", c.TaskArn), zap.Time("expired", c.Expires))
		}
		if err := r.cfg.Queue.Accepted(c.Sequence); err != nil {
			return nil, err
		}
	}
	return left, nil
}

// submit makes one call.
func (r *Reporter) submit(ctx context.Context, c *engine.StateChange) error {
	failpoint.Hit("report/submit-before")
	operation, input := "SubmitTaskStateChange", any(r.input(c))
	if len(c.Attachments) > 0 {
		operation, input = r.attachments(c)
	}
	err := r.cfg.API.Call(ctx, operation, input, nil)
	failpoint.Hit("report/submit-after")
	return err
}

// attachments is the call that says what became of attachments: of a task's, or of the instance's own.
func (r *Reporter) attachments(c *engine.StateChange) (operation string, input any) {
	var list []agentapi.AttachmentStateChange
	for i := range c.Attachments {
		list = append(list, agentapi.AttachmentStateChange{AttachmentArn: &c.Attachments[i].Arn, Status: &c.Attachments[i].Status})
	}
	if c.TaskArn == "" {
		return "SubmitAttachmentStateChanges", &agentapi.SubmitAttachmentStateChangesInput{Cluster: &r.cfg.Cluster, Attachments: list}
	}
	return "SubmitTaskStateChange", &agentapi.SubmitTaskStateChangeInput{Cluster: &r.cfg.Cluster, Task: &c.TaskArn, Attachments: list}
}

// settle takes the outcome of a submission, and says whether the change is done with.
func (r *Reporter) settle(out outcome) bool {
	c, l := out.change, r.lanes[out.change.TaskArn]
	l.inFlight = false
	log := r.cfg.Log.With(zap.String("task", c.TaskArn), zap.String("step", "report"), zap.String("status", c.Status))
	var refused *agentapi.APIError
	switch {
	case out.err == nil:
		log.Info("The control plane accepted the state change", zap.Duration("duration", time.Since(c.Time)), zap.String("reason", c.Reason))
	case errors.As(out.err, &refused) && refused.Code == "InvalidParameterException":
		log.Warn("The control plane refused the state change, so it is dropped", zap.Error(out.err))
	default:
		l.failures++
		wait := l.backOff.Next()
		l.notBefore = time.Now().Add(wait)
		if !errors.Is(out.err, context.Canceled) {
			log.Warn("The state change could not be submitted; it is tried again", zap.Error(out.err), zap.Int("failures", l.failures), zap.Duration("retry", wait))
		}
		return false
	}
	l.failures, l.backOff, l.notBefore = 0, r.cfg.BackOff, time.Time{}
	if c.Sequence == 0 {
		return true
	}
	if err := r.cfg.Queue.Accepted(c.Sequence); err != nil {
		l.notBefore = time.Now().Add(time.Second)
		log.Error("The accepted state change can't be removed from the queue, so it will be submitted again", zap.Error(err))
		return false
	}
	return true
}

// input is the call's input for a change.
func (r *Reporter) input(c *engine.StateChange) *agentapi.SubmitTaskStateChangeInput {
	status, reason := statusOf(c.Status), cut(c.Reason, 1024)
	in := &agentapi.SubmitTaskStateChangeInput{
		Cluster: &r.cfg.Cluster, Task: &c.TaskArn, Status: &status, Reason: &reason,
		PullStartedAt: instant(c.PullStartedAt), PullStoppedAt: instant(c.PullStoppedAt), ExecutionStoppedAt: instant(c.ExecutionStoppedAt),
	}
	for i := range c.Containers {
		in.Containers = append(in.Containers, r.container(&c.Containers[i]))
	}
	return in
}

func (r *Reporter) container(c *engine.ContainerChange) agentapi.ContainerStateChange {
	status := statusOf(c.Status)
	out := agentapi.ContainerStateChange{
		ContainerName: &c.Name, Status: &status,
		RuntimeId: optional(cut(c.RuntimeID, 255)), ImageDigest: optional(cut(c.ImageDigest, 255)), Reason: optional(cut(c.Reason, 1024)),
	}
	if c.ExitCode != nil {
		code := int32(*c.ExitCode)
		out.ExitCode = &code
	}
	for i := range c.NetworkBindings {
		b := &c.NetworkBindings[i]
		if r.cfg.IPv6BindingsExcluded && strings.Contains(b.BindIP, ":") {
			continue
		}
		if b.ContainerPortRange != "" {
			out.NetworkBindings = append(out.NetworkBindings, agentapi.NetworkBinding{
				BindIP: optional(b.BindIP), ContainerPortRange: &b.ContainerPortRange, HostPortRange: &b.HostPortRange, Protocol: agentapi.TransportProtocol(b.Protocol),
			})
			continue
		}
		out.NetworkBindings = append(out.NetworkBindings, agentapi.NetworkBinding{
			BindIP: optional(b.BindIP), ContainerPort: &b.ContainerPort, HostPort: &b.HostPort, Protocol: agentapi.TransportProtocol(b.Protocol),
		})
	}
	return out
}

// statusOf is what the service knows of a status.
func statusOf(s string) string {
	if s == "RUNNING" || s == "STOPPED" {
		return s
	}
	return "PENDING"
}

// cut shortens a text to at most n bytes, at the border of a character.
func cut(s string, n int) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n], "")
}

func optional(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

func instant(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}
