package auth

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"net/http"
	"time"

	"github.com/longshore-project/longshore/controlplane/store"
)

const tokenHeader = "X-Amz-Security-Token"

// dayForm is a day in a scope.
const dayForm = "20060102"

// TaskKey is an access key that was issued for a task, as far as it is needed to verify what is signed with it.
type TaskKey struct {
	// Signing is the key that signs ECS calls of a day in a region; nil: none can be.
	Signing func(day, region string) []byte
	// Token is the SHA-256 of the session token; empty for static keys, which have none.
	Token []byte
	// Expires is when the key ends; zero for never.
	Expires time.Time
	// Cluster and Task name the task; empty for static keys, which every task of Roles has.
	Cluster, Task string
	Roles         []string
}

// TaskIdentity is the task that signed a request. Static keys, which all tasks of a role have, only tell the roles.
type TaskIdentity struct {
	Cluster, ID string
	Roles       []string // ARNs; empty when the task is known
}

// Static makes a TaskKey of a secret that every task of some roles has. token is empty or its session token.
func Static(secret, token string, expires time.Time, roles []string) *TaskKey {
	k := &TaskKey{Expires: expires, Roles: roles, Signing: func(day, region string) []byte { return derive(secret, day, region, service) }}
	if token != "" {
		sum := sha256.Sum256([]byte(token))
		k.Token = sum[:]
	}
	return k
}

// Stored makes a TaskKey of what is kept of one.
func Stored(k *store.TaskKey) *TaskKey {
	return &TaskKey{Token: k.Token, Expires: k.Expires, Cluster: k.Cluster, Task: k.Task, Signing: func(day, region string) []byte {
		if region != k.Region {
			day = region + "/" + day
		}
		return k.Signing[day]
	}}
}

// NewTaskKey makes what is kept of a key that was issued for a task. Calls may be signed for each of the regions;
// keys are named by their day in the first of them, and by region/day in others.
func NewTaskKey(accessKeyID, secret, token string, regions []string, now, expires time.Time) *store.TaskKey {
	sum := sha256.Sum256([]byte(token))
	k := &store.TaskKey{AccessKeyID: accessKeyID, Region: regions[0], Token: sum[:], Signing: map[string][]byte{}, Expires: expires.UTC()}
	const most = 3 // no session lives for longer than twelve hours; clocks differ a little
	first := now.UTC().Add(-DefaultSkew)
	for n := range most {
		day := first.Add(time.Duration(n) * 24 * time.Hour)
		if day.After(expires.UTC().Add(24 * time.Hour)) {
			break
		}
		date := day.Format(dayForm)
		for _, region := range regions {
			name := date
			if region != k.Region {
				name = region + "/" + date
			}
			k.Signing[name] = derive(secret, date, region, service)
		}
	}
	return k
}

// verifyTask says which task signed a request with a key that is none of the store's.
func (v *Verifier) verifyTask(r *http.Request, a *authorization, text string) (*Identity, error) {
	key, err := v.tasks(r.Context(), a.accessKeyID)
	if err != nil {
		return nil, err
	}
	if key == nil {
		return nil, refuse(CodeUnknownKey, messageUnknownKey)
	}
	tokens := r.Header.Values(tokenHeader)
	if len(key.Token) == 0 && len(tokens) > 0 || len(key.Token) > 0 && len(tokens) != 1 {
		return nil, refuse(CodeUnknownKey, messageUnknownKey)
	}
	if len(key.Token) > 0 {
		if sum := sha256.Sum256([]byte(tokens[0])); subtle.ConstantTimeCompare(sum[:], key.Token) != 1 {
			return nil, refuse(CodeUnknownKey, messageUnknownKey)
		}
	}
	if !key.Expires.IsZero() && !v.now().Before(key.Expires) {
		return nil, refuse(CodeExpired, "The security token included in the request is expired")
	}
	signing := key.Signing(a.date, a.region)
	if signing == nil {
		return nil, refuse(CodeInvalid, "Credential should be scoped to the region of this control plane or of the task, not '%s': keys of tasks are verified for these only.", printable(a.region))
	}
	if subtle.ConstantTimeCompare([]byte(sign(signing, text)), []byte(a.signature)) != 1 {
		return nil, refuse(CodeInvalid, messageMismatch)
	}
	return &Identity{AccessKeyID: a.accessKeyID, Role: store.RoleTask, Region: a.region, Service: a.service, Task: &TaskIdentity{key.Cluster, key.Task, key.Roles}}, nil
}

// TaskKeys looks for keys that were issued for tasks: first with static, which may be nil, then in a store, where another replica
// may have put it a moment ago.
func TaskKeys(s *store.Store, static func(accessKeyID string) *TaskKey) func(context.Context, string) (*TaskKey, error) {
	return func(ctx context.Context, id string) (*TaskKey, error) {
		if static != nil {
			if k := static(id); k != nil {
				return k, nil
			}
		}
		var kept *store.TaskKey
		err := s.Read(ctx, func(v *store.View) error { kept = v.TaskKey(id); return nil })
		if err != nil || kept == nil {
			return nil, err
		}
		return Stored(kept), nil
	}
}
