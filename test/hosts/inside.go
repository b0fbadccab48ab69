package hosts

import (
	"context"
	"fmt"
	"net"
	"runtime"

	"github.com/vishvananda/netns"
)

// Listen opens a listener whose socket belongs to another network namespace.
func Listen(namespace, address string) (net.Listener, error) { return listenIn(namespace, address) }

// Dial connects from another network namespace to an IPv4 address and port.
func Dial(ctx context.Context, namespace, address string) (conn net.Conn, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		ns, e := netns.GetFromPath(namespace)
		if e == nil {
			defer ns.Close()
			e = netns.Set(ns)
		}
		if e != nil {
			err = fmt.Errorf("entering %s: %w", namespace, e)
			return
		}
		conn, err = new(net.Dialer).DialContext(ctx, "tcp4", address)
	}()
	<-done
	return conn, err
}
