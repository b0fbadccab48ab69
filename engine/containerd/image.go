package containerd

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	specs "github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/longshore-project/longshore/engine"
	"github.com/longshore-project/longshore/protocol/acs"
)

// containerd names images by their whole reference, docker.io/library/name:tag, each name a record of its own that leads to a manifest. What
// we pull by tag gets a second record by digest, so that it can be found, and is kept, when the tag has gone to another.

// maxConfig bounds the documents of images.
const maxConfig = 4 << 20

// local is an image as we need it.
type local struct {
	engine.Image
	name  string        // of one of its records
	chain digest.Digest // of all its layers: the snapshot that containers begin with
}

// imageFacts remembers what manifests say, and who an image's users are; neither ever changes.
type imageFacts struct {
	mu     sync.Mutex
	byRoot map[digest.Digest]local // by the digest that a record leads to
	users  map[[2]string]execUser  // by image and what a definition says
}

func (f *imageFacts) init() {
	f.byRoot, f.users = map[digest.Digest]local{}, map[[2]string]execUser{}
}

// keep forgets what is not of these images.
func (f *imageFacts) keep(list []images.Image) {
	f.mu.Lock()
	defer f.mu.Unlock()
	there := map[digest.Digest]bool{}
	for _, img := range list {
		there[img.Target.Digest] = true
	}
	ids := map[string]bool{}
	for d, l := range f.byRoot {
		if !there[d] {
			delete(f.byRoot, d)
			continue
		}
		ids[l.ID] = true
	}
	maps.DeleteFunc(f.users, func(key [2]string, _ execUser) bool { return !ids[key[0]] })
}

func (f *imageFacts) user(image, who string) (execUser, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	u, known := f.users[[2]string{image, who}]
	return u, known
}

// maxUsers bounds the users that are remembered; there are about as many as container definitions.
const maxUsers = 10_000

func (f *imageFacts) remember(image, who string, u execUser) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.users) >= maxUsers {
		clear(f.users)
	}
	f.users[[2]string{image, who}] = u
}

// full is the whole reference for one that people use.
func full(ref string) (reference.Named, error) {
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return nil, refuse(errdefs.ErrInvalidArgument, "image reference %q: %v", ref, err)
	}
	if d, is := named.(reference.Digested); is { // a digest says more than a tag beside it
		return reference.WithDigest(reference.TrimNamed(named), d.Digest())
	}
	return reference.TagNameOnly(named), nil
}

// familiar is the reference that people use for a record's name.
func familiar(name string) string {
	named, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return name
	}
	return reference.FamiliarString(named)
}

// describe reads what an image's record leads to.
func (r *Runtime) describe(ctx context.Context, img images.Image) (local, error) {
	r.images.mu.Lock()
	known, is := r.images.byRoot[img.Target.Digest]
	r.images.mu.Unlock()
	if is {
		known.name = img.Name
		return known, nil
	}
	store, platform := r.client.ContentStore(), platforms.Default()
	manifest, err := images.Manifest(ctx, store, img.Target, platform)
	if err != nil {
		return local{}, classify(ctx, err)
	}
	if manifest.Config.Size > maxConfig {
		return local{}, refuse(errdefs.ErrOutOfRange, "the configuration of image %s has %d bytes, more than %d", img.Name, manifest.Config.Size, maxConfig)
	}
	blob, err := content.ReadBlob(ctx, store, manifest.Config)
	if err != nil {
		return local{}, classify(ctx, err)
	}
	doc, err := parseConfig(blob)
	if err != nil {
		return local{}, refuse(errdefs.ErrInvalidArgument, "the configuration of image %s: %v", img.Name, err)
	}
	l := local{name: img.Name, chain: identity.ChainID(doc.RootFS.DiffIDs)}
	l.Image = engine.Image{ID: manifest.Config.Digest.String(), Config: doc.config(), Created: img.CreatedAt}
	if doc.Created != nil {
		l.Image.Created = *doc.Created
	}
	for _, d := range manifest.Layers {
		l.Size += d.Size
	}
	if usage, err := r.unpacked(ctx, doc.RootFS.DiffIDs); err == nil {
		l.Size += usage
		r.images.mu.Lock()
		defer r.images.mu.Unlock()
		r.images.byRoot[img.Target.Digest] = l
	}
	return l, nil
}

