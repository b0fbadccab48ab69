package controlplane

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"go.uber.org/zap"

	"github.com/longshore-project/longshore/controlplane/certs"
	"github.com/longshore-project/longshore/controlplane/store"
)

// presenceTTL is how long a replica's record outlives it.
const presenceTTL = 15 * time.Second

// keepPresence keeps this replica's record in the store, and what it follows: the seal key and the own CA.
func (p *ControlPlane) keepPresence(ctx context.Context) error {
	var session *store.Session
	defer func() {
		if session != nil {
			_ = session.Close() // the record vanishes by itself
		}
	}()
	tick := time.NewTicker(cmp.Or(p.cfg.CertInterval, certs.DefaultInterval))
	defer tick.Stop()
	for said := ""; ; {
		err := errors.Join(p.keepSeal(), p.keepAuthority(ctx))
		var unsaid error
		if session, unsaid = p.announce(ctx, session); unsaid != nil {
			err = errors.Join(err, unsaid)
		}
		switch {
		case err != nil && ctx.Err() == nil && err.Error() != said:
			said = err.Error()
			p.log.Error("what all replicas share can't be followed; trying again", zap.Error(err))
		case err == nil:
			said = ""
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// announce writes this replica's record if it is not there as it should be.
func (p *ControlPlane) announce(ctx context.Context, session *store.Session) (*store.Session, error) {
	if session != nil {
		select {
		case <-session.Done():
			_ = session.Close() // it is lost anyway
			session = nil
		default:
		}
	}
	if session == nil {
		var err error
		if session, err = p.store.Session(ctx, presenceTTL); err != nil {
			return nil, err
		}
	}
	is := &store.Replica{Name: p.replica, SealKeys: p.seal.IDs(), Authorities: certs.Fingerprints(p.authorities())}
	there := false
	p.store.Peek(func(v *store.View) {
		for r := range v.Replicas() {
			there = there || r.Name == is.Name && slices.Equal(r.SealKeys, is.SealKeys) && slices.Equal(r.Authorities, is.Authorities)
		}
	})
	if there {
		return session, nil
	}
	return session, p.store.Txn().Put(is, session.Lease()).StateChange().Commit(ctx)
}

// replicasThat are the names of the other replicas that lack something, when they have had the time to see to it by themselves. One that holds
// agents' connections and has no record is of a version that knows nothing of it.
func (p *ControlPlane) replicasThat(ctx context.Context, lack func(*store.Replica) bool) (names []string, err error) {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(p.cfg.ReplicasWait); ; {
		names = nil
		if err := p.store.Read(ctx, func(v *store.View) error {
			known := map[string]bool{p.replica: true}
			for r := range v.Replicas() {
				if r.Name != p.replica && lack(r) {
					names = append(names, r.Name)
				}
				known[r.Name] = true
			}
			for c := range v.Clusters() {
				for conn := range v.Connections(aws.ToString(c.Object.ClusterName)) {
					if !known[conn.Replica] {
						names = append(names, conn.Replica+" (of an older version)")
						known[conn.Replica] = true
					}
				}
			}
			return nil
		}); err != nil {
			return nil, err
		}
		if len(names) == 0 || time.Now().After(end) {
			return names, nil
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-tick.C:
		}
	}
}
