// Package depart is how a host leaves in order: it shuts down or reboots, or the machine is about to be taken away.
//
//	tell the control plane (DRAINING) → stop the replicas and standalone tasks → when each of them is truly STOPPED: the daemons
//
// Whoever learns that the host is leaving calls [Departure.Depart] with a [Notice], as often as it likes and from wherever it
// likes: systemd-logind says that the host shuts down, a unit's ExecStop that it does so without logind, the instance metadata that
// a spot instance is taken. What to do follows from what is there and from the time alone ([Decide], which is pure and level-triggered), so
// that two notices, or an agent that was started again in between, do no harm.
//
// # Order and limit
//
// The order gives way to the limit, and to nothing else: a daemon is asked to stop while another task still has processes only when no
// more than the daemons' own stop timeouts are left. A control plane that is away changes nothing but that it hears of it later.
//
// At a shutdown somebody waits, and everything is asked to stop at once. Before a machine is taken away there is time that nobody
// wants back: while the control plane is connected, it has until the last moment to start replacements and to stop the tasks itself.
//
// # Who is a daemon
//
// Longshore's control plane says so with each task (acs.Task.SchedulingStrategy). Amazon's does not say it to any agent: there every
// task is stopped as a replica, and only its own draining keeps the order while it has the time.
//
// # What comes back
//
// A daemon that a shutdown stops is not over: it is parked, which means that its record goes on saying that it runs, as after a power cut,
// and the next boot starts it again without asking anybody. A host that made itself DRAINING makes itself ACTIVE again; one that an
// operator drained stays as the operator wanted it.
package depart

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"go.uber.org/zap"
)

// Kind is why a host leaves.
type Kind string

// The kinds of notice.
const (
	Shutdown     Kind = "shutdown"     // it shuts down or reboots, and is expected back
	Interruption Kind = "interruption" // the machine is taken away at the deadline
	Rebalance    Kind = "rebalance"    // it may be taken away: it gets no new tasks, and nothing is stopped here
)

// Notice says that this host leaves.
type Notice struct {
	Kind     Kind
	Deadline time.Time // by when everything must have stopped; none for a Rebalance
	Why      string    // for people: "the host shuts down"
}

// Task is a task of this host, as far as a departure cares.
type Task struct {
	Arn      string
	Daemon   bool          // of a DAEMON service
	Resumes  bool          // the next boot starts it again
	Stopping bool          // it was asked to stop
	Stopped  bool          // none of its processes is left
	Grace    time.Duration // how long stopping it may take
}

// Order asks for a task to be stopped.
type Order struct {
	Arn  string
	Park bool // until the next boot; otherwise it is over
}

// Step is what a [Decide] found.
type Step struct {
	Orders []Order
	Again  time.Time // when to decide again at the latest, whatever happens; zero: only when something has changed
	Done   bool      // nothing is left to be done
}

// slack is added to what stopping takes: the order, the look that sees the end.
const slack = 3 * time.Second

// Decide says what is to be stopped now.
func Decide(tasks []Task, n Notice, connected bool, now time.Time) Step {
	var others, daemons []Task
	for _, t := range tasks {
		switch {
		case t.Stopped:
		case t.Daemon:
			daemons = append(daemons, t)
		default:
			others = append(others, t)
		}
	}
	if n.Kind == Rebalance || len(others)+len(daemons) == 0 {
		return Step{Done: true}
	}
	lastForDaemons := n.Deadline.Add(-need(daemons))
	lastForOthers := lastForDaemons.Add(-need(others))
	patient := n.Kind == Interruption && connected
	var s Step
	switch {
	case len(others) > 0 && patient && now.Before(lastForOthers):
		s.Again = lastForOthers
	default:
		s.order(n, others)
		s.Again = lastForDaemons
	}
	if len(others) == 0 || !now.Before(lastForDaemons) {
		s.order(n, daemons)
		s.Again = time.Time{}
	}
	return s
}

// order asks for those tasks that were not asked yet.
func (s *Step) order(n Notice, tasks []Task) {
	for _, t := range tasks {
		if !t.Stopping {
			s.Orders = append(s.Orders, Order{Arn: t.Arn, Park: n.Kind == Shutdown && t.Daemon && t.Resumes})
		}
	}
}

// need is how long stopping these side by side may take.
func need(tasks []Task) time.Duration {
	var most time.Duration
	for _, t := range tasks {
		most = max(most, t.Grace+slack)
	}
	return most
}

// Config is what a [Departure] works on.
type Config struct {
	Log   *zap.Logger
	Tasks func() []Task
	// Stop makes a task stop for good, Park until the next boot. Repeating them changes nothing.
	Stop func(ctx context.Context, arn string) error
	Park func(arn string)
	// Tell makes this host DRAINING.
	Tell      func(ctx context.Context, n Notice) error
	Connected func() bool // to the control plane
	Sent      func() bool // nothing is left to be reported
	Look      time.Duration
}

// The parts of the time that waiting for the control plane may take, at the beginning and at the end.
const (
	tellAtMost = 5 * time.Second
	tellAgain  = 2 * time.Second
	sendAtMost = 5 * time.Second
)