// unpacked is the size of an image's file system; an error if it is not unpacked.
func (r *Runtime) unpacked(ctx context.Context, diffs []digest.Digest) (int64, error) {
	var sum int64
	s := r.client.SnapshotService(r.cfg.Snapshotter)
	for i := range diffs {
		u, err := s.Usage(ctx, identity.ChainID(slices.Clone(diffs[:i+1])).String())
		if err != nil {
			return 0, err
		}
		sum += u.Size
	}
	return sum, nil
}

// imageDocument is an image's configuration: OCI's, with what Docker adds (image specification 1.2).
type imageDocument struct {
	Created *time.Time     `json:"created"`
	RootFS  ocispec.RootFS `json:"rootfs"`
	Config  struct {
		ocispec.ImageConfig
		Healthcheck *acs.HealthConfig `json:"Healthcheck"`
	} `json:"config"`
}

func parseConfig(blob []byte) (imageDocument, error) {
	var doc imageDocument
	if len(blob) > maxConfig {
		return doc, fmt.Errorf("%d bytes are more than %d", len(blob), maxConfig)
	}
	err := json.Unmarshal(blob, &doc)
	for _, d := range doc.RootFS.DiffIDs {
		if err == nil {
			err = d.Validate()
		}
	}
	return doc, err
}

func (d *imageDocument) config() engine.ImageConfig {
	c := engine.ImageConfig{
		User: d.Config.User, WorkingDir: d.Config.WorkingDir, Env: d.Config.Env, EntryPoint: d.Config.Entrypoint, Command: d.Config.Cmd,
		Labels: d.Config.Labels, StopSignal: d.Config.StopSignal, Healthcheck: d.Config.Healthcheck,
	}
	for v := range d.Config.Volumes {
		c.Volumes = append(c.Volumes, v)
	}
	slices.Sort(c.Volumes)
	return c
}

// local finds an image by reference, digest or id, without its names.
func (r *Runtime) local(ctx context.Context, ref string) (local, error) {
	missing := refuse(errdefs.ErrNotFound, "no such image: %s", ref)
	if ref == "" {
		return local{}, refuse(errdefs.ErrInvalidArgument, "no image reference given")
	}
	if isID(ref) {
		return r.byID(ctx, ref)
	}
	name, err := full(ref)
	if err != nil {
		return local{}, err
	}
	img, err := r.client.ImageService().Get(ctx, name.String())
	if err != nil {
		if err = classify(ctx, err); errdefs.IsNotFound(err) {
			return local{}, missing
		}
		return local{}, err
	}
	l, err := r.describe(ctx, img)
	if errdefs.IsNotFound(err) { // its content is gone
		return local{}, missing
	}
	return l, err
}

// whole is an image with its names.
func (r *Runtime) whole(ctx context.Context, ref string) (local, error) {
	l, err := r.local(ctx, ref)
	if err != nil {
		return l, err
	}
	var as reference.Named
	if !isID(ref) {
		if as, err = full(ref); err != nil {
			return l, err
		}
	}
	return l, r.named(ctx, &l, as)
}

// records are what the names of images lead to.
func (r *Runtime) records(ctx context.Context) ([]images.Image, error) {
	list, err := r.client.ImageService().List(ctx)
	if err != nil {
		return nil, classify(ctx, err)
	}
	r.images.keep(list)
	return list, nil
}

// named adds the names that an image has, and the digest under which a repository gave it.
func (r *Runtime) named(ctx context.Context, l *local, as reference.Named) error {
	list, err := r.records(ctx)
	if err != nil {
		return err
	}
	for _, img := range list {
		other, err := r.describe(ctx, img)
		if err != nil || other.ID != l.ID {
			continue
		}
		l.Names = append(l.Names, familiar(img.Name))
		named, err := reference.ParseNormalizedNamed(img.Name)
		if d, is := named.(reference.Digested); err == nil && is && (as == nil || reference.TrimNamed(named).Name() == reference.TrimNamed(as).Name()) {
			l.Digest = d.Digest().String()
		}
	}
	slices.Sort(l.Names)
	return nil
}

