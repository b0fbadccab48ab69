package poll

import (
	"errors"
	"fmt"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"
	"github.com/google/uuid"
	"go.uber.org/zap"

	"github.com/longshore-project/longshore/controlplane/store"
	"github.com/longshore-project/longshore/controlplane/task"
	"github.com/longshore-project/longshore/protocol/acs"
)

// Role is one role's credentials, without the id that a task knows them by.
type Role struct {
	Arn, AccessKeyID, SecretAccessKey, SessionToken string
	Expiration                                      time.Time
}

// String hides the credentials.
func (Role) String() string { return "[credentials]" }

// GoString hides the credentials.
func (Role) GoString() string { return "[credentials]" }

// ErrRolePending says that a role's credentials are being asked for.
var ErrRolePending = errors.New("its credentials are being asked for")

const (
	renewAhead   = 30 * time.Minute // before the end of credentials, or halfway to it where that is later
	stopRoleWait = 30 * time.Second
	rolePause    = 250 * time.Millisecond // between looks for credentials that are being asked for, to renew those that an agent has
)

// rolesOf are the roles that a task asks for, empty for none, and whether something in its definition can't be had without
// the execution role.
func rolesOf(def *types.TaskDefinition, t *store.Task) (taskRole, execution string, needed bool) {
	taskRole, execution = task.Roles(def, t)
	for i := range def.ContainerDefinitions {
		c := &def.ContainerDefinitions[i]
		needed = needed || len(c.Secrets)+len(c.EnvironmentFiles) > 0 || c.RepositoryCredentials != nil && c.RepositoryCredentials.CredentialsParameter != nil ||
			c.LogConfiguration != nil && len(c.LogConfiguration.SecretOptions) > 0
	}
	return taskRole, execution, needed
}

// credentialsFor are the credentials that travel with a task. The error says which role of it can't be had; an execution
// role that nothing in the definition needs is left out instead, so that the host's own credentials are used. With
// ErrRolePending ready is called when it is worth another try.
func (c *Config) credentialsFor(def *types.TaskDefinition, t *store.Task, ready func()) (Credentials, error) {
	var out Credentials
	if def == nil || !task.Wanted(t) {
		return out, nil
	}
	taskRole, execution, needed := rolesOf(def, t)
	issue := func(role, id string, execution bool) (*acs.IAMRoleCredentials, error) {
		got, err := c.Role(role, t, execution, ready)
		if err != nil {
			return nil, fmt.Errorf("ECS was unable to assume the role '%s' that was provided for this task: %w", role, err)
		}
		return &acs.IAMRoleCredentials{CredentialsID: id, RoleArn: got.Arn, AccessKeyID: got.AccessKeyID, SecretAccessKey: got.SecretAccessKey,
			SessionToken: got.SessionToken, Expiration: got.Expiration.UTC().Format(time.RFC3339)}, nil
	}
	var err error
	if taskRole != "" {
		if out.Task, err = issue(taskRole, t.TaskCredentialsID, false); err != nil {
			return out, err
		}
	}
	if execution != "" {
		if out.Execution, err = issue(execution, t.ExecutionCredentialsID, true); err != nil && (needed || errors.Is(err, ErrRolePending)) {
			return out, err
		}
	}
	return out, nil
}

// renewalOf is when credentials that are sent now are to be sent again; zero for none.
func (c *Config) renewalOf(set Credentials, now time.Time) (at time.Time) {
	for _, role := range []*acs.IAMRoleCredentials{set.Task, set.Execution} {
		if role == nil {
			continue
		}
		until, err := time.Parse(time.RFC3339, role.Expiration)
		if err != nil {
			continue
		}
		left := until.Sub(now)
		due := now.Add(max(left-renewAhead, left/2, c.RenewPause))
		if at.IsZero() || due.Before(at) {
			at = due
		}
	}
	return at
}

// renew sends the credentials of tasks whose time has come, and tells when the next one's does, zero for never; false when
// the socket has ended. An agent that has restarted and asks for them (sendCredentials) gets those of all it had accepted.
func (c *acsSession) renew(j job, now time.Time) (next time.Time, ok bool) {
	live := make(map[string]bool, len(j.tasks))
	for _, t := range j.tasks {
		live[t.ID] = true
		at, sent := c.renewals[t.ID]
		if c.asked && !sent && !t.AcceptedAt.IsZero() {
			at, sent = now, true
		}
		if !sent || at.IsZero() || !task.Wanted(t) {
			continue
		}
		if !at.After(now) {
			if at, ok = c.sendCredentials(j, t, now); !ok {
				return next, false
			}
			c.renewals[t.ID] = at
		}
		if !at.IsZero() && (next.IsZero() || at.Before(next)) {
			next = at
		}
	}
	for id := range c.renewals {
		if !live[id] {
			delete(c.renewals, id)
		}
	}
	c.asked = false
	return next, true
}

// sendCredentials sends a running task's credentials anew.
func (c *acsSession) sendCredentials(j job, t *store.Task, now time.Time) (again time.Time, ok bool) {
	d := j.definitions[aws.ToString(t.Object.TaskDefinitionArn)]
	if d == nil {
		return now.Add(c.cfg.RenewPause), true
	}
	got, err := c.cfg.credentialsFor(&d.Object, t, c.notify)
	if errors.Is(err, ErrRolePending) {
		return now.Add(rolePause), true
	}
	if err != nil {
		c.log().Warn("a task's credentials can't be renewed; it goes on with those it has", zap.String("task", aws.ToString(t.Object.TaskArn)), zap.Error(err))
		again = now.Add(time.Minute)
	}
	for _, role := range []struct {
		kind        string
		credentials *acs.IAMRoleCredentials
	}{{acs.RoleTypeTask, got.Task}, {acs.RoleTypeExecution, got.Execution}} {
		if role.credentials == nil {
			continue
		}
		m := &acs.IAMRoleCredentialsMessage{MessageID: uuid.NewString(), TaskArn: aws.ToString(t.Object.TaskArn), TaskClusterArn: aws.ToString(t.Object.ClusterArn),
			RoleType: role.kind, RoleCredentials: role.credentials}
		if c.send(m) != nil {
			return again, false
		}
	}
	if again.IsZero() {
		again = c.cfg.renewalOf(got, now)
	}
	return again, true
}

// withoutRole deals with a task that has a role which can't be had: one that its agent has not got yet is stopped with the
// reason, and one that runs goes on.
func (c *acsSession) withoutRole(t *store.Task, err error) {
	if !t.AcceptedAt.IsZero() {
		c.log().Warn("a task's role can't be had; it goes on with the credentials it has", zap.String("task", aws.ToString(t.Object.TaskArn)), zap.Error(err))
		return
	}
	c.stopUnstarted(t, err.Error(), "put its role into the file of --role-credentials, or let --assume-roles have it", func(is *store.Task) bool { return is.AcceptedAt.IsZero() })
}
