package containerd

import (
	"context"
	"io"

	client "github.com/containerd/containerd/v2/client"

	"github.com/longshore-project/longshore/engine"
)

var _ engine.Loader = (*Runtime)(nil)

// Load takes images from an archive, and unpacks them.
func (r *Runtime) Load(ctx context.Context, archive io.Reader) error {
	ctx = r.ns(ctx)
	ctx, done, err := r.client.WithLease(ctx)
	if err != nil {
		return classify(ctx, err)
	}
	defer func() { _ = done(context.WithoutCancel(ctx)) }()
	loaded, err := r.client.Import(ctx, archive)
	if err != nil {
		return classify(ctx, err)
	}
	for _, img := range loaded {
		if err := client.NewImage(r.client, img).Unpack(ctx, r.cfg.Snapshotter); err != nil {
			return classify(ctx, err)
		}
	}
	return nil
}
