package engine

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/longshore-project/longshore/internal/failpoint"
	"github.com/longshore-project/longshore/internal/remedy"
)

// worker owns one task from its acceptance until it is forgotten. Its goroutine does nothing but take in what was
// observed, settle, plan, save, and order what the plan says; whatever may take long runs in goroutines of its own,
// which end with the process's context and hand their results back through results.
type worker struct {
	e     *Engine
	arn   string
	ready bool // the record is saved, so that it may run; the Engine's mutex guards it

	mailbox
	results chan result
	actions sync.WaitGroup
	status  atomic.Pointer[TaskStatus]
	need    atomic.Pointer[Need]

	mu        sync.Mutex // guards what follows; held for a turn, which may write to disk
	task      *Task
	rec       *TaskRecord // as it was last saved
	parked    *TaskRecord // as it was last saved, of a task that is stopped until the next boot; rec is then nobody else's
	obs       Observed
	timeline  timeline
	running   map[string]*running // by container: what is at work
	ports     map[string][]Port   // by container: host ports granted
	releases  []func()            // of images
	hidden    hidden              // values that no text shows
	released  bool                // the ledger's grant was given back
	unsaved   int                 // saves that failed in a row
	retrySave time.Time
	lacking   map[string]*Step // by container: the wait for what the host lacks
	waits     []string
	gone      bool // forgotten, or never saved: a new worker may take the task's ARN
}

// running is one action at work.
type running struct {
	step   *Step // nil for looks
	cancel context.CancelFunc
	noisy  bool // an event came meanwhile that the action's own look may have missed
}

// result is what an action found out. apply changes what is observed; it runs in the worker.
type result struct {
	Action
	err   error
	apply func(co *ContainerObserved)
}

// mailbox takes what others tell a worker; they never wait for it.
type mailbox struct {
	mail struct {
		sync.Mutex
		engine EngineObserved
		list   []State
		listed bool
		urgent bool
		events []Event
		notes  []func(w *worker)
	}
	awake chan struct{}
}

func (m *mailbox) wake() {
	select {
	case m.awake <- struct{}{}:
	default:
	}
}

// look hands over what the engine shows of the task's containers, or that the engine does not answer.
func (m *mailbox) look(engine EngineObserved, list []State, listed, urgent bool) {
	m.mail.Lock()
	m.mail.engine, m.mail.urgent = engine, urgent
	if listed {
		m.mail.list, m.mail.listed = list, true
	}
	m.mail.Unlock()
	m.wake()
}

func (m *mailbox) event(ev Event) {
	m.mail.Lock()
	if len(m.mail.events) < 1000 { // hints: the next look finds what was dropped
		m.mail.events = append(m.mail.events, ev)
	}
	m.mail.Unlock()
	m.wake()
}

func (m *mailbox) note(f func(w *worker)) {
	m.mail.Lock()
	m.mail.notes = append(m.mail.notes, f)
	m.mail.Unlock()
	m.wake()
}

func newWorker(e *Engine, t *Task, rec *TaskRecord) *worker {
	w := &worker{e: e, arn: t.Arn, task: t, rec: rec, mailbox: mailbox{awake: make(chan struct{}, 1)}, results: make(chan result),
		running: map[string]*running{}, ports: map[string][]Port{}}
	w.obs.Containers = map[string]*ContainerObserved{}
	w.timeline.log, w.timeline.ended = e.cfg.Log.With(zap.String("task", t.Arn)), e.cfg.Stepped
	w.obs.Unsent = true
	w.prepare()
	return w
}

// prepare makes room for observations of every container.
func (w *worker) prepare() {
	w.need.Store(&w.task.Need)
	for _, c := range w.task.Containers {
		if w.obs.Containers[c.Name] == nil {
			w.obs.Containers[c.Name] = &ContainerObserved{Failures: map[Verb]Failure{}}
		}
	}
}

