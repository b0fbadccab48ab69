// Package scheduler is the service scheduler: it keeps the tasks of every service as the service wants them, of a DAEMON
// service one on each container instance that belongs to it, of a REPLICA service desiredCount wherever placement puts
// them, and gives up instances that are lost.
//
// # Model
//
// [Scheduler] is a dumb loop around a pure function. For each cluster one worker in all replicas leads; changes of the
// store only mark what to look at again, and reconcile decides from a snapshot what to stop, what to start, how the
// service's record changes, what to tell, and when to look again though nothing changes. A decision is applied in
// transactions that compare the leadership, the service's revision and the revision of each allocation that they touch;
// whatever was decided on an old state is refused by the store and decided again. A second look changes nothing.
//
// # Where a daemon belongs
//
// On each ACTIVE instance that satisfies the memberOf constraints of service and definition and has the attributes that
// the definition requires. desiredCount is their number, plus that of DRAINING instances whose daemon still has to run.
//
//	instance joins, becomes ACTIVE, matches      a task is started as soon as its agent is connected
//	constraint no longer holds                   the task is stopped, with an event
//	a required attribute goes away               the task stays; a new one is not started there
//	agent not connected                          all stays as it was, whatever the constraints say
//	DRAINING                                     a PENDING daemon stops at once, a RUNNING one when every task there that is not
//	                                             a daemon is STOPPED; nothing is started
//	no connection for InstanceLostAfter          the instance becomes INACTIVE, its tasks STOPPED with the host named
//	task fails or is UNHEALTHY                   it is replaced after a delay that doubles with each failure in a row on that
//	                                             instance; a new deployment, or RestartReset of running, ends the row
//	no room                                      nothing is stopped for it; an event says why, and a change there is looked at
//
// # Roll-out
//
// The first deployment of a service goes to all its instances at once: there is nothing to protect. An update replaces
// tasks in waves of 1, 2, 4 … instances, those without a healthy task first. On an instance that no wave has reached the
// deployment before (the newest that was COMPLETED) is kept up, also on one that joins meanwhile. Old task STOPPED, new
// task started, never two; an old task is not stopped where the new one would find no room. minimumHealthyPercent bounds
// how many healthy tasks may be missing.
//
// A wave is done when each of its tasks has been healthy (RUNNING, and HEALTHY if its definition has checks) for
// RolloutWait. One failing task holds the roll-out, with an event, until it becomes healthy or the service is updated, or until
// it is known that its instance is broken: it failed three times in a row there, and either three others run the new deployment
// healthily, and it is the only one of the kind or one of ten such, or the deployment before fails there too, which gets a try
// for that. Where that runs, a service that is tagged for it is tried on one more instance. An instance whose agent is away, that has no room, or whose old task takes longer than RolloutPatience to stop is set aside: it is
// delayed, the others go on. One that takes that long to make the new task healthy is set aside only when another instance
// has shown that the new deployment can be healthy; until then that too holds the roll-out.
//
// With RolloutParallel all instances are one wave, as on ECS.
//
// # Replicas
//
// A REPLICA service has desiredCount keepers: wanted tasks of its PRIMARY deployment that don't fail their health checks
// and are not on a DRAINING instance. Tasks that are STOPPING don't count. In one pass, in this order:
//
//	PENDING on a DRAINING instance   stops at once
//	keepers beyond desiredCount      stop: first those not RUNNING, then as the mirror of placement
//	old tasks, during an update      unhealthy and PENDING ones stop first, then healthy ones while at least
//	                                 desiredCount × minimumHealthyPercent, rounded up, stay healthy
//	                                 (of one tagged longshore:prepare-images not before the images are where new tasks may land)
//	unhealthy or drained, otherwise  stop when healthy ones make up desiredCount without them
//	keepers below desiredCount       are started, up to desiredCount × maximumPercent, rounded down, of wanted tasks
//	no room for a replacement        unhealthy ones stop one at a time, drained ones as minimumHealthyPercent leaves
//	availability zones two apart     one task is started in the light zone; when it is healthy one in the heavy zone is surplus
//
// A task's health is that of its containers; there are no load balancers, and so no targets' health (the API refuses them).
// Without health checks a task counts as healthy HealthyAfter after it became RUNNING. An instance on which tasks failed is
// picked last, and not at all for a delay that doubles; when tasks fail wherever they are started, the service as a whole is
// retried with such a delay. Tasks that were started together are one round of it.
//
// Service deployments and revisions, the history of what ran, are written in the transaction that changes the service.
package scheduler

