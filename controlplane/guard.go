package controlplane

import (
	"cmp"
	"context"
	"net/http"

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
		Pending: p.cfg.PendingConnections})
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

// madeKey is the header in which an answer on this machine's socket tells the id of the key that was made or changed.
const madeKey = "Longshore-Key"

// localOperations are what this machine's socket serves that is to be in the audit log, by pattern.
var localOperations = map[string]string{
	"POST /keys":             "CreateKey",
	"POST /keys/{id}/rotate": "RotateKey",
	"POST /keys/{id}/revoke": "RevokeKey",
	"POST /tokens":           "CreateToken",
	"GET /backup":            "Backup",
	"POST /seal/rotate":      "RotateSealKey",
	"POST /ca/rotate":        "RotateCA",
	"POST /ca/abandon":       "AbandonCA",
}

// audited writes what is asked over this machine's own socket into the audit log.
func (p *ControlPlane) audited(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen := &seenStatus{ResponseWriter: w, status: http.StatusOK}
		next.ServeHTTP(seen, r)
		operation, listed := localOperations[r.Pattern]
		if !listed && (r.Method == http.MethodGet || r.Pattern == "") {
			return
		}
		e := audit.Entry{Key: audit.Local, Operation: cmp.Or(operation, r.Pattern), Outcome: audit.OK}
		if seen.status != http.StatusOK {
			e.Outcome = http.StatusText(seen.status)
		}
		if id := r.PathValue("id"); id != "" {
			e.Resource = append(e.Resource, "key="+id)
		}
		if made := w.Header().Get(madeKey); made != "" {
			e.Resource = append(e.Resource, "made="+made)
		}
		p.audit.Record(audit.Operators, e)
	})
}
