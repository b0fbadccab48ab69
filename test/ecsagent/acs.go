package ecsagent

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strings"
	"time"
)

// controlMessages are the types that the agent knows on its control channel.
var controlMessages = known(`HeartbeatMessage HeartbeatAckRequest PayloadMessage CloseMessage AckRequest NackRequest PerformUpdateMessage
	StageUpdateMessage IAMRoleCredentialsMessage IAMRoleCredentialsAckRequest ServerException BadRequestException InvalidClusterException
	InvalidInstanceException AccessDeniedException InactiveInstanceException ErrorMessage AttachTaskNetworkInterfacesMessage
	AttachInstanceNetworkInterfacesMessage ConfirmAttachmentMessage TaskManifestMessage TaskStopVerificationMessage TaskStopVerificationAck`)

func known(names string) map[string]bool {
	m := map[string]bool{}
	for _, n := range strings.Fields(names) {
		m[n] = true
	}
	return m
}

// control keeps the control channel.
func (a *Agent) control() {
	t := a.cfg.Timers
	wait := backoff{first: t.Reconnect, most: t.ReconnectMax, factor: 1.5}
	for a.ctx.Err() == nil {
		start := time.Now()
		err := a.controlOnce()
		if time.Since(start) > t.Heartbeat {
			wait.reset()
		}
		pause := wait.next()
		switch {
		case errors.Is(err, errClean):
			wait.reset()
			continue
		case err != nil && strings.Contains(err.Error(), "InactiveInstanceException"):
			a.write(Entry{Kind: Suspended})
			a.mu.Lock()
			close(a.deregistered)
			a.mu.Unlock()
			pause = t.Inactive
		}
		if !a.sleep(pause) {
			return
		}
		a.mu.Lock()
		select {
		case <-a.deregistered:
			a.deregistered = make(chan struct{})
		default:
		}
		a.mu.Unlock()
	}
}

func (a *Agent) controlOnce() error {
	where, err := a.discover()
	if err != nil {
		return err
	}
	a.mu.Lock()
	sendCredentials := a.sendCredentials
	a.mu.Unlock()
	c, err := a.dial("ACS", where.ACS, map[string]string{
		"agentHash": agentHash, "agentVersion": agentVersion, "clusterArn": a.cluster(), "containerInstanceArn": a.m.InstanceARN(),
		"dockerVersion": engineACS, "protocolVersion": "2", "seqNum": "1", "sendCredentials": fmt.Sprint(sendCredentials),
	})
	if err != nil {
		return err
	}
	a.mu.Lock()
	a.sendCredentials = false
	a.mu.Unlock()
	types := controlMessages
	if a.cfg.Interfaces != nil {
		types = maps.Clone(types)
		types["SecurityGroupsMessage"] = true
	}
	return c.serve(types, c.handle)
}

// handle acts upon one message. What the real agent dies of ends this process.
func (c *channel) handle(typ string, message json.RawMessage) {
	var err error
	switch typ {
	case "HeartbeatMessage":
		err = c.heartbeat(message)
	case "PayloadMessage":
		err = c.payload(message)
	case "TaskManifestMessage":
		err = c.manifest(message)
	case "TaskStopVerificationAck":
		err = c.stopVerified(message)
	case "AttachTaskNetworkInterfacesMessage":
		err = c.attach(message)
	case "SecurityGroupsMessage":
		err = c.securityGroups(message)
	case "IAMRoleCredentialsMessage":
		err = c.refresh(message)
	case "StageUpdateMessage", "PerformUpdateMessage":
		var m payloadMessage
		if err = decode(message, &m); err == nil {
			c.answer("NackRequest", deref(m.MessageID), map[string]any{"cluster": deref(m.ClusterArn), "containerInstance": deref(m.ContainerInstanceArn),
				"messageId": deref(m.MessageID), "reason": "Updates are disabled"})
		}
	default:
		c.a.write(Entry{Kind: Received, Type: typ, Body: message})
		if strings.HasSuffix(typ, "Exception") {
			c.a.m.fault("%s came on the control channel: %s", typ, message)
		}
	}
	var died crash
	switch {
	case errors.As(err, &died):
		c.a.crash(died)
	case err != nil:
		c.a.m.fault("%s: %v", typ, err)
	}
}

// decode reads a message as the agent does.
func decode(message json.RawMessage, into any) error {
	if err := json.Unmarshal(message, into); err != nil {
		return fmt.Errorf("it can't be decoded: %w: %.500s", err, message)
	}
	return nil
}

// answer sends a message from a goroutine of its own: the order of answers is not the order of what they answer.
func (c *channel) answer(typ, id string, message map[string]any) {
	frame, err := json.Marshal(map[string]any{"type": typ, "message": message})
	if err != nil {
		panic(err) // maps of strings
	}
	e := Entry{Kind: Sent, Type: typ, MessageID: id, Body: frame}
	c.a.wg.Go(func() { c.write(e, frame) })
}

func (c *channel) acknowledge(cluster, instance, id string) {
	c.answer("AckRequest", id, map[string]any{"cluster": cluster, "containerInstance": instance, "messageId": id})
}

func (c *channel) heartbeat(message json.RawMessage) error {
	var m heartbeatMessage
	if err := decode(message, &m); err != nil {
		return err
	}
	c.a.write(Entry{Kind: Received, Type: "HeartbeatMessage", MessageID: deref(m.MessageID)})
	if m.Healthy == nil || deref(m.MessageID) == "" {
		return errors.New("healthy or messageId is missing")
	}
	c.a.doctorRan.Store(true)
	c.answer("HeartbeatAckRequest", *m.MessageID, map[string]any{"messageId": *m.MessageID})
	return nil
}