import (
	"cmp"
	"context"
	"errors"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/longshore-project/longshore/controlplane/network"
	"github.com/longshore-project/longshore/controlplane/scheduler/placement"
	"github.com/longshore-project/longshore/controlplane/store"
)

// Config configures [New]. Of each interval the zero value is its default.
type Config struct {
	Store *store.Store
	// Session keeps the leaderships. When it is nil or was lost the scheduler opens one of its own.
	Session *store.Session
	Log     *zap.Logger
	// Network has the subnets and security groups; nil: there are none.
	Network *network.Network
	// Now is the clock. Default time.Now.
	Now func() time.Time

	// InstanceLostAfter is how long an instance may be without a connection before it is given up. It is counted from when
	// this process saw it disconnected, never while the control plane itself was away. Default 15 m.
	InstanceLostAfter time.Duration
	// RolloutWait is how long each wave has to be healthy before the next. Default 10 s.
	RolloutWait time.Duration
	// RolloutPatience is how long a wave waits for a slow instance. Default 2 m.
	RolloutPatience time.Duration
	// RolloutParallel replaces on all instances at once, within minimumHealthyPercent, and never holds.
	RolloutParallel bool
	// RestartDelay is the time from a first failure to the next start; it doubles with each failure in a row up to
	// RestartDelayMax. Defaults 1 s and 5 m.
	RestartDelay, RestartDelayMax time.Duration
	// RestartReset is how long a task must have run to end a row of failures. Default 1 m.
	RestartReset time.Duration
	// HealthyAfter is how long a task of a REPLICA service that has no health checks must have been RUNNING to count towards
	// minimumHealthyPercent. Default 40 s, as ECS's.
	HealthyAfter time.Duration
	// AgentGrace is how long an agent may be away, as after a restart of the control plane, before a roll-out goes on
	// without its instance and an event tells that no task could be placed there. Default 30 s.
	AgentGrace time.Duration
	// PrepareWait is how long the old daemon of an instance runs on because its agent has not said whether the images of the
	// new one are there. Default 10 m; negative: not at all.
	PrepareWait time.Duration
	// SessionTTL is the lifetime of the scheduler's own session. Default 10 s.
	SessionTTL time.Duration

	// Waits says what a task that is not where it is to be waits for on its instance, as the agent told; nothing if that is
	// not known. c is the agent's connection, nil for none. Explanations repeat it. Default: nothing is known.
	Waits func(c *store.Connection, t *store.Task) []string
	// Passed is told how long each pass over a cluster's changes took; it must return at once. May be nil.
	Passed func(took time.Duration)

	looked  func(records int)          // is told how many records each look had to do with: hosts of a DAEMON service, tasks of a REPLICA service, hosts that were put in line for it; nil: nobody is
	decided func(s *snapshot, p *plan) // is told each decision, before it is written; nil: nobody is
}

func (c Config) withDefaults() Config {
	c.InstanceLostAfter = cmp.Or(c.InstanceLostAfter, 15*time.Minute)
	c.RolloutWait = cmp.Or(c.RolloutWait, 10*time.Second)
	c.RolloutPatience = cmp.Or(c.RolloutPatience, 2*time.Minute)
	c.RestartDelay = cmp.Or(c.RestartDelay, time.Second)
	c.RestartDelayMax = cmp.Or(c.RestartDelayMax, 5*time.Minute)
	c.RestartReset = cmp.Or(c.RestartReset, time.Minute)
	c.HealthyAfter = cmp.Or(c.HealthyAfter, 40*time.Second)
	c.AgentGrace = cmp.Or(c.AgentGrace, 30*time.Second)
	c.SessionTTL = cmp.Or(c.SessionTTL, 10*time.Second)
	c.PrepareWait = cmp.Or(c.PrepareWait, 10*time.Minute)
	if c.Waits == nil {
		c.Waits = func(*store.Connection, *store.Task) []string { return nil }
	}
	if c.Now == nil {
		c.Now = func() time.Time { return time.Now().UTC().Truncate(time.Millisecond) } // as it is stored
	}
	if c.Log == nil {
		c.Log = zap.NewNop()
	}
	return c
}

