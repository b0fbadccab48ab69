package controlplane

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"go.uber.org/zap"

	"github.com/longshore-project/longshore/controlplane/certs"
	"github.com/longshore-project/longshore/controlplane/seal"
	"github.com/longshore-project/longshore/controlplane/store"
)

// The record by which a seal key is known to be the store's: a text that everybody knows, sealed.
const (
	sealCheck     = "seal"
	sealCheckName = "secret/" + sealCheck
)

// sealPath is the seal key's file.
func (p *ControlPlane) sealPath() string {
	return cmp.Or(p.cfg.SealKeyFile, filepath.Join(p.cfg.DataDir, seal.FileName))
}

// openSeal loads the key that the store's secrets are sealed with, or makes one for a store that has none. A key that is not
// the store's is refused before anything is sealed with it.
func (p *ControlPlane) openSeal(ctx context.Context) error {
	path := p.sealPath()
	if p.cfg.ForgetSealed {
		if err := p.forgetSealed(ctx); err != nil {
			return fmt.Errorf("--forget-sealed: %w", err)
		}
	}
	var err error
	if p.seal, err = seal.Load(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: %w", ErrConfig, err)
	}
	made := false
	err = store.Retry(ctx, func() error {
		var check *store.Secret
		if err := p.store.Read(ctx, func(v *store.View) error { check = v.Secret(sealCheck); return nil }); err != nil {
			return err
		}
		switch {
		case check != nil && p.seal == nil:
			return fmt.Errorf("%w: there is no seal key %s, and the store has secrets that are sealed: %s", ErrConfig, path, sealRemedy)
		case check != nil:
			if err := p.seal.SealWith(sealCheckName, check.Sealed); err != nil {
				return fmt.Errorf("%w: %s is not the seal key of the store: %s", ErrConfig, path, sealRemedy)
			}
			return nil
		case p.seal == nil:
			if p.seal, err = seal.Create(path); err != nil {
				return err
			}
			made = true
		}
		return p.store.Txn().Create(&store.Secret{Name: sealCheck, Sealed: p.seal.Seal(sealCheckName, []byte(sealCheck))}).Commit(ctx)
	})
	if err != nil && made {
		err = errors.Join(err, os.Remove(path)) // another replica was first
	}
	return err
}

const sealRemedy = "put the store's own there, from a backup or from another replica; if it is lost for good, start once with --forget-sealed, " +
	"which ends every access key but those of admin.env and host.env, and the control plane's own CA"

// forgetSpeakers has no key speak for any instance, so that the hosts can register again.
func (p *ControlPlane) forgetSpeakers(ctx context.Context) error {
	return store.Retry(ctx, func() error {
		var next []*store.Instance
		if err := p.store.Read(ctx, func(v *store.View) error {
			for c := range v.Clusters() {
				for i := range v.Instances(aws.ToString(c.Object.ClusterName)) {
					if i.RegisteredBy != "" {
						free := *i
						free.RegisteredBy = ""
						next = append(next, &free)
					}
				}
			}
			return nil
		}); err != nil {
			return err
		}
		for part := range slices.Chunk(next, 100) {
			txn := p.store.Txn()
			for _, i := range part {
				txn.Update(i)
			}
			if err := txn.Commit(ctx); err != nil {
				return err
			}
		}
		return nil
	})
}

// forgetSealed deletes what only a lost seal key opens, and the files with it. Running tasks are not concerned.
func (p *ControlPlane) forgetSealed(ctx context.Context) error {
	deleted := 0
	err := store.Retry(ctx, func() error {
		var doomed []store.Record
		if err := p.store.Read(ctx, func(v *store.View) error {
			for s := range v.Secrets() { // the own CAs, and by what the key is known
				doomed = append(doomed, s)
			}
			for k := range v.Keys() {
				doomed = append(doomed, k)
			}
			return nil
		}); err != nil {
			return err
		}
		for len(doomed) > 0 {
			txn, n := p.store.Txn(), min(len(doomed), 100)
			for _, r := range doomed[:n] {
				txn.Delete(r)
			}
			if err := txn.Commit(ctx); err != nil {
				return err
			}
			deleted, doomed = deleted+n, doomed[n:]
		}
		return nil
	})
	if err == nil {
		err = p.forgetSpeakers(ctx)
	}
	if err != nil {
		return err
	}
	stamp := ".forgotten-" + time.Now().UTC().Format("20060102T150405Z")
	for _, name := range []string{seal.FileName, certs.CAFile, certs.CAKeyFile} {
		path := filepath.Join(p.cfg.DataDir, name)
		if err := os.Rename(path, path+stamp); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	p.log.Warn("what was sealed is forgotten: the control plane's own CA is new, and of the access keys those of admin.env and host.env are left", zap.Int("records", deleted))
	return nil
}
