package limits

import (
	"errors"
	"net/http"

	"github.com/longshore-project/longshore/controlplane/auth"
)

// A Verifier finds out who signed; *auth.Verifier is one.
type Verifier interface {
	Verify(r *http.Request, body []byte) (*auth.Identity, error)
	VerifyUpgrade(r *http.Request) (*auth.Identity, error)
}

// Verifier is one that holds whoever signed to their limits: beyond them it refuses with [CodeThrottled].
func (l *Limits) Verifier(of Verifier) Verifier { return &verifier{l, of} }

type verifier struct {
	limits *Limits
	of     Verifier
}

func (v *verifier) Verify(r *http.Request, body []byte) (*auth.Identity, error) {
	identity, err := v.of.Verify(r, body)
	return v.judge(r, identity, err)
}

func (v *verifier) VerifyUpgrade(r *http.Request) (*auth.Identity, error) {
	identity, err := v.of.VerifyUpgrade(r)
	return v.judge(r, identity, err)
}

// judge returns who signed even when that is too much, so that it can be told whose call was refused.
func (v *verifier) judge(r *http.Request, identity *auth.Identity, err error) (*auth.Identity, error) {
	var refused *auth.Error
	switch {
	case errors.As(err, &refused):
		v.limits.guessed(r)
		return identity, err
	case err != nil:
		return identity, err
	}
	if refused := v.limits.signed(r, identity); refused != nil {
		return identity, refused
	}
	return identity, nil
}
