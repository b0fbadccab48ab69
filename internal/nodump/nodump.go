// Package nodump keeps what a process has in its memory out of core dumps: the agent and the control plane hold credentials of
// tasks' roles there, in clear, and nowhere else.
package nodump

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// Set makes this process one of which the kernel writes no core dump, and whose memory nobody reads but root (prctl(2),
// PR_SET_DUMPABLE). It is not inherited by other programs that the process starts.
func Set() error {
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("keep this process's memory out of core dumps: %w", err)
	}
	return nil
}
