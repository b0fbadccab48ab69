package certs

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/longshore-project/longshore/controlplane/seal"
	"github.com/longshore-project/longshore/controlplane/store"
)

// # Another CA
//
// The own CA is replaced in three steps, each a transaction, so that whatever ends in between leaves a whole one:
//
//	Announce   there is a next CA beside the one that signs; hosts are to trust both
//	           (all hosts say that they do)
//	Replace    the next one signs, on each replica within seconds; the one before is known by its certificate
//
// What is to be trusted is the [Bundle].

const (
	nextName   = "ca-next"
	beforeName = "ca-before"
	// keptBefore is how much is kept of the CAs before, which a replica that was away may have copies of.
	keptBefore = 16 << 10
)

// Bundle is the certificate of the own CA that signs, and after it that of the next one if there is one, PEM.
func Bundle(v *store.View) []byte {
	signs, next := v.Secret(SecretName), v.Secret(nextName)
	switch {
	case signs == nil:
		return nil
	case next == nil:
		return signs.Public
	}
	return append([]byte(strings.TrimSpace(string(signs.Public))+"\n"), next.Public...)
}

// Fingerprints are the SHA-256 of the certificates of a bundle, in hexadecimal digits.
func Fingerprints(bundle []byte) (all []string) {
	for {
		var block *pem.Block
		if block, bundle = pem.Decode(bundle); block == nil {
			return all
		}
		sum := sha256.Sum256(block.Bytes)
		all = append(all, hex.EncodeToString(sum[:]))
	}
}

// Announce makes the next CA, unless there is one, and returns its fingerprint.
func Announce(ctx context.Context, st *store.Store, sealed *seal.Key, now time.Time) (fingerprint string, err error) {
	var next *store.Secret
	err = store.Retry(ctx, func() error {
		if err := st.Read(ctx, func(v *store.View) error { next = v.Secret(nextName); return nil }); err != nil || next != nil {
			return err
		}
		made, err := newSecret(sealed, nextName, now)
		if err != nil {
			return err
		}
		if err := st.Txn().Create(made).Commit(ctx); err != nil {
			return err
		}
		next = made
		return nil
	})
	if err != nil {
		return "", fmt.Errorf("make the next CA: %w", err)
	}
	return Fingerprints(next.Public)[0], nil
}

// Replace has the next CA sign, if there is one.
func Replace(ctx context.Context, st *store.Store, sealed *seal.Key) error {
	return store.Retry(ctx, func() error {
		var signs, next, before *store.Secret
		if err := st.Read(ctx, func(v *store.View) error {
			signs, next, before = v.Secret(SecretName), v.Secret(nextName), v.Secret(beforeName)
			return nil
		}); err != nil {
			return err
		}
		if next == nil {
			return nil
		}
		if signs == nil {
			return errors.New("the store has no CA")
		}
		key, err := sealed.Open(sealNameOf(nextName), next.Sealed)
		if err != nil {
			return fmt.Errorf("the private key of the next CA: %w", err)
		}
		is := *signs
		is.Public, is.Sealed = next.Public, sealed.Seal(sealNameOf(SecretName), key)
		txn := st.Txn().Update(&is).Delete(next)
		if before == nil {
			txn.Create(&store.Secret{Name: beforeName, Public: signs.Public})
		} else {
			was := *before
			if was.Public = append([]byte(string(signs.Public)), before.Public...); len(was.Public) > keptBefore {
				was.Public = signs.Public
			}
			txn.Update(&was)
		}
		return txn.Commit(ctx)
	})
}

// Abandon forgets the next CA, if there is one.
func Abandon(ctx context.Context, st *store.Store) error {
	return store.Retry(ctx, func() error {
		var next *store.Secret
		if err := st.Read(ctx, func(v *store.View) error { next = v.Secret(nextName); return nil }); err != nil || next == nil {
			return err
		}
		return st.Txn().Delete(next).Commit(ctx)
	})
}

// Current is the store's CA, opened, unless it is a; then a.
func Current(st *store.Store, sealed *seal.Key, a *Authority) (is *Authority, err error) {
	var kept *store.Secret
	st.Peek(func(v *store.View) { kept = v.Secret(SecretName) })
	if kept == nil || string(kept.Public) == string(a.PEM()) {
		return a, nil
	}
	return open(kept, sealed)
}

// wasOnce tells whether a certificate is that of a CA which the store had before.
func wasOnce(before *store.Secret, certificate []byte) bool {
	return before != nil && len(certificate) > 0 && strings.Contains(string(before.Public), strings.TrimSpace(string(certificate)))
}

func sealNameOf(secret string) string { return "secret/" + secret }
