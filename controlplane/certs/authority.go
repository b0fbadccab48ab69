// Package certs has the certificates with which the control plane speaks TLS.
//
// # The own CA
//
// An [Authority] is a CA that the control plane makes for itself: P-256, valid for ten years, and good for nothing but
// servers' certificates (path length 0). All replicas share it: it is in the store, its private key sealed (package seal).
// Below the data directory are copies:
//
//	tls/ca.pem    the CA's certificate, which hosts and clients are given
//	tls/ca.key    its private key, sealed as it is in the store: a store that is new adopts both, so that what hosts trust
//	              outlives the store
//
// # What is served
//
// A [Source] has the certificate of the moment. One of the own CA ([Own]) is made by each process for itself, in memory, with
// the names and addresses under which it is reached, and replaced long before it ends and when the names change. One from
// files ([Files]) is read again when they change; what can't be used is told, and the one before stays.
package certs

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/longshore-project/longshore/controlplane/seal"
	"github.com/longshore-project/longshore/controlplane/store"
	"github.com/longshore-project/longshore/internal/durable"
)

// The files below the data directory.
const (
	CAFile    = "tls/ca.pem"
	CAKeyFile = "tls/ca.key"
)

// SecretName is the record's in the store.
const SecretName = "ca"

const (
	sealedKeyBlock = "LONGSHORE SEALED PRIVATE KEY"

	authorityLife = 10 * 365 * 24 * time.Hour
	serverLife    = 90 * 24 * time.Hour
	// backdate is for clients whose clock is behind.
	backdate = time.Hour
	maxFile  = 1 << 20
)

// Authority is the control plane's own CA. It is safe for concurrent use.
type Authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

// PEM is the CA's certificate, as hosts and clients are given it.
func (a *Authority) PEM() []byte { return encodePEM("CERTIFICATE", a.certificate.Raw) }

// Certificate is the CA's certificate.
func (a *Authority) Certificate() *x509.Certificate { return a.certificate }

// Fingerprint is the SHA-256 of the certificate in DER form.
func (a *Authority) Fingerprint() [sha256.Size]byte { return sha256.Sum256(a.certificate.Raw) }

