package agent

import (
	"cmp"
	"context"
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
	"github.com/longshore-project/longshore/statemgr"
)

// wholeRuntime is what both engines' Runtimes can do.
type wholeRuntime interface {
	engine.Runtime
	engine.Restarter
	engine.VolumeKeeper
	engine.Importer
	engine.Loader
	engine.ImageUser
	engine.Layered
	engine.Reacher
	engine.ForeignContainers
	engine.LogWatcher
	Asked(ctx context.Context, all bool) ([]engine.Asked, error)
}

// runFolder is for what a reboot takes anyway.
const runFolder = "/run/longshore"

// engineNamed is the engine that the configuration asks for; of auto, the one that this host has used, at first the one whose socket is there.
func engineNamed(cfg *config.Config) string {
	if cfg.Engine != config.EngineAuto {
		return cfg.Engine
	}
	if id, err := statemgr.LoadIdentity(cfg.DataDir); err == nil && id != nil && id.Engine != "" {
		return id.Engine
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

// logProgram is where longshore-log is, without symlinks; empty if nowhere.
func logProgram() string {
	p := program("longshore-log")
	if real, err := filepath.EvalSymlinks(p); err == nil && p != "" {
		return real
	}
	return p
}

// containerdRoot is where the Runtime over containerd keeps what containerd has no place for.
func containerdRoot(cfg *config.Config) string { return filepath.Join(cfg.DataDir, "containerd") }

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

// checkEngine compares the engine with the one that this host has used. Tasks don't move: what runs on the one engine would be taken for gone
// on the other, and started there a second time. So a host is moved when it runs nothing.
func (a *Agent) checkEngine() error {
	if a.identity == nil || a.opt.Runtime != nil {
		return nil
	}
	now, was := engineNamed(a.cfg), cmp.Or(a.identity.Engine, config.EngineDocker)
	if now == a.identity.Engine {
		return nil
	}
	if now != was {
		records, err := a.state.Load()
		if err != nil {
			return err
		}
		there := 0
		for _, rec := range records {
			if rec.StoppedAt.IsZero() {
				there++
			}
		}
		if there > 0 {
			return &TerminalError{fmt.Errorf("ECS_ENGINE is %s, and %d tasks of this host are on %s, where they stay: set ECS_ENGINE=%s back and drain the instance (aws ecs update-container-instances-state --status DRAINING) until it runs no task; then change ECS_ENGINE and set it ACTIVE again", now, there, was, was)}
		}
		a.log.Info("This host moves to another container engine", zap.String("engine", now), zap.String("last", was))
	}
	next := *a.identity
	next.Engine = now
	if err := a.saveIdentity(next); err != nil {
		return err
	}
	a.identity = &next
	return nil
}