func isID(ref string) bool {
	_, err := digest.Parse(ref)
	return err == nil
}

// byID finds an image by the digest of its configuration or manifest.
func (r *Runtime) byID(ctx context.Context, id string) (local, error) {
	list, err := r.records(ctx)
	if err != nil {
		return local{}, err
	}
	for _, img := range list {
		l, err := r.describe(ctx, img)
		if err == nil && (l.ID == id || img.Target.Digest.String() == id) {
			return l, nil
		}
	}
	return local{}, refuse(errdefs.ErrNotFound, "no such image: %s", id)
}

// Image returns a local image.
func (r *Runtime) Image(ctx context.Context, ref string) (engine.Image, error) {
	l, err := r.whole(r.ns(ctx), ref)
	return l.Image, err
}

// Images lists all local images.
func (r *Runtime) Images(ctx context.Context) ([]engine.Image, error) {
	ctx = r.ns(ctx)
	list, err := r.records(ctx)
	if err != nil {
		return nil, err
	}
	byID := map[string]*engine.Image{}
	for _, img := range list {
		l, err := r.describe(ctx, img)
		if errdefs.IsNotFound(err) || errdefs.IsInvalidArgument(err) {
			continue // of another platform, or its content is gone
		}
		if err != nil {
			return nil, err
		}
		if byID[l.ID] == nil {
			byID[l.ID] = &l.Image
		}
		i := byID[l.ID]
		i.Names = append(i.Names, familiar(img.Name))
		if _, d, is := strings.Cut(img.Name, "@"); is {
			i.Digest = d
		}
	}
	var all []engine.Image
	for _, i := range byID {
		slices.Sort(i.Names)
		all = append(all, *i)
	}
	slices.SortFunc(all, func(a, b engine.Image) int { return cmp.Compare(a.ID, b.ID) })
	return all, nil
}

// Layers are the diff ids of all local images' layers.
func (r *Runtime) Layers(ctx context.Context) ([]string, error) {
	ctx = r.ns(ctx)
	list, err := r.records(ctx)
	if err != nil {
		return nil, err
	}
	var all []string
	for _, img := range list {
		diffs, err := client.NewImage(r.client, img).RootFS(ctx)
		if err != nil {
			continue
		}
		for _, d := range diffs {
			all = append(all, d.String())
		}
	}
	slices.Sort(all)
	return slices.Compact(all), nil
}

// RemoveImage removes a reference, or by id an image.
func (r *Runtime) RemoveImage(ctx context.Context, ref string) error {
	ctx = r.ns(ctx)
	l, err := r.whole(ctx, ref)
	if errdefs.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	gone := l.Names
	if !isID(ref) {
		name, err := full(ref)
		if err != nil {
			return err
		}
		mine := reference.FamiliarString(name)
		if slices.ContainsFunc(l.Names, func(n string) bool { return n != mine && !strings.Contains(n, "@") }) {
			gone = []string{mine}
		}
	}
	if len(gone) == len(l.Names) {
		uses, err := r.ImageUses(ctx)
		if err != nil {
			return err
		}
		if i := slices.IndexFunc(uses, func(u engine.ImageUse) bool { return u.ImageID == l.ID }); i >= 0 {
			return refuse(errdefs.ErrFailedPrecondition, "image %s is used by container %s", ref, uses[i].Name)
		}
	}
	for i, n := range gone {
		name, err := full(n)
		if err != nil {
			return err
		}
		var opts []images.DeleteOpt
		if i == len(gone)-1 {
			opts = append(opts, images.SynchronousDelete()) // the space is free when it returns
		}
		if err := r.client.ImageService().Delete(ctx, name.String(), opts...); err != nil && !errdefs.IsNotFound(native(err)) {
			return classify(ctx, err)
		}
	}
	return nil
}

// prepare makes the file system of a container, unpacking the image if nobody has.
func (r *Runtime) prepare(ctx context.Context, id string, img local) error {
	s := r.client.SnapshotService(r.cfg.Snapshotter)
	_, err := s.Prepare(ctx, id, img.chain.String())
	if err != nil && errdefs.IsNotFound(native(err)) {
		found, ierr := r.client.GetImage(ctx, img.name)
		if ierr == nil {
			ierr = found.Unpack(ctx, r.cfg.Snapshotter)
		}
		if ierr != nil {
			return classify(ctx, ierr)
		}
		_, err = s.Prepare(ctx, id, img.chain.String())
	}
	return classify(ctx, err)
}

