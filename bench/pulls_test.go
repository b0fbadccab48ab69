//go:build bench

package bench

import (
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"github.com/docker/docker/api/types/image"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"

	"github.com/longshore-project/longshore/engine"
	"github.com/longshore-project/longshore/engine/docker"
	"github.com/longshore-project/longshore/imagecache"
)

// puller joins the image cache and the engine as the agent does.
type puller struct{ engine.Runtime }

func (p puller) Pull(ctx context.Context, ref string, _ *imagecache.Credentials, f func(imagecache.Progress)) (engine.Image, error) {
	return p.Runtime.Pull(ctx, ref, nil, func(p engine.Progress) { f(imagecache.Progress(p)) })
}

func (puller) Identity(i engine.Image) (id, digest string) { return i.ID, i.Digest }

// pulls measures pulls of three sizes: through the image cache and by the bare client, in turn, from a registry on this machine.
func (w *world) pulls() {
	r, err := docker.New(docker.Config{Host: w.lab.Farm.Engine(1)})
	if err != nil {
		w.t.Fatal(err)
	}
	defer func() { _ = r.Close() }()
	cache, err := imagecache.New(puller{r}, imagecache.Config{Behaviour: imagecache.Always})
	if err != nil {
		w.t.Fatal(err)
	}
	for _, size := range []struct{ mb, layers, rounds int }{{2, 1, 15}, {24, 3, 9}, {480, 6, 3}} {
		ref := w.pushRandom(fmt.Sprintf("pull-%d:1", size.mb), size.mb, size.layers)
		var ours, bare series
		for round := range 2*size.rounds + 2 {
			begun := time.Now()
			if round%2 == 0 {
				_, release, err := cache.Ensure(w.t.Context(), imagecache.Request{Ref: ref})
				if err != nil {
					w.t.Fatal(err)
				}
				if release(); round > 1 {
					ours.add(time.Since(begun))
				}
			} else {
				body, err := w.docker.ImagePull(w.t.Context(), ref, image.PullOptions{})
				if err == nil {
					_, err = io.Copy(io.Discard, body)
					_ = body.Close()
				}
				if err != nil {
					w.t.Fatal(err)
				}
				if round > 1 {
					bare.add(time.Since(begun))
				}
			}
			if err := r.RemoveImage(w.t.Context(), ref); err != nil {
				w.t.Fatal(err)
			}
		}
		w.table.add(fmt.Sprintf("pull of %d MB, %d layers", size.mb, size.layers), ours.String(), bare.String(), ratio(ours, bare), "")
	}
}

// pushRandom serves an image of random bytes to the host.
func (w *world) pushRandom(repo string, mb, layers int) string {
	img, err := random.Image(int64(mb)*1e6/int64(layers), int64(layers))
	var config *v1.ConfigFile
	if err == nil {
		config, err = img.ConfigFile()
	}
	if err == nil {
		config = config.DeepCopy()
		config.OS = "linux"
		config.Architecture = "amd64"
		img, err = mutate.ConfigFile(img, config)
	}
	if err != nil {
		w.t.Fatal(err)
	}
	pushed, _, err := w.lab.Registry.Push(w.t.Context(), repo, img)
	if err != nil {
		w.t.Fatal(err)
	}
	host, _, _ := strings.Cut(w.image, "/")
	if _, _, err := net.SplitHostPort(host); err != nil {
		w.t.Fatal(err)
	}
	return host + strings.TrimPrefix(pushed, w.lab.Registry.Addr)
}
