package images_test

import (
	"context"
	"crypto/rand"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/longshore-project/longshore/engine"
	"github.com/longshore-project/longshore/engine/docker"
	"github.com/longshore-project/longshore/imagecache"
	"github.com/longshore-project/longshore/test/images"
)

// puller joins the cache and a Runtime as agent does.
type puller struct{ engine.Runtime }

func (p puller) Pull(ctx context.Context, ref string, c *imagecache.Credentials, f func(imagecache.Progress)) (engine.Image, error) {
	var auth *engine.RegistryAuth
	if c != nil {
		auth = &engine.RegistryAuth{Username: c.Username, Password: c.Password, IdentityToken: c.IdentityToken, ServerAddress: c.ServerAddress}
	}
	return p.Runtime.Pull(ctx, ref, auth, func(p engine.Progress) { f(imagecache.Progress(p)) })
}

func (puller) Identity(i engine.Image) (id, digest string) { return i.ID, i.Digest }

// real is a cache over the machine's Docker engine and a registry with one image that nobody else has.
func real(t *testing.T, cfg imagecache.Config) (c *imagecache.Cache[engine.Image], registry *images.Registry, ref, digest string) {
	t.Helper()
	images.DockerClient(t) // fails with what to do if there is no engine
	r, err := docker.New(docker.Config{})
	if err != nil {
		t.Fatal(err)
	}
	registry = images.NewRegistry(t)
	ref, digest = registry.MustPush(t, strings.ToLower(rand.Text())+":1", images.Spec{Scratch: true, Cmd: []string{"/x"}, Files: []images.File{
		{Path: "/unique", Data: rand.Text()},
	}})
	t.Cleanup(func() {
		if err := r.RemoveImage(context.WithoutCancel(t.Context()), ref); err != nil {
			t.Error(err)
		}
		_ = r.Close()
	})
	cfg.FirstDelay, cfg.LastDelay, cfg.Rest = time.Millisecond, time.Millisecond, time.Millisecond
	c, err = imagecache.New(puller{r}, cfg)
	if err != nil {
		t.Fatal(err)
	}
	return c, registry, ref, digest
}

func TestDockerPullsOnceForAllWhoWait(t *testing.T) {
	c, registry, ref, digest := real(t, imagecache.Config{})
	release := make(chan struct{})
	registry.Fault(func(_ http.ResponseWriter, req *http.Request) bool {
		if images.Kind(req) == "blobs" {
			<-release
		}
		return false
	})
	var wg sync.WaitGroup
	var moved, noted atomic.Int32
	for range 6 {
		wg.Go(func() {
			var once sync.Once
			img, done, err := c.Ensure(t.Context(), imagecache.Request{
				Ref:      ref,
				Progress: func(imagecache.Progress) { once.Do(func() { moved.Add(1) }) },
				Note: func(string) {
					if noted.Add(1) == 5 { // all but the first have joined
						close(release)
					}
				},
			})
			if err != nil || img.Digest != digest || !c.Held(img.ID) {
				t.Errorf("%v, digest %s, held %v", err, img.Digest, c.Held(img.ID))
				return
			}
			done()
		})
	}
	wg.Wait()
	if n := registry.Requests("blobs"); n != 2 || moved.Load() != 6 {
		t.Errorf("%d blobs were fetched, want 2 (configuration and layer); %d of 6 saw the pull move", n, moved.Load())
	}
}

func TestDockersPullFailuresAreNamed(t *testing.T) {
	keys := func(addr, password string) *imagecache.Keyring {
		k, err := imagecache.ParseKeyring("docker", fmt.Sprintf(`{%q: {"username": "me", "password": %q}}`, addr, password))
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	t.Run("a registry that wants credentials gets those of the host", func(t *testing.T) {
		c, registry, ref, _ := real(t, imagecache.Config{})
		registry.RequireAuth("me", "right one")
		_, _, err := c.Ensure(t.Context(), imagecache.Request{Ref: ref})
		if err == nil || !strings.HasPrefix(err.Error(), "CannotPullContainerAuthError: image "+ref) || !strings.Contains(err.Error(), "no credentials") {
			t.Errorf("without: %v", err)
		}
		r, _ := docker.New(docker.Config{})
		defer func() { _ = r.Close() }()
		for password, works := range map[string]bool{"wrong one": false, "right one": true} {
			c, _ := imagecache.New(puller{r}, imagecache.Config{Credentials: keys(registry.Addr, password), Behaviour: imagecache.Always})
			_, _, err := c.Ensure(t.Context(), imagecache.Request{Ref: ref})
			if (err == nil) != works || err != nil && strings.Contains(err.Error(), password) {
				t.Errorf("%s: %v", password, err)
			}
		}
	})
	t.Run("a missing image is not tried again", func(t *testing.T) {
		c, registry, ref, _ := real(t, imagecache.Config{})
		_, _, err := c.Ensure(t.Context(), imagecache.Request{Ref: ref + "-none"})
		if !errdefs.IsNotFound(err) || !strings.Contains(err.Error(), "(1 try") || !strings.Contains(err.Error(), registry.Addr) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("a limited rate is tried again", func(t *testing.T) {
		c, registry, ref, _ := real(t, imagecache.Config{})
		var refused atomic.Int32
		registry.Fault(func(w http.ResponseWriter, req *http.Request) bool {
			return images.Kind(req) == "manifests" && refused.Add(1) <= 2 && images.TooManyRequests(w, req)
		})
		if _, _, err := c.Ensure(t.Context(), imagecache.Request{Ref: ref}); err != nil {
			t.Errorf("after the limit has passed: %v", err)
		}
	})
	t.Run("a registry that stalls is given up", func(t *testing.T) {
		c, registry, ref, _ := real(t, imagecache.Config{Inactivity: 300 * time.Millisecond, Tries: 2})
		registry.Fault(images.Stall)
		_, _, err := c.Ensure(t.Context(), imagecache.Request{Ref: ref})
		if !errdefs.IsUnavailable(err) || !strings.Contains(err.Error(), "no progress for") || !strings.Contains(err.Error(), "2 tries") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("a registry that breaks off, and one that is not there, are named", func(t *testing.T) {
		c, registry, ref, _ := real(t, imagecache.Config{Tries: 1, Inactivity: 5 * time.Second})
		registry.Fault(images.Truncate)
		_, _, err := c.Ensure(t.Context(), imagecache.Request{Ref: ref})
		if err == nil || !strings.Contains(err.Error(), "CannotPullContainerError: image "+ref) {
			t.Errorf("truncated: %v", err)
		}
		_, _, err = c.Ensure(t.Context(), imagecache.Request{Ref: "127.0.0.1:1/x:1"})
		if !errdefs.IsUnavailable(err) || !strings.Contains(err.Error(), "connection refused") || !strings.Contains(err.Error(), "check that this host reaches") {
			t.Errorf("nobody there: %v", err)
		}
	})
}
