// Package seen asks a host's engine what it has, and not the agent: what tests see of containers beside what the control plane says of
// them. The vocabulary is Docker's for both engines; what containerd has no word for stays empty.
package seen

import (
	"bytes"
	"context"
	"fmt"
	"io"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/api/types/volume"
	"github.com/docker/docker/client"
	"github.com/docker/docker/pkg/stdcopy"
)

// Engine is a host's Docker or containerd. It may be asked by several goroutines.
type Engine interface {
	// List returns the containers of tasks, newest first.
	List(ctx context.Context) ([]container.Summary, error)
	Inspect(ctx context.Context, id string) (container.InspectResponse, error)
	Volume(ctx context.Context, name string) (volume.Volume, error)
	// Output is what a container has written, as far as the engine keeps it.
	Output(ctx context.Context, id string) (string, error)
	// Exec runs a program in a container and returns what it writes; one that fails is an error.
	Exec(ctx context.Context, id string, argv ...string) (string, error)
	// Kill ends a container's process without warning, Remove deletes a container that does not run.
	Kill(ctx context.Context, id string) error
	Remove(ctx context.Context, id string) error
	Close() error
}

// taskLabel is the label of all containers of tasks.
const taskLabel = "com.amazonaws.ecs.task-arn"

type docker struct{ *client.Client }

// Docker is the engine behind a client.
func Docker(c *client.Client) Engine { return docker{c} }

func (d docker) List(ctx context.Context) ([]container.Summary, error) {
	return d.ContainerList(ctx, container.ListOptions{All: true, Filters: filters.NewArgs(filters.Arg("label", taskLabel))})
}

func (d docker) Inspect(ctx context.Context, id string) (container.InspectResponse, error) {
	return d.ContainerInspect(ctx, id)
}

func (d docker) Volume(ctx context.Context, name string) (volume.Volume, error) {
	return d.VolumeInspect(ctx, name)
}

func (d docker) Output(ctx context.Context, id string) (string, error) {
	c, err := d.ContainerInspect(ctx, id)
	if err != nil {
		return "", err
	}
	if c.HostConfig.LogConfig.Type == "none" {
		return "", nil
	}
	r, err := d.ContainerLogs(ctx, id, container.LogsOptions{ShowStdout: true, ShowStderr: true})
	if err != nil {
		return "", err
	}
	defer r.Close()
	return joined(r, c.Config.Tty)
}

// joined is a stream of Docker's as text.
func joined(r io.Reader, tty bool) (string, error) {
	var b bytes.Buffer
	var err error
	if tty {
		_, err = io.Copy(&b, r)
	} else {
		_, err = stdcopy.StdCopy(&b, &b, r)
	}
	return b.String(), err
}

func (d docker) Exec(ctx context.Context, id string, argv ...string) (string, error) {
	e, err := d.ContainerExecCreate(ctx, id, container.ExecOptions{Cmd: argv, AttachStdout: true, AttachStderr: true})
	if err != nil {
		return "", err
	}
	a, err := d.ContainerExecAttach(ctx, e.ID, container.ExecAttachOptions{})
	if err != nil {
		return "", err
	}
	defer a.Close()
	out, err := joined(a.Reader, false)
	if err != nil {
		return out, err
	}
	done, err := d.ContainerExecInspect(ctx, e.ID)
	if err == nil && done.ExitCode != 0 {
		err = fmt.Errorf("%q: exit code %d: %s", argv, done.ExitCode, out)
	}
	return out, err
}

func (d docker) Kill(ctx context.Context, id string) error { return d.ContainerKill(ctx, id, "KILL") }

func (d docker) Remove(ctx context.Context, id string) error {
	return d.ContainerRemove(ctx, id, container.RemoveOptions{})
}
