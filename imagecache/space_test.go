package imagecache_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"

	"github.com/longshore-project/longshore/imagecache"
)

// sized is a registry whose only image has one compressed layer of this size.
func sized(t *testing.T, size int64) (ref string) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Path, "/manifests/") {
			fmt.Fprintf(w, `{"config":{"digest":"sha256:c"},"layers":[{"mediaType":"tar+gzip","digest":"sha256:l","size":%d}]}`, size)
			return
		}
		fmt.Fprint(w, `{"rootfs":{"diff_ids":["d1"]}}`)
	}))
	t.Cleanup(server.Close)
	return strings.TrimPrefix(server.URL, "http://") + "/app:1"
}

func crowded(unused int) *shelf {
	s := &shelf{tracks: imagecache.Tracks{Images: map[string]imagecache.Track{}}}
	for i := range 36 {
		id := fmt.Sprintf("i%02d", i)
		s.images = append(s.images, imagecache.Local{ID: id, Size: gib, Names: []string{id + ":1"}})
		if i < unused {
			s.tracks.Images[id] = imagecache.Track{PulledAt: time.Now(), UsedAt: time.Now()}
		}
	}
	return s
}

func TestAPullThatDoesNotFitCollectsFirstAndElseSaysTheNumbers(t *testing.T) {
	for _, c := range []struct {
		size   int64 // of the layer; it takes three times that
		unused int
		off    bool
		fails  string
		left   int // images
	}{
		{size: 100 << 20, unused: 36, left: 36},                // 1.5 GiB are free
		{size: 1 * gib, unused: 36, left: 33},                  // each that goes gives half its size
		{size: 1 * gib, unused: 2, fails: "no room", left: 34}, // all that may go do
		{size: 1 * gib, unused: 36, off: true, fails: "no room", left: 36},
	} {
		w, s := newWorld(), crowded(c.unused)
		ref := sized(t, c.size)
		w.registry[ref] = "id"
		interval := 30 * time.Minute
		if c.off {
			interval = 0
		}
		cc := cache(t, w, imagecache.Config{HTTPClient: http.DefaultClient, Collection: imagecache.Collection{Store: s, Journal: s, Interval: interval, Rules: imagecache.Rules{MinimumAge: time.Hour, PerCycle: 5}}})
		_, _, err := cc.Ensure(t.Context(), imagecache.Request{Ref: ref})
		http.DefaultClient.CloseIdleConnections()
		if len(s.images) != c.left {
			t.Errorf("%+v: %d images are left", c, len(s.images))
		}
		if c.fails == "" {
			if err != nil || w.count() != 1 {
				t.Errorf("%+v: %v after %d pulls", c, err, w.count())
			}
			continue
		}
		if !errdefs.IsResourceExhausted(err) || w.count() != 0 {
			t.Fatalf("%+v: %v after %d pulls", c, err, w.count())
		}
		for _, part := range []string{"CannotPullContainerError: image " + ref, "no room for it on the engine's disk", "1024 MiB to download", "about 3072 MiB", "of 40960 MiB"} {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("%q does not say %q", err, part)
			}
		}
	}
}

func TestARegistryThatLimitsTheRateRestsForAllTasks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		limit := fmt.Errorf("toomanyrequests: retry-after: 40s: %w", errdefs.ErrResourceExhausted)
		w.registry["r.example/a:1"], w.registry["r.example/b:1"], w.registry["other.example/c:1"] = "a", "b", "c"
		w.errs["r.example/a:1"] = []error{limit}
		w.local["r.example/d:1"] = "d"
		c := cache(t, w, imagecache.Config{})
		begun := time.Now()
		done := make(chan error, 1)
		go func() {
			_, _, err := c.Ensure(t.Context(), imagecache.Request{Ref: "r.example/a:1"})
			done <- err
		}()
		wait(t.Context(), time.Second)
		var notes []string
		id, _, err := c.Ensure(t.Context(), imagecache.Request{Ref: "r.example/d:1", Note: func(n string) { notes = append(notes, n) }})
		if err != nil || id != "d" || w.count() != 1 || len(notes) != 1 || !strings.Contains(notes[0], "wants to be left alone until") {
			t.Errorf("a local image is used instead: %v %s %q after %d pulls", err, id, notes, w.count())
		}
		if _, _, err := c.Ensure(t.Context(), imagecache.Request{Ref: "other.example/c:1"}); err != nil || time.Since(begun) > 2*time.Second {
			t.Errorf("another registry is asked at once: %v after %s", err, time.Since(begun))
		}
		if _, _, err := c.Ensure(t.Context(), imagecache.Request{Ref: "r.example/b:1"}); err != nil || time.Since(begun) < 40*time.Second || time.Since(begun) > 45*time.Second {
			t.Errorf("another image waits too: %v after %s", err, time.Since(begun))
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
		if w.count() != 4 {
			t.Errorf("%d pulls", w.count())
		}
	})
}
