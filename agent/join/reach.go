package join

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"golang.org/x/net/http/httpproxy"

	"github.com/longshore-project/longshore/protocol/agentapi"
	"github.com/longshore-project/longshore/protocol/join"
)

// stepTimeout bounds each look.
const stepTimeout = 10 * time.Second

// maxCA bounds the answer with the CA.
const maxCA = 64 << 10

// skewWorthAWord is when a clock is told of. What the agent signs is dated by the control plane's clock.
const skewWorthAWord = 30 * time.Second

const newToken = "Make a token on the control plane, \"longshore-control token create\", and run the line that it prints."

// address judges the URL.
func (j *Joining) address(context.Context) (string, error) {
	u, err := url.Parse(j.URL)
	if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" || u.User != nil || u.RawQuery != "" || strings.Trim(u.Path, "/") != "" {
		return "", fails("Give the control plane's URL as its --advertise-url says it: https://longshore.example.com or https://10.0.0.5:8480.", "%q is not like https://host:port", j.URL)
	}
	if u.Scheme == "http" && (j.Token.Pinned() || len(j.CA) > 0) {
		return "", fails("Write https:// in the URL.", "the token is for a control plane with TLS, and %s is without", j.URL)
	}
	u.Path = ""
	j.reach.url = u
	proxy := httpproxy.FromEnvironment()
	if j.Proxy != "" {
		if p, err := url.Parse(j.Proxy); err != nil || p.Host == "" || p.Scheme != "http" && p.Scheme != "https" {
			return "", fails("Give it like http://proxy.example.com:3128.", "--https-proxy %q is no URL of a proxy", j.Proxy)
		}
		proxy.HTTPSProxy = j.Proxy
	}
	through := proxy.ProxyFunc()
	j.reach.proxy = func(r *http.Request) (*url.URL, error) { return through(r.URL) }
	return "", nil
}

// next is the first machine on the way: the control plane, or the proxy before it.
func (j *Joining) next() (u *url.URL, by string, err error) {
	proxy, err := j.reach.proxy(&http.Request{URL: j.reach.url})
	switch {
	case err != nil:
		return nil, "", fails("Correct HTTPS_PROXY in the environment, or give --https-proxy.", "the proxy: %w", err)
	case proxy != nil:
		return proxy, "the proxy ", nil
	}
	return j.reach.url, "", nil
}

// name resolves the name of the first machine on the way.
func (j *Joining) name(ctx context.Context) (string, error) {
	u, by, err := j.next()
	if err != nil {
		return "", err
	}
	if net.ParseIP(u.Hostname()) != nil {
		return "", nil
	}
	ctx, cancel := context.WithTimeout(ctx, stepTimeout)
	defer cancel()
	found, err := net.DefaultResolver.LookupHost(ctx, u.Hostname())
	if err != nil {
		return "", fails(fmt.Sprintf("Is the name right? Check /etc/resolv.conf and: getent hosts %s. An address does as well, if the control plane's --advertise-url has it.", u.Hostname()),
			"%s%s has no address: %w", by, u.Hostname(), err)
	}
	return fmt.Sprintf("%s%s is %s", by, u.Hostname(), strings.Join(found, ", ")), nil
}

// port opens a connection to it.
func (j *Joining) port(ctx context.Context) (string, error) {
	u, by, err := j.next()
	if err != nil {
		return "", err
	}
	address := net.JoinHostPort(u.Hostname(), portOf(u))
	ctx, cancel := context.WithTimeout(ctx, stepTimeout)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
	if err != nil {
		return "", fails(fmt.Sprintf("Does it run there, and listen beyond loopback (--listen)? Do routes and firewalls let this host reach TCP port %s? It is the only one that is needed. nc -vz %s %s",
			portOf(u), u.Hostname(), portOf(u)), "%s%s can't be reached: %w", by, address, err)
	}
	_ = conn.Close()
	return by + address + " takes connections", nil
}

func portOf(u *url.URL) string {
	if p := u.Port(); p != "" {
		return p
	}
	if u.Scheme == "https" {
		return "443"
	}
	return "80"
}

