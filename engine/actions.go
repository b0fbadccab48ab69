package engine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"
	"go.uber.org/zap"

	"github.com/longshore-project/longshore/engine/firelens"
	"github.com/longshore-project/longshore/internal/failpoint"
)

// VolumeRemover is a Runtime that can remove a named volume. Removing what no longer exists does nothing; a volume that
// a container uses is FailedPrecondition.
type VolumeRemover interface {
	RemoveVolume(ctx context.Context, name string) error
}

// Restarter is a Runtime that can start an ended container again in place, with its file system, id and name.
type Restarter interface {
	// Restart starts a container whose process has ended. Restarting a running one does nothing. Errors are those of Start.
	Restart(ctx context.Context, id string) error
}

const (
	checkTimeout     = time.Minute
	fetchTimeout     = 3 * time.Minute  // of which the role's credentials may take one
	removeTimeout    = 10 * time.Minute // the wait for the removals before it included
	removeTurn       = 30 * time.Second // for how long a removal keeps others waiting
	startTurn        = 10 * time.Second // … and a create or start
	progressInterval = 5 * time.Second
	portPatience     = 3 * time.Second // how long a foreign listener may take to go away
	portInterval     = 100 * time.Millisecond
)

// order begins an action, or does it at once where it is short. It reports whether the task's life is over.
func (w *worker) order(ctx context.Context, a Action, now time.Time) (done bool) {
	switch a.Verb {
	case VerbAdmit:
		w.admit(now)
	case VerbCancel:
		if r := w.running[a.Container]; r != nil {
			r.cancel()
		}
	case VerbUnsent:
		if unsent, err := w.e.cfg.State.Unsent(w.arn); err == nil && !unsent {
			w.obs.Unsent = false
			w.wake()
		}
	case VerbNet:
		w.wantNetwork(w.obs.of(a.Container).State)
	case VerbForget:
		return w.forget()
	default:
		w.begin(ctx, a, now)
	}
	return false
}

func (w *worker) admit(now time.Time) {
	w.obs.Grant = w.e.ledger.ask(w.arn, w.task.Need, w.wake)
	n := w.task.Need
	need := fmt.Sprintf("%d cpu units, %d MiB, ports %v", n.CPU, n.Memory, n.Ports)
	switch w.obs.Grant.State {
	case GrantHeld:
		w.timeline.note("", "admit", OutcomeDone, need, now)
	case GrantWaiting:
		w.timeline.note("", "admit", OutcomeWarning, "the task waits for the host: "+w.obs.Grant.Reason, now)
	}
	w.wake()
}

func (w *worker) forget() bool {
	failpoint.Hit("engine/forget-before")
	err := firelens.Remove(firelens.Dir(w.e.cfg.Host.FirelensDir, w.arn))
	if err == nil {
		err = w.e.removeGroup(w.arn)
	}
	if err == nil {
		err = w.keepPast(time.Now())
		w.e.health.saved(err)
	}
	failpoint.Hit("engine/forget-after")
	if err != nil {
		w.timeline.note("", "forget", OutcomeFailed, err.Error(), time.Now())
		time.AfterFunc(unsentInterval, w.wake)
		return false
	}
	w.timeline.log.Info("the task is forgotten: its containers are removed and its clean-up wait is over")
	w.gone = true
	w.e.unregister(w)
	return true
}

// deed is the part of an action that may take long. What it returns is applied in the worker.
type deed func(ctx context.Context) (apply func(co *ContainerObserved), err error)

// begin runs an action in a goroutine of its own, with a deadline.
func (w *worker) begin(ctx context.Context, a Action, now time.Time) {
	c := w.task.container(a.Container)
	work, timeout := w.deedOf(a, c)
	r := &running{}
	if a.Verb != VerbLook {
		r.step = w.timeline.begin(a.Container, string(a.Verb), "", now)
	}
	var limited context.Context
	limited, r.cancel = context.WithTimeout(ctx, timeout)
	w.running[a.Container] = r
	co := w.obs.Containers[a.Container]
	if stop := a.Verb == VerbStop || a.Verb == VerbKill; stop && !co.Ordered {
		co.Ordered, co.OrderedAt = true, now
	}
	co.Busy = a.Verb
	w.actions.Go(func() {
		apply, err := work(limited)
		err = w.hidden.error(err)
		if err != nil && limited.Err() == context.DeadlineExceeded && !isDeadline(err) {
			err = fmt.Errorf("%w: %w", err, context.DeadlineExceeded)
		}
		select {
		case w.results <- result{a, err, apply}:
		case <-ctx.Done():
			r.cancel()
		}
	})
}

