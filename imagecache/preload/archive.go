package preload

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"runtime"
	"slices"
	"strings"

	"github.com/distribution/reference"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// The bounds of an archive: of a document in it, of all of them, and of its entries.
const (
	maxDocument  = 4 << 20
	maxDocuments = 64 << 20
	maxEntries   = 1 << 20
)

// The documents of an archive.
const (
	manifestName = "manifest.json" // of "docker save"
	indexName    = "index.json"    // of an OCI image layout (image specification, "Image Layout")
	layoutName   = "oci-layout"
)

// saved is an image in the manifest of "docker save" (Docker image specification 1.2).
type saved struct {
	Config   string
	RepoTags []string
	Layers   []string
}

// archive is what was found in one.
type archive struct {
	digest string // of the file, as it is
	images []saved
	layout bool // it is an OCI image layout: engines get images as the manifest of "docker save"
}

func (a *archive) names() (names []string) {
	for _, i := range a.images {
		names = append(names, i.RepoTags...)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// inflated is a file without its compression, which is known by its first bytes.
func inflated(r io.Reader) (io.ReadCloser, error) {
	b := bufio.NewReaderSize(r, 1<<16)
	head, err := b.Peek(4)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	switch {
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b}): // RFC 1952
		return gzip.NewReader(b)
	case bytes.HasPrefix(head, []byte{0x28, 0xb5, 0x2f, 0xfd}): // RFC 8878
		z, err := zstd.NewReader(b, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(256<<20), zstd.WithDecoderLowmem(true))
		if err != nil {
			return nil, err
		}
		return z.IOReadCloser(), nil
	}
	return io.NopCloser(b), nil
}

// honoured is a reader that ends with ctx.
type honoured struct {
	ctx context.Context
	r   io.Reader
}

func (h honoured) Read(p []byte) (int, error) {
	if err := h.ctx.Err(); err != nil {
		return 0, err
	}
	return h.r.Read(p)
}

// examine reads an archive through: its digest, that it is whole, and its images.
func examine(ctx context.Context, name string) (*archive, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	sum := sha256.New()
	whole := io.TeeReader(honoured{ctx, f}, sum)
	a, err := parse(whole)
	if err != nil {
		return nil, fmt.Errorf("it is damaged, or no archive of images: %w", err)
	}
	if _, err := io.Copy(io.Discard, whole); err != nil {
		return nil, err
	}
	a.digest = "sha256:" + hex.EncodeToString(sum.Sum(nil))
	return a, nil
}

// parse finds the images of an archive.
func parse(r io.Reader) (*archive, error) {
	plain, err := inflated(r)
	if err != nil {
		return nil, err
	}
	defer func() { _ = plain.Close() }()
	c := contents{names: map[string]bool{}, documents: map[string][]byte{}}
	if err := c.read(tar.NewReader(plain)); err != nil {
		return nil, err
	}
	if _, err := io.Copy(io.Discard, plain); err != nil { // the check sums are at the end
		return nil, err
	}
	a := &archive{}
	switch text := c.documents[manifestName]; {
	case text != nil:
		if err := json.Unmarshal(text, &a.images); err != nil {
			return nil, fmt.Errorf("%s: %w", manifestName, err)
		}
	case c.documents[indexName] != nil:
		if a.images, err = c.layout(); err != nil {
			return nil, err
		}
		a.layout = true
	default:
		return nil, fmt.Errorf("it has neither %s, as docker save writes it, nor %s, as an OCI image layout has it", manifestName, indexName)
	}
	return a, c.check(a.images)
}

// contents are an archive's names, and what is in its small files.
type contents struct {
	names     map[string]bool
	documents map[string][]byte
	bytes     int64
}

func (c *contents) read(t *tar.Reader) error {
	for {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		name := path.Clean(h.Name)
		if c.names[name] = true; len(c.names) > maxEntries {
			return fmt.Errorf("it has more than %d entries", maxEntries)
		}
		document := name == manifestName || name == indexName || strings.HasPrefix(name, "blobs/")
		if h.Typeflag != tar.TypeReg || !document || h.Size > maxDocument {
			continue
		}
		data, err := io.ReadAll(io.LimitReader(t, maxDocument))
		if err != nil {
			return err
		}
		if data = bytes.TrimSpace(data); !bytes.HasPrefix(data, []byte("{")) && !bytes.HasPrefix(data, []byte("[")) {
			continue // a layer
		}
		if c.bytes += int64(len(data)); c.bytes > maxDocuments {
			return fmt.Errorf("its documents have more than %d MiB", maxDocuments>>20)
		}
		c.documents[name] = data
	}
}

