package placement

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/longshore-project/longshore/controlplane/store"
	"github.com/longshore-project/longshore/controlplane/task"
	"github.com/longshore-project/longshore/protocol/acs"
)

// A filter refuses a host or lets it pass (nil).
type filter func(*Request, *Host) *Refusal

// The pipeline. Its order is that of the package comment.
var filters = []filter{status, connection, attributes, location, members, distinct, cpu, memory, hostPorts, gpu, interfaces, gates}

// Where the parts of the pipeline begin.
const (
	attributesFilter = 2
	memberOfFilter   = 4
	cpuFilter        = 6
	gateFilter       = 11
)

func status(_ *Request, h *Host) *Refusal {
	if s := aws.ToString(h.Instance.Object.Status); s != "ACTIVE" {
		return &Refusal{Reason: ReasonInactive, Detail: "its status is " + s}
	}
	return nil
}

func connection(_ *Request, h *Host) *Refusal {
	if h.Connected {
		return nil
	}
	detail := "its agent has not connected yet"
	if h.Instance.Unlisted {
		detail = "its agent has not said yet what it runs"
	}
	if since := h.Instance.DisconnectedSince; !since.IsZero() {
		detail = "its agent has not been connected since " + since.UTC().Format(time.RFC3339)
	}
	return &Refusal{Reason: ReasonAgent, Detail: detail}
}

func attributes(r *Request, h *Host) *Refusal {
	if r.Definition == nil {
		return nil
	}
	var missing []string
	for _, a := range r.Definition.RequiresAttributes {
		name, want := aws.ToString(a.Name), aws.ToString(a.Value)
		have, ok := h.Attribute(name)
		switch {
		case !ok:
			missing = append(missing, "attribute "+name+" is missing")
		case want != "" && have != want:
			missing = append(missing, fmt.Sprintf("attribute %s is %q, %q is required", name, have, want))
		}
	}
	if r.awsvpc() {
		if _, ok := h.Attribute(acs.CapabilitySecurityGroups); !ok {
			missing = append(missing, "attribute "+acs.CapabilitySecurityGroups+" is missing: its agent can't make network interfaces")
		}
	}
	if missing == nil {
		return nil
	}
	why := strings.Join(missing, ", ")
	return &Refusal{Reason: ReasonAttribute, Cause: why, Detail: why, Short: int64(len(missing))}
}

func members(r *Request, h *Host) *Refusal {
	for _, m := range r.memberOf {
		if !m.expr.Match(h.Subject()) {
			return &Refusal{Reason: ReasonMemberOf, Cause: m.text + " does not hold", Detail: m.text + " does not hold"}
		}
	}
	return nil
}

func distinct(r *Request, h *Host) *Refusal {
	if !r.distinct {
		return nil
	}
	for _, t := range h.Tasks {
		if task.Wanted(t) && r.fellow(t) {
			return &Refusal{Reason: ReasonDistinct, Detail: "task " + t.ID + " of the same " + r.scope() + " is there"}
		}
	}
	return nil
}

// fellow tells whether t belongs to the same service, or for a standalone request to the same group.
func (r *Request) fellow(t *store.Task) bool {
	if r.Service != "" {
		return t.Service == r.Service
	}
	return t.Service == "" && aws.ToString(t.Object.Group) == r.Group
}

func (r *Request) scope() string {
	if r.Service != "" {
		return "service " + r.Service
	}
	return "group " + r.Group
}

func cpu(r *Request, h *Host) *Refusal {
	return amount(ReasonCPU, "CPU units", r.Need.CPU, h.Free.CPU, Registered(h.Instance).CPU, h.kept(func(r store.Resources) int64 { return r.CPU }))
}

func memory(r *Request, h *Host) *Refusal {
	return amount(ReasonMemory, "MiB of memory", r.Need.Memory, h.Free.Memory, Registered(h.Instance).Memory, h.kept(func(r store.Resources) int64 { return r.Memory }))
}

func gpu(r *Request, h *Host) *Refusal {
	return amount(ReasonGPU, "GPUs", int64(r.gpus), int64(len(h.Free.GPUs)), int64(len(Registered(h.Instance).GPUs)), "")
}

// amount refuses when less is free than is needed. Who needs nothing fits even where too much is taken.
func amount(reason, unit string, need, free, total int64, kept string) *Refusal {
	if need <= 0 || need <= free {
		return nil
	}
	return &Refusal{Reason: reason, Short: need - free, Cause: fmt.Sprintf("short of %d %s", need, unit),
		Detail: fmt.Sprintf("it has %d of %d %s free, %d are needed (%d more)%s", free, total, unit, need, need-free, kept)}
}

func hostPorts(r *Request, h *Host) *Refusal {
	var taken, names []string
	note := func(protocol string, need, used []int32, of func(store.Resources) []int32) {
		for _, p := range need {
			if slices.Contains(used, p) {
				taken = append(taken, fmt.Sprintf("host port %d/%s is taken by %s", p, protocol, h.holder(p, of)))
				names = append(names, strings.TrimSuffix(fmt.Sprintf("%d/%s", p, protocol), "/tcp"))
			}
		}
	}
	note("tcp", r.Need.PortsTCP, h.Free.PortsTCP, func(r store.Resources) []int32 { return r.PortsTCP })
	note("udp", r.Need.PortsUDP, h.Free.PortsUDP, func(r store.Resources) []int32 { return r.PortsUDP })
	if taken == nil {
		return nil
	}
	cause := "port " + names[0] + " in use"
	if len(names) > 1 {
		cause = "ports " + strings.Join(names, ", ") + " in use"
	}
	return &Refusal{Reason: ReasonPorts, Cause: cause, Detail: strings.Join(taken, ", "), Short: int64(len(taken))}
}

// holder names who has a port.
func (h *Host) holder(port int32, of func(store.Resources) []int32) string {
	for _, t := range h.Tasks {
		if slices.Contains(of(t.Reserved), port) {
			return "task " + t.ID
		}
	}
	for _, k := range h.Kept {
		if slices.Contains(of(k.Need), port) {
			return "the daemon of service " + k.Service + ", for which it is kept"
		}
	}
	return "the agent's reservation"
}
