package api

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/longshore-project/longshore/controlplane/scheduler/placement"
	"github.com/longshore-project/longshore/controlplane/store"
)

// defaultGateWait is below the time after which clients give up an answer, and below the call's own.
const defaultGateWait = 20 * time.Second

// errAtGate is that tasks of the call would fit where daemons come first.
var errAtGate = errors.New("tasks wait for daemons")

// waitsAtGate tells whether one of the refusals ends by itself, when the daemons of a host run.
func waitsAtGate(refusals []*placement.Refusal) bool {
	return slices.ContainsFunc(refusals, func(r *placement.Refusal) bool { return r.Reason == placement.ReasonDaemon })
}

// atGate calls decide until its error is another one than errAtGate. Between calls it waits for any change of the store,
// or until the clock opens a gate. After GateWait decide is told that this is the last time: what finds no place by then is
// a failure that names the gate.
func (s *Server) atGate(ctx context.Context, decide func(last bool) error) error {
	if err := decide(s.cfg.GateWait < 0); !errors.Is(err, errAtGate) {
		return err
	}
	changed := make(chan struct{}, 1)
	cancel := s.store.OnChange(func(int64, []store.Change) {
		select {
		case changed <- struct{}{}:
		default:
		}
	})
	defer cancel()
	deadline := time.NewTimer(s.cfg.GateWait)
	defer deadline.Stop()
	clock := time.NewTicker(min(time.Second, s.cfg.GateWait)) // gates open by the clock too
	defer clock.Stop()
	for {
		if err := decide(false); !errors.Is(err, errAtGate) {
			return err
		}
		select {
		case <-changed:
		case <-clock.C:
		case <-deadline.C:
			return decide(true)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
