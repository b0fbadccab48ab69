package agent

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/longshore-project/longshore/engine"
	"github.com/longshore-project/longshore/engine/cgroup"
	"github.com/longshore-project/longshore/engine/policy"
	"github.com/longshore-project/longshore/protocol/agentapi"
)

// probeTimeout bounds the proof that tasks' limits can be set.
const probeTimeout = 30 * time.Second

// newGroups are the control groups of tasks, once a group with every kind of limit could be made and removed on this host.
// Where that can't be done the limits are switched off, so that they are not advertised; that is an error where the
// configuration asks for them by name (agent-protocol section 1.4).
func (a *Agent) newGroups() (engine.TaskGroups, error) {
	if !a.cfg.TaskLimits {
		return nil, nil
	}
	groups, err := a.proveGroups()
	switch {
	case err == nil:
		return groups, nil
	case a.cfg.TaskLimitsDemanded:
		return nil, &TerminalError{fmt.Errorf("ECS_ENABLE_TASK_CPU_MEM_LIMIT is true, and tasks' limits can't be set on this host: %w", err)}
	}
	a.cfg.TaskLimits = false
	a.log.Warn("Tasks' limits can't be set on this host: tasks with a cpu or memory of their own are not taken (no attribute ecs.capability.task-cpu-mem-limit)", zap.Error(err))
	return nil, nil
}

func (a *Agent) proveGroups() (engine.TaskGroups, error) {
	info := a.info.Load()
	groups, err := cgroup.New(cgroup.Options{Root: a.cfg.CgroupPath, Driver: info.CgroupDriver, Version: info.CgroupVersion, Period: a.cfg.CgroupCPUPeriod,
		Pids: a.cfg.TaskPidsLimit, Owner: cgroup.OwnerOf(a.cfg.DataDir)})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), probeTimeout)
	defer cancel()
	begun := time.Now()
	if err := groups.Probe(ctx); err != nil {
		return nil, err
	}
	a.log.Info("Tasks' limits can be set", zap.Int("cgroups", info.CgroupVersion), zap.String("driver", info.CgroupDriver), zap.Duration("duration", time.Since(begun)))
	return groups, nil
}

// newGuard is the host's policy. It is read at once, so that a mistake in it is said before the first task comes.
func (a *Agent) newGuard() *policy.Guard {
	g := policy.NewGuard(policy.Options{File: a.cfg.HostPolicyFile, Sockets: sockets(engineAddress(a.cfg)), Log: a.log})
	_, _ = g.Load()
	return g
}

// sockets is the engine's endpoint where it is a socket of this host.
func sockets(endpoint string) []string {
	if path, ok := strings.CutPrefix(endpoint, "unix://"); ok {
		return []string{path}
	}
	return nil
}

// withPolicy adds a policy's attributes to others, in order of name.
func withPolicy(attributes []agentapi.Attribute, of map[string]string) []agentapi.Attribute {
	for _, name := range slices.Sorted(maps.Keys(of)) {
		value := of[name]
		attributes = append(attributes, agentapi.Attribute{Name: &name, Value: &value})
	}
	slices.SortStableFunc(attributes, func(a, b agentapi.Attribute) int { return strings.Compare(*a.Name, *b.Name) })
	return attributes
}
