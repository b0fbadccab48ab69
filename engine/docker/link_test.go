package docker_test

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/longshore-project/longshore/engine/docker"
)

// standIn is an engine in the test's process that answers pings and lists, in the API versions 1.oldest to 1.newest.
type standIn struct {
	oldest, newest atomic.Int64
	mu             sync.Mutex
	asked          []string // the versions of the lists that it was asked for
	pings          atomic.Int64
}

func (s *standIn) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Api-Version", fmt.Sprintf("1.%d", s.newest.Load()))
	if r.URL.Path == "/_ping" {
		s.pings.Add(1)
		return
	}
	version, path, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/v"), "/")
	s.mu.Lock()
	s.asked = append(s.asked, version)
	s.mu.Unlock()
	minor, _ := strconv.ParseInt(strings.TrimPrefix(version, "1."), 10, 64)
	switch {
	case minor < s.oldest.Load():
		refuse(w, fmt.Sprintf("client version %s is too old. Minimum supported API version is 1.%d, please upgrade your client to a newer version", version, s.oldest.Load()))
	case minor > s.newest.Load():
		refuse(w, fmt.Sprintf("client version %s is too new. Maximum supported API version is 1.%d", version, s.newest.Load()))
	case path == "containers/json":
		_ = json.NewEncoder(w).Encode([]any{})
	default:
		http.NotFound(w, r)
	}
}

func refuse(w http.ResponseWriter, message string) {
	w.WriteHeader(http.StatusBadRequest)
	_ = json.NewEncoder(w).Encode(map[string]string{"message": message})
}

func (s *standIn) last() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked[len(s.asked)-1]
}

// serve listens until the test ends, or until the returned function is called.
func (s *standIn) serve(t *testing.T, socket string) (end func()) {
	t.Helper()
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server, done := &http.Server{Handler: s}, make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(l)
	}()
	end = sync.OnceFunc(func() {
		_ = server.Close()
		<-done
	})
	t.Cleanup(end)
	return end
}

func TestAnEngineThatIsReplacedIsSpokenToInItsOwnVersion(t *testing.T) {
	for _, replaced := range []struct {
		name           string
		oldest, newest int64
		speaks         string
	}{
		{"by a newer one that gave up the old version", 44, 47, "1.47"},
		{"by an older one", 24, 38, "1.38"},
		{"by a newer one that still knows the old version", 24, 45, "1.45"},
	} {
		t.Run(replaced.name, func(t *testing.T) {
			socket := filepath.Join(t.TempDir(), "s")
			old := &standIn{}
			old.oldest.Store(24)
			old.newest.Store(41)
			end := old.serve(t, socket)
			r := runtime(t, docker.Config{Host: "unix://" + socket})
			if _, err := r.List(t.Context()); err != nil || old.last() != "1.41" {
				t.Fatalf("%v, asked in version %s", err, old.last())
			}
			end()
			if _, err := r.List(t.Context()); !errdefs.IsUnavailable(err) {
				t.Fatalf("without an engine: %v", err)
			}
			next := &standIn{}
			next.oldest.Store(replaced.oldest)
			next.newest.Store(replaced.newest)
			next.serve(t, socket)
			if _, err := r.List(t.Context()); err != nil && !errdefs.IsUnavailable(err) { // the answer tells of the new engine
				t.Errorf("the first call to the new engine: %v", err)
			}
			if _, err := r.List(t.Context()); err != nil || next.last() != replaced.speaks {
				t.Errorf("the second call: %v, in version %s", err, next.last())
			}
		})
	}
}

func TestTheFirstCallsMayBeMadeSideBySide(t *testing.T) {
	engine := &standIn{}
	engine.oldest.Store(24)
	engine.newest.Store(41)
	socket := filepath.Join(t.TempDir(), "s")
	engine.serve(t, socket)
	r := runtime(t, docker.Config{Host: "unix://" + socket})
	var calls sync.WaitGroup
	for range 20 {
		calls.Go(func() {
			if _, err := r.List(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	calls.Wait()
	if engine.mu.Lock(); slices.ContainsFunc(engine.asked, func(v string) bool { return v != "1.41" }) || len(engine.asked) < 20 {
		t.Errorf("asked in versions %v", engine.asked)
	}
	engine.mu.Unlock()
	if n := engine.pings.Load(); n != 1 {
		t.Errorf("the engine was asked for its version %d times", n)
	}
}

func TestAVersionThatIsSetIsKept(t *testing.T) {
	t.Setenv("DOCKER_API_VERSION", "1.40")
	engine := &standIn{}
	engine.oldest.Store(41)
	engine.newest.Store(45)
	socket := filepath.Join(t.TempDir(), "s")
	engine.serve(t, socket)
	r := runtime(t, docker.Config{Host: "unix://" + socket})
	for range 2 {
		if _, err := r.List(t.Context()); !errdefs.IsUnavailable(err) || !strings.Contains(err.Error(), "Minimum supported API version is 1.41") || engine.last() != "1.40" {
			t.Errorf("%v, in version %s", err, engine.last())
		}
	}
}
