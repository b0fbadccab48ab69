// Package scheduler is the service scheduler: it keeps the tasks of every DAEMON service as the service wants them.
package scheduler

import "github.com/longshore-project/longshore/controlplane/store"

// DaemonDesired is the number of instances that a DAEMON service belongs on now: its desiredCount.
func DaemonDesired(v *store.View, svc *store.Service) int32 { panic("skeleton") }