// run is the loop. It returns when the task is forgotten or ctx, the process's life, ends; containers stay as they are.
func (w *worker) run(ctx context.Context) {
	defer w.actions.Wait()
	w.judge(ctx)
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		wake, done := w.turn(ctx)
		if done {
			return
		}
		timer.Reset(wake)
		select {
		case <-ctx.Done():
			return
		case <-w.awake:
		case <-timer.C:
		case r := <-w.results:
			if ctx.Err() != nil {
				return
			}
			w.take(r)
		}
	}
}

// turn takes in the mail, decides, saves and orders. It returns when to look again at the latest.
func (w *worker) turn(ctx context.Context) (time.Duration, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.absorb()
	now := time.Now()
	w.lookReady(now)
	next := settle(w.task, w.rec, &w.obs, w.e.settings, now)
	p := plan(w.task, next, &w.obs, w.e.settings, now)
	intend(next, p, w.e.settings.Boot, now)
	changes := report(w.task, next, &w.obs, now)
	if !next.StoppedAt.IsZero() {
		w.giveBack()
	}
	saved := w.save(next, changes, now)
	if len(w.lacking) > 0 { // a wait may have ended with the container
		w.lookReady(now)
	}
	if !saved && w.retrySave.Before(orNever(p.Wake)) {
		p.Wake = w.retrySave
	}
	w.waits = p.Waits
	for _, a := range p.Actions {
		if !saved && (a.Verb == VerbStart || a.Verb == VerbRemove || a.Verb == VerbForget) {
			continue
		}
		if done := w.order(ctx, a, now); done {
			return 0, true
		}
	}
	w.publish()
	if p.Wake.IsZero() {
		return time.Hour, false
	}
	return max(time.Until(p.Wake), 0), false
}

func orNever(t time.Time) time.Time {
	if t.IsZero() {
		return time.Unix(1<<40, 0)
	}
	return t
}

// intend puts the starts that are about to be ordered on record.
func intend(rec *TaskRecord, p Plan, boot string, now time.Time) {
	for _, a := range p.Actions {
		if a.Verb != VerbStart {
			continue
		}
		cr := rec.container(a.Container)
		same := cr.Intent != nil && cr.Intent.From.Equal(a.From)
		if same && cr.Intent.Boot == boot {
			continue
		}
		if cr.Intent != nil && !same {
			cr.Restarts++
		}
		cr.Intent = &StartIntent{At: now, From: a.From, Boot: boot}
	}
}

// save makes the record durable if something in it must survive. What could not be saved did not happen: the next turn
// derives it again.
func (w *worker) save(next *TaskRecord, changes []*StateChange, now time.Time) bool {
	if w.parked != nil {
		w.remark(next, nil, now)
		w.rec = next
		return true
	}
	if len(changes) == 0 && !durable(w.rec, next) {
		return true
	}
	if w.unsaved > 0 && now.Before(w.retrySave) {
		return false
	}
	point := "engine/save-state"
	for _, c := range changes {
		point = "engine/save-" + c.Status
	}
	failpoint.Hit(point + "-before")
	err := w.e.cfg.State.Save(next, changes...)
	failpoint.Hit(point + "-after")
	w.e.health.saved(err)
	if err != nil {
		w.unsaved++
		w.retrySave = now.Add(backOff(w.unsaved))
		level := zapcore.WarnLevel
		if w.unsaved == 1 {
			level = zapcore.ErrorLevel
		}
		w.timeline.log.Log(level, "the task's state could not be saved; nothing is started until it can", zap.String("step", "save"),
			zap.Error(err), zap.Time("next try", w.retrySave), zap.String("remedy", remedy.Of(err.Error()).Do))
		return false
	}
	w.unsaved = 0
	w.remark(next, changes, now)
	w.rec = next
	if len(changes) > 0 && w.e.cfg.Changed != nil {
		w.e.cfg.Changed()
	}
	return true
}

