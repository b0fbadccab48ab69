package api

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"iter"

	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/longshore-project/longshore/controlplane/auth"
	"github.com/longshore-project/longshore/controlplane/store"
	"github.com/longshore-project/longshore/protocol/agentapi"
	"github.com/longshore-project/longshore/protocol/arn"
	"github.com/longshore-project/longshore/protocol/awsjson"
)

// hostKeyOperation gives a host the key that it is to sign with. Host keys may ask.
const hostKeyOperation = agentapi.HostKeyOperation

// hostKey answers a HostKey call.
func (s *Server) hostKey(ctx context.Context, c *call, body []byte) ([]byte, error) {
	var in agentapi.HostKeyInput
	if _, err := awsjson.Unmarshal(body, &in); err != nil {
		return nil, exception("SerializationException", "The request body is not what HostKey takes: %v", err)
	}
	ref := aws.ToString(in.ContainerInstance)
	a, err := arn.Parse(ref)
	if err != nil || a.Type != arn.TypeContainerInstance || len(a.Path) != 2 {
		return nil, invalid("containerInstance should be the ARN of a container instance, but was %.200q.", ref)
	}
	var key *store.Key
	err = s.change(ctx, func(v *store.View, txn *store.Txn) (err error) {
		if c.identity.Enrolment {
			key, err = s.exchange(v, txn, c, v.Instance(a.Path[0], a.ID()), ref, aws.ToString(in.ClientToken))
			return err
		}
		key, err = successor(v, c, ref)
		if err == nil {
			err = errNothingToDo
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	if key == nil {
		return awsjson.Marshal(&agentapi.HostKeyOutput{})
	}
	open, err := auth.Unseal(s.cfg.Seal, key)
	if err != nil {
		return nil, err
	}
	return awsjson.Marshal(&agentapi.HostKeyOutput{AccessKeyId: &open.AccessKeyID, SecretAccessKey: &open.Secret})
}

// exchange gives an instance that was registered with a join key a key of its own, which alone speaks for it from then on.
// Whoever shows the registration's client token again gets the same key again.
func (s *Server) exchange(v *store.View, txn *store.Txn, c *call, i *store.Instance, ref, token string) (*store.Key, error) {
	if i == nil || token == "" || !instanceIsRegistered(i) {
		return nil, c.denied(ref)
	}
	if own := c.exchanged(v, i, token); own != nil {
		return own, errNothingToDo
	}
	join := v.Key(c.identity.AccessKeyID)
	if join == nil || !join.Usable(c.now) || i.RegisteredBy != join.AccessKeyID || i.ClientToken != token {
		return nil, c.denied(ref)
	}
	made := auth.NewKey(s.cfg.Seal, store.Key{Role: store.RoleHost, Name: c.identity.Name, Instance: ref, From: c.identity.AccessKeyID, Exchange: tokenHash(token)}, c.now)
	owned := *i
	owned.RegisteredBy = made.AccessKeyID
	txn.Create(made.Key).Update(&owned).Unchanged(join).StateChange()
	return made.Key, nil
}

// exchanged is the key that a join key was exchanged for when an instance was registered with it and a client token, nil for
// none that counts. Either key may have been replaced before the host had the answer.
func (c *call) exchanged(v *store.View, i *store.Instance, token string) *store.Key {
	k := v.Key(i.RegisteredBy)
	if k == nil || token == "" || !c.identity.Enrolment || k.Exchange != tokenHash(token) {
		return nil
	}
	known := k.From == c.identity.AccessKeyID
	for join := range successors(v, v.Key(k.From)) {
		known = known || join.AccessKeyID == c.identity.AccessKeyID
	}
	if !known {
		return nil
	}
	for own := range successors(v, k) {
		switch {
		case !own.Revoked.IsZero():
			return nil
		case own.Usable(c.now):
			return own
		}
	}
	return nil
}

// successors are a key, the one that replaces it, and so on.
func successors(v *store.View, k *store.Key) iter.Seq[*store.Key] {
	return func(yield func(*store.Key) bool) {
		seen := map[string]bool{}
		for ; k != nil && !seen[k.AccessKeyID] && yield(k); k = v.Key(k.Successor) {
			seen[k.AccessKeyID] = true
		}
	}
}

// successor is the key that replaces an instance's own, nil when it stays.
func successor(v *store.View, c *call, ref string) (*store.Key, error) {
	if c.identity.Instance != ref {
		return nil, c.denied(ref)
	}
	var next *store.Key
	for k := range successors(v, v.Key(c.identity.AccessKeyID)) {
		if k.AccessKeyID != c.identity.AccessKeyID && k.Usable(c.now) {
			next = k
		}
	}
	return next, nil
}

// tokenHash is what is kept of a client token.
func tokenHash(token string) string {
	sum := sha256.Sum256([]byte(token))
	return hex.EncodeToString(sum[:])
}
