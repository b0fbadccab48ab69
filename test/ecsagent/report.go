package ecsagent

import (
	"errors"
	"fmt"
	"time"
)

// stateChange is SubmitTaskStateChange, in the order of the wire.
type stateChange struct {
	Attachments        []attachmentChange `json:"attachments,omitempty"`
	Cluster            string             `json:"cluster"`
	Containers         []containerChange  `json:"containers,omitempty"`
	ExecutionStoppedAt float64            `json:"executionStoppedAt,omitempty"`
	PullStartedAt      float64            `json:"pullStartedAt,omitempty"`
	PullStoppedAt      float64            `json:"pullStoppedAt,omitempty"`
	Reason             string             `json:"reason"`
	Status             string             `json:"status,omitempty"`
	Task               string             `json:"task"`
}

type containerChange struct {
	ContainerName   string    `json:"containerName"`
	ExitCode        *int      `json:"exitCode,omitempty"`
	ImageDigest     string    `json:"imageDigest,omitempty"`
	NetworkBindings []binding `json:"networkBindings,omitempty"`
	Reason          string    `json:"reason,omitempty"`
	RuntimeID       string    `json:"runtimeId,omitempty"`
	Status          string    `json:"status"`
}

type binding struct {
	BindIP        string `json:"bindIP"`
	ContainerPort int64  `json:"containerPort"`
	HostPort      int64  `json:"hostPort"`
	Protocol      string `json:"protocol"`
}

// emit puts a task's status into its queue, with what its containers have not told yet. STOPPED is the last word.
func (a *Agent) emit(t *managed, status string) {
	cluster := a.cluster()
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.final {
		return
	}
	t.final = status == stopped
	change := &stateChange{Cluster: cluster, Reason: t.reason, Status: status, Task: t.arn,
		PullStartedAt: seconds(t.pullStarted), PullStoppedAt: seconds(t.pullStopped), ExecutionStoppedAt: seconds(t.executionStopped)}
	for _, c := range t.containers {
		news := c.status != c.reported
		if !news && (c.told || c.digest == "") {
			continue
		}
		c.reported, c.told = c.status, c.digest != ""
		entry := containerChange{ContainerName: *c.def.Name, ImageDigest: c.digest, RuntimeID: c.id, Status: c.status, Reason: c.reason, NetworkBindings: c.bindings}
		if c.status == stopped {
			entry.ExitCode = c.exit
		}
		change.Containers = append(change.Containers, entry)
	}
	t.queue = append(t.queue, change)
	select {
	case t.queued <- struct{}{}:
	default:
	}
}

func seconds(t time.Time) float64 {
	if t.IsZero() {
		return 0
	}
	return float64(t.UnixMilli()) / 1000
}

// drain tells what containers have not told yet, with their task's status as it is. Tasks that are over are left out.
func (a *Agent) drain() {
	for a.sleep(a.cfg.Timers.Drain + jitter(a.cfg.Timers.DrainJitter)) {
		for _, t := range a.known() {
			t.mu.Lock()
			status, news := t.status, false
			for _, c := range t.containers {
				news = news || c.status != c.reported
			}
			t.mu.Unlock()
			if news && status != stopped {
				a.emit(t, status)
			}
		}
	}
}

// report submits a task's changes, one after the other.
func (a *Agent) report(t *managed) {
	for {
		t.mu.Lock()
		if len(t.queue) == 0 {
			over := t.sent == stopped
			t.mu.Unlock()
			if over {
				return
			}
			select {
			case <-a.ctx.Done():
				return
			case <-t.queued:
			}
			continue
		}
		change := t.queue[0]
		t.queue = t.queue[1:]
		t.mu.Unlock()
		if !a.submit(change) {
			return
		}
		t.mu.Lock()
		if change.Status != pending {
			t.sent = change.Status
		}
		for _, told := range change.Containers {
			for _, c := range t.containers {
				if *c.def.Name == told.ContainerName {
					c.sent = told.Status
				}
			}
		}
		t.mu.Unlock()
	}
}

// submit makes a call until it is accepted, or the control plane says that it does not know the task. It is false when the
// process ends before.
func (a *Agent) submit(change *stateChange) bool {
	select {
	case a.slots <- struct{}{}:
	case <-a.ctx.Done():
		return false
	}
	defer func() { <-a.slots }()
	wait := backoff{first: a.cfg.Timers.SubmitAgain, most: a.cfg.Timers.SubmitAgainMost, factor: 1.3}
	for {
		err := a.call("SubmitTaskStateChange", change, nil, 298)
		var e *apiError
		switch {
		case err == nil:
			a.write(Entry{Kind: Sent, Type: "SubmitTaskStateChange", Task: change.Task, Status: change.Status})
			return true
		case errors.As(err, &e) && e.Code == "InvalidParameterException":
			a.write(Entry{Kind: Dropped, Type: "SubmitTaskStateChange", Task: change.Task, Status: change.Status, Text: err.Error()})
			return true
		case !a.sleep(wait.next()):
			return false
		}
	}
}

// reportUnreadable tells of a task that can't be loaded.
func (a *Agent) reportUnreadable(arn string, why error) {
	change := &stateChange{Cluster: a.cluster(), Reason: fmt.Sprintf("UnrecogniedTaskError: Error loading task - %v", why), Status: stopped, Task: arn}
	a.wg.Go(func() { a.submit(change) })
}

// Report submits a task's status once, whatever is true, and returns the control plane's answer.
func (a *Agent) Report(arn, status string) error {
	return a.call("SubmitTaskStateChange", &stateChange{Cluster: a.cluster(), Status: status, Task: arn}, nil, 1)
}
