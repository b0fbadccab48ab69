package controlplane

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"

	"go.uber.org/zap"

	"github.com/longshore-project/longshore/controlplane/certs"
	"github.com/longshore-project/longshore/controlplane/store"
	"github.com/longshore-project/longshore/internal/failpoint"
)

// The seal key is replaced in steps, each of which leaves a store that every replica can open, and after each of which the
// rotation goes on where it was when it is asked for again:
//
//	add      the file has a second key, which opens and does not seal
//	change   all replicas have both: the store says that the second one seals
//	renew    all replicas seal with it: what the first one has sealed is sealed again
//	drop     nothing is left of the first one: the file has the second one alone
//
// Which key seals is said by the record sealCheck: it is sealed with that one.

// SealRotation is what a rotation of the seal key did.
type SealRotation struct {
	Key     string   `json:"key"`     // id of the key that seals
	Renewed int      `json:"renewed"` // records that were sealed again
	Damaged []string `json:"damaged"` // records that no key opens, left as they are
	// Others are the replicas that have the old key still; it opens nothing any more.
	Others []string `json:"others"`
}

// RotateSeal replaces the seal key of the control plane that runs with a data directory. One that was refused or broken off goes
// on when it is asked for again.
func RotateSeal(ctx context.Context, dir string) (r SealRotation, err error) {
	return r, ask(ctx, dir, http.MethodPost, "/seal/rotate", nil, &r)
}

func (p *ControlPlane) serveSealRotation(w http.ResponseWriter, r *http.Request) {
	p.rotating.Lock()
	defer p.rotating.Unlock()
	done, err := p.rotateSeal(r.Context(), len(sealSteps))
	if err != nil {
		answerKey(w, Key{}, err)
		return
	}
	p.log.Info("the seal key is replaced", zap.String("key", done.Key), zap.Int("renewed", done.Renewed), zap.Strings("damaged", done.Damaged))
	answerJSON(w, http.StatusOK, done)
}

// sealSteps are those of a rotation.
var sealSteps = []func(*ControlPlane, context.Context, *SealRotation) error{(*ControlPlane).addSeal, (*ControlPlane).changeSeal, (*ControlPlane).renewSealed, (*ControlPlane).dropSeal}

// rotateSeal does the first steps of a rotation, all but those that were done before.
func (p *ControlPlane) rotateSeal(ctx context.Context, steps int) (done SealRotation, err error) {
	for _, step := range sealSteps[:steps] {
		if err := step(p, ctx, &done); err != nil {
			return done, err
		}
	}
	return done, nil
}

// addSeal puts a second key into the file, if there is none.
func (p *ControlPlane) addSeal(context.Context, *SealRotation) error {
	if err := p.seal.Reload(); err != nil {
		return refuseKey("%v", err)
	}
	failpoint.Hit("controlplane/seal-add-before")
	if err := p.seal.Add(); err != nil {
		return refuseKey("%v: put a new key there yourself, as a second line (head -c 32 /dev/urandom | base64), and ask again", err)
	}
	failpoint.Hit("controlplane/seal-add-after")
	return nil
}

// changeSeal has the second key of the file seal, once every replica has it.
func (p *ControlPlane) changeSeal(ctx context.Context, _ *SealRotation) error {
	next := p.seal.Next()
	if next == "" { // the store changed over before
		return nil
	}
	lacking, err := p.replicasThat(ctx, func(r *store.Replica) bool { return !slices.Contains(r.SealKeys, next) })
	if err != nil {
		return err
	}
	if len(lacking) > 0 {
		return refuseKey("these replicas do not have the new seal key yet: %s. Copy %s, which has the old one and the new one, over theirs (0600), and ask again; nothing has changed but that file",
			strings.Join(lacking, ", "), p.sealPath())
	}
	failpoint.Hit("controlplane/seal-change-before")
	err = store.Retry(ctx, func() error {
		var check *store.Secret
		if err := p.store.Read(ctx, func(v *store.View) error { check = v.Secret(sealCheck); return nil }); err != nil {
			return err
		}
		if check == nil {
			return errors.New("the store has no record of its seal key")
		}
		changed := *check
		changed.Sealed = p.seal.SealNext(sealCheckName, []byte(sealCheck))
		return p.store.Txn().Update(&changed).Commit(ctx)
	})
	if err != nil {
		return err
	}
	failpoint.Hit("controlplane/seal-change-after")
	return p.followSeal()
}

