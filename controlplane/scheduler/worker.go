package scheduler

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"
	"github.com/google/uuid"
	"go.uber.org/zap"

	"github.com/longshore-project/longshore/controlplane/scheduler/placement"
	"github.com/longshore-project/longshore/controlplane/store"
	"github.com/longshore-project/longshore/internal/failpoint"
	"github.com/longshore-project/longshore/internal/remedy"
)

const (
	// mostStarts and mostStops bound what one transaction does: a start is three operations, and there are at most 128.
	mostStarts, mostStops, mostMoves, mostPrepares = 24, 24, 8, 6
	// mostAwsvpcStarts is mostStarts of tasks that claim addresses: two operations more for each.
	mostAwsvpcStarts = 12
	// silence is how long an event is not repeated.
	silence = 6 * time.Hour
	// retryAfter is the time to the next look when the store refused or a service can't be decided on.
	retryAfter = 2 * time.Second
	// idleFor is how many times its own duration a look that found nothing to do is not repeated.
	idleFor = 4
	// commitTimeout bounds a transaction.
	commitTimeout = 30 * time.Second
)

// A worker schedules the services of one cluster while it leads. It is one goroutine.
type worker struct {
	s       *Scheduler
	cfg     *Config
	cluster string
	lead    *store.Leadership
	log     *zap.Logger
	marks   *marks

	hosts    map[string]*placement.Host // registered ones, by id; rebuilt when marked
	dirty    map[string]bool            // services to look at
	wakes    map[string]time.Time       // when to look at a service again
	waits    map[string]map[string]bool // by service: instances on which changes matter to it
	networks map[string]bool            // services to which an address that comes free matters
	gone     map[string]time.Time       // instances without a connection, by when this worker saw that
	doomed   map[string]bool            // INACTIVE instances that may have tasks left
	drains   map[string]bool            // DRAINING instances
	zones    map[string]int             // how many hosts are in each availability zone
	seen     map[string]int64           // by service: revision up to which ends of its tasks were looked at
	problems map[string]string          // by service: what was logged about it
	batch    int                        // starts in a transaction; smaller after conflicts
	rests    map[string]*rests          // by DAEMON service
	replicas map[string]*rests          // by REPLICA service
	lostNext time.Time                  // when the first of those gone may have to be given up; zero: none
	pace     map[string]time.Time       // by service: before when it is not looked at again
}

func newWorker(s *Scheduler, cluster string, lead *store.Leadership, log *zap.Logger) *worker {
	return &worker{
		s: s, cfg: &s.cfg, cluster: cluster, lead: lead, log: log, marks: s.marksOf(cluster),
		hosts: map[string]*placement.Host{}, dirty: map[string]bool{}, wakes: map[string]time.Time{}, waits: map[string]map[string]bool{}, networks: map[string]bool{},
		zones: map[string]int{}, seen: map[string]int64{}, gone: map[string]time.Time{}, doomed: map[string]bool{}, drains: map[string]bool{}, problems: map[string]string{}, batch: mostStarts,
		rests: map[string]*rests{}, replicas: map[string]*rests{}, pace: map[string]time.Time{},
	}
}

// run works until the leadership or ctx ends.
func (w *worker) run(ctx context.Context) {
	w.begin()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-w.lead.Done():
			w.log.Warn("the leadership of the cluster's scheduling was lost")
			return
		case <-w.marks.kick:
		case <-timer.C:
		}
		begun := time.Now()
		next := w.turn(ctx)
		if w.cfg.Passed != nil {
			w.cfg.Passed(time.Since(begun))
		}
		if !next.IsZero() {
			timer.Reset(max(next.Sub(w.cfg.Now()), 0))
		} else {
			timer.Stop()
		}
	}
}

// begin marks everything.
func (w *worker) begin() {
	w.s.cfg.Store.Peek(func(v *store.View) {
		for i := range v.Instances(w.cluster) {
			w.marks.add(true, "", i.ID)
		}
		for s := range v.Services(w.cluster) {
			w.marks.add(true, *s.Object.ServiceName, "")
		}
	})
}

// turn looks at what is marked or due, and says when something is due next; zero: nothing is.
func (w *worker) turn(ctx context.Context) (next time.Time) {
	marked := w.marks.take()
	w.read(marked)
	if now := w.cfg.Now(); !w.lostNext.IsZero() && !w.lostNext.After(now) {
		w.lostNext = time.Time{}
		for _, id := range slices.Sorted(maps.Keys(w.gone)) {
			w.lostNext = sooner(w.lostNext, w.giveUp(ctx, id))
		}
	}
	next = w.lostNext
	for _, id := range slices.Sorted(maps.Keys(w.doomed)) {
		next = sooner(next, w.bury(ctx, id))
	}
	now := w.cfg.Now()
	for name, at := range w.wakes {
		if !at.After(now) {
			w.dirty[name] = true
		}
	}
	for _, name := range slices.Sorted(maps.Keys(w.dirty)) {
		if ctx.Err() != nil {
			return next
		}
		if at := w.pace[name]; at.After(now) {
			next = sooner(next, at)
			continue
		}
		w.look(ctx, name)
	}
	for name, at := range w.wakes {
		if pace := w.pace[name]; pace.After(at) {
			at = pace
		}
		next = sooner(next, at)
	}
	return sooner(next, w.drainAll(ctx))
}

