package agent

import (
	"cmp"
	"fmt"
	"slices"
	"sync"

	"go.uber.org/zap"

	"github.com/longshore-project/longshore/agent/poll"
	"github.com/longshore-project/longshore/agent/report"
	"github.com/longshore-project/longshore/agent/tasknet"
	"github.com/longshore-project/longshore/engine"
	"github.com/longshore-project/longshore/internal/failpoint"
	"github.com/longshore-project/longshore/protocol/acs"
	"github.com/longshore-project/longshore/statemgr"
)

// State keeps in the state database what the parts of the agent must remember: the engine's task records, the state
// changes that the control plane has not accepted yet, and the greatest timeline of a manifest that was obeyed. A record
// and the changes that follow from it are saved in one transaction. All methods may be called concurrently.
type State struct {
	db      *statemgr.DB
	log     *zap.Logger
	reserve *reserve // nil: none

	mu      sync.Mutex
	pending []*engine.StateChange // what the database has, in order of Sequence
}

var (
	_ engine.TaskState = (*State)(nil)
	_ report.Queue     = (*State)(nil)
	_ poll.Sequence    = (*State)(nil)
	_ tasknet.State    = (*State)(nil)
)

var (
	taskBucket    = statemgr.NewBucket[*engine.TaskRecord](taskBucketName)
	changeQueue   = statemgr.NewQueue[*engine.StateChange]("changes")
	sessionBucket = statemgr.NewBucket[int64]("session")

	attachmentBucket = statemgr.NewBucket[tasknet.Attachment]("attachments")
	groupBucket      = statemgr.NewBucket[*acs.SecurityGroupsMessage]("security-groups")
)

const (
	taskBucketName   = "tasks"
	manifestSequence = "manifest-sequence"
	lastGroups       = "last"
)

// NewState reads the changes that wait in the database.
func NewState(db *statemgr.DB, log *zap.Logger) (*State, error) {
	s := &State{db: db, log: log}
	err := db.View(func(tx *statemgr.Tx) error {
		return changeQueue.Each(tx, func(n uint64, c *engine.StateChange, err error) error {
			if err != nil || c == nil {
				log.Error("A state change that waited for the control plane can't be read and is not sent", zap.Uint64("sequence", n), zap.Error(err))
				return nil
			}
			c.Sequence = n
			s.pending = append(s.pending, c)
			return nil
		})
	})
	if err != nil {
		return nil, fmt.Errorf("read the state changes that wait: %w", err)
	}
	return s, nil
}

// update writes; on a full disk out of the reserve.
func (s *State) update(f func(*statemgr.Tx) error) error {
	return s.reserve.try(func() error { return s.db.Update(f) })
}

// Save writes a task's record and appends changes, durably and together.
func (s *State) Save(rec *engine.TaskRecord, changes ...*engine.StateChange) error {
	failpoint.Hit("state/save-before")
	err := s.update(func(tx *statemgr.Tx) error {
		if err := taskBucket.Put(tx, rec.Task.Arn, rec); err != nil {
			return err
		}
		return appendChanges(tx, changes)
	})
	failpoint.Hit("state/save-after")
	if err == nil {
		s.queued(changes)
	}
	return err
}

// appendChanges gives changes their numbers and puts them into the queue.
func appendChanges(tx *statemgr.Tx, changes []*engine.StateChange) error {
	for _, c := range changes {
		if _, err := changeQueue.Append(tx, func(n uint64) *engine.StateChange { c.Sequence = n; return c }); err != nil {
			return err
		}
	}
	return nil
}

// queued notes that changes are in the queue.
func (s *State) queued(changes []*engine.StateChange) {
	if len(changes) == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pending = append(s.pending, changes...)
	slices.SortFunc(s.pending, func(a, b *engine.StateChange) int { return cmp.Compare(a.Sequence, b.Sequence) })
}

// Load returns every task's record. One that can't be read is left out, which is logged: its containers are then found
// by their labels.
func (s *State) Load() ([]*engine.TaskRecord, error) {
	var records []*engine.TaskRecord
	err := s.db.View(func(tx *statemgr.Tx) error {
		return taskBucket.Each(tx, func(arn string, rec *engine.TaskRecord, err error) error {
			if err == nil && (rec == nil || rec.Task == nil) {
				err = fmt.Errorf("it has no task")
			}
			if err != nil {
				s.log.Error("The record of a task can't be read; its containers are looked for by their labels", zap.String("task", arn), zap.Error(err))
				return nil
			}
			records = append(records, rec)
			return nil
		})
	})
	return records, err
}

// Delete removes a task's record.
func (s *State) Delete(taskArn string) error {
	failpoint.Hit("state/delete-before")
	err := s.update(func(tx *statemgr.Tx) error { return taskBucket.Delete(tx, taskArn) })
	failpoint.Hit("state/delete-after")
	return err
}

// Unsent reports whether changes of a task wait for acceptance.
func (s *State) Unsent(taskArn string) (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.ContainsFunc(s.pending, func(c *engine.StateChange) bool { return c.TaskArn == taskArn }), nil
}

// Changes returns the changes that were not accepted yet, in order of Sequence. They must not be changed.
func (s *State) Changes() ([]*engine.StateChange, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.pending), nil
}

// Accepted forgets a change durably. Forgetting what is not there does nothing.
func (s *State) Accepted(sequence uint64) error {
	failpoint.Hit("state/accepted-before")
	err := s.update(func(tx *statemgr.Tx) error { return changeQueue.Delete(tx, sequence) })
	failpoint.Hit("state/accepted-after")
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pending = slices.DeleteFunc(s.pending, func(c *engine.StateChange) bool { return c.Sequence == sequence })
	return nil
}

// LoadSequence returns the greatest timeline of a manifest that was obeyed, -1 if there was none.
func (s *State) LoadSequence() (int64, error) {
	sequence := int64(-1)
	err := s.db.View(func(tx *statemgr.Tx) error {
		v, found, err := sessionBucket.Get(tx, manifestSequence)
		if found {
			sequence = v
		}
		return err
	})
	return sequence, err
}

// SaveSequence keeps it, durably.
func (s *State) SaveSequence(sequence int64) error {
	return s.update(func(tx *statemgr.Tx) error { return sessionBucket.Put(tx, manifestSequence, sequence) })
}
