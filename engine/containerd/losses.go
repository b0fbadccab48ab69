package containerd

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"

	"github.com/longshore-project/longshore/engine"
	"github.com/longshore-project/longshore/engine/logdriver"
)

// LogLosses reads what the containers' log processes have written down. It makes Runtime an engine.LogWatcher.
func (r *Runtime) LogLosses(ctx context.Context) (all []engine.LogLoss, err error) {
	ctx = r.ns(ctx)
	dirs, err := os.ReadDir(filepath.Join(r.cfg.Root, "containers"))
	if err != nil {
		return nil, err
	}
	for _, d := range dirs {
		s, err := logdriver.ReadStatus(r.logDir(d.Name()))
		switch {
		case errors.Is(err, fs.ErrNotExist), err == nil && s.Dropped+s.Failed == 0:
			continue
		case err != nil:
			return nil, err
		}
		b, err := r.find(ctx, d.Name())
		if errdefs.IsNotFound(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		driver, _ := logConfig(b.rec)
		all = append(all, engine.LogLoss{
			ContainerID: b.ID, TaskArn: b.Labels[engine.LabelTaskArn], Container: b.rec.Spec.Labels[engine.LabelContainerName], Driver: driver,
			Dropped: s.Dropped, Failed: s.Failed, LastError: s.LastError, Since: s.Since,
		})
	}
	return all, nil
}
