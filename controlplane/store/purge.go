package store

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"
	"go.uber.org/zap"
)

// PurgeConfig says what is kept and for how long. The zero value of a field is its default.
type PurgeConfig struct {
	// Interval between two rounds. Default 1 m.
	Interval time.Duration
	// StoppedTasks is how long a STOPPED task stays describable. Default 1 h, as ECS's.
	StoppedTasks time.Duration
	// StoppedTasksMost is how many STOPPED tasks of one cluster are kept at most; beyond it the oldest go early.
	// Default 10,000.
	StoppedTasksMost int
	// EventsMost is how many events of a service are kept. Default 100, as ECS's.
	EventsMost int
	// Inactive is how long an INACTIVE cluster, service or container instance stays describable. Default 6 h.
	Inactive time.Duration
	// Away is how long it is remembered that a container instance was deregistered, and how long a task is kept that was made
	// STOPPED without a word of its agent: a host that comes back within this time is told. Default 30 days.
	Away time.Duration
	// Keys is how long an access key stays listed that has ended. Default 30 days.
	Keys time.Duration
	// Pressed replaces StoppedTasks and Inactive while the store is nearly full. Default 5 m.
	Pressed time.Duration
	// Now is the clock. Default time.Now.
	Now func() time.Time
}

func (c PurgeConfig) withDefaults() PurgeConfig {
	c.Interval = cmp.Or(c.Interval, time.Minute)
	c.StoppedTasks = cmp.Or(c.StoppedTasks, time.Hour)
	c.StoppedTasksMost = cmp.Or(c.StoppedTasksMost, 10_000)
	c.EventsMost = cmp.Or(c.EventsMost, 100)
	c.Inactive = cmp.Or(c.Inactive, 6*time.Hour)
	c.Away = cmp.Or(c.Away, 30*24*time.Hour)
	c.Keys = cmp.Or(c.Keys, 30*24*time.Hour)
	c.Pressed = cmp.Or(c.Pressed, 5*time.Minute)
	if c.Now == nil {
		c.Now = time.Now
	}
	return c
}

