package imagecache

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
)

// small is a registry with one image of two layers, behind an index, for whoever has a token.
func small(t *testing.T) (host string, limit *int) {
	limit = new(int)
	mux := http.NewServeMux()
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	guard := func(body string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			switch {
			case *limit > 0:
				w.Header().Set("Retry-After", fmt.Sprint(*limit))
				w.WriteHeader(http.StatusTooManyRequests)
			case r.Header.Get("Authorization") != "Bearer good":
				w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="%s/token",service="small"`, server.URL))
				w.WriteHeader(http.StatusUnauthorized)
			default:
				_, _ = w.Write([]byte(body))
			}
		}
	}
	mux.HandleFunc("/token", func(w http.ResponseWriter, r *http.Request) {
		if u, p, _ := r.BasicAuth(); u != "me" || p != "pass" || r.URL.Query().Get("scope") != "repository:team/app:pull" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		_, _ = w.Write([]byte(`{"token":"good"}`))
	})
	mux.Handle("/v2/team/app/manifests/1", guard(`{"manifests":[{"digest":"sha256:x","platform":{"os":"windows","architecture":"amd64"}},
		{"digest":"sha256:a","platform":{"os":"linux","architecture":"amd64"}},{"digest":"sha256:a","platform":{"os":"linux","architecture":"arm64"}}]}`))
	mux.Handle("/v2/team/app/manifests/sha256:a", guard(`{"config":{"digest":"sha256:c"},"layers":[{"mediaType":"x.tar+gzip","digest":"sha256:l1","size":1000},{"mediaType":"x.tar","digest":"sha256:l2","size":10}]}`))
	mux.Handle("/v2/team/app/blobs/sha256:c", guard(`{"rootfs":{"diff_ids":["d1","d2"]}}`))
	return strings.TrimPrefix(server.URL, "http://"), limit
}

func TestARegistryIsAskedForSizesWithTheCredentialsOfThePull(t *testing.T) {
	host, limit := small(t)
	good := newRegistry(http.DefaultClient, host+"/team/app", &Credentials{Username: "me", Password: "pass"})
	m, err := good.manifest(t.Context(), "1")
	if err != nil || len(m.Layers) != 2 || m.Config.Digest != "sha256:c" {
		t.Fatal(m, err)
	}
	if ids := good.layerIDs(t.Context(), m); strings.Join(ids, " ") != "d1 d2" {
		t.Error(ids)
	}
	want, download := roomFor(m.Layers, nil)
	if want.Bytes != 3020 || download != 1010 {
		t.Error(want, download)
	}
	if want, download = roomFor(m.Layers, func(i int) bool { return i == 0 }); want.Bytes != 20 || download != 10 {
		t.Error(want, download)
	}
	_, err = newRegistry(http.DefaultClient, host+"/team/app", &Credentials{Username: "me", Password: "wrong one"}).manifest(t.Context(), "1")
	if err == nil || strings.Contains(err.Error(), "wrong one") {
		t.Error(err)
	}
	*limit = 90
	_, err = good.manifest(t.Context(), "1")
	var l *limitedError
	if !errors.As(err, &l) || l.after != 90*time.Second || l.status != http.StatusTooManyRequests {
		t.Error(err)
	}
}

func TestRetryAfterIsANumberOrADateAndBounded(t *testing.T) {
	now := time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
	for text, want := range map[string]time.Duration{
		"": 0, "x": 0, "-1": 0, "30": 30 * time.Second, " 7 ": 7 * time.Second, "99999999": 15 * time.Minute,
		"Fri, 20 Nov 2026 12:01:00 GMT": time.Minute, "Fri, 20 Nov 2026 11:00:00 GMT": 0,
	} {
		if got := retryAfter(text, now); got != want {
			t.Errorf("%q: %s, want %s", text, got, want)
		}
	}
	for text, want := range map[string]time.Duration{"toomanyrequests: slow down": 0, "Rate exceeded, retry-after: 1.5s": 1500 * time.Millisecond, "toomanyrequests: retry after 30 please": 30 * time.Second} {
		if got, limited := limits(fmt.Errorf("%s: %w", text, errdefs.ErrResourceExhausted)); got != want || !limited {
			t.Errorf("%q: %s %t", text, got, limited)
		}
	}
	for _, text := range []string{"write /x: no space left on device", "connection refused"} {
		if _, limited := limits(fmt.Errorf("%s: %w", text, errdefs.ErrResourceExhausted)); limited && strings.Contains(text, "space") {
			t.Errorf("%q counts as a limit", text)
		}
	}
}

func FuzzManifest(f *testing.F) {
	f.Add([]byte(`{"layers":[{"size":1}],"config":{"digest":"a"}}`))
	f.Add([]byte(`{"manifests":[{"digest":"a","platform":{"os":"linux"}}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := decodeManifest(data)
		if err != nil {
			return
		}
		want, download := roomFor(m.Layers, nil)
		if len(m.Layers) < 1000 && (want.Bytes < 0 || download < 0 || want.Inodes < 0) {
			t.Errorf("%+v %d from %q", want, download, data)
		}
	})
}

func FuzzRetryAfter(f *testing.F) {
	f.Add("30")
	f.Add("Fri, 20 Nov 2026 12:01:00 GMT")
	f.Fuzz(func(t *testing.T, text string) {
		if d := retryAfter(text, time.Now()); d < 0 || d > longestRetryAfter {
			t.Errorf("%q: %s", text, d)
		}
	})
}
