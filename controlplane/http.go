package controlplane

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/longshore-project/longshore/controlplane/store"
	"github.com/longshore-project/longshore/internal/version"
	"github.com/longshore-project/longshore/protocol/awsjson"
)

// The bounds of a connection. They end with the upgrade to a web socket, which has its own.
const (
	headerTimeout  = 10 * time.Second
	requestTimeout = 60 * time.Second // header and body
	answerTimeout  = 90 * time.Second
	idleTimeout    = 3 * time.Minute
	maxHeader      = 64 << 10
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
	if p.cfg.PublicURL != "" {
		return strings.TrimSuffix(p.cfg.PublicURL, "/")
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

// listen opens the listener, with TLS if there is a certificate.
func listen(ctx context.Context, cfg Config) (net.Listener, error) {
	var tlsConfig *tls.Config
	if cfg.TLSCert != "" {
		certificate, err := tls.LoadX509KeyPair(cfg.TLSCert, cfg.TLSKey)
		if err != nil {
			return nil, fmt.Errorf("%w: --tls-cert %s and --tls-key %s: %w", ErrConfig, cfg.TLSCert, cfg.TLSKey, err)
		}
		tlsConfig = &tls.Config{
			Certificates: []tls.Certificate{certificate},
			MinVersion:   tls.VersionTLS12,
			NextProtos:   []string{"h2", "http/1.1"},
		}
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", cfg.Listen)
	if err != nil {
		return nil, fmt.Errorf("%w: --listen %s: %w: is another process there? 'ss -ltnp' tells", ErrConfig, cfg.Listen, err)
	}
	if tlsConfig != nil {
		return tls.NewListener(listener, tlsConfig), nil
	}
	return listener, nil
}
