package certs

import (
	"crypto/x509"
	"time"
)

// Pair is a chain and its key, PEM.
func Pair(a *Authority, name string, now time.Time) (chain, key []byte, err error) {
	c, err := a.issue([]string{name}, serverLife, now)
	if err != nil {
		return nil, nil, err
	}
	for _, der := range c.Certificate {
		chain = append(chain, encodePEM("CERTIFICATE", der)...)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	return chain, encodePEM("PRIVATE KEY", secret), err
}
