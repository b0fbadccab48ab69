package engine

import (
	"context"
	"time"
)

// LogWatcher is a Runtime that knows what of containers' output their log drivers have lost.
type LogWatcher interface {
	// LogLosses returns the containers that are there whose output was lost in part, since their process was started. It asks no one but
	// the host's disk while nothing was lost.
	LogLosses(ctx context.Context) ([]LogLoss, error)
}

// LogLoss is what a container's log driver has lost, in lines.
type LogLoss struct {
	ContainerID, TaskArn, Container string
	Driver                          string
	Dropped                         int64 // they had no room in the buffer of the mode non-blocking
	Failed                          int64 // the driver could not write them
	LastError                       string
	Since                           time.Time // of the first
}