func (w *worker) deedOf(a Action, c *Container) (deed, time.Duration) {
	cfg := &w.e.cfg
	co := w.obs.Containers[a.Container]
	id := w.idOf(c)
	switch a.Verb {
	case VerbPull:
		return w.pull(c), cfg.PullTimeout
	case VerbFetch:
		return w.fetch(c), fetchTimeout
	case VerbCheck:
		return w.check(c, co.Image), checkTimeout
	case VerbCreate:
		return w.create(c, co.Image), cfg.CreateTimeout
	case VerbStart:
		return w.startUp(id, a.From), cfg.StartTimeout
	case VerbStop:
		return w.shutDown(c, id, a.Grace), a.Grace + cfg.AnswerMargin + stopQueue
	case VerbKill:
		return w.kill(c, id), 4 * cfg.AnswerMargin
	case VerbRemove:
		return w.remove(id), removeTimeout
	case VerbDiscard:
		return w.discard(id), removeTimeout
	case VerbLogs:
		return w.readTail(id), logTimeout
	default:
		return w.inspect(id, co.Ordered, co.Failures[VerbLook].Count > 0), cfg.ListTimeout
	}
}

// idOf is what to call a container by: its id, else its name, which finds what was made before a crash.
func (w *worker) idOf(c *Container) string {
	cr := w.rec.container(c.Name)
	if co := w.obs.of(c.Name); co.exists() {
		return co.State.ID
	}
	if cr.RuntimeID != "" {
		return cr.RuntimeID
	}
	return cr.nameOf(w.task)
}

func (w *worker) pull(c *Container) deed {
	if c.internal() {
		return func(ctx context.Context) (func(*ContainerObserved), error) {
			img, err := w.e.pause.ensure(ctx, w.e.cfg.Runtime)
			return func(co *ContainerObserved) {
				if err == nil {
					co.Image = &img
				}
			}, err
		}
	}
	req := ImageRequest{TaskArn: w.arn, Container: c.Name, Ref: c.Image, Priority: c.index, Auth: c.payload.RegistryAuthentication}
	return func(ctx context.Context) (func(*ContainerObserved), error) {
		began := time.Now()
		var told atomic.Pointer[time.Time] // when progress was last told; nil: nothing was pulled
		req.Progress = func(p Progress) {
			now := time.Now()
			if last := told.Load(); last == nil || now.Sub(*last) >= progressInterval {
				told.Store(&now)
				w.note(func(w *worker) { w.progress(c.Name, p, now.Sub(began)) })
			}
		}
		req.Note = func(text string) {
			at := time.Now()
			w.note(func(w *worker) { w.timeline.note(c.Name, string(VerbPull), OutcomeWarning, text, at) })
		}
		failpoint.Hit("engine/pull-before")
		img, release, err := w.e.cfg.Images.Ensure(ctx, req)
		failpoint.Hit("engine/pull-after")
		ended := time.Now()
		return func(co *ContainerObserved) {
			if told.Load() != nil || err != nil && !errors.Is(err, context.Canceled) {
				if w.obs.PullStartedAt.IsZero() || began.Before(w.obs.PullStartedAt) {
					w.obs.PullStartedAt = began
				}
				w.obs.PullStoppedAt = ended
			}
			if err != nil {
				return
			}
			co.Image = &img
			if release != nil {
				w.releases = append(w.releases, release)
			}
		}, err
	}
}

// progress notes how far a pull has come.
func (w *worker) progress(container string, p Progress, after time.Duration) {
	r := w.running[container]
	if r == nil || r.step == nil || r.step.Name != string(VerbPull) {
		return
	}
	const mib = 1 << 20
	r.step.Detail = fmt.Sprintf("%s: %.1f of %.1f MiB, %d of %d layers", p.Phase, float64(p.Current)/mib, float64(p.Total)/mib, p.Done, p.Layers)
	w.timeline.log.Info("pull goes on", fields(r.step, zap.String("progress", r.step.Detail), zap.Duration("duration", after))...)
}

