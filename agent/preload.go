package agent

import (
	"context"
	"io"
	"maps"
	"path/filepath"

	"github.com/longshore-project/longshore/agent/local"
	"github.com/longshore-project/longshore/engine"
	"github.com/longshore-project/longshore/imagecache/preload"
)

// preloadedName is the file, in the state directory, of what is remembered of preloaded images.
const preloadedName = "preloaded.json"

// preloading is the engine as the preloading of images asks it.
type preloading struct {
	engine.Runtime
	loader engine.Loader
}

// Load takes images from an archive.
func (p preloading) Load(ctx context.Context, archive io.Reader) error {
	return p.loader.Load(ctx, archive)
}

// ID is the id of a local image.
func (p preloading) ID(ctx context.Context, name string) (string, error) {
	img, err := p.Image(ctx, name)
	return img.ID, err
}

// newPreloads joins the preloading of images to its parts; nil where the engine can't.
func (a *Agent) newPreloads() *preload.Loader {
	loader, ok := a.runtime.(engine.Loader)
	if !ok {
		return nil
	}
	return preload.New(preload.Config{Dir: a.cfg.ImagePreloadDir, Memory: filepath.Join(a.cfg.DataDir, preloadedName), Timeout: a.cfg.ImagePullTimeout, Engine: preloading{a.runtime, loader}, Log: a.log})
}

// runPreloads makes them local.
func (a *Agent) runPreloads(ctx context.Context) error {
	if a.preloads == nil {
		return nil
	}
	return a.preloads.Run(ctx)
}

// untilPreloaded waits until they are: a task that comes before would pull them.
func (a *Agent) untilPreloaded(ctx context.Context) error {
	if a.preloads == nil {
		return nil
	}
	select {
	case <-a.preloads.Done():
		return nil
	default:
	}
	notify("STATUS=Loading images from " + a.cfg.ImagePreloadDir)
	select {
	case <-a.preloads.Done():
	case <-ctx.Done():
	}
	return ctx.Err()
}

// pinPreloaded keeps them.
func (a *Agent) pinPreloaded(pins map[string]string) {
	if a.preloads != nil && !a.cfg.ImagePreloadCleanup {
		maps.Copy(pins, a.preloads.Pins())
	}
}

// preloaded is how it stands, for status; nil where there is nothing to load.
func (a *Agent) preloaded() *local.Preloaded {
	if a.preloads == nil {
		return nil
	}
	r := a.preloads.Report()
	if r.Done && len(r.Loaded) == 0 && len(r.Failed) == 0 {
		return nil
	}
	return &local.Preloaded{Directory: r.Dir, Done: r.Done, Files: len(r.Loaded), Images: r.Images, Failed: r.Failed}
}
