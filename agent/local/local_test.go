package local

import (
	"context"
	"errors"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"
	"go.uber.org/zap"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// serve serves a server in dir until the test ends.
func serve(t *testing.T, dir string, s *Server) {
	t.Helper()
	l, err := Listen(dir)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		if _, err := os.Lstat(filepath.Join(dir, SocketName)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the socket is left behind: %v", err)
		}
	})
}

func TestOnlyTheOwnerHasRightsToTheSocketAndItReplacesOneThatWasLeftBehind(t *testing.T) {
	dir := filepath.Join(t.TempDir(), strings.Repeat("a-long-name", 12)) // longer than a socket's address
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, SocketName), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	s := New(zap.NewNop())
	s.Handle("POST /v1/echo", func(w http.ResponseWriter, r *http.Request) { Answer(w, r.Header.Get("Content-Length")) })
	s.Handle("GET /v1/no", func(w http.ResponseWriter, _ *http.Request) {
		Refuse(w, http.StatusNotFound, errors.New("not this one"))
	})
	serve(t, dir, s)
	info, err := os.Stat(filepath.Join(dir, SocketName))
	if err != nil || info.Mode() != os.ModeSocket|0o600 {
		t.Errorf("%v %v", info.Mode(), err)
	}
	var out string
	if err := (Client{dir}).Call(t.Context(), http.MethodPost, "/v1/echo", 1, &out); err != nil {
		t.Error(err)
	}
	if err := (Client{dir}).Call(t.Context(), http.MethodGet, "/v1/no", nil, nil); err == nil || err.Error() != "not this one" {
		t.Error(err)
	}
	if err := (Client{dir}).Call(t.Context(), http.MethodGet, "/v1/unknown", nil, nil); err == nil || !strings.Contains(err.Error(), "another version") {
		t.Error(err)
	}
	if err := (Client{dir}).Call(t.Context(), http.MethodGet, "/debug/pprof/goroutine?debug=0", nil, nil); err == nil || !strings.Contains(err.Error(), "can't be read") {
		if err != nil {
			t.Error(err) // a profile is no JSON, but it is there
		}
	}
}

func TestAnAgentThatIsNotThereIsSaidToBeAbsent(t *testing.T) {
	dir := t.TempDir()
	var absent *NotRunningError
	if err := (Client{dir}).Call(t.Context(), http.MethodGet, "/v1/status", nil, nil); !errors.As(err, &absent) || !strings.Contains(err.Error(), "systemctl start") {
		t.Error(err)
	}
	// A killed agent leaves its socket.
	l, err := net.Listen("unix", filepath.Join(dir, SocketName))
	if err != nil {
		t.Fatal(err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	_ = l.Close()
	if err := (Client{dir}).Call(t.Context(), http.MethodGet, "/v1/status", nil, nil); !errors.As(err, &absent) || !strings.Contains(err.Error(), "connection refused") {
		t.Error(err)
	}
	if err := (Client{filepath.Join(dir, "no")}).Call(t.Context(), http.MethodGet, "/v1/status", nil, nil); !errors.As(err, &absent) {
		t.Error(err)
	}
}
