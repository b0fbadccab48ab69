package engine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/longshore-project/longshore/internal/failpoint"
	"github.com/longshore-project/longshore/protocol/acs"
)

// maxInspects bounds the looks at single containers that run at once.
const maxInspects = 8

// atOnce bounds the containers that are started, or stopped, at once. More than a few for each core only make the engine slower: what it
// does is mostly CPU time, and side by side it is not done sooner.
func atOnce() int { return 4 * runtime.NumCPU() }

// Engine makes the host's containers match the tasks it was given. All methods may be called concurrently.
type Engine struct {
	cfg        Config
	settings   Settings
	ledger     *ledger
	observer   *observer
	health     health
	unanswered unanswered
	pause      pauseImage
	inspecting chan struct{}
	doubting   chan struct{} // looks at containers about which the engine did not answer
	removing   *lane
	starting   *lane // creates and starts
	stopping   *lane
	past       past
	orphans    orphans
	ready      chan struct{} // closed when containers without a record were looked for

	mu      sync.Mutex // guards what follows; never held over I/O
	workers map[string]*worker
	ctx     context.Context // the process's life, while Run runs
	running sync.WaitGroup
	sealed  bool // Run is leaving

	adopted bool // containers without a record were looked for; the observer's alone
}

// New makes an engine and restores the tasks on record. Nothing runs until Run.
func New(cfg Config) (*Engine, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	e := &Engine{cfg: cfg, ledger: newLedger(cfg.Host), inspecting: make(chan struct{}, maxInspects), doubting: make(chan struct{}, maxInspects), removing: newLane(1), starting: newLane(atOnce()), stopping: newLane(atOnce()), ready: make(chan struct{}), workers: map[string]*worker{}}
	if e.cfg.Networks == nil {
		e.cfg.Networks = noNetworks{e}
	}
	e.cfg.NetworkTimeout = cmp.Or(e.cfg.NetworkTimeout, 5*time.Minute)
	e.settings = Settings{StopTimeout: cfg.StopTimeout, CreateTimeout: cfg.CreateTimeout, StartTimeout: cfg.StartTimeout, CleanupWait: cfg.CleanupWait, CleanupJitter: cfg.CleanupJitter, Boot: cfg.BootID, NetworkTimeout: e.cfg.NetworkTimeout, ReadyTimeout: cfg.ReadyTimeout}
	_, e.settings.ResumeDaemons = cfg.Runtime.(Restarter)
	e.settings.ResumeDaemons = e.settings.ResumeDaemons && cfg.ResumeDaemons
	e.past.perFamily, e.past.records = cfg.KeepPerFamily, map[string]*TaskRecord{}
	e.orphans.e, e.orphans.found = e, map[string]*orphanage{}
	e.observer = &observer{e: e, prodded: make(chan struct{}, 1)}
	e.health.changed = cfg.Changed
	e.health.set("engine", "the container engine was not looked at yet")
	records, err := cfg.State.Load()
	if err != nil {
		return nil, fmt.Errorf("engine: load the tasks: %w", err)
	}
	for _, rec := range records {
		if rec.Task != nil && !rec.CleanedAt.IsZero() && rec.Version <= RecordVersion {
			e.past.add(rec)
			continue
		}
		w, err := e.restore(rec)
		if err != nil {
			return nil, err
		}
		w.ready = true
		e.workers[w.arn] = w
	}
	return e, nil
}

// restore makes the worker of a task on record. Tasks that may have processes hold their grant from the beginning.
func (e *Engine) restore(rec *TaskRecord) (*worker, error) {
	if rec.Task == nil || rec.Version > RecordVersion {
		return nil, fmt.Errorf("engine: a task record of version %d can't be read by this agent, which knows up to %d", rec.Version, RecordVersion)
	}
	t, err := ParseTask(rec.Task, e.cfg.Host)
	if err != nil { // what another version of the agent accepted runs on, but nothing is made of it before it is sent again
		t = bareTask(rec)
		rec.Rebuilt = true
	}
	for _, at := range []*time.Time{&rec.AcceptedAt, &rec.StoppedAt} {
		if now := time.Now(); at.After(now) { // the host's clock was set back since, and nobody waits until it is that late again
			*at = now
		}
	}
	w := newWorker(e, t, rec)
	if rec.StoppedAt.IsZero() {
		for _, cr := range rec.Containers {
			if cr.Intent != nil || rec.Rebuilt { // it may have processes
				e.ledger.force(t.Arn, t.Need)
				t.Doom = ""
			}
		}
	}
	w.timeline.note("", "restore", OutcomeDone, fmt.Sprintf("from the state file: desiredStatus %s, knownStatus %s", rec.Desired, rec.Known), time.Now())
	w.publish()
	return w, nil
}

