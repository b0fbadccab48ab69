package seen

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	tasksapi "github.com/containerd/containerd/api/services/tasks/v1"
	tasktypes "github.com/containerd/containerd/api/types/task"
	ctd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/volume"
	"github.com/docker/go-connections/nat"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// Containerd is a host's containerd, in the agent's namespace.
type Containerd struct {
	client *ctd.Client
	root   string // where the agent keeps what containerd has no place for
	onHost func(ctx context.Context, argv ...string) *exec.Cmd
}

const namespace = "longshore"

// NewContainerd asks the containerd behind a socket. root is the agent's folder for that engine, and onHost makes a command on the host.
func NewContainerd(socket, root string, onHost func(ctx context.Context, argv ...string) *exec.Cmd) (*Containerd, error) {
	c, err := ctd.New(socket, ctd.WithDefaultNamespace(namespace))
	if err != nil {
		return nil, err
	}
	return &Containerd{client: c, root: root, onHost: onHost}, nil
}

// kept is what the engine keeps in the extension of a container's record, as far as it is looked at.
type kept struct {
	Spec struct {
		Name   string
		Labels map[string]string
		Ports  []any
		Config struct {
			Labels      map[string]string
			Healthcheck *container.HealthConfig
		}
		HostConfig struct {
			LogConfig  *container.LogConfig
			Privileged bool
		}
	}
	ImageID string
	Image   struct{ Labels map[string]string }
}

// ran is what the engine writes of a container's process.
type ran struct {
	StartedAt, FinishedAt time.Time
	Pid, ExitCode         int
	OOMKilled             bool
	Health                struct{ Status string }
}

func (c *Containerd) dir(id string) string { return filepath.Join(c.root, "containers", id) }

// read decodes a file of the engine's; one that is not there is empty.
func read(name string, into any) error {
	b, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return json.Unmarshal(b, into)
}

// labels are those that people see.
func (k kept) labels() map[string]string {
	all := map[string]string{}
	for _, of := range []map[string]string{k.Image.Labels, k.Spec.Config.Labels, k.Spec.Labels} {
		for key, value := range of {
			all[key] = value
		}
	}
	return all
}

// List returns the containers of tasks, newest first.
func (c *Containerd) List(ctx context.Context) ([]container.Summary, error) {
	list, err := c.client.ContainerService().List(namespaces.WithNamespace(ctx, namespace))
	if err != nil {
		return nil, err
	}
	tasks, err := c.client.TaskService().List(namespaces.WithNamespace(ctx, namespace), &tasksapi.ListTasksRequest{})
	if err != nil {
		return nil, err
	}
	running := map[string]bool{}
	for _, t := range tasks.Tasks {
		running[t.ID] = t.Status == tasktypes.Status_RUNNING || t.Status == tasktypes.Status_PAUSED
	}
	slices.SortFunc(list, func(a, b containers.Container) int { return b.CreatedAt.Compare(a.CreatedAt) })
	var all []container.Summary
	for _, one := range list {
		if one.Labels[taskLabel] == "" {
			continue
		}
		of, was, err := c.remembered(one)
		if err != nil {
			return nil, err
		}
		all = append(all, container.Summary{ID: one.ID, Names: []string{"/" + of.Spec.Name}, Image: one.Image, ImageID: of.ImageID, Labels: of.labels(), State: was.status(running[one.ID]), Created: one.CreatedAt.Unix()})
	}
	return all, nil
}

// status is where a container is, in Docker's words.
func (was ran) status(running bool) string {
	switch {
	case running && !was.StartedAt.IsZero():
		return "running"
	case was.StartedAt.IsZero():
		return "created"
	}
	return "exited"
}

// remembered is what the engine keeps of a container.
func (c *Containerd) remembered(record containers.Container) (of kept, was ran, err error) {
	extension := record.Extensions["longshore.container"]
	if extension == nil || record.Spec == nil {
		return of, was, fmt.Errorf("container %s is not the agent's", record.ID)
	}
	return of, was, errors.Join(json.Unmarshal(extension.GetValue(), &of), read(filepath.Join(c.dir(record.ID), "run.json"), &was))
}

