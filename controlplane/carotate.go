package controlplane

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"go.uber.org/zap"

	"github.com/longshore-project/longshore/controlplane/certs"
	"github.com/longshore-project/longshore/controlplane/store"
	"github.com/longshore-project/longshore/internal/failpoint"
)

// endsSoon is how long before its end the own CA is called one that ends soon.
const endsSoon = 365 * 24 * time.Hour

// Authorities are the own CA that signs, the next one, and the hosts that would not trust what the next one signs.
type Authorities struct {
	Signs       string    `json:"signs"` // SHA-256 of its certificate
	Ends        time.Time `json:"ends"`
	EndsSoon    bool      `json:"endsSoon"`
	Next        string    `json:"next,omitempty"` // empty: there is none
	Certificate string    `json:"certificate"`    // what hosts and clients are to trust, PEM
	// Lacking are the hosts, each with why.
	Lacking []string `json:"lacking,omitempty"`
}

// ShowCA tells about the own CA of the control plane that runs with a data directory.
func ShowCA(ctx context.Context, dir string) (a Authorities, err error) {
	return a, ask(ctx, dir, http.MethodGet, "/ca", nil, &a)
}

// RotateCA replaces the own CA. Without force that is refused, with the next CA announced, while there are hosts that do not trust that yet.
func RotateCA(ctx context.Context, dir string, force bool) (a Authorities, err error) {
	return a, ask(ctx, dir, http.MethodPost, "/ca/rotate", caRotation{force}, &a)
}

// AbandonCA forgets a next CA that was announced.
func AbandonCA(ctx context.Context, dir string) (a Authorities, err error) {
	return a, ask(ctx, dir, http.MethodPost, "/ca/abandon", nil, &a)
}

type caRotation struct {
	Force bool `json:"force"`
}

// authorities are the certificates of the own CAs that hosts are to trust, PEM.
func (p *ControlPlane) authorities() (bundle []byte) {
	p.store.Peek(func(v *store.View) { bundle = certs.Bundle(v) })
	return bundle
}

// keepAuthority has this replica sign with the store's CA, and tells when that ends.
func (p *ControlPlane) keepAuthority(ctx context.Context) error {
	was := p.authority.Load()
	is, err := certs.Current(p.store, p.seal, was)
	if err != nil || is == was {
		return err
	}
	p.authority.Store(is)
	p.log.Warn("the own CA is another one now: clients are to be given its certificate", zap.String("file", certs.CAFile), zap.Time("ends", is.Certificate().NotAfter))
	if err := certs.WriteCopies(ctx, p.store, p.cfg.DataDir); err != nil {
		return err
	}
	if p.certs == nil {
		return nil
	}
	return p.certs.Refresh()
}

// sayWhenItEnds tells of a CA that ends soon.
func (p *ControlPlane) sayWhenItEnds(now time.Time) {
	if end := p.authority.Load().Certificate().NotAfter; end.Sub(now) < endsSoon {
		p.log.Warn("the own CA ends: replace it before, with \"longshore-control ca rotate\"", zap.Time("ends", end))
	}
}

func (p *ControlPlane) showAuthorities(w http.ResponseWriter, r *http.Request) {
	a, err := p.describeAuthorities(r.Context(), time.Now())
	if err != nil {
		answerKey(w, Key{}, err)
		return
	}
	answerJSON(w, http.StatusOK, a)
}

func (p *ControlPlane) describeAuthorities(ctx context.Context, now time.Time) (a Authorities, err error) {
	err = p.store.Read(ctx, func(v *store.View) error {
		bundle := certs.Bundle(v)
		all := certs.Fingerprints(bundle)
		end := p.authority.Load().Certificate().NotAfter
		a = Authorities{Signs: all[0], Ends: end, EndsSoon: end.Sub(now) < endsSoon, Certificate: string(bundle)}
		if len(all) > 1 {
			a.Next = all[1]
			a.Lacking = p.lacking(v, a.Next)
		}
		return nil
	})
	return a, err
}

