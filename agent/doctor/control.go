package doctor

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/longshore-project/longshore/protocol/agentapi"
)

// stepTimeout bounds each step to the control plane.
const stepTimeout = 10 * time.Second

// Clocks may differ by 5 minutes before a signature counts as expired.
const (
	skewWarn = 30 * time.Second
	skewFail = 4 * time.Minute
)

// expiresSoon is when a certificate's end is worth a word.
const expiresSoon = 14 * 24 * time.Hour

// authorityEndsSoon is the same of a CA's, which takes longer to replace.
const authorityEndsSoon = 365 * 24 * time.Hour

// control goes the way to the control plane as the agent does, and stops at the step that fails.
func (e *examination) control(ctx context.Context) {
	if e.Astray != nil {
		e.add(Fail, "control plane", "Correct it in "+e.File+" or the environment: ECS_BACKEND_HOST is the control plane's URL, AWS_CA_BUNDLE the CA of its certificate.", "there is no way to it: %v", e.Astray)
		return
	}
	u, err := url.Parse(e.Endpoint)
	if err != nil || u.Host == "" {
		e.add(Fail, "control plane", "Set ECS_BACKEND_HOST in "+e.File+" to the control plane's URL.", "%q is no URL", e.Endpoint)
		return
	}
	target, by := u, ""
	if proxy, err := e.Proxy(&http.Request{URL: u}); err == nil && proxy != nil {
		target, by = proxy, "the proxy "
	}
	address := net.JoinHostPort(target.Hostname(), portOf(target))
	if !e.name(ctx, target.Hostname()) || !e.tcp(ctx, by, address) {
		return
	}
	if by == "" && u.Scheme == "https" && !e.tls(ctx, u.Hostname(), address) {
		return
	}
	if e.answers(ctx) {
		e.signature(ctx)
	}
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

// name resolves the host's name.
func (e *examination) name(ctx context.Context, host string) bool {
	if net.ParseIP(host) != nil {
		e.add(OK, "DNS", "", "%s is an address", host)
		return true
	}
	ctx, cancel := context.WithTimeout(ctx, stepTimeout)
	defer cancel()
	begun := e.Now()
	addresses, err := net.DefaultResolver.LookupHost(ctx, host)
	if err != nil {
		e.add(Fail, "DNS", "Check /etc/resolv.conf and: getent hosts "+host, "%v", err)
		return false
	}
	e.add(OK, "DNS", "", "%s is %s, in %s", host, strings.Join(addresses, ", "), e.Now().Sub(begun).Round(time.Millisecond))
	return true
}

func (e *examination) tcp(ctx context.Context, by, address string) bool {
	ctx, cancel := context.WithTimeout(ctx, stepTimeout)
	defer cancel()
	begun := e.Now()
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
	if err != nil {
		e.add(Fail, "TCP", "Is it running, and do routes and firewalls let this host reach it? nc -vz "+strings.ReplaceAll(address, ":", " "), "%s%s can't be reached: %v", by, address, err)
		return false
	}
	_ = conn.Close()
	e.add(OK, "TCP", "", "%s%s takes connections, in %s", by, address, e.Now().Sub(begun).Round(time.Millisecond))
	return true
}

func (e *examination) tls(ctx context.Context, host, address string) bool {
	ctx, cancel := context.WithTimeout(ctx, stepTimeout)
	defer cancel()
	trust := e.TLS.Clone()
	trust.ServerName = host
	conn, err := (&tls.Dialer{Config: trust}).DialContext(ctx, "tcp", address)
	if err != nil {
		e.add(Fail, "TLS", "Put the CA that signed the control plane's certificate into a file, and name it in AWS_CA_BUNDLE in "+e.File+".", "%v", err)
		return false
	}
	defer func() { _ = conn.Close() }()
	secure, ok := conn.(*tls.Conn)
	if !ok || len(secure.ConnectionState().PeerCertificates) == 0 {
		return true
	}
	if chains := secure.ConnectionState().VerifiedChains; len(chains) > 0 {
		if ca := chains[0][len(chains[0])-1]; ca.NotAfter.Sub(e.Now()) < authorityEndsSoon {
			e.add(Warn, "CA", "Replace it before that: \"longshore-control ca rotate\" where the control plane runs, if it is its own.", "the CA of the control plane's certificate, %s, ends at %s", ca.Subject.CommonName, ca.NotAfter.UTC().Format(time.RFC3339))
		}
	}
	end := secure.ConnectionState().PeerCertificates[0].NotAfter
	verdict := OK
	if end.Sub(e.Now()) < expiresSoon {
		verdict = Warn
	}
	e.add(verdict, "TLS", "Renew the control plane's certificate.", "the certificate of %s is trusted, and good until %s", host, end.UTC().Format(time.RFC3339))
	return true
}

// answers asks without a signature: an answer of any kind is one, and its Date tells the other clock.
func (e *examination) answers(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, stepTimeout)
	defer cancel()
	transport := &http.Transport{TLSClientConfig: e.TLS, Proxy: e.Proxy}
	defer transport.CloseIdleConnections()
	begun := e.Now()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, e.Endpoint, nil)
	var answer *http.Response
	if err == nil {
		answer, err = (&http.Client{Transport: transport}).Do(r)
	}
	if err != nil {
		e.add(Fail, "HTTP", "Is ECS_BACKEND_HOST in "+e.File+" the control plane's URL, with the right scheme?", "%v", err)
		return false
	}
	_ = answer.Body.Close()
	ended := e.Now()
	e.add(OK, "HTTP", "", "%s answers in %s", e.Endpoint, ended.Sub(begun).Round(time.Millisecond))
	theirs, err := http.ParseTime(answer.Header.Get("Date"))
	if err != nil {
		e.add(Warn, "clock", "", "the control plane did not say what time it is")
		return true
	}
	// The header has whole seconds: half of one, and half of the way, are added.
	skew := begun.Add(ended.Sub(begun) / 2).Sub(theirs.Add(500 * time.Millisecond))
	mend := "Set the clock, and keep it right with chrony, ntpd or systemd-timesyncd: a signature is good for 5 minutes."
	switch size := skew.Abs(); {
	case size > skewFail:
		e.add(Fail, "clock", mend, "this host's clock is %s the control plane's", apart(skew))
	case size > skewWarn:
		e.add(Warn, "clock", mend, "this host's clock is %s the control plane's", apart(skew))
	default:
		e.add(OK, "clock", "", "this host's clock and the control plane's agree within %s", max(size.Round(time.Second), time.Second))
	}
	return true
}

