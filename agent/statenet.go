package agent

import (
	"go.uber.org/zap"

	"github.com/longshore-project/longshore/agent/tasknet"
	"github.com/longshore-project/longshore/engine"
	"github.com/longshore-project/longshore/internal/failpoint"
	"github.com/longshore-project/longshore/protocol/acs"
	"github.com/longshore-project/longshore/statemgr"
)

// Groups returns what the control plane said last about security groups, nil if it has said nothing. What can't be read is as if it
// had not: the tasks concerned wait until it says it again, and those that run keep the rules that they have.
func (s *State) Groups() (*acs.SecurityGroupsMessage, error) {
	var m *acs.SecurityGroupsMessage
	err := s.db.View(func(tx *statemgr.Tx) error {
		got, _, err := groupBucket.Get(tx, lastGroups)
		if err == nil && got != nil {
			err = got.Validate()
		}
		if err != nil {
			s.log.Error("What the control plane said last about security groups can't be read", zap.Error(err))
			return nil
		}
		m = got
		return nil
	})
	return m, err
}

// SaveGroups keeps what it says, durably.
func (s *State) SaveGroups(m *acs.SecurityGroupsMessage) error {
	failpoint.Hit("state/groups-before")
	err := s.update(func(tx *statemgr.Tx) error { return groupBucket.Put(tx, lastGroups, m) })
	failpoint.Hit("state/groups-after")
	return err
}

// Attachments returns every attachment that was saved. One that can't be read is left out, which is logged: it is announced again.
func (s *State) Attachments() ([]tasknet.Attachment, error) {
	var all []tasknet.Attachment
	err := s.db.View(func(tx *statemgr.Tx) error {
		return attachmentBucket.Each(tx, func(arn string, a tasknet.Attachment, err error) error {
			if err != nil {
				s.log.Error("An attachment can't be read", zap.String("attachment", arn), zap.Error(err))
				return nil
			}
			all = append(all, a)
			return nil
		})
	})
	return all, err
}

// SaveAttachments keeps attachments. That one of them is attached, which was not, waits from now on for the control plane.
func (s *State) SaveAttachments(all ...tasknet.Attachment) error {
	var changes []*engine.StateChange
	failpoint.Hit("state/attachments-before")
	err := s.update(func(tx *statemgr.Tx) error {
		changes = nil
		for _, a := range all {
			before, _, err := attachmentBucket.Get(tx, a.Arn)
			if err == nil && before.Attached.IsZero() && !a.Attached.IsZero() {
				changes = append(changes, &engine.StateChange{TaskArn: a.TaskArn, Time: a.Attached, Expires: a.ExpiresAt, Attachments: []engine.AttachmentChange{{Arn: a.Arn, Status: "ATTACHED"}}})
			}
			if err := attachmentBucket.Put(tx, a.Arn, a); err != nil {
				return err
			}
		}
		return appendChanges(tx, changes)
	})
	failpoint.Hit("state/attachments-after")
	if err == nil {
		s.queued(changes)
	}
	return err
}

// DropAttachments forgets attachments. Forgetting what is not there does nothing.
func (s *State) DropAttachments(arns ...string) error {
	return s.update(func(tx *statemgr.Tx) error {
		for _, arn := range arns {
			if err := attachmentBucket.Delete(tx, arn); err != nil {
				return err
			}
		}
		return nil
	})
}
