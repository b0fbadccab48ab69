//go:build packages

package packages_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// certificate makes files with a certificate for 127.0.0.1 and with its key.
func certificate(t *testing.T) (certFile, keyFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), IsCA: true, BasicConstraintsValid: true,
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	certFile, keyFile = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	if err := errors.Join(os.WriteFile(certFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert}), 0o600),
		os.WriteFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), 0o600)); err != nil {
		t.Fatal(err)
	}
	return certFile, keyFile
}

// TestSystemdHandsCredentialsToBothPrograms has what must not lie in the configuration be in systemd's store of credentials: the seal key and the
// certificate of the control plane, which runs as a user of its own, and the keys of the agent.
func TestSystemdHandsCredentialsToBothPrograms(t *testing.T) {
	dir := build(t, "0.1.0")
	m := newMachine(t)
	debs, err := filepath.Glob(filepath.Join(dir, "*.deb"))
	if err != nil || len(debs) != 2 {
		t.Fatal(debs, err)
	}
	for _, d := range debs {
		m.put(d, "/root/")
	}
	cert, key := certificate(t)
	m.sh("dpkg -i /root/longshore-*.deb; mkdir -p /etc/ecs; install -d -m 700 /etc/credstore; head -c 32 /dev/urandom | base64 >/etc/credstore/longshore-control.seal-key")
	m.put(cert, "/etc/credstore/longshore-control.tls-cert")
	m.put(key, "/etc/credstore/longshore-control.tls-key")
	m.put(cert, "/etc/ecs/cert.pem")
	m.sh("chown root: /etc/credstore/* /etc/ecs/cert.pem; chmod 600 /etc/credstore/*; chmod 644 /etc/ecs/cert.pem")

	m.sh("mount --make-rshared /") // as systemd makes it where it is not in a container: it mounts credentials in a namespace of its own
	t.Log("the control plane seals with the key of its credentials, and speaks with their certificate")
	m.sh("systemctl start longshore-control")
	m.sh("test -s /var/lib/longshore/host.env; test ! -e /var/lib/longshore/seal.key")
	m.api = "--cacert /etc/ecs/cert.pem https://127.0.0.1:8480/"
	m.ecs("CreateCluster", `{"clusterName":"sealed"}`)
	t.Logf("it has them as %s", m.sh("ls -ln /run/credentials/longshore-control.service"))

	t.Log("with another seal key it does not start, and says so")
	m.sh("systemctl stop longshore-control; mv /etc/credstore/longshore-control.seal-key /root/; head -c 32 /dev/urandom | base64 >/etc/credstore/longshore-control.seal-key; ! systemctl start longshore-control")
	m.sh("journalctl --no-pager -u longshore-control | grep '/run/credentials/longshore-control.service/longshore-control.seal-key is not the seal key of the store'")
	m.sh("mv /root/longshore-control.seal-key /etc/credstore/; systemctl reset-failed longshore-control; systemctl start longshore-control")

	t.Log("the agent has its keys from its credential, and nowhere else")
	m.sh(`. /var/lib/longshore/host.env
printf 'AWS_ACCESS_KEY_ID=%s\nAWS_SECRET_ACCESS_KEY=%s\n' "$AWS_ACCESS_KEY_ID" "$AWS_SECRET_ACCESS_KEY" >/etc/credstore/longshore-agent.config
chmod 600 /etc/credstore/longshore-agent.config
cat >/etc/ecs/ecs.config <<EOF
ECS_CLUSTER=sealed
ECS_BACKEND_HOST=https://127.0.0.1:8480
AWS_DEFAULT_REGION=us-west-2
AWS_CA_BUNDLE=/etc/ecs/cert.pem
EOF
mkdir -p /run/systemd/system/longshore-agent.service.d
printf '[Service]\nExecStartPost=/bin/sh -c "/usr/bin/longshore-agent config >/run/config.txt"\n' >/run/systemd/system/longshore-agent.service.d/test.conf
systemctl daemon-reload; systemctl start longshore-agent`)
	m.until("the agent to be connected", func() error {
		if s := m.property("longshore-agent", "StatusText"); !strings.HasPrefix(s, "Connected as arn:aws:ecs:") {
			return errors.New(s)
		}
		return nil
	})
	shown := m.sh("cat /run/config.txt")
	for i, name := range []string{"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"} {
		from := "/run/credentials/longshore-agent.service/longshore-agent.config line " + string(rune('1'+i))
		found := false
		for line := range strings.Lines(shown) {
			found = found || strings.HasPrefix(line, name+" ") && strings.Contains(line, from)
		}
		if !found {
			t.Errorf("%s is not shown as of %s:\n%s", name, from, shown)
		}
	}
	m.sh(`. /var/lib/longshore/host.env; ! grep -rqF "$AWS_SECRET_ACCESS_KEY" /etc/ecs /var/log/ecs /run/config.txt /proc/$(systemctl show -P MainPID longshore-agent)/environ`)
}