// Import makes a local image out of a file system.
func (r *Runtime) Import(ctx context.Context, ref string, root io.Reader, config engine.ImageConfig) (engine.Image, error) {
	ctx = r.ns(ctx)
	name, err := full(ref)
	if err != nil {
		return engine.Image{}, err
	}
	ctx, done, err := r.client.WithLease(ctx)
	if err != nil {
		return engine.Image{}, classify(ctx, err)
	}
	defer func() { _ = done(context.WithoutCancel(ctx)) }()
	archive, err := io.ReadAll(root)
	if err != nil {
		return engine.Image{}, err
	}
	var packed bytes.Buffer
	w := gzip.NewWriter(&packed)
	if _, err := w.Write(archive); err != nil {
		return engine.Image{}, err
	}
	if err := w.Close(); err != nil {
		return engine.Image{}, err
	}
	layer, err := r.store(ctx, ocispec.MediaTypeImageLayerGzip, packed.Bytes(), nil)
	if err != nil {
		return engine.Image{}, err
	}
	created := now()
	doc := ocispec.Image{
		Created: &created, Platform: ocispec.Platform{OS: "linux", Architecture: runtime.GOARCH},
		Config: ocispec.ImageConfig{Entrypoint: config.EntryPoint, Cmd: config.Command, Env: config.Env},
		RootFS: ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{digest.FromBytes(archive)}},
	}
	conf, err := r.storeJSON(ctx, ocispec.MediaTypeImageConfig, doc, map[string]string{"containerd.io/gc.ref.snapshot." + r.cfg.Snapshotter: identity.ChainID(doc.RootFS.DiffIDs).String()})
	if err != nil {
		return engine.Image{}, err
	}
	manifest, err := r.storeJSON(ctx, ocispec.MediaTypeImageManifest, ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, Config: conf, Layers: []ocispec.Descriptor{layer},
	}, map[string]string{"containerd.io/gc.ref.content.0": conf.Digest.String(), "containerd.io/gc.ref.content.1": layer.Digest.String()})
	if err != nil {
		return engine.Image{}, err
	}
	if err := r.record(ctx, name.String(), manifest); err != nil {
		return engine.Image{}, err
	}
	img, err := r.client.GetImage(ctx, name.String())
	if err == nil {
		err = img.Unpack(ctx, r.cfg.Snapshotter)
	}
	if err != nil {
		return engine.Image{}, classify(ctx, err)
	}
	return r.Image(ctx, ref)
}

func (r *Runtime) storeJSON(ctx context.Context, kind string, v any, labels map[string]string) (ocispec.Descriptor, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	return r.store(ctx, kind, b, labels)
}

func (r *Runtime) store(ctx context.Context, kind string, blob []byte, labels map[string]string) (ocispec.Descriptor, error) {
	d := ocispec.Descriptor{MediaType: kind, Digest: digest.FromBytes(blob), Size: int64(len(blob))}
	var opts []content.Opt
	if labels != nil {
		opts = append(opts, content.WithLabels(labels))
	}
	return d, classify(ctx, content.WriteBlob(ctx, r.client.ContentStore(), "longshore-"+d.Digest.Encoded(), bytes.NewReader(blob), d, opts...))
}

// record makes a name lead to a manifest, whatever it led to before.
func (r *Runtime) record(ctx context.Context, name string, target ocispec.Descriptor) error {
	for range 5 {
		_, err := r.client.ImageService().Create(ctx, images.Image{Name: name, Target: target})
		if !errdefs.IsAlreadyExists(native(err)) {
			return classify(ctx, err)
		}
		_, err = r.client.ImageService().Update(ctx, images.Image{Name: name, Target: target}, "target")
		if !errdefs.IsNotFound(native(err)) {
			return classify(ctx, err)
		}
	}
	return refuse(errdefs.ErrUnavailable, "the name %s is made and removed by others again and again", name)
}
