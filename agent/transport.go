package agent

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"time"

	"golang.org/x/net/http/httpproxy"

	"github.com/longshore-project/longshore/agent/config"
	"github.com/longshore-project/longshore/protocol/agentapi"
)

// httpClient is how the agent reaches the control plane: through the configured proxy, trusting the configured
// certificates in addition to the system's. insecure accepts any certificate.
func httpClient(cfg *config.Config, insecure bool) (*http.Client, error) {
	return clientBy(&agentapi.Clock{}, cfg, insecure)
}

// clientBy is httpClient with a clock by which certificates are judged, and which learns by them.
func clientBy(clock *agentapi.Clock, cfg *config.Config, insecure bool) (*http.Client, error) {
	trust := &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: insecure} //nolint:gosec // only with the flag that says so
	if cfg.CABundle != "" {
		pem, err := os.ReadFile(cfg.CABundle)
		if err != nil {
			return nil, fmt.Errorf("read AWS_CA_BUNDLE: %w", err)
		}
		pool, err := x509.SystemCertPool()
		if err != nil {
			pool = x509.NewCertPool()
		}
		if !pool.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("AWS_CA_BUNDLE names %s, which holds no certificate in PEM form", cfg.CABundle)
		}
		trust.RootCAs = pool
	}
	proxy := (&httpproxy.Config{HTTPProxy: cfg.Proxy.HTTP, HTTPSProxy: cfg.Proxy.HTTPS, NoProxy: cfg.Proxy.None}).ProxyFunc()
	dialer := &net.Dialer{Timeout: 30 * time.Second, KeepAlive: 15 * time.Second}
	trust.Time = clock.Time
	return &http.Client{Transport: &clocked{clock: clock, Transport: &http.Transport{
		Proxy:               func(r *http.Request) (*url.URL, error) { return proxy(r.URL) },
		DialContext:         dialer.DialContext,
		TLSClientConfig:     trust,
		TLSHandshakeTimeout: 10 * time.Second,
		MaxIdleConnsPerHost: 4,
		IdleConnTimeout:     90 * time.Second,
	}}}, nil
}
