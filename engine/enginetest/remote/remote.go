// Package remote carries the Runtime contract over a unix socket, so that an engine in memory outlives the process that
// uses it: the agent under test is killed, and finds the containers again that it had left.
//
// Each call is one HTTP request of its own, and an Exec a web socket (package execstream). Its answer is a stream of JSON values: events, progress or output as they come,
// and the result at last. A caller that leaves closes its connection, and that ends the call on the other side, unless
// [Options] let it be carried out all the same, as an engine does that has been asked already.
package remote

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/containerd/errdefs"

	"github.com/longshore-project/longshore/engine"
)

// Runtime is a whole engine: the contract with all that engines may do beyond it.
type Runtime interface {
	engine.Runtime
	engine.Restarter
	engine.VolumeKeeper
	engine.Importer
}

// limit bounds a request, and each value of an answer.
const limit = 64 << 20

// call is the request of any method; each uses some of the members.
type call struct {
	ID     string               `json:"id,omitempty"` // also a reference or a volume's name
	Path   string               `json:"path,omitempty"`
	Grace  time.Duration        `json:"grace,omitempty"`
	Count  int64                `json:"count,omitempty"`
	Spec   *engine.Spec         `json:"spec,omitempty"`
	Logs   *engine.LogOptions   `json:"logs,omitempty"`
	Auth   *engine.RegistryAuth `json:"auth,omitempty"`
	Volume *engine.EngineVolume `json:"volume,omitempty"`
	Config *engine.ImageConfig  `json:"config,omitempty"`
	Data   []byte               `json:"data,omitempty"`
}

// reply is one value of an answer; the one with Done is the last.
type reply struct {
	Ready    bool             `json:"ready,omitempty"`
	Event    *engine.Event    `json:"event,omitempty"`
	Progress *engine.Progress `json:"progress,omitempty"`
	Data     []byte           `json:"data,omitempty"`
	Done     bool             `json:"done,omitempty"`
	Result   json.RawMessage  `json:"result,omitempty"`
	Error    *failure         `json:"error,omitempty"`
}

// failure is an error with its class.
type failure struct {
	Class string `json:"class,omitempty"`
	Text  string `json:"text"`
}

// Error is the engine's own text.
func (f *failure) Error() string { return f.Text }

// Unwrap is the class.
func (f *failure) Unwrap() error { return classes[f.Class] }

var classes = map[string]error{
	"Canceled": context.Canceled, "DeadlineExceeded": context.DeadlineExceeded,
	"NotFound": errdefs.ErrNotFound, "AlreadyExists": errdefs.ErrAlreadyExists, "InvalidArgument": errdefs.ErrInvalidArgument,
	"FailedPrecondition": errdefs.ErrFailedPrecondition, "Unavailable": errdefs.ErrUnavailable, "Unauthenticated": errdefs.ErrUnauthenticated,
	"PermissionDenied": errdefs.ErrPermissionDenied, "ResourceExhausted": errdefs.ErrResourceExhausted, "OutOfRange": errdefs.ErrOutOfRange,
	"NotImplemented": errdefs.ErrNotImplemented, "Aborted": errdefs.ErrAborted, "Internal": errdefs.ErrInternal,
}

func failureOf(err error) *failure {
	if err == nil {
		return nil
	}
	for name, class := range classes {
		if errors.Is(err, class) {
			return &failure{Class: name, Text: err.Error()}
		}
	}
	return &failure{Text: err.Error()}
}
