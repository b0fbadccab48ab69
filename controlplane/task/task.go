// Package task is a task's life on the control plane: made from a definition, placed, stopped, what its agent reports
// applied, finished. The API, the service scheduler and the poll endpoint all go through here, so that each rule of a
// task's life stands in one place.
//
// # Model
//
// A task has two statuses. desiredStatus is the control plane's will, RUNNING or STOPPED, and goes from one to the other
// once. lastStatus is what its agent reported, and only moves forward:
//
//	            New + Place           Apply: the agent's RUNNING
//	(nothing) ──────────────► PENDING ───────────────────────────► RUNNING
//	                             │                                    │
//	                             │        Apply: the agent's STOPPED, │
//	                             └──────────► STOPPED ◄───────────────┘
//	                                          or Lost: nobody is left to report
//
// A task with a network interface has two more: it is PROVISIONING before PENDING, until its agent has the interface, and
// DEPROVISIONING before STOPPED, when its containers have ended and its interface is given back. Tasks placed on container
// instances show no other status: ACTIVATING, DEACTIVATING and STOPPING belong to load balancers and service discovery. While a
// task is being stopped its desiredStatus is STOPPED, stoppingAt is set, and lastStatus stays what it was until the agent has
// seen the last container end.
//
// A task's resources are reserved when it is placed and released when it is STOPPED, not earlier: until then its ports
// and memory are in use on the host. [Place] and [Finish] make both part of the transaction that writes the task, so that
// neither a crash nor a race leaks or doubles a reservation. A daemon's slot (its claim on an instance) is held as long.
//
// The functions on records are pure: they take a record, which they do not modify, and return a changed copy. The two on
// transactions, Place and Finish, only add operations. Every change raises the task's version by one.
package task

import (
	"slices"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"

	"github.com/longshore-project/longshore/controlplane/store"
)

// The values of a task's lastStatus and desiredStatus, and of a container's lastStatus.
const (
	Provisioning   = "PROVISIONING"
	Pending        = "PENDING"
	Running        = "RUNNING"
	Deprovisioning = "DEPROVISIONING"
	Stopped        = "STOPPED"
)

// The values of stoppedReason that the control plane gives by itself.
const (
	ReasonEssentialExited = "Essential container in task exited"
	ReasonFailedToStart   = "Task failed to start"
	ReasonUser            = "Task stopped by user"
	ReasonUnhealthy       = "Task failed container health checks"
	ReasonForced          = "Container instance deregistration forced by user"
)

// rank orders statuses; 0 is none that this package knows.
func rank(status string) int {
	return 1 + slices.Index([]string{Provisioning, Pending, Running, Deprovisioning, Stopped}, status)
}

// LastStatus is the status the agent reported last.
func LastStatus(t *store.Task) string { return aws.ToString(t.Object.LastStatus) }

// Starting tells whether the task is not RUNNING yet.
func Starting(t *store.Task) bool { return rank(LastStatus(t)) < rank(Running) }

// Wanted tells whether the task is desired to run.
func Wanted(t *store.Task) bool { return aws.ToString(t.Object.DesiredStatus) == Running }

// IsStopped tells whether the task has come to its end.
func IsStopped(t *store.Task) bool { return LastStatus(t) == Stopped }

// Failed tells whether the task ended by itself: not by a user, a scheduler, or with its host. It is what a service
// counts as a failure.
func Failed(t *store.Task) bool {
	if !IsStopped(t) {
		return false
	}
	code := t.Object.StopCode
	return code == types.TaskStopCodeEssentialContainerExited || code == types.TaskStopCodeTaskFailedToStart
}

// FailedToStart tells whether the task failed without ever having been RUNNING.
func FailedToStart(t *store.Task) bool { return Failed(t) && t.Object.StartedAt == nil }

// Checked tells whether the definition has a container health check that decides on the task's health: one of an
// essential container.
func Checked(def *types.TaskDefinition) bool {
	return slices.ContainsFunc(def.ContainerDefinitions, decidesHealth)
}

// Healthy tells whether the task does what it should: it is RUNNING and, if its definition has health checks, HEALTHY.
func Healthy(t *store.Task, def *types.TaskDefinition) bool {
	return LastStatus(t) == Running && Wanted(t) &&
		(!Checked(def) || t.Object.HealthStatus == types.HealthStatusHealthy)
}

// clone copies the task as deep as this package changes it: the object and its containers.
func clone(t *store.Task) *store.Task {
	n := *t
	n.Object.Containers = slices.Clone(t.Object.Containers)
	n.Object.Attachments = slices.Clone(t.Object.Attachments)
	n.Warnings = slices.Clone(t.Warnings)
	return &n
}

// stamp is a time as clients see it: UTC, in milliseconds.
func stamp(t time.Time) *time.Time {
	t = t.UTC().Truncate(time.Millisecond)
	return &t
}
