package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"github.com/longshore-project/longshore/agent/config"
	"github.com/longshore-project/longshore/internal/watchdog"
)

// What systemd is told, where it started us (sd_notify(3)): READY when the state is loaded, the container engine was looked at and
// the endpoints are served, which needs no control plane; STATUS in words; and that the main loops go round.

// ErrReload ends [Run] when the configuration was read again and asks for another agent than this one: whoever called it starts the
// agent over, in the same process. Containers stay as they are.
var ErrReload = errors.New("the configuration has changed")

// The main loops go round at least this often. Each of a loop's calls has a shorter deadline.
const (
	lookAtLeast   = 90 * time.Second
	reportAtLeast = 150 * time.Second
)

// notify tells systemd.
func notify(state string) { _, _ = daemon.SdNotify(false, state) }

// waitingFor tells systemd that the start takes longer, and why: it is to wait another minute.
func waitingFor(what string) {
	notify(fmt.Sprintf("STATUS=%s\nEXTEND_TIMEOUT_USEC=%d", what, time.Minute.Microseconds()))
}

// serveSystemd tells systemd what it wants to know, until ctx ends. started is closed when the engine of tasks is there.
func (a *Agent) serveSystemd(ctx context.Context, started <-chan struct{}) {
	defer func() {
		if !errors.Is(context.Cause(ctx), ErrReload) { // which systemd waits for to become ready again
			notify(daemon.SdNotifyStopping)
		}
	}()
	select {
	case <-ctx.Done():
		return
	case <-started:
	}
	select {
	case <-ctx.Done():
		return
	case <-a.engine.Ready():
	}
	notify(daemon.SdNotifyReady)
	every, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		a.log.Warn("systemd's watchdog interval can't be understood; it is not fed", zap.Error(err))
		return
	}
	watchdog.Run(ctx, every, func() { notify(daemon.SdNotifyWatchdog) }, a.log, a.looks, a.reports)
}

// reload reads the configuration again whenever that is asked for, until ctx ends or another agent is needed than the one that runs. A
// configuration that has an error is not taken, and the level of the log changes without anything else.
func (a *Agent) reload(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-a.opt.Reload:
		}
		notify(reloading())
		if err := a.takeConfig(); err != nil {
			return err
		}
		notify(daemon.SdNotifyReady)
	}
}

// logLevelKnobs are the settings that a running agent takes on.
var logLevelKnobs = []string{"ECS_LOGLEVEL", "ECS_LOGLEVEL_ON_INSTANCE"}

// takeConfig reads the configuration; it returns ErrReload where another agent is needed.
func (a *Agent) takeConfig() error {
	cfg, warnings, err := config.Load(a.opt.Config)
	if err != nil {
		a.log.Error("The configuration was read again and has an error; the agent goes on with the old one", zap.Error(err))
		notify("STATUS=The changed configuration has an error and is not used: " + err.Error())
		return nil
	}
	for _, w := range warnings {
		a.log.Warn("Configuration: " + w)
	}
	changed := config.Changed(a.cfg, cfg)
	restart := slices.ContainsFunc(changed, func(name string) bool { return !slices.Contains(logLevelKnobs, name) })
	switch {
	case restart:
		a.log.Info("The configuration has changed; the agent starts over with it, containers stay as they are", zap.Strings("settings", changed))
		return ErrReload
	case len(changed) > 0:
		a.log.Info("The configuration was read again; the level of the log has changed", zap.String("level", cfg.Log.Level))
	default:
		a.log.Info("The configuration was read again; nothing in it has changed")
	}
	a.warnings.Store(&warnings)
	a.level.Set(cmp.Or(a.opt.LogLevel, cfg.Log.Level), cmp.Or(a.opt.LogLevel, cfg.Log.FileLevel))
	return nil
}

// reloading is what systemd wants to be told before a reload.
func reloading() string {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return daemon.SdNotifyReloading
	}
	return fmt.Sprintf("%s\nMONOTONIC_USEC=%d", daemon.SdNotifyReloading, now.Nano()/1000)
}
