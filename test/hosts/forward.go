package hosts

import (
	"context"
	"fmt"
	"io"
	"net"
	"runtime"
	"sync"

	"github.com/vishvananda/netns"
)

// Forward listens at address inside a network namespace and passes each connection on to target, which is dialled from the
// caller's own namespace. Bytes are not touched, so what is signed for address stays valid. It ends, with all its
// connections, when ctx does.
func Forward(ctx context.Context, namespace, address, target string) error {
	listener, err := listenIn(namespace, address)
	if err != nil {
		return err
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	stop := context.AfterFunc(ctx, func() { listener.Close() })
	defer stop()
	for {
		conn, err := listener.Accept()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("forwarding %s: %w", address, err)
		}
		wg.Go(func() { pass(ctx, conn, target) })
	}
}

// pass copies both ways until one side ends.
func pass(ctx context.Context, conn net.Conn, target string) {
	defer conn.Close()
	var d net.Dialer
	up, err := d.DialContext(ctx, "tcp", target)
	if err != nil {
		return
	}
	defer up.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close(); up.Close() })
	defer stop()
	done := make(chan struct{}, 2)
	copyHalf := func(dst, src net.Conn) {
		_, _ = io.Copy(dst, src)
		_ = dst.(*net.TCPConn).CloseWrite()
		done <- struct{}{}
	}
	go copyHalf(up, conn)
	go copyHalf(conn, up)
	<-done
	<-done
}

// listenIn opens a listener whose socket belongs to another network namespace. A socket stays in the namespace it was made in.
func listenIn(namespace, address string) (net.Listener, error) {
	type answer struct {
		l   net.Listener
		err error
	}
	result := make(chan answer)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		ns, err := netns.GetFromPath(namespace)
		if err == nil {
			defer ns.Close()
			err = netns.Set(ns)
		}
		if err != nil {
			result <- answer{err: fmt.Errorf("entering %s: %w", namespace, err)}
			return
		}
		l, err := net.Listen("tcp4", address)
		result <- answer{l, err}
	}()
	a := <-result
	return a.l, a.err
}