// renewSealed seals again what was sealed with the key before, once every replica seals with the new one.
func (p *ControlPlane) renewSealed(ctx context.Context, done *SealRotation) error {
	done.Key = p.seal.IDs()[0]
	lacking, err := p.replicasThat(ctx, func(r *store.Replica) bool { return len(r.SealKeys) == 0 || r.SealKeys[0] != done.Key })
	if err != nil {
		return err
	}
	if len(lacking) > 0 {
		return refuseKey("these replicas do not seal with the new key yet: %s; their logs say why. Ask again when they do", strings.Join(lacking, ", "))
	}
	for {
		var old []store.Record
		done.Damaged = nil
		if err := p.store.Read(ctx, func(v *store.View) error { old, done.Damaged = p.sealedBefore(v); return nil }); err != nil {
			return err
		}
		if len(old) == 0 {
			break
		}
		for part := range slices.Chunk(old, 50) {
			txn := p.store.Txn()
			for _, r := range part {
				txn.Update(r)
			}
			failpoint.Hit("controlplane/seal-renew")
			switch err := txn.StateChange().Commit(ctx); {
			case errors.Is(err, store.ErrConflict): // one was changed meanwhile: the next look finds it
			case err != nil:
				return err
			default:
				done.Renewed += len(part)
			}
		}
	}
	return certs.WriteCopies(ctx, p.store, p.cfg.DataDir)
}

// sealedBefore are the records that another key than the one that seals has sealed, sealed again, and the names of those that no key opens.
func (p *ControlPlane) sealedBefore(v *store.View) (renewed []store.Record, damaged []string) {
	for k := range v.Keys() {
		sealed, err := p.seal.Renew(k.AccessKeyID, k.Sealed)
		switch {
		case err != nil:
			damaged = append(damaged, k.AccessKeyID)
		case sealed != nil:
			next := *k
			next.Sealed = sealed
			renewed = append(renewed, &next)
		}
	}
	for s := range v.Secrets() {
		if len(s.Sealed) == 0 { // it has a public part alone
			continue
		}
		sealed, err := p.seal.Renew("secret/"+s.Name, s.Sealed)
		switch {
		case err != nil:
			damaged = append(damaged, s.Name)
		case sealed != nil:
			next := *s
			next.Sealed = sealed
			renewed = append(renewed, &next)
		}
	}
	return renewed, damaged
}

// dropSeal takes the old key out of the file.
func (p *ControlPlane) dropSeal(ctx context.Context, done *SealRotation) error {
	failpoint.Hit("controlplane/seal-drop-before")
	if err := p.seal.Drop(); err != nil {
		return refuseKey("%v: all is sealed with the new key; take the first line out of that file yourself", err)
	}
	failpoint.Hit("controlplane/seal-drop-after")
	return p.store.Read(ctx, func(v *store.View) error {
		for r := range v.Replicas() {
			if r.Name != p.replica && len(r.SealKeys) > 1 {
				done.Others = append(done.Others, r.Name)
			}
		}
		return nil
	})
}

// followSeal has that key seal which the store's record says.
func (p *ControlPlane) followSeal() (err error) {
	p.store.Peek(func(v *store.View) {
		if check := v.Secret(sealCheck); check != nil {
			err = p.seal.SealWith(sealCheckName, check.Sealed)
		}
	})
	return err
}

// keepSeal follows the seal key's file and the store's record of which key seals.
func (p *ControlPlane) keepSeal() error {
	if err := p.seal.Reload(); err != nil {
		return err
	}
	return p.followSeal()
}
