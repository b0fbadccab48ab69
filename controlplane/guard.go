package controlplane

import (
	"context"
	"net/http"

	"go.uber.org/zap"

	"github.com/longshore-project/longshore/controlplane/audit"
	"github.com/longshore-project/longshore/controlplane/auth"
	"github.com/longshore-project/longshore/controlplane/limits"
	"github.com/longshore-project/longshore/controlplane/store"
	"github.com/longshore-project/longshore/protocol/awsjson"
)

// openGuard opens the audit log, and the limits of callers.
func (p *ControlPlane) openGuard() (err error) {
	if p.audit, err = audit.Open(audit.Config{DataDir: p.cfg.DataDir, Size: p.cfg.AuditSize, Log: p.log.Named("audit")}); err != nil {
		return err
	}
	p.onClose("audit log", p.audit.Close)
	p.limits = limits.New(limits.Config{Rate: p.cfg.RateLimit, EnrolmentRate: p.cfg.EnrolmentRateLimit, ConnectionsPerKey: p.cfg.KeyConnections,
		Pending: p.cfg.PendingConnections, Log: p.log.Named("limits")})
	return nil
}

// guarded holds callers to what they may take from the others.
func (p *ControlPlane) guarded(next http.Handler) http.Handler {
	return p.limits.Handler(next, func(w http.ResponseWriter, code, message string) {
		w.Header().Set("Content-Type", awsjson.ContentType)
		w.WriteHeader(http.StatusBadRequest)
		_, _ = w.Write(awsjson.EncodeError(code, message))
	})
}

type signerKey struct{}

// witness remembers who signed the request that opens a socket.
type witness struct{ limits.Verifier }

func (v witness) VerifyUpgrade(r *http.Request) (*auth.Identity, error) {
	identity, err := v.Verifier.VerifyUpgrade(r)
	if signer, ok := r.Context().Value(signerKey{}).(**auth.Identity); ok {
		*signer = identity
	}
	return identity, err
}

// witnessed writes who opened a socket, and who was not let in, into the audit log.
func (p *ControlPlane) witnessed(sockets http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var signer *auth.Identity
		seen := &seenStatus{ResponseWriter: w, status: http.StatusOK}
		sockets.ServeHTTP(seen, r.WithContext(context.WithValue(r.Context(), signerKey{}, &signer)))
		query := r.URL.Query()
		e := audit.Entry{Address: r.RemoteAddr, Operation: "acs", Outcome: audit.Opened}
		instance := query.Get("containerInstanceArn")
		if r.URL.Path == "/tcs/ws" {
			e.Operation, instance = "tcs", query.Get("containerInstance")
		}
		e.Resource = []string{"containerInstance=" + instance}
		if seen.status != http.StatusSwitchingProtocols {
			e.Outcome = w.Header().Get("X-Amzn-ErrorType")
			if e.Outcome == "" {
				e.Outcome = http.StatusText(seen.status)
			}
		}
		p.audit.Record(bookOf(signer, &e, auth.ClaimedKey(r)), e)
	})
}

// bookOf is the book in which an entry of a caller is written, and notes the caller.
func bookOf(identity *auth.Identity, e *audit.Entry, claimed string) audit.Book {
	if identity == nil {
		e.Claimed = claimed
		return audit.Hosts
	}
	e.Key = identity.AccessKeyID
	if identity.Role == store.RoleHost || identity.Role == store.RoleTask {
		return audit.Hosts
	}
	return audit.Operators
}

// audited writes what was done on this machine itself into the audit log.
func (p *ControlPlane) audited(operation string, err error, resource ...string) {
	e := audit.Entry{Key: audit.Local, Operation: operation, Resource: resource, Outcome: audit.OK}
	if err != nil {
		e.Outcome = "failed"
		p.log.Debug("failed on this machine's behalf", zap.String("operation", operation), zap.Error(err))
	}
	p.audit.Record(audit.Operators, e)
}
