package placement

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// troubleshooting is how ECS ends its service events about placement.
const troubleshooting = "For more information, see the Troubleshooting section of the Amazon ECS Developer Guide."

// Explain counts the refusals per cause and names the nearest miss with numbers, in one line:
//
//	3 instances refused it: 2 short of 128 MiB of memory, 1 AGENT. Nearest is 5c1a…: it has 100 of 2048 MiB of memory free, 128 are needed (28 more).
func Explain(refusals []*Refusal) string {
	if len(refusals) == 0 {
		return "There is no container instance in the cluster."
	}
	counts := map[string]int{}
	for _, r := range refusals {
		counts[r.CountedAs()]++
	}
	var reasons []string
	for reason := range counts {
		reasons = append(reasons, reason)
	}
	slices.SortFunc(reasons, func(a, b string) int {
		return cmp.Or(cmp.Compare(counts[b], counts[a]), cmp.Compare(a, b))
	})
	for i, reason := range reasons {
		reasons[i] = fmt.Sprintf("%d %s", counts[reason], reason)
	}
	instances := "instances"
	if len(refusals) == 1 {
		instances = "instance"
	}
	near := Nearest(refusals)
	return fmt.Sprintf("%d %s refused it: %s. Nearest is %s: %s.", len(refusals), instances, strings.Join(reasons, ", "), near.Host.Instance.ID, near.Detail)
}

// CountedAs is the refusal's cause or, where it has none, its reason.
func (r *Refusal) CountedAs() string { return strings.TrimSuffix(cmp.Or(r.Cause, r.Reason), ".") }

// Nearest is the refusal of the instance that came closest, nil when there is none.
func Nearest(refusals []*Refusal) *Refusal {
	if len(refusals) == 0 {
		return nil
	}
	return slices.MinFunc(refusals, func(a, b *Refusal) int {
		return cmp.Or(cmp.Compare(b.stage, a.stage), cmp.Compare(a.Short, b.Short), cmp.Compare(a.Host.Instance.ID, b.Host.Instance.ID))
	})
}

// Unplaced is in every message of [Event].
const Unplaced = " was unable to place a task because "

// Event is the message of a service's event about tasks that could not be placed. ECS's own text, on which tools match,
// comes first; Explain follows.
func Event(service string, refusals []*Refusal) string {
	head := fmt.Sprintf("(service %s)"+Unplaced+"no container instance met all of its requirements.", service)
	near := Nearest(refusals)
	if near == nil {
		return head + " Reason: No Container Instances were found in your cluster. " + troubleshooting
	}
	trouble := map[string]string{
		ReasonCPU:       "has insufficient CPU units available",
		ReasonMemory:    "has insufficient memory available",
		ReasonPorts:     "is already using a port required by your task",
		ReasonAttribute: "is missing an attribute required by your task",
	}[near.Reason]
	if trouble == "" {
		trouble = fmt.Sprintf("encountered error %q", near.Reason)
	}
	return fmt.Sprintf("%s The closest matching (container-instance %s) %s. %s %s", head, near.Host.Instance.ID, trouble, troubleshooting, Explain(refusals))
}

// Change is what would have to change for the instance to take the task, for a person.
func (r *Refusal) Change() string {
	at := " on " + r.Host.Instance.ID
	switch r.Reason {
	case ReasonInactive:
		return "make the container instance ACTIVE" + strings.Replace(at, " on ", ": ", 1)
	case ReasonAgent:
		return "bring the agent back" + at
	case ReasonAttribute:
		return "give it what the task definition requires" + at + ": " + r.Detail
	case ReasonMemberOf:
		return "change the constraint, or the attributes" + at + ": " + r.Detail
	case ReasonDistinct:
		return "have fewer tasks, or more container instances: only one task may be" + at
	case ReasonCPU:
		return fmt.Sprintf("free %d CPU units%s, or have the task need %d less", r.Short, at, r.Short)
	case ReasonMemory:
		return fmt.Sprintf("free %d MiB of memory%s, or have the task need %d less", r.Short, at, r.Short)
	case ReasonPorts:
		return "free the port" + at + ", or use another one: " + r.Detail
	case ReasonGPU:
		return fmt.Sprintf("free %d GPUs%s", r.Short, at)
	case ReasonENI:
		return "free a network interface for tasks" + at + ", or give it more, and its subnets more addresses: " + r.Detail
	case ReasonLocation:
		return "name a subnet that reaches the container instance" + strings.Replace(at, " on ", " ", 1) + ": " + r.Detail
	case ReasonDaemon:
		return "wait for the daemons" + at + ", or switch their gate off with the tag longshore:daemon-gate"
	}
	return r.Detail
}