// Run makes the host match until ctx, the process's life, ends. It looks for the containers of the restored tasks and
// adopts those without a record, and then keeps every task going. When it returns nothing of the engine runs any more,
// and every container is as it was: leaving is not stopping. It is called once.
func (e *Engine) Run(ctx context.Context) error {
	e.mu.Lock()
	if e.ctx != nil {
		e.mu.Unlock()
		return errors.New("engine: Run was called twice")
	}
	e.ctx = ctx
	for _, w := range e.workers {
		if w.ready {
			e.running.Go(func() { w.run(ctx) })
		}
	}
	e.running.Go(func() { e.observer.run(ctx) })
	e.running.Go(func() { e.observer.hear(ctx) })
	e.mu.Unlock()
	<-ctx.Done()
	e.seal()
	e.running.Wait()
	return nil
}

// seal keeps workers from beginning while Run waits for the last one.
func (e *Engine) seal() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.sealed = true
}

// Accept takes a task of a payload. When it returns nil the task, or its new desiredStatus, is durable, and the payload may
// be acknowledged. An [*UnrecognizedTaskError] means that the task can't be understood or done here; other errors that
// it could not be saved. A task that is known is not read again: only its desiredStatus counts, and only if it is
// further along, so that repeating a call changes nothing. Role credentials in the payload are not kept.
func (e *Engine) Accept(ctx context.Context, p *acs.Task) error {
	if p == nil || p.Arn == "" || len(p.Arn) > maxArn {
		return &UnrecognizedTaskError{Detail: fmt.Sprintf("the task has no arn of 1 to %d characters", maxArn)}
	}
	desired, err := ParseDesired(p.DesiredStatus)
	if err != nil {
		return &UnrecognizedTaskError{TaskArn: p.Arn, Detail: err.Error()}
	}
	for ctx.Err() == nil {
		if w := e.worker(p.Arn); w != nil {
			if gone, err := w.accept(p, desired); !gone {
				return err
			}
			continue
		}
		if rec := e.past.get(p.Arn); rec != nil {
			if taken, err := e.revive(rec); !taken {
				return err
			}
			continue
		}
		t, err := ParseTask(p, e.cfg.Host)
		if err == nil {
			err = e.unable(t)
		}
		if err != nil && desired != statusStopped {
			return err
		}
		if err != nil { // an unknown task that is to be stopped is reported as such, whatever else it says
			t, _ = ParseTask(&acs.Task{Arn: p.Arn, TaskClusterArn: p.TaskClusterArn, DesiredStatus: statusStopped}, e.cfg.Host)
		}
		if taken, err := e.begin(t, newRecord(t, desired, time.Now()), "accept"); !taken {
			if len(t.Containers) == 0 {
				e.observer.suspect() // only a look tells whether processes of it are here
			}
			return err
		}
	}
	return ctx.Err()
}

// Ready is closed when the containers that are on no record were looked for. Until then a task that is not known may have
// containers here all the same: whoever takes payloads from a control plane waits for it before Accept.
func (e *Engine) Ready() <-chan struct{} { return e.ready }

// unable refuses by name what the container engine can't do.
func (e *Engine) unable(t *Task) error {
	for _, c := range t.payload.Containers {
		if Internal(c.Name) {
			return &UnrecognizedTaskError{TaskArn: t.Arn, Detail: fmt.Sprintf("container %s: names that begin with %s are the agent's own", c.Name, internalPrefix)}
		}
	}
	if _, none := e.cfg.Networks.(noNetworks); awsvpc(t.payload) && (none || !CanShareNamespaces(e.cfg.Runtime)) {
		return &UnrecognizedTaskError{TaskArn: t.Arn, Detail: "networkMode awsvpc is not supported by this agent on this host; use bridge, host or none"}
	}
	if _, ok := e.cfg.Runtime.(Restarter); ok {
		return nil
	}
	for _, c := range t.Containers {
		if c.Restart != nil {
			return &UnrecognizedTaskError{TaskArn: t.Arn, Detail: fmt.Sprintf("container %s: restartPolicy is not supported on this container engine", c.Name)}
		}
	}
	return nil
}