// manifest compares the control plane's tasks with those here, if it is newer than everything seen, and else is silent.
func (c *channel) manifest(message json.RawMessage) error {
	var m manifestMessage
	if err := decode(message, &m); err != nil {
		return err
	}
	e := Entry{Kind: Received, Type: "TaskManifestMessage", MessageID: deref(m.MessageID), Seq: deref(m.Timeline), Body: message}
	c.a.write(e)
	if m.Timeline == nil || m.MessageID == nil || m.ClusterArn == nil || m.ContainerInstanceArn == nil {
		return crash{"a member of the manifest is null"}
	}
	wanted := map[string]bool{}
	for i, t := range m.Tasks {
		if t == nil || t.TaskArn == nil || t.DesiredStatus == nil {
			return crash{fmt.Sprintf("tasks[%d] of the manifest, its taskArn or its desiredStatus is null", i)}
		}
		if *t.DesiredStatus == "RUNNING" {
			wanted[*t.TaskArn] = true
		}
	}
	c.a.mu.Lock()
	if *m.Timeline <= c.a.highest {
		highest := c.a.highest
		c.a.mu.Unlock()
		e.Kind, e.Text = Ignored, fmt.Sprintf("its timeline is not above %d", highest)
		c.a.write(e)
		return nil
	}
	c.a.highest, c.a.lastManifest = *m.Timeline, *m.MessageID
	c.a.mu.Unlock()
	c.a.saw(*m.Timeline)
	c.a.m.mu.Lock()
	c.a.m.disk.manifestSeq = *m.Timeline
	c.a.m.mu.Unlock()
	c.acknowledge(*m.ClusterArn, *m.ContainerInstanceArn, *m.MessageID)
	var candidates []map[string]any
	for _, t := range c.a.known() {
		if !wanted[t.arn] && t.wanted() == running {
			candidates = append(candidates, map[string]any{"taskArn": t.arn, "taskClusterArn": deref(t.wire.TaskClusterArn), "desiredStatus": stopped})
		}
	}
	if len(candidates) > 0 {
		c.answer("TaskStopVerificationMessage", *m.MessageID, map[string]any{"messageId": *m.MessageID, "stopCandidates": candidates})
	}
	return nil
}

// saw notes a sequence number; they may only rise, whoever sent them.
func (a *Agent) saw(number int64) {
	a.m.mu.Lock()
	defer a.m.mu.Unlock()
	if number <= a.m.highest {
		a.m.fault("the sequence number %d came after %d", number, a.m.highest)
	}
	a.m.highest = max(a.m.highest, number)
}

// stopVerified stops what the control plane confirmed, if that is about the last manifest.
func (c *channel) stopVerified(message json.RawMessage) error {
	var m stopVerificationAck
	if err := decode(message, &m); err != nil {
		return err
	}
	e := Entry{Kind: Received, Type: "TaskStopVerificationAck", MessageID: deref(m.MessageID), Body: message}
	c.a.write(e)
	c.a.mu.Lock()
	fits := deref(m.MessageID) != "" && *m.MessageID == c.a.lastManifest
	if fits {
		c.a.lastManifest = ""
	}
	c.a.mu.Unlock()
	if !fits {
		e.Kind, e.Text = Ignored, "it is not about the last manifest"
		c.a.write(e)
		return nil
	}
	for i, t := range m.StopTasks {
		if t == nil || t.TaskArn == nil {
			return crash{fmt.Sprintf("stopTasks[%d] or its taskArn is null", i)}
		}
		if have := c.a.task(*t.TaskArn); have != nil {
			have.want(stopped)
		}
	}
	return nil
}

// refresh stores new credentials of a task that is known.
func (c *channel) refresh(message json.RawMessage) error {
	var m credentialsMessage
	if err := decode(message, &m); err != nil {
		return err
	}
	e := Entry{Kind: Received, Type: "IAMRoleCredentialsMessage", MessageID: deref(m.MessageID), Task: deref(m.TaskArn)}
	c.a.write(e)
	e.Kind = Ignored
	switch {
	case e.MessageID == "" || m.RoleCredentials == nil || deref(m.RoleCredentials.CredentialsID) == "":
		e.Text = "a member that is needed is missing"
	case c.a.task(e.Task) == nil:
		e.Text = "the task is not known"
	case deref(m.RoleType) != "TaskApplication" && deref(m.RoleType) != "TaskExecution":
		e.Text = "roleType is " + deref(m.RoleType)
	default:
		c.keep(m.RoleCredentials, e.MessageID)
		return nil
	}
	c.a.write(e)
	return nil
}

// keep stores credentials and acknowledges them.
func (c *channel) keep(cr *credentials, message string) {
	id := deref(cr.CredentialsID)
	if _, err := time.Parse(time.RFC3339, deref(cr.Expiration)); err != nil {
		c.a.m.fault("the credentials %s expire at %q, which is no time in RFC 3339", id, deref(cr.Expiration))
	}
	c.a.mu.Lock()
	c.a.credentials[id] = *cr
	c.a.mu.Unlock()
	c.answer("IAMRoleCredentialsAckRequest", message, map[string]any{"messageId": message, "expiration": deref(cr.Expiration), "credentialsId": id})
}
