package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"go.uber.org/zap"

	"github.com/longshore-project/longshore/agent/depart"
	"github.com/longshore-project/longshore/agent/session"
	"github.com/longshore-project/longshore/engine"
	"github.com/longshore-project/longshore/internal/durable"
	"github.com/longshore-project/longshore/protocol/acs"
	"github.com/longshore-project/longshore/protocol/agentapi"
)

// How this host leaves; package depart has the model. Whoever learns of it calls a.departure.Depart.

// newDeparture joins it to the engine and to the control plane.
func (a *Agent) newDeparture(client *agentapi.Client) *depart.Departure {
	api := client.With(agentapi.DepartureHeader, "daemons-last")
	return depart.New(depart.Config{
		Log: a.log, Tasks: a.departing, Park: a.engine.Park, Connected: func() bool { return a.link.get().Connected }, Sent: a.sent,
		Stop: func(ctx context.Context, arn string) error {
			return a.engine.Accept(ctx, &acs.Task{Arn: arn, DesiredStatus: acs.StatusStopped})
		},
		Tell: func(ctx context.Context, n depart.Notice) error { return a.drainMyself(ctx, api, n) },
	})
}

// departing are this host's tasks as a departure sees them.
func (a *Agent) departing() []depart.Task {
	all := a.engine.Tasks()
	resumes := a.cfg.ResumeOnBoot == "daemons" && abilitiesOf(a.runtime).restarts
	tasks := make([]depart.Task, len(all))
	for i := range all {
		t := &all[i]
		tasks[i] = depart.Task{Arn: t.Arn, Daemon: t.Daemon(), Resumes: resumes, Stopping: t.Desired == acs.StatusStopped, Stopped: t.Known == acs.StatusStopped, Grace: a.graceOf(t)}
	}
	return tasks
}

// graceOf is how long the containers of a task may take to stop: side by side, but one after the other where they depend on each other.
func (a *Agent) graceOf(t *engine.TaskStatus) time.Duration {
	if t.Payload == nil {
		return a.cfg.ContainerStopTimeout
	}
	var longest, sum time.Duration
	chained := false
	for _, c := range t.Payload.Containers {
		grace := time.Duration(c.StopTimeout) * time.Second
		if grace <= 0 {
			grace = a.cfg.ContainerStopTimeout
		}
		longest, sum = max(longest, grace), sum+grace
		chained = chained || len(c.DependsOn) > 0
	}
	if chained {
		return sum
	}
	return longest
}

// sent says whether nothing is left to be reported.
func (a *Agent) sent() bool {
	changes, err := a.state.Changes()
	return err != nil || len(changes) == 0
}

// departureName is the file that says that this host made itself DRAINING, in the state directory.
const departureName = "departure.json"

// selfDrained is what it holds.
type selfDrained struct {
	Boot string      `json:"boot"`
	Kind depart.Kind `json:"kind"`
	Why  string      `json:"why"`
}

// drainMyself makes this host DRAINING, unless it is: then somebody else wants it so, and it will stay so. That this host did it is on
// record before it does.
func (a *Agent) drainMyself(ctx context.Context, api session.API, n depart.Notice) error {
	again := a.enrolled.Load()
	if again == nil {
		return errors.New("this host is not registered")
	}
	name := filepath.Join(a.cfg.DataDir, departureName)
	if _, err := os.Stat(name); errors.Is(err, fs.ErrNotExist) {
		// To register again is the one call in which the control plane shows a host its own record.
		var out agentapi.RegisterContainerInstanceOutput
		if err := api.Call(ctx, "RegisterContainerInstance", again, &out); err != nil {
			return fmt.Errorf("ask the control plane for this host's status: %w", err)
		}
		if out.ContainerInstance == nil || out.ContainerInstance.Status == nil {
			return errors.New("ask the control plane for this host's status: the answer does not have it")
		}
		if s := *out.ContainerInstance.Status; s != string(agentapi.ContainerInstanceStatusActive) {
			a.log.Info("This host leaves, and was taken out of service before: it stays so when it is back", zap.String("status", s))
			return nil
		}
		data, err := json.Marshal(selfDrained{Boot: a.host.BootID, Kind: n.Kind, Why: n.Why})
		if err != nil {
			return err
		}
		if err := a.reserve.try(func() error { return durable.Write(name, data, 0o600) }); err != nil {
			return fmt.Errorf("note that this host drains itself: %w", err)
		}
	}
	return a.setStatus(ctx, api, agentapi.ContainerInstanceStatusDraining)
}

// setStatus makes this host ACTIVE or DRAINING.
func (a *Agent) setStatus(ctx context.Context, api session.API, status agentapi.ContainerInstanceStatus) error {
	cluster, arn := a.cfg.ClusterOrDefault(), *a.arn.Load()
	var out agentapi.UpdateContainerInstancesStateOutput
	if err := api.Call(ctx, "UpdateContainerInstancesState", &agentapi.UpdateContainerInstancesStateInput{Cluster: &cluster, ContainerInstances: []string{arn}, Status: status}, &out); err != nil {
		return fmt.Errorf("make this host %s: %w", status, err)
	}
	for _, f := range out.Failures {
		return fmt.Errorf("make this host %s: the control plane says %s %s", status, deref(f.Reason), deref(f.Detail))
	}
	return nil
}

// deref is a text of an answer, empty where it has none.
func deref(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}