func newRecord(t *Task, desired string, now time.Time) *TaskRecord {
	rec := &TaskRecord{Version: RecordVersion, Task: t.payload, AcceptedAt: now, Desired: desired}
	for _, c := range t.Containers {
		rec.Containers = append(rec.Containers, &ContainerRecord{Name: c.Name, Attempt: 1})
	}
	return rec
}

// begin saves a new task and starts its worker. taken says that another call was quicker.
func (e *Engine) begin(t *Task, rec *TaskRecord, step string) (taken bool, err error) {
	w := newWorker(e, t, rec)
	w.mu.Lock()
	defer w.mu.Unlock()
	e.mu.Lock()
	if e.workers[t.Arn] != nil {
		e.mu.Unlock()
		return true, nil
	}
	e.workers[t.Arn] = w
	w.mail.engine = e.observer.now()
	e.mu.Unlock()

	now := time.Now()
	failpoint.Hit("engine/" + step + "-before")
	err = e.cfg.State.Save(rec)
	failpoint.Hit("engine/" + step + "-after")
	e.health.saved(err)
	if err != nil {
		w.gone = true
		e.unregister(w)
		return false, fmt.Errorf("task %s could not be saved, and was not accepted: %w", t.Arn, err)
	}
	w.timeline.note("", step, OutcomeDone, fmt.Sprintf("%s:%s, desiredStatus %s, %d containers", t.Family, t.Version, rec.Desired, len(t.Containers)), now)
	for _, text := range slices.Concat(t.Warnings, e.unlimited(t)) {
		w.timeline.note("", step, OutcomeWarning, text, now)
	}
	w.publish()
	e.mu.Lock()
	defer e.mu.Unlock()
	w.ready = true
	if e.ctx != nil && !e.sealed {
		e.running.Go(func() { w.run(e.ctx) })
	}
	return false, nil
}

func (e *Engine) worker(arn string) *worker {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.workers[arn]
}

func (e *Engine) unregister(w *worker) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.workers[w.arn] == w {
		delete(e.workers, w.arn)
		e.unanswered.forget(&e.health, w.arn)
	}
}

func (e *Engine) event(ev Event) {
	if w := e.worker(ev.TaskArn); w != nil {
		w.event(ev)
	}
}

// occupied tells which ports of the host somebody listens on.
func (e *Engine) occupied() func(PortKey) bool {
	var ports map[PortKey]bool
	return func(k PortKey) bool {
		if ports == nil {
			ports = map[PortKey]bool{}
			for _, l := range listeners(e.cfg.Proc) {
				ports[l.PortKey] = true
			}
		}
		return ports[k]
	}
}

// Tasks returns every task the engine knows, in the order of their acceptance.
func (e *Engine) Tasks() []TaskStatus {
	e.mu.Lock()
	all := make([]*TaskStatus, 0, len(e.workers)) // a status is large, and this is asked often
	for _, w := range e.workers {
		if s := w.status.Load(); s != nil {
			all = append(all, s)
		}
	}
	e.mu.Unlock()
	slices.SortFunc(all, func(a, b *TaskStatus) int {
		return cmp.Or(a.AcceptedAt.Compare(b.AcceptedAt), strings.Compare(a.Arn, b.Arn))
	})
	tasks := make([]TaskStatus, len(all))
	for i, s := range all {
		tasks[i] = *s
	}
	return tasks
}

// Task returns one task by its ARN.
func (e *Engine) Task(arn string) (TaskStatus, bool) {
	if w := e.worker(arn); w != nil {
		if s := w.status.Load(); s != nil {
			return *s, true
		}
	}
	return TaskStatus{}, false
}

// Health says whether the engine can do its work, and what keeps it from it.
func (e *Engine) Health() EngineHealth {
	h := e.health.get()
	h.Engine = e.observer.info()
	return h
}
