package placement

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"

	"github.com/longshore-project/longshore/controlplane/network"
	"github.com/longshore-project/longshore/controlplane/scheduler/policy"
	"github.com/longshore-project/longshore/controlplane/store"
	"github.com/longshore-project/longshore/controlplane/task"
)

// Kept is room on an instance that only one service may take: its daemon belongs there and does not have it yet.
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

// ForService is the request of a task of a service with a definition, and with the network configuration of a deployment.
func ForService(net *network.Network, svc *store.Service, def *store.TaskDefinition, nc *types.NetworkConfiguration) (*Request, error) {
	name := aws.ToString(svc.Object.ServiceName)
	return NewRequest(Request{
		Definition: &def.Object, Need: task.Need(&def.Object, nil), Constraints: svc.Object.PlacementConstraints,
		Service: name, Group: "service:" + name, Network: net, NetworkConfiguration: nc,
	})
}

// DaemonsFirst is the hosts, as daemons see them, as they are for all other tasks:
//
//   - With room kept for each daemon that belongs there and is not placed yet, or that the service's definition now wants
//     larger than it is. A daemon that is too large for the instance keeps nothing.
//   - With a [Gate] for each daemon that does not run yet on an instance that joined a short time ago.
//
// wake is when the first gate opens though nothing else changes; zero: there is none. The given hosts stay as they are.
func DaemonsFirst(v *store.View, net *network.Network, cluster string, hosts []*Host, now time.Time) (first []*Host, wake time.Time) {
	d := Daemons{
		Network:    net,
		Definition: func(arn string) *store.TaskDefinition { return Definition(v, arn) },
		Connection: func(instance string) *store.Connection { return v.Connection(cluster, instance) },
	}
	if c := v.Cluster(cluster); c != nil {
		d.Tags = c.Object.Tags
	}
	for svc := range v.Services(cluster) {
		d.Services = append(d.Services, svc)
	}
	return d.First(hosts, now)
}

// Daemons is a cluster as [DaemonsFirst] sees it.
type Daemons struct {
	Tags       []types.Tag // of the cluster
	Services   []*store.Service
	Network    *network.Network
	Definition func(arn string) *store.TaskDefinition
	Connection func(instance string) *store.Connection
}

// First is DaemonsFirst.
func (c *Daemons) First(hosts []*Host, now time.Time) (first []*Host, wake time.Time) {
	first = slices.Clone(hosts)
	for _, svc := range c.Services {
		if svc.Object.SchedulingStrategy != types.SchedulingStrategyDaemon || aws.ToString(svc.Object.Status) != "ACTIVE" {
			continue
		}
		def := c.Definition(aws.ToString(svc.Object.TaskDefinition))
		if def == nil {
			continue
		}
		req, err := ForService(c.Network, svc, def, svc.Object.NetworkConfiguration)
		if err != nil {
			continue
		}
		d := daemon{
			svc: svc, req: req, limit: policy.Gate(c.Tags, svc.Object.Tags), reserves: policy.Reserves(c.Tags),
			definition: c.Definition, connection: c.Connection,
		}
		for i, h := range hosts {
			n, gate := d.come(h, first[i], now)
			first[i] = n
			if gate != nil && (wake.IsZero() || gate.Until.Before(wake)) {
				wake = gate.Until
			}
		}
	}
	return first, wake
}

// A daemon is a DAEMON service that comes first.
type daemon struct {
	svc      *store.Service
	req      *Request
	limit    time.Duration // of its gate
	reserves bool

	definition func(arn string) *store.TaskDefinition
	connection func(instance string) *store.Connection
}