// check says what is missing of images.
func (c *contents) check(images []saved) error {
	if len(images) == 0 {
		return errors.New("it has no image")
	}
	for _, i := range images {
		if len(i.RepoTags) == 0 {
			return errors.New("an image in it has no name: save it by its name, and not by its id")
		}
		for _, name := range i.RepoTags {
			if _, err := reference.ParseNormalizedNamed(name); err != nil {
				return fmt.Errorf("%.200q is no image's name: %w", name, err)
			}
		}
		for _, name := range append([]string{i.Config}, i.Layers...) {
			if !c.names[path.Clean(name)] {
				return fmt.Errorf("it lacks %.200q, a part of %.200s", name, i.RepoTags[0])
			}
		}
	}
	return nil
}

// layout are the images of an OCI image layout, for this machine's platform.
func (c *contents) layout() ([]saved, error) {
	var index ocispec.Index
	if err := json.Unmarshal(c.documents[indexName], &index); err != nil {
		return nil, fmt.Errorf("%s: %w", indexName, err)
	}
	var images []saved
	for _, d := range index.Manifests {
		names := namesOf(d.Annotations)
		if names == nil {
			return nil, fmt.Errorf("%s names no image with repository and tag: its annotations %s and %s say %q; skopeo copy … oci-archive:FILE:NAME:TAG writes one", indexName, fullNameNote, ocispec.AnnotationRefName, d.Annotations[ocispec.AnnotationRefName])
		}
		m, err := c.manifest(d, 0)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", names[0], err)
		}
		s := saved{Config: blob(m.Config.Digest), RepoTags: names}
		for _, l := range m.Layers {
			s.Layers = append(s.Layers, blob(l.Digest))
		}
		images = append(images, s)
	}
	return images, nil
}

// fullNameNote is where containerd, and Docker since version 25, write an image's whole name.
const fullNameNote = "io.containerd.image.name"

// namesOf is the name that an index gives an image; a tag alone is none.
func namesOf(annotations map[string]string) []string {
	for _, note := range []string{fullNameNote, ocispec.AnnotationRefName} {
		if name := annotations[note]; strings.ContainsAny(name, ":/") {
			return []string{name}
		}
	}
	return nil
}

func blob(d digest.Digest) string {
	if d.Validate() != nil {
		return "blobs/" + string(d) // which is not there
	}
	return "blobs/" + d.Algorithm().String() + "/" + d.Encoded()
}

// manifest follows a descriptor, through indexes of several platforms.
func (c *contents) manifest(d ocispec.Descriptor, depth int) (*ocispec.Manifest, error) {
	data, ok := c.documents[blob(d.Digest)]
	if !ok || depth > 3 {
		return nil, fmt.Errorf("it lacks the manifest %.100s", d.Digest)
	}
	var document struct {
		ocispec.Manifest
		Manifests []ocispec.Descriptor `json:"manifests"`
	}
	if err := json.Unmarshal(data, &document); err != nil {
		return nil, fmt.Errorf("the manifest %s: %w", d.Digest, err)
	}
	if document.Manifests == nil {
		return &document.Manifest, nil
	}
	var others []string
	for _, m := range document.Manifests {
		if p := m.Platform; p == nil || p.OS == runtime.GOOS && p.Architecture == runtime.GOARCH {
			return c.manifest(m, depth+1)
		}
		others = append(others, m.Platform.OS+"/"+m.Platform.Architecture)
	}
	return nil, fmt.Errorf("it is for %.200s, and this machine is %s/%s", strings.Join(others, ", "), runtime.GOOS, runtime.GOARCH)
}

// load gives the archive to the engine.
func (a *archive) load(ctx context.Context, name string, e Engine) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	plain, err := inflated(honoured{ctx, f})
	if err != nil {
		return err
	}
	defer func() { _ = plain.Close() }()
	if !a.layout {
		return e.Load(ctx, plain)
	}
	r, w := io.Pipe()
	written := make(chan struct{})
	go func() {
		defer close(written)
		_ = w.CloseWithError(a.rewrite(w, plain))
	}()
	err = e.Load(ctx, r)
	_ = r.Close()
	<-written
	return err
}

// rewrite writes an OCI image layout as "docker save" would have.
func (a *archive) rewrite(to io.Writer, from io.Reader) error {
	in, out := tar.NewReader(from), tar.NewWriter(to)
	for {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		if n := path.Clean(h.Name); n == indexName || n == layoutName {
			continue
		}
		if err := out.WriteHeader(h); err != nil {
			return err
		}
		if _, err := io.Copy(out, in); err != nil {
			return err
		}
	}
	data, err := json.Marshal(a.images)
	if err != nil {
		return err
	}
	if err := out.WriteHeader(&tar.Header{Name: manifestName, Mode: 0o644, Size: int64(len(data)), Typeflag: tar.TypeReg}); err != nil {
		return err
	}
	if _, err := out.Write(data); err != nil {
		return err
	}
	return out.Close()
}
