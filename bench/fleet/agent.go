package fleet

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/url"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/longshore-project/longshore/protocol/acs"
	"github.com/longshore-project/longshore/protocol/agentapi"
)

// Agent is one played agent.
type Agent struct {
	// ARN is the container instance's. Began is when it asked to register, Registered when that was answered, Connected when
	// its ACS socket stood.
	ARN                          string
	Began, Registered, Connected time.Time

	fleet    *Fleet
	cluster  string
	acs, tcs *socket
}

// Tally is what happened to the tasks of a family. First is by ARN of the agent: when it acknowledged its first task.
type Tally struct {
	Acknowledged, Running, Stopped int // payloads to run, and reports
	LastAck, LastRunning, LastStop time.Time
	First                          map[string]time.Time
}

// Tally returns a copy of a family's.
func (f *Fleet) Tally(family string) Tally {
	f.mu.Lock()
	defer f.mu.Unlock()
	if t := f.tally[family]; t != nil {
		c := *t
		c.First = nil
		return c
	}
	return Tally{}
}

// FirstAcks is Tally.First of a family, copied.
func (f *Fleet) FirstAcks(family string) map[string]time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	if t := f.tally[family]; t != nil {
		return maps.Clone(t.First)
	}
	return nil
}

// FirstAck is when an agent acknowledged its first task of a family; zero: not yet.
func (f *Fleet) FirstAck(family, agent string) time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	if t := f.tally[family]; t != nil {
		return t.First[agent]
	}
	return time.Time{}
}

func (f *Fleet) count(family string, count func(t *Tally, now time.Time)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	t := f.tally[family]
	if t == nil {
		t = &Tally{First: map[string]time.Time{}}
		f.tally[family] = t
	}
	count(t, time.Now())
}

func (a *Agent) acsQuery() string {
	return url.Values{
		"clusterArn": {a.cluster}, "containerInstanceArn": {a.ARN}, "agentVersion": {"0.1.0"}, "agentHash": {"1234567"},
		"dockerVersion": {"DockerVersion: 20.10.24"}, "protocolVersion": {"2"}, "sendCredentials": {"true"}, "seqNum": {"1"},
	}.Encode()
}

func (a *Agent) tcsQuery() string {
	return url.Values{"cluster": {a.cluster}, "containerInstance": {a.ARN}, "agentVersion": {"0.1.0"}, "agentHash": {"1234567"}, "dockerVersion": {"20.10.24"}}.Encode()
}

// told is what an agent reads of a message. It reads no more than it needs: real agents have a machine each.
type told struct {
	Type    string `json:"type"`
	Message struct {
		MessageID string `json:"messageId"`
		Tasks     []struct {
			Arn           string `json:"arn"`
			Family        string `json:"family"`
			DesiredStatus string `json:"desiredStatus"`
			Containers    []struct {
				Name string `json:"name"`
			} `json:"containers"`
		} `json:"tasks"`
	} `json:"message"`
}

// receive takes one frame of ACS.
func (a *Agent) receive(s *socket, frame []byte) error {
	var m told
	if err := json.Unmarshal(frame, &m); err != nil {
		return err
	}
	answer := "AckRequest"
	switch m.Type {
	case "HeartbeatMessage":
		answer = "HeartbeatAckRequest"
	case "TaskManifestMessage", "PayloadMessage":
	default:
		return nil
	}
	if err := s.write(opText, fmt.Appendf(nil, `{"type":%q,"message":{"cluster":%q,"containerInstance":%q,"messageId":%q}}`, answer, a.cluster, a.ARN, m.Message.MessageID)); err != nil {
		return err
	}
	if m.Type == "PayloadMessage" {
		for _, t := range m.Message.Tasks {
			r := report{family: t.Family, task: t.Arn, stop: t.DesiredStatus == acs.StatusStopped}
			for _, c := range t.Containers {
				r.containers = append(r.containers, c.Name)
			}
			a.take(r)
		}
	}
	return nil
}

// take has a task's new state reported.
func (a *Agent) take(r report) {
	if !r.stop {
		a.fleet.count(r.family, func(t *Tally, now time.Time) {
			t.Acknowledged++
			t.LastAck = now
			if t.First[a.ARN].IsZero() {
				t.First[a.ARN] = now
			}
		})
	}
	a.fleet.owed.Add(1)
	select {
	case a.fleet.reports <- r:
	case <-a.fleet.ctx.Done():
	}
}

// report is what an agent has to say about a task.
type report struct {
	family, task string
	stop         bool
	containers   []string
}

