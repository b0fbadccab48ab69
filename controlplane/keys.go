package controlplane

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"time"

	"go.uber.org/zap"

	"github.com/longshore-project/longshore/controlplane/auth"
	"github.com/longshore-project/longshore/controlplane/store"
	"github.com/longshore-project/longshore/protocol/arn"
)

// rotation is what is asked of a key's rotation.
type rotation struct {
	Overlap time.Duration `json:"overlap"`
}

// keyRefused is an error that is told to whoever asked.
type keyRefused struct{ text string }

func (e *keyRefused) Error() string { return e.text }

func refuseKey(format string, args ...any) error { return &keyRefused{fmt.Sprintf(format, args...)} }

var nameForm = regexp.MustCompile(`^[A-Za-z0-9._-]{0,64}$`)

func shown(k *store.Key) Key {
	return Key{AccessKeyID: k.AccessKeyID, Role: k.Role, Name: k.Name, Enrolment: k.Enrolment, Instance: k.Instance, From: k.From,
		Successor: k.Successor, MaxUses: k.MaxUses, Uses: k.Uses, Created: k.Created, Expires: k.Expires, Revoked: k.Revoked}
}

// answerKey answers a key or what went wrong.
func answerKey(w http.ResponseWriter, k Key, err error) {
	var refused *keyRefused
	switch {
	case errors.As(err, &refused):
		http.Error(w, refused.text, http.StatusBadRequest)
	case err != nil:
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
	default:
		w.Header().Set(madeKey, k.AccessKeyID)
		answerJSON(w, http.StatusOK, k)
	}
}

func readKeyRequest(w http.ResponseWriter, r *http.Request, into any) error {
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 4096)).Decode(into); err != nil {
		return refuseKey("the request: %v", err)
	}
	return nil
}

func (p *ControlPlane) listKeys(w http.ResponseWriter, r *http.Request) {
	keys := []Key{}
	if err := p.store.Read(r.Context(), func(v *store.View) error {
		for k := range v.Keys() {
			keys = append(keys, shown(k))
		}
		return nil
	}); err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	answerJSON(w, http.StatusOK, keys)
}

func (p *ControlPlane) createKey(w http.ResponseWriter, r *http.Request) {
	var in Key
	err := readKeyRequest(w, r, &in)
	if err == nil {
		in, err = p.makeKey(r.Context(), in, time.Now())
	}
	answerKey(w, in, err)
}

func (p *ControlPlane) makeKey(ctx context.Context, in Key, now time.Time) (Key, error) {
	host := in.Role == store.RoleHost
	switch in.Role {
	case store.RoleAdmin, store.RoleReadOnly, store.RoleHost:
	default:
		return Key{}, refuseKey("the role %q is none of %s, %s and %s", in.Role, store.RoleAdmin, store.RoleReadOnly, store.RoleHost)
	}
	switch {
	case in.Enrolment && !host:
		return Key{}, refuseKey("only a host's key can be one for enrolment")
	case in.Instance != "" && (!host || in.Enrolment):
		return Key{}, refuseKey("only a host's own key speaks for a container instance")
	case in.MaxUses < 0 || in.MaxUses > 0 && !in.Enrolment:
		return Key{}, refuseKey("only a key for enrolment has a number of uses, of 1 or more")
	case !nameForm.MatchString(in.Name):
		return Key{}, refuseKey("the name %.80q has other characters than letters, digits, '.', '_' and '-', or more than 64", in.Name)
	case !in.Expires.IsZero() && !now.Before(in.Expires):
		return Key{}, refuseKey("the key would have expired at %s", in.Expires.UTC().Format(time.RFC3339))
	}
	if in.Instance != "" {
		if a, err := arn.Parse(in.Instance); err != nil || a.Type != arn.TypeContainerInstance {
			return Key{}, refuseKey("%.200q is not the ARN of a container instance", in.Instance)
		}
	}
	k := auth.NewKey(p.seal, store.Key{Role: in.Role, Name: in.Name, Enrolment: in.Enrolment, Instance: in.Instance, MaxUses: in.MaxUses, Expires: in.Expires.UTC()}, now)
	if err := p.store.Txn().Create(k.Key).Commit(ctx); err != nil {
		return Key{}, err
	}
	p.log.Info("an access key was made", zap.String("key", k.AccessKeyID), zap.String("role", string(k.Role)), zap.String("name", k.Name))
	made := shown(k.Key)
	made.SecretAccessKey = k.Secret
	return made, nil
}

// HostSettings are what the agent of one host needs to be configured with.
type HostSettings struct {
	Key           // with its secret
	URL    string `json:"url"`
	Region string `json:"region"`
	CA     string `json:"ca,omitempty"` // PEM; empty: the host trusts the control plane's certificate, or there is none
}

// CreateHost makes a key for one host in the control plane that runs with a data directory: it speaks for the first container
// instance that it registers, and for no other.
func CreateHost(ctx context.Context, dir, name string) (h HostSettings, err error) {
	return h, ask(ctx, dir, http.MethodPost, "/hosts", Key{Name: name}, &h)
}

