package join

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/longshore-project/longshore/agent/local"
	"github.com/longshore-project/longshore/protocol/awsjson"
	"github.com/longshore-project/longshore/protocol/join"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const testArn = "arn:aws:ecs:us-west-2:123456789012:container-instance/daemonset/0123456789abcdef0123456789abcdef"

// authority is a CA.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "a CA"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{cert, key}
}

func (a *authority) pem() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw})
}

// sign makes a server's certificate for 127.0.0.1 and names, which ends after some time.
func (a *authority) sign(t *testing.T, ends time.Duration, address string, names ...string) tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(2), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(ends), DNSNames: names, IPAddresses: []net.IP{net.ParseIP(address)}}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// world is a control plane as far as a join asks it, and a host.
type world struct {
	t       *testing.T
	ca      *authority
	cert    tls.Certificate
	plain   bool              // no TLS
	serveCA []byte            // nil: there is none
	refuse  string            // the error code that the signed question is answered with
	answer  join.HostOutput   // to it
	region  string            // answered
	asked   []*join.HostInput // what it was asked
	server  *httptest.Server
	dir     string
	out     bytes.Buffer
	*Joining
}

func newWorld(t *testing.T) *world {
	w := &world{t: t, ca: newAuthority(t), dir: t.TempDir(), region: "eu-west-1"}
	w.cert, w.serveCA = w.ca.sign(t, time.Hour, "127.0.0.1", "control.test"), w.ca.pem()
	w.Joining = &Joining{
		Token:   join.Token{AccessKeyID: "AKIAABCDEFGHIJKLMNOP", SecretAccessKey: "abcdefghijklmnopqrstuvwxyz+/0123456789ab", Pin: join.Pin(w.ca.cert.Raw)},
		Cluster: "daemonset", File: filepath.Join(w.dir, "etc", "ecs.config"), CAFile: filepath.Join(w.dir, "etc", "ca.pem"), Learned: filepath.Join(w.dir, "control-ca.pem"), Proc: filepath.Join(w.dir, "proc"), Ports: []uint16{51678},
		Engine:   func(context.Context) (string, error) { return "an engine answers", nil },
		Ask:      func(context.Context) (*local.Status, error) { return nil, &local.NotRunningError{Err: os.ErrNotExist} },
		Identity: func() (string, string, error) { return "", "", nil },
		Leaving:  func() bool { return false },
		Start: func(context.Context) (string, error) {
			w.Ask = func(context.Context) (*local.Status, error) {
				return &local.Status{ContainerInstanceArn: testArn, Connection: local.Connection{Connected: true}}, nil
			}
			return "started", nil
		},
		Host: func(context.Context, string) (*join.HostOutput, error) {
			yes, service := true, "logs"
			return &join.HostOutput{Instance: &join.HostInstance{Daemons: []join.Daemon{{Service: &service, Ready: &yes}}}}, nil
		},
		Wait: time.Minute, Poll: time.Millisecond, Now: time.Now, Out: &w.out,
	}
	return w
}

// serve starts the control plane.
func (w *world) serve() {
	w.server = httptest.NewUnstartedServer(w)
	w.server.Config.ErrorLog = log.New(io.Discard, "", 0)
	w.server.TLS = &tls.Config{Certificates: []tls.Certificate{w.cert}, MinVersion: tls.VersionTLS12}
	if w.plain {
		w.server.Start()
	} else {
		w.server.StartTLS()
	}
	w.t.Cleanup(w.server.Close)
	if w.URL == "" {
		w.URL = "https://" + w.server.Listener.Addr().String()
	}
}

func (w *world) ServeHTTP(out http.ResponseWriter, r *http.Request) {
	switch {
	case r.URL.Path == join.CAPath && w.serveCA != nil:
		_, _ = out.Write(w.serveCA)
	case r.URL.Path == "/" && r.Method == http.MethodGet:
		_, _ = out.Write([]byte("{}"))
	case r.URL.Path == "/" && r.Header.Get("X-Amz-Target") == "LongshoreV1.Host":
		body, _ := io.ReadAll(r.Body)
		in := &join.HostInput{}
		if _, err := awsjson.Unmarshal(body, in); err != nil {
			w.t.Error(err)
		}
		w.asked = append(w.asked, in)
		signed, err := time.Parse("20060102T150405Z", r.Header.Get("X-Amz-Date"))
		if err != nil || time.Since(signed).Abs() > time.Minute || !strings.Contains(r.Header.Get("Authorization"), "Credential="+w.Token.AccessKeyID+"/") {
			w.t.Errorf("signed at %s: %v: %s", signed, err, r.Header.Get("Authorization"))
		}
		if w.refuse != "" {
			out.WriteHeader(http.StatusBadRequest)
			_, _ = out.Write(awsjson.EncodeError(w.refuse, "no"))
			return
		}
		w.answer.Region = &w.region
		answer, err := awsjson.Marshal(&w.answer)
		if err != nil {
			w.t.Error(err)
		}
		_, _ = out.Write(answer)
	default:
		http.NotFound(out, r)
	}
}

