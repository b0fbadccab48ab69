package taskserver

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"

	"go.uber.org/goleak"
	"go.uber.org/zap"

	"github.com/longshore-project/longshore/agent/endpoints/audit"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type buffer struct{ bytes.Buffer }

func (*buffer) Close() error { return nil }

func ask(s *Server, from, path string) (int, string) {
	w, r := httptest.NewRecorder(), httptest.NewRequest("GET", path, nil)
	r.RemoteAddr = from
	s.ServeHTTP(w, r)
	return w.Code, w.Body.String()
}

func TestEachClientHasARateOfItsOwn(t *testing.T) {
	synctest.Test(t, eachClientHasARateOfItsOwn) // where no time goes by
}

func eachClientHasARateOfItsOwn(t *testing.T) {
	var log buffer
	s := New(Config{Log: zap.NewNop(), Rate: 1, Burst: 3, Audit: audit.New(&log, func() (string, string) { return "c", "" })})
	s.Handle("GET /v4/{id}", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "ok") }))
	codes := func(from, path string) (out []int) {
		for range 4 {
			code, _ := ask(s, from, path)
			out = append(out, code)
		}
		return out
	}
	for _, c := range []struct{ from, path string }{{"172.17.0.2:1", "/v4/a"}, {"172.17.0.3:1", "/v4/a"}, {"169.254.170.2:1", "/v4/a"}, {"169.254.170.2:2", "/v4/b"}} {
		if got := codes(c.from, c.path); fmt.Sprint(got) != "[200 200 200 429]" {
			t.Errorf("%v: %v", c, got)
		}
	}
	if code, body := ask(s, "172.17.0.2:2", "/v4/b"); code != http.StatusTooManyRequests || !strings.Contains(body, "maximum request limit") {
		t.Errorf("another path of a container's own has a rate of its own: %d %s", code, body)
	}
	if _, _ = ask(s, "172.17.0.2:2", "/v2/credentials/secret-id"); !strings.Contains(log.String(), ` 429 172.17.0.2:2 "/v2/credentials" "" - GetCredentials 2 c -`) || strings.Contains(log.String(), "secret-id") {
		t.Errorf("the audit log: %s", log.String())
	}
}

func TestAFloodOfClientsDoesNotFillTheMemory(t *testing.T) {
	s := New(Config{Log: zap.NewNop()})
	for i := range 3 * maxClients {
		ask(s, fmt.Sprintf("10.%d.%d.1:1", i>>8&255, i&255)+"", "/")
		ask(s, "127.0.0.1:1", fmt.Sprint("/", i))
	}
	if n := len(s.clients); n > maxClients {
		t.Errorf("%d clients are remembered", n)
	}
}

func TestUnknownPathsAre404AndDoubledSlashesAreRedirected(t *testing.T) {
	s := New(Config{Log: zap.NewNop()})
	s.Handle("GET /v4/{id}/task", http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	if code, body := ask(s, "172.17.0.2:1", "/v9"); code != http.StatusNotFound || body != "404 page not found\n" {
		t.Errorf("%d %q", code, body)
	}
	if code, _ := ask(s, "172.17.0.2:1", "/v4//x/task"); code/100 != 3 {
		t.Error(code)
	}
}

func TestItServesUntilItIsToldToEnd(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := New(Config{Log: zap.NewNop()})
	s.Handle("GET /x", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "served") }))
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- s.Serve(ctx, l) }()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	r, err := client.Get("http://" + l.Addr().String() + "/x")
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(r.Body)
	_ = r.Body.Close()
	if string(body) != "served" {
		t.Errorf("%q", body)
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}