// certificate finds out whom to trust, and sees that it is who answers. Without a pin those count whom the system trusts.
func (j *Joining) certificate(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, stepTimeout)
	defer cancel()
	if j.reach.url.Scheme == "http" {
		return "none: everything, secrets of tasks included, travels in clear", j.ask(ctx)
	}
	j.reach.trust = &tls.Config{MinVersion: tls.VersionTLS12}
	switch {
	case len(j.CA) > 0:
		j.reach.ca = j.CA
	case j.Token.Pinned():
		if err := j.pinned(ctx); err != nil {
			return "", err
		}
	}
	if j.reach.ca != nil {
		j.reach.trust.RootCAs = x509.NewCertPool()
		if !j.reach.trust.RootCAs.AppendCertsFromPEM(j.reach.ca) {
			return "", fails("Give a file with the certificate of who signed the reverse proxy's.", "--ca has no certificate in PEM form")
		}
	}
	if err := j.ask(ctx); err != nil {
		return "", err
	}
	if j.Token.Pinned() && len(j.CA) == 0 {
		return "is signed by the CA that the token pins", nil
	}
	return "is trusted", nil
}

// pinned fetches the control plane's CA from whoever answers, and keeps it if it is the one that the token pins.
func (j *Joining) pinned(ctx context.Context) error {
	status, body, err := j.get(ctx, join.CAPath, &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: true}) //nolint:gosec // what comes is held against the pin
	if err != nil {
		return j.unreadable(err)
	}
	block, _ := pem.Decode(body)
	if status != http.StatusOK || block == nil || block.Type != "CERTIFICATE" {
		return fails("Is the URL that of the control plane that made the token? Behind a reverse proxy with a certificate of its own give --ca FILE, the CA of that.",
			"%s answers %d %s, and no CA of a control plane", j.URL, status, http.StatusText(status))
	}
	if join.Pin(block.Bytes) != j.Token.Pin {
		return fails("It is another control plane, one that was set up anew, or somebody in between. "+newToken, "what answers at %s has not the CA that the token pins", j.URL)
	}
	j.reach.ca = pem.EncodeToMemory(block)
	return nil
}

// ask asks who is there, over a connection that is verified.
func (j *Joining) ask(ctx context.Context) error {
	trust := j.reach.trust
	if trust != nil {
		trust = trust.Clone()
		trust.Time = func() time.Time { return j.Now().Add(-j.reach.offset) } // a clock that is off is no reason to distrust
	}
	if _, _, err := j.get(ctx, "/", trust); err != nil {
		return j.unreadable(err)
	}
	return nil
}

// unreadable says why there is no answer, which is mostly a matter of the certificate.
func (j *Joining) unreadable(err error) error {
	var name x509.HostnameError
	var authority x509.UnknownAuthorityError
	var invalid x509.CertificateInvalidError
	var record tls.RecordHeaderError
	host := j.reach.url.Hostname()
	switch {
	case errors.As(err, &name):
		return fails(fmt.Sprintf("Use one of its names in the URL, or start the control plane with --advertise-url %s, which puts the name into its certificate.", j.URL),
			"the certificate is not for %s: %w", host, err)
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return fails("Is this host's clock right? It says "+j.Now().UTC().Format(time.RFC3339)+". If it is, renew the control plane's certificate.", "the certificate is not valid now: %w", err)
	case errors.As(err, &authority) && j.reach.ca != nil:
		return fails("Is there a reverse proxy in between? Give its CA with --ca FILE. Else restart the control plane: its certificate is not of its own CA.", "the certificate is signed by nobody that the token or --ca names: %w", err)
	case errors.As(err, &authority):
		return fails("Is the token whole, and from this control plane? One of a control plane with a CA of its own has that in it. Else give the CA with --ca FILE.", "nobody whom this host trusts has signed the certificate: %w", err)
	case errors.As(err, &record), strings.Contains(err.Error(), "server gave HTTP response to HTTPS client"):
		return fails("Is it the right port, and does the control plane run with TLS? Off loopback it does unless --insecure-http was given.", "%s does not speak TLS: %w", j.reach.url.Host, err)
	case strings.Contains(err.Error(), "proxyconnect"), strings.Contains(err.Error(), "Proxy Authentication Required"), strings.Contains(err.Error(), "Forbidden"):
		return fails("Have the proxy allow CONNECT to "+net.JoinHostPort(host, portOf(j.reach.url))+", with the credentials in its URL if it wants some; or name the host in NO_PROXY.", "the proxy does not let this host through: %w", err)
	}
	return fails("Is it the control plane that answers there? Its log says what it made of this.", "no answer from %s: %w", j.URL, err)
}