// check finds out what would keep a container from working, before it is made: foreign listeners on its ports, and host
// paths that its user can't use. Paths that are missing are made, by the volume check where there is one.
func (w *worker) check(c *Container, img *Image) deed {
	t, host, proc, secrets := w.task, w.e.cfg.Host, w.e.cfg.Proc, w.obs.of(c.Name).Secrets
	return func(ctx context.Context) (func(*ContainerObserved), error) {
		binds := bindsOf(t, c)
		var warnings []string
		err := awaitPorts(ctx, proc, c, func(taken string) { w.note(func(w *worker) { w.detail(c.Name, VerbCheck, taken) }) })
		if err == nil && len(binds) > 0 && host.VolumeCheck != "off" {
			warnings, err = w.askVolumes(ctx, c, img, binds)
		}
		if err == nil && len(binds) > 0 {
			var made []string
			made, err = makeSources(ctx, binds)
			warnings = append(warnings, made...)
		}
		if err == nil && c.Volumes {
			err = ensureVolumes(ctx, w.e.cfg.Runtime, t, c, host)
		}
		if err == nil {
			err = placeRouter(t, c, host, secrets)
		}
		return func(co *ContainerObserved) {
			co.Checked = err == nil
			for _, text := range warnings {
				w.timeline.note(c.Name, string(VerbCheck), OutcomeWarning, text, time.Now())
			}
		}, err
	}
}

// askVolumes has the container's user checked against its host volumes. A refusal is an error, or only a warning where
// that is set.
func (w *worker) askVolumes(ctx context.Context, c *Container, img *Image, binds []Mount) (warnings []string, err error) {
	verdict := w.e.cfg.Volumes.Check(ctx, VolumeRequest{ImageID: img.ID, User: userOf(c, img), Mounts: binds,
		CapAdd: c.hostConfig.CapAdd, CapDrop: c.hostConfig.CapDrop, Privileged: c.hostConfig.Privileged,
		ReadonlyRootfs: c.hostConfig.ReadonlyRootfs, UserNS: w.e.observer.info().UserNS, Files: w.e.cfg.Runtime})
	switch {
	case ctx.Err() != nil:
		return verdict.Warnings, fmt.Errorf("the user could not be checked against the host volumes in time: %w", ctx.Err())
	case verdict.Refusal == "":
		return verdict.Warnings, nil
	case w.e.cfg.Host.VolumeCheck == "warn":
		return append(verdict.Warnings, verdict.Refusal), nil
	}
	return verdict.Warnings, errors.New(verdict.Refusal)
}

// makeSources makes host paths that are missing. A path on a network file system whose server is away is not waited for
// longer than ctx lasts.
func makeSources(ctx context.Context, binds []Mount) ([]string, error) {
	type outcome struct {
		warnings []string
		err      error
	}
	made := make(chan outcome, 1)
	go func() {
		var o outcome
		for _, m := range binds {
			var warning string
			if warning, o.err = makeSource(m.Source); o.err != nil {
				break
			}
			if warning != "" {
				o.warnings = append(o.warnings, warning)
			}
		}
		made <- o
	}()
	select {
	case o := <-made:
		return o.warnings, o.err
	case <-ctx.Done():
		return nil, fmt.Errorf("the host paths of the container's volumes could not be looked at in time: %w", ctx.Err())
	}
}

// makeSource makes a path as Docker does: a directory of root's with mode 0755. What is there is left as it is, and what
// can't be looked at is the check's and the engine's to judge.
func makeSource(path string) (warning string, err error) {
	if _, err := os.Stat(path); err == nil || !errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err := os.MkdirAll(path, 0o755); err != nil {
		return "", fmt.Errorf("host path %s does not exist and could not be made: %w", path, err)
	}
	return fmt.Sprintf("host path %s did not exist; it was made as a directory of root's with mode 0755, which other users can't write", path), nil
}

// detail says more about a step that goes on.
func (w *worker) detail(container string, verb Verb, text string) {
	if r := w.running[container]; r != nil && r.step != nil && r.step.Name == string(verb) {
		r.step.Detail = text
	}
}

