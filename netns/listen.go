package netns

import (
	"context"
	"fmt"
	"net"
	"net/netip"
)

// Listen listens for TCP inside the network namespace that the file leads to. The socket stays there, whoever accepts from it;
// it keeps the namespace alive, with all that is in it, so it must be closed when its task's last process has ended. The error is
// a [Fault] of [NamespaceGone] where there is no such namespace, and else the kernel's (EADDRINUSE, EADDRNOTAVAIL).
func Listen(ctx context.Context, namespace string, at netip.AddrPort) (l net.Listener, err error) {
	ns, err := openNamespace(namespace)
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	err = inside(int(ns.Fd()), func() error {
		var c net.ListenConfig
		l, err = c.Listen(ctx, "tcp", at.String())
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("in %s: %w", namespace, err)
	}
	return l, nil
}