func (w *world) write(text string) {
	if err := os.MkdirAll(filepath.Dir(w.File), 0o755); err != nil {
		w.t.Fatal(err)
	}
	if err := os.WriteFile(w.File, []byte(text), 0o644); err != nil {
		w.t.Fatal(err)
	}
}

func TestAHostJoinsStepByStep(t *testing.T) {
	w := newWorld(t)
	w.write("ECS_LOGLEVEL=debug\n")
	if err := os.WriteFile(w.Learned, []byte("another CA"), 0o644); err != nil {
		t.Fatal(err)
	}
	expires := "2030-01-02T03:04:05Z"
	w.answer.Expires = &expires
	w.serve()
	if err := w.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"port         127.0.0.1:", "certificate  is signed by the CA that the token pins", "clock        agrees", "key          is good, and so is the cluster daemonset; the token expires at 2030-",
		"engine       an engine answers", "agent        none runs", "ports        51678 are free", "settings     written to ", "start        started", "daemons      " + testArn + " is connected, and its 1 daemons run"} {
		if !strings.Contains(w.out.String(), want) {
			t.Errorf("it does not say %q:\n%s", want, w.out.String())
		}
	}
	text, err := os.ReadFile(w.File)
	if err != nil {
		t.Fatal(err)
	}
	want := "ECS_LOGLEVEL=debug\n" + blockBegin + "\nECS_BACKEND_HOST=" + w.URL + "\nECS_CLUSTER=daemonset\nAWS_DEFAULT_REGION=eu-west-1\nAWS_ACCESS_KEY_ID=AKIAABCDEFGHIJKLMNOP\n" +
		"AWS_SECRET_ACCESS_KEY=abcdefghijklmnopqrstuvwxyz+/0123456789ab\nAWS_CA_BUNDLE=" + w.CAFile + "\n" + blockEnd + "\n"
	if string(text) != want {
		t.Errorf("ecs.config is\n%s\nand not\n%s", text, want)
	}
	if info, err := os.Stat(w.File); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	if ca, err := os.ReadFile(w.CAFile); err != nil || !bytes.Equal(ca, w.ca.pem()) {
		t.Errorf("%s, %v", ca, err)
	}
	if _, err := os.Stat(w.Learned); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the CA of the control plane before is still trusted: %v", err)
	}
	if strings.Contains(w.out.String(), w.Token.SecretAccessKey) {
		t.Error("the secret was printed")
	}
}

// a host's clock that is off is told, and keeps nobody out; the request is dated by the control plane's.
func TestAHostJoinsWhateverItsClockSays(t *testing.T) {
	for by, words := range map[time.Duration]string{time.Hour: "ahead of", -time.Hour: "behind", 365 * 24 * time.Hour: "ahead of", -365 * 24 * time.Hour: "behind"} {
		w := newWorld(t)
		w.Now = func() time.Time { return time.Now().Add(by) }
		w.serve()
		if err := w.Run(t.Context()); err != nil || !strings.Contains(w.out.String(), words+" the control plane's; the agent signs by") {
			t.Errorf("%s: %v: %s", by, err, w.out.String())
		}
	}
}

