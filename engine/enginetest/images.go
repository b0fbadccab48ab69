package enginetest

import (
	"context"
	"crypto/sha256"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"

	"github.com/longshore-project/longshore/engine"
)

// FakeImage is an image that a test gives a Fake.
type FakeImage struct {
	Ref    string
	Config engine.ImageConfig
	Files  map[string]FakeFile // by absolute path; parent directories are implied
	Size   int64
	// Auth, if set, is what a Pull must present.
	Auth *engine.RegistryAuth
	// PullTime is how long a Pull of it takes, with a report of progress at every tenth.
	PullTime time.Duration
}

// FakeFile is a file of a FakeImage. Mode is st_mode; 0 means a regular file of mode 0644, or a symlink if Link is set.
type FakeFile struct {
	Data     string
	Mode     uint32
	UID, GID uint32
	Link     string
}

// Types of st_mode.
const (
	typeMask = 0o170000
	typeDir  = 0o040000
	typeReg  = 0o100000
	typeLink = 0o120000
)

type image struct {
	engine.Image
	files map[string]FakeFile
}

// AddImage makes an image local, as if it had been pulled, and returns it.
func (f *Fake) AddImage(img FakeImage) engine.Image {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.store(&img, img.Ref).show()
}

// Publish puts images in the registry, where Pull finds them.
func (f *Fake) Publish(images ...FakeImage) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, img := range images {
		_, digest := identity(&img)
		f.published[normal(img.Ref)] = &img
		f.published[repository(img.Ref)+"@"+digest] = &img
	}
}

// FailPull makes every Pull of ref fail with err; nil takes it back.
func (f *Fake) FailPull(ref string, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.pullErrors[normal(ref)] = err
}

// identity is an image's id and digest; equal contents are one image.
func identity(src *FakeImage) (id, digest string) {
	sum := sha256.New()
	fmt.Fprintf(sum, "%#v", src.Config)
	if src.Config.Healthcheck != nil {
		fmt.Fprintf(sum, "%#v", *src.Config.Healthcheck)
	}
	for _, p := range slices.Sorted(maps.Keys(src.Files)) {
		fmt.Fprintf(sum, "%q%#v", p, src.Files[p])
	}
	hash := fmt.Sprintf("%x", sum.Sum(nil))
	return "sha256:" + hash, "sha256:" + hash[32:] + hash[:32]
}

// store makes an image local under ref. The mutex is held.
func (f *Fake) store(src *FakeImage, ref string) *image {
	id, digest := identity(src)
	img := f.images[id]
	if img == nil {
		img = &image{files: src.Files, Image: engine.Image{
			ID: id, Digest: digest, Size: src.Size, Created: time.Now(), Config: src.Config,
		}}
		f.images[id] = img
	}
	name := normal(ref)
	for _, other := range f.images {
		other.Names = slices.DeleteFunc(other.Names, func(n string) bool { return n == name })
	}
	img.Names = append(img.Names, name)
	if byDigest := repository(ref) + "@" + digest; !slices.Contains(img.Names, byDigest) {
		img.Names = append(img.Names, byDigest)
	}
	return img
}

func (i *image) show() engine.Image {
	img := i.Image
	img.Names = slices.Clone(img.Names)
	return img
}

// repository is a reference without tag and digest.
func repository(ref string) string {
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return ref
	}
	return reference.FamiliarName(named)
}

// normal is a reference in its familiar form, with a digest or else a tag.
func normal(ref string) string {
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return ref
	}
	if d, ok := named.(reference.Digested); ok {
		return reference.FamiliarName(named) + "@" + d.Digest().String()
	}
	return reference.FamiliarString(reference.TagNameOnly(named))
}

// local finds an image by id, digest or reference. The mutex is held.
func (f *Fake) local(ref string) *image {
	if img := f.images[ref]; img != nil {
		return img
	}
	name := normal(ref)
	for _, img := range f.images {
		if img.Digest == ref || slices.Contains(img.Names, name) {
			return img
		}
	}
	return nil
}

// Image returns a local image.
func (f *Fake) Image(ctx context.Context, ref string) (engine.Image, error) {
	if err := f.enter(ctx, "Image", ref); err != nil {
		return engine.Image{}, err
	}
	defer f.mu.Unlock()
	img := f.local(ref)
	if img == nil {
		return engine.Image{}, noImage(ref)
	}
	return img.show(), nil
}

// Images lists all local images.
func (f *Fake) Images(ctx context.Context) ([]engine.Image, error) {
	if err := f.enter(ctx, "Images", ""); err != nil {
		return nil, err
	}
	defer f.mu.Unlock()
	var all []engine.Image
	for _, img := range f.images {
		all = append(all, img.show())
	}
	return all, nil
}

