//go:build containerd

package agent

import (
	"path/filepath"

	"go.uber.org/zap"

	"github.com/longshore-project/longshore/agent/bridge"
	"github.com/longshore-project/longshore/agent/config"
	"github.com/longshore-project/longshore/engine/containerd"
	"github.com/longshore-project/longshore/netns"
)

const hasContainerd = true

// openContainerd makes the Runtime over containerd.
func openContainerd(cfg *config.Config, b *netns.Bridge, log *zap.Logger) (wholeRuntime, error) {
	c := containerd.Config{
		Address: cfg.ContainerdAddress, Namespace: cfg.ContainerdNamespace, Snapshotter: cfg.ContainerdSnapshotter, OCIRuntime: cfg.ContainerRuntime,
		Root: containerdRoot(cfg), LogProgram: logProgram(), CertsDir: cfg.ContainerdCertsDir, Log: log,
	}
	c.Looks = b == nil
	if b != nil {
		c.Networks = bridge.New(b, filepath.Join(runFolder, "netns"))
	}
	return containerd.New(c)
}
