package engine

import "context"

// ImageUser is a Runtime that says which images containers were made from: the one method that shows containers of others
// too, because an image that one of them uses must stay. Where it is missing no image is removed.
type ImageUser interface {
	// ImageUses lists every container of the engine, in any state, in one call.
	ImageUses(ctx context.Context) ([]ImageUse, error)
}

// Layered is a Runtime that says which layers its images have.
type Layered interface {
	// Layers are the diff ids (OCI image specification, config.md) of all local images' layers: one call for each image.
	Layers(ctx context.Context) ([]string, error)
}

// ImageUse is a container as the user of an image.
type ImageUse struct {
	ImageID string
	Name    string
	Status  Status
	Ours    bool // it carries LabelTaskArn
}
