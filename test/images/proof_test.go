package images_test

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/longshore-project/longshore/engine"
	"github.com/longshore-project/longshore/engine/docker"
	"github.com/longshore-project/longshore/imagecache"
	"github.com/longshore-project/longshore/protocol/acs"
	"github.com/longshore-project/longshore/test/images"
)

// helper hands out what the registry takes at that moment, and may hang.
type helper struct {
	mu      sync.Mutex
	hangs   int // calls that hang, for a while
	current string
	asked   atomic.Int32
	expires time.Time
}

func (h *helper) Registry(ctx context.Context, _ string, _ *acs.RegistryAuthentication, _ *imagecache.Credentials) (*imagecache.Credentials, error) {
	h.asked.Add(1)
	h.mu.Lock()
	hangs, password := h.hangs > 0, h.current
	h.hangs--
	h.mu.Unlock()
	if hangs {
		t := time.NewTimer(300 * time.Millisecond)
		defer t.Stop()
		select {
		case <-t.C:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return &imagecache.Credentials{Username: "me", Password: password, Source: "a helper", Expires: h.expires}, nil
}

func (h *helper) set(password string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.current = password
}

func TestATokenThatExpiresDuringAPullIsRenewedOnceAndThePullGoesOn(t *testing.T) {
	for name, after := range map[string]int{"between manifest and layer": 0, "between two layers": 1} {
		t.Run(name, func(t *testing.T) {
			core, logs := observer.New(zap.DebugLevel)
			h := &helper{current: "planted-first", hangs: 2}
			c, registry, _, _ := real(t, imagecache.Config{Authority: h, Behaviour: imagecache.Always, Inactivity: 2 * time.Second, Log: zap.New(core)})
			ref := many(t, registry, 3)
			registry.RequireAuth("me", "planted-first")
			var blobs atomic.Int32
			registry.Fault(func(_ http.ResponseWriter, req *http.Request) bool {
				if images.Kind(req) == "blobs" && req.Method == http.MethodGet && int(blobs.Add(1)) == after+1 {
					h.set("planted-second")
					registry.RequireAuth("me", "planted-second")
				}
				return false
			})
			var notes []string
			_, release, err := c.Ensure(t.Context(), imagecache.Request{Ref: ref, Auth: &acs.RegistryAuthentication{Type: "ecr"}, Note: func(n string) { notes = append(notes, n) }})
			if err != nil {
				t.Fatal(err)
			}
			release()
			if h.asked.Load() != 2 {
				t.Errorf("the helper was asked %d times", h.asked.Load())
			}
			text := strings.Join(notes, "\n")
			for _, l := range logs.All() {
				text += fmt.Sprint(l.Message, l.ContextMap())
			}
			if strings.Contains(text, "planted") || !strings.Contains(text, "refused the credentials; they were fetched anew") {
				t.Error(text)
			}
		})
	}
}

func TestADeadCredentialIsToldWithRegistrySourceAndExpiryAndRunningTasksGoOn(t *testing.T) {
	h := &helper{current: "planted-dead", expires: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}
	c, registry, ref, _ := real(t, imagecache.Config{Authority: h})
	got, release, err := c.Ensure(t.Context(), imagecache.Request{Ref: ref}) // as a task that runs has it
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	registry.RequireAuth("me", "another")
	_, _, err = c.Ensure(t.Context(), imagecache.Request{Ref: strings.Replace(ref, ":1", ":2", 1), Auth: &acs.RegistryAuthentication{Type: "asm"}})
	if err == nil {
		t.Fatal("a dead credential was taken")
	}
	for _, part := range []string{registry.Addr, "they came from a helper and expired at 2026-01-02T03:04:05Z"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%v does not say %q", err, part)
		}
	}
	if strings.Contains(err.Error(), "planted") || !c.Held(got.ID) {
		t.Errorf("%v; held: %t", err, c.Held(got.ID))
	}
}

func TestAManifestOfAnotherDigestIsRefused(t *testing.T) {
	c, registry, ref, digest := real(t, imagecache.Config{Tries: 1})
	other := many(t, registry, 1)
	registry.Fault(func(w http.ResponseWriter, req *http.Request) bool {
		if images.Kind(req) != "manifests" || !strings.Contains(req.URL.Path, digest) {
			return false
		}
		res, err := http.Get("http://" + registry.Addr + "/v2/" + strings.Replace(strings.TrimPrefix(other, registry.Addr+"/"), ":", "/manifests/", 1))
		if err != nil {
			t.Error(err)
			return false
		}
		defer res.Body.Close()
		w.Header().Set("Content-Type", res.Header.Get("Content-Type"))
		_, _ = io.Copy(w, res.Body)
		return true
	})
	_, _, err := c.Ensure(t.Context(), imagecache.Request{Ref: strings.TrimSuffix(ref, ":1") + "@" + digest})
	http.DefaultClient.CloseIdleConnections()
	if err == nil || !strings.Contains(err.Error(), "CannotPullContainerError") || !strings.Contains(strings.ToLower(err.Error()), "digest") {
		t.Error(err)
	}
}

func TestFortyTasksWithOneImageArePulledForOnce(t *testing.T) {
	c, registry, ref, _ := real(t, imagecache.Config{Behaviour: imagecache.PreferCached})
	var wg sync.WaitGroup
	for range 40 {
		wg.Go(func() {
			if _, _, err := c.Ensure(t.Context(), imagecache.Request{Ref: ref}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := registry.Requests("blobs"); n > 2 { // the configuration and the layer
		t.Errorf("the registry was asked for %d blobs", n)
	}
}

// many pushes an image with this many layers that nobody else has, and returns its reference.
func many(t *testing.T, registry *images.Registry, layers int) string {
	t.Helper()
	ref, _, err := registry.Push(t.Context(), unique()+":1", images.MustLayers(t, layers))
	if err != nil {
		t.Fatal(err)
	}
	drop(t, ref)
	return ref
}

// drop removes an image with the test.
func drop(t *testing.T, ref string) {
	t.Helper()
	t.Cleanup(func() {
		r, err := docker.New(docker.Config{})
		if err == nil {
			err = errors.Join(r.RemoveImage(context.WithoutCancel(t.Context()), ref), r.Close())
		}
		if err != nil {
			t.Error(err)
		}
	})
}

// noted is a journal in memory.
type noted struct{ imagecache.Tracks }

func (n *noted) Load() imagecache.Tracks        { return n.Tracks }
func (n *noted) Save(t imagecache.Tracks) error { n.Tracks = t; return nil }

func unique() string { return strings.ToLower(rand.Text()) }

// shelf is the machine's engine as one with a small disk: it has room for so many images.
type shelf struct {
	engine.Runtime
	room int64 // bytes
	own  func(imagecache.Local) bool
}

// Images are those of the test; nobody else's is touched.
func (s *shelf) Images(ctx context.Context) (out []imagecache.Local, _ error) {
	all, err := s.Runtime.Images(ctx)
	for _, i := range all {
		if l := (imagecache.Local{ID: i.ID, Names: i.Names, Size: i.Size, Created: i.Created}); s.own(l) {
			out = append(out, l)
		}
	}
	return out, err
}

// Uses asks the engine.
func (s *shelf) Uses(ctx context.Context) (imagecache.Uses, error) {
	u := imagecache.Uses{By: map[string]string{}, Ours: map[string]bool{}}
	list, err := s.Runtime.(engine.ImageUser).ImageUses(ctx)
	for _, c := range list {
		u.By[c.ImageID] = "container " + c.Name
	}
	return u, err
}

// Remove removes an image.
func (s *shelf) Remove(ctx context.Context, ref string) error { return s.Runtime.RemoveImage(ctx, ref) }

// Disk is as full as the images make it.
func (s *shelf) Disk() imagecache.Disk {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	d := imagecache.Disk{Path: "/small", Total: imagecache.Room{Bytes: s.room}, Free: imagecache.Room{Bytes: s.room}}
	list, err := s.Images(ctx)
	if err != nil {
		return imagecache.Disk{}
	}
	for _, i := range list {
		d.Free.Bytes -= i.Size
	}
	return d
}
