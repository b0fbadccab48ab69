package agent

import (
	"crypto/tls"
	"net"
	"net/http"
	"net/url"
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
	var err error
	if trust.RootCAs, err = roots(cfg); err != nil {
		return nil, err
	}
	proxy := (&httpproxy.Config{HTTPProxy: cfg.Proxy.HTTP, HTTPSProxy: cfg.Proxy.HTTPS, NoProxy: cfg.Proxy.None}).ProxyFunc()
	dialer := &net.Dialer{Timeout: 30 * time.Second, KeepAlive: 15 * time.Second}
	trust.Time = clock.Time
	made := &clocked{clock: clock}
	made.current.Store(&http.Transport{
		Proxy:               func(r *http.Request) (*url.URL, error) { return proxy(r.URL) },
		DialContext:         dialer.DialContext,
		TLSClientConfig:     trust,
		TLSHandshakeTimeout: 10 * time.Second,
		MaxIdleConnsPerHost: 4,
		IdleConnTimeout:     90 * time.Second,
	})
	return &http.Client{Transport: made}, nil
}
