//go:build failpoint

package failpoint

import (
	"os"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

var (
	mu     sync.Mutex
	target string
	left   = 1
	trace  *os.File
)

func init() {
	name, nth, counted := strings.Cut(os.Getenv("LONGSHORE_FAILPOINT"), ":")
	target = name
	if counted {
		if n, err := strconv.Atoi(nth); err == nil && n > 0 {
			left = n
		}
	}
	if path := os.Getenv("LONGSHORE_FAILPOINT_LOG"); path != "" {
		trace, _ = os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	}
}

// Hit records that the point name was passed, and kills the process if it is the chosen one.
func Hit(name string) {
	mu.Lock()
	defer mu.Unlock()
	if trace != nil {
		_, _ = trace.WriteString(name + "\n")
	}
	if name != target {
		return
	}
	if left--; left == 0 {
		_ = unix.Kill(unix.Getpid(), unix.SIGKILL)
		select {} // the signal is on its way
	}
}