// durable reports whether the records differ in something that must survive a crash.
func durable(old, next *TaskRecord) bool {
	if old.Desired != next.Desired || old.Reason != next.Reason || old.Known != next.Known || !old.StoppedAt.Equal(next.StoppedAt) ||
		!old.ExecutionStoppedAt.Equal(next.ExecutionStoppedAt) || old.Cause != next.Cause {
		return true
	}
	for i, cr := range next.Containers {
		o := old.Containers[i]
		if o.Fault != cr.Fault || !o.StartedAt.Equal(cr.StartedAt) || !reflect.DeepEqual(o.Intent, cr.Intent) || (o.Final == nil) != (cr.Final == nil) || (o.Log == nil) != (cr.Log == nil) {
			return true
		}
	}
	return false
}

// remark writes what became certain into the timeline.
func (w *worker) remark(next *TaskRecord, changes []*StateChange, now time.Time) {
	for i, cr := range next.Containers {
		old := w.rec.Containers[i]
		if cr.Fault != "" && old.Fault == "" {
			w.timeline.note(cr.Name, "fail", OutcomeFailed, cr.Fault, now)
		}
		if cr.Attempt > old.Attempt {
			w.timeline.note(cr.Name, "resume", OutcomeWarning, fmt.Sprintf("the host was rebooted and the daemon's container is no longer on the engine; it is made again, attempt %d", cr.Attempt), now)
		} else if cr.Restarts > old.Restarts && old.Intent != nil && old.Intent.Boot != cr.Intent.Boot {
			w.timeline.note(cr.Name, "resume", OutcomeDone, fmt.Sprintf("the host was rebooted; the daemon is started again, its restart %d", cr.Restarts), now)
		} else if cr.Restarts > old.Restarts {
			w.timeline.note(cr.Name, "restart", OutcomeDone, fmt.Sprintf("restart %d by the restart policy", cr.Restarts), now)
		}
		if f := cr.Final; f != nil && old.Final == nil {
			switch {
			case f.ExitCode != nil && !cr.StartedAt.IsZero():
				w.timeline.note(cr.Name, "exit", OutcomeDone, fmt.Sprintf("exit code %d%s", *f.ExitCode, because(f.Reason)), now)
			case f.Reason != "":
				w.timeline.note(cr.Name, "exit", OutcomeFailed, f.Reason, now)
			default:
				w.timeline.note(cr.Name, "exit", OutcomeDone, "it never ran", now)
			}
		}
	}
	if next.Reason != "" && w.rec.Reason == "" {
		w.timeline.note("", "fail", OutcomeFailed, next.Reason, now)
	}
	w.complain(next.Cause)
	for _, c := range changes {
		w.timeline.note("", "report", OutcomeDone, fmt.Sprintf("%s, sequence number %d%s", c.Status, c.Sequence, because(c.Reason)), now)
	}
}

// giveBack returns what a task without processes holds.
func (w *worker) giveBack() {
	if w.released {
		return
	}
	w.released = true
	w.e.ledger.release(w.arn)
	for _, release := range w.releases {
		release()
	}
	w.releases = nil
	if w.e.cfg.Secrets != nil {
		w.e.cfg.Secrets.Release(w.arn)
	}
	if awsvpc(w.task.payload) {
		w.e.cfg.Networks.Release(w.arn)
	}
	w.hidden.forget()
}

// absorb takes in the mail.
func (w *worker) absorb() {
	w.mail.Lock()
	engine, list, listed, urgent, events, notes := w.mail.engine, w.mail.list, w.mail.listed, w.mail.urgent, w.mail.events, w.mail.notes
	w.mail.list, w.mail.listed, w.mail.events, w.mail.notes = nil, false, nil, nil
	w.mail.Unlock()
	w.obs.Engine, w.obs.Urgent = engine, urgent
	if !engine.Available {
		w.excuse()
	}
	for _, f := range notes {
		f(w)
	}
	if w.obs.Grant.State != GrantNever && !w.released {
		w.obs.Grant = w.e.ledger.grant(w.arn)
	}
	if listed {
		w.compare(list)
	}
	for _, ev := range events {
		w.hear(ev)
	}
}

