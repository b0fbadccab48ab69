package poll

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"
	"github.com/google/uuid"
	"go.uber.org/zap"

	"github.com/longshore-project/longshore/controlplane/scheduler/placement"
	"github.com/longshore-project/longshore/controlplane/store"
	"github.com/longshore-project/longshore/controlplane/task"
	"github.com/longshore-project/longshore/protocol/acs"
	"github.com/longshore-project/longshore/protocol/arn"
)

// A store that is empty or restored from a backup knows less than its hosts. What they run is taken over, and never stopped
// because it is not known:
//
//	Longshore's agent    lists its tasks before its connection is recorded, so that nothing is placed beside what it runs: a task
//	                     that the store does not know is described by the agent and adopted; one that has come further is caught
//	                     up; one that the agent does not have any more, although the restored store has it, is STOPPED
//	any other agent      is asked by the manifest; see settle.go
const (
	// listTimeout is how long an agent may take to list and describe its tasks.
	listTimeout = 30 * time.Second
	// maxAdopted is how many tasks an instance may have that still has some adopted.
	maxAdopted = 1000
	// keptStopped is how long ago an unknown task may have been STOPPED that is still worth a record.
	keptStopped = time.Hour
)

// hearTasks hears of the agent what it runs, and makes the store know it. It runs before the session's first turn, in the
// goroutine that reads; its error has ended the socket.
func (c *acsSession) hearTasks() error {
	stop := context.AfterFunc(c.ctx, c.close)
	defer stop()
	late := time.AfterFunc(listTimeout, func() {
		c.end(statusGoingAway, fmt.Sprintf("the agent did not say within %s what it runs", listTimeout))
	})
	defer late.Stop()
	list, err := hear[*acs.TaskListMessage](c)
	if err != nil {
		return err
	}
	if err := list.Validate(); err != nil {
		c.end(statusNonsense, clip(err.Error()))
		return err
	}
	f, err := c.server.compare(c.ctx, c.at, list)
	if err != nil {
		return err
	}
	if err := c.server.settleGone(c.ctx, c.at, f); err != nil {
		return err
	}
	c.complete = !list.Incomplete
	if len(f.ask) == 0 {
		return nil
	}
	return c.hearDescriptions(f.ask)
}

func (c *acsSession) hearDescriptions(ask []string) error {
	question := &acs.DescribeTasksMessage{MessageID: uuid.NewString(), TaskArns: ask}
	frame, err := acs.Encode(question)
	if err != nil {
		return err
	}
	if err := c.write(frame); err != nil {
		return err
	}
	for more, n := true, 0; more; n++ {
		m, err := hear[*acs.TasksDescribedMessage](c)
		if err != nil {
			return err
		}
		err = m.Validate()
		if err == nil && (m.MessageID != question.MessageID || n > acs.MaxListedTasks/acs.MaxDescribedTasks) {
			err = errors.New("the descriptions of tasks answer no question")
		}
		if err != nil {
			c.end(statusNonsense, clip(err.Error()))
			return err
		}
		if err := c.server.takeOver(c.ctx, c.at, m.Tasks, ask); err != nil {
			return err
		}
		more = m.More
	}
	return nil
}

// hear reads frames until one is of a type.
func hear[M any](c *acsSession) (none M, err error) {
	for {
		_, frame, err := c.socket.conn.Read(context.Background()) // ended by close
		if err != nil {
			c.fail(c.ended(err))
			return none, context.Cause(c.ctx)
		}
		if err := c.limit.Wait(c.ctx); err != nil {
			return none, context.Cause(c.ctx)
		}
		m, err := acs.Decode(frame)
		if err != nil {
			c.nonsense++
			if c.nonsense >= c.cfg.MaxNonsense {
				c.end(statusNonsense, "too many frames that are not messages")
			}
			continue
		}
		if m, ok := m.(M); ok {
			return m, nil
		}
	}
}

