package agent

import (
	"context"
	"net"
	"os"
	"strings"

	"go.uber.org/zap"

	"github.com/longshore-project/longshore/agent/config"
	"github.com/longshore-project/longshore/agent/tasknet"
	"github.com/longshore-project/longshore/engine"
	"github.com/longshore-project/longshore/netns"
)

// networking is what gives tasks networks of their own; nil where that is switched off, or the host can't.
type networking struct {
	*tasknet.Networks
	keeper *netns.Keeper
}

// newNetworking makes it. Nothing is done before it runs.
func (a *Agent) newNetworking() (*networking, error) {
	if why := a.noNetworking(); why != "" {
		a.log.Info("Tasks get no networks of their own (awsvpc) on this host", zap.String("why", why))
		return nil, nil
	}
	host := netns.Host{Tables: &netns.Tables{}}
	n := &networking{keeper: &netns.Keeper{Host: host, Log: a.log}}
	c := tasknet.Config{
		State: a.state, Keeper: n.keeper, Host: host, Made: origin(a.taskNetwork()), BlockIMDS: a.cfg.AwsvpcBlockIMDS,
		Listen: netns.Listen, Cards: cards, Log: a.log, Queued: a.reporter.Wake,
		Looked: func(taskArn, owner string, changed []string, problem error) {
			a.engine.NetworkLooked(taskArn, owner, changed, problem)
		},
	}
	if a.asked != nil {
		c.Serve = a.asked.server.ServeTask
	}
	var err error
	if n.Networks, err = tasknet.New(c); err != nil {
		return nil, err
	}
	n.keeper.Looked = n.Looked
	return n, nil
}

// noNetworking is why tasks can have no networks of their own; empty if they can.
func (a *Agent) noNetworking() string {
	switch {
	case !a.cfg.TaskENI:
		return "ECS_ENABLE_TASK_ENI is false"
	case !strings.HasPrefix(engineAddress(a.cfg), "unix://") && a.opt.Runtime == nil:
		return "the container engine is on another host: DOCKER_HOST is no local socket"
	case !engine.CanShareNamespaces(a.runtime):
		return "the container engine can't take the pause image that owns such a network"
	}
	if _, err := (netns.Host{}).Listed(); err != nil {
		return "the kernel does not let this agent make network interfaces: " + err.Error()
	}
	return ""
}

// taskNetwork is what tasks' interfaces hang on here.
func (a *Agent) taskNetwork() config.TaskNetwork {
	routes, err := os.ReadFile("/proc/net/route")
	if err != nil {
		a.log.Warn("The host's default route can't be read", zap.Error(err))
	}
	n := a.cfg.TaskNetwork.On(config.DefaultRoute(string(routes)))
	a.log.Info("Tasks get networks of their own (awsvpc)", zap.String("macvlan", n.Macvlan), zap.String("bridge", n.Bridge), zap.String("uplink", n.Uplink))
	return n
}

func origin(n config.TaskNetwork) netns.Origin {
	if n.Macvlan != "" {
		return netns.Macvlan{Parent: n.Macvlan}
	}
	return netns.Bridged{Bridge: n.Bridge, Uplink: n.Uplink}
}

// cards are the MACs of the host's interfaces.
func cards() (map[string]bool, error) {
	all, err := net.Interfaces()
	macs := map[string]bool{}
	for _, i := range all {
		macs[i.HardwareAddr.String()] = true
	}
	return macs, err
}

// sweepNetworks removes what tasks of the past have left in the host's network, once it is known which there are.
func (a *Agent) sweepNetworks(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-a.engine.Ready():
	}
	var arns []string
	for _, t := range a.engine.Tasks() {
		if t.StoppedAt.IsZero() {
			arns = append(arns, t.Arn)
		}
	}
	a.networking.Sweep(ctx, arns)
	return nil
}
