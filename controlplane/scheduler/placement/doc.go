// Package placement decides whether a task may run on a container instance, says why not, and chooses among those where
// it may.
package placement

import (
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"

	"github.com/longshore-project/longshore/controlplane/store"
)

// Host is a container instance as placement sees it.
type Host struct {
	Instance   *store.Instance
	Allocation *store.Allocation
	Connected  bool // a live ACS connection exists
	// Free is what is left: CPU, Memory and GPUs are those not taken; PortsTCP and PortsUDP are, as in ECS's
	// remainingResources, the ports that are taken (by tasks or by the agent's own reservations), sorted.
	Free store.Resources
	// Tasks are those placed here that are not STOPPED.
	Tasks []*store.Task
}

// HostsOf are the registered instances of a cluster (ACTIVE, DRAINING …, not INACTIVE), in order of id.
func HostsOf(v *store.View, cluster string) []*Host { panic("skeleton") }

// HostOf is one instance (INACTIVE too), or nil when there is none.
func HostOf(v *store.View, cluster, id string) *Host { panic("skeleton") }

// Request is a task that wants a place. NewRequest makes it ready to use.
type Request struct {
	Definition *types.TaskDefinition
	Need       store.Resources
	// Constraints are those of the service or of the call; the definition's own are added.
	Constraints []types.PlacementConstraint
	Group       string // task group; distinctInstance of a standalone task is about it
	Service     string // service name; distinctInstance of a service is about it
	// IgnoreConstraints is StartTask's way: attributes and resources are checked, constraints are not.
	IgnoreConstraints bool
}

// NewRequest compiles the constraints. Its error, for a client, names the constraint: a *query.SyntaxError is inside when
// an expression can't be parsed.
func NewRequest(r Request) (*Request, error) { panic("skeleton") }

// Refusal says why a task can't run on an instance.
type Refusal struct {
	Host   *Host
	Reason string // ECS's own: RESOURCE:CPU, AGENT, ATTRIBUTE, "MemberOf placement constraint unsatisfied." …
	Detail string // for a person, with numbers
	Short  int64  // how much of the resource is missing, in its unit; 0 for other reasons
}

// Check says why the task can't be placed on h now; nil when it can.
func (r *Request) Check(h *Host) *Refusal { panic("skeleton") }

// Matches looks at attributes and constraints only (not at connection, status and resources): whether a DAEMON service
// belongs on h.
func (r *Request) Matches(h *Host) *Refusal { panic("skeleton") }

// Explain counts the refusals per reason and names the nearest miss with numbers, in one line.
func Explain(refusals []*Refusal) string { panic("skeleton") }

// Choose picks an instance for each of n tasks, one after the other: each is reserved on a copy of its host before the
// next is placed. An instance may be chosen more than once. When fewer than n fit, refusals has one entry for each
// instance, as the next task would have met it; it is empty when all were placed.
func Choose(hosts []*Host, req *Request, strategies []types.PlacementStrategy, n int) (chosen []*Host, refusals []*Refusal) {
	panic("skeleton")
}