func TestEachStepThatFailsSaysWhatToDo(t *testing.T) {
	closed := func(t *testing.T) string {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		return "https://" + l.Addr().String()
	}
	for name, c := range map[string]struct {
		arrange            func(t *testing.T, w *world)
		step, says, remedy string
	}{
		"a URL that is none":         {func(_ *testing.T, w *world) { w.URL = "10.0.0.5:8480" }, "URL", "is not like https://host:port", "--advertise-url"},
		"a URL with a path":          {func(_ *testing.T, w *world) { w.URL = "https://a.test/ecs" }, "URL", "is not like https://host:port", "--advertise-url"},
		"a URL without TLS":          {func(_ *testing.T, w *world) { w.URL = "http://127.0.0.1:1" }, "URL", "for a control plane with TLS", "Write https://"},
		"a proxy that is no URL":     {func(_ *testing.T, w *world) { w.Proxy = "proxy:3128" }, "URL", "is no URL of a proxy", "http://proxy.example.com:3128"},
		"a name that nobody has":     {func(_ *testing.T, w *world) { w.URL = "https://no-such-host.invalid:8480" }, "name", "no-such-host.invalid has no address", "getent hosts no-such-host.invalid"},
		"a proxy that nobody has":    {func(_ *testing.T, w *world) { w.URL, w.Proxy = "https://10.0.0.5", "http://no-such-proxy.invalid:3128" }, "name", "the proxy no-such-proxy.invalid has no address", "/etc/resolv.conf"},
		"a port where nobody is":     {func(t *testing.T, w *world) { w.URL = closed(t) }, "port", "can't be reached", "TCP port"},
		"plain HTTP":                 {func(_ *testing.T, w *world) { w.plain = true }, "certificate", "does not speak TLS", "--insecure-http"},
		"no control plane":           {func(_ *testing.T, w *world) { w.serveCA = nil }, "certificate", "404 Not Found, and no CA", "--ca FILE"},
		"another control plane":      {func(t *testing.T, w *world) { w.serveCA = newAuthority(t).pem() }, "certificate", "has not the CA that the token pins", "longshore-control token create"},
		"a certificate of others":    {func(t *testing.T, w *world) { w.cert = newAuthority(t).sign(t, time.Hour, "127.0.0.1") }, "certificate", "signed by nobody that the token or --ca names", "reverse proxy"},
		"another name":               {func(t *testing.T, w *world) { w.cert = w.ca.sign(t, time.Hour, "10.1.2.3", "other.test") }, "certificate", "the certificate is not for 127.0.0.1", "--advertise-url https://127.0.0.1:"},
		"a certificate that ended":   {func(t *testing.T, w *world) { w.cert = w.ca.sign(t, -time.Minute, "127.0.0.1") }, "certificate", "not valid now", "this host's clock"},
		"an unpinned token":          {func(_ *testing.T, w *world) { w.Token.Pin = [32]byte{} }, "certificate", "nobody whom this host trusts", "--ca FILE"},
		"a file that is no CA":       {func(_ *testing.T, w *world) { w.CA = []byte("no") }, "certificate", "no certificate in PEM", "reverse proxy"},
		"a proxy that refuses":       {refusingProxy, "certificate", "the proxy does not let this host through", "allow CONNECT to 10.255.255.1:8480"},
		"a key that was revoked":     {func(_ *testing.T, w *world) { w.refuse = "UnrecognizedClientException" }, "key", "does not take the token's key AKIAABCDEFGHIJKLMNOP", "longshore-control token create"},
		"a key that has expired":     {func(_ *testing.T, w *world) { w.refuse = "ExpiredTokenException" }, "key", "does not take the token's key", "longshore-control token create"},
		"a signature that is wrong":  {func(_ *testing.T, w *world) { w.refuse = "InvalidSignatureException" }, "key", "refuses what the token's key signs", "a proxy that changes requests"},
		"a key of another kind":      {func(_ *testing.T, w *world) { w.refuse = "AccessDeniedException" }, "key", "may not do this", "longshore-control token create"},
		"too many at once":           {func(_ *testing.T, w *world) { w.refuse = "ThrottlingException" }, "key", "can't answer now", "Wait a little"},
		"an old control plane":       {func(_ *testing.T, w *world) { w.refuse = "UnknownOperationException" }, "key", "answers UnknownOperationException", "not older than this agent"},
		"a token that is used up":    {func(_ *testing.T, w *world) { w.answer.Uses = new(int32) }, "key", "as many hosts as it was for have joined", "longshore-control token create"},
		"a cluster that is not":      {func(_ *testing.T, w *world) { w.refuse = "ClusterNotFoundException" }, "cluster", `no cluster "daemonset"`, "aws ecs create-cluster --cluster-name daemonset"},
		"an engine that is not":      {func(_ *testing.T, w *world) { w.Engine = func(context.Context) (string, error) { return "", io.EOF } }, "engine", "does not answer", "systemctl enable --now docker"},
		"another agent":              {ecsAgent, "agent", "amazon-ecs-agent, process 77", "systemctl disable --now ecs"},
		"a leave that is unfinished": {func(_ *testing.T, w *world) { w.Leaving = func() bool { return true } }, "agent", "began to leave", "longshore-agent leave"},
		"an agent of another one":    {running(local.Status{Cluster: "daemonset", Connection: local.Connection{Endpoint: "https://other.test"}}), "agent", "cluster daemonset of https://other.test", "longshore-agent leave"},
		"an agent that hangs": {func(_ *testing.T, w *world) {
			w.Ask = func(context.Context) (*local.Status, error) { return nil, io.EOF }
		}, "agent", "does not answer", "systemctl stop longshore-agent"},
		"a port that is taken": {takenPort, "ports", "is taken by process", "ss -ltnp"},
		"a cluster it is in": {func(_ *testing.T, w *world) {
			w.Identity = func() (string, string, error) { return "other", testArn, nil }
		}, "settings", "is a container instance already", "longshore-agent leave"},
		"another one's settings":     {func(_ *testing.T, w *world) { w.write("ECS_BACKEND_HOST=https://other.test\n") }, "settings", "ECS_BACKEND_HOST=https://other.test", "--force"},
		"another cluster's settings": {func(_ *testing.T, w *world) { w.write("ECS_CLUSTER=prod\n") }, "settings", "ECS_CLUSTER=prod", "--force"},
		"a quote that stays open":    {func(_ *testing.T, w *world) { w.write("A='b\n") }, "settings", "would swallow ECS_BACKEND_HOST", "Close the quote"},
		"a unit that is not":         {func(_ *testing.T, w *world) { w.Start = func(context.Context) (string, error) { return "", io.EOF } }, "start", "EOF", "run the same command again"},
		"an agent that stays away": {func(_ *testing.T, w *world) {
			w.Wait = 0
			w.Start = func(context.Context) (string, error) { return "", nil }
		}, "daemons", "no agent answers", "longshore-agent doctor"},
		"a daemon that does not run": {func(_ *testing.T, w *world) { w.Wait, w.Host = 0, noDaemon }, "daemons", "the daemon of service logs is PENDING: an image is pulled", "explain TASK"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			c.arrange(t, w)
			w.serve()
			err := w.Run(t.Context())
			var f *Failure
			if !errors.As(err, &f) || f.Step != c.step || !strings.Contains(f.Err.Error(), c.says) || !strings.Contains(f.Remedy, c.remedy) {
				t.Errorf("got %v", err)
			}
			if strings.Contains(fmt.Sprint(err), w.Token.SecretAccessKey) {
				t.Error("the secret is in the message")
			}
			if early := c.step != "settings" && c.step != "start" && c.step != "daemons"; early {
				if _, err := os.Stat(w.File); err == nil {
					t.Error("ecs.config was written")
				}
			}
		})
	}
}

