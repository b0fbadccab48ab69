package secrets

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"go.uber.org/zap"

	"github.com/longshore-project/longshore/imagecache"
	"github.com/longshore-project/longshore/protocol/acs"
	"github.com/longshore-project/longshore/protocol/awsapi"
)

// The bounds of the tokens that are kept.
const (
	maxTokens    = 100
	maxTokenAge  = 12 * time.Hour
	renewAhead   = 30 * time.Minute // and up to as much again, so that hosts don't ask all at once
	shortestLife = time.Minute      // a token that was just fetched is used for this long whatever it says
)

// Registry returns the credentials for a registry that a task's payload points at. stale, unless nil, are those that the
// registry refused just now: what is kept is not used if it is the same. It is an [imagecache.Authority]. Its errors are
// Unauthenticated.
func (r *Resolver) Registry(ctx context.Context, taskArn string, auth *acs.RegistryAuthentication, stale *imagecache.Credentials) (*imagecache.Credentials, error) {
	var c *imagecache.Credentials
	var err error
	switch {
	case auth.Type == "ecr" && auth.ECRAuthData != nil:
		c, err = r.token(ctx, taskArn, auth.ECRAuthData, stale)
	case auth.Type == "asm" && auth.ASMAuthData != nil:
		c, err = r.repository(ctx, taskArn, auth.ASMAuthData, stale)
	default:
		err = fmt.Errorf("registryAuthentication of type %q is not supported; ecr and asm are", auth.Type)
	}
	if err != nil && ctx.Err() == nil {
		return nil, errdefs.ErrUnauthenticated.WithMessage(err.Error())
	}
	return c, err
}

// repository reads repositoryCredentials: a secret that is {"username": …, "password": …}.
func (r *Resolver) repository(ctx context.Context, taskArn string, data *acs.ASMAuthData, stale *imagecache.Credentials) (*imagecache.Credentials, error) {
	where := fmt.Sprintf("the registry's credentials, secret %s of Secrets Manager", data.CredentialsParameter)
	held, role, err := r.role(ctx, taskArn)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", where, err)
	}
	ref, _ := secretOf(&acs.Secret{ValueFrom: data.CredentialsParameter, Region: data.Region}, r.cfg.Region)
	key := tokenKey{region: ref.region, secret: data.CredentialsParameter, role: held.RoleArn}
	return r.kept(ctx, key, stale, func() (*imagecache.Credentials, error) {
		value, err := r.cfg.AWS.GetSecretValue(ctx, awsapi.Caller{Region: ref.region, Credentials: role}, ref.id)
		if err != nil {
			return nil, fmt.Errorf("%s in %s: %w", where, ref.region, err)
		}
		var pair struct{ Username, Password string }
		if json.Unmarshal([]byte(value), &pair) != nil || pair.Username == "" || pair.Password == "" { // its error would show the value
			return nil, fmt.Errorf(`%s in %s: its value must be {"username": "…", "password": "…"}`, where, ref.region)
		}
		return &imagecache.Credentials{Username: pair.Username, Password: pair.Password, Source: "secret " + data.CredentialsParameter + " of Secrets Manager in " + ref.region}, nil
	})
}

// tokenKey is what kept credentials are: of a registry of Amazon ECR or in a secret, and whose they are.
type tokenKey struct{ region, registry, endpoint, secret, role string }

// tokens are the tokens that are kept.
type tokens struct {
	mu   sync.Mutex
	kept map[tokenKey]*token
}

// token is one of them. Whoever holds the place may fetch it.
type token struct {
	place       chan struct{}
	credentials *imagecache.Credentials // nil: there is none
	renewAt     time.Time
}

func (t *tokens) of(key tokenKey) *token {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.kept == nil {
		t.kept = map[tokenKey]*token{}
	}
	k := t.kept[key]
	if k == nil {
		if len(t.kept) >= maxTokens { // who uses one of them goes on with it
			clear(t.kept)
		}
		k = &token{place: make(chan struct{}, 1)}
		t.kept[key] = k
	}
	return k
}

// token returns a token for an Amazon ECR registry, a kept one if it lives long enough.
func (r *Resolver) token(ctx context.Context, taskArn string, data *acs.ECRAuthData, stale *imagecache.Credentials) (*imagecache.Credentials, error) {
	region := or(data.Region, r.cfg.Region)
	where := fmt.Sprintf("a token for the Amazon ECR registry %s in %s", data.RegistryID, region)
	key, caller := tokenKey{region: region, registry: data.RegistryID, endpoint: data.EndpointOverride}, r.cfg.Host
	if data.UseExecutionRole {
		held, role, err := r.role(ctx, taskArn)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", where, err)
		}
		key.role, caller = held.RoleArn, role
	}
	if caller == nil {
		return nil, errors.New(where + ": the host has no credentials")
	}
	return r.kept(ctx, key, stale, func() (*imagecache.Credentials, error) {
		got, err := r.cfg.AWS.GetAuthorizationToken(ctx, awsapi.Caller{Region: region, Credentials: caller}, data.RegistryID, data.EndpointOverride)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", where, err)
		}
		return &imagecache.Credentials{
			Username: got.Username, Password: string(got.Password), ServerAddress: strings.TrimPrefix(got.Registry, "https://"), Source: "Amazon ECR in " + region, Expires: got.ExpiresAt,
		}, nil
	})
}

// kept returns credentials that are kept, if they live long enough and were not refused, else those that fetch gets, once for
// all who want the same. A fetch that hangs ends with a bound of its own, and the next one who waits tries anew.
func (r *Resolver) kept(ctx context.Context, key tokenKey, stale *imagecache.Credentials, fetch func() (*imagecache.Credentials, error)) (*imagecache.Credentials, error) {
	t := r.tokens.of(key)
	select {
	case t.place <- struct{}{}:
		defer func() { <-t.place }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if c := t.credentials; c != nil && r.cfg.Now().Before(t.renewAt) && (stale == nil || *stale != *c) {
		return c, nil
	}
	c, err := fetch()
	if err != nil {
		return nil, err
	}
	now := r.cfg.Now()
	t.credentials, t.renewAt = c, now.Add(maxTokenAge)
	if !c.Expires.IsZero() {
		if before := c.Expires.Add(-renewAhead - rand.N(renewAhead)); before.Before(t.renewAt) {
			t.renewAt = before
		}
		if shortest := now.Add(shortestLife); t.renewAt.Before(shortest) {
			t.renewAt = shortest
		}
	}
	r.cfg.Log.Info("Fetched a registry's credentials", zap.String("source", c.Source), zap.Bool("executionRole", key.role != ""), zap.Time("expires", c.Expires), zap.Time("renewal", t.renewAt))
	return c, nil
}