// report makes the calls that agents make: one for a task that runs and one when it ends, since what a task was before it ran goes
// unsaid when it runs within a second.
func (f *Fleet) report() {
	c := f.caller()
	defer c.close()
	for {
		select {
		case <-f.ctx.Done():
			return
		case r := <-f.reports:
			if err := f.submit(c, r); err != nil && f.ctx.Err() == nil {
				f.failed.Add(1)
				f.note(err)
			}
			f.owed.Add(-1)
		}
	}
}

// Rest waits until every report was made that agents have to make, or ctx ends.
func (f *Fleet) Rest(ctx context.Context) {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for f.owed.Load() > 0 && ctx.Err() == nil {
		<-tick.C
	}
}

func (f *Fleet) submit(c *caller, r report) error {
	status, exit := "RUNNING", ""
	if r.stop {
		status, exit = "STOPPED", `,"exitCode":0`
	}
	body := fmt.Appendf(c.body[:0], `{"cluster":%q,"task":%q,"status":%q,"containers":[`, f.cfg.Cluster, r.task, status)
	for i, name := range r.containers {
		if i > 0 {
			body = append(body, ',')
		}
		body = fmt.Appendf(body, `{"containerName":%q,"runtimeId":"5f0c7d6e5f0c7d6e5f0c7d6e5f0c7d6e5f0c7d6e5f0c7d6e5f0c7d6e5f0c7d6e","status":%q%s}`, name, status, exit)
	}
	c.body = append(body, "]}"...)
	if err := c.call("SubmitTaskStateChange"); err != nil {
		return err
	}
	f.count(r.family, func(t *Tally, now time.Time) {
		if r.stop {
			t.Stopped++
			t.LastStop = now
		} else {
			t.Running++
			t.LastRunning = now
		}
	})
	return nil
}

// What each agent registers with: room for any measurement, and as many attributes as a real agent has.
var (
	resources = []agentapi.Resource{
		integer("CPU", 1_000_000), integer("MEMORY", 4_000_000), set("PORTS", "22", "2375", "2376", "51678", "51679"), set("PORTS_UDP"),
	}
	attributes = func() (list []agentapi.Attribute) {
		for _, name := range []string{
			"com.amazonaws.ecs.capability.privileged-container", "com.amazonaws.ecs.capability.docker-remote-api.1.17",
			"com.amazonaws.ecs.capability.docker-remote-api.1.18", "com.amazonaws.ecs.capability.docker-remote-api.1.19",
			"com.amazonaws.ecs.capability.docker-remote-api.1.20", "com.amazonaws.ecs.capability.docker-remote-api.1.21",
			"com.amazonaws.ecs.capability.docker-remote-api.1.22", "com.amazonaws.ecs.capability.docker-remote-api.1.23",
			"com.amazonaws.ecs.capability.docker-remote-api.1.24", "com.amazonaws.ecs.capability.docker-remote-api.1.25",
			"com.amazonaws.ecs.capability.docker-remote-api.1.26", "com.amazonaws.ecs.capability.docker-remote-api.1.27",
			"com.amazonaws.ecs.capability.docker-remote-api.1.28", "com.amazonaws.ecs.capability.docker-remote-api.1.29",
			"com.amazonaws.ecs.capability.docker-remote-api.1.30", "com.amazonaws.ecs.capability.docker-remote-api.1.31",
			"com.amazonaws.ecs.capability.docker-remote-api.1.32", "com.amazonaws.ecs.capability.logging-driver.json-file",
			"com.amazonaws.ecs.capability.logging-driver.none", "ecs.capability.container-ordering", "ecs.capability.container-health-check",
			"ecs.capability.docker-plugin.local", "ecs.capability.pid-ipc-namespace-sharing", "ecs.capability.task-cpu-mem-limit",
			"ecs.capability.container-restart-policy", "ecs.capability.network.container-port-range",
		} {
			list = append(list, agentapi.Attribute{Name: aws.String(name)})
		}
		return append(list, agentapi.Attribute{Name: aws.String("ecs.os-type"), Value: aws.String("linux")}, agentapi.Attribute{Name: aws.String("ecs.cpu-architecture"), Value: aws.String("x86_64")})
	}()
)

func integer(name string, value int32) agentapi.Resource {
	return agentapi.Resource{Name: aws.String(name), Type: aws.String("INTEGER"), IntegerValue: value}
}

func set(name string, values ...string) agentapi.Resource {
	return agentapi.Resource{Name: aws.String(name), Type: aws.String("STRINGSET"), StringSetValue: values}
}
