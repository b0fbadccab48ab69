//go:build !containerd

package agent

import (
	"go.uber.org/zap"

	"github.com/longshore-project/longshore/agent/config"
	"github.com/longshore-project/longshore/netns"
)

const hasContainerd = false

// openContainerd goes on as the program that can, if it has not been done at the start: by the commands that look at the engine.
func openContainerd(cfg *config.Config, _ *netns.Bridge, _ *zap.Logger) (wholeRuntime, error) {
	return nil, becomeContainerd(cfg)
}
