package netns

import (
	"bytes"
	"context"
	"errors"
	"sync"
	"time"

	mdlayher "github.com/mdlayher/netlink"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"
)

const (
	lookInterval = 30 * time.Second       // without any event
	settleTime   = 200 * time.Millisecond // events come in swarms: an engine that starts a container makes dozens
)

// Keep keeps everything as it should be until ctx ends, and says in the log what it has put back.
func (n *HostNetwork) Keep(ctx context.Context, log *zap.Logger) error {
	hints := make(chan struct{}, 1)
	hint := func() {
		select {
		case hints <- struct{}{}:
		default:
		}
	}
	heard := []subscription{
		{unix.NETLINK_ROUTE, []uint32{unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR}, nil},
		{unix.NETLINK_NETFILTER, []uint32{unix.NFNLGRP_NFTABLES}, []byte(TableName + "\x00")},
	}
	var listening sync.WaitGroup
	defer listening.Wait()
	for _, s := range heard {
		listening.Go(func() {
			if err := s.listen(ctx, n.Namespace, hint); err != nil {
				log.Warn("The kernel's events about the network can't be heard; it is looked at from time to time instead", zap.Duration("interval", lookInterval), zap.Error(err))
			}
		})
	}
	var last error
	told := map[string]bool{}
	for {
		changed, err := n.Ensure()
		if len(changed) > 0 {
			log.Info("The host's network is as it should be again: interfaces have changed, or somebody has changed or flushed what is Longshore's", zap.Strings("changed", changed))
		}
		if err != nil && (last == nil || err.Error() != last.Error()) {
			log.Error("What the host's network has for containers can't be kept up", zap.Error(err))
		}
		last = err
		n.tellObstacles(log, told)
		if !pause(ctx, hints) {
			return ctx.Err()
		}
	}
}

// tellObstacles says once what is in the way of containers.
func (n *HostNetwork) tellObstacles(log *zap.Logger, told map[string]bool) {
	obstacles, err := n.Obstacles()
	if err != nil {
		log.Debug("Whether other rules are in the way of containers can't be seen", zap.Error(err))
	}
	for _, o := range obstacles {
		if !told[o] {
			log.Warn("Somebody else's rules keep containers from their network", zap.String("obstacle", o))
		}
		told[o] = true
	}
}

// pause waits for the next look; false when ctx has ended.
func pause(ctx context.Context, hints <-chan struct{}) bool {
	timer := time.NewTimer(lookInterval)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	case <-hints:
	}
	timer.Reset(settleTime)
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// subscription is events of the kernel that are worth a look.
type subscription struct {
	protocol int
	groups   []uint32
	about    []byte // what a message must have in it; empty: anything
}

// listen calls hint for each event until ctx ends.
func (s subscription) listen(ctx context.Context, namespace int, hint func()) error {
	c, err := mdlayher.Dial(s.protocol, &mdlayher.Config{NetNS: namespace})
	if err != nil {
		return err
	}
	defer c.Close()
	for _, g := range s.groups {
		if err := c.JoinGroup(g); err != nil {
			return err
		}
	}
	stop := context.AfterFunc(ctx, func() { _ = c.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	hint() // what happened before the subscription stood
	for {
		messages, err := c.Receive()
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, unix.ENOBUFS): // more events than the socket holds
			hint()
			continue
		case err != nil:
			return err
		}
		for _, m := range messages {
			if len(s.about) == 0 || bytes.Contains(m.Data, s.about) {
				hint()
				break
			}
		}
	}
}
