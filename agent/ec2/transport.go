package ec2

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptrace"
	"sync/atomic"

	"github.com/aws/aws-sdk-go-v2/aws"
)

// transport bounds answers, and tells a service that is not there from one that takes a question and is silent.
type transport struct{ next http.RoundTripper }

// trail is what became of the last request of a question: the client's own errors do not say.
type trail struct {
	token  bool // it was for a token
	status int
	silent bool
	err    error
}

type trailKey struct{}

// followed is a context of a question whose trail is kept.
func followed(ctx context.Context) (context.Context, *trail) {
	t := &trail{}
	return context.WithValue(ctx, trailKey{}, t), t
}

// RoundTrip asks once.
func (t transport) RoundTrip(r *http.Request) (*http.Response, error) {
	var connected atomic.Bool
	trace := &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { connected.Store(true) }}
	resp, err := t.next.RoundTrip(r.WithContext(httptrace.WithClientTrace(r.Context(), trace)))
	found := trail{token: r.Method == http.MethodPut, err: err}
	if err != nil {
		found.silent = connected.Load() && errors.Is(r.Context().Err(), context.DeadlineExceeded)
	} else {
		found.status = resp.StatusCode
		resp.Body = http.MaxBytesReader(nil, resp.Body, maxAnswer)
	}
	if kept, ok := r.Context().Value(trailKey{}).(*trail); ok {
		*kept = found
	}
	return resp, err
}

// final is what is not asked again at once: an answer that is too long.
type final struct{}

// IsErrorRetryable says so.
func (final) IsErrorRetryable(err error) aws.Ternary {
	if errors.As(err, new(*http.MaxBytesError)) {
		return aws.FalseTernary
	}
	return aws.UnknownTernary
}
