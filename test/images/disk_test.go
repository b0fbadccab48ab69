package images_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/longshore-project/longshore/engine"
	"github.com/longshore-project/longshore/engine/docker"
	"github.com/longshore-project/longshore/imagecache"
	"github.com/longshore-project/longshore/test/hosts"
	"github.com/longshore-project/longshore/test/images"
)

const (
	smallDisk  = 32 << 20
	smallImage = 2 << 20 // that can't be compressed
)

// small is an engine whose data root is a small disk of its own, as the cache asks about it.
type small struct {
	engine.Runtime
	root string
}

// Images are all.
func (s *small) Images(ctx context.Context) (out []imagecache.Local, _ error) {
	all, err := s.Runtime.Images(ctx)
	for _, i := range all {
		out = append(out, imagecache.Local{ID: i.ID, Names: i.Names, Size: i.Size, Created: i.Created})
	}
	return out, err
}

// Uses asks the engine.
func (s *small) Uses(ctx context.Context) (imagecache.Uses, error) {
	u := imagecache.Uses{By: map[string]string{}}
	list, err := s.Runtime.(engine.ImageUser).ImageUses(ctx)
	for _, c := range list {
		u.By[c.ImageID] = "container " + c.Name
	}
	return u, err
}

// Remove removes an image.
func (s *small) Remove(ctx context.Context, ref string) error { return s.Runtime.RemoveImage(ctx, ref) }

// Disk is as full as the kernel says.
func (s *small) Disk() imagecache.Disk {
	var fs unix.Statfs_t
	if err := unix.Statfs(s.root, &fs); err != nil {
		return imagecache.Disk{}
	}
	return imagecache.Disk{Path: s.root, Free: imagecache.Room{Bytes: int64(fs.Bavail) * fs.Bsize, Inodes: int64(fs.Ffree)},
		Total: imagecache.Room{Bytes: int64(fs.Blocks) * fs.Bsize, Inodes: int64(fs.Files)}}
}

// smallHost is a host with a dockerd of its own on a small disk, which reaches a registry at the registry's own address.
func smallHost(t *testing.T, registry *images.Registry) (r *docker.Runtime, root string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "ls-disk") // short: a unix socket lies below
	if err != nil {
		t.Fatal(err)
	}
	farm := &hosts.Farm{Dir: dir, Name: "lsdsk", Net: "10.116.7"}
	t.Cleanup(func() {
		if err := farm.Down(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
		_ = os.RemoveAll(dir)
	})
	root = farm.Disk(1, "/var/lib/docker")
	if err := os.MkdirAll(root, 0o755); err != nil { //nolint:gosec // as Docker's own
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", root, "tmpfs", 0, fmt.Sprintf("size=%d", smallDisk)); err != nil {
		t.Fatalf("a small disk can't be mounted: %v; this test needs root", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(root, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	if err := farm.Up(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	go func() {
		done <- hosts.Forward(ctx, filepath.Join("/run/netns", farm.Name+"1"), registry.Addr, registry.Addr)
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	r, err = docker.New(docker.Config{Host: farm.Engine(1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close() })
	return r, root
}

func TestFortyImagesPassThroughARealSmallDiskWhichNeverRunsFull(t *testing.T) {
	registry := images.NewRegistry(t)
	r, root := smallHost(t, registry)
	s := &small{Runtime: r, root: root}
	transport := &http.Transport{DialContext: (&net.Dialer{Timeout: time.Minute}).DialContext}
	t.Cleanup(transport.CloseIdleConnections)
	c, err := imagecache.New(puller{r}, imagecache.Config{
		Tries: 1, HTTPClient: &http.Client{Transport: transport}, Collection: imagecache.Collection{Store: s, Journal: &noted{}, Interval: time.Hour,
			Rules: imagecache.Rules{MinimumAge: time.Hour, PerCycle: 5, High: 80, Low: 60}},
	})
	if err != nil {
		t.Fatal(err)
	}
	var first string
	fullest := int64(smallDisk)
	for i := range 40 {
		data := make([]byte, smallImage)
		source := rand.NewChaCha8([32]byte{byte(i)})
		_, _ = source.Read(data)
		ref, _ := registry.MustPush(t, fmt.Sprintf("app%d:1", i), images.Spec{Scratch: true, Cmd: []string{"/x"}, Files: []images.File{{Path: "/data", Data: string(data)}}})
		img, release, err := c.Ensure(t.Context(), imagecache.Request{Ref: ref}) // nobody collects but who needs room for a pull
		if err != nil {
			t.Fatalf("image %d: %v; %s", i, err, s.Disk())
		}
		if i == 0 {
			if _, err := r.Create(t.Context(), engine.Spec{Name: unique(), Image: img.ID, Command: []string{"/x"}, Labels: map[string]string{engine.LabelTaskArn: "t"}}); err != nil {
				t.Fatal(err)
			}
			first = img.ID
		}
		release()
		fullest = min(fullest, s.Disk().Free.Bytes)
		if i%10 == 9 { // as the cache does every minute
			if _, err := c.Collect(t.Context(), false); err != nil {
				t.Fatal(err)
			}
			if d := s.Disk(); d.Free.Bytes < smallDisk/5 {
				t.Errorf("after %d images %s", i+1, d)
			}
		}
	}
	if _, err := r.Image(t.Context(), first); err != nil {
		t.Errorf("the image of a container was removed: %v", err)
	}
	left, err := s.Images(t.Context())
	if err != nil || len(left) < 2 || len(left) > 20 {
		t.Errorf("%d images are left, %v; %s", len(left), err, s.Disk())
	}
	t.Logf("at the fullest %d MiB of %d were free; %d images are left", fullest>>20, smallDisk>>20, len(left))
}
