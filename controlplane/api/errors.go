package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"go.uber.org/zap"

	"github.com/longshore-project/longshore/controlplane/auth"
	"github.com/longshore-project/longshore/controlplane/store"
	"github.com/longshore-project/longshore/protocol/arn"
	"github.com/longshore-project/longshore/protocol/ecsapi"
)

// Error is an exception as clients see it: {"__type": Code, "message": Message} under an HTTP status.
type Error struct {
	Status      int // 0 is 400
	Code        string
	Message     string
	ResourceIDs []string // of a ConflictException
}

func (e *Error) Error() string { return e.Code + ": " + e.Message }

func (e *Error) body() []byte {
	doc := map[string]any{"__type": e.Code, "message": e.Message, "Message": e.Message}
	if e.ResourceIDs != nil {
		doc["resourceIds"] = e.ResourceIDs
	}
	b, _ := json.Marshal(doc) // strings only; can't fail
	return b
}

// exception makes an error of any code with status 400.
func exception(code, format string, args ...any) *Error {
	return &Error{Status: http.StatusBadRequest, Code: code, Message: fmt.Sprintf(format, args...)}
}

// invalid is an InvalidParameterException.
func invalid(format string, args ...any) *Error {
	return exception("InvalidParameterException", format, args...)
}

// clientError is a ClientException.
func clientError(format string, args ...any) *Error {
	return exception("ClientException", format, args...)
}

// unsupported is an UnsupportedFeatureException.
func unsupported(format string, args ...any) *Error {
	return exception("UnsupportedFeatureException", format, args...)
}

// The texts that clients compare with.
var (
	errClusterNotFound = exception("ClusterNotFoundException", "Cluster not found.")
	errClusterInactive = clientError("The referenced cluster was inactive.")
	errServiceNotFound = exception("ServiceNotFoundException", "Service not found.")
)

// exception turns any error into what the client is told.
func (s *Server) exception(c *call, err error) *Error {
	var e *Error
	var refused *auth.Error
	var identifier *arn.Error
	switch {
	case errors.As(err, &e):
		if e.Status == 0 {
			withStatus := *e
			withStatus.Status = http.StatusBadRequest
			e = &withStatus
		}
		return e
	case ecsapi.AsError(err) != nil:
		known := ecsapi.AsError(err)
		return &Error{Status: known.Code.HTTPStatus(), Code: string(known.Code), Message: known.Message}
	case errors.As(err, &identifier):
		return invalid("%s", identifier.Message)
	case errors.As(err, &refused):
		return exception(refused.Code, "%s", refused.Message)
	case errors.Is(err, store.ErrFull):
		return exception("ThrottlingException", "Rate exceeded: the control plane's store is nearly full; delete what is no longer needed, or raise its quota.")
	case errors.Is(err, store.ErrConflict):
		return exception("ThrottlingException", "Rate exceeded: the resource is being changed by too many callers at once; try again.")
	case errors.Is(err, store.ErrInvalid):
		s.log.Warn("a request makes a record that can't be stored", zap.String("operation", c.op), zap.String("request_id", c.requestID), zap.Error(err))
		return invalid("The request makes a record that can't be stored; it is too large, or a name in it is not valid.")
	case errors.Is(err, store.ErrUnavailable):
		return c.unavailable()
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return serverException("The call did not end in time; try again.")
	}
	s.log.Error("api call failed inside the control plane", zap.String("operation", c.op), zap.String("request_id", c.requestID), zap.Error(err))
	return serverException("The control plane failed; its log has the cause under request id %s.", c.requestID)
}

// unavailable is the answer while etcd does not answer. With status 503 nothing was done, so that another replica may be asked
// as well; with 500 nobody knows.
func (c *call) unavailable() *Error {
	e := serverException("The control plane's store does not answer: etcd has no majority, or this replica can't reach it. Whether the change was made is not known; try again.")
	if c.stored == nil || !c.stored.Wrote() {
		e = serverException("The control plane's store does not answer: etcd has no majority, or this replica can't reach it. Nothing was changed; try again.")
		e.Status = http.StatusServiceUnavailable
	}
	return e
}

func serverException(format string, args ...any) *Error {
	return &Error{Status: http.StatusInternalServerError, Code: "ServerException", Message: fmt.Sprintf(format, args...)}
}
