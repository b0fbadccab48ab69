package docker

import (
	"cmp"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/mount"
	"github.com/docker/go-connections/nat"

	"github.com/longshore-project/longshore/engine"
	"github.com/longshore-project/longshore/protocol/acs"
)

// Docker refuses containers with less.
const (
	minCPUShares = 2
	minMemory    = 6 << 20
)

// translate turns a Spec into what Docker creates. What the payload's documents say wins over what we build, as in
// Amazon ECS; only our labels win over theirs.
func translate(spec engine.Spec) (*container.Config, *container.HostConfig, error) {
	if spec.Name == "" {
		return nil, nil, refuse(errdefs.ErrInvalidArgument, "a container needs a name")
	}
	if len(spec.Hooks) > 0 {
		return nil, nil, refuse(errdefs.ErrInvalidArgument, "hooks, which Docker has no place for")
	}
	if spec.Labels[engine.LabelTaskArn] == "" {
		return nil, nil, refuse(errdefs.ErrInvalidArgument, "container %s has no label %s", spec.Name, engine.LabelTaskArn)
	}
	doc := spec.Config
	conf := &container.Config{
		Image:           spec.Image,
		Entrypoint:      spec.EntryPoint,
		Cmd:             spec.Command,
		Env:             spec.Env,
		User:            doc.User,
		WorkingDir:      doc.WorkingDir,
		Hostname:        doc.Hostname,
		NetworkDisabled: doc.NetworkDisabled,
		OpenStdin:       doc.OpenStdin,
		Tty:             doc.Tty,
		StopSignal:      doc.StopSignal,
		Healthcheck:     healthcheck(doc.Healthcheck),
		Labels:          map[string]string{},
	}
	maps.Copy(conf.Labels, doc.Labels)
	maps.Copy(conf.Labels, spec.Labels)
	host, err := hostConfig(spec)
	if err != nil {
		return nil, nil, err
	}
	if publishes(host.NetworkMode) {
		conf.ExposedPorts, host.PortBindings = ports(spec.Ports)
	}
	return conf, host, nil
}

func hostConfig(spec engine.Spec) (*container.HostConfig, error) {
	doc := spec.HostConfig
	host := &container.HostConfig{
		NetworkMode:    container.NetworkMode(cmp.Or(doc.NetworkMode, spec.NetworkMode, "bridge")),
		RestartPolicy:  container.RestartPolicy{Name: container.RestartPolicyDisabled},
		PidMode:        container.PidMode(doc.PidMode),
		IpcMode:        container.IpcMode(doc.IpcMode),
		Privileged:     doc.Privileged,
		ReadonlyRootfs: doc.ReadonlyRootfs,
		CapAdd:         doc.CapAdd,
		CapDrop:        doc.CapDrop,
		Init:           doc.Init,
		ShmSize:        doc.ShmSize,
		Tmpfs:          maps.Clone(doc.Tmpfs),
		Sysctls:        doc.Sysctls,
		DNS:            doc.DNS,
		DNSSearch:      doc.DNSSearch,
		ExtraHosts:     doc.ExtraHosts,
		SecurityOpt:    doc.SecurityOpt,
		Links:          spec.Links,
		VolumesFrom:    spec.VolumesFrom,
		Resources: container.Resources{
			CPUShares:         max(spec.CPUShares, minCPUShares),
			CgroupParent:      spec.CgroupParent,
			MemoryReservation: doc.MemoryReservation,
			MemorySwap:        doc.MemorySwap,
			MemorySwappiness:  doc.MemorySwappiness,
		},
	}
	if spec.Memory > 0 {
		host.Memory = max(spec.Memory, minMemory)
	}
	if doc.LogConfig != nil {
		host.LogConfig = container.LogConfig{Type: doc.LogConfig.Type, Config: doc.LogConfig.Config}
	}
	for _, d := range doc.Devices {
		host.Devices = append(host.Devices, container.DeviceMapping{
			PathOnHost:        d.PathOnHost,
			PathInContainer:   cmp.Or(d.PathInContainer, d.PathOnHost),
			CgroupPermissions: cmp.Or(d.CgroupPermissions, "rwm"),
		})
	}
	for _, u := range doc.Ulimits {
		host.Ulimits = append(host.Ulimits, &container.Ulimit{Name: u.Name, Soft: u.Soft, Hard: u.Hard})
	}
	for _, m := range spec.Mounts {
		if err := addMount(host, m); err != nil {
			return nil, err
		}
	}
	return host, nil
}

// addMount prefers a bind to a mount, because only a bind makes a missing host path, as a user of Docker expects; but a
// bind cannot say a path with a colon.
func addMount(host *container.HostConfig, m engine.Mount) error {
	if !strings.HasPrefix(m.Target, "/") {
		return refuse(errdefs.ErrInvalidArgument, "mount target %q is not an absolute path", m.Target)
	}
	kind := mount.Type(m.Type)
	switch kind {
	case mount.TypeTmpfs:
		if host.Tmpfs == nil {
			host.Tmpfs = map[string]string{}
		}
		options := ""
		if m.ReadOnly {
			options = "ro"
		}
		host.Tmpfs[m.Target] = options
		return nil
	case mount.TypeBind:
		if !strings.HasPrefix(m.Source, "/") {
			return refuse(errdefs.ErrInvalidArgument, "host path %q for %s is not absolute", m.Source, m.Target)
		}
	case mount.TypeVolume:
	default:
		return refuse(errdefs.ErrInvalidArgument, "mount type %q for %s is none of bind, volume and tmpfs", m.Type, m.Target)
	}
	if m.Source == "" || strings.Contains(m.Source+m.Target, ":") {
		host.Mounts = append(host.Mounts, mount.Mount{Type: kind, Source: m.Source, Target: m.Target, ReadOnly: m.ReadOnly})
		return nil
	}
	bind := m.Source + ":" + m.Target
	if m.ReadOnly {
		bind += ":ro"
	}
	host.Binds = append(host.Binds, bind)
	return nil
}

// publishes reports whether ports are published in a network mode.
func publishes(mode container.NetworkMode) bool {
	return !mode.IsHost() && !mode.IsNone() && !mode.IsContainer()
}

func ports(list []engine.Port) (nat.PortSet, nat.PortMap) {
	if len(list) == 0 {
		return nil, nil
	}
	exposed, bound := nat.PortSet{}, nat.PortMap{}
	for _, p := range list {
		port := nat.Port(strconv.Itoa(int(p.Container)) + "/" + cmp.Or(p.Protocol, "tcp"))
		exposed[port] = struct{}{}
		binding := nat.PortBinding{}
		if p.Host != 0 {
			binding.HostPort = strconv.Itoa(int(p.Host))
		}
		if !slices.Contains(bound[port], binding) || p.Host == 0 {
			bound[port] = append(bound[port], binding)
		}
	}
	return exposed, bound
}

func healthcheck(h *acs.HealthConfig) *container.HealthConfig {
	if h == nil {
		return nil
	}
	return &container.HealthConfig{
		Test: h.Test, Interval: time.Duration(h.Interval), Timeout: time.Duration(h.Timeout),
		StartPeriod: time.Duration(h.StartPeriod), Retries: int(h.Retries),
	}
}