func noDaemon(context.Context, string) (*join.HostOutput, error) {
	no, service, state := false, "logs", "PENDING: an image is pulled"
	return &join.HostOutput{Instance: &join.HostInstance{Daemons: []join.Daemon{{Service: &service, Ready: &no, State: &state}}}}, nil
}

func running(s local.Status) func(*testing.T, *world) {
	return func(_ *testing.T, w *world) { w.Ask = func(context.Context) (*local.Status, error) { return &s, nil } }
}

func ecsAgent(t *testing.T, w *world) {
	dir := filepath.Join(w.Proc, "77")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/usr/libexec/amazon-ecs-agent", filepath.Join(dir, "exe")); err != nil {
		t.Fatal(err)
	}
}

func takenPort(t *testing.T, w *world) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	w.Proc, w.Ports = "/proc", []uint16{uint16(l.Addr().(*net.TCPAddr).Port)}
}

func refusingProxy(t *testing.T, w *world) {
	s := httptest.NewServer(http.HandlerFunc(func(out http.ResponseWriter, r *http.Request) { http.Error(out, "no", http.StatusForbidden) }))
	t.Cleanup(s.Close)
	w.URL, w.Proxy = "https://10.255.255.1:8480", s.URL
}

func TestWhatJoinWroteGoesBeforeTheShellsEnvironment(t *testing.T) {
	file := filepath.Join(t.TempDir(), "ecs.config")
	environ := []string{"PATH=/bin", "AWS_CA_BUNDLE=/other", "ECS_CLUSTER=other", "ECS_LOGLEVEL=info"}
	if got := Environ(file, environ); !slices.Equal(got, environ) {
		t.Errorf("without a file: %q", got)
	}
	if err := os.WriteFile(file, []byte("ECS_LOGLEVEL=debug\n"+blockBegin+"\nECS_CLUSTER=daemonset\nAWS_CA_BUNDLE=/ca\n"+blockEnd+"\nA=1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := Environ(file, environ); !slices.Equal(got, []string{"PATH=/bin", "ECS_LOGLEVEL=info"}) {
		t.Errorf("%q", got)
	}
}

func TestAHostThatHasJoinedIsToldSo(t *testing.T) {
	w := newWorld(t)
	w.serve()
	w.Ask = func(context.Context) (*local.Status, error) {
		return &local.Status{Cluster: "daemonset", ContainerInstanceArn: testArn, Connection: local.Connection{Endpoint: w.URL + "/"}}, nil
	}
	if err := w.Run(t.Context()); err != nil || !strings.Contains(w.out.String(), "has joined already as "+testArn) {
		t.Errorf("%v: %s", err, w.out.String())
	}
	if _, err := os.Stat(w.File); err == nil {
		t.Error("ecs.config was written")
	}
}

func TestAJoinIsRepeatedWithAnotherToken(t *testing.T) {
	w := newWorld(t)
	w.write("A=1\n" + blockBegin + "\nECS_BACKEND_HOST=https://gone.test\nECS_CLUSTER=daemonset\n" + blockEnd + "\nB=2\n")
	w.serve()
	w.Start = nil
	var f *Failure
	if err := w.Run(t.Context()); !errors.As(err, &f) || f.Step != "settings" {
		t.Fatal(err)
	}
	w.Force = true
	for range 2 {
		if err := w.Run(t.Context()); err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(w.File)
		if err != nil || !strings.HasPrefix(string(text), "A=1\nB=2\n"+blockBegin) || strings.Count(string(text), "ECS_BACKEND_HOST=") != 1 {
			t.Errorf("%s, %v", text, err)
		}
	}
	if !w.NotStarted() || !strings.Contains(w.out.String(), "not started: start it with") {
		t.Error(w.out.String())
	}
}

func TestTheProxyIsAskedForTheWholeWay(t *testing.T) {
	w := newWorld(t)
	w.serve()
	var through int
	proxy := httptest.NewServer(http.HandlerFunc(func(out http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodConnect || r.Host != "control.test:8480" {
			t.Errorf("%s %s", r.Method, r.Host)
		}
		through++
		tunnel(t, out, w.server.Listener.Addr().String())
	}))
	defer proxy.Close()
	w.URL, w.Proxy = "https://control.test:8480", strings.Replace(proxy.URL, "http://", "http://user:pass%20word@", 1)
	if err := w.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(w.File); err != nil || through < 3 || !strings.Contains(string(text), "HTTPS_PROXY="+w.Proxy) {
		t.Errorf("%d times through it: %s, %v", through, text, err)
	}
}

// tunnel does what a proxy does for CONNECT.
func tunnel(t *testing.T, out http.ResponseWriter, to string) {
	up, err := net.Dial("tcp", to)
	if err != nil {
		t.Error(err)
		return
	}
	defer up.Close()
	down, _, err := out.(http.Hijacker).Hijack()
	if err != nil {
		t.Error(err)
		return
	}
	defer down.Close()
	_, _ = io.WriteString(down, "HTTP/1.1 200 OK\r\n\r\n")
	done := make(chan struct{})
	go func() { defer close(done); _, _ = io.Copy(up, down); _ = up.(*net.TCPConn).CloseWrite() }()
	_, _ = io.Copy(down, up)
	_ = down.Close()
	<-done
}

func TestWithoutTLSNothingIsPinned(t *testing.T) {
	w := newWorld(t)
	w.plain, w.Token.Pin = true, [32]byte{}
	w.serve()
	u, err := url.Parse(w.URL)
	if err != nil {
		t.Fatal(err)
	}
	w.URL = "http://" + u.Host
	if err := w.Run(t.Context()); err != nil || !strings.Contains(w.out.String(), "travels in clear") {
		t.Errorf("%v: %s", err, w.out.String())
	}
	if _, err := os.Stat(w.CAFile); err == nil {
		t.Error("there is a CA")
	}
}