// findings are how what an agent lists differs from what the store has.
type findings struct {
	ask      []string // ARNs of tasks of which more must be known
	gone     []string // ids of tasks that a restored store has, and the agent does not
	reported []string // ids of tasks that were made STOPPED without a report, and are so
}

// compare holds what an agent lists against the store.
func (s *Server) compare(ctx context.Context, at place, list *acs.TaskListMessage) (f findings, err error) {
	err = s.cfg.Store.Read(ctx, func(v *store.View) error {
		f = findings{}
		i := v.Instance(at.cluster, at.id)
		if i == nil {
			return errGone
		}
		listed := map[string]bool{}
		for _, l := range list.Tasks {
			id, own := ownTask(i, l.TaskArn)
			if !own {
				s.log.Warn("an agent runs a task of another cluster, region or account; it is left alone: stop it on the host if it is not wanted", zap.Stringer("containerInstance", at), zap.String("task", clip(l.TaskArn)))
				continue
			}
			listed[id] = true
			switch t := v.Task(at.cluster, id); {
			case t == nil:
				if l.KnownStatus != task.Stopped || i.Unlisted {
					f.ask = append(f.ask, l.TaskArn)
				}
			case task.IsStopped(t):
				if t.Unreported && l.KnownStatus == task.Stopped {
					f.reported = append(f.reported, id)
				}
			case t.Instance == at.id && !l.Unsent && behind(t, l):
				f.ask = append(f.ask, l.TaskArn)
			}
		}
		for t := range v.LiveOn(at.cluster, at.id) {
			if i.Unlisted && !list.Incomplete && !listed[t.ID] {
				f.gone = append(f.gone, t.ID)
			}
		}
		return nil
	})
	return f, err
}

// ownTask is the id of a task whose ARN is one of the instance's cluster.
func ownTask(i *store.Instance, ref string) (id string, own bool) {
	if i == nil {
		return "", false
	}
	a, err := arn.Parse(ref)
	host, hostErr := arn.Parse(aws.ToString(i.Object.ContainerInstanceArn))
	if err != nil || hostErr != nil || a.Type != arn.TypeTask || a.Region != host.Region || a.Account != host.Account || len(a.Path) != 2 || a.Path[0] != i.Cluster {
		return "", false
	}
	return a.ID(), true
}

// behind tells whether a record is behind what its agent knows.
func behind(t *store.Task, l *acs.ListedTask) bool {
	switch l.KnownStatus {
	case task.Running:
		return task.Starting(t)
	case task.Stopped:
		return true
	}
	return false
}

// settleGone writes what the list says of tasks that need no description.
func (s *Server) settleGone(ctx context.Context, at place, f findings) error {
	for part := range slices.Chunk(slices.Concat(f.gone, f.reported), task.MaxFinish) {
		err := store.Retry(ctx, func() error {
			txn, now := s.cfg.Store.Txn(), time.Now()
			err := s.cfg.Store.Read(ctx, func(v *store.View) error {
				var ended []*store.Task
				for _, id := range part {
					t := v.Task(at.cluster, id)
					if t == nil {
						continue
					}
					if n := task.Reported(t); n != nil {
						txn.Update(n).StateChange()
					} else if n := task.Gone(t, now); n != nil && t.Instance == at.id {
						ended = append(ended, n)
					}
				}
				if len(ended) > 0 {
					task.Finish(txn, v, ended...)
				}
				return nil
			})
			if err != nil || txn.Len() == 0 {
				return err
			}
			return txn.Commit(ctx)
		})
		if err != nil {
			return err
		}
	}
	if len(f.gone) > 0 {
		s.log.Warn("tasks of the restored store are not on their container instance any more: they are STOPPED", zap.Stringer("containerInstance", at), zap.Int("count", len(f.gone)))
	}
	return nil
}

