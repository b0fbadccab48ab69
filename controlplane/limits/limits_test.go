package limits

import (
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/longshore-project/longshore/controlplane/auth"
	"github.com/longshore-project/longshore/controlplane/store"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// names takes who signed from a header; "wrong" is not signed rightly.
type names struct{}

func (names) Verify(r *http.Request, _ []byte) (*auth.Identity, error) {
	name := r.Header.Get("Key")
	if name == "wrong" {
		return nil, &auth.Error{Code: auth.CodeInvalid}
	}
	return &auth.Identity{AccessKeyID: name, Role: store.RoleHost, Enrolment: name == "enrolment"}, nil
}

func (n names) VerifyUpgrade(r *http.Request) (*auth.Identity, error) { return n.Verify(r, nil) }

// site is a server with limits.
type site struct {
	*testing.T
	*Limits
	server *httptest.Server
	served func(w http.ResponseWriter, r *http.Request)
}

func newSite(t *testing.T, cfg Config) *site {
	t.Helper()
	s := &site{T: t, Limits: New(cfg)}
	verifier := s.Verifier(names{})
	s.server = httptest.NewUnstartedServer(s.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if s.served != nil {
			s.served(w, r)
		}
		_, err := verifier.Verify(r, nil)
		var refused *auth.Error
		if errors.As(err, &refused) {
			http.Error(w, refused.Code, http.StatusBadRequest)
		}
	}), func(w http.ResponseWriter, code, message string) { http.Error(w, code, http.StatusBadRequest) }))
	s.Bound(s.server.Config)
	s.server.Start()
	t.Cleanup(s.server.Close)
	return s
}

// caller has one connection.
type caller struct {
	s    *site
	http *http.Client
}

func (s *site) caller() *caller {
	c := &caller{s, &http.Client{Transport: &http.Transport{MaxConnsPerHost: 1}}}
	s.Cleanup(c.http.CloseIdleConnections)
	return c
}

// call returns the code that it is refused with, if it is, and whether the connection ends with it.
func (c *caller) call(key, body string) (code string, closed bool) {
	c.s.Helper()
	r, err := http.NewRequestWithContext(c.s.Context(), http.MethodPost, c.s.server.URL, strings.NewReader(body))
	if err != nil {
		c.s.Fatal(err)
	}
	r.Header.Set("Key", key)
	answer, err := c.http.Do(r)
	if err != nil {
		c.s.Fatal(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		c.s.Fatal(err)
	}
	return strings.TrimSpace(string(text)), answer.Close
}

func (s *site) expect(what, got, want string) {
	s.Helper()
	if got != want {
		s.Errorf("%s: %q, not %q", what, got, want)
	}
}

func TestAKeyHasItsShareOfCallsAndAnothersIsItsOwn(t *testing.T) {
	now := time.Now()
	l := New(Config{Rate: 10, EnrolmentRate: 100, Now: func() time.Time { return now }})
	verifier := l.Verifier(names{})
	call := func(key string) string {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/", nil)
		r.Header.Set("Key", key)
		identity, err := verifier.Verify(r, nil)
		var refused *auth.Error
		if errors.As(err, &refused) {
			if refused.Code == CodeThrottled && identity.AccessKeyID != key {
				t.Errorf("nobody is told whose call was refused: %v", identity)
			}
			return refused.Code
		}
		return "ok"
	}
	taken := func(key string, tries int) (n int) {
		for range tries {
			if call(key) == "ok" {
				n++
			}
		}
		return n
	}
	if n := taken("a", 1000); n != 40 {
		t.Errorf("%d calls at once", n)
	}
	if n := taken("b", 1); n != 1 {
		t.Error("another key pays for it")
	}
	if n := taken("enrolment", 1000); n != 400 {
		t.Errorf("%d calls of the key for enrolment at once", n)
	}
	now = now.Add(time.Second)
	if n := taken("a", 1000); n != 10 {
		t.Errorf("%d calls a second later", n)
	}
	if got := call("wrong"); got != auth.CodeInvalid {
		t.Error(got)
	}
	if s := l.Stats(); s.Throttled != 960+990+600 {
		t.Errorf("%+v", s)
	}
}

func TestOfConnectionsThatNobodySignsOnTheOldestGoAndThoseThatAreSignedOnStay(t *testing.T) {
	s := newSite(t, Config{Pending: 20}) // ten of one address
	signed := s.caller()
	s.expect("a call", first(signed.call("a", "")), "")
	var held []net.Conn
	for range 50 {
		conn, err := net.Dial("tcp", s.server.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		held = append(held, conn)
	}
	for _, conn := range held[:40] { // these are closed, whatever they wait for
		_ = conn.SetReadDeadline(time.Now().Add(time.Minute))
		if _, err := conn.Read(make([]byte, 1)); err == nil || errors.Is(err, net.ErrClosed) {
			t.Errorf("an old connection is held: %v", err)
		}
	}
	if st := s.Stats(); st.Pending != 10 || st.Evicted != 40 {
		t.Errorf("%+v", st)
	}
	fresh := s.caller()
	s.expect("a call on a new connection", first(fresh.call("a", "")), "")
	s.expect("a call on the old one", first(signed.call("a", "")), "")
}

func TestAKeyHasItsShareOfConnections(t *testing.T) {
	s := newSite(t, Config{ConnectionsPerKey: 3})
	var callers []*caller
	for range 3 {
		c := s.caller()
		s.expect("a connection", first(c.call("a", "")), "")
		callers = append(callers, c)
	}
	more := s.caller()
	s.expect("one too many", first(more.call("a", "")), CodeThrottled)
	s.expect("another key on it", first(more.call("b", "")), "")
	s.expect("the key for enrolment", first(s.caller().call("enrolment", "")), "")
	s.expect("one of the first", first(callers[0].call("a", "")), "")
	callers[1].http.CloseIdleConnections()
	deadline := time.Now().Add(time.Minute)
	for first(s.caller().call("a", "")) != "" {
		if time.Now().After(deadline) {
			t.Fatal("a connection that ended still counts")
		}
	}
}

func TestAConnectionOnWhichIsGuessedIsClosed(t *testing.T) {
	s := newSite(t, Config{})
	c := s.caller()
	for i := range mostGuesses {
		if _, closed := c.call("wrong", ""); closed != (i == mostGuesses-1) {
			t.Errorf("after guess %d the connection is closed: %t", i+1, closed)
		}
	}
	s.expect("a right call after that", first(c.call("a", "")), "")
}

func TestWhatIsSentBeforeAnySignatureIsBounded(t *testing.T) {
	s := newSite(t, Config{PendingBodies: 400 << 10, MaxBody: 100 << 10})
	in, out := make(chan struct{}), make(chan struct{})
	s.served = func(_ http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Key") == "slow" {
			in <- struct{}{}
			<-out
		}
	}
	big := strings.Repeat("x", 100<<10)
	signed := s.caller()
	s.expect("a call", first(signed.call("a", "")), "")
	slow := s.caller()
	var wg sync.WaitGroup
	wg.Go(func() { slow.call("slow", big) })
	<-in // this address has its quarter
	code, closed := s.caller().call("a", big)
	s.expect("another large one", code, CodeThrottled)
	if !closed {
		t.Error("the connection goes on, and its body is read")
	}
	s.expect("a small one", first(s.caller().call("a", "small")), "")
	s.expect("a large one of somebody who has signed", first(signed.call("a", big)), "")
	close(out)
	wg.Wait()
	s.expect("a large one after that", first(s.caller().call("a", big)), "")
}

func first(code string, _ bool) string { return code }
