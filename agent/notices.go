package agent

import (
	"context"
	"fmt"
	"time"

	"go.uber.org/zap"

	"github.com/longshore-project/longshore/agent/depart"
	"github.com/longshore-project/longshore/agent/ec2"
)

// watchNotices looks, on an EC2 instance, whether it is about to be taken away, and then leaves in order; see package depart. An interruption
// follows a recommendation, and never the other way round.
func (a *Agent) watchNotices(ctx context.Context) error {
	if !a.cfg.SpotDraining && !a.cfg.RebalanceDraining {
		return nil
	}
	if found, err := a.lookout.wait(ctx); err != nil || found == nil {
		return ctx.Err()
	}
	stop, said := func() {}, false
	defer func() { stop() }()
	for known := depart.Kind(""); known != depart.Interruption; {
		n, err := a.notice(ctx, known)
		if err != nil && !said && ctx.Err() == nil {
			a.log.Warn("It can't be seen whether this instance is about to be taken away; it is looked again each second", zap.Error(err))
		}
		said = err != nil
		if n != nil {
			stop()
			known, stop = n.Kind, a.takeLeave(ctx, *n)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(a.opt.NoticeLook):
		}
	}
	<-ctx.Done()
	return ctx.Err()
}

// takeLeave begins a departure; stop ends it, and it can be gone on with.
func (a *Agent) takeLeave(ctx context.Context, n depart.Notice) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := a.departure.Depart(ctx, n); err != nil && ctx.Err() == nil {
			a.log.Error("This instance is taken away, and not everything on it has stopped in time", zap.Error(err))
		}
	}()
	return func() {
		cancel()
		<-ended
	}
}

// notice is what there is beyond what is known; nil for nothing.
func (a *Agent) notice(ctx context.Context, known depart.Kind) (*depart.Notice, error) {
	if a.cfg.SpotDraining {
		n, err := a.lookout.service.Interruption(ctx)
		if err != nil {
			return nil, err
		}
		if n != nil && taking(n) {
			return &depart.Notice{Kind: depart.Interruption, Deadline: n.At, Why: fmt.Sprintf("EC2 is to %s this spot instance at %s", n.Action, n.At.UTC().Format(time.RFC3339))}, nil
		}
	}
	if a.cfg.RebalanceDraining && known == "" {
		n, err := a.lookout.service.Rebalance(ctx)
		if err != nil || n == nil {
			return nil, err
		}
		return &depart.Notice{Kind: depart.Rebalance, Why: "EC2 recommends to move away from this spot instance"}, nil
	}
	return nil, nil
}

// taking says whether a notice is one of those that take the instance away.
func taking(n *ec2.Notice) bool {
	switch n.Action {
	case "stop", "terminate", "hibernate":
		return true
	}
	return false
}
