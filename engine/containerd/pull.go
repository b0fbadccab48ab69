package containerd

import (
	"context"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/containerd/v2/core/remotes/docker/config"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/longshore-project/longshore/engine"
)

// Pull pulls an image. What it has fetched is containerd's, so a repeated pull goes on where this one ended.
func (r *Runtime) Pull(ctx context.Context, ref string, auth *engine.RegistryAuth, progress func(engine.Progress)) (engine.Image, error) {
	ctx = r.ns(ctx)
	name, err := full(ref)
	if err != nil {
		return engine.Image{}, err
	}
	if progress == nil {
		progress = func(engine.Progress) {}
	}
	t := &tally{seen: map[digest.Digest]ocispec.Descriptor{}}
	progress(engine.Progress{Phase: "resolving"})
	stop := r.report(ctx, t, progress)
	img, err := r.client.Pull(ctx, name.String(), client.WithResolver(r.resolver(ctx, name, auth)), client.WithPullUnpack, client.WithPullSnapshotter(r.cfg.Snapshotter),
		client.WithImageHandlerWrapper(t.wrap))
	stop()
	if err != nil {
		return engine.Image{}, pullError(ctx, err)
	}
	if _, byDigest := name.(reference.Digested); !byDigest {
		also, err := reference.WithDigest(reference.TrimNamed(name), img.Target().Digest)
		if err != nil {
			return engine.Image{}, err
		}
		if err := r.record(ctx, also.String(), img.Target()); err != nil {
			return engine.Image{}, err
		}
	}
	return r.Image(ctx, ref)
}

// resolver speaks to the registry of a reference: with plain http on this host, as Docker does, and with the credentials for it alone.
func (r *Runtime) resolver(ctx context.Context, name reference.Named, auth *engine.RegistryAuth) remotes.Resolver {
	options := config.HostOptions{
		HostDir: config.HostDirFromRoot(r.cfg.CertsDir),
		Credentials: func(string) (string, string, error) {
			switch {
			case auth == nil:
				return "", "", nil
			case auth.IdentityToken != "":
				return "", auth.IdentityToken, nil
			}
			return auth.Username, auth.Password, nil
		},
	}
	if isLoopback(reference.Domain(name)) {
		options.DefaultScheme = "http"
	}
	return docker.NewResolver(docker.ResolverOptions{Hosts: config.ConfigureHosts(ctx, options), Headers: http.Header{"User-Agent": {"longshore-agent"}}})
}

func isLoopback(registry string) bool {
	host := registry
	if h, _, err := net.SplitHostPort(registry); err == nil {
		host = h
	}
	ip := net.ParseIP(strings.Trim(host, "[]"))
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// tally knows the parts of a pull.
type tally struct {
	mu   sync.Mutex
	seen map[digest.Digest]ocispec.Descriptor // layers
}

// wrap notes the layers that a manifest names.
func (t *tally) wrap(h images.Handler) images.Handler {
	return images.HandlerFunc(func(ctx context.Context, d ocispec.Descriptor) ([]ocispec.Descriptor, error) {
		children, err := h.Handle(ctx, d)
		t.mu.Lock()
		defer t.mu.Unlock()
		for _, c := range append(children, d) {
			if images.IsLayerType(c.MediaType) {
				t.seen[c.Digest] = c
			}
		}
		return children, err
	})
}

const reportInterval = 200 * time.Millisecond

// report tells how far a pull is, until the returned function has been called.
func (r *Runtime) report(ctx context.Context, t *tally, progress func(engine.Progress)) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var work sync.WaitGroup
	work.Go(func() {
		tick := time.NewTicker(reportInterval)
		defer tick.Stop()
		var last engine.Progress
		for {
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
			p := r.measure(ctx, t)
			p.Current = max(p.Current, last.Current)
			if p != last && p.Layers > 0 && ctx.Err() == nil {
				last = p
				progress(p)
			}
		}
	})
	return func() { cancel(); work.Wait() }
}

// measure asks containerd what it has of a pull's layers.
func (r *Runtime) measure(ctx context.Context, t *tally) engine.Progress {
	t.mu.Lock()
	layers := make(map[digest.Digest]ocispec.Descriptor, len(t.seen))
	for d, l := range t.seen {
		layers[d] = l
	}
	t.mu.Unlock()
	p := engine.Progress{Phase: "downloading", Layers: len(layers)}
	if len(layers) == 0 {
		return p
	}
	store := r.client.ContentStore()
	active, err := store.ListStatuses(ctx, "")
	if err != nil {
		return engine.Progress{}
	}
	for d, l := range layers {
		p.Total += l.Size
		if info, err := store.Info(ctx, d); err == nil {
			p.Current += info.Size
			p.Done++
			continue
		}
		for _, a := range active {
			if strings.HasSuffix(a.Ref, d.String()) || strings.Contains(a.Ref, d.Encoded()) {
				p.Current += a.Offset
			}
		}
	}
	if p.Done == p.Layers {
		p.Phase = "extracting"
	}
	return p
}