// Departure is that of one host. Its methods may be called concurrently.
type Departure struct {
	cfg Config

	mu     sync.Mutex
	told   bool
	leaves *Notice // the latest; nil while the host stays
}

// New makes the departure of a host that stays for now.
func New(cfg Config) *Departure {
	if cfg.Look == 0 {
		cfg.Look = 250 * time.Millisecond
	}
	return &Departure{cfg: cfg}
}

// Leaves is the notice by which this host leaves, nil while it stays.
func (d *Departure) Leaves() *Notice {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.leaves
}

// Depart makes this host ready to be gone: it returns nil when no task has processes any more, and the control plane has been told as far
// as it could be. The error says what is left at the deadline, or that ctx has ended; the departure then goes on with the next call.
func (d *Departure) Depart(ctx context.Context, n Notice) error {
	d.mu.Lock()
	first := d.leaves == nil || d.leaves.Kind != n.Kind
	if !first && d.leaves.Deadline.Before(n.Deadline) {
		n.Deadline = d.leaves.Deadline // told twice, it is the same departure
	}
	d.leaves = &n
	d.mu.Unlock()
	if first {
		d.cfg.Log.Warn("This host leaves: tasks are stopped, the daemons last", zap.String("kind", string(n.Kind)), zap.String("why", n.Why), zap.Time("deadline", n.Deadline))
	}
	begun := time.Now()
	telling, stop := context.WithCancel(ctx)
	var work sync.WaitGroup
	tried := make(chan struct{})
	work.Go(func() { d.tell(telling, n, tried) })
	defer work.Wait()
	defer stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-tried:
	}
	if err := d.stopAll(ctx, n); err != nil {
		return err
	}
	if n.Kind == Rebalance {
		return d.untilTold(ctx)
	}
	d.send(ctx, n)
	d.cfg.Log.Info("This host is ready to be gone: no task has a process any more", zap.String("kind", string(n.Kind)), zap.Duration("duration", time.Since(begun)))
	return nil
}

// Stay takes a departure back: the host stays after all. What was stopped stays stopped.
func (d *Departure) Stay() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.leaves, d.told = nil, false
}

// tell makes this host DRAINING, again and again until that is done or ctx ends. tried is closed after the first attempt, and at once while
// the control plane is away.
func (d *Departure) tell(ctx context.Context, n Notice, tried chan struct{}) {
	release := sync.OnceFunc(func() { close(tried) })
	defer release()
	if !d.cfg.Connected() {
		release()
	}
	for said := false; !d.knows(); said = true {
		once, cancel := context.WithTimeout(ctx, tellAtMost)
		err := d.cfg.Tell(once, n)
		cancel()
		if err == nil {
			d.mu.Lock()
			d.told = true
			d.mu.Unlock()
			return
		}
		if !said {
			d.cfg.Log.Warn("The control plane could not be told that this host leaves; it leaves without, and tries again", zap.Error(err))
		}
		release()
		if d.pause(ctx, tellAgain) != nil {
			return
		}
	}
}

// knows says whether the control plane was told.
func (d *Departure) knows() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.told
}

// untilTold waits until the control plane knows.
func (d *Departure) untilTold(ctx context.Context) error {
	for !d.knows() {
		if err := d.pause(ctx, d.cfg.Look); err != nil {
			return err
		}
	}
	return nil
}

// stopAll stops the tasks in their order.
func (d *Departure) stopAll(ctx context.Context, n Notice) error {
	for {
		now := time.Now()
		s := Decide(d.cfg.Tasks(), n, d.cfg.Connected(), now)
		for _, o := range s.Orders {
			d.cfg.Log.Info("Stopping a task, as this host leaves", zap.String("task", o.Arn), zap.Bool("parked", o.Park), zap.String("step", "depart"))
			if o.Park {
				d.cfg.Park(o.Arn)
			} else if err := d.cfg.Stop(ctx, o.Arn); err != nil {
				d.cfg.Log.Error("A task could not be asked to stop; it is tried again", zap.String("task", o.Arn), zap.String("step", "depart"), zap.Error(err))
			}
		}
		if s.Done {
			return nil
		}
		if !n.Deadline.IsZero() && !now.Before(n.Deadline) {
			return d.late(n)
		}
		if err := d.pause(ctx, d.cfg.Look); err != nil {
			return err
		}
	}
}

// late names what has not stopped in time.
func (d *Departure) late(n Notice) error {
	var left []error
	for _, t := range d.cfg.Tasks() {
		if !t.Stopped {
			left = append(left, errors.New(t.Arn))
		}
	}
	return fmt.Errorf("the time to leave in order ended at %s, and %d tasks still have processes: %w", n.Deadline.Format(time.TimeOnly), len(left), errors.Join(left...))
}

// send waits a moment for what the control plane is to be told still.
func (d *Departure) send(ctx context.Context, n Notice) {
	end := time.Now().Add(sendAtMost)
	if !n.Deadline.IsZero() && n.Deadline.Before(end) {
		end = n.Deadline
	}
	for (!d.cfg.Sent() || !d.knows()) && time.Now().Before(end) && d.cfg.Connected() {
		if d.pause(ctx, d.cfg.Look) != nil {
			return
		}
	}
}

func (d *Departure) pause(ctx context.Context, wait time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(wait):
		return nil
	}
}