// Scheduler is the service scheduler of one replica.
type Scheduler struct {
	cfg   Config
	rooms *placement.Rooms // of its workers, each of which is alone in its cluster

	mu       sync.Mutex
	marks    map[string]*marks // by cluster
	fresh    chan struct{}     // a cluster was added to marks
	session  *store.Session
	sessions []*store.Session // own ones, to be closed
}

// New returns a scheduler. [Scheduler.Run] makes it work.
func New(cfg Config) *Scheduler {
	return &Scheduler{cfg: cfg.withDefaults(), rooms: placement.NewRooms(cfg.Store, cfg.Network), marks: map[string]*marks{}, fresh: make(chan struct{}, 1), session: cfg.Session}
}

// Run schedules until ctx ends, and returns nil then. It may run in any number of replicas; for each cluster one leads.
func (s *Scheduler) Run(ctx context.Context) error {
	cancel := s.cfg.Store.OnChange(func(_ int64, changes []store.Change) { s.note(changes) })
	defer cancel()
	s.cfg.Network.OnReload(func() { s.everywhere(func(m *marks) { m.add(true, "", "") }) })
	s.cfg.Store.Peek(func(v *store.View) {
		for c := range v.Clusters() {
			s.marksOf(*c.Object.ClusterName)
		}
	})
	var wg sync.WaitGroup
	defer s.closeSessions()
	defer wg.Wait()
	started := map[string]bool{}
	for {
		for _, cluster := range s.clusters() {
			if !started[cluster] {
				started[cluster] = true
				wg.Go(func() { s.work(ctx, cluster) })
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-s.fresh:
		}
	}
}

// work leads the cluster whenever it can.
func (s *Scheduler) work(ctx context.Context, cluster string) {
	log := s.cfg.Log.With(zap.String("cluster", cluster))
	for ctx.Err() == nil {
		lead, err := s.lead(ctx, cluster)
		if err != nil {
			if ctx.Err() == nil {
				log.Warn("become the scheduler of the cluster; its services wait", zap.Error(err))
				pause(ctx, time.Second)
			}
			continue
		}
		log.Debug("scheduling the services of the cluster")
		newWorker(s, cluster, lead, log).run(ctx)
	}
}

func (s *Scheduler) lead(ctx context.Context, cluster string) (*store.Leadership, error) {
	session, err := s.liveSession(ctx)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		select {
		case <-session.Done():
			cancel(errors.New("the session in the store was lost"))
		case <-ctx.Done():
		}
	}()
	return s.cfg.Store.Lead(ctx, session, "scheduler-"+cluster)
}

func (s *Scheduler) liveSession(ctx context.Context) (*store.Session, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.session != nil {
		select {
		case <-s.session.Done():
		default:
			return s.session, nil
		}
	}
	session, err := s.cfg.Store.Session(ctx, s.cfg.SessionTTL)
	if err != nil {
		return nil, err
	}
	s.session = session
	s.sessions = append(s.sessions, session)
	return session, nil
}

func (s *Scheduler) closeSessions() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, session := range s.sessions {
		select {
		case <-session.Done():
			continue
		default:
		}
		if err := session.Close(); err != nil {
			s.cfg.Log.Warn("end the scheduler's session; its leaderships end with the lease", zap.Duration("ttl", s.cfg.SessionTTL), zap.Error(err))
		}
	}
}

// pause waits for d, or until ctx ends.
func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
