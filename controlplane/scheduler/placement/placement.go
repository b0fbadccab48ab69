// Package placement decides whether a task may run on a container instance, says why not, and chooses among those where
// it may.
//
// # Pipeline
//
// A [Request] goes through a row of filters, each of which lets a [Host] pass or refuses it with a reason that clients
// know and a detail for people. The first refusal counts:
//
//	status      INACTIVE                                            the instance is ACTIVE
//	connection  AGENT                                               its agent is connected
//	attributes  ATTRIBUTE                                           it has what the definition's requiresAttributes say
//	location    LOCATION                                            it is in one of the subnets
//	memberOf    MemberOf placement constraint unsatisfied.          every expression of definition and request holds
//	distinct    DistinctInstance placement constraint unsatisfied.  no other wanted task of the service (or group) is there
//	cpu         RESOURCE:CPU
//	memory      RESOURCE:MEMORY
//	ports       RESOURCE:PORTS                                      no host port is taken, tcp and udp apart
//	gpu         RESOURCE:GPU
//	interfaces  RESOURCE:ENI                                        it can have one more interface, and a subnet has an address
//	gate        DAEMON                                              no daemon comes first there, see [Gate]
//
// An instance is the nearer a miss the later the filter that refused it, and among those of one filter the less of the
// resource is missing: that is the "closest matching" instance of ECS's service events.
//
// Everything here is pure: hosts are a snapshot, and nothing is reserved but on copies. Whoever places compares the
// revision of the [store.Allocation] in its transaction.
package placement

import (
	"fmt"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"

	"github.com/longshore-project/longshore/controlplane/network"
	"github.com/longshore-project/longshore/controlplane/scheduler/query"
	"github.com/longshore-project/longshore/controlplane/store"
)

// The reasons of a refusal, as clients know them.
const (
	ReasonInactive  = "INACTIVE"
	ReasonAgent     = "AGENT"
	ReasonAttribute = "ATTRIBUTE"
	ReasonMemberOf  = "MemberOf placement constraint unsatisfied."
	ReasonDistinct  = "DistinctInstance placement constraint unsatisfied."
	ReasonCPU       = "RESOURCE:CPU"
	ReasonMemory    = "RESOURCE:MEMORY"
	ReasonPorts     = "RESOURCE:PORTS"
	ReasonGPU       = "RESOURCE:GPU"
	ReasonLocation  = "LOCATION"
	ReasonENI       = "RESOURCE:ENI"
	// ReasonDaemon is no reason that ECS has: a daemon comes first there.
	ReasonDaemon = "DAEMON"
)

// Request is a task that wants a place. [NewRequest] makes it ready to use; it is then immutable, and safe for concurrent
// use unless it has a claim on the network, which is for one decision.
type Request struct {
	Definition *types.TaskDefinition
	Need       store.Resources
	// Constraints are those of the service or of the call; the definition's own are added.
	Constraints []types.PlacementConstraint
	Group       string // task group; distinctInstance of a standalone task is about it
	Service     string // service name; distinctInstance of a service is about it
	// IgnoreConstraints is StartTask's way: attributes and resources are checked, constraints are not.
	IgnoreConstraints bool
	// NetworkConfiguration is where a task in network mode awsvpc gets its interface, from Network. Without a Network nothing is
	// looked at but how many interfaces the host can have.
	NetworkConfiguration *types.NetworkConfiguration
	Network              *network.Network

	// Claim is what the tasks want of the network; nil: nothing.
	Claim *network.Claim

	memberOf []memberOf
	distinct bool
	gpus     int // how many
	// aboutTasks is whether a constraint asks about the tasks that are on an instance.
	aboutTasks bool
}

type memberOf struct {
	text string
	expr *query.Expr
}

