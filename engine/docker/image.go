package docker

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/image"
	"github.com/docker/docker/api/types/registry"

	"github.com/longshore-project/longshore/engine"
	"github.com/longshore-project/longshore/protocol/acs"
)

// Image returns a local image: one request, which those share who ask at the same time, and a second for a digest without a
// repository, which Docker does not know by itself.
func (r *Runtime) Image(ctx context.Context, ref string) (engine.Image, error) {
	if ref == "" {
		return engine.Image{}, refuse(errdefs.ErrInvalidArgument, "no image reference given")
	}
	img, err := r.asked.do(ctx, ref, func(ctx context.Context) (image.InspectResponse, error) {
		img, err := r.link.api(ctx).ImageInspect(ctx, ref)
		return img, classify(ctx, err)
	})
	if err == nil {
		return fromImage(img, ref), nil
	}
	if errdefs.IsInvalidArgument(err) { // not even a possible reference
		return engine.Image{}, withClass(err, errdefs.ErrNotFound)
	}
	if !errdefs.IsNotFound(err) || !strings.HasPrefix(ref, "sha256:") {
		return engine.Image{}, err
	}
	all, lerr := r.link.api(ctx).ImageList(ctx, image.ListOptions{})
	if lerr != nil {
		return engine.Image{}, classify(ctx, lerr)
	}
	for _, one := range all {
		for _, name := range one.RepoDigests {
			if strings.HasSuffix(name, "@"+ref) {
				return r.Image(ctx, name)
			}
		}
	}
	return engine.Image{}, err
}

func fromImage(img image.InspectResponse, ref string) engine.Image {
	out := engine.Image{
		ID: img.ID, Digest: digest(img.RepoDigests, ref), Size: img.Size, Created: parseTime(img.Created),
		Names: slices.Concat(img.RepoTags, img.RepoDigests),
	}
	c := img.Config
	if c == nil {
		return out
	}
	out.Config = engine.ImageConfig{
		User: c.User, WorkingDir: c.WorkingDir, Env: slices.Clip(c.Env), EntryPoint: slices.Clip(c.Entrypoint), Command: slices.Clip(c.Cmd), Labels: c.Labels, StopSignal: c.StopSignal,
	}
	for v := range c.Volumes {
		out.Config.Volumes = append(out.Config.Volumes, v)
	}
	slices.Sort(out.Config.Volumes)
	if h := c.Healthcheck; h != nil {
		out.Config.Healthcheck = &acs.HealthConfig{
			Test: h.Test, Interval: int64(h.Interval), Timeout: int64(h.Timeout), StartPeriod: int64(h.StartPeriod), Retries: int64(h.Retries),
		}
	}
	return out
}

// digest picks, of an image's names by digest, the one of ref's repository, else the first.
func digest(names []string, ref string) string {
	if _, d, ok := strings.Cut(ref, "@"); ok {
		return d
	}
	first := ""
	want, _ := reference.ParseNormalizedNamed(ref)
	for _, name := range names {
		repo, d, _ := strings.Cut(name, "@")
		if first == "" || strings.HasSuffix(name, "@"+ref) {
			first = d
		}
		if have, err := reference.ParseNormalizedNamed(repo); err == nil && want != nil && have.Name() == want.Name() {
			return d
		}
	}
	return first
}

// Images lists all local images: one request. Of their configurations it knows only the labels.
func (r *Runtime) Images(ctx context.Context) ([]engine.Image, error) {
	list, err := r.link.api(ctx).ImageList(ctx, image.ListOptions{})
	if err != nil {
		return nil, classify(ctx, err)
	}
	none := func(name string) bool { return strings.HasPrefix(name, "<none>") }
	var all []engine.Image
	for _, i := range list {
		names := slices.DeleteFunc(slices.Concat(i.RepoTags, i.RepoDigests), none)
		all = append(all, engine.Image{
			ID: i.ID, Digest: digest(slices.DeleteFunc(slices.Clone(i.RepoDigests), none), ""), Names: names,
			Size: i.Size, Created: time.Unix(i.Created, 0), Config: engine.ImageConfig{Labels: i.Labels},
		})
	}
	return all, nil
}

// Pull pulls one image and inspects it.
func (r *Runtime) Pull(ctx context.Context, ref string, auth *engine.RegistryAuth, progress func(engine.Progress)) (engine.Image, error) {
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return engine.Image{}, refuse(errdefs.ErrInvalidArgument, "image reference %q: %v", ref, err)
	}
	opts := image.PullOptions{}
	if auth != nil {
		opts.RegistryAuth, err = registry.EncodeAuthConfig(registry.AuthConfig{
			Username: auth.Username, Password: auth.Password, IdentityToken: auth.IdentityToken, ServerAddress: auth.ServerAddress,
		})
		if err != nil {
			return engine.Image{}, refuse(errdefs.ErrInvalidArgument, "credentials for %s: %v", ref, err)
		}
	}
	body, err := r.link.api(ctx).ImagePull(ctx, ref, opts)
	if err != nil {
		return engine.Image{}, classifyPull(ctx, err)
	}
	defer func() { _ = body.Close() }()
	if err := follow(ctx, body, progress); err != nil {
		return engine.Image{}, err
	}
	local := reference.FamiliarString(reference.TagNameOnly(named))
	if d, ok := named.(reference.Digested); ok { // repo:tag@digest is known by its digest only
		local = reference.FamiliarName(named) + "@" + d.Digest().String()
	}
	return r.Image(ctx, local)
}