// Inspect tells of a container by its record on containerd, its task, and what the engine keeps of it.
func (c *Containerd) Inspect(ctx context.Context, id string) (container.InspectResponse, error) {
	var none container.InspectResponse
	ctx = namespaces.WithNamespace(ctx, namespace)
	record, err := c.client.ContainerService().Get(ctx, id)
	if err != nil {
		return none, err
	}
	of, was, err := c.remembered(record)
	if err != nil {
		return none, err
	}
	var spec specs.Spec
	if err := json.Unmarshal(record.Spec.GetValue(), &spec); err != nil {
		return none, err
	}
	state := &container.State{ExitCode: was.ExitCode, OOMKilled: was.OOMKilled, StartedAt: stamp(was.StartedAt), FinishedAt: stamp(was.FinishedAt)}
	if was.Health.Status != "" {
		state.Health = &container.Health{Status: strings.ToLower(was.Health.Status)}
	}
	running, pid, err := c.process(ctx, id)
	if err != nil {
		return none, err
	}
	if state.Status = was.status(running); state.Status == "running" {
		state.Running, state.Pid = true, pid
	}
	got := container.InspectResponse{
		ContainerJSONBase: &container.ContainerJSONBase{ID: id, Name: "/" + of.Spec.Name, Created: stamp(record.CreatedAt), Image: of.ImageID, State: state, HostConfig: hostConfig(&spec)},
		Config:            &container.Config{Labels: of.labels(), Image: record.Image, Env: spec.Process.Env, Tty: spec.Process.Terminal, WorkingDir: spec.Process.Cwd, Hostname: spec.Hostname, Healthcheck: of.Spec.Config.Healthcheck},
		NetworkSettings:   &container.NetworkSettings{},
	}
	got.Path, got.Args = spec.Process.Args[0], spec.Process.Args[1:]
	if len(got.Args) > 1 && got.Args[0] == "--" { // an init process before it
		got.HostConfig.Init, got.Path, got.Args = ptr(true), got.Args[1], got.Args[2:]
	}
	if _, err := os.Lstat(filepath.Join(c.dir(id), "stdin")); err == nil {
		got.Config.OpenStdin = true
	}
	got.Config.NetworkDisabled = got.HostConfig.NetworkMode == "none"
	if l := of.Spec.HostConfig.LogConfig; l != nil {
		got.HostConfig.LogConfig = *l
	}
	got.HostConfig.Privileged = spec.Linux.Seccomp == nil && len(spec.Linux.MaskedPaths) == 0
	got.Mounts = c.mounts(&spec)
	if running && len(of.Spec.Ports) > 0 {
		if got.NetworkSettings.Ports, err = c.ports(ctx, pid); err != nil {
			return none, err
		}
	}
	return got, nil
}

// process is whether a container runs, and its process id as its host counts.
func (c *Containerd) process(ctx context.Context, id string) (running bool, pid int, err error) {
	got, err := c.client.TaskService().Get(ctx, &tasksapi.GetRequest{ContainerID: id})
	if errdefs.IsNotFound(errgrpc.ToNative(err)) {
		return false, 0, nil
	}
	if err != nil {
		return false, 0, err
	}
	t := got.Process
	return t.Status == tasktypes.Status_RUNNING || t.Status == tasktypes.Status_PAUSED, int(t.Pid), nil
}

func ptr[T any](v T) *T { return &v }

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) }

// hostConfig is what the OCI configuration says of the host, in Docker's words.
func hostConfig(spec *specs.Spec) *container.HostConfig {
	host := &container.HostConfig{ReadonlyRootfs: spec.Root.Readonly, NetworkMode: "host", PidMode: "host", IpcMode: "host"}
	for _, ns := range spec.Linux.Namespaces {
		switch {
		case ns.Type == specs.NetworkNamespace && ns.Path == "":
			host.NetworkMode = "none"
		case ns.Type == specs.NetworkNamespace && strings.HasPrefix(ns.Path, "/run/longshore/"):
			host.NetworkMode = "bridge"
		case ns.Type == specs.NetworkNamespace:
			host.NetworkMode = "container:" + container.NetworkMode(ns.Path)
		case ns.Type == specs.PIDNamespace:
			host.PidMode = container.PidMode(ns.Path)
		case ns.Type == specs.IPCNamespace:
			host.IpcMode = "private"
			if !slices.ContainsFunc(spec.Mounts, func(m specs.Mount) bool { return m.Destination == "/dev/shm" }) {
				host.IpcMode = "none"
			}
		}
	}
	host.CgroupParent = filepath.Dir(spec.Linux.CgroupsPath)
	r := spec.Linux.Resources
	if r.CPU != nil && r.CPU.Shares != nil {
		host.CPUShares = int64(*r.CPU.Shares)
	}
	if m := r.Memory; m != nil {
		host.Memory, host.MemoryReservation, host.MemorySwap = value(m.Limit), value(m.Reservation), value(m.Swap)
		if m.Swappiness != nil {
			host.MemorySwappiness = ptr(int64(*m.Swappiness))
		}
	}
	for _, d := range spec.Linux.Devices {
		for _, rule := range r.Devices {
			if rule.Allow && rule.Major != nil && rule.Minor != nil && *rule.Major == d.Major && *rule.Minor == d.Minor {
				host.Devices = append(host.Devices, container.DeviceMapping{PathInContainer: d.Path, CgroupPermissions: rule.Access})
				break
			}
		}
	}
	return host
}

