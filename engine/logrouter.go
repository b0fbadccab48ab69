package engine

import (
	"cmp"
	"context"
	"fmt"
	"maps"

	"github.com/longshore-project/longshore/engine/firelens"
	"github.com/longshore-project/longshore/protocol/acs"
)

// routing finds the task's log router and puts it before the containers that log through it: it starts before them and
// stops after them.
func routing(t *Task, host Host) error {
	var sources []firelens.Source
	for _, c := range t.Containers {
		routed := c.routed()
		switch {
		case c.payload.FirelensConfiguration == nil:
		case t.routed != nil:
			return fmt.Errorf("container %s: firelensConfiguration: container %s of the task is a log router already", c.Name, t.routed.Name)
		case routed:
			return fmt.Errorf("container %s: a log router can't use the log driver %s itself", c.Name, firelens.Driver)
		default:
			t.routed = c
		}
		if routed {
			sources = append(sources, firelens.Source{Name: c.Name, Index: c.index, Options: c.hostConfig.LogConfig.Config, Secrets: logSecrets(c.payload)})
		}
	}
	if t.routed == nil {
		if len(sources) > 0 {
			return fmt.Errorf("container %s: the log driver %s needs a container with firelensConfiguration in the task", sources[0].Name, firelens.Driver)
		}
		return nil
	}
	dir := firelens.Dir(host.FirelensDir, t.Arn)
	if dir == "" {
		return fmt.Errorf("container %s: firelensConfiguration is not supported: the agent has no directory for log routers", t.routed.Name)
	}
	f := t.routed.payload.FirelensConfiguration
	var err error
	if t.router, err = firelens.New(firelens.Task{Kind: f.Type, Options: f.Options, Bridge: t.routed.NetworkMode == "bridge", Cluster: cmp.Or(host.Cluster, clusterName(t.Cluster)),
		Arn: t.Arn, Definition: t.Family + ":" + t.Version, Sources: sources}); err != nil {
		return fmt.Errorf("container %s: %w", t.routed.Name, err)
	}
	for _, s := range sources {
		t.routed.outputSecrets = t.routed.outputSecrets || len(s.Secrets) > 0
		if c := t.container(s.Name); !dependsOn(c, t.routed.Name) {
			c.DependsOn = append(c.DependsOn, Dependency{t.routed.Name, ConditionStart})
		}
	}
	return nil
}

// routed reports whether the container logs through the task's router.
func (c *Container) routed() bool {
	return c.hostConfig.LogConfig != nil && c.hostConfig.LogConfig.Type == firelens.Driver
}

// logSecrets are the names of the log driver's options that are secrets.
func logSecrets(p *acs.Container) []string {
	var names []string
	for _, s := range p.Secrets {
		if s.Target == TargetLogDriver {
			names = append(names, s.Name)
		}
	}
	return names
}

// resolveOutputs adds the secret options of the router's outputs to its environment, where its configuration refers to them.
func resolveOutputs(ctx context.Context, secrets Secrets, t *Task, got *Resolved) error {
	env := map[string]string{}
	maps.Copy(env, got.Environment)
	for _, c := range t.Containers {
		if !c.routed() || len(logSecrets(c.payload)) == 0 {
			continue
		}
		of, err := secrets.Resolve(ctx, t.payload, c.Name)
		if err != nil {
			return err
		}
		for name, value := range of.LogOptions {
			env[firelens.SecretVariable(name, c.index)] = value
		}
	}
	got.Environment = env
	return nil
}

// placeRouter puts the configuration of the task's router on the host before the router is made.
func placeRouter(t *Task, c *Container, host Host, got *Resolved) error {
	if t.routed != c {
		return nil
	}
	var external []byte
	if got != nil {
		external = got.RouterConfig
	}
	if err := firelens.Prepare(firelens.Dir(host.FirelensDir, t.Arn), t.router.Config(), external); err != nil {
		return fmt.Errorf("ResourceInitializationError: failed to create firelens resource: %w", err)
	}
	return nil
}

// route completes the Spec of the router, and of those that log through it. address is the router's on the bridge.
func route(t *Task, c *Container, host Host, address string, s *Spec) error {
	dir := firelens.Dir(host.FirelensDir, t.Arn)
	switch {
	case t.routed == c:
		s.Mounts = append(s.Mounts, Mount{Type: "bind", Source: firelens.ConfigPath(dir), Target: t.router.ConfigTarget(), ReadOnly: true},
			Mount{Type: "bind", Source: firelens.SocketDir(dir), Target: firelens.SocketTarget})
		if _, target := t.router.External(); target != "" {
			s.Mounts = append(s.Mounts, Mount{Type: "bind", Source: firelens.ExternalPath(dir), Target: target, ReadOnly: true})
		}
	case t.routed != nil && c.routed():
		options, err := firelens.LogOptions(dir, c.Name, t.Arn, c.hostConfig.LogConfig.Config, host.FirelensAsync)
		if err != nil {
			return err
		}
		s.HostConfig.LogConfig = &acs.LogConfig{Type: "fluentd", Config: options}
		if t.routed.NetworkMode == "bridge" && c.NetworkMode == "bridge" {
			env, err := firelens.Environment(address)
			if err != nil {
				return err
			}
			s.Env = append(s.Env, env...)
		}
	}
	return nil
}

// routerAddress is the router's address on the bridge, as far as it is known.
func (w *worker) routerAddress() string {
	if w.task.routed == nil {
		return ""
	}
	if co := w.obs.of(w.task.routed.Name); co.alive() && len(co.State.Addresses) > 0 {
		return co.State.Addresses[0]
	}
	return ""
}
