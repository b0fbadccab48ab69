package docker

import (
	"context"
	"slices"
	"strings"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/filters"

	"github.com/longshore-project/longshore/engine"
)

// Asked shows what the running containers have of the host: ours, or with all every container of the engine. It is for a
// person's question and asks the engine once for each container. What ends meanwhile is left out.
func (r *Runtime) Asked(ctx context.Context, all bool) ([]engine.Asked, error) {
	opts := container.ListOptions{}
	if !all {
		opts.Filters = filters.NewArgs(filters.Arg("label", engine.LabelTaskArn))
	}
	list, err := r.link.api(ctx).ContainerList(ctx, opts)
	if err != nil {
		return nil, classify(ctx, err)
	}
	var out []engine.Asked
	for _, c := range list {
		full, err := r.link.api(ctx).ContainerInspect(ctx, c.ID)
		if err != nil || full.ContainerJSONBase == nil || full.Config == nil || full.HostConfig == nil {
			if ctx.Err() != nil {
				return nil, classify(ctx, ctx.Err())
			}
			continue
		}
		out = append(out, asked(full))
	}
	return out, nil
}

func asked(c container.InspectResponse) engine.Asked {
	a := engine.Asked{ID: c.ID, Name: strings.TrimPrefix(c.Name, "/")}
	host := c.HostConfig
	pc := engine.PolicyContainer{Name: c.Config.Labels[engine.LabelContainerName], Image: c.Config.Image, Privileged: host.Privileged, HostPID: host.PidMode.IsHost(),
		HostIPC: host.IpcMode.IsHost(), HostNetwork: host.NetworkMode.IsHost(), CapAdd: slices.Clone(host.CapAdd)}
	if pc.Name == "" {
		pc.Name = a.Name
	}
	for _, m := range c.Mounts {
		if m.Type == "bind" {
			pc.Paths = append(pc.Paths, engine.PolicyPath{Path: m.Source, ReadOnly: !m.RW})
		}
	}
	for _, d := range host.Devices {
		pc.Paths = append(pc.Paths, engine.PolicyPath{Path: d.PathOnHost, Device: true})
	}
	a.Task = engine.PolicyTask{Family: c.Config.Labels[engine.LabelFamily], Containers: []engine.PolicyContainer{pc}}
	return a
}
