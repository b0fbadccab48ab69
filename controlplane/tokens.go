package controlplane

import (
	"cmp"
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/longshore-project/longshore/controlplane/auth"
	"github.com/longshore-project/longshore/controlplane/certs"
	"github.com/longshore-project/longshore/controlplane/store"
	"github.com/longshore-project/longshore/protocol/join"
)

// JoinToken is a join key as a person carries it to a host: with where the control plane is, and by what it is known.
type JoinToken struct {
	Key          // without its secret
	URL   string `json:"url"`
	Token string `json:"token"`
}

// CreateToken makes a join key in the control plane that runs with a data directory. Of like Name, MaxUses and Expires count.
func CreateToken(ctx context.Context, dir string, like Key) (t JoinToken, err error) {
	return t, ask(ctx, dir, http.MethodPost, "/tokens", like, &t)
}

// Init makes what a control plane has before it runs for the first time, and a first token: the data directory, keys, the own CA.
// What is there stays, so it can be repeated, as long as the control plane does not run.
func Init(ctx context.Context, cfg Config, like Key) (t JoinToken, err error) {
	if cfg, err = cfg.complete(); err != nil {
		return t, err
	}
	p := &ControlPlane{cfg: cfg, log: cfg.Log, failed: make(chan error, 4), figures: newFigures(), replica: replicaName()}
	defer func() { err = errors.Join(err, p.Close(), keepOwner(cfg.DataDir, cfg.SealKeyFile)) }()
	if err := p.openCerts(); err != nil {
		return t, err
	}
	unlock, err := lockDir(cfg.DataDir)
	if err != nil {
		return t, fmt.Errorf("%w; a token of the one that runs is made with \"longshore-control token create\"", err)
	}
	p.onClose("lock", func() error { unlock(); return nil })
	if err := p.openData(ctx); err != nil {
		return t, err
	}
	return p.makeToken(ctx, like, time.Now())
}

// openData opens the store, and what is kept in it and in the data directory for all else: the seal, the first keys, certificates.
func (p *ControlPlane) openData(ctx context.Context) error {
	if err := p.openStore(ctx); err != nil {
		return err
	}
	if err := p.openSeal(ctx); err != nil {
		return err
	}
	if err := auth.EnsureKeys(ctx, p.store, p.seal, p.cfg.DataDir, time.Now()); err != nil {
		return err
	}
	return p.ownCerts(ctx)
}

func (p *ControlPlane) createToken(w http.ResponseWriter, r *http.Request) {
	var in Key
	err := readKeyRequest(w, r, &in)
	var t JoinToken
	if err == nil {
		t, err = p.makeToken(r.Context(), in, time.Now())
	}
	if err != nil {
		answerKey(w, Key{}, err)
		return
	}
	w.Header().Set(madeKey, t.AccessKeyID)
	answerJSON(w, http.StatusOK, t)
}

func (p *ControlPlane) makeToken(ctx context.Context, like Key, now time.Time) (JoinToken, error) {
	k, err := p.makeKey(ctx, Key{Role: store.RoleHost, Enrolment: true, Name: like.Name, MaxUses: like.MaxUses, Expires: like.Expires}, now)
	if err != nil {
		return JoinToken{}, err
	}
	token := join.Token{AccessKeyID: k.AccessKeyID, SecretAccessKey: k.SecretAccessKey}
	if ca := p.CA(); ca != nil && p.cfg.speaksTLS(p.cfg.Listen) {
		if block, _ := pem.Decode(ca); block != nil {
			token.Pin = join.Pin(block.Bytes)
		}
	}
	k.SecretAccessKey = ""
	return JoinToken{Key: k, URL: p.hostsURL(), Token: token.String()}, nil
}

// hostsURL is where hosts reach this control plane, as far as it can know.
func (p *ControlPlane) hostsURL() string {
	if p.cfg.AdvertiseURL != "" {
		return strings.TrimSuffix(p.cfg.AdvertiseURL, "/")
	}
	listen := p.cfg.Listen
	if p.addr != nil {
		listen = p.addr.String()
	}
	host, port, _ := net.SplitHostPort(listen) // was checked
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = cmp.Or(certs.Address(), "127.0.0.1")
	}
	u := url.URL{Scheme: "http", Host: net.JoinHostPort(host, port)}
	if p.cfg.speaksTLS(p.cfg.Listen) {
		u.Scheme = "https"
	}
	if port == "443" && u.Scheme == "https" { // which an unmodified agent must not have in its URL
		u.Host = strings.TrimSuffix(u.Host, ":443")
	}
	return u.String()
}