// takeOver makes the store know tasks as their agent describes them, one after the other, so that each sees what the one before
// holds. Those that were not asked about are ignored.
func (s *Server) takeOver(ctx context.Context, at place, tasks []*acs.TaskDescription, asked []string) error {
	for _, d := range tasks {
		if !slices.Contains(asked, d.TaskArn) {
			continue
		}
		var adopted *store.Task
		err := store.Retry(ctx, func() error {
			txn := s.cfg.Store.Txn()
			err := s.cfg.Store.Read(ctx, func(v *store.View) (err error) {
				adopted, err = adopt(v, txn, at, d, time.Now())
				return err
			})
			if err != nil || txn.Len() == 0 {
				return err
			}
			return txn.Commit(ctx)
		})
		log := s.log.With(zap.Stringer("containerInstance", at), zap.String("task", clip(d.TaskArn)))
		switch {
		case errors.Is(err, errNotAdopted), errors.Is(err, store.ErrInvalid):
			log.Warn("a task that this control plane does not know can't be adopted; it is left alone: stop it on the host if it is not wanted", zap.Error(err))
		case err != nil:
			return fmt.Errorf("adopt a task: %w", err)
		case adopted != nil:
			log.Warn("a task that this control plane did not know was adopted as it is", zap.String("taskDefinition", aws.ToString(adopted.Object.TaskDefinitionArn)),
				zap.String("service", adopted.Service), zap.String("status", task.LastStatus(adopted)))
		}
	}
	return nil
}

// errNotAdopted: what the agent says makes no record.
var errNotAdopted = errors.New("it makes no record")

// adopt adds to txn what makes a described task known, and returns its record if there was none.
func adopt(v *store.View, txn *store.Txn, at place, d *acs.TaskDescription, now time.Time) (*store.Task, error) {
	i := v.Instance(at.cluster, at.id)
	if i == nil {
		return nil, errGone
	}
	id, own := ownTask(i, d.TaskArn)
	if !own {
		return nil, nil
	}
	if t := v.Task(at.cluster, id); t != nil {
		if n := task.CatchUp(t, d, now); n != t && t.Instance == at.id {
			task.Finish(txn, v, n)
		}
		return nil, nil
	}
	if d.KnownStatus == task.Stopped && now.Sub(time.UnixMilli(d.StoppedAt)) > keptStopped {
		return nil, nil
	}
	if n := len(v.Allocation(at.cluster, at.id).Tasks); n >= maxAdopted {
		return nil, fmt.Errorf("%w: the container instance has %d tasks already", errNotAdopted, n)
	}
	said := *d
	if svc := v.Service(at.cluster, d.ServiceName); !i.Unlisted && svc != nil && svc.Object.SchedulingStrategy != types.SchedulingStrategyDaemon {
		said.ServiceName = "" // nothing was forgotten: a host alone can't add to what runs on others too
	}
	t, err := task.Adopt(&said, i, definitionOf(v, i, d), now)
	if err != nil {
		return nil, errors.Join(errNotAdopted, err)
	}
	if t.Service != "" && !task.IsStopped(t) {
		task.Belong(txn, v, t, d.SchedulingStrategy == string(types.SchedulingStrategyDaemon), now)
	}
	task.TakeIn(txn, v, t)
	return t, nil
}

// definitionOf is the task definition that a description names, nil when there is none, or it has other containers: then it is
// another one, which was registered after the store had forgotten the first.
func definitionOf(v *store.View, i *store.Instance, d *acs.TaskDescription) *types.TaskDefinition {
	host, err := arn.Parse(aws.ToString(i.Object.ContainerInstanceArn))
	if err != nil {
		return nil
	}
	def := placement.Definition(v, arn.Owner{Region: host.Region, Account: host.Account}.Format(arn.TypeTaskDefinition, d.Family+":"+d.Version))
	if def == nil {
		return nil
	}
	has := func(name string) bool {
		return slices.ContainsFunc(def.Object.ContainerDefinitions, func(c types.ContainerDefinition) bool { return aws.ToString(c.Name) == name })
	}
	for _, c := range d.Containers {
		if !has(c.Name) && !strings.HasPrefix(c.Name, "~") { // what an agent adds has such a name
			return nil
		}
	}
	return &def.Object
}
