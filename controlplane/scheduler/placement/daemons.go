package placement

import (
	"strconv"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"

	"github.com/longshore-project/longshore/controlplane/store"
	"github.com/longshore-project/longshore/controlplane/task"
)

// Kept is room on an instance that only one service may take: its daemon belongs there and is not placed yet.
type Kept struct {
	Service string
	Need    store.Resources
}

// Definition is the task definition with this ARN, nil when there is none.
func Definition(v *store.View, arn string) *store.TaskDefinition {
	family, number, _ := strings.Cut(arn[strings.LastIndexByte(arn, '/')+1:], ":")
	revision, err := strconv.ParseInt(number, 10, 32)
	if err != nil {
		return nil
	}
	return v.TaskDefinition(family, int32(revision))
}

// ForDaemon is the request of a task of a DAEMON service.
func ForDaemon(svc *store.Service, def *store.TaskDefinition) (*Request, error) {
	name := aws.ToString(svc.Object.ServiceName)
	return NewRequest(Request{
		Definition: &def.Object, Need: task.Need(&def.Object, nil), Constraints: svc.Object.PlacementConstraints,
		Service: name, Group: "service:" + name,
	})
}

// keepForDaemons takes from the hosts what daemons need that belong there and are not placed yet: those of an instance
// that just joined, or whose daemon is being replaced. A daemon that is too large for the instance keeps nothing.
func keepForDaemons(v *store.View, cluster string, hosts []*Host) {
	for svc := range v.Services(cluster) {
		if svc.Object.SchedulingStrategy != types.SchedulingStrategyDaemon || aws.ToString(svc.Object.Status) != "ACTIVE" {
			continue
		}
		def := Definition(v, aws.ToString(svc.Object.TaskDefinition))
		if def == nil {
			continue
		}
		req, err := ForDaemon(svc, def)
		if err != nil {
			continue
		}
		for _, h := range hosts {
			if v.DaemonSlot(cluster, req.Service, h.Instance.ID) == nil {
				h.keep(req)
			}
		}
	}
}

// keep takes room for a daemon, if it belongs on h.
func (h *Host) keep(r *Request) {
	all := Registered(h.Instance)
	if status(r, h) != nil || r.Matches(h) != nil || r.Need.CPU > all.CPU || r.Need.Memory > all.Memory {
		return
	}
	h.take(r.Need)
	h.Free.PortsTCP, h.Free.PortsUDP = sortedCopy(h.Free.PortsTCP), sortedCopy(h.Free.PortsUDP)
	h.Kept = append(h.Kept, Kept{r.Service, r.Need})
}

// kept names who room is kept for, to be added to a refusal; empty when nobody is meant.
func (h *Host) kept(of func(store.Resources) int64) string {
	var names []string
	for _, k := range h.Kept {
		if n := of(k.Need); n > 0 {
			names = append(names, strconv.FormatInt(n, 10)+" for the daemon of service "+k.Service)
		}
	}
	if names == nil {
		return ""
	}
	return "; kept are " + strings.Join(names, ", ")
}
