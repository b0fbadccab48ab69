package containerd

import (
	"context"
	"slices"

	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/typeurl/v2"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/longshore-project/longshore/engine"
)

// Asked shows what the running containers have of the host: ours, or with all every container of the namespace. It is for a person's
// question, and changes nothing.
func (r *Runtime) Asked(ctx context.Context, all bool) ([]engine.Asked, error) {
	ctx = r.ns(ctx)
	tasks, list, err := r.everything(ctx)
	if err != nil {
		return nil, err
	}
	var out []engine.Asked
	for _, c := range list {
		if !alive(tasks[c.ID]) {
			continue
		}
		if b, err := open(c); err == nil {
			out = append(out, asked(b))
		} else if all {
			out = append(out, askedByStranger(c))
		}
	}
	return out, nil
}

// asked is what a container of ours was given, by what it was made of.
func asked(b box) engine.Asked {
	spec, host := b.rec.Spec, b.rec.Spec.HostConfig
	c := engine.PolicyContainer{Name: spec.Labels[engine.LabelContainerName], Image: spec.Image, Privileged: host.Privileged, HostPID: host.PidMode == "host",
		HostIPC: host.IpcMode == "host", HostNetwork: networkMode(spec) == "host", CapAdd: slices.Clone(host.CapAdd)}
	for _, m := range spec.Mounts {
		if m.Type == "bind" {
			c.Paths = append(c.Paths, engine.PolicyPath{Path: m.Source, ReadOnly: m.ReadOnly})
		}
	}
	for _, d := range host.Devices {
		c.Paths = append(c.Paths, engine.PolicyPath{Path: d.PathOnHost, Device: true})
	}
	return engine.Asked{ID: b.ID, Name: spec.Name, Task: engine.PolicyTask{Family: spec.Labels[engine.LabelFamily], Containers: []engine.PolicyContainer{c}}}
}

// askedByStranger is the same of a container that somebody else made: the OCI runtime's configuration says what it has.
func askedByStranger(c containers.Container) engine.Asked {
	pc := engine.PolicyContainer{Name: c.ID, Image: c.Image}
	var spec specs.Spec
	if c.Spec != nil && typeurl.UnmarshalTo(c.Spec, &spec) == nil && spec.Linux != nil {
		own := func(kind specs.LinuxNamespaceType) bool {
			return slices.ContainsFunc(spec.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == kind })
		}
		pc.HostPID, pc.HostIPC, pc.HostNetwork = !own(specs.PIDNamespace), !own(specs.IPCNamespace), !own(specs.NetworkNamespace)
		pc.Privileged = spec.Linux.Seccomp == nil && len(spec.Linux.MaskedPaths) == 0
		for _, m := range spec.Mounts {
			if m.Type == "bind" || slices.Contains(m.Options, "bind") || slices.Contains(m.Options, "rbind") {
				pc.Paths = append(pc.Paths, engine.PolicyPath{Path: m.Source, ReadOnly: slices.Contains(m.Options, "ro")})
			}
		}
		for _, d := range spec.Linux.Devices {
			pc.Paths = append(pc.Paths, engine.PolicyPath{Path: d.Path, Device: true})
		}
		pc.CapAdd = added(&spec)
	}
	return engine.Asked{ID: c.ID, Name: c.ID, Task: engine.PolicyTask{Containers: []engine.PolicyContainer{pc}}}
}

// added are the capabilities beyond those that every container has.
func added(spec *specs.Spec) (more []string) {
	usual, err := base("policy")
	if err != nil || spec.Process == nil || spec.Process.Capabilities == nil {
		return nil
	}
	for _, c := range spec.Process.Capabilities.Bounding {
		if !slices.Contains(usual.Process.Capabilities.Bounding, c) {
			more = append(more, c)
		}
	}
	return more
}