// pullMessage is one message of a pull; the engine writes them one after the other.
type pullMessage struct {
	ID       string `json:"id"`
	Status   string `json:"status"`
	Progress struct {
		Current int64 `json:"current"`
		Total   int64 `json:"total"`
	} `json:"progressDetail"`
	Error string `json:"error"`
}

// follow reads a pull to its end and reports how far it is.
func follow(ctx context.Context, body io.Reader, progress func(engine.Progress)) error {
	sum := tally{layers: map[string]*layer{}, last: engine.Progress{Phase: "resolving"}}
	for messages := json.NewDecoder(body); ; {
		var m pullMessage
		switch err := messages.Decode(&m); {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return classify(ctx, err)
		case m.Error != "":
			return classifyPull(ctx, errors.New(m.Error))
		}
		if p, changed := sum.add(m); changed && progress != nil {
			progress(p)
		}
	}
}

// tally adds up the layers of a pull.
type tally struct {
	layers map[string]*layer
	last   engine.Progress
}

type layer struct {
	current, total        int64
	downloaded, extracted bool
}

// add takes in a message; it reports whether the pull has moved, which bytes extracted also mean.
func (t *tally) add(m pullMessage) (engine.Progress, bool) {
	if m.ID == "" || strings.HasPrefix(m.Status, "Pulling from") {
		return t.last, true
	}
	l := t.layers[m.ID]
	if l == nil {
		l = &layer{}
		t.layers[m.ID] = l
	}
	switch m.Status {
	case "Downloading":
		l.current, l.total = max(l.current, m.Progress.Current), max(l.total, m.Progress.Total)
	case "Verifying Checksum", "Download complete":
		l.downloaded, l.current = true, l.total
	case "Extracting":
		l.downloaded, l.current = true, l.total
	case "Pull complete", "Already exists":
		l.downloaded, l.extracted, l.current = true, true, l.total
	case "Waiting", "Pulling fs layer":
	default: // "Retrying in 5 seconds" and the like: the pull has not moved
		return t.last, false
	}
	return t.report(), true
}

func (t *tally) report() engine.Progress {
	p := engine.Progress{Phase: "extracting", Layers: len(t.layers)}
	for _, l := range t.layers {
		p.Current += l.current
		p.Total += l.total
		if l.extracted {
			p.Done++
		}
		if !l.downloaded {
			p.Phase = "downloading"
		}
	}
	t.last = p
	return p
}

// RemoveImage removes a reference, or by id an image.
func (r *Runtime) RemoveImage(ctx context.Context, ref string) error {
	img, err := r.Image(ctx, ref)
	if errdefs.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	r.images.drop(ctx, img.ID)
	names := []string{ref}
	if ref == img.ID || ref == img.Digest {
		names = append(slices.Clone(img.Names), img.ID)
	}
	for _, name := range names {
		_, err := r.link.api(ctx).ImageRemove(ctx, name, image.RemoveOptions{PruneChildren: true})
		if err = classify(ctx, err); err != nil && !errdefs.IsNotFound(err) {
			return err
		}
	}
	return nil
}

// ImageUses lists every container, those of others too: one request.
func (r *Runtime) ImageUses(ctx context.Context) ([]engine.ImageUse, error) {
	list, err := r.link.api(ctx).ContainerList(ctx, container.ListOptions{All: true})
	if err != nil {
		return nil, classify(ctx, err)
	}
	uses := make([]engine.ImageUse, 0, len(list))
	for i := range list {
		st := fromSummary(list[i])
		uses = append(uses, engine.ImageUse{ImageID: list[i].ImageID, Name: st.Name, Status: st.Status, Ours: list[i].Labels[engine.LabelTaskArn] != ""})
	}
	return uses, nil
}

// Layers are the diff ids of all local images' layers: one request, and one for each image.
func (r *Runtime) Layers(ctx context.Context) ([]string, error) {
	list, err := r.link.api(ctx).ImageList(ctx, image.ListOptions{})
	if err != nil {
		return nil, classify(ctx, err)
	}
	var ids []string
	for _, i := range list {
		img, err := r.link.api(ctx).ImageInspect(ctx, i.ID)
		if err = classify(ctx, err); errdefs.IsNotFound(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		ids = append(ids, img.RootFS.Layers...)
	}
	slices.Sort(ids)
	return slices.Compact(ids), nil
}
