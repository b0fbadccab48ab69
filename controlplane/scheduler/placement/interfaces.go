package placement

import (
	"strconv"

	"github.com/longshore-project/longshore/controlplane/store"
	"github.com/longshore-project/longshore/protocol/acs"
)

// defaultInterfaces is how many network interfaces for tasks an instance can have that does not say.
const defaultInterfaces = 250

// justTaken is why a host is refused whose subnets had addresses a moment before.
const justTaken = "the last addresses of its subnets were just taken"

// interfaceSlots is how many network interfaces for tasks an instance can have: its agent says so with an attribute.
func interfaceSlots(inst *store.Instance) int64 {
	if n, err := strconv.ParseInt(attributesOf(inst.Object.Attributes)[acs.AttributeInterfaceSlots], 10, 32); err == nil {
		return max(n, 0)
	}
	return defaultInterfaces
}

func location(r *Request, h *Host) *Refusal {
	if r.Claim == nil {
		return nil
	}
	if why := r.Claim.Elsewhere(h.Subject()); why != "" {
		return &Refusal{Reason: ReasonLocation, Detail: why}
	}
	return nil
}

// Take is Check of a task that is to be placed, and what it gets of the network when nothing refuses it.
func (r *Request) Take(h *Host) ([]store.Interface, *Refusal) {
	if refusal := r.Check(h); refusal != nil || r.Claim == nil {
		return nil, refusal
	}
	if !r.Claim.Pick(h.Instance.ID, h.Subject()) {
		return nil, Refuse(h, ReasonENI, justTaken)
	}
	return r.Claim.Give(h.Instance.ID), nil
}

// OfNetwork tells whether the refusal may end by what changes elsewhere: an address that comes free, or another configuration.
func (r *Refusal) OfNetwork() bool { return r.Reason == ReasonENI || r.Reason == ReasonLocation }

func interfaces(r *Request, h *Host) *Refusal {
	if refusal := amount(ReasonENI, "network interfaces", r.Need.Interfaces, h.Free.Interfaces, interfaceSlots(h.Instance), h.kept(func(r store.Resources) int64 { return r.Interfaces })); refusal != nil {
		return refusal
	}
	if r.Claim == nil {
		return nil
	}
	if why := r.Claim.Exhausted(h.Subject(), h.leaving); why != "" {
		return &Refusal{Reason: ReasonENI, Detail: why, Short: 1}
	}
	return nil
}
