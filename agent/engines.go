package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"go.uber.org/zap"

	"github.com/longshore-project/longshore/agent/config"
	"github.com/longshore-project/longshore/engine"
	"github.com/longshore-project/longshore/engine/docker"
	"github.com/longshore-project/longshore/netns"
)

// wholeRuntime is what both engines' Runtimes can do.
type wholeRuntime interface {
	engine.Runtime
	engine.Restarter
	engine.VolumeKeeper
	engine.Importer
	engine.ImageUser
	engine.Layered
	engine.Reacher
	engine.ForeignContainers
}

// runFolder is for what a reboot takes anyway.
const runFolder = "/run/longshore"

// engineNamed is the engine that the configuration asks for; of auto, the one whose socket is there.
func engineNamed(cfg *config.Config) string {
	if cfg.Engine != config.EngineAuto {
		return cfg.Engine
	}
	docker, local := strings.CutPrefix(cfg.DockerEndpoint, "unix://")
	if _, err := os.Stat(docker); local && errors.Is(err, fs.ErrNotExist) {
		if _, err := os.Stat(cfg.ContainerdAddress); err == nil {
			return config.EngineContainerd
		}
	}
	return config.EngineDocker
}

// engineAddress is where the engine answers.
func engineAddress(cfg *config.Config) string {
	if engineNamed(cfg) == config.EngineContainerd {
		return "unix://" + cfg.ContainerdAddress
	}
	return cfg.DockerEndpoint
}

// openEngine makes the Runtime of the configured engine; nothing is asked of it yet. bridge may be nil: then it is not for running tasks.
func openEngine(cfg *config.Config, bridge *netns.Bridge, log *zap.Logger) (wholeRuntime, error) {
	if engineNamed(cfg) == config.EngineContainerd {
		return openContainerd(cfg, bridge, log)
	}
	r, err := docker.New(docker.Config{Host: cfg.DockerEndpoint, Log: log})
	if err != nil {
		return nil, fmt.Errorf("DOCKER_HOST: %w", err)
	}
	return r, nil
}

// containerdProgram is the agent with containerd's client in it. That is a program of its own, made of the same source with the build tag
// containerd, because what it links costs 4.5 MiB of resident memory as soon as it starts, which hosts with Docker have no use for.
const containerdProgram = "longshore-agent-containerd"

// becomeContainerd goes on as that program where the configuration asks for containerd and this is not it. It returns if that is not so, or
// can't be done.
func becomeContainerd(cfg *config.Config) error {
	if hasContainerd || engineNamed(cfg) != config.EngineContainerd {
		return nil
	}
	p := program(containerdProgram)
	if p == "" {
		return fmt.Errorf("ECS_ENGINE is containerd, and the program %s is neither beside this one nor in /usr/libexec/longshore or PATH", containerdProgram)
	}
	return fmt.Errorf("%s: %w", p, syscall.Exec(p, os.Args, os.Environ()))
}

// program is where another of our programs is: beside this one, in the folder of programs that people don't call, or in PATH; empty if nowhere.
func program(name string) string {
	candidates := []string{"/usr/libexec/longshore/" + name, "/usr/lib/longshore/" + name}
	if self, err := os.Executable(); err == nil {
		candidates = append([]string{filepath.Join(filepath.Dir(self), name)}, candidates...)
	}
	for _, c := range candidates {
		if _, err := os.Stat(c); err == nil {
			return c
		}
	}
	p, err := exec.LookPath(name)
	if err != nil {
		return ""
	}
	return p
}

// openBridge makes the host's bridge for containers of an engine that leaves networking to us; nil where it has its own.
func (a *Agent) openBridge() (err error) {
	if engineNamed(a.cfg) != config.EngineContainerd || a.opt.Runtime != nil {
		return nil
	}
	ports := [2]uint16{}
	if p := a.cfg.DynamicPorts; p.First != 0 {
		ports = [2]uint16{p.First, p.Last}
	}
	a.bridge, err = a.network.OpenBridge(netns.BridgeConfig{Ports: ports, Dir: filepath.Join(runFolder, "leases"), Log: a.log})
	if err != nil {
		return err
	}
	a.network.Set(a.hostPieces(false)...)
	_, err = a.network.Ensure()
	return err
}