// Pull takes an image from what was published.
func (f *Fake) Pull(ctx context.Context, ref string, auth *engine.RegistryAuth, progress func(engine.Progress)) (engine.Image, error) {
	if err := f.enter(ctx, "Pull", ref); err != nil {
		return engine.Image{}, err
	}
	if _, err := reference.ParseNormalizedNamed(ref); err != nil {
		f.mu.Unlock()
		return engine.Image{}, fmt.Errorf("%s: %w: %w", ref, err, errdefs.ErrInvalidArgument)
	}
	src, refused := f.published[normal(ref)], f.pullErrors[normal(ref)]
	f.mu.Unlock()
	switch {
	case refused != nil:
		return engine.Image{}, refused
	case src == nil:
		return engine.Image{}, fmt.Errorf("manifest for %s not found: manifest unknown: %w", ref, errdefs.ErrNotFound)
	case src.Auth != nil && (auth == nil || *auth != *src.Auth):
		return engine.Image{}, fmt.Errorf("pull of %s: unauthorized: authentication required: %w", ref, errdefs.ErrUnauthenticated)
	}
	const steps = 10
	for i := range int64(steps + 1) {
		if i > 0 && src.PullTime > 0 {
			if err := wait(ctx, src.PullTime/steps, nil); err != nil {
				return engine.Image{}, err
			}
		}
		if progress != nil {
			progress(engine.Progress{Current: src.Size * i / steps, Total: src.Size, Layers: 1, Done: int(i / steps), Phase: "downloading"})
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.down {
		return engine.Image{}, errDown
	}
	return f.store(src, ref).show(), nil
}

// RemoveImage removes a reference, or by id an image.
func (f *Fake) RemoveImage(ctx context.Context, ref string) error {
	if err := f.enter(ctx, "RemoveImage", ref); err != nil {
		return err
	}
	defer f.mu.Unlock()
	img := f.local(ref)
	if img == nil {
		return nil
	}
	name := normal(ref)
	tags := slices.DeleteFunc(slices.Clone(img.Names), func(n string) bool { return strings.Contains(n, "@") || n == name })
	if ref != img.ID && len(tags) > 0 {
		img.Names = slices.DeleteFunc(img.Names, func(n string) bool { return n == name })
		return nil
	}
	for _, c := range f.containers {
		if c.image == img {
			return fmt.Errorf("image %s is used by container %s: %w", ref, c.state.Name, errdefs.ErrFailedPrecondition)
		}
	}
	delete(f.images, img.ID)
	return nil
}

// ReadFile reads a file of an image.
func (f *Fake) ReadFile(ctx context.Context, imageID, name string, limit int64) ([]byte, error) {
	if err := f.enter(ctx, "ReadFile", name); err != nil {
		return nil, err
	}
	defer f.mu.Unlock()
	file, err := f.lookup(imageID, name, true)
	switch {
	case err != nil:
		return nil, err
	case file.Mode&typeMask != typeReg:
		return nil, fmt.Errorf("%s in image %s is not a regular file: %w", name, imageID, errdefs.ErrFailedPrecondition)
	case int64(len(file.Data)) > limit:
		return nil, fmt.Errorf("%s in image %s has %d bytes, more than %d: %w", name, imageID, len(file.Data), limit, errdefs.ErrOutOfRange)
	}
	return []byte(file.Data), nil
}

// Stat describes a path of an image.
func (f *Fake) Stat(ctx context.Context, imageID, name string) (engine.FileInfo, error) {
	if err := f.enter(ctx, "Stat", name); err != nil {
		return engine.FileInfo{}, err
	}
	defer f.mu.Unlock()
	file, err := f.lookup(imageID, name, false)
	if err != nil {
		return engine.FileInfo{}, err
	}
	return engine.FileInfo{Mode: file.Mode, UID: file.UID, GID: file.GID, Link: file.Link}, nil
}

// lookup walks a path, following symlinks, the last component only if follow. The mutex is held.
func (f *Fake) lookup(imageID, name string, follow bool) (FakeFile, error) {
	img := f.local(imageID)
	if img == nil {
		return FakeFile{}, noImage(imageID)
	}
	missing := fmt.Errorf("no %s in image %s: %w", name, imageID, errdefs.ErrNotFound)
	todo, at := strings.Split(path.Clean("/"+name), "/"), "/"
	root := FakeFile{Mode: typeDir | 0o755}
	here := root
	for hops := 0; len(todo) > 0; {
		part := todo[0]
		todo = todo[1:]
		if part == "" || part == "." {
			continue
		}
		next := path.Join(at, part) // of "..", the directory above
		if next == "/" {
			here, at = root, next
			continue
		}
		file, ok := img.entry(next)
		if !ok {
			return FakeFile{}, missing
		}
		if file.Mode&typeMask == typeLink && (follow || len(todo) > 0) {
			if hops++; hops > 40 {
				return FakeFile{}, fmt.Errorf("too many symlinks in %s: %w", name, errdefs.ErrFailedPrecondition)
			}
			if path.IsAbs(file.Link) {
				here, at = root, "/"
			}
			todo = append(strings.Split(file.Link, "/"), todo...)
			continue
		}
		here, at = file, next
	}
	return here, nil
}

// entry is what stands at an absolute path, without following anything.
func (i *image) entry(name string) (FakeFile, bool) {
	if file, ok := i.files[name]; ok {
		switch {
		case file.Mode&typeMask != 0:
		case file.Link != "":
			file.Mode |= typeLink | 0o777
		case file.Mode == 0:
			file.Mode = typeReg | 0o644
		default:
			file.Mode |= typeReg
		}
		return file, true
	}
	for p := range i.files {
		if strings.HasPrefix(p, name+"/") {
			return FakeFile{Mode: typeDir | 0o755}, true
		}
	}
	return FakeFile{}, false
}

// ImageUses lists every container.
func (f *Fake) ImageUses(ctx context.Context) ([]engine.ImageUse, error) {
	if err := f.enter(ctx, "ImageUses", ""); err != nil {
		return nil, err
	}
	defer f.mu.Unlock()
	var uses []engine.ImageUse
	for _, c := range f.containers {
		uses = append(uses, engine.ImageUse{ImageID: c.image.ID, Name: c.state.Name, Status: c.state.Status, Ours: ours(c)})
	}
	return uses, nil
}
