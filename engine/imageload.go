package engine

import (
	"context"
	"io"
)

// Loader is a Runtime that takes images from an archive, without a registry.
type Loader interface {
	// Load makes the images of an archive local, which is as "docker save" writes it, not compressed, and read once. An image that has one of
	// their names loses it. What the engine can't use is an error
	// in its own words.
	Load(ctx context.Context, archive io.Reader) error
}
