package ecsagent

import (
	"encoding/json"
	"errors"
	"fmt"
)

// payload takes tasks in. It is acknowledged only when every task in it could be.
func (c *channel) payload(message json.RawMessage) error {
	var m payloadMessage
	if err := decode(message, &m); err != nil {
		return err
	}
	e := Entry{Kind: Received, Type: "PayloadMessage", MessageID: deref(m.MessageID), Seq: deref(m.SeqNum), Body: message}
	if len(m.Tasks) == 1 && m.Tasks[0] != nil {
		e.Task, e.Status = deref(m.Tasks[0].Arn), deref(m.Tasks[0].DesiredStatus)
	}
	c.a.write(e)
	if c.a.cfg.Handling != nil {
		c.a.cfg.Handling(e)
	}
	if deref(m.ClusterArn) == "" || deref(m.ContainerInstanceArn) == "" || deref(m.MessageID) == "" {
		e.Kind, e.Text = Ignored, "clusterArn, containerInstanceArn or messageId is empty"
		c.a.write(e)
		return nil
	}
	if unknown := unknownMember(message, new(payloadMessage)); unknown != "" {
		c.a.m.fault("a payload says what no agent reads: %s", unknown)
	}
	if deref(m.ContainerInstanceArn) != c.a.m.InstanceARN() {
		c.a.m.fault("a payload is for %s", *m.ContainerInstanceArn)
	}
	if m.SeqNum != nil {
		c.a.saw(*m.SeqNum)
		c.a.mu.Lock()
		c.a.highest = max(c.a.highest, *m.SeqNum)
		c.a.mu.Unlock()
	}
	good, whole, err := c.readable(m.Tasks)
	if err != nil {
		return err
	}
	for _, stopping := range []bool{true, false} { // what stops goes first
		for _, t := range good {
			if (*t.DesiredStatus == stopped) == stopping {
				c.a.take(t)
			}
		}
	}
	for _, t := range good {
		for _, cr := range []*credentials{t.RoleCredentials, t.ExecutionRoleCredentials} {
			if cr != nil && deref(cr.CredentialsID) != "" {
				c.keep(cr, *m.MessageID)
			}
		}
	}
	if whole {
		c.acknowledge(*m.ClusterArn, *m.ContainerInstanceArn, *m.MessageID)
	}
	return nil
}

// readable are the tasks that the agent can load. It reports the others as STOPPED.
func (c *channel) readable(tasks []*wireTask) (good []*wireTask, whole bool, err error) {
	whole = true
	for i, t := range tasks {
		if t == nil {
			return nil, false, crash{fmt.Sprintf("tasks[%d] of the payload is null", i)}
		}
		if err := t.judge(); err != nil {
			var died crash
			if errors.As(err, &died) {
				return nil, false, err
			}
			whole = false
			c.a.write(Entry{Kind: Unreadable, Task: deref(t.Arn), Text: err.Error()})
			c.a.m.fault("task %s can't be loaded: %v", deref(t.Arn), err)
			if t.Arn != nil {
				c.a.reportUnreadable(*t.Arn, err)
			}
			continue
		}
		for _, fault := range append(t.lost(), t.lostInterfaces(c.a.cfg.Interfaces != nil)...) {
			c.a.m.fault("task %s: %s", *t.Arn, fault)
		}
		good = append(good, t)
	}
	return good, whole, nil
}

// take adds a task, or moves a known one forward: a task is known by its ARN.
func (a *Agent) take(w *wireTask) {
	desired := *w.DesiredStatus
	if desired == "DEAD" {
		desired = stopped
	}
	if have := a.task(*w.Arn); have != nil {
		have.want(desired)
		return
	}
	t := newManaged(w, desired)
	a.m.mu.Lock()
	a.m.disk.tasks[t.arn] = t
	a.m.mu.Unlock()
	a.manage(t)
}
