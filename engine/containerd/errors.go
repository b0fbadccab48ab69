package containerd

import (
	"context"
	"errors"
	"net"
	"net/http"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	remoteserrors "github.com/containerd/containerd/v2/core/remotes/errors"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"google.golang.org/grpc/status"
)

// classify gives an error of containerd its class. An ended context is the cause of whatever came of it.
func classify(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	if cause := over(ctx); cause != nil {
		return cause
	}
	return native(err)
}

// over is why a context has ended. containerd knows the deadline, too, and may have said so before the context's own timer has.
func over(ctx context.Context) error {
	if deadline, has := ctx.Deadline(); has && !time.Now().Before(deadline) {
		return context.DeadlineExceeded
	}
	return ctx.Err()
}

// native is an error with its class, whether it comes as gRPC has it or was translated already.
func native(err error) error {
	if _, raw := status.FromError(err); raw && err != nil {
		return errgrpc.ToNative(err)
	}
	return err
}

// startError is why the OCI runtime did not start a process: what can't be run is the caller's to mend.
func startError(ctx context.Context, err error) error {
	err = classify(ctx, err)
	if errdefs.IsUnavailable(err) || over(ctx) != nil {
		return err
	}
	text := strings.ToLower(err.Error())
	for _, t := range []string{"no such file or directory", "executable file not found", "permission denied", "not a directory", "is a directory", "exec format error", "unable to find user", "invalid argument"} {
		if strings.Contains(text, t) {
			return &wrapped{errdefs.ErrInvalidArgument, err}
		}
	}
	return err
}

// exitCodeOf is the code with which shells and Docker say that a command can't be run.
func exitCodeOf(err error) int {
	text := strings.ToLower(err.Error())
	switch {
	case strings.Contains(text, "no such file or directory"), strings.Contains(text, "executable file not found"):
		return 127
	case strings.Contains(text, "permission denied"), strings.Contains(text, "exec format error"), strings.Contains(text, "is a directory"):
		return 126
	}
	return 128
}

// wrapped is an error with another class, and its own text.
type wrapped struct{ class, err error }

func (w *wrapped) Error() string { return w.err.Error() }
func (w *wrapped) Unwrap() error { return w.class }

// pullError gives what a registry, or the way to it, says its class.
func pullError(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	if cause := over(ctx); cause != nil {
		return cause
	}
	var answer remoteserrors.ErrUnexpectedStatus
	var network net.Error
	var op *net.OpError
	switch {
	case errors.Is(err, docker.ErrInvalidAuthorization):
		return &wrapped{errdefs.ErrUnauthenticated, err}
	case errors.As(err, &answer):
		return &wrapped{classOf(answer.StatusCode), err}
	case errors.Is(err, syscall.ENOSPC), strings.Contains(err.Error(), "no space left on device"):
		return &wrapped{errdefs.ErrResourceExhausted, err}
	case errors.As(err, &op), errors.As(err, &network):
		return &wrapped{errdefs.ErrUnavailable, err}
	}
	text := err.Error()
	for _, known := range []struct {
		part  string
		class error
	}{
		{"401 Unauthorized", errdefs.ErrUnauthenticated}, {"403 Forbidden", errdefs.ErrPermissionDenied}, {"429 Too Many", errdefs.ErrResourceExhausted},
		{"404 Not Found", errdefs.ErrNotFound}, {"no match for platform", errdefs.ErrNotFound},
	} {
		if strings.Contains(text, known.part) {
			return &wrapped{known.class, err}
		}
	}
	return native(err)
}

func classOf(status int) error {
	switch {
	case status == http.StatusUnauthorized:
		return errdefs.ErrUnauthenticated
	case status == http.StatusForbidden:
		return errdefs.ErrPermissionDenied
	case status == http.StatusNotFound:
		return errdefs.ErrNotFound
	case status == http.StatusTooManyRequests:
		return errdefs.ErrResourceExhausted
	case status >= 500:
		return errdefs.ErrUnavailable
	}
	return errdefs.ErrUnknown
}
