//go:build !containerd

package agent

import (
	"fmt"

	"go.uber.org/zap"

	"github.com/longshore-project/longshore/agent/config"
	"github.com/longshore-project/longshore/netns"
)

const hasContainerd = false

// openContainerd says who can.
func openContainerd(*config.Config, *netns.Bridge, *zap.Logger) (wholeRuntime, error) {
	return nil, fmt.Errorf("ECS_ENGINE is containerd, which this program does not speak to: call %s instead", containerdProgram)
}