// Purge deletes what need not be kept, until ctx ends. Several replicas may run it at once.
func (s *Store) Purge(ctx context.Context, cfg PurgeConfig) {
	cfg = cfg.withDefaults()
	ticker := time.NewTicker(cfg.Interval)
	defer ticker.Stop()
	for {
		started := time.Now()
		switch n, err := s.PurgeOnce(ctx, cfg); {
		case ctx.Err() != nil:
			return
		case err != nil:
			s.log.Warn("purge the store", zap.Int("deleted", n), zap.Error(err))
		case n > 0:
			s.log.Info("purged the store", zap.Int("deleted", n), zap.Duration("duration", time.Since(started)))
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// PurgeOnce deletes what need not be kept now, and says how many records went.
func (s *Store) PurgeOnce(ctx context.Context, cfg PurgeConfig) (int, error) {
	cfg = cfg.withDefaults()
	if s.Space().Full {
		cfg.StoppedTasks = min(cfg.StoppedTasks, cfg.Pressed)
		cfg.Inactive = min(cfg.Inactive, cfg.Pressed)
	}
	var doomed [][]Record
	if err := s.Read(ctx, func(v *View) error {
		doomed = purgeable(v, cfg, cfg.Now())
		return nil
	}); err != nil {
		return 0, err
	}
	deleted := 0
	for len(doomed) > 0 {
		txn, n := s.Txn(), 0
		for len(doomed) > 0 && (n == 0 || txn.Len()+len(doomed[0])+1 <= maxOps) {
			for _, r := range doomed[0] {
				txn.Delete(r)
				if i, ok := r.(*Instance); ok {
					txn.Create(&Departed{Cluster: i.Cluster, ID: i.ID, Since: i.InactiveSince}).StateChange()
				}
			}
			n += len(doomed[0])
			doomed = doomed[1:]
		}
		switch err := txn.Commit(ctx); {
		case err == nil:
			deleted += n
		case !errors.Is(err, ErrConflict): // what changed meanwhile is looked at again in the next round
			return deleted, err
		}
	}
	return deleted, nil
}

// purgeable lists what need not be kept, in groups that go together.
func purgeable(v *View, cfg PurgeConfig, now time.Time) [][]Record {
	doomed := purgeableDefinitions(v)
	for k := range v.Keys() {
		if end := k.Ended(now); !end.IsZero() && now.Sub(end) > cfg.Keys {
			doomed = append(doomed, []Record{k})
		}
	}
	for c := range v.Clusters() {
		name := aws.ToString(c.Object.ClusterName)
		doomed = append(doomed, purgeableTasks(v, name, cfg, now)...)
		for s := range v.Services(name) {
			if over(s.InactiveSince, cfg.Inactive, now) && aws.ToString(s.Object.Status) == "INACTIVE" {
				doomed = append(doomed, purgeService(v, s)...)
			} else {
				doomed = append(doomed, purgeableEvents(v, s, cfg)...)
			}
		}
		for i := range v.Instances(name) {
			if over(i.InactiveSince, cfg.Inactive, now) && aws.ToString(i.Object.Status) == "INACTIVE" {
				doomed = append(doomed, purgeInstance(v, i))
			}
		}
		if over(c.InactiveSince, cfg.Inactive, now) && aws.ToString(c.Object.Status) == "INACTIVE" && empty(v, name) {
			doomed = append(doomed, []Record{c})
		}
	}
	for a := range v.Addresses() { // none, unless a record could not be read when its task ended
		if t := v.Task(a.Cluster, a.Task); t == nil || aws.ToString(t.Object.LastStatus) == "STOPPED" {
			doomed = append(doomed, []Record{a})
		}
	}
	for d := range v.Departures() {
		if over(d.Since, cfg.Away, now) {
			doomed = append(doomed, []Record{d})
		}
	}
	for k := range v.TaskKeys() {
		if k.Expires.Before(now) {
			doomed = append(doomed, []Record{k})
		}
	}
	return doomed
}

// purgeableDefinitions are the task definitions that are to be deleted and that no service and no task needs any more.
func purgeableDefinitions(v *View) (doomed [][]Record) {
	deleted := map[string]*TaskDefinition{}
	for d := range v.TaskDefinitions("") {
		if d.Object.Status == types.TaskDefinitionStatusDeleteInProgress {
			deleted[aws.ToString(d.Object.TaskDefinitionArn)] = d
		}
	}
	if len(deleted) == 0 {
		return nil
	}
	for c := range v.Clusters() {
		name := aws.ToString(c.Object.ClusterName)
		for s := range v.Services(name) {
			if aws.ToString(s.Object.Status) == "INACTIVE" {
				continue
			}
			delete(deleted, aws.ToString(s.Object.TaskDefinition))
			for _, d := range s.Object.Deployments {
				delete(deleted, aws.ToString(d.TaskDefinition))
			}
		}
		for t := range scan[*Task](v, under(indexLiveOn, name)) {
			delete(deleted, aws.ToString(t.Object.TaskDefinitionArn))
		}
	}
	for _, d := range deleted {
		doomed = append(doomed, []Record{d})
	}
	return doomed
}

func over(since time.Time, keep time.Duration, now time.Time) bool {
	return !since.IsZero() && now.Sub(since) >= keep
}

func purgeableTasks(v *View, cluster string, cfg PurgeConfig, now time.Time) [][]Record {
	var stopped []*Task
	for t := range v.Tasks(cluster) {
		if aws.ToString(t.Object.LastStatus) == "STOPPED" {
			stopped = append(stopped, t)
		}
	}
	slices.SortStableFunc(stopped, func(a, b *Task) int {
		if a.Unreported != b.Unreported {
			if b.Unreported {
				return -1
			}
			return 1
		}
		return stoppedAt(a).Compare(stoppedAt(b))
	})
	var doomed [][]Record
	for i, t := range stopped {
		keep := cfg.StoppedTasks
		if t.Unreported {
			keep = cfg.Away
		}
		if over(stoppedAt(t), keep, now) || len(stopped)-i > cfg.StoppedTasksMost {
			doomed = append(doomed, []Record{t})
		}
	}
	return doomed
}

// stoppedAt is when a task was stopped. One that never ran may only know when it was made.
func stoppedAt(t *Task) time.Time {
	if at := t.Object.StoppedAt; at != nil {
		return *at
	}
	if at := t.Object.StoppingAt; at != nil {
		return *at
	}
	return aws.ToTime(t.Object.CreatedAt)
}

func purgeableEvents(v *View, s *Service, cfg PurgeConfig) [][]Record {
	name := aws.ToString(s.Object.ServiceName)
	if v.Service(s.Cluster, name) != s {
		return nil // the events are those of the one that is there
	}
	var doomed [][]Record
	n := 0
	for e := range v.Events(s.Cluster, name) {
		if n++; n > cfg.EventsMost {
			doomed = append(doomed, []Record{e})
		}
	}
	return doomed
}

// purgeService takes a service's events along when it is the last one of its name.
func purgeService(v *View, s *Service) [][]Record {
	doomed := [][]Record{{s}}
	name := aws.ToString(s.Object.ServiceName)
	others := 0
	for range scan[*Service](v, under(indexServices, s.Cluster, name)) {
		others++
	}
	if others > 1 {
		return doomed
	}
	for e := range v.Events(s.Cluster, name) {
		doomed = append(doomed, []Record{e})
	}
	for d := range v.ServiceDeployments(s.Cluster, name) {
		doomed = append(doomed, []Record{d})
	}
	for r := range v.ServiceRevisions(s.Cluster, name) {
		doomed = append(doomed, []Record{r})
	}
	return doomed
}

func purgeInstance(v *View, i *Instance) []Record {
	if a := get[*Allocation](v, placeOf(kindAllocation, i.Cluster, i.ID)); a != nil {
		return []Record{i, a}
	}
	return []Record{i}
}

func empty(v *View, cluster string) bool {
	for range v.Tasks(cluster) {
		return false
	}
	for range v.Services(cluster) {
		return false
	}
	for range v.Instances(cluster) {
		return false
	}
	return true
}
