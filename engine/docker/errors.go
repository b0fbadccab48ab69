package docker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/client"
)

// engineError is an error of the engine: its text, and the one class we give it.
type engineError struct {
	text  string
	class error
}

func (e *engineError) Error() string { return e.text }
func (e *engineError) Unwrap() error { return e.class }

func withClass(err, class error) error { return &engineError{text: err.Error(), class: class} }

// refuse is an error of our own.
func refuse(class error, format string, args ...any) error {
	return &engineError{text: fmt.Sprintf(format, args...), class: class}
}

// classify gives an error of the client its class: by kind first, then by the engine's HTTP status, and by text only
// where Docker gives different things the same status.
func classify(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	// A call that ends because its context did may also look like a broken connection.
	if cerr := ctx.Err(); cerr != nil {
		return cerr
	}
	var own *engineError
	if errors.As(err, &own) {
		return own
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	if broken(err) {
		return withClass(err, errdefs.ErrUnavailable)
	}
	return withClass(err, classOf(err))
}

// broken reports whether the connection to the engine could not be made or was lost.
func broken(err error) bool {
	var netErr net.Error
	return client.IsErrConnectionFailed(err) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) || errors.Is(err, net.ErrClosed) || errors.As(err, &netErr)
}

// rule says which class an error has whose text has one of some parts.
type rule struct {
	class error
	parts []string
}

// texts are conditions that Docker reports with a status that says less (mostly 500 or 409).
var texts = []rule{
	{errdefs.ErrUnavailable, []string{ // an engine that refuses our API version refuses every call
		"is too old. minimum supported api version", "is too new. maximum supported api version",
	}},
	{errdefs.ErrResourceExhausted, []string{
		"port is already allocated", "address already in use", "no space left on device", "toomanyrequests", "too many requests",
		"rate limit", "all available ports", "could not find an available", "disk quota exceeded",
	}},
	{errdefs.ErrNotFound, []string{"no such image", "no such container"}},
	{errdefs.ErrInvalidArgument, []string{
		"executable file not found", "unable to find user", "unable to find group", "no matching entries in passwd",
		"unknown capability", "invalid reference format", "cannot start a container that", "no command specified",
		"exec format error", "exec user process caused",
	}},
}

func classOf(err error) error {
	if class := byText(err, texts); class != nil {
		return class
	}
	switch {
	case errdefs.IsNotFound(err):
		return errdefs.ErrNotFound
	case errdefs.IsInvalidArgument(err):
		return errdefs.ErrInvalidArgument
	case errdefs.IsConflict(err), errdefs.IsFailedPrecondition(err):
		return errdefs.ErrFailedPrecondition
	case errdefs.IsUnauthorized(err):
		return errdefs.ErrUnauthenticated
	case errdefs.IsPermissionDenied(err):
		return errdefs.ErrPermissionDenied
	case errdefs.IsResourceExhausted(err):
		return errdefs.ErrResourceExhausted
	case errdefs.IsUnavailable(err):
		return errdefs.ErrUnavailable
	case errdefs.IsNotImplemented(err):
		return errdefs.ErrNotImplemented
	}
	return errdefs.ErrInternal
}

func byText(err error, rules []rule) error {
	text := strings.ToLower(err.Error())
	for _, r := range rules {
		for _, part := range r.parts {
			if strings.Contains(text, part) {
				return r.class
			}
		}
	}
	return nil
}

// pullTexts are what registries answer, as the engine quotes it; the first that fits decides.
var pullTexts = []rule{
	{errdefs.ErrResourceExhausted, []string{"toomanyrequests", "too many requests", "rate limit", "no space left on device"}},
	{errdefs.ErrPermissionDenied, []string{"pull access denied", "access to the resource is denied", "403 forbidden", "denied:", `"denied"`}},
	{errdefs.ErrUnauthenticated, []string{
		"unauthorized", "authentication required", "no basic auth credentials", "incorrect username or password", "401 ",
	}},
	{errdefs.ErrNotFound, []string{
		"manifest unknown", "name unknown", "not found", "no matching manifest", "does not exist", "no such image",
		"manifest_unknown", "name_unknown", // codes of the registry, where the engine quotes its whole answer
	}},
	{errdefs.ErrInvalidArgument, []string{"invalid reference format", "invalid repository name", "unsupported media type"}},
	{errdefs.ErrUnavailable, []string{
		"connection refused", "no such host", "i/o timeout", "timeout exceeded", "deadline exceeded", "tls", "x509",
		"eof", "connection reset", "no route to host", "network is unreachable", "http response to https client",
		"500 internal server error", "502 bad gateway", "503 service unavailable", "504 gateway", "server misbehaving",
		"httpreadseeker", "broken pipe", "received unexpected http status",
	}},
}

// classifyPull is classify for what concerns a registry.
func classifyPull(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	if ctx.Err() == nil && !broken(err) {
		if class := byText(err, pullTexts); class != nil {
			return withClass(err, class)
		}
	}
	return classify(ctx, err)
}
