// Package imds is a stand-in for the instance metadata service of EC2, version 2. It is strict: a token is given for a PUT with a sound
// time to live and to nobody who was forwarded, each question needs a token that has not ended, and a question without one is 401 and
// remembered. It can be late, off, throttling, and silent to those beyond the hop limit; what it says changes when a test says so.
package imds

import (
	"crypto/rand"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// Weather is how the service is.
type Weather int

// The ways it can be.
const (
	Fair   Weather = iota
	Absent         // connections are cut off: it has not come up yet
	Beyond         // tokens never arrive: the caller is further away than the hop limit
	Off            // 403, as for an instance with its endpoint disabled
	Old            // version 1 only: no tokens, and answers without
)

// Server is the service at one address.
type Server struct {
	URL string

	t       *testing.T
	release chan struct{}

	mu        sync.Mutex
	weather   Weather
	throttled int
	status    int
	pages     map[string]string
	tokens    map[string]time.Time
	longest   time.Duration
	asked     map[string]int
	naked     []string
}

// New is a service that knows an instance, until the test ends.
func New(t *testing.T, instance string) *Server {
	t.Helper()
	s := &Server{t: t, release: make(chan struct{}), tokens: map[string]time.Time{}, asked: map[string]int{}, longest: 6 * time.Hour, pages: map[string]string{
		"dynamic/instance-identity/document":                            Document(instance),
		"dynamic/instance-identity/signature":                           "c2lnbmVk",
		"meta-data/mac":                                                 "02:00:00:00:00:01",
		"meta-data/network/interfaces/macs/02:00:00:00:00:01/vpc-id":    "vpc-1",
		"meta-data/network/interfaces/macs/02:00:00:00:00:01/subnet-id": "subnet-1",
	}}
	server := httptest.NewServer(s)
	s.URL = server.URL
	t.Cleanup(func() {
		close(s.release)
		server.CloseClientConnections()
		server.Close()
	})
	return s
}

// Document is an instance's identity document.
func Document(instance string) string {
	return fmt.Sprintf("{\n  \"accountId\" : \"123456789012\",\n  \"architecture\" : \"x86_64\",\n  \"availabilityZone\" : \"us-west-2b\",\n  \"imageId\" : \"ami-0123456789abcdef0\",\n"+
		"  \"instanceId\" : %q,\n  \"instanceType\" : \"m5.large\",\n  \"pendingTime\" : \"2026-01-01T00:00:00Z\",\n  \"privateIp\" : \"10.0.0.1\",\n  \"region\" : \"us-west-2\",\n  \"version\" : \"2017-09-30\"\n}", instance)
}

// Set gives a page below /latest something to say; nothing at all if it is empty.
func (s *Server) Set(page, text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pages[page] = text; text == "" {
		delete(s.pages, page)
	}
}

// Is sets the weather.
func (s *Server) Is(w Weather) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.weather = w
}

// Throttle answers the next questions with a status.
func (s *Server) Throttle(questions, status int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.throttled, s.status = questions, status
}

// Forget ends all tokens; none lives longer than longest from now on.
func (s *Server) Forget(longest time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tokens, s.longest = map[string]time.Time{}, longest
}

// Asked is how often each page was asked for, and those that were without a token.
func (s *Server) Asked() (pages map[string]int, naked []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.asked), s.naked
}

// ServeHTTP answers.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	page := strings.TrimPrefix(r.URL.Path, "/latest/")
	s.asked[page]++
	weather, throttled, status := s.weather, s.throttled > 0, s.status
	if throttled && weather == Fair {
		s.throttled--
	}
	s.mu.Unlock()
	switch {
	case weather == Absent:
		panic(http.ErrAbortHandler)
	case weather == Off:
		w.WriteHeader(http.StatusForbidden)
		return
	case throttled:
		w.WriteHeader(status)
		return
	case page == "api/token":
		s.token(w, r, weather)
		return
	case r.Method != http.MethodGet:
		w.WriteHeader(http.StatusMethodNotAllowed)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	token := r.Header.Get("X-Aws-Ec2-Metadata-Token")
	if token == "" {
		s.naked = append(s.naked, page)
	}
	if end, ok := s.tokens[token]; weather != Old && (!ok || !time.Now().Before(end)) {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	text, ok := s.pages[page]
	if !ok {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	_, _ = w.Write([]byte(text))
}

func (s *Server) token(w http.ResponseWriter, r *http.Request, weather Weather) {
	seconds, err := strconv.Atoi(r.Header.Get("X-Aws-Ec2-Metadata-Token-Ttl-Seconds"))
	switch {
	case weather == Old:
		w.WriteHeader(http.StatusNotFound)
		return
	case r.Method != http.MethodPut:
		w.WriteHeader(http.StatusMethodNotAllowed)
		return
	case r.Header.Get("X-Forwarded-For") != "":
		w.WriteHeader(http.StatusForbidden)
		return
	case err != nil || seconds < 1 || seconds > 21600:
		w.WriteHeader(http.StatusBadRequest)
		return
	case weather == Beyond:
		select {
		case <-s.release:
		case <-r.Context().Done():
		}
		panic(http.ErrAbortHandler)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	token := rand.Text()
	life := min(time.Duration(seconds)*time.Second, s.longest)
	s.tokens[token] = time.Now().Add(life)
	w.Header().Set("X-Aws-Ec2-Metadata-Token-Ttl-Seconds", strconv.Itoa(max(1, int(life.Seconds()))))
	_, _ = w.Write([]byte(token))
}
