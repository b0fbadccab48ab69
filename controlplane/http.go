package controlplane

import (
	"cmp"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/longshore-project/longshore/controlplane/certs"
	"github.com/longshore-project/longshore/controlplane/store"
	"github.com/longshore-project/longshore/internal/version"
	"github.com/longshore-project/longshore/protocol/awsjson"
	"github.com/longshore-project/longshore/protocol/join"
)

// The bounds of a connection. They end with the upgrade to a web socket, which has its own.
const (
	headerTimeout  = 10 * time.Second
	requestTimeout = 60 * time.Second // header and body
	answerTimeout  = 90 * time.Second
	idleTimeout    = 3 * time.Minute
	maxHeader      = 16 << 10
	healthTimeout  = 2 * time.Second
)

// routes are what is served where.
func (p *ControlPlane) routes(api, sockets http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		read := r.Method == http.MethodGet || r.Method == http.MethodHead
		switch path := r.URL.Path; {
		case path == "/" && read:
			answerJSON(w, http.StatusOK, map[string]any{"service": "longshore-control", "version": version.Version, "region": p.cfg.Region})
		case path == "/":
			api.ServeHTTP(w, r)
		case path == "/healthz" && read:
			p.health(w, r)
		case path == join.CAPath && read:
			p.serveCA(w)
		case path == "/acs/ws", path == "/tcs/ws":
			sockets.ServeHTTP(w, r)
		default:
			w.Header().Set("Content-Type", awsjson.ContentType)
			w.WriteHeader(http.StatusNotFound)
			_, _ = w.Write(awsjson.EncodeError("UnknownOperationException",
				fmt.Sprintf("Nothing is served at %s %.200s; the ECS API is at POST /.", r.Method, path)))
		}
	})
}

// serveCA answers the certificate that hosts are to trust. It is asked before they can know whose answer it is: a token has the
// fingerprint.
func (p *ControlPlane) serveCA(w http.ResponseWriter) {
	ca := p.CA()
	if ca == nil {
		http.Error(w, "hosts need no certificate to trust this control plane", http.StatusNotFound)
		return
	}
	w.Header().Set("Content-Type", "application/x-pem-file")
	w.Header().Set("Cache-Control", "no-store")
	_, _ = w.Write(ca)
}

// CA is the certificate that hosts are to trust, PEM; nil where TLS is not spoken, or with a certificate of a CA that they are
// taken to know.
func (p *ControlPlane) CA() []byte {
	if p.certs == nil {
		return nil
	}
	return p.certs.CA()
}

// health answers 200 while the store takes reads, and 503 when it does not. A nearly full store is still of use.
func (p *ControlPlane) health(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), healthTimeout)
	defer cancel()
	var revision int64
	quarantined := 0
	err := p.store.Read(ctx, func(v *store.View) error {
		revision, quarantined = v.Revision(), len(v.Quarantined())
		return nil
	})
	if err != nil {
		p.log.Warn("the store does not answer a health check", zap.Error(err))
		answerJSON(w, http.StatusServiceUnavailable, map[string]any{"status": "unavailable", "reason": "the store does not answer"})
		return
	}
	status, space := "ok", p.store.Space()
	if space.Full {
		status = "nearly full"
	}
	answerJSON(w, http.StatusOK, map[string]any{
		"status": status, "version": version.Version,
		"store": map[string]any{"revision": revision, "sizeBytes": space.Size, "quotaBytes": space.Quota, "unreadableRecords": quarantined},
	})
}

func answerJSON(w http.ResponseWriter, status int, answer any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(answer)
}

// baseURL is how the client of r reaches this control plane.
func (p *ControlPlane) baseURL(r *http.Request) string {
	if p.cfg.AdvertiseURL != "" {
		return strings.TrimSuffix(p.cfg.AdvertiseURL, "/")
	}
	scheme := "http"
	if r.TLS != nil {
		scheme = "https"
	}
	return scheme + "://" + r.Host
}

// httpServer serves handler with bounds on everything a client can be slow with.
func (p *ControlPlane) httpServer(handler http.Handler) *http.Server {
	return &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: headerTimeout,
		ReadTimeout:       requestTimeout,
		WriteTimeout:      answerTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          zap.NewStdLog(p.log.Named("http")),
	}
}

// listen opens a listener; nobody is served there yet.
func listen(ctx context.Context, address string) (net.Listener, error) {
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("%w: --listen %s: %w: is another process there? 'ss -ltnp' tells", ErrConfig, address, err)
	}
	return listener, nil
}

// openCerts has the certificates of files, which can be refused before anything is written.
func (p *ControlPlane) openCerts() (err error) {
	if p.cfg.TLSCert == "" {
		return nil
	}
	if p.certs, err = certs.Files(p.cfg.TLSCert, p.cfg.TLSKey, p.log.Named("tls")); err != nil {
		return fmt.Errorf("%w: --tls-cert and --tls-key: %w", ErrConfig, err)
	}
	return nil
}

// ownCerts opens the own CA, and has certificates of it where there are none of files.
func (p *ControlPlane) ownCerts(ctx context.Context) (err error) {
	own, err := certs.EnsureAuthority(ctx, p.store, p.seal, p.cfg.DataDir, time.Now())
	if err != nil {
		return err
	}
	p.authority.Store(own)
	p.sayWhenItEnds(time.Now())
	if p.certs == nil && (p.cfg.speaksTLS(p.cfg.Listen) || p.cfg.MetricsListen != "" && p.cfg.speaksTLS(p.cfg.MetricsListen)) {
		names := func() []string { return certs.Names(p.cfg.AdvertiseURL, p.cfg.Listen, p.cfg.MetricsListen) }
		if p.certs, err = certs.Own(p.authority.Load, names, p.cfg.CertLife, p.authorities, p.log.Named("tls")); err != nil {
			return err
		}
	}
	if p.certs != nil {
		p.background("certificates", func(ctx context.Context) error {
			return p.certs.Run(ctx, cmp.Or(p.cfg.CertInterval, certs.DefaultInterval))
		})
	}
	return nil
}

// secured is the listener with TLS, where that is spoken at its address.
func (p *ControlPlane) secured(listener net.Listener, address string) net.Listener {
	if !p.cfg.speaksTLS(address) {
		return listener
	}
	return tls.NewListener(listener, p.certs.Config())
}
