package auth

import (
	"context"
	"crypto/rand"
	"encoding/base32"
	"encoding/base64"
	"time"

	"github.com/longshore-project/longshore/controlplane/seal"
	"github.com/longshore-project/longshore/controlplane/store"
)

// Key is an access key with its secret in clear.
type Key struct {
	*store.Key
	Secret string
}

// NewKey completes a key with an id and a secret of its own; the record is the caller's to store.
func NewKey(s *seal.Key, like store.Key, now time.Time) Key {
	var id [10]byte
	var random [30]byte
	rand.Read(id[:])
	rand.Read(random[:])
	like.AccessKeyID, like.Created = "AKIA"+base32.StdEncoding.EncodeToString(id[:]), now
	k := Key{&like, base64.StdEncoding.EncodeToString(random[:])}
	k.Sealed = s.Seal(k.AccessKeyID, []byte(k.Secret))
	return k
}

// Unseal returns a stored key with its secret.
func Unseal(s *seal.Key, k *store.Key) (Key, error) {
	secret, err := s.Open(k.AccessKeyID, k.Sealed)
	return Key{k, string(secret)}, err
}

// StoredKeys looks keys up in a store. A key that was just made elsewhere is found; one that exists costs no round trip.
func StoredKeys(st *store.Store, s *seal.Key) func(context.Context, string) (*Key, error) {
	return func(ctx context.Context, id string) (*Key, error) {
		var stored *store.Key
		if st.Peek(func(v *store.View) { stored = v.Key(id) }); stored == nil {
			if err := st.Read(ctx, func(v *store.View) error { stored = v.Key(id); return nil }); err != nil || stored == nil {
				return nil, err
			}
		}
		key, err := Unseal(s, stored)
		if err != nil {
			return nil, err
		}
		return &key, nil
	}
}
