package agent

import (
	"context"
	"time"

	"go.uber.org/zap"

	"github.com/longshore-project/longshore/engine"
)

// watchLosses looks again and again at what log drivers have lost, and logs what is new of it. What it is now is for status and metrics.
func (a *Agent) watchLosses(ctx context.Context) error {
	watcher, ok := a.runtime.(engine.LogWatcher)
	if !ok {
		return nil
	}
	tick := time.NewTicker(a.opt.LossInterval)
	defer tick.Stop()
	told := map[string]int64{} // lines, by container id
	for {
		now, err := watcher.LogLosses(ctx)
		if err == nil {
			told = a.tellLosses(told, now)
			a.losses.Store(&now)
		} else if ctx.Err() == nil {
			a.log.Debug("What log drivers have lost could not be found out", zap.Error(err))
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// tellLosses logs the losses that have grown.
func (a *Agent) tellLosses(told map[string]int64, now []engine.LogLoss) map[string]int64 {
	next := make(map[string]int64, len(now))
	for _, l := range now {
		next[l.ContainerID] = l.Dropped + l.Failed
		if next[l.ContainerID] <= told[l.ContainerID] {
			continue
		}
		a.log.Warn("Output of a container was lost: dropped lines had no room in the buffer (max-buffer-size), failed ones its log driver could not write",
			zap.String("task", l.TaskArn), zap.String("container", l.Container), zap.String("driver", l.Driver),
			zap.Int64("dropped", l.Dropped), zap.Int64("failed", l.Failed), zap.Time("since", l.Since), zap.String("lastError", l.LastError))
	}
	return next
}

// logLosses are those of the last look.
func (a *Agent) logLosses() []engine.LogLoss {
	if now := a.losses.Load(); now != nil {
		return *now
	}
	return nil
}
