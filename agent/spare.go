package agent

import (
	"os"
	"path/filepath"

	"go.uber.org/zap"
)

// spareScore is what the agent asks the kernel to think of it when memory runs out: a host whose agent was killed for a
// container's sake looks after nothing. It is the score that the unit of a package would ask systemd for.
const spareScore = "-500"

// askToBeSpared asks the kernel not to choose the agent when memory runs out (proc_pid_oom_score_adj(5)). That needs
// CAP_SYS_RESOURCE, which the agent can do without: it says so, once, and goes on.
func askToBeSpared(root string, log *zap.Logger) {
	path := filepath.Join(root, "proc/self/oom_score_adj")
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err == nil {
		_, err = f.WriteString(spareScore)
		if closeErr := f.Close(); err == nil {
			err = closeErr
		}
	}
	if err != nil {
		log.Info("The agent can't ask the kernel to spare it when memory runs out; it goes on without (CAP_SYS_RESOURCE, or OOMScoreAdjust in its unit, would do it)", zap.String("path", path), zap.Error(err))
	}
}