// awaitPorts fails when a foreign listener keeps one of the container's host ports for longer than a moment. say gets who it
// is while it is waited for.
func awaitPorts(ctx context.Context, proc string, c *Container, say func(taken string)) error {
	until := time.Now().Add(portPatience)
	for said := ""; ; {
		taken := foreign(proc, c)
		if taken == "" {
			return nil
		}
		if taken != said {
			said = taken
			say(taken)
		}
		if time.Now().After(until) {
			return errors.New("CannotStartContainerError: " + taken)
		}
		select {
		case <-time.After(portInterval):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (w *worker) create(c *Container, img *Image) deed {
	t, rec, e := w.task, w.rec, w.e
	granted, secrets, router := w.ports[c.Name], w.obs.of(c.Name).Secrets, w.routerAddress()
	return func(ctx context.Context) (func(*ContainerObserved), error) {
		if granted == nil {
			ports, err := e.ledger.dynamic(t.Arn, c.Ports, e.occupied())
			if err != nil {
				return nil, err
			}
			ranges, err := e.ledger.blocks(t.Arn, c.Ranges, e.occupied())
			if err != nil {
				return nil, err
			}
			granted = slices.Concat(ports, ranges)
		}
		keep := func(*ContainerObserved) { w.ports[c.Name] = granted }
		spec, err := specOf(t, rec, c, img, e.cfg.Host, granted)
		if err != nil {
			return keep, err
		}
		if err := e.denied(ctx, t); err != nil {
			return keep, err
		}
		if err := e.limit(ctx, t, c, &spec); err != nil {
			return keep, err
		}
		withSecrets(&spec, c, secrets)
		if err := route(t, c, e.cfg.Host, router, &spec); err != nil {
			return keep, err
		}
		if err := e.prepare(t, c, &spec); err != nil {
			return keep, err
		}
		if e.cfg.NoLogCopy {
			withoutCopy(&spec, e.observer.info())
		}
		remark := boundLog(&spec, e.observer.info().LogDriver, e.cfg.LogMaxSize, e.cfg.LogMaxFiles)
		failpoint.Hit("engine/create-before")
		id, err := w.make(ctx, spec)
		failpoint.Hit("engine/create-after")
		if err != nil {
			return keep, err
		}
		return func(co *ContainerObserved) {
			keep(co)
			if remark != "" {
				w.timeline.note(c.Name, "log", OutcomeDone, remark, time.Now())
			}
			co.Secrets = nil
			co.State, co.Absent, co.Stale = &State{ID: id, Name: spec.Name, Labels: spec.Labels, Image: spec.Image, ImageID: img.ID, Status: StatusCreated, CreatedAt: time.Now()}, false, false
		}, nil
	}
}

// make has the engine make a container. One that is seen although the engine does not say so is taken.
func (w *worker) make(ctx context.Context, spec Spec) (string, error) {
	next, err := w.e.starting.enter(ctx, false, startTurn)
	if err != nil {
		return "", err
	}
	defer next()
	var id, seen string
	err = watch(ctx, func(ctx context.Context) (err error) { id, err = w.e.cfg.Runtime.Create(ctx, spec); return err }, func(ctx context.Context) bool {
		return w.shows(ctx, spec.Name, func(st *State) bool {
			if st != nil {
				seen = st.ID
			}
			return st != nil
		})
	})
	return cmp.Or(seen, id), err
}

// startUp starts a container, whose process before this one was started at from, and looks at it at once, so that nothing
// waits for an event.
func (w *worker) startUp(id string, from time.Time) deed {
	look, start := w.inspect(id, false, false), w.e.cfg.Runtime.Start
	if r, ok := w.e.cfg.Runtime.(Restarter); ok && !from.IsZero() {
		start = r.Restart
	}
	t, e, rebuilt := w.task, w.e, w.rec.Rebuilt
	return func(ctx context.Context) (func(*ContainerObserved), error) {
		if !rebuilt { // a reboot leaves the container and takes its task's group
			if _, err := e.ensureGroup(ctx, t); err != nil {
				return nil, err
			}
		}
		next, err := e.starting.enter(ctx, true, startTurn) // before what is still to be made: a task begun is finished first
		if err != nil {
			return nil, err
		}
		failpoint.Hit("engine/start-before")
		err = watch(ctx, func(ctx context.Context) error { return start(ctx, id) }, func(ctx context.Context) bool {
			return w.shows(ctx, id, func(st *State) bool { return st != nil && !st.StartedAt.IsZero() && !st.StartedAt.Equal(from) })
		})
		next()
		failpoint.Hit("engine/start-after")
		return w.lookAfter(ctx, look, err)
	}
}

// lookAfter looks at a container that was just started or stopped. What a look can't tell is looked at again.
func (w *worker) lookAfter(ctx context.Context, look deed, err error) (func(*ContainerObserved), error) {
	again := func(co *ContainerObserved) { co.Stale = true }
	if errdefs.IsUnavailable(err) || isDeadline(err) {
		return again, err
	}
	ctx, cancel := context.WithTimeout(ctx, w.e.cfg.ListTimeout)
	defer cancel()
	apply, lookErr := look(ctx)
	if lookErr != nil {
		return again, err
	}
	return apply, err
}

// inspect looks at one container. An end that was not ordered is not believed of an engine that is ending itself: when it is back
// it is looked at again. Containers about which the engine did not answer before (doubted) do not keep others from being looked at.
func (w *worker) inspect(id string, ordered, doubted bool) deed {
	shared, t, e := w.obs.Engine.SharedOOM, w.task, w.e
	lane := e.inspecting
	if doubted {
		lane = e.doubting
	}
	return func(ctx context.Context) (func(*ContainerObserved), error) {
		select {
		case lane <- struct{}{}:
			defer func() { <-lane }()
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		st, err := w.e.cfg.Runtime.Inspect(ctx, id)
		if errdefs.IsNotFound(err) {
			return func(co *ContainerObserved) { co.State, co.Absent, co.Stale = nil, true, false }, nil
		}
		if err != nil {
			return nil, err
		}
		if !ordered && (st.Status == StatusExited || st.Status == StatusDead) {
			if err := reach(ctx, e.cfg.Runtime); err != nil {
				return nil, err
			}
		}
		st.Error = w.hidden.text(st.Error)
		victim := VictimUnknown
		if shared && st.Status == StatusRunning {
			victim = e.victim(t, st.ID)
		}
		seen := st.Status == StatusRunning && e.cfg.Processes.Has(st.ID, st.Pid)
		return func(co *ContainerObserved) {
			co.noteProcess(&st, seen)
			co.State, co.Absent, co.Stale = &st, false, false
			co.Victim = max(co.Victim, victim)
			w.noteState(&st)
		}, nil
	}
}

// noteState tells the ledger which ports the engine chose.
func (w *worker) noteState(st *State) {
	var bindings []NetworkBinding
	for _, b := range st.Ports {
		bindings = append(bindings, NetworkBinding{HostPort: b.Host, Protocol: b.Protocol})
	}
	w.e.ledger.note(w.arn, bindings)
}

func (w *worker) remove(id string) deed {
	t := w.task
	return func(ctx context.Context) (func(*ContainerObserved), error) {
		if err := w.removeOne(ctx, id); err != nil {
			return nil, err
		}
		if err := removeVolumes(ctx, w.e.cfg.Runtime, t); err != nil {
			return nil, err
		}
		return func(co *ContainerObserved) { co.Removed = true }, nil
	}
}

// discard removes a container to make room for the next attempt at it.
func (w *worker) discard(id string) deed {
	return func(ctx context.Context) (func(*ContainerObserved), error) {
		if err := w.removeOne(ctx, id); err != nil {
			return nil, err
		}
		return func(co *ContainerObserved) { co.State, co.Absent, co.Stale = nil, true, false }, nil
	}
}

// removeOne removes a container. They go one at a time: tasks that ended together do not keep the engine from its other work.
func (w *worker) removeOne(ctx context.Context, id string) error {
	next, err := w.e.removing.enter(ctx, false, removeTurn)
	if err != nil {
		return err
	}
	defer next()
	failpoint.Hit("engine/remove-before")
	defer failpoint.Hit("engine/remove-after")
	return watch(ctx, func(ctx context.Context) error { return w.e.cfg.Runtime.Remove(ctx, id) }, func(ctx context.Context) bool {
		return w.shows(ctx, id, func(st *State) bool { return st == nil })
	})
}