// get fetches a path of the control plane, unsigned, and takes the time from the answer.
func (j *Joining) get(ctx context.Context, path string, trust *tls.Config) (status int, body []byte, err error) {
	transport := &http.Transport{TLSClientConfig: trust, Proxy: j.reach.proxy}
	defer transport.CloseIdleConnections()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, j.reach.url.String()+path, nil)
	if err != nil {
		return 0, nil, err
	}
	client := &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	answer, err := client.Do(r)
	if err != nil {
		return 0, nil, err
	}
	defer func() { _ = answer.Body.Close() }()
	// Its Date has whole seconds: half of one is added.
	if theirs, err := http.ParseTime(answer.Header.Get("Date")); err == nil {
		j.reach.offset = j.Now().Sub(theirs.Add(500 * time.Millisecond))
	}
	body, err = io.ReadAll(io.LimitReader(answer.Body, maxCA))
	return answer.StatusCode, body, err
}

// clock says how far this host's is off. That keeps nobody from joining.
func (j *Joining) clock(context.Context) (string, error) {
	by := "ahead of"
	if j.reach.offset < 0 {
		by = "behind"
	}
	if off := j.reach.offset.Abs(); off >= skewWorthAWord {
		return fmt.Sprintf("this host's is %s %s the control plane's; the agent signs by the control plane's, and your logs will be off: set it, and keep it right with chrony or systemd-timesyncd",
			off.Round(time.Second), by), nil
	}
	return "agrees with the control plane's", nil
}

// key asks the control plane about the token's key and the cluster.
func (j *Joining) key(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, stepTimeout)
	defer cancel()
	out, err := j.signed(ctx)
	var refused *agentapi.APIError
	if err != nil && !errors.As(err, &refused) {
		return "", fails("Is it the control plane that answers there? Its log says what it made of this.", "%w", err)
	}
	if err != nil {
		return "", j.refused(refused)
	}
	j.reach.region, j.reach.usedUp = value(out.Region), out.Uses != nil && *out.Uses == 0
	says := "is good, and so is the cluster " + j.Cluster
	if out.Expires != nil {
		says += "; the token expires at " + *out.Expires
	}
	return says, nil
}

// refused is the control plane's refusal, with what to do.
func (j *Joining) refused(err *agentapi.APIError) error {
	switch {
	case err.Code == "ClusterNotFoundException":
		return &Failure{Step: "cluster", Err: fmt.Errorf("there is no cluster %q", j.Cluster),
			Remedy: fmt.Sprintf("Make it, \"aws ecs create-cluster --cluster-name %s\", or name another one with --cluster.", j.Cluster)}
	case err.Code == "UnrecognizedClientException", err.Code == "ExpiredTokenException":
		return fails("It was revoked, has expired, was used as often as it may, or is another control plane's. "+newToken, "the control plane does not take the token's key %s: %s", j.Token.AccessKeyID, err.Message)
	case strings.Contains(err.Code, "Signature"):
		return fails("Is there a proxy that changes requests? "+newToken, "the control plane refuses what the token's key signs: %s: %s", err.Code, err.Message)
	case err.Code == "AccessDeniedException":
		return fails(newToken, "the token's key may not do this: %s", err.Message)
	case err.Retryable():
		return fails("Wait a little and run the same command again; the control plane's log says what keeps it.", "the control plane can't answer now: %s: %s", err.Code, err.Message)
	}
	return fails("Is it a control plane of Longshore, and not older than this agent?", "the control plane answers %s: %s", err.Code, err.Message)
}

// signed asks about no instance, with the token's key, dated by the control plane's clock.
func (j *Joining) signed(ctx context.Context) (*join.HostOutput, error) {
	transport := &http.Transport{TLSClientConfig: j.reach.trust, Proxy: j.reach.proxy}
	if j.reach.trust != nil {
		transport.TLSClientConfig = j.reach.trust.Clone()
		transport.TLSClientConfig.Time = func() time.Time { return j.Now().Add(-j.reach.offset) }
	}
	defer transport.CloseIdleConnections()
	credentials := aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
		return aws.Credentials{AccessKeyID: j.Token.AccessKeyID, SecretAccessKey: j.Token.SecretAccessKey}, nil
	})
	api, err := agentapi.New(agentapi.Config{Endpoint: j.reach.url.String(), Region: "us-west-2", Service: "ecs", Target: agentapi.OwnTarget, // any region does here
		Credentials: credentials, HTTPClient: &http.Client{Transport: transport}, MaxAttempts: 1,
		Now: func() time.Time { return j.Now().Add(-j.reach.offset) }})
	if err != nil {
		return nil, err
	}
	var out join.HostOutput
	return &out, api.Call(ctx, join.HostOperation, &join.HostInput{Cluster: &j.Cluster}, &out)
}
