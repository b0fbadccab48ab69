// Package bridge joins the host's own bridge (netns) to an engine that leaves networking to us (engine/containerd): a network namespace for each
// container that is to be on it, connected before its process is made and taken away when it is gone.
package bridge

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/longshore-project/longshore/engine"
	"github.com/longshore-project/longshore/engine/containerd"
	"github.com/longshore-project/longshore/netns"
)

// Networks makes the networks of containers in the bridge mode.
type Networks struct {
	bridge *netns.Bridge
	dir    string
}

// New returns Networks on a bridge, with the namespaces' files in a folder, which a reboot empties.
func New(b *netns.Bridge, dir string) *Networks { return &Networks{b, dir} }

// File is the file of a container's namespace.
func (n *Networks) File(id string) string { return filepath.Join(n.dir, id) }

// Make makes the namespace; it may be repeated.
func (n *Networks) Make(id string) error { return netns.MakeNamespace(n.File(id)) }

// Connect gives a container addresses and ports; it may be repeated.
func (n *Networks) Connect(ctx context.Context, id, task string, ports []engine.Port) (containerd.Connection, error) {
	want := netns.Connection{ID: id, Task: task[strings.LastIndex(task, "/")+1:], Namespace: n.File(id)}
	for _, p := range ports {
		protocol := p.Protocol
		if protocol == "" {
			protocol = "tcp"
		}
		want.Ports = append(want.Ports, netns.Publish{Protocol: protocol, Container: uint16(p.Container), Host: uint16(p.Host)})
	}
	l, err := n.bridge.Connect(ctx, want)
	var taken *netns.PortTaken
	if errors.As(err, &taken) {
		return containerd.Connection{}, fmt.Errorf("%w: %w", err, errdefs.ErrResourceExhausted)
	}
	if err != nil {
		return containerd.Connection{}, err
	}
	var c containerd.Connection
	any := map[bool]string{}
	for _, a := range l.Addresses {
		c.Addresses = append(c.Addresses, a.Addr().String())
		any[a.Addr().Is4()] = map[bool]string{true: "0.0.0.0", false: "::"}[a.Addr().Is4()]
	}
	for _, p := range l.Given {
		for _, four := range []bool{true, false} {
			if any[four] != "" {
				c.Ports = append(c.Ports, engine.Binding{HostIP: any[four], Port: engine.Port{Container: int32(p.Container), Host: int32(p.Host), Protocol: p.Protocol}})
			}
		}
	}
	return c, nil
}

// Disconnect takes all of it away; it may be repeated.
func (n *Networks) Disconnect(ctx context.Context, id string) error {
	return errors.Join(n.bridge.Disconnect(ctx, id), netns.RemoveNamespace(n.File(id)))
}