// EnsureAuthority returns the CA that the replicas of a store share, and sees to its copies in dir. It makes one where there
// is none: not in the store, and not in dir. A CA in dir that is not the store's is an error, and nothing is changed.
func EnsureAuthority(ctx context.Context, st *store.Store, sealed *seal.Key, dir string, now time.Time) (*Authority, error) {
	filed, err := readCopies(dir)
	if err != nil {
		return nil, err
	}
	var kept, before *store.Secret
	err = store.Retry(ctx, func() error {
		if err := st.Read(ctx, func(v *store.View) error { kept, before = v.Secret(SecretName), v.Secret(beforeName); return nil }); err != nil || kept != nil {
			return err
		}
		made := filed
		if made == nil {
			if made, err = newSecret(sealed, SecretName, now); err != nil {
				return err
			}
		}
		if err := st.Txn().Create(made).Commit(ctx); err != nil {
			return err
		}
		kept = made
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("the control plane's own CA: %w", err)
	}
	a, err := open(kept, sealed)
	if err != nil {
		return nil, err
	}
	switch {
	case filed == nil || wasOnce(before, filed.Public): // this replica was away while the CA was replaced
		err = writeCopies(dir, kept)
	case string(filed.Public) != string(kept.Public):
		err = fmt.Errorf("%s is another CA than the one in the store: it is another control plane's; move %s and %s away to have the store's written there",
			filepath.Join(dir, CAFile), CAFile, CAKeyFile)
	}
	if err != nil {
		return nil, err
	}
	return a, nil
}

// newSecret makes a CA, to be stored under a name.
func newSecret(sealed *seal.Key, name string, now time.Time) (*store.Secret, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	serial := newSerial()
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{Organization: []string{"Longshore"}, CommonName: fmt.Sprintf("Longshore CA %X", serial.Bytes()[:4])},
		NotBefore: now.Add(-backdate), NotAfter: now.Add(authorityLife),
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, BasicConstraintsValid: true, IsCA: true, MaxPathLenZero: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return &store.Secret{Name: name, Public: encodePEM("CERTIFICATE", der), Sealed: sealed.Seal(sealNameOf(name), secret)}, nil
}

func newSerial() *big.Int {
	raw := make([]byte, 16)
	rand.Read(raw)
	raw[0] = raw[0]&0x7f | 0x40 // positive, and always as long
	return new(big.Int).SetBytes(raw)
}

func open(kept *store.Secret, sealed *seal.Key) (*Authority, error) {
	block, _ := pem.Decode(kept.Public)
	if block == nil {
		return nil, errors.New("the control plane's own CA in the store is no certificate in PEM")
	}
	certificate, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("the control plane's own CA in the store: %w", err)
	}
	secret, err := sealed.Open(sealNameOf(SecretName), kept.Sealed)
	if err != nil {
		return nil, fmt.Errorf("the private key of the control plane's own CA: %w", err)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(secret)
	key, ok := parsed.(*ecdsa.PrivateKey)
	if err != nil || !ok || !key.PublicKey.Equal(certificate.PublicKey) {
		return nil, errors.New("the private key of the control plane's own CA is not its certificate's")
	}
	return &Authority{certificate, key}, nil
}

// readCopies is what the files in dir have, nil where there are none.
func readCopies(dir string) (*store.Secret, error) {
	certificate, err := durable.Read(filepath.Join(dir, CAFile), maxFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	key, err := durable.Read(filepath.Join(dir, CAKeyFile), maxFile)
	if err != nil {
		return nil, fmt.Errorf("%s is there, and its key is not to be had: %w; restore it, or move %s away to have both written again", CAFile, err, CAFile)
	}
	block, _ := pem.Decode(key)
	if block == nil || block.Type != sealedKeyBlock {
		return nil, fmt.Errorf("%s has no block %q in PEM; restore it, or move it and %s away to have both written again", filepath.Join(dir, CAKeyFile), sealedKeyBlock, CAFile)
	}
	return &store.Secret{Name: SecretName, Public: certificate, Sealed: block.Bytes}, nil
}

// WriteCopies has the copies in dir be what the store has.
func WriteCopies(ctx context.Context, st *store.Store, dir string) error {
	var kept *store.Secret
	if err := st.Read(ctx, func(v *store.View) error { kept = v.Secret(SecretName); return nil }); err != nil || kept == nil {
		return err
	}
	return writeCopies(dir, kept)
}

// writeCopies writes the key first: the certificate says that both are there.
func writeCopies(dir string, kept *store.Secret) error {
	if err := os.MkdirAll(filepath.Join(dir, filepath.Dir(CAFile)), 0o700); err != nil {
		return fmt.Errorf("the copies of the control plane's own CA: %w", err)
	}
	for _, f := range []struct {
		name string
		data []byte
		mode fs.FileMode
	}{
		{CAKeyFile, encodePEM(sealedKeyBlock, kept.Sealed), 0o600},
		{CAFile, kept.Public, 0o644},
	} {
		if err := durable.Write(filepath.Join(dir, f.name), f.data, f.mode); err != nil {
			return fmt.Errorf("the copies of the control plane's own CA: %w", err)
		}
	}
	return nil
}

// issue makes a server's certificate for names and addresses.
func (a *Authority) issue(names []string, life time.Duration, now time.Time) (*tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: newSerial(), Subject: pkix.Name{Organization: []string{"Longshore"}, CommonName: "longshore-control"},
		NotBefore: now.Add(-backdate), NotAfter: earlier(now.Add(life), a.certificate.NotAfter),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, BasicConstraintsValid: true,
	}
	for _, name := range names {
		if ip := net.ParseIP(name); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, name)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.certificate, key.Public(), a.key)
	if err != nil {
		return nil, fmt.Errorf("make the server's certificate: %w", err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return &tls.Certificate{Certificate: [][]byte{der, a.certificate.Raw}, PrivateKey: key, Leaf: leaf}, nil
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

func encodePEM(kind string, data []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: data})
}
