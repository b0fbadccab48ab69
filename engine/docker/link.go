package docker

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/docker/docker/client"
)

// link is the way to one engine. The client library settles on an API version once, which is wrong for a program that outlives its
// engines: one that is replaced may refuse that version from then on. Each answer of an engine names its newest version (the
// header Api-Version, refusals included), so that an answer which names another one than the client was made for ends its use,
// and the next call asks the engine anew. Until an engine has been asked, calls go out with the newest version that the library knows.
//
// A client's version is settled before anybody else sees it and never changes then: the library reads it without a lock.
type link struct {
	host      string
	unsettled *connected // for asking, and for calls to an engine that could not be asked
	settled   atomic.Pointer[connected]
	settling  chan struct{} // of capacity 1: held by the one who asks
}

// connected is a client with its connections.
type connected struct {
	*client.Client
	wire *watched
}

// idleConnections are kept for the next calls: with fewer, tasks that come together would each open their own.
const idleConnections = 16

func newLink(host string) (*link, error) {
	l := &link{host: host, settling: make(chan struct{}, 1)}
	var err error
	l.unsettled, err = l.dial()
	return l, err
}

// dial makes a client; it does not speak to the engine yet.
func (l *link) dial() (*connected, error) {
	transport := &http.Transport{MaxIdleConns: idleConnections, MaxIdleConnsPerHost: idleConnections, IdleConnTimeout: 30 * time.Second}
	hc := &http.Client{Transport: transport, CheckRedirect: client.CheckRedirect}
	opts := []client.Opt{client.WithHTTPClient(hc), client.WithUserAgent("longshore-agent")}
	if dir := os.Getenv(client.EnvOverrideCertPath); dir != "" {
		opts = append(opts, client.WithTLSClientConfig(filepath.Join(dir, "ca.pem"), filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")))
	}
	opts = append(opts, client.WithHost(client.DefaultDockerHost), client.WithHostFromEnv(), client.WithVersionFromEnv())
	if l.host != "" {
		opts = append(opts, client.WithHost(l.host))
	}
	api, err := client.NewClientWithOpts(opts...)
	if err != nil {
		return nil, fmt.Errorf("docker engine %s: %w", l.host, err)
	}
	if transport.TLSClientConfig != nil && os.Getenv(client.EnvTLSVerify) == "" {
		transport.TLSClientConfig.InsecureSkipVerify = true // as the engine's own tools understand it
	}
	c := &connected{api, &watched{Transport: transport}}
	hc.Transport = c.wire // in place of the library's tracing, which nobody reads
	return c, nil
}

// api returns the client for the engine as it is now. It asks the engine for its version where that is not known; while
// the engine can't be asked, the caller's own call says why.
func (l *link) api(ctx context.Context) *client.Client {
	if c := l.settled.Load(); c != nil {
		return c.Client
	}
	select {
	case l.settling <- struct{}{}:
		defer func() { <-l.settling }()
	case <-ctx.Done():
		return l.unsettled.Client
	}
	if c := l.settled.Load(); c != nil {
		return c.Client
	}
	ping, err := l.unsettled.Ping(ctx)
	if err != nil {
		return l.unsettled.Client
	}
	c, err := l.dial()
	if err != nil {
		return l.unsettled.Client
	}
	c.NegotiateAPIVersionPing(ping)
	c.wire.version = ping.APIVersion
	c.wire.changed = func() {
		if l.settled.CompareAndSwap(c, nil) {
			c.wire.CloseIdleConnections()
		}
	}
	l.settled.Store(c)
	return c.Client
}

// version is the API version that calls are made with.
func (l *link) version() string {
	if c := l.settled.Load(); c != nil {
		return c.ClientVersion()
	}
	return l.unsettled.ClientVersion()
}

// remote reports whether the engine's files may be another host's.
func (l *link) remote() bool { return !strings.HasPrefix(l.unsettled.DaemonHost(), "unix://") }

func (l *link) close() {
	l.unsettled.wire.CloseIdleConnections()
	if c := l.settled.Swap(nil); c != nil {
		c.wire.CloseIdleConnections()
	}
}

// watched is a transport that tells when an engine with another newest API version answers.
type watched struct {
	*http.Transport
	version string
	changed func() // nil: not asked for
}

// RoundTrip makes one request.
func (w *watched) RoundTrip(r *http.Request) (*http.Response, error) {
	res, err := w.Transport.RoundTrip(r)
	if err == nil && w.changed != nil {
		if now := res.Header.Get("Api-Version"); now != "" && now != w.version {
			w.changed()
		}
	}
	return res, err
}