// NewRequest compiles the constraints. Its error, for a client, names the constraint; a [query.SyntaxError] is inside when
// an expression can't be parsed.
func NewRequest(r Request) (*Request, error) {
	r.memberOf, r.distinct, r.aboutTasks, r.gpus = nil, false, false, max(gpuCount(r.Definition), len(r.Need.GPUs))
	if r.Claim = nil; r.Network != nil && r.awsvpc() {
		r.Claim = r.Network.Claim(r.NetworkConfiguration)
	}
	if r.IgnoreConstraints {
		return &r, nil
	}
	add := func(kind, expression string) error {
		switch types.PlacementConstraintType(kind) {
		case types.PlacementConstraintTypeDistinctInstance:
			if expression != "" {
				return fmt.Errorf("placement constraint distinctInstance takes no expression, but %q is given", expression)
			}
			r.distinct = true
		case types.PlacementConstraintTypeMemberOf:
			expr, err := query.Parse(expression)
			if err != nil {
				return fmt.Errorf("placement constraint memberOf %q: %w", clip(expression), err)
			}
			r.memberOf = append(r.memberOf, memberOf{expression, expr})
			r.aboutTasks = r.aboutTasks || strings.Contains(expression, "task:group") || strings.Contains(expression, "runningTasksCount")
		default:
			return fmt.Errorf("placement constraint type %q does not exist: there are distinctInstance and memberOf", kind)
		}
		return nil
	}
	for _, c := range r.Constraints {
		if err := add(string(c.Type), aws.ToString(c.Expression)); err != nil {
			return nil, err
		}
	}
	if r.Definition == nil {
		return &r, nil
	}
	for _, c := range r.Definition.PlacementConstraints {
		if err := add(string(c.Type), aws.ToString(c.Expression)); err != nil {
			return nil, err
		}
	}
	return &r, nil
}

func (r *Request) awsvpc() bool {
	return r.Definition != nil && r.Definition.NetworkMode == types.NetworkModeAwsvpc
}

func clip(s string) string {
	if r := []rune(s); len(r) > 200 {
		return string(r[:200]) + "…"
	}
	return s
}

// Check says why the task can't be placed on h now; nil when it can.
func (r *Request) Check(h *Host) *Refusal { return r.run(h, 0, len(filters)) }

// Matches looks at attributes and constraints only (not at status, connection and resources): whether a DAEMON service
// belongs on h.
func (r *Request) Matches(h *Host) *Refusal { return r.run(h, attributesFilter, cpuFilter) }

// Satisfies looks at memberOf constraints only: whether own, a task of a DAEMON service that is on h, may stay. It does not
// count against itself in what an expression asks about tasks. own may be nil.
func (r *Request) Satisfies(h *Host, own *store.Task) *Refusal {
	if own != nil && r.aboutTasks {
		h = h.Without(own)
	}
	return r.run(h, memberOfFilter, memberOfFilter+1)
}

// HasAttributes looks at the attributes that the definition requires, and at the subnets that the host is in, only.
func (r *Request) HasAttributes(h *Host) *Refusal { return r.run(h, attributesFilter, memberOfFilter) }

func (r *Request) run(h *Host, from, to int) *Refusal {
	for i := from; i < to; i++ {
		if refusal := filters[i](r, h); refusal != nil {
			refusal.Host, refusal.stage = h, i
			return refusal
		}
	}
	return nil
}

// Refusal says why a task can't run on an instance.
type Refusal struct {
	Host   *Host
	Reason string // ECS's own: RESOURCE:CPU, AGENT, ATTRIBUTE, "MemberOf placement constraint unsatisfied." …
	Cause  string // what it is counted as, the same of all instances that refuse for it: "port 8080 in use"; empty: Reason
	Detail string // for a person, with numbers
	Short  int64  // how much of the resource is missing, in its unit; 0 for other reasons
	stage  int    // which filter refused: the later, the nearer
}

// Refuse is a refusal of a host that all filters let pass.
func Refuse(h *Host, reason, detail string) *Refusal {
	return &Refusal{Host: h, Reason: reason, Detail: detail, stage: len(filters)}
}

// Failure is the entry that RunTask and StartTask answer for the instance.
func (r *Refusal) Failure() types.Failure {
	return types.Failure{Arn: r.Host.Instance.Object.ContainerInstanceArn, Reason: aws.String(r.Reason), Detail: aws.String(r.Detail)}
}

// gpuCount is how many GPUs the definition's containers ask for.
func gpuCount(def *types.TaskDefinition) (n int) {
	if def == nil {
		return 0
	}
	for _, c := range def.ContainerDefinitions {
		for _, r := range c.ResourceRequirements {
			if r.Type == types.ResourceTypeGpu {
				var count int
				if _, err := fmt.Sscan(aws.ToString(r.Value), &count); err == nil {
					n += max(count, 0)
				}
			}
		}
	}
	return n
}

// sortedCopy is s in order, without repetitions.
func sortedCopy[T int32 | string](s []T) []T {
	s = slices.Clone(s)
	slices.Sort(s)
	return slices.Compact(s)
}
