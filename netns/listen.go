package netns

import (
	"net"
	"net/netip"
)

// Listen listens for TCP inside the network namespace that the file leads to. The socket stays there, whoever accepts from it;
// it keeps the namespace alive, with all that is in it, so it must be closed when its task's last process has ended. The error is
// a [Fault] of [NamespaceGone] where there is no such namespace, and else the kernel's (EADDRINUSE, EADDRNOTAVAIL).
func Listen(namespace string, at netip.AddrPort) (net.Listener, error) {
	panic("skeleton")
}

// MakeNamespace makes a network namespace and mounts it on file, for engines that make none. Where one is mounted already, it
// does nothing.
func MakeNamespace(file string) error {
	panic("skeleton")
}

// RemoveNamespace unmounts it and removes the file. Removing what is not there does nothing.
func RemoveNamespace(file string) error {
	panic("skeleton")
}
