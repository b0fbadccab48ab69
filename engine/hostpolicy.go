package engine

import (
	"cmp"
	"context"
	"path/filepath"
	"slices"
	"strings"
)

// Policy is the host's own word on what tasks may ask for, whatever the control plane says (engine/policy implements it).
// It is asked before anything is done for a task, and again before each of its containers is made, because the policy, or
// where a path leads, may have changed. It has its own deadline and may be asked concurrently.
type Policy interface {
	Judge(ctx context.Context, task PolicyTask) PolicyVerdict
}

// PolicyTask is the part of a task that a policy is about.
type PolicyTask struct {
	Family     string
	Containers []PolicyContainer
}

// PolicyContainer is what one container asks of the host.
type PolicyContainer struct {
	Name        string
	Image       string // as it will be pulled
	Privileged  bool
	HostPID     bool
	HostIPC     bool
	HostNetwork bool
	CapAdd      []string
	Paths       []PolicyPath
}

// PolicyPath is a path of the host that a container gets.
type PolicyPath struct {
	Path     string
	ReadOnly bool
	Device   bool
}

// PolicyVerdict is what the policy says. Denial is non-empty when the task must not run here, with the whole reason;
// Warnings go to the log and the timeline.
type PolicyVerdict struct {
	Denial   string
	Warnings []string
}

// policyTask is a task as the policy sees it.
func policyTask(t *Task) PolicyTask {
	p := PolicyTask{Family: t.Family}
	for _, c := range t.Containers {
		if strings.HasPrefix(c.Name, "~internal~") { // the agent's own; it asks for nothing that the others don't
			continue
		}
		pc := PolicyContainer{Name: c.Name, Image: c.Image, Privileged: c.hostConfig.Privileged, CapAdd: c.hostConfig.CapAdd,
			HostPID: cmp.Or(c.hostConfig.PidMode, t.payload.PidMode) == "host", HostIPC: cmp.Or(c.hostConfig.IpcMode, t.payload.IpcMode) == "host",
			HostNetwork: c.NetworkMode == "host"}
		for _, b := range bindsOf(t, c) {
			pc.Paths = append(pc.Paths, PolicyPath{Path: b.Source, ReadOnly: b.ReadOnly})
		}
		pc.Paths = append(pc.Paths, localVolumes(t, c)...)
		for _, d := range c.hostConfig.Devices {
			pc.Paths = append(pc.Paths, PolicyPath{Path: d.PathOnHost, Device: true})
		}
		p.Containers = append(p.Containers, pc)
	}
	return p
}

// localVolumes are host paths that come as volumes: the engine's local driver mounts whatever its options say.
func localVolumes(t *Task, c *Container) []PolicyPath {
	var paths []PolicyPath
	for _, m := range c.payload.MountPoints {
		v := t.volumes[m.SourceVolume]
		if v == nil || v.DockerVolumeConfiguration == nil {
			continue
		}
		if device := v.DockerVolumeConfiguration.DriverOpts["device"]; filepath.IsAbs(device) {
			options := strings.Split(v.DockerVolumeConfiguration.DriverOpts["o"], ",")
			paths = append(paths, PolicyPath{Path: filepath.Clean(device), ReadOnly: m.ReadOnly || slices.Contains(options, "ro")})
		}
	}
	return paths
}