func (p *ControlPlane) createHost(w http.ResponseWriter, r *http.Request) {
	var in Key
	err := readKeyRequest(w, r, &in)
	if err == nil && in.Name == "" {
		err = refuseKey("a host has a name")
	}
	if err == nil {
		in, err = p.makeKey(r.Context(), Key{Role: store.RoleHost, Name: in.Name}, time.Now())
	}
	if err != nil {
		answerKey(w, Key{}, err)
		return
	}
	h := HostSettings{Key: in, URL: p.hostsURL(), Region: p.cfg.Region}
	if p.cfg.speaksTLS(p.cfg.Listen) {
		h.CA = string(p.CA())
	}
	answerJSON(w, http.StatusOK, h)
}

// maxOverlap bounds how long two keys of one holder count.
const maxOverlap = 90 * 24 * time.Hour

func (p *ControlPlane) rotateKey(w http.ResponseWriter, r *http.Request) {
	var in rotation
	err := readKeyRequest(w, r, &in)
	if err == nil && (in.Overlap < 0 || in.Overlap > maxOverlap) {
		err = refuseKey("the old key can count for 0 to %s beside the new one, not for %s", maxOverlap, in.Overlap)
	}
	var made auth.Key
	if err == nil {
		made, err = p.replaceKey(r.Context(), r.PathValue("id"), in.Overlap, time.Now())
	}
	if err != nil {
		answerKey(w, Key{}, err)
		return
	}
	p.log.Info("an access key is replaced", zap.String("key", r.PathValue("id")), zap.String("successor", made.AccessKeyID), zap.Duration("overlap", in.Overlap))
	answer := shown(made.Key)
	answer.SecretAccessKey = made.Secret
	answerKey(w, answer, p.renewFiles(r.Context()))
}

// replaceKey makes the key that replaces another one.
func (p *ControlPlane) replaceKey(ctx context.Context, id string, overlap time.Duration, now time.Time) (made auth.Key, err error) {
	err = store.Retry(ctx, func() error {
		old, err := p.usableKey(ctx, id, now)
		if err != nil {
			return err
		}
		if old.Successor != "" {
			return refuseKey("%s is replaced by %s already, until %s: rotate that one", id, old.Successor, old.Expires.UTC().Format(time.RFC3339))
		}
		made = auth.NewKey(p.seal, store.Key{Role: old.Role, Name: old.Name, Enrolment: old.Enrolment, Instance: old.Instance, MaxUses: old.MaxUses, Uses: old.Uses, Expires: old.Expires}, now)
		ending := *old
		ending.Successor = made.AccessKeyID
		if end := now.Add(overlap).UTC(); old.Expires.IsZero() || end.Before(old.Expires) {
			ending.Expires = end
		}
		return p.store.Txn().Create(made.Key).Update(&ending).Commit(ctx)
	})
	return made, err
}

// usableKey is a key that counts.
func (p *ControlPlane) usableKey(ctx context.Context, id string, now time.Time) (k *store.Key, err error) {
	if err := p.store.Read(ctx, func(v *store.View) error { k = v.Key(id); return nil }); err != nil {
		return nil, err
	}
	switch {
	case k == nil:
		return nil, refuseKey("there is no key %.130q", id)
	case !k.Usable(now):
		return nil, refuseKey("the key %s is %s", id, shown(k).State(now))
	}
	return k, nil
}

func (p *ControlPlane) revokeKey(w http.ResponseWriter, r *http.Request) {
	revoked, err := p.endKey(r.Context(), r.PathValue("id"), time.Now())
	if err != nil {
		answerKey(w, Key{}, err)
		return
	}
	p.log.Info("an access key was revoked", zap.String("key", revoked.AccessKeyID), zap.String("role", string(revoked.Role)), zap.String("name", revoked.Name))
	answerKey(w, shown(revoked), p.renewFiles(r.Context()))
}

// endKey revokes a key, unless it is the last administrator's that lasts.
func (p *ControlPlane) endKey(ctx context.Context, id string, now time.Time) (revoked *store.Key, err error) {
	err = store.Retry(ctx, func() error {
		var admin *store.Key
		old, err := p.usableKey(ctx, id, now)
		if err != nil {
			return err
		}
		if err := p.store.Read(ctx, func(v *store.View) error {
			for k := range v.Keys() {
				if k.Role == store.RoleAdmin && k.AccessKeyID != id && k.Usable(now) && k.Expires.IsZero() {
					admin = k
				}
			}
			return nil
		}); err != nil {
			return err
		}
		if old.Role == store.RoleAdmin && admin == nil {
			return refuseKey("%s is the last administrator's key that has no end: make another one first", id)
		}
		ended := *old
		ended.Revoked = now.UTC()
		revoked = &ended
		txn := p.store.Txn().Update(revoked)
		if old.Role == store.RoleAdmin {
			txn.Unchanged(admin) // two can't end each other's
		}
		return txn.StateChange().Commit(ctx)
	})
	return revoked, err
}

// renewFiles sees to the key files of this replica after a key has ended or has an end.
func (p *ControlPlane) renewFiles(ctx context.Context) error {
	return auth.RenewFiles(ctx, p.store, p.seal, p.cfg.DataDir, time.Now())
}