// come puts the daemon before the tasks that may come to a host: bare is the host as it is, n as the daemons before left
// it, a copy when it is another one than bare.
func (d *daemon) come(bare, n *Host, now time.Time) (_ *Host, gate *Gate) {
	own := d.on(bare)
	lacks, gpus, lacking := d.lacks(bare, own)
	joined := bare.Instance.JoinedAt
	until := joined.Add(d.limit)
	young := !joined.IsZero() && now.Before(until)
	if (!lacking || !d.reserves) && !young || status(d.req, bare) != nil || d.req.Matches(bare) != nil {
		return n, nil
	}
	if n == bare {
		n = new(*bare)
		n.Free.PortsTCP, n.Free.PortsUDP, n.Free.GPUs = slices.Clone(n.Free.PortsTCP), slices.Clone(n.Free.PortsUDP), slices.Clone(n.Free.GPUs)
	}
	if lacking && d.reserves {
		n.keep(d.req, lacks, gpus)
	}
	if young {
		if gate = d.gate(bare, own, until, now); gate != nil {
			n.Gates = append(n.Gates[:len(n.Gates):len(n.Gates)], *gate)
		}
	}
	return n, gate
}

// on is the daemon's task on a host, nil when there is none that is not STOPPED. Of two, in a roll-out that starts the new
// one first, it is the one that does more.
func (d *daemon) on(h *Host) (own *store.Task) {
	for _, t := range h.Tasks {
		if t.Service == d.req.Service && (own == nil || does(t) > does(own)) {
			own = t
		}
	}
	return own
}

func does(t *store.Task) (n int) {
	for i, is := range []bool{t.Object.HealthStatus == types.HealthStatusHealthy, task.LastStatus(t) == task.Running, task.Wanted(t)} {
		if is {
			n += 1 << i
		}
	}
	return n
}

// lacks is what the daemon needs beyond what its task has, and how many GPUs; false: nothing. One that is to be started beside
// its old task, and for which replicas leave the instance, needs all of it.
func (d *daemon) lacks(h *Host, own *store.Task) (r store.Resources, gpus int, lacking bool) {
	r, gpus = d.req.Need, d.req.gpus
	r.GPUs = nil
	if own != nil && !d.comesBeside(h, own) {
		has := own.Reserved
		r.CPU, r.Memory, r.Interfaces = max(r.CPU-has.CPU, 0), max(r.Memory-has.Memory, 0), max(r.Interfaces-has.Interfaces, 0)
		r.PortsTCP, r.PortsUDP = without(r.PortsTCP, has.PortsTCP), without(r.PortsUDP, has.PortsUDP)
		gpus = max(gpus-len(has.GPUs), 0)
	}
	return r, gpus, own == nil || gpus > 0 || r.CPU > 0 || r.Memory > 0 || r.Interfaces > 0 || len(r.PortsTCP)+len(r.PortsUDP) > 0
}

// comesBeside tells whether a roll-out has reached the instance that starts the new task beside the old one, with room made.
func (d *daemon) comesBeside(h *Host, own *store.Task) bool {
	tags, primary := d.svc.Object.Tags, aws.ToString(d.primary().Id)
	return policy.Surges(tags) != policy.NoSurge && policy.MakesRoom(tags) && own.Deployment != primary && task.Wanted(own) &&
		h.holds(d.req.Service) == 1 && slices.Contains(d.svc.Rollouts[primary].Instances, h.Instance.ID)
}

func without(ports, these []int32) []int32 {
	return slices.DeleteFunc(slices.Clone(ports), func(p int32) bool { return slices.Contains(these, p) })
}

// keep takes room for what a daemon lacks, unless the daemon is too large for the instance.
func (h *Host) keep(r *Request, lacks store.Resources, gpus int) {
	all := Registered(h.Instance)
	if r.Need.CPU > all.CPU || r.Need.Memory > all.Memory || r.Need.Interfaces > all.Interfaces || r.gpus > len(all.GPUs) {
		return
	}
	lacks.GPUs = slices.Clone(h.Free.GPUs[:min(gpus, len(h.Free.GPUs))])
	h.take(lacks)
	h.Free.PortsTCP, h.Free.PortsUDP = sortedCopy(h.Free.PortsTCP), sortedCopy(h.Free.PortsUDP)
	h.Kept = append(h.Kept[:len(h.Kept):len(h.Kept)], Kept{r.Service, lacks})
}

// holds is how many tasks of a service are on the host.
func (h *Host) holds(service string) (n int) {
	for _, t := range h.Tasks {
		if t.Service == service {
			n++
		}
	}
	return n
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
