package engine

import (
	"path/filepath"
	"strings"
)

// ECS's least values: fewer CPU shares and less memory than these the kernel or the engine refuses.
const (
	leastShares = 2
	leastMemory = 4 // MiB
)

// specOf is everything a Runtime needs to make a container. ports are the host's ports as they were granted.
func specOf(t *Task, rec *TaskRecord, c *Container, img *Image, host Host, ports []Port) (Spec, error) {
	cr := rec.container(c.Name)
	labels, err := labelsOf(t, c, cr.Attempt, img.Digest, host.Cluster, joinsOf(t, rec, c))
	if err != nil {
		return Spec{}, err
	}
	if c.internal() {
		for k, v := range host.PauseLabels {
			if _, taken := labels[k]; !taken {
				labels[k] = v
			}
		}
	}
	s := Spec{
		Name: cr.nameOf(t), Labels: labels, Image: c.Image, ImageConfig: &img.Config,
		EntryPoint: c.payload.EntryPoint, Command: c.command, Env: environmentOf(c, img, host.Region),
		CPUShares: max(c.payload.CPU, leastShares), Memory: memoryOf(t, c), NetworkMode: c.NetworkMode,
		Mounts: mountsOf(t, c), Config: c.config, HostConfig: c.hostConfig,
	}
	if c.NetworkMode == modeAwsvpc {
		s.NetworkMode = "container:" + nameOf(t, rec, networkPause)
	}
	s.HostConfig.NetworkMode = s.NetworkMode
	joinNamespaces(t, rec, &s.HostConfig)
	addGPUs(&s, c, host)
	if c.NetworkMode == "bridge" {
		s.Ports = ports
	}
	for _, link := range c.payload.Links {
		name, alias, given := strings.Cut(link, ":")
		if !given {
			alias = name
		}
		s.Links = append(s.Links, nameOf(t, rec, name)+":"+alias)
	}
	for _, v := range c.payload.VolumesFrom {
		from := nameOf(t, rec, v.SourceContainer)
		if v.ReadOnly {
			from += ":ro"
		}
		s.VolumesFrom = append(s.VolumesFrom, from)
	}
	return s, nil
}

func nameOf(t *Task, rec *TaskRecord, container string) string {
	return rec.container(container).nameOf(t)
}

// memoryOf is the container's hard limit in bytes: its own, else the task's.
func memoryOf(t *Task, c *Container) int64 {
	m := c.payload.Memory
	if m == 0 {
		m = t.payload.Memory
	}
	if m == 0 {
		return 0
	}
	return max(m, leastMemory) << 20
}

// environmentOf is the container's environment in addition to the image's, sorted.
func environmentOf(c *Container, img *Image, region string) []string {
	var env []string
	for _, k := range sortedKeys(c.payload.Environment) {
		env = append(env, k+"="+c.payload.Environment[k])
	}
	if region == "" || hasRegion(env) || hasRegion(img.Config.Env) {
		return env
	}
	return append(env, "AWS_REGION="+region, "AWS_DEFAULT_REGION="+region)
}

func hasRegion(env []string) bool {
	for _, e := range env {
		if strings.HasPrefix(e, "AWS_REGION=") || strings.HasPrefix(e, "AWS_DEFAULT_REGION=") {
			return true
		}
	}
	return false
}

// mountsOf are the container's own mounts: bind mounts of host paths, and volumes that live as long as the task.
func mountsOf(t *Task, c *Container) []Mount {
	var mounts []Mount
	for _, m := range c.payload.MountPoints {
		v := t.volumes[m.SourceVolume]
		if v == nil { // a task that was rebuilt from labels makes no containers
			continue
		}
		mount := Mount{Type: "bind", Source: filepath.Clean(hostPath(v)), Target: m.ContainerPath, ReadOnly: m.ReadOnly}
		if hostPath(v) == "" {
			mount.Type, mount.Source = "volume", engineName(t, v)
		}
		mounts = append(mounts, mount)
	}
	return mounts
}

// bindsOf are the bind mounts that the container will see: its own and those of volumesFrom, its own first.
func bindsOf(t *Task, c *Container) []Mount {
	var binds []Mount
	seen, targets := map[string]bool{}, map[string]bool{}
	var collect func(c *Container, readOnly bool)
	collect = func(c *Container, readOnly bool) {
		if c == nil || seen[c.Name] {
			return
		}
		seen[c.Name] = true
		for _, m := range mountsOf(t, c) {
			if m.Type == "bind" && !targets[m.Target] {
				targets[m.Target] = true
				m.ReadOnly = m.ReadOnly || readOnly
				binds = append(binds, m)
			}
		}
		for _, v := range c.payload.VolumesFrom {
			collect(t.container(v.SourceContainer), readOnly || v.ReadOnly)
		}
	}
	collect(c, false)
	return binds
}

// userOf is the effective user string: the definition's, else the image's.
func userOf(c *Container, img *Image) string {
	if c.config.User != "" {
		return c.config.User
	}
	return img.Config.User
}
