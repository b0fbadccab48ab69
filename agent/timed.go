package agent

import (
	"context"
	"time"

	"github.com/longshore-project/longshore/agent/metrics"
	"github.com/longshore-project/longshore/engine"
)

// timed is an engine with its calls counted. What is not named here is the engine's own.
type timed struct {
	wholeRuntime
	metrics *metrics.Metrics
}

// Info counts.
func (t timed) Info(ctx context.Context) (out engine.Info, err error) {
	defer t.count("info", time.Now(), &err)
	return t.wholeRuntime.Info(ctx)
}

// List counts.
func (t timed) List(ctx context.Context) (out []engine.State, err error) {
	defer t.count("list", time.Now(), &err)
	return t.wholeRuntime.List(ctx)
}

// Inspect counts.
func (t timed) Inspect(ctx context.Context, id string) (out engine.State, err error) {
	defer t.count("inspect", time.Now(), &err)
	return t.wholeRuntime.Inspect(ctx, id)
}

// Create counts.
func (t timed) Create(ctx context.Context, spec engine.Spec) (id string, err error) {
	defer t.count("create", time.Now(), &err)
	return t.wholeRuntime.Create(ctx, spec)
}

// Start counts.
func (t timed) Start(ctx context.Context, id string) (err error) {
	defer t.count("start", time.Now(), &err)
	return t.wholeRuntime.Start(ctx, id)
}

// Restart counts.
func (t timed) Restart(ctx context.Context, id string) (err error) {
	defer t.count("restart", time.Now(), &err)
	return t.wholeRuntime.Restart(ctx, id)
}

// Stop counts; the container's grace is in it.
func (t timed) Stop(ctx context.Context, id string, grace time.Duration) (err error) {
	defer t.count("stop", time.Now(), &err)
	return t.wholeRuntime.Stop(ctx, id, grace)
}

// Remove counts.
func (t timed) Remove(ctx context.Context, id string) (err error) {
	defer t.count("remove", time.Now(), &err)
	return t.wholeRuntime.Remove(ctx, id)
}

// Image counts.
func (t timed) Image(ctx context.Context, ref string) (out engine.Image, err error) {
	defer t.count("image", time.Now(), &err)
	return t.wholeRuntime.Image(ctx, ref)
}

// Images counts.
func (t timed) Images(ctx context.Context) (out []engine.Image, err error) {
	defer t.count("images", time.Now(), &err)
	return t.wholeRuntime.Images(ctx)
}

// Pull counts.
func (t timed) Pull(ctx context.Context, ref string, auth *engine.RegistryAuth, progress func(engine.Progress)) (out engine.Image, err error) {
	defer t.count("pull", time.Now(), &err)
	return t.wholeRuntime.Pull(ctx, ref, auth, progress)
}

func (t timed) count(call string, begun time.Time, err *error) { t.metrics.Call(call, begun, *err) }