func apart(skew time.Duration) string {
	if skew < 0 {
		return fmt.Sprintf("%s behind", skew.Abs().Round(time.Second))
	}
	return fmt.Sprintf("%s ahead of", skew.Round(time.Second))
}

// signature makes a signed call.
func (e *examination) signature(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, stepTimeout)
	defer cancel()
	err := e.Sign(ctx)
	var refused *agentapi.APIError
	switch {
	case err == nil:
		e.add(OK, "credentials", "", "a signed call is answered")
	case !errors.As(err, &refused):
		e.add(Fail, "credentials", "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in "+e.File+"; longshore-control host add NAME makes one, and longshore-agent join does it all.", "%v", err)
	case refused.Code == "AccessDeniedException" && strings.Contains(refused.Message, "another access key"):
		e.add(Fail, "credentials", "Use the key that this host was registered with, or remove "+e.Config.DataDir+" to register anew.", "%s: %s", refused.Code, refused.Message)
	case strings.Contains(refused.Code, "Signature") || strings.Contains(refused.Code, "Token") || strings.Contains(refused.Code, "AccessDenied") || strings.Contains(refused.Code, "Unrecognized"):
		e.add(Fail, "credentials", "Check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in "+e.File+" against \"longshore-control keys list\", and the clock above.", "the control plane refuses the signature: %s: %s", refused.Code, refused.Message)
	default:
		e.add(Warn, "credentials", "The signature was accepted; the agent's log says what it makes of this answer.", "a signed call is answered with %s: %s", refused.Code, refused.Message)
	}
}
