// Package sockets tells who holds a socket of this host.
package sockets

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Owner names the process that holds the socket with this inode, for a message; proc is /proc.
func Owner(proc, inode string) string {
	target := "socket:[" + inode + "]"
	fds, _ := filepath.Glob(filepath.Join(proc, "[0-9]*", "fd", "*"))
	for _, fd := range fds {
		if link, err := os.Readlink(fd); err == nil && link == target {
			dir := filepath.Dir(filepath.Dir(fd))
			name, _ := os.ReadFile(filepath.Join(dir, "comm"))
			return fmt.Sprintf("process %s (%s)", filepath.Base(dir), strings.TrimSpace(string(name)))
		}
	}
	return "a process that the agent can't see"
}
