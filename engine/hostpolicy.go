package engine

import (
	"cmp"
	"context"
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"time"
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

// Asked is a running container and what it got from the host, in the form in which a host policy judges it.
type Asked struct {
	ID   string
	Name string
	Task PolicyTask // with this one container
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

// localVolumes are host paths that come as volumes, the container's own and those of volumesFrom: the engine's local driver
// mounts whatever a volume's options say.
func localVolumes(t *Task, c *Container) (paths []PolicyPath) {
	seen := map[string]bool{}
	var collect func(c *Container, readOnly bool)
	collect = func(c *Container, readOnly bool) {
		if c == nil || seen[c.Name] {
			return
		}
		seen[c.Name] = true
		for _, m := range c.payload.MountPoints {
			v := t.volumes[m.SourceVolume]
			if v == nil || v.DockerVolumeConfiguration == nil {
				continue
			}
			if opts := v.DockerVolumeConfiguration.DriverOpts; filepath.IsAbs(opts["device"]) {
				ro := readOnly || m.ReadOnly || slices.Contains(strings.Split(opts["o"], ","), "ro")
				paths = append(paths, PolicyPath{Path: filepath.Clean(opts["device"]), ReadOnly: ro})
			}
		}
		for _, from := range c.payload.VolumesFrom {
			collect(t.container(from.SourceContainer), readOnly || from.ReadOnly)
		}
	}
	collect(c, false)
	return paths
}

// stepPolicy is the judgement in the timeline.
const stepPolicy = "policy"

// judge asks the host's policy about a task that nothing was started for yet, before anything is done for it. What runs is
// not judged again.
func (w *worker) judge(ctx context.Context) {
	w.mu.Lock()
	t, rec := w.task, w.rec
	w.mu.Unlock()
	if w.e.cfg.Policy == nil || rec.Rebuilt || rec.Desired == statusStopped || rec.Reason != "" || !rec.StoppedAt.IsZero() ||
		slices.ContainsFunc(rec.Containers, func(cr *ContainerRecord) bool { return cr.Intent != nil || cr.Final != nil }) {
		return
	}
	verdict := w.e.cfg.Policy.Judge(ctx, policyTask(t))
	if ctx.Err() != nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	for _, text := range verdict.Warnings {
		w.timeline.note("", stepPolicy, OutcomeWarning, text, now)
	}
	if verdict.Denial != "" && w.task == t && t.Doom == "" {
		t.Doom = verdict.Denial
		w.timeline.note("", stepPolicy, OutcomeFailed, verdict.Denial, now)
	}
}

// denied asks once more before a container is made, because the policy, or where a path leads, may have changed.
func (e *Engine) denied(ctx context.Context, t *Task) error {
	if e.cfg.Policy == nil {
		return nil
	}
	verdict := e.cfg.Policy.Judge(ctx, policyTask(t))
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case verdict.Denial != "":
		return errors.New(verdict.Denial)
	}
	return nil
}
