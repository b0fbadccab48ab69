package netns

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// openNamespace opens the file of a network namespace. Its error is a [Fault].
func openNamespace(file string) (*os.File, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, &Fault{Kind: NamespaceGone, Detail: "open the network namespace", Err: err}
	}
	if kind, err := unix.IoctlRetInt(int(f.Fd()), unix.NS_GET_NSTYPE); err != nil || kind != unix.CLONE_NEWNET {
		_ = f.Close()
		return nil, fault(NamespaceGone, "%s is no network namespace", file)
	}
	return f, nil
}

// onThread runs f on a thread that f may take to another network namespace, and brings it back.
func onThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // a thread that can't be brought back ends with the goroutine
		own, err := netns.Get()
		if err != nil {
			done <- fmt.Errorf("open the own network namespace: %w", err)
			return
		}
		defer own.Close()
		err = f()
		if netns.Set(own) == nil {
			runtime.UnlockOSThread()
		}
		done <- err
	}()
	return <-done
}

// inside runs f on a thread that is in the network namespace. Sockets stay in the namespace that they are made in, and
// /proc/sys/net is that of the thread which opens it.
func inside(namespace int, f func() error) error {
	return onThread(func() error {
		if err := netns.Set(netns.NsHandle(namespace)); err != nil {
			return fmt.Errorf("enter a network namespace: %w", err)
		}
		return f()
	})
}

// MakeNamespace makes a network namespace and mounts it on file, for engines that make none. Where one is mounted already, it
// does nothing.
func MakeNamespace(file string) error {
	if f, err := openNamespace(file); err == nil {
		return f.Close()
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	f, err := os.OpenFile(file, os.O_CREATE|os.O_RDONLY, 0o444) // a file that a crash left unmounted is taken
	if err != nil {
		return err
	}
	_ = f.Close()
	return onThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("make a network namespace: %w", err)
		}
		if err := unix.Mount("/proc/thread-self/ns/net", file, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("mount a network namespace on %s: %w", file, err)
		}
		return nil
	})
}

// RemoveNamespace unmounts it and removes the file. Removing what is not there does nothing.
func RemoveNamespace(file string) error {
	for {
		err := unix.Unmount(file, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) { // it is no mount any more
			break
		}
		if err != nil {
			return fmt.Errorf("unmount %s: %w", file, err)
		}
	}
	if err := os.Remove(file); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}
