package fleet

import (
	"context"
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

func (a *Agent) close() {
	a.acs.close()
	if a.tcs != nil {
		a.tcs.close()
	}
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

// receive takes one frame of ACS.
func (a *Agent) receive(frame []byte) error {
	m, err := acs.Decode(frame)
	if err != nil {
		return err
	}
	switch m := m.(type) {
	case *acs.HeartbeatMessage:
		return a.send(&acs.HeartbeatAckRequest{MessageID: m.MessageID})
	case *acs.TaskManifestMessage:
		return a.acknowledge(m.MessageID)
	case *acs.PayloadMessage:
		if err := a.acknowledge(m.MessageID); err != nil {
			return err
		}
		for _, t := range m.Tasks {
			a.take(t)
		}
	}
	return nil
}

func (a *Agent) acknowledge(message string) error {
	return a.send(&acs.AckRequest{Cluster: a.cluster, ContainerInstance: a.ARN, MessageID: message})
}

func (a *Agent) send(m any) error {
	frame, err := acs.Encode(m)
	if err != nil {
		return err
	}
	return a.acs.write(opText, frame)
}

// take has a task's new state reported.
func (a *Agent) take(t *acs.Task) {
	r := report{family: t.Family, task: t.Arn, stop: t.DesiredStatus == acs.StatusStopped}
	for _, c := range t.Containers {
		r.containers = append(r.containers, c.Name)
	}
	if !r.stop {
		a.fleet.count(t.Family, func(t *Tally, now time.Time) {
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

// report makes the calls that agents make.
func (f *Fleet) report() {
	for {
		select {
		case <-f.ctx.Done():
			return
		case r := <-f.reports:
			statuses := []string{"PENDING", "RUNNING"}
			if r.stop {
				statuses = []string{"STOPPED"}
			}
			for _, status := range statuses {
				if err := f.submit(r, status); err != nil {
					if f.ctx.Err() == nil {
						f.failed.Add(1)
						f.note(err)
					}
					break
				}
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

func (f *Fleet) submit(r report, status string) error {
	in := &agentapi.SubmitTaskStateChangeInput{Cluster: &f.cfg.Cluster, Task: &r.task, Status: &status}
	for _, name := range r.containers {
		c := agentapi.ContainerStateChange{ContainerName: &name, Status: &status}
		if status != "PENDING" {
			c.RuntimeId = aws.String("5f0c7d6e5f0c7d6e5f0c7d6e5f0c7d6e5f0c7d6e5f0c7d6e5f0c7d6e5f0c7d6e")
		}
		if status == "STOPPED" {
			c.ExitCode = aws.Int32(0)
		}
		in.Containers = append(in.Containers, c)
	}
	if err := f.api.Call(f.ctx, "SubmitTaskStateChange", in, nil); err != nil {
		return err
	}
	f.count(r.family, func(t *Tally, now time.Time) {
		switch status {
		case "RUNNING":
			t.Running++
			t.LastRunning = now
		case "STOPPED":
			t.Stopped++
			t.LastStop = now
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
