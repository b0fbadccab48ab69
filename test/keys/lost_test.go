package keys

import (
	"encoding/pem"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/longshore-project/longshore/controlplane"
	"github.com/longshore-project/longshore/controlplane/auth"
)

// lossy passes everything between agent and control plane, but for answers to the exchange of keys: of these it asks what becomes.
type lossy struct {
	mu     sync.Mutex
	asked  int                // exchanges that the control plane has answered
	arrive func(nth int) bool // whether the nth answer arrives; called after the control plane gave it
}

func (l *lossy) passes() bool {
	l.mu.Lock()
	l.asked++
	nth, arrive := l.asked, l.arrive
	l.mu.Unlock()
	return arrive(nth)
}

func (l *lossy) then(arrive func(nth int) bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.arrive = arrive
}

func (l *lossy) answered() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.asked
}

// losing puts a proxy that ends TLS between the world's agent and its control plane.
func (w *world) losing(arrive func(nth int) bool) *lossy {
	w.Helper()
	l := &lossy{arrive: arrive}
	transport := &http.Transport{TLSClientConfig: w.web.Transport.(*http.Transport).TLSClientConfig.Clone()}
	w.Cleanup(transport.CloseIdleConnections)
	proxy := httptest.NewTLSServer(&httputil.ReverseProxy{
		Transport: transport,
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(&url.URL{Scheme: "https", Host: w.address})
			r.Out.Host = r.In.Host // which is signed
		},
		ModifyResponse: func(r *http.Response) error {
			if strings.HasSuffix(r.Request.Header.Get("X-Amz-Target"), ".HostKey") && !l.passes() {
				return errors.New("the answer is lost")
			}
			return nil
		},
		ErrorHandler: func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) },
	})
	proxy.Config.ErrorLog = nil
	w.Cleanup(proxy.Close)
	w.via, w.bundle = strings.TrimPrefix(proxy.URL, "https://"), filepath.Join(w.TempDir(), "proxy.pem")
	if err := os.WriteFile(w.bundle, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: proxy.Certificate().Raw}), 0o600); err != nil {
		w.Fatal(err)
	}
	return l
}

// joins starts the agent with the join key of host.env.
func (w *world) joins() (leave func() error) {
	w.Helper()
	join, err := auth.ReadKey(filepath.Join(w.dir, auth.HostFile))
	if err != nil {
		w.Fatal(err)
	}
	return w.agent(join.AccessKeyID, join.Secret)
}

// given are the ids of the keys that were given to the host.
func (w *world) given() (ids []string) {
	w.Helper()
	keys, err := controlplane.Keys(w.Context(), w.dir)
	if err != nil {
		w.Fatal(err)
	}
	for _, k := range keys {
		if k.Instance != "" {
			ids = append(ids, k.AccessKeyID)
		}
	}
	return ids
}

// owns waits until the host signs with the last key that it was given, of so many, and is connected.
func (w *world) owns(of int) {
	w.Helper()
	w.until("the host has its own key and is connected", func() bool { return w.kept() != "" && w.instance() != "" })
	given := w.given()
	if len(given) != of || w.key(w.kept()).Instance != w.instance() {
		w.Errorf("it has %s, and was given %v", w.kept(), given)
	}
	if _, err := os.Stat(filepath.Join(w.state, "registration-token")); err == nil {
		w.Error("the token that may be shown for the key again is still there")
	}
}

func TestAnAnswerToTheExchangeOfKeysIsLostTwiceAndTheSameKeyIsGivenAgain(t *testing.T) {
	w := newWorld(t)
	l := w.losing(func(nth int) bool { return nth > 2 })
	w.joins()
	w.owns(1)
	if n := l.answered(); n != 3 {
		t.Errorf("it asked %d times", n)
	}
}

// The agent is ended after the control plane has given the key, and before it has it: twice, the second time with the answer lost as well.
func TestAnAgentThatEndsBeforeItHasItsKeyIsGivenItWhenItStartsAgain(t *testing.T) {
	w := newWorld(t)
	none := func(int) bool { return false }
	l := w.losing(none)
	for range 2 {
		before := l.answered()
		leave := w.joins()
		w.until("the control plane has given a key", func() bool { return l.answered() > before })
		if err := leave(); err != nil {
			t.Error(err)
		}
		if w.kept() != "" || len(w.given()) != 1 {
			t.Fatalf("it has %q, and was given %v", w.kept(), w.given())
		}
	}
	l.then(func(int) bool { return true })
	w.joins()
	w.owns(1)
}

// The key is replaced while its host has not got it yet; so is the join key. The host is given what counts.
func TestKeysAreReplacedWhileTheAnswerToTheirExchangeIsOnItsWay(t *testing.T) {
	for name, overlap := range map[string]time.Duration{"the old one still counts": time.Hour, "the old one has ended": 0} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			l := w.losing(func(int) bool { return false })
			leave := w.joins()
			w.until("the control plane has given a key", func() bool { return len(w.given()) == 1 })
			next, err := controlplane.RotateKey(t.Context(), w.dir, w.given()[0], overlap)
			if err != nil {
				t.Fatal(err)
			}
			l.then(func(int) bool { return true })
			w.until("it has the one that replaces it", func() bool { return w.kept() == next.AccessKeyID })
			w.owns(2)
			if err := leave(); err != nil {
				t.Error(err)
			}
		})
	}
	t.Run("of the join key", func(t *testing.T) {
		w := newWorld(t)
		l := w.losing(func(int) bool { return false })
		leave := w.joins()
		w.until("the control plane has given a key", func() bool { return len(w.given()) == 1 })
		if err := leave(); err != nil {
			t.Error(err)
		}
		join, err := auth.ReadKey(filepath.Join(w.dir, auth.HostFile))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := controlplane.RotateKey(t.Context(), w.dir, join.AccessKeyID, 0); err != nil {
			t.Fatal(err)
		}
		l.then(func(int) bool { return true })
		w.joins() // with the new one, which is in host.env
		w.owns(1)
	})
	t.Run("but a revoked one is not to be had again", func(t *testing.T) {
		w := newWorld(t)
		l := w.losing(func(int) bool { return false })
		leave := w.joins()
		w.until("the control plane has given a key", func() bool { return len(w.given()) == 1 })
		if err := leave(); err != nil {
			t.Error(err)
		}
		if _, err := controlplane.RevokeKey(t.Context(), w.dir, w.given()[0]); err != nil {
			t.Fatal(err)
		}
		l.then(func(int) bool { return true })
		before := l.answered()
		w.joins()
		w.until("it has said that it is not registered", func() bool {
			log, _ := os.ReadFile(filepath.Join(w.state, "agent.log"))
			return strings.Contains(string(log), "This host is not registered")
		})
		if w.kept() != "" || w.instance() != "" {
			t.Errorf("it has %q, and is connected as %q after %d questions", w.kept(), w.instance(), l.answered()-before)
		}
	})
}