// lacking are the hosts that would not trust what a CA has signed, each with why.
func (p *ControlPlane) lacking(v *store.View, fingerprint string) (hosts []string) {
	for c := range v.Clusters() {
		for i := range v.Instances(aws.ToString(c.Object.ClusterName)) {
			if aws.ToString(i.Object.Status) == "INACTIVE" || slices.Contains(i.Trusts, fingerprint) {
				continue
			}
			conn := v.Connection(i.Cluster, i.ID)
			why := "it has not saved the next certificate yet"
			switch {
			case i.Trusts == nil:
				why = "an unmodified agent, or one that is too old, which can't be told: give it the certificate"
			case conn == nil:
				why = "it is not connected"
			}
			hosts = append(hosts, fmt.Sprintf("%s (%s)", aws.ToString(i.Object.ContainerInstanceArn), why))
		}
	}
	return hosts
}

func (p *ControlPlane) serveAuthorityRotation(w http.ResponseWriter, r *http.Request) {
	var in caRotation
	err := readKeyRequest(w, r, &in)
	if err == nil {
		p.rotating.Lock()
		defer p.rotating.Unlock()
		err = p.rotateAuthority(r.Context(), in.Force)
	}
	if err != nil {
		answerKey(w, Key{}, err)
		return
	}
	p.showAuthorities(w, r)
}

// rotateAuthority replaces the own CA. What was done before is not done again.
func (p *ControlPlane) rotateAuthority(ctx context.Context, force bool) error {
	if p.cfg.TLSCert != "" {
		return refuseKey("the certificate is that of --tls-cert, and its CA is not this control plane's: put a certificate of another CA into that file when the hosts trust it")
	}
	failpoint.Hit("controlplane/ca-announce-before")
	next, err := certs.Announce(ctx, p.store, p.seal, time.Now())
	if err != nil {
		return err
	}
	failpoint.Hit("controlplane/ca-announce-after")
	away, err := p.replicasThat(ctx, func(r *store.Replica) bool { return !slices.Contains(r.Authorities, next) })
	if err != nil {
		return err
	}
	if len(away) > 0 {
		return refuseKey("these replicas do not know the next CA yet: %s; their logs say why. Ask again when they do", strings.Join(away, ", "))
	}
	if p.cfg.speaksTLS(p.cfg.Listen) && !force {
		if err := p.awaitTrust(ctx, next); err != nil {
			return err
		}
	}
	failpoint.Hit("controlplane/ca-replace-before")
	if err := certs.Replace(ctx, p.store, p.seal); err != nil {
		return err
	}
	failpoint.Hit("controlplane/ca-replace-after")
	return p.keepAuthority(ctx)
}

// awaitTrust waits until all hosts trust the next CA, and refuses with those that do not.
func (p *ControlPlane) awaitTrust(ctx context.Context, next string) error {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(p.cfg.ReplicasWait); ; {
		var hosts []string
		if err := p.store.Read(ctx, func(v *store.View) error { hosts = p.lacking(v, next); return nil }); err != nil {
			return err
		}
		switch {
		case len(hosts) == 0:
			return nil
		case time.Now().After(end):
			n := len(hosts)
			if n > 20 {
				hosts = append(hosts[:20], "…")
			}
			return refuseKey("the next CA is announced, and the one before still signs: %d hosts do not trust the next one:\n  %s\nAsk again when they do; with --force it is replaced all the same, and they do not connect again before they are given the certificate", n, strings.Join(hosts, "\n  "))
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

func (p *ControlPlane) abandonAuthority(w http.ResponseWriter, r *http.Request) {
	p.rotating.Lock()
	defer p.rotating.Unlock()
	if err := certs.Abandon(r.Context(), p.store); err != nil {
		answerKey(w, Key{}, err)
		return
	}
	p.showAuthorities(w, r)
}
