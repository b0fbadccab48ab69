package images

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// Registry is an image registry in memory that speaks plain HTTP. All methods may be called concurrently.
type Registry struct {
	Addr string // host:port, the first part of its images' references

	server             *http.Server
	done               chan struct{}
	mu                 sync.Mutex
	username, password string
	fault              func(http.ResponseWriter, *http.Request) bool
	requests           map[string]int
}

// Serve starts a registry on a loopback address, "127.0.0.1:0" if addr is empty. Docker talks to all of 127.0.0.0/8
// without TLS.
func Serve(addr string) (*Registry, error) {
	if addr == "" {
		addr = "127.0.0.1:0"
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("image registry: %w", err)
	}
	r := &Registry{Addr: l.Addr().String(), done: make(chan struct{}), requests: map[string]int{}}
	quiet := log.New(io.Discard, "", 0)
	store := registry.New(registry.Logger(quiet))
	r.server = &http.Server{Handler: r.guard(store), ErrorLog: quiet, ReadHeaderTimeout: 10 * time.Second}
	go func() {
		defer close(r.done)
		_ = r.server.Serve(l)
	}()
	return r, nil
}

// NewRegistry starts a registry for a test and ends it with the test.
func NewRegistry(t testing.TB) *Registry {
	t.Helper()
	r, err := Serve("")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close() })
	return r
}

// Close ends the registry and every connection to it.
func (r *Registry) Close() error {
	err := r.server.Close()
	<-r.done
	return err
}

// RequireAuth makes every request need these credentials.
func (r *Registry) RequireAuth(username, password string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.username, r.password = username, password
}

// Fault lets f answer requests in the registry's place: those for which it returns true. nil takes it back.
func (r *Registry) Fault(f func(http.ResponseWriter, *http.Request) bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.fault = f
}

// Requests counts the requests for a kind of object: "manifests" or "blobs".
func (r *Registry) Requests(kind string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.requests[kind]
}

func (r *Registry) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		r.mu.Lock()
		username, password, fault := r.username, r.password, r.fault
		if req.Method == http.MethodGet {
			r.requests[Kind(req)]++
		}
		r.mu.Unlock()
		if fault != nil && fault(w, req) {
			return
		}
		u, p, _ := req.BasicAuth()
		if username != "" && subtle.ConstantTimeCompare([]byte(u+"\x00"+p), []byte(username+"\x00"+password)) != 1 {
			w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
			refuse(w, http.StatusUnauthorized, "UNAUTHORIZED", "authentication required")
			return
		}
		next.ServeHTTP(w, req)
	})
}

// Kind is what a request is for: "manifests", "blobs" or "".
func Kind(req *http.Request) string {
	for _, kind := range []string{"manifests", "blobs"} {
		if strings.Contains(req.URL.Path, "/"+kind+"/") {
			return kind
		}
	}
	return ""
}

func refuse(w http.ResponseWriter, status int, code, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	fmt.Fprintf(w, `{"errors":[{"code":%q,"message":%q}]}`, code, message)
}

// TooManyRequests is a Fault that limits the rate of everything.
func TooManyRequests(w http.ResponseWriter, _ *http.Request) bool {
	w.Header().Set("Retry-After", "1")
	refuse(w, http.StatusTooManyRequests, "TOOMANYREQUESTS", "You have reached your pull rate limit")
	return true
}

// Stall is a Fault that never answers requests for blobs, until the client leaves.
func Stall(_ http.ResponseWriter, req *http.Request) bool {
	if Kind(req) != "blobs" || req.Method != http.MethodGet {
		return false
	}
	<-req.Context().Done()
	return true
}

// Truncate is a Fault that breaks the connection in the middle of each blob.
func Truncate(w http.ResponseWriter, req *http.Request) bool {
	if Kind(req) != "blobs" || req.Method != http.MethodGet {
		return false
	}
	w.Header().Set("Content-Length", strconv.Itoa(1<<20))
	w.WriteHeader(http.StatusOK)
	_, _ = w.Write(make([]byte, 1000))
	_ = http.NewResponseController(w).Flush()
	panic(http.ErrAbortHandler)
}

// Push puts an image into the registry as Addr/repo[:tag] and returns that reference and the digest of its manifest.
func (r *Registry) Push(ctx context.Context, repo string, img v1.Image) (ref, digest string, err error) {
	ref = r.Addr + "/" + repo
	parsed, err := name.ParseReference(ref, name.Insecure)
	if err != nil {
		return "", "", fmt.Errorf("image reference %s: %w", ref, err)
	}
	r.mu.Lock()
	auth := authn.FromConfig(authn.AuthConfig{Username: r.username, Password: r.password})
	r.mu.Unlock()
	transport := http.DefaultTransport.(*http.Transport).Clone()
	defer transport.CloseIdleConnections()
	if err := remote.Write(parsed, img, remote.WithContext(ctx), remote.WithAuth(auth), remote.WithTransport(transport)); err != nil {
		return "", "", fmt.Errorf("push of %s: %w", ref, err)
	}
	hash, err := img.Digest()
	if err != nil {
		return "", "", errors.Join(fmt.Errorf("digest of %s", ref), err)
	}
	return ref, hash.String(), nil
}

// PushIndex puts an index of images into the registry as Addr/repo[:tag]. The registry must not want credentials.
func (r *Registry) PushIndex(ctx context.Context, repo string, index v1.ImageIndex) error {
	parsed, err := name.ParseReference(r.Addr+"/"+repo, name.Insecure)
	if err != nil {
		return fmt.Errorf("image reference %s: %w", repo, err)
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	defer transport.CloseIdleConnections()
	if err := remote.WriteIndex(parsed, index, remote.WithContext(ctx), remote.WithTransport(transport)); err != nil {
		return fmt.Errorf("push of %s: %w", repo, err)
	}
	return nil
}

// MustPush builds an image and pushes it, or ends the test.
func (r *Registry) MustPush(t testing.TB, repo string, spec Spec) (ref, digest string) {
	t.Helper()
	ref, digest, err := r.Push(t.Context(), repo, Must(t, spec))
	if err != nil {
		t.Fatal(err)
	}
	return ref, digest
}