// excuse forgets failures that are the fault of an engine that does not answer.
func (w *worker) excuse() {
	for _, co := range w.obs.Containers {
		maps.DeleteFunc(co.Failures, func(_ Verb, f Failure) bool { return errdefs.IsUnavailable(f.Err) || isDeadline(f.Err) })
	}
}

// compare marks what differs from a list as stale. A list may be older than what is known, so that it decides nothing.
func (w *worker) compare(list []State) {
	w.obs.Strays = 0
	for _, st := range list {
		if len(w.task.Containers) == 0 && st.Status == StatusRunning && st.Labels[LabelTask] != "" && sameCluster(st.Labels[LabelCluster], w.e.cfg.Host.Cluster) {
			w.obs.Strays++
		}
	}
	for _, c := range w.task.Containers {
		cr, co := w.rec.container(c.Name), w.obs.Containers[c.Name]
		st := find(list, cr.nameOf(w.task))
		switch {
		case cr.Final != nil && co.Gone && st != nil && st.ID == co.State.ID:
			co.Stale = co.Stale || st.Status != StatusRunning // the engine has noticed
		case cr.Final != nil:
			if st != nil && st.Status == StatusRunning && !co.alive() {
				w.timeline.note(c.Name, "stray", OutcomeWarning, fmt.Sprintf("container %s runs although it has ended for the agent; something else started it, and it is stopped", shortID(st.ID)), time.Now())
				co.State, co.Absent, co.Stale = nil, false, true
				co.Removed = false
			}
		case st == nil:
			co.Stale = co.Stale || co.exists() || cr.Intent != nil && !co.Absent
		case !co.exists():
			copied := *st // a container of an earlier life of the agent
			co.State, co.Absent, co.Stale = &copied, false, co.Busy == ""
			w.timeline.note(c.Name, "adopt", OutcomeDone, fmt.Sprintf("found as %s (%s)", st.Status, shortID(st.ID)), time.Now())
		case co.State.Status != st.Status || co.State.ID != st.ID || st.Health.Status != "" && co.State.Health.Status != st.Health.Status:
			co.Stale = true
		}
	}
}

func find(list []State, name string) *State {
	for i := range list {
		if list[i].Name == name {
			return &list[i]
		}
	}
	return nil
}

// hear takes an event as what it is, a hint to look again.
func (w *worker) hear(ev Event) {
	for name, co := range w.obs.Containers {
		cr := w.rec.container(name)
		if cr == nil || cr.Final != nil || !co.exists() || co.State.ID != ev.ContainerID {
			continue
		}
		begun := ev.Action == "create" || ev.Action == "start"
		if r := w.running[name]; r != nil {
			r.noisy = r.noisy || !begun
			continue
		}
		if begun && co.State.Status == StatusRunning {
			continue
		}
		co.Stale = true
	}
}

// take takes in a result.
func (w *worker) take(r result) {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	co, at := w.obs.Containers[r.Container], w.running[r.Container]
	delete(w.running, r.Container)
	at.cancel()
	co.Busy = ""
	if r.apply != nil {
		r.apply(co)
	}
	co.Stale = co.Stale || at.noisy && !co.ended()
	if at.step != nil {
		w.timeline.end(at.step, r.err, now)
	}
	w.noteAnswer(r, co)
	switch {
	case r.err == nil:
		delete(co.Failures, r.Verb)
	case errors.Is(r.err, context.Canceled):
		// nobody wanted it any more
	default:
		co.Failures[r.Verb] = Failure{Err: r.err, Count: co.Failures[r.Verb].Count + 1, At: now}
		if errdefs.IsUnavailable(r.err) || isDeadline(r.err) {
			w.e.observer.suspect()
		}
	}
}

