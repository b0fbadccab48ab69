package docker

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"
)

// Reach makes a new connection to the engine and closes it. An engine that is ending has closed its socket and goes on
// answering on the connections that it has until its last container has stopped.
func (r *Runtime) Reach(ctx context.Context) error {
	c, err := r.link.unsettled.Dialer()(ctx)
	if err != nil {
		return fmt.Errorf("the engine takes no connections: %w: %w", err, errdefs.ErrUnavailable)
	}
	return c.Close()
}
