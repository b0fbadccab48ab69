package engine

import (
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/longshore-project/longshore/protocol/acs"
)

// GPU is what a container needs of the host to use one.
type GPU struct {
	Devices []acs.DeviceMapping
	Mounts  []Mount
	Env     []string
	Hooks   []Hook // only where the engine runs them
}

// pinGPUs gives containers the GPUs that a payload's associations name (agent protocol §4.1).
func pinGPUs(t *Task, host Host) error {
	for i, a := range t.payload.Associations {
		if a == nil || a.Type != "gpu" {
			return fmt.Errorf("associations[%d]: its type is not supported; gpu is", i)
		}
		if _, there := host.GPUs[a.Name]; !there {
			return fmt.Errorf("associations[%d]: this host has no GPU %q; it has %d", i, a.Name, len(host.GPUs))
		}
		if len(a.Containers) != 1 || t.container(a.Containers[0]) == nil {
			return fmt.Errorf("associations[%d]: GPU %s needs exactly one container of the task, and names %q", i, a.Name, a.Containers)
		}
		if slices.Contains(t.Need.GPUs, a.Name) {
			return fmt.Errorf("associations[%d]: GPU %s is given twice", i, a.Name)
		}
		c := t.container(a.Containers[0])
		c.GPUs = append(c.GPUs, a.Name)
		t.Need.GPUs = append(t.Need.GPUs, a.Name)
	}
	return nil
}

// addGPUs puts a container's GPUs into its Spec. What several of them need is there once.
func addGPUs(s *Spec, c *Container, host Host) {
	if len(c.GPUs) == 0 {
		return
	}
	s.HostConfig.Devices, s.Mounts = slices.Clone(s.HostConfig.Devices), slices.Clone(s.Mounts)
	var env []string
	for _, id := range c.GPUs {
		g := host.GPUs[id]
		for _, d := range g.Devices {
			if !slices.Contains(s.HostConfig.Devices, d) {
				s.HostConfig.Devices = append(s.HostConfig.Devices, d)
			}
		}
		for _, m := range g.Mounts {
			if !slices.Contains(s.Mounts, m) {
				s.Mounts = append(s.Mounts, m)
			}
		}
		for _, h := range g.Hooks {
			if !slices.ContainsFunc(s.Hooks, func(have Hook) bool { return reflect.DeepEqual(have, h) }) {
				s.Hooks = append(s.Hooks, h)
			}
		}
		env = append(env, g.Env...)
	}
	// The task's own variables win; NVIDIA's runtime would take this one as a wish for devices.
	s.Env = slices.Concat(slices.DeleteFunc(env, func(kv string) bool { return strings.HasPrefix(kv, "NVIDIA_VISIBLE_DEVICES=") }),
		[]string{"NVIDIA_VISIBLE_DEVICES=" + strings.Join(c.GPUs, ",")}, s.Env)
}