func value(v *int64) int64 {
	if v == nil {
		return 0
	}
	return *v
}

// mounts are a container's, with the names of the volumes among them.
func (c *Containerd) mounts(spec *specs.Spec) (all []container.MountPoint) {
	for _, m := range spec.Mounts {
		point := container.MountPoint{Source: m.Source, Destination: m.Destination, RW: !slices.Contains(m.Options, "ro")}
		if before, ok := strings.CutSuffix(m.Source, "/_data"); ok {
			point.Name = filepath.Base(before)
		}
		if m.Type == "bind" {
			all = append(all, point)
		}
	}
	return all
}

// ports are those that the host's kernel leads to the address of a process.
func (c *Containerd) ports(ctx context.Context, pid int) (nat.PortMap, error) {
	address, err := c.onHost(ctx, "nsenter", "-t", strconv.Itoa(pid), "-n", "ip", "-4", "-j", "addr", "show", "eth0").Output()
	if err != nil {
		return nil, nil // it has ended meanwhile
	}
	var links []struct {
		Addresses []struct {
			Local string `json:"local"`
		} `json:"addr_info"`
	}
	if err := json.Unmarshal(address, &links); err != nil || len(links) == 0 || len(links[0].Addresses) == 0 {
		return nil, fmt.Errorf("the address of process %d: %s: %w", pid, address, err)
	}
	rules, err := c.onHost(ctx, "nft", "list", "ruleset").Output()
	if err != nil {
		return nil, err
	}
	return published(string(rules), links[0].Addresses[0].Local), nil
}

// element is one of a map of nft's from the host's ports to containers': "tcp . 8080 comment "…" : 10.88.0.2 . 80".
var element = regexp.MustCompile(`(tcp|udp) \. (\d+)(?: comment "[^"]*")? : ([0-9.]+) \. (\d+)`)

// published are the ports of an address in the host's rules.
func published(rules, address string) nat.PortMap {
	all := nat.PortMap{}
	for _, m := range element.FindAllStringSubmatch(rules, -1) {
		if m[3] == address {
			at := nat.Port(m[4] + "/" + m[1])
			all[at] = append(all[at], nat.PortBinding{HostPort: m[2]})
		}
	}
	return all
}

// Volume tells of a named volume.
func (c *Containerd) Volume(_ context.Context, name string) (volume.Volume, error) {
	var v struct {
		Name, Driver    string
		Options, Labels map[string]string
	}
	err := read(filepath.Join(c.root, "volumes", name, "volume.json"), &v)
	return volume.Volume{Name: v.Name, Driver: v.Driver, Options: v.Options, Labels: v.Labels}, err
}

// Output is what the log process of a container has written to json-file.
func (c *Containerd) Output(_ context.Context, id string) (string, error) {
	files, err := filepath.Glob(filepath.Join(c.dir(id), "log", "*.log*"))
	if err != nil {
		return "", err
	}
	slices.SortFunc(files, func(a, b string) int { return len(b) - len(a) }) // the older one has a number behind it
	var b strings.Builder
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return "", err
		}
		for line := range strings.Lines(string(text)) {
			var l struct {
				Log string `json:"log"`
			}
			if err := json.Unmarshal([]byte(line), &l); err != nil {
				break // not whole yet
			}
			b.WriteString(l.Log)
		}
	}
	return b.String(), nil
}

// Exec runs a program in a container.
func (c *Containerd) Exec(ctx context.Context, id string, argv ...string) (string, error) {
	out, err := c.onHost(ctx, append([]string{"ctr", "-n", namespace, "tasks", "exec", "--exec-id", "seen-" + strconv.FormatInt(time.Now().UnixNano(), 36), id}, argv...)...).CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%q: %w: %s", argv, err, out)
	}
	return string(out), err
}

// Kill ends a container's process without warning.
func (c *Containerd) Kill(ctx context.Context, id string) error {
	return c.onHost(ctx, "ctr", "-n", namespace, "tasks", "kill", "-s", "SIGKILL", id).Run()
}

// Remove deletes a container that does not run.
func (c *Containerd) Remove(ctx context.Context, id string) error {
	return c.onHost(ctx, "ctr", "-n", namespace, "containers", "delete", id).Run()
}

// Close ends the connection.
func (c *Containerd) Close() error { return c.client.Close() }