// noteAnswer notes whether the engine answers calls about a container.
func (w *worker) noteAnswer(r result, co *ContainerObserved) {
	switch r.Verb {
	case VerbCreate, VerbStart, VerbKill, VerbStop, VerbLook, VerbRemove:
	default:
		return
	}
	switch {
	case co.Gone:
		w.e.unanswered.set(&w.e.health, w.arn, r.Container, r.Verb)
	case r.err == nil && (r.Verb != VerbLook || co.Failures[VerbKill].Count == 0):
		w.e.unanswered.set(&w.e.health, w.arn, r.Container, "")
	case isDeadline(r.err) && r.Verb != VerbStop && r.Verb != VerbLook:
		w.e.unanswered.set(&w.e.health, w.arn, r.Container, r.Verb)
	}
}

// publish shows the task to others.
func (w *worker) publish() {
	s := statusOf(w.task, w.rec, &w.obs)
	s.Waits, s.Timeline = w.waits, w.timeline.snapshot()
	if old := w.status.Swap(s); old != nil && otherHealth(old, s) && w.e.cfg.Changed != nil {
		w.e.cfg.Changed()
	}
}

// otherHealth reports whether the health of a container is not what it was.
func otherHealth(a, b *TaskStatus) bool {
	return !slices.EqualFunc(a.Containers, b.Containers, func(a, b ContainerStatus) bool { return a.Health.Status == b.Health.Status })
}

// statusOf is a task as others see it.
func statusOf(t *Task, rec *TaskRecord, obs *Observed) *TaskStatus {
	s := &TaskStatus{Arn: t.Arn, ClusterArn: t.Cluster, Family: t.Family, Version: t.Version, Desired: rec.Desired, Known: rec.Known,
		Reason: rec.Reason, Cause: rec.Cause, AcceptedAt: rec.AcceptedAt, PullStartedAt: rec.PullStartedAt, PullStoppedAt: rec.PullStoppedAt,
		ExecutionStoppedAt: rec.ExecutionStoppedAt, StoppedAt: rec.StoppedAt, Rebuilt: rec.Rebuilt, Payload: t.payload}
	if s.Known == "" {
		s.Known = "NONE"
	}
	for _, c := range t.Containers {
		if cr := rec.container(c.Name); cr != nil && !c.internal() {
			s.Containers = append(s.Containers, containerStatus(t, c, cr, obs.of(c.Name)))
		} else if cr != nil {
			s.Pauses = append(s.Pauses, containerStatus(t, c, cr, obs.of(c.Name)))
		}
	}
	return s
}

func containerStatus(t *Task, c *Container, cr *ContainerRecord, co *ContainerObserved) ContainerStatus {
	s := ContainerStatus{Name: c.Name, RuntimeID: cr.RuntimeID, RuntimeName: cr.nameOf(t), EndpointID: cr.EndpointID, Image: c.Image, ImageDigest: cr.ImageDigest,
		Essential: c.Essential, Known: "NONE", Restarts: cr.Restarts, Bindings: cr.Bindings, StartedAt: cr.StartedAt, Removed: co.Removed, Log: cr.Log}
	if co.Image != nil {
		s.ImageID, s.Known = co.Image.ID, "PULLED"
	}
	if st := co.State; st != nil {
		s.Health, s.Addresses, s.CreatedAt, s.NetworkMode, s.Pid = st.Health, st.Addresses, st.CreatedAt, st.NetworkMode, st.Pid
		s.Labels, s.Mounts = st.Labels, st.Mounts
		s.Known = "CREATED"
		if st.ImageID != "" {
			s.ImageID = st.ImageID
		}
	}
	if !cr.StartedAt.IsZero() {
		s.Known = statusRunning
	}
	if cr.Fault != "" {
		s.Reason = cr.Fault
	}
	if f := cr.Final; f != nil {
		s.Known, s.ExitCode, s.Reason, s.FinishedAt = statusStopped, f.ExitCode, f.Reason, f.FinishedAt
	}
	return s
}
