package controlplane

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"go.uber.org/zap"

	"github.com/longshore-project/longshore/controlplane/store"
	"github.com/longshore-project/longshore/internal/watchdog"
)

// How often the control plane asks itself, and how long no answer may come before systemd is to start it again. A store that says
// that it can't be reached is an answer.
const (
	askEvery   = 10 * time.Second
	answerMost = 40 * time.Second
)

// serveSystemd tells systemd, where it started us, that calls are served, and as long as they are.
func (p *ControlPlane) serveSystemd(ctx context.Context) {
	tell := func(state string) { _, _ = daemon.SdNotify(false, state) }
	tell(fmt.Sprintf("%s\nSTATUS=Serving on %s", daemon.SdNotifyReady, p.addr))
	defer tell(daemon.SdNotifyStopping)
	every, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		p.log.Warn("systemd's watchdog interval can't be understood; it is not fed", zap.Error(err))
	}
	view, server := watchdog.NewPulse("reads of the store", answerMost), watchdog.NewPulse("the server", answerMost)
	var asking sync.WaitGroup
	defer asking.Wait()
	if every > 0 {
		asking.Go(func() {
			p.ask(ctx, view, func(ctx context.Context) { _ = p.store.Read(ctx, func(*store.View) error { return nil }) })
		})
		asking.Go(func() {
			p.ask(ctx, server, func(ctx context.Context) { _ = ask(ctx, p.cfg.DataDir, http.MethodGet, "/alive", nil, nil) })
		})
	}
	watchdog.Run(ctx, every, func() { tell(daemon.SdNotifyWatchdog) }, p.log, view, server)
	<-ctx.Done()
}

// ask asks again and again until ctx ends, and beats a pulse for each answer.
func (p *ControlPlane) ask(ctx context.Context, pulse *watchdog.Pulse, question func(context.Context)) {
	for ctx.Err() == nil {
		limited, cancel := context.WithTimeout(ctx, askEvery)
		question(limited)
		cancel()
		pulse.Beat()
		select {
		case <-ctx.Done():
		case <-time.After(askEvery):
		}
	}
}
