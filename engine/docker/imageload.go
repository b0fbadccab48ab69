package docker

import (
	"context"
	"encoding/json"
	"errors"
	"io"

	"github.com/containerd/errdefs"

	"github.com/longshore-project/longshore/engine"
)

var _ engine.Loader = (*Runtime)(nil)

// Load takes images from an archive.
func (r *Runtime) Load(ctx context.Context, archive io.Reader) error {
	answer, err := r.link.api(ctx).ImageLoad(ctx, archive)
	if err != nil {
		return classify(ctx, err)
	}
	defer func() { _ = answer.Body.Close() }()
	for messages := json.NewDecoder(io.LimitReader(answer.Body, 16<<20)); ; {
		var m struct {
			Error string `json:"error"`
		}
		switch err := messages.Decode(&m); {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return classify(ctx, err)
		case m.Error != "":
			return refuse(errdefs.ErrInvalidArgument, "%s", m.Error)
		}
	}
}
