package agent

import (
	"cmp"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"go.uber.org/zap"

	"github.com/longshore-project/longshore/agent/config"
	"github.com/longshore-project/longshore/agent/dropin"
	"github.com/longshore-project/longshore/engine"
	"github.com/longshore-project/longshore/statemgr"
)

// Where an amazon-ecs-agent has run on this host, its state says who the host is and what its tasks are (package dropin). It is looked at
// before anything else is done, and what counts is what was written to it since it was last looked at: a host may go there and back again. The
// tasks are on record first and the identity last, so that an agent which is killed between the two begins again.

// predecessorAdopt is the value of ECS_PREDECESSOR that takes over.
const predecessorAdopt = "adopt"

// takeOver takes over what another agent has left. While this process lives the other agent waits at its start; the function that is returned
// lets it go on.
func (a *Agent) takeOver() (letGo func(), err error) {
	other, err := dropin.Open(a.cfg.DataDir, filepath.Join(a.opt.Root, "proc"))
	if err != nil || other == nil {
		return func() {}, err
	}
	letGo = func() { _ = other.Close() }
	defer func() {
		if err != nil {
			_ = other.Close()
		}
	}()
	left, err := other.Read()
	switch {
	case err != nil && a.cfg.Predecessor == predecessorAdopt && a.identity == nil:
		return nil, &TerminalError{fmt.Errorf("%w; to register this host as a new container instance and leave that agent's containers alone, set ECS_PREDECESSOR=leave", err)}
	case err != nil:
		a.log.Warn("What an amazon-ecs-agent has left can't be read, and is left alone", zap.Error(err))
		return letGo, nil
	case left == nil:
		return letGo, nil
	}
	a.lastSeen = *left
	a.lastSeen.Tasks = nil
	if a.identity != nil && a.identity.Predecessor == left.Transaction {
		return letGo, nil
	}
	if a.cfg.Predecessor != predecessorAdopt {
		a.log.Info("An amazon-ecs-agent has run on this host; its containers are left alone (ECS_PREDECESSOR)", zap.String("instance", left.InstanceArn), zap.Int("tasks", len(left.Tasks)))
		return letGo, a.seen(left)
	}
	if shown := shownInstance(a.opt.Root); a.copied != nil || shown != "" && left.EC2InstanceID != "" && shown != left.EC2InstanceID {
		a.log.Warn("What an amazon-ecs-agent has left came with a copied disk, and is left alone", zap.String("instance", left.InstanceArn), zap.String("was", left.EC2InstanceID), zap.String("is", shown))
		return letGo, a.seen(left)
	}
	if left.Cluster != a.cfg.ClusterOrDefault() {
		return nil, &TerminalError{fmt.Errorf("an amazon-ecs-agent has registered this host with the cluster %q, and the configuration says %q: set ECS_CLUSTER back, or set ECS_PREDECESSOR=leave to join the other cluster as a new container instance and leave that agent's containers alone", left.Cluster, a.cfg.ClusterOrDefault())}
	}
	if err := obstacles(left.Tasks, a.cfg); err != nil {
		return nil, &TerminalError{err}
	}
	return letGo, a.adopt(left)
}

// mayGoBack reports whether the other agent can come back to what was taken over of it. Then it needs the access key that it had, which a control plane
// of Longshore no longer takes once the host has one of its own. Whoever does not go back removes that agent's state file.
func (a *Agent) mayGoBack() bool {
	return a.lastSeen.InstanceArn != "" && a.lastSeen.InstanceArn == a.savedArn()
}

// obstacles are the tasks that can't be taken over and have not ended: to take over the others alone would start those a second time as soon as the
// control plane sends them.
func obstacles(tasks []dropin.Task, cfg *config.Config) error {
	var names []string
	for _, t := range tasks {
		if t.Obstacle != "" && (t.Record == nil || t.Record.StoppedAt.IsZero()) {
			names = append(names, t.Arn+": "+t.Obstacle)
		}
	}
	if len(names) == 0 {
		return nil
	}
	return fmt.Errorf("%d tasks of an amazon-ecs-agent can't be taken over: %s. Start that agent again and stop them (drain the instance), or set ECS_PREDECESSOR=leave to leave all of its containers alone and register this host as a new container instance of %s",
		len(names), strings.Join(names[:min(len(names), 5)], "; "), cfg.ClusterOrDefault())
}

// adopt puts the tasks on record and makes this host the container instance that it was.
func (a *Agent) adopt(left *dropin.State) error {
	records, err := a.state.Load()
	if err != nil {
		return err
	}
	alive, ended := 0, 0
	for _, t := range left.Tasks {
		if t.Obstacle != "" {
			a.log.Warn("A stopped task of an amazon-ecs-agent can't be taken over; its containers stay until somebody removes them", zap.String("task", t.Arn), zap.String("why", t.Obstacle))
			continue
		}
		i := slices.IndexFunc(records, func(r *engine.TaskRecord) bool { return r.Task.Arn == t.Arn })
		if i >= 0 && !fresher(t.Record, records[i]) {
			continue
		}
		if err := a.state.Save(t.Record); err != nil {
			return fmt.Errorf("take over task %s: %w", t.Arn, err)
		}
		if t.Record.StoppedAt.IsZero() {
			alive++
		} else {
			ended++
		}
	}
	if known, err := a.state.LoadSequence(); err == nil && known < left.Sequence {
		if err := a.state.SaveSequence(left.Sequence); err != nil {
			return err
		}
	}
	if err := a.become(left); err != nil {
		return err
	}
	a.log.Info("What an amazon-ecs-agent has left is taken over; its containers run on, and its state file stays as it is", zap.String("instance", left.InstanceArn),
		zap.String("version", left.AgentVersion), zap.Int("tasks", alive), zap.Int("stopped", ended))
	return nil
}

// fresher reports whether the other agent knows more of a task than is on record here: it had the host since. What has ended has ended, and a task that
// was made here is not the other agent's.
func fresher(theirs, ours *engine.TaskRecord) bool {
	made := slices.ContainsFunc(ours.Containers, func(c *engine.ContainerRecord) bool { return c.RuntimeName == "" && c.Intent != nil })
	return ours.StoppedAt.IsZero() && !made
}

// become makes this host the container instance that it was for the other agent.
func (a *Agent) become(left *dropin.State) error {
	if a.identity != nil && a.identity.ContainerInstanceArn == left.InstanceArn {
		return a.seen(left)
	}
	a.identity = &statemgr.Identity{Cluster: left.Cluster, ContainerInstanceArn: left.InstanceArn, MachineID: a.host.MachineID, BootID: a.host.BootID,
		InstanceID: cmp.Or(left.EC2InstanceID, a.host.MachineID), Engine: config.EngineDocker}
	return a.seen(left)
}

// seen keeps that the state was looked at; where this host is not registered yet, its registration will.
func (a *Agent) seen(left *dropin.State) error {
	if a.identity == nil {
		return nil
	}
	next := *a.identity
	next.Predecessor = left.Transaction
	if err := a.saveIdentity(next); err != nil {
		return err
	}
	a.identity = &next
	a.arn.Store(&next.ContainerInstanceArn)
	return nil
}
