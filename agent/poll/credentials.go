package poll

import (
	"context"
	"sync"

	"go.uber.org/zap"

	"github.com/longshore-project/longshore/engine"
	"github.com/longshore-project/longshore/protocol/acs"
)

// Credentials holds the credentials of task roles and execution roles. They live in memory only: nothing writes them to
// disk or to a log, and after a restart the control plane sends them again (sendCredentials). It may be used concurrently;
// the zero value is empty.
type Credentials struct {
	mu      sync.Mutex
	byID    map[string]heldCredentials
	arrived chan struct{} // closed when some have come; nil while nobody waits
}

type heldCredentials struct {
	taskArn     string
	roleType    string // acs.RoleTypeTask or acs.RoleTypeExecution
	credentials acs.IAMRoleCredentials
	lent        bool // to something that is no task
}

// Lookup returns the credentials with an id, whose they are and for what: acs.RoleTypeTask or acs.RoleTypeExecution.
func (c *Credentials) Lookup(id string) (credentials acs.IAMRoleCredentials, taskArn, roleType string, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	held, ok := c.byID[id]
	return held.credentials, held.taskArn, held.roleType, ok
}

// Task returns the credentials of a task's own role; ok is false while there are none.
func (c *Credentials) Task(taskArn string) (credentials acs.IAMRoleCredentials, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, held := range c.byID {
		if held.taskArn == taskArn && held.roleType == acs.RoleTypeTask {
			return held.credentials, true
		}
	}
	return credentials, false
}

// Execution returns the credentials of a task's execution role. It waits for them until ctx ends, and returns its error then.
func (c *Credentials) Execution(ctx context.Context, taskArn string) (acs.IAMRoleCredentials, error) {
	for {
		credentials, arrived, ok := c.execution(taskArn)
		if ok {
			return credentials, nil
		}
		select {
		case <-arrived:
		case <-ctx.Done():
			return acs.IAMRoleCredentials{}, ctx.Err()
		}
	}
}

// execution looks once, and tells when to look again.
func (c *Credentials) execution(taskArn string) (credentials acs.IAMRoleCredentials, arrived <-chan struct{}, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, held := range c.byID {
		if held.taskArn == taskArn && held.roleType == acs.RoleTypeExecution {
			return held.credentials, nil, true
		}
	}
	if c.arrived == nil {
		c.arrived = make(chan struct{})
	}
	return credentials, c.arrived, false
}

// set keeps credentials under their id, in place of older ones.
func (c *Credentials) set(taskArn, roleType string, credentials *acs.IAMRoleCredentials) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.byID == nil {
		c.byID = map[string]heldCredentials{}
	}
	c.byID[credentials.CredentialsID] = heldCredentials{taskArn: taskArn, roleType: roleType, credentials: *credentials}
	if c.arrived != nil {
		close(c.arrived)
		c.arrived = nil
	}
}

// Lend keeps an execution role's credentials for something that is no task, under a name in place of a task's ARN, until
// [Credentials.Return]. Their id is not to be found by [Credentials.Get].
func (c *Credentials) Lend(name string, credentials *acs.IAMRoleCredentials) {
	own := *credentials
	own.CredentialsID = "lent to " + name
	c.set(name, acs.RoleTypeExecution, &own)
	c.mu.Lock()
	defer c.mu.Unlock()
	held := c.byID[own.CredentialsID]
	held.lent = true
	c.byID[own.CredentialsID] = held
}

// Return drops what was lent.
func (c *Credentials) Return(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.byID, "lent to "+name)
}

// keep drops the credentials of all tasks but those given.
func (c *Credentials) keep(live map[string]bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for id, held := range c.byID {
		if !live[held.taskArn] && !held.lent {
			delete(c.byID, id)
		}
	}
}

// liveTasks are the tasks that may still use credentials.
func liveTasks(tasks []engine.TaskStatus) map[string]bool {
	live := make(map[string]bool, len(tasks))
	for i := range tasks {
		if tasks[i].Known != acs.StatusStopped {
			live[tasks[i].Arn] = true
		}
	}
	return live
}

// payloadCredentials keeps the credentials in a payload and acknowledges each set.
func (p *Poller) payloadCredentials(m *acs.PayloadMessage, answer func(any) error) error {
	live := liveTasks(p.cfg.Engine.Tasks())
	p.cfg.Credentials.keep(live)
	for _, task := range m.Tasks {
		if !live[task.Arn] {
			continue
		}
		for _, role := range []struct {
			kind        string
			credentials *acs.IAMRoleCredentials
		}{{acs.RoleTypeTask, task.RoleCredentials}, {acs.RoleTypeExecution, task.ExecutionRoleCredentials}} {
			got := role.credentials
			if got == nil || got.CredentialsID == "" {
				continue
			}
			p.cfg.Credentials.set(task.Arn, role.kind, got)
			if err := answer(&acs.IAMRoleCredentialsAckRequest{MessageID: m.MessageID, Expiration: got.Expiration, CredentialsID: got.CredentialsID}); err != nil {
				return err
			}
		}
	}
	return nil
}

// credentials keeps renewed credentials of a task that is known, and acknowledges them; others get no answer.
func (p *Poller) credentials(m *acs.IAMRoleCredentialsMessage, answer func(any) error) error {
	log := p.cfg.Log.With(zap.String("task", m.TaskArn), zap.String("step", "credentials"), zap.String("message", m.MessageID))
	live := liveTasks(p.cfg.Engine.Tasks())
	if err := m.Validate(); err != nil {
		log.Warn("Credentials that lack a required member are dropped", zap.Error(err))
		return nil
	}
	if !live[m.TaskArn] {
		log.Warn("Credentials for a task that does not run here are dropped")
		return nil
	}
	p.cfg.Credentials.set(m.TaskArn, m.RoleType, m.RoleCredentials)
	log.Info("Received credentials", zap.String("roleType", m.RoleType), zap.String("expiration", m.RoleCredentials.Expiration))
	return answer(&acs.IAMRoleCredentialsAckRequest{MessageID: m.MessageID, Expiration: m.RoleCredentials.Expiration, CredentialsID: m.RoleCredentials.CredentialsID})
}
