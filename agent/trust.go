package agent

import (
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"go.uber.org/zap"

	"github.com/longshore-project/longshore/agent/config"
	"github.com/longshore-project/longshore/internal/durable"
	"github.com/longshore-project/longshore/internal/failpoint"
	"github.com/longshore-project/longshore/protocol/acs"
)

// The control plane's CA may be replaced. Over the connection that stands its agents are told what to trust from then on, the next CA beside the
// one that still signs; they keep that in a file, beside what they are configured with.

// authoritiesName is that file, in the data directory.
const authoritiesName = "control-ca.pem"

// maxAuthorities bounds the file.
const maxAuthorities = 64 << 10

// savedAuthorities is what is in the file; nil for none.
func savedAuthorities(dir string) ([]byte, error) {
	path := filepath.Join(dir, authoritiesName)
	data, err := durable.Read(path, maxAuthorities)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err == nil {
		_, err = acs.Fingerprints(data)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return data, nil
}

// roots are the certificates that are trusted: the system's, those configured, and those saved. nil: the system's alone. A saved file that
// can't be used adds nothing; it is told where the agent starts.
func roots(cfg *config.Config) (*x509.CertPool, error) {
	saved, _ := savedAuthorities(cfg.DataDir)
	if cfg.CABundle == "" && saved == nil {
		return nil, nil
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	if cfg.CABundle != "" {
		pem, err := os.ReadFile(cfg.CABundle)
		if err != nil {
			return nil, fmt.Errorf("read AWS_CA_BUNDLE: %w", err)
		}
		if !pool.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("AWS_CA_BUNDLE names %s, which holds no certificate in PEM form", cfg.CABundle)
		}
	}
	pool.AppendCertsFromPEM(saved)
	return pool, nil
}

// trusts are the fingerprints of what is saved.
func (a *Agent) trusts() []string {
	saved, err := savedAuthorities(a.cfg.DataDir)
	if err != nil {
		a.log.Warn("What the control plane said is to be trusted can't be read; it is asked for again", zap.Error(err))
	}
	all, _ := acs.Fingerprints(saved) // none is no error here
	return all
}

// trust saves what is to be trusted from now on, and returns its fingerprints.
func (a *Agent) trust(certificates []byte) ([]string, error) {
	all, err := acs.Fingerprints(certificates)
	if err != nil {
		return nil, err
	}
	failpoint.Hit("agent/authorities-before")
	err = a.reserve.try(func() error { return durable.Write(filepath.Join(a.cfg.DataDir, authoritiesName), certificates, 0o644) })
	if err != nil {
		return nil, err
	}
	failpoint.Hit("agent/authorities-after")
	pool, err := roots(a.cfg)
	if err != nil {
		return nil, err
	}
	if t, ok := a.client.Transport.(*clocked); ok {
		t.trust(pool)
	}
	a.log.Info("The control plane's certificates that are trusted are others now", zap.Strings("fingerprints", all))
	return all, nil
}
