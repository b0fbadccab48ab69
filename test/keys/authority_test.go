package keys

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/longshore-project/longshore/controlplane"
	"github.com/longshore-project/longshore/controlplane/certs"
)

// served is the certificate that the control plane serves, for whom trusts some CAs.
func (w *world) served(trusted []byte) (*x509.Certificate, error) {
	w.Helper()
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(trusted)
	ctx, cancel := context.WithTimeout(w.Context(), patience)
	defer cancel()
	conn, err := (&tls.Dialer{Config: &tls.Config{RootCAs: pool}}).DialContext(ctx, "tcp", w.address)
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close() }()
	return conn.(*tls.Conn).ConnectionState().PeerCertificates[0], nil
}

// given is the file of the CA that the host was given when it joined, which nobody changes.
func (w *world) givenCA() []byte {
	w.Helper()
	ca, err := os.ReadFile(filepath.Join(w.dir, certs.CAFile))
	if err != nil {
		w.Fatal(err)
	}
	w.bundle = filepath.Join(w.TempDir(), "ca.pem")
	if err := os.WriteFile(w.bundle, ca, 0o600); err != nil {
		w.Fatal(err)
	}
	return ca
}

func (w *world) log() string {
	data, _ := os.ReadFile(filepath.Join(w.state, "agent.log"))
	return string(data)
}

func TestTheCAIsReplacedUnderAConnectedHostWhichTrustsTheNextOneBefore(t *testing.T) {
	w := newWorld(t)
	first := w.givenCA()
	leave := w.joins()
	w.owns(1)
	for range 2 { // each time by the one that was told the time before
		was, err := controlplane.ShowCA(t.Context(), w.dir)
		if err != nil || was.Next != "" || was.EndsSoon {
			t.Fatalf("%+v, %v", was, err)
		}
		is, err := controlplane.RotateCA(t.Context(), w.dir, false)
		if err != nil || is.Signs == was.Signs || is.Next != "" || len(is.Lacking) > 0 {
			t.Fatalf("%+v, %v", is, err)
		}
		if _, err := w.served([]byte(is.Certificate)); err != nil {
			t.Errorf("the next one does not sign: %v", err)
		}
		if _, err := w.served([]byte(was.Certificate)); err == nil {
			t.Error("the one before signs still")
		}
		if file, err := os.ReadFile(filepath.Join(w.dir, certs.CAFile)); err != nil || !bytes.Equal(file, []byte(is.Certificate)) {
			t.Errorf("the file for clients has another one: %v", err)
		}
	}
	if _, err := w.served(first); err == nil {
		t.Error("the first one signs still")
	}
	if n := strings.Count(w.log(), "Connected to the control plane"); n > 2 { // with the join key, and with its own
		t.Errorf("the agent connected %d times", n)
	}
	if err := leave(); err != nil {
		t.Error(err)
	}
	var err error
	if w.web, err = w.trusting(); err != nil {
		t.Fatal(err)
	}
	w.until("the host is not connected", func() bool { return w.instance() == "" })
	w.joins() // with the first CA in its configuration, and the last one saved
	w.until("it is connected again", func() bool { return w.instance() != "" })
	if err := w.plane.Close(); err != nil {
		t.Fatal(err)
	}
	w.start() // with the copies of the last one
	w.until("it is connected after a restart of the control plane", func() bool { return w.instance() != "" })
}

func TestTheCAIsNotReplacedWhileAHostDoesNotTrustTheNextOneButByForce(t *testing.T) {
	w := newWorld(t)
	w.givenCA()
	leave := w.joins()
	w.owns(1)
	instance := w.instance()
	if err := leave(); err != nil {
		t.Error(err)
	}
	w.until("the host is not connected", func() bool { return w.instance() == "" })
	_, err := controlplane.RotateCA(t.Context(), w.dir, false)
	if err == nil || !strings.Contains(err.Error(), instance) || !strings.Contains(err.Error(), "not connected") {
		t.Fatalf("the host is away: %v", err)
	}
	is, err := controlplane.ShowCA(t.Context(), w.dir)
	if err != nil || is.Next == "" || len(is.Lacking) != 1 || len(certs.Fingerprints(w.plane.CA())) != 2 {
		t.Errorf("%+v, %v", is, err)
	}
	if is, err = controlplane.AbandonCA(t.Context(), w.dir); err != nil || is.Next != "" {
		t.Errorf("abandoned it is %+v, %v", is, err)
	}
	if is, err = controlplane.RotateCA(t.Context(), w.dir, true); err != nil || is.Next != "" {
		t.Fatalf("by force: %+v, %v", is, err)
	}
	leave = w.joins()
	w.until("the host does not trust it, and says so", func() bool { return strings.Contains(w.log(), "unknown authority") })
	if err := leave(); err != nil {
		t.Error(err)
	}
	if err := os.WriteFile(w.bundle, []byte(is.Certificate), 0o600); err != nil {
		t.Fatal(err)
	}
	if w.web, err = w.trusting(); err != nil {
		t.Fatal(err)
	}
	w.joins()
	w.until("it is connected with the certificate that it was given", func() bool { return w.instance() == instance })
}

// A certificate that ends is replaced before: who is connected stays so, and who comes later verifies the next one.
func TestACertificateIsReplacedBeforeItEndsUnderAConnectedHost(t *testing.T) {
	w := newWorld(t, func(c *controlplane.Config) { c.CertLife, c.CertInterval = 3*time.Second, 20*time.Millisecond })
	ca := w.givenCA()
	first, err := w.served(ca)
	if err != nil {
		t.Fatal(err)
	}
	leave := w.joins()
	w.owns(1)
	connections := strings.Count(w.log(), "Connected to the control plane")
	w.until("the first certificate has ended, and another one is served", func() bool {
		if w.instance() == "" {
			t.Error("the host lost its connection")
		}
		is, err := w.served(ca)
		if err != nil {
			t.Fatalf("whoever comes does not verify it: %v", err)
		}
		return time.Now().After(first.NotAfter) && is.SerialNumber.Cmp(first.SerialNumber) != 0
	})
	if n := strings.Count(w.log(), "Connected to the control plane"); n != connections {
		t.Errorf("the agent connected %d times more", n-connections)
	}
	if err := leave(); err != nil {
		t.Error(err)
	}
	w.joins()
	w.until("a host that joins later is connected", func() bool { return w.instance() != "" })
}
