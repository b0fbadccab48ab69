package agent

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/longshore-project/longshore/internal/remedy"
	"github.com/longshore-project/longshore/protocol/agentapi"
)

// newClock is the time by which this host signs: its own, corrected by what the control plane says when it refuses a request for
// its date, or when its certificate is not valid at the host's time. It is told once each time the difference changes.
func (a *Agent) newClock() *agentapi.Clock {
	return &agentapi.Clock{Now: a.opt.Clock, Learned: func(offset time.Duration) {
		if offset == 0 {
			a.log.Info("This host's clock agrees with the control plane's again")
			return
		}
		ahead := "ahead of"
		if offset > 0 {
			ahead = "behind"
		}
		a.log.Error("This host's clock is "+offset.Abs().String()+" "+ahead+" the control plane's; requests are signed by the control plane's. Set the clock: timedatectl tells whether it is kept by NTP",
			zap.String("step", "clock"), zap.String("remedy", remedy.Of("this host's clock is").Do), zap.Duration("offset", offset), zap.Time("host", a.clock.Host().UTC()), zap.Time("controlPlane", a.clock.Time().UTC()))
	}}
}

// clocked is a transport that judges certificates by the corrected time. When one is not valid at that, the other end is asked
// what time it is; the answer counts when the certificate is good at some time.
type clocked struct {
	current atomic.Pointer[http.Transport]
	clock   *agentapi.Clock
}

// CloseIdleConnections closes connections that nobody uses.
func (t *clocked) CloseIdleConnections() { t.current.Load().CloseIdleConnections() }

// trust has new connections verified against other roots. Those that stand stay.
func (t *clocked) trust(roots *x509.CertPool) {
	old := t.current.Load()
	next := old.Clone()
	next.TLSClientConfig.RootCAs = roots
	t.current.Store(next)
	old.CloseIdleConnections()
}

// RoundTrip makes a request, once more when the time was learned that makes the certificate valid.
func (t *clocked) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := t.current.Load().RoundTrip(r)
	invalid, dated := notValidNow(err)
	if !dated {
		return resp, err
	}
	if t.learn(r) {
		again := r
		if r.GetBody != nil {
			body, bodyErr := r.GetBody()
			if bodyErr != nil {
				return resp, err
			}
			again = r.Clone(r.Context())
			again.Body = body
		}
		if resp, err = t.current.Load().RoundTrip(again); err == nil {
			return resp, nil
		}
	}
	return nil, fmt.Errorf("the control plane's certificate is valid from %s to %s, and by this host's clock it is %s: set the clock (timedatectl), or renew the certificate: %w",
		invalid.Cert.NotBefore.UTC().Format(time.RFC3339), invalid.Cert.NotAfter.UTC().Format(time.RFC3339), t.clock.Time().UTC().Format(time.RFC3339), err)
}

// notValidNow tells whether an error is that of a certificate whose time has not come or is over.
func notValidNow(err error) (invalid x509.CertificateInvalidError, dated bool) {
	return invalid, errors.As(err, &invalid) && invalid.Reason == x509.Expired && invalid.Cert != nil
}

// learn asks the other end for its time, over a connection whose certificate is verified as it was when it was made, and tells
// whether that is news.
func (t *clocked) learn(r *http.Request) bool {
	now := t.current.Load()
	trust := now.TLSClientConfig.Clone()
	trust.InsecureSkipVerify = true // what is verified is in VerifyConnection: all but the time
	trust.VerifyConnection = func(s tls.ConnectionState) error {
		leaf := s.PeerCertificates[0]
		options := x509.VerifyOptions{Roots: trust.RootCAs, DNSName: s.ServerName, Intermediates: x509.NewCertPool(), CurrentTime: leaf.NotBefore.Add(time.Minute)}
		for _, c := range s.PeerCertificates[1:] {
			options.Intermediates.AddCert(c)
		}
		_, err := leaf.Verify(options)
		return err
	}
	transport := now.Clone()
	transport.TLSClientConfig, transport.DisableKeepAlives = trust, true
	ctx, cancel := context.WithTimeout(r.Context(), 10*time.Second)
	defer cancel()
	probe, err := http.NewRequestWithContext(ctx, http.MethodHead, "https://"+r.URL.Host+"/", nil)
	if err != nil {
		return false
	}
	answer, err := transport.RoundTrip(probe)
	if err != nil {
		return false
	}
	_, _ = io.Copy(io.Discard, io.LimitReader(answer.Body, 1<<10))
	_ = answer.Body.Close()
	return t.clock.Learn(answer.Header)
}