func sooner(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// read brings the hosts up to date and finds the services that the marks concern.
func (w *worker) read(marked taken) {
	for id := range marked.drained {
		if w.drains[id] {
			marked.instances[id] = true
		}
	}
	w.s.cfg.Store.Peek(func(v *store.View) {
		for id := range marked.instances {
			w.readHost(v, id)
		}
		if marked.all {
			for s := range v.Services(w.cluster) {
				w.dirty[*s.Object.ServiceName] = true
			}
		}
	})
	for name := range marked.services {
		w.dirty[name] = true
	}
	if marked.network {
		maps.Copy(w.dirty, w.networks)
	}
	for name, waits := range w.waits {
		for id := range marked.instances {
			if waits[id] {
				w.dirty[name] = true
			}
		}
	}
}

func (w *worker) readHost(v *store.View, id string) {
	h := placement.HostForDaemons(v, w.cluster, id)
	w.rouse(id, w.hosts[id], h)
	delete(w.drains, id)
	w.forget(id)
	if h == nil || aws.ToString(h.Instance.Object.Status) == inactive {
		delete(w.hosts, id)
		delete(w.gone, id)
		delete(w.doomed, id)
		if h != nil && len(h.Tasks) > 0 {
			w.doomed[id] = true
		}
		return
	}
	w.hosts[id] = h
	if aws.ToString(h.Instance.Object.Status) == draining {
		w.drains[id] = true
	}
	w.zones[zone(h)]++
	if h.Connected {
		delete(w.gone, id)
	} else if w.gone[id].IsZero() {
		w.gone[id] = w.cfg.Now()
		w.lostNext = sooner(w.lostNext, w.gone[id].Add(w.cfg.InstanceLostAfter))
	}
}

// look decides about one service and applies that.
func (w *worker) look(ctx context.Context, name string) {
	delete(w.dirty, name)
	delete(w.wakes, name)
	delete(w.waits, name)
	delete(w.networks, name)
	begun := w.cfg.Now()
	var s *snapshot
	var p *plan
	w.s.cfg.Store.Peek(func(v *store.View) {
		for more := 0; ; {
			if s = w.snapshot(v, name); s == nil {
				return
			}
			if p = reconcile(*s, w.cfg); !p.all && p.more == 0 {
				return
			}
			more = max(2*more, p.more)
			if p.all || !w.rests[name].choose(more) {
				delete(w.rests, name)
				delete(w.replicas, name)
			}
		}
	})
	if s == nil {
		delete(w.problems, name)
		delete(w.seen, name)
		delete(w.rests, name)
		delete(w.replicas, name)
		delete(w.pace, name)
		return
	}
	if w.cfg.decided != nil {
		w.cfg.decided(s, p)
	}
	if !p.wake.IsZero() {
		w.wakes[name] = p.wake
	}
	w.waits[name] = p.waits
	if p.network {
		w.networks[name] = true
	}
	if p.problem == nil {
		delete(w.problems, name)
	} else if text := p.problem.Error(); w.problems[name] != text {
		w.problems[name] = text
		w.log.Error("a service can't be scheduled as it is; update or delete it", zap.String("service", name), zap.Error(p.problem))
	}
	r := cmp.Or(w.rests[name], w.replicas[name])
	for _, st := range p.starts {
		r.rouse(st.task.Instance)
	}
	if !p.empty() {
		if err := w.apply(ctx, s, p); err != nil {
			w.retry(ctx, name, p, err)
			return
		}
	}
	w.seen[name] = s.revision
	if r != nil {
		r.settle(p.rests)
	}
	if p.empty() { // one that was for nothing and took long is not repeated at once
		w.pace[name] = w.cfg.Now().Add(idleFor * w.cfg.Now().Sub(begun))
	} else {
		delete(w.pace, name)
	}
}

// retry has a service looked at again after its decision could not be applied.
func (w *worker) retry(ctx context.Context, name string, p *plan, err error) {
	after := retryAfter
	switch {
	case errors.Is(err, store.ErrConflict):
		// Somebody was faster: what was decided on is read again. The change marks it too, perhaps a moment later.
		after = 10 * time.Millisecond
		w.batch = max(w.batch/2, 1)
		w.log.Debug("decided on an old state; deciding again", zap.String("service", name), zap.Error(err))
	case ctx.Err() != nil:
		return
	default:
		w.log.Warn("a decision about a service could not be stored; trying again", zap.String("service", name), zap.Duration("after", after), zap.Error(err))
	}
	for _, st := range p.starts {
		w.marks.add(false, "", st.task.Instance)
	}
	w.wakes[name] = sooner(w.wakes[name], w.cfg.Now().Add(after))
}

// snapshot is nil when there is nothing to decide about. It is for use while v is.
func (w *worker) snapshot(v *store.View, name string) *snapshot {
	svc := v.Service(w.cluster, name)
	if svc == nil || aws.ToString(svc.Object.Status) == inactive {
		return nil
	}
	s := &snapshot{
		service: svc, definitions: map[string]*store.TaskDefinition{}, now: w.cfg.Now(),
		daemon: func(name string) bool {
			other := v.Service(w.cluster, name)
			return other != nil && other.Object.SchedulingStrategy == types.SchedulingStrategyDaemon
		},
		away: func(id string) time.Time { return w.gone[id] },
		said: func(message string) bool {
			for e := range v.Events(w.cluster, name) {
				if w.cfg.Now().Sub(aws.ToTime(e.Object.CreatedAt)) >= silence || aws.ToTime(e.Object.CreatedAt).Before(aws.ToTime(svc.Object.CreatedAt)) {
					return false
				}
				if strings.HasPrefix(aws.ToString(e.Object.Message), message) {
					return true
				}
			}
			return false
		},
	}
	for _, d := range svc.Object.Deployments {
		arn := aws.ToString(d.TaskDefinition)
		if def := placement.Definition(v, arn); def != nil {
			s.definitions[arn] = def
		}
	}
	ended := slices.Collect(v.EndedOf(w.cluster, name, w.seen[name]))
	s.revision = v.Revision()
	s.preparations = map[string]*store.Preparation{}
	w.forReplicas(v, s)
	deleted := aws.ToString(svc.Object.Status) == draining
	if svc.Object.SchedulingStrategy == types.SchedulingStrategyDaemon && !deleted {
		w.places(v, s, ended)
		w.looked(len(s.hosts))
		return s
	}
	s.preparations = preparationsOf(v, w.cluster, name)
	if !deleted {
		w.replicasOf(v, s, ended)
		w.looked(len(s.tasks))
		return s
	}
	delete(w.rests, name)
	delete(w.replicas, name)
	s.tasks = append(slices.Collect(v.LiveOf(w.cluster, name)), ended...)
	for _, id := range slices.Sorted(maps.Keys(w.hosts)) {
		s.hosts = append(s.hosts, w.hosts[id])
	}
	return s
}

// tellOf are the events of a part of a decision.
func (w *worker) tellOf(job work, stops []*store.Task, starts []start) []string {
	events, name := slices.Clone(job.events), aws.ToString(job.service.Object.ServiceName)
	if len(stops) > 0 {
		events = append(events, fmt.Sprintf("(service %s) has stopped %d running tasks: %s.", name, len(stops), list(stops)))
	}
	if len(starts) > 0 {
		started := make([]*store.Task, len(starts))
		for i, st := range starts {
			started[i] = st.task
		}
		events = append(events, fmt.Sprintf("(service %s) has started %d tasks: %s.", name, len(starts), list(started)))
	}
	return events
}

func (w *worker) commit(ctx context.Context, txn *store.Txn) error {
	ctx, cancel := context.WithTimeout(ctx, commitTimeout)
	defer cancel()
	failpoint.Hit("scheduler/before-commit")
	defer failpoint.Hit("scheduler/after-commit")
	return txn.Commit(ctx)
}

// event is one line of a service's history, the i-th of its transaction.
func (w *worker) event(service, message string, i int) *store.ServiceEvent {
	at := w.cfg.Now().UTC().Truncate(time.Millisecond).Add(time.Duration(i) * time.Millisecond)
	return &store.ServiceEvent{Cluster: w.cluster, Service: service, Object: types.ServiceEvent{
		Id: aws.String(uuid.NewString()), CreatedAt: aws.Time(at), Message: aws.String(message),
	}}
}

// tell logs what was decided, and marks the hosts whose tasks changed: the store's own word may come a moment later.
func (w *worker) tell(service *store.Service, stops []*store.Task, starts []start, events []string) {
	log := w.log.With(zap.String("service", aws.ToString(service.Object.ServiceName)))
	for _, t := range stops {
		log.Info("stopping a task", zap.String("task", aws.ToString(t.Object.TaskArn)), zap.String("instance", t.Instance), zap.String("reason", aws.ToString(t.Object.StoppedReason)))
		w.marks.add(false, "", t.Instance)
	}
	for _, st := range starts {
		log.Info("placed a task", zap.String("task", aws.ToString(st.task.Object.TaskArn)), zap.String("instance", st.task.Instance), zap.String("deployment", st.task.Deployment))
		w.marks.add(false, "", st.task.Instance)
	}
	for _, message := range events {
		if strings.Contains(message, placement.Unplaced) {
			log.Error("a service's task can't be placed", zap.String("serviceArn", aws.ToString(service.Object.ServiceArn)), zap.String("step", "place"),
				zap.String("error", message), zap.String("remedy", remedy.Of(message).Do))
			continue
		}
		log.Info("service event", zap.String("message", message))
	}
	w.s.cfg.Store.Peek(func(v *store.View) {
		for _, st := range starts {
			w.readHost(v, st.task.Instance)
		}
	})
}

// list names tasks as ECS's events do.
func list(tasks []*store.Task) string {
	var names []string
	for _, t := range tasks {
		names = append(names, "(task "+t.ID+")")
	}
	return strings.Join(names, " ")
}
