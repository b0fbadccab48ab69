package certs_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/longshore-project/longshore/controlplane/certs"
	"github.com/longshore-project/longshore/controlplane/seal"
	"github.com/longshore-project/longshore/controlplane/store"
	"github.com/longshore-project/longshore/controlplane/store/storetest"
)

func TestMain(m *testing.M) { storetest.Main(m) }

const patience = time.Minute

func authority(t *testing.T, st *store.Store, k *seal.Key, dir string) *certs.Authority {
	t.Helper()
	a, err := certs.EnsureAuthority(t.Context(), st, k, dir, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestTheOwnCAIsOneForAllReplicasAndOutlivesTheStore(t *testing.T) {
	client, k := storetest.Etcd(t), seal.New()
	var wg sync.WaitGroup
	var found [3]*certs.Authority
	var dirs [3]string
	for i := range found {
		dirs[i] = t.TempDir()
		st := storetest.Open(t, client)
		wg.Go(func() {
			var err error
			if found[i], err = certs.EnsureAuthority(t.Context(), st, k, dirs[i], time.Now()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for i, a := range found {
		if a == nil || a.Fingerprint() != found[0].Fingerprint() {
			t.Fatalf("replica %d has another CA", i)
		}
		if data, err := os.ReadFile(filepath.Join(dirs[i], certs.CAFile)); err != nil || string(data) != string(found[0].PEM()) {
			t.Errorf("replica %d has %q in its file, %v", i, data, err)
		}
	}
	c := found[0].Certificate()
	if !c.IsCA || c.MaxPathLen != 0 || !c.MaxPathLenZero || c.NotAfter.Before(time.Now().AddDate(9, 11, 0)) {
		t.Errorf("the CA is %+v", c)
	}
	sealed, err := os.ReadFile(filepath.Join(dirs[0], certs.CAKeyFile))
	if info, e := os.Stat(filepath.Join(dirs[0], certs.CAKeyFile)); err != nil || e != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the key's file: %v, %v", err, e)
	}
	if block, _ := pem.Decode(sealed); block == nil {
		t.Error("the key's file is not PEM")
	} else if _, err := x509.ParsePKCS8PrivateKey(block.Bytes); err == nil {
		t.Error("the key is in clear")
	}
	if a := authority(t, storetest.New(t), k, dirs[0]); a.Fingerprint() != found[0].Fingerprint() { // the store is new
		t.Error("a new store has another CA than the files")
	}
}

func TestACAThatIsNotTheStoresIsRefused(t *testing.T) {
	st, k, dir := storetest.New(t), seal.New(), t.TempDir()
	authority(t, st, k, dir)
	other := t.TempDir()
	authority(t, storetest.New(t), k, other)
	for name, c := range map[string]struct {
		k    *seal.Key
		dir  string
		says string
	}{
		"another control plane's files": {k, other, "another CA"},
		"another seal key":              {seal.New(), dir, "sealed with another key"},
	} {
		if _, err := certs.EnsureAuthority(t.Context(), st, c.k, c.dir, time.Now()); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := os.Remove(filepath.Join(dir, certs.CAKeyFile)); err != nil {
		t.Fatal(err)
	}
	if _, err := certs.EnsureAuthority(t.Context(), st, k, dir, time.Now()); err == nil || !strings.Contains(err.Error(), "move "+certs.CAFile+" away") {
		t.Errorf("half of the files: %v", err)
	}
}

// serve serves a source's certificates.
func serve(t *testing.T, s *certs.Source) (address string) {
	t.Helper()
	listener, err := tls.Listen("tcp", "127.0.0.1:0", s.Config())
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{ErrorLog: log.New(io.Discard, "", 0), ReadHeaderTimeout: patience}
	done := make(chan struct{})
	go func() { defer close(done); _ = server.Serve(listener) }()
	t.Cleanup(func() {
		_ = server.Close()
		<-done
	})
	return listener.Addr().String()
}

// served is the certificate that is served for a name.
func served(t *testing.T, address, name string, ca []byte) (*x509.Certificate, error) {
	t.Helper()
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	conn, err := tls.DialWithDialer(&net.Dialer{Timeout: patience}, "tcp", address, &tls.Config{RootCAs: pool, ServerName: name})
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	return conn.ConnectionState().PeerCertificates[0], nil
}

func run(t *testing.T, s *certs.Source) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx, 10*time.Millisecond) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func until(t *testing.T, what string, so func() bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(patience); !so(); <-tick.C {
		if time.Now().After(end) {
			t.Fatalf("it never happened that %s", what)
		}
	}
}

func TestTheOwnCertificateHasTheNamesOfTheMomentAndIsReplacedWithThem(t *testing.T) {
	a := authority(t, storetest.New(t), seal.New(), t.TempDir())
	var mu sync.Mutex
	names := []string{"127.0.0.1", "control.test"}
	s, err := certs.Own(func() *certs.Authority { return a }, func() []string { mu.Lock(); defer mu.Unlock(); return slices.Clone(names) }, 0, a.PEM, zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	run(t, s)
	address := serve(t, s)
	for _, name := range names {
		if c, err := served(t, address, name, s.CA()); err != nil || c.IsCA || c.NotAfter.After(time.Now().AddDate(1, 0, 0)) {
			t.Errorf("%s: %v, %v", name, c, err)
		}
	}
	if _, err := served(t, address, "other.test", s.CA()); err == nil {
		t.Error("it is good for any name")
	}
	mu.Lock()
	names = []string{"other.test"}
	mu.Unlock()
	until(t, "it is good for the new name", func() bool { _, err := served(t, address, "other.test", s.CA()); return err == nil })
}

// files writes a certificate for a name and its key, and returns its CA.
func files(t *testing.T, dir, name string) (ca []byte) {
	t.Helper()
	a := authority(t, storetest.New(t), seal.New(), t.TempDir())
	cert, key, err := certs.Pair(a, name, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	for file, data := range map[string][]byte{"cert.pem": cert, "key.pem": key} {
		if err := os.WriteFile(filepath.Join(dir, file), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return a.PEM()
}

func TestCertificatesOfFilesAreReadAgainWhenTheyChangeAndBadOnesAreNotTaken(t *testing.T) {
	dir := t.TempDir()
	ca := files(t, dir, "one.test")
	core, logs := observer.New(zapcore.InfoLevel)
	s, err := certs.Files(filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"), zap.New(core))
	if err != nil {
		t.Fatal(err)
	}
	if string(s.CA()) != string(ca) {
		t.Error("the chain's CA is not what hosts are to trust")
	}
	run(t, s)
	address := serve(t, s)
	if _, err := served(t, address, "one.test", ca); err != nil {
		t.Error(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "key.pem"), []byte("nonsense"), 0o600); err != nil {
		t.Fatal(err)
	}
	until(t, "the bad key is told", func() bool { return logs.FilterMessageSnippet("can't be replaced").Len() > 0 })
	if _, err := served(t, address, "one.test", ca); err != nil {
		t.Errorf("the one before is not served any more: %v", err)
	}
	ca = files(t, dir, "two.test")
	until(t, "the new one is served", func() bool { _, err := served(t, address, "two.test", ca); return err == nil })
	if _, err := certs.Files(filepath.Join(dir, "missing.pem"), filepath.Join(dir, "key.pem"), zap.NewNop()); err == nil || !strings.Contains(err.Error(), "missing.pem") {
		t.Errorf("no file: %v", err)
	}
}

func TestTheNamesOfAMachine(t *testing.T) {
	names := certs.Names("https://control.test:8443", "192.0.2.7:8480", "127.0.0.1:8481")
	for _, want := range []string{"control.test", "192.0.2.7", "127.0.0.1", "::1", "localhost"} {
		if !slices.Contains(names, want) {
			t.Errorf("%s is not among %v", want, names)
		}
	}
	host, _ := os.Hostname()
	if all := certs.Names("", ":8480"); !slices.Contains(all, host) || slices.Contains(all, "") || !slices.IsSorted(all) {
		t.Errorf("for all addresses they are %v", all)
	}
}
