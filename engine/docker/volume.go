package docker

import (
	"context"
	"encoding/json"
	"io"
	"maps"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/image"
	"github.com/docker/docker/api/types/volume"

	"github.com/longshore-project/longshore/engine"
)

var (
	_ engine.VolumeKeeper = (*Runtime)(nil)
	_ engine.Importer     = (*Runtime)(nil)
)

// CreateVolume makes a volume, or leaves the one of that name and driver as it is. One request.
func (r *Runtime) CreateVolume(ctx context.Context, v engine.EngineVolume) error {
	if v.Name == "" {
		return refuse(errdefs.ErrInvalidArgument, "a volume needs a name") // Docker would choose one
	}
	_, err := r.link.api(ctx).VolumeCreate(ctx, volume.CreateOptions{Name: v.Name, Driver: v.Driver, DriverOpts: v.Options, Labels: v.Labels})
	switch err = classify(ctx, err); {
	case errdefs.IsFailedPrecondition(err):
		return withClass(err, errdefs.ErrAlreadyExists)
	case errdefs.IsNotFound(err): // the driver
		return withClass(err, errdefs.ErrInvalidArgument)
	case errdefs.IsInternal(err) && byText(err, []rule{{err, []string{"invalid option", "missing device", "required option", "error looking up volume plugin"}}}) != nil:
		return withClass(err, errdefs.ErrInvalidArgument)
	}
	return err
}

// InspectVolume returns a volume by its name. One request.
func (r *Runtime) InspectVolume(ctx context.Context, name string) (engine.EngineVolume, error) {
	if name == "" {
		return engine.EngineVolume{}, refuse(errdefs.ErrInvalidArgument, "no volume name given")
	}
	v, err := r.link.api(ctx).VolumeInspect(ctx, name)
	if err != nil {
		return engine.EngineVolume{}, classify(ctx, err)
	}
	return engine.EngineVolume{Name: v.Name, Driver: v.Driver, Options: maps.Clone(v.Options), Labels: maps.Clone(v.Labels)}, nil
}

// Import makes an image from a tar archive of its root file system. Two requests.
func (r *Runtime) Import(ctx context.Context, ref string, root io.Reader, config engine.ImageConfig) (engine.Image, error) {
	var changes []string
	for _, change := range []struct {
		instruction string
		value       []string
	}{{"ENTRYPOINT", config.EntryPoint}, {"CMD", config.Command}} {
		if len(change.value) > 0 {
			text, err := json.Marshal(change.value)
			if err != nil {
				return engine.Image{}, refuse(errdefs.ErrInvalidArgument, "%s %q: %v", change.instruction, change.value, err)
			}
			changes = append(changes, change.instruction+" "+string(text))
		}
	}
	for _, kv := range config.Env {
		changes = append(changes, "ENV "+kv)
	}
	out, err := r.link.api(ctx).ImageImport(ctx, image.ImportSource{Source: root, SourceName: "-"}, ref, image.ImportOptions{Changes: changes})
	if err != nil {
		return engine.Image{}, classify(ctx, err)
	}
	defer func() { _ = out.Close() }()
	if _, err := io.Copy(io.Discard, out); err != nil {
		return engine.Image{}, classify(ctx, err)
	}
	return r.Image(ctx, ref)
}
