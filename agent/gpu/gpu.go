// Package gpu finds the host's GPUs in its CDI specifications (Container Device Interface, cncf-tags/container-device-interface,
// SPEC.md), which the vendors' tools write (nvidia-ctk cdi generate). A specification says of each device which device nodes,
// mounts and variables a container needs to use it; the agent gives them to the container itself, so that engines too
// which don't know CDI can.
//
// A GPU's id is its device name in the specification. Where several names stand for one device, that which looks like an
// NVIDIA UUID counts, else the first; names for several devices at once, such as "all", are none. Hooks, which make a linker cache and
// links to libraries inside the container, are run where the engine can (containerd); with Docker its image has to do that.
package gpu

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"

	"github.com/longshore-project/longshore/engine"
	"github.com/longshore-project/longshore/internal/durable"
	"github.com/longshore-project/longshore/protocol/acs"
)

// maxSpec is the largest specification that is read, in bytes.
const maxSpec = 4 << 20

// spec is what is read of a CDI specification.
type spec struct {
	Kind    string `json:"kind"` // vendor/class
	Devices []struct {
		Name  string `json:"name"`
		Edits edits  `json:"containerEdits"`
	} `json:"devices"`
	Edits edits `json:"containerEdits"`
}

// points are those of a container's life at which hooks are run.
var points = []string{"prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"}

type edits struct {
	Env         []string `json:"env"`
	DeviceNodes []struct {
		Path        string `json:"path"`
		HostPath    string `json:"hostPath"`
		Permissions string `json:"permissions"`
	} `json:"deviceNodes"`
	Mounts []struct {
		HostPath      string   `json:"hostPath"`
		ContainerPath string   `json:"containerPath"`
		Options       []string `json:"options"`
	} `json:"mounts"`
	Hooks []struct {
		Point   string   `json:"hookName"`
		Path    string   `json:"path"`
		Args    []string `json:"args"`
		Env     []string `json:"env"`
		Timeout *int     `json:"timeout"`
	} `json:"hooks"`
}

// Discover reads the specifications (*.json, *.yaml, *.yml) in directories; one that does not exist has none. hooks says whether the engine
// runs them. The warnings are sentences for the log: what could not be read, and what of a specification is not done.
func Discover(directories []string, hooks bool) (gpus map[string]engine.GPU, warnings []string) {
	gpus = map[string]engine.GPU{}
	for _, dir := range directories {
		entries, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			warnings = append(warnings, fmt.Sprintf("the CDI specifications in %s can't be read: %v", dir, err))
		}
		for _, e := range entries {
			if !slices.Contains([]string{".json", ".yaml", ".yml"}, filepath.Ext(e.Name())) {
				continue
			}
			name := filepath.Join(dir, e.Name())
			found, err := read(name)
			if err != nil {
				warnings = append(warnings, fmt.Sprintf("the CDI specification %s is left out: %v", name, err))
			}
			left := 0
			for id, g := range found {
				if !hooks {
					left += len(g.Hooks)
					g.Hooks = nil
				}
				gpus[id] = g
			}
			if left > 0 {
				warnings = append(warnings, fmt.Sprintf("%s: its hooks are not run, which Docker has no place for; an image that needs what they do must do it itself", name))
			}
		}
	}
	return gpus, warnings
}

func read(name string) (map[string]engine.GPU, error) {
	data, err := durable.Read(name, maxSpec)
	if err != nil {
		return nil, err
	}
	return Parse(data)
}

// Parse reads one specification, JSON or YAML. What is no class gpu has no GPUs.
func Parse(data []byte) (gpus map[string]engine.GPU, err error) {
	if len(data) > maxSpec {
		return nil, fmt.Errorf("it has more than %d bytes", maxSpec)
	}
	var s spec
	if err := yaml.Unmarshal(data, &s); err != nil {
		return nil, err
	}
	if _, class, _ := strings.Cut(s.Kind, "/"); class != "gpu" {
		return nil, nil
	}
	gpus = map[string]engine.GPU{}
	byNodes := map[string]string{} // the name that a device has got, by its nodes
	for _, d := range s.Devices {
		if d.Name == "" || d.Name == "all" || len(d.Edits.DeviceNodes) == 0 {
			continue
		}
		g, err := s.Edits.add(engine.GPU{})
		if err == nil {
			g, err = d.Edits.add(g)
		}
		if err != nil {
			return nil, fmt.Errorf("device %s: %w", d.Name, err)
		}
		nodes := fmt.Sprint(d.Edits.DeviceNodes)
		if other, known := byNodes[nodes]; known {
			if strings.HasPrefix(other, "GPU-") || !strings.HasPrefix(d.Name, "GPU-") {
				continue
			}
			delete(gpus, other)
		}
		byNodes[nodes], gpus[d.Name] = d.Name, g
	}
	return gpus, nil
}

// add adds edits to what a GPU needs.
func (e edits) add(g engine.GPU) (engine.GPU, error) {
	for _, n := range e.DeviceNodes {
		d := acs.DeviceMapping{PathOnHost: n.HostPath, PathInContainer: n.Path, CgroupPermissions: n.Permissions}
		if d.PathOnHost == "" {
			d.PathOnHost = n.Path
		}
		if d.CgroupPermissions == "" {
			d.CgroupPermissions = "rw"
		}
		if !filepath.IsAbs(d.PathOnHost) || !filepath.IsAbs(d.PathInContainer) || strings.Trim(d.CgroupPermissions, "rwm") != "" {
			return g, fmt.Errorf("the device node %q (%q, permissions %q) is none", n.Path, n.HostPath, n.Permissions)
		}
		g.Devices = append(g.Devices, d)
	}
	for _, m := range e.Mounts {
		if !filepath.IsAbs(m.HostPath) || !filepath.IsAbs(m.ContainerPath) {
			return g, fmt.Errorf("the mount of %q on %q is none", m.HostPath, m.ContainerPath)
		}
		g.Mounts = append(g.Mounts, engine.Mount{Type: "bind", Source: filepath.Clean(m.HostPath), Target: m.ContainerPath, ReadOnly: slices.Contains(m.Options, "ro")})
	}
	for _, h := range e.Hooks {
		if !slices.Contains(points, h.Point) || !filepath.IsAbs(h.Path) {
			return g, fmt.Errorf("the hook %q at %q is none", h.Path, h.Point)
		}
		hook := engine.Hook{Point: h.Point, Path: h.Path, Args: h.Args, Env: h.Env}
		if h.Timeout != nil {
			hook.Timeout = max(*h.Timeout, 0)
		}
		g.Hooks = append(g.Hooks, hook)
	}
	g.Env = append(g.Env, e.Env...)
	return g, nil
}
