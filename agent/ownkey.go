package agent

import (
	"context"
	"errors"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"go.uber.org/zap"

	"github.com/longshore-project/longshore/agent/hostkey"
	"github.com/longshore-project/longshore/agent/session"
	"github.com/longshore-project/longshore/protocol/agentapi"
)

// ownKey gets this host a key of its own, and the next one when that ends: see package hostkey, and agentapi.HostKeyOperation
// for what is asked.
type ownKey struct {
	ring *hostkey.Ring
	api  session.API   // of Longshore's own operations; nil: there are none at this endpoint
	ask  chan struct{} // of one: there may be another key
}

// credentials are this host's own. A kept key that can't be read is told, and the configured one is used.
func (a *Agent) credentials() aws.CredentialsProvider {
	ring, err := hostkey.Open(a.cfg.DataDir, a.cfg.Credentials(a.lookout), a.reserve.try)
	if err != nil {
		a.log.Error("This host's own access key can't be read; the configured one is used. Restore the file, or remove it to be given a new one", zap.Error(err))
	}
	a.key.ring = ring
	return ring
}

// openKey prepares for asking a Longshore control plane for keys.
func (a *Agent) openKey() error {
	a.key.ask = make(chan struct{}, 1)
	if a.cfg.APIEndpoint == "" {
		return nil
	}
	api, err := agentapi.New(agentapi.Config{Endpoint: a.cfg.APIEndpoint, Region: a.cfg.Region, Service: "ecs", Target: agentapi.OwnTarget,
		Credentials: a.key.ring, HTTPClient: a.client, UserAgent: a.userAgent(), MaxAttempts: 1, Clock: a.clock})
	if err != nil {
		return err
	}
	a.key.api = api
	return nil
}

// keyEnds is told that the key which opened the session has an end.
func (a *Agent) keyEnds() {
	select {
	case a.key.ask <- struct{}{}:
	default:
	}
}

// keepKey asks for the next key when it is told to, until it has an answer, as long as ctx lives.
func (a *Agent) keepKey(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-a.key.ask:
		}
		again := session.BackOff{First: time.Second, Most: 5 * time.Minute, Factor: 2, Jitter: 0.2}
		for err := a.askKey(ctx); err != nil; err = a.askKey(ctx) {
			wait := again.Next()
			a.log.Warn("This host was given no key of its own; asking again", zap.Error(err), zap.Duration("retry", wait))
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(wait):
			}
		}
	}
}

// askKey asks for the key that this host is to sign with, and keeps it. The registration's token is given up when there is
// nothing left to be asked with it. The error is of a control plane that does not answer, or of a file that can't be written.
func (a *Agent) askKey(ctx context.Context) error {
	signing, err := a.key.ring.Retrieve(ctx)
	if err != nil || a.key.api == nil || signing.SessionToken != "" { // a role's: AWS's business
		dropToken(a.cfg.DataDir)
		return nil
	}
	in := &agentapi.HostKeyInput{ContainerInstance: a.arn.Load()}
	if !a.key.ring.Own() {
		var token string
		if err := a.reserve.try(func() (err error) { token, err = keptToken(a.cfg.DataDir); return err }); err != nil {
			return err
		}
		in.ClientToken = &token
	}
	var out agentapi.HostKeyOutput
	err = a.key.api.Call(ctx, agentapi.HostKeyOperation, in, &out)
	var refused *agentapi.APIError
	switch {
	case errors.As(err, &refused) && !refused.Retryable() && refused.Code != "ServerException":
		a.log.Info("The control plane gives this host no key of its own; the configured one stays in use", zap.Error(err))
	case err != nil:
		return err
	case text(out.AccessKeyId) == "":
	default:
		if err := a.key.ring.Keep(hostkey.Key{AccessKeyID: *out.AccessKeyId, SecretAccessKey: text(out.SecretAccessKey)}); err != nil {
			return err
		}
		a.log.Info("This host signs with a key of its own", zap.String("key", *out.AccessKeyId), zap.String("before", signing.AccessKeyID))
	}
	dropToken(a.cfg.DataDir)
	return nil
}
