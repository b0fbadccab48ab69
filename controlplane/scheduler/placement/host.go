package placement

import (
	"maps"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"

	"github.com/longshore-project/longshore/controlplane/network"
	"github.com/longshore-project/longshore/controlplane/scheduler/query"
	"github.com/longshore-project/longshore/controlplane/store"
	"github.com/longshore-project/longshore/controlplane/task"
)

// Host is a container instance as placement sees it. It is for one goroutine.
type Host struct {
	Instance   *store.Instance
	Allocation *store.Allocation
	Connected  bool // a live ACS connection exists, and it is known what runs there
	// Free is what is left: CPU, Memory and GPUs are those not taken; PortsTCP and PortsUDP are, as in ECS's
	// remainingResources, the ports that are taken (by tasks or by the agent's own reservations), sorted. CPU, Memory and
	// Interfaces are negative when the instance registered anew with less than its tasks take.
	Free store.Resources
	// Tasks are those placed here that are not STOPPED.
	Tasks []*store.Task
	// Kept is the room that is kept for daemons; Free is without it.
	Kept []Kept
	// Gates are the daemons for which tasks that are no daemons have to wait here; none when the instance takes any.
	Gates []Gate

	leaving []store.Interface // of tasks that will be gone, see [Host.Without]
	subject *query.Subject    // made when first needed
}

// HostsOf are the registered instances of a cluster (ACTIVE, DRAINING …, not INACTIVE), in order of id, as they are for
// tasks that are no daemons: see [DaemonsFirst].
func HostsOf(v *store.View, net *network.Network, cluster string, now time.Time) []*Host {
	hosts, _ := DaemonsFirst(v, net, cluster, HostsForDaemons(v, cluster), now)
	return hosts
}

// HostsForDaemons are the registered instances of a cluster with nothing kept.
func HostsForDaemons(v *store.View, cluster string) (hosts []*Host) {
	for inst := range v.Instances(cluster) {
		if takesPart(inst) {
			hosts = append(hosts, hostOf(v, inst))
		}
	}
	return hosts
}

// takesPart tells whether an instance is one of its cluster's.
func takesPart(inst *store.Instance) bool {
	return inst.InactiveSince.IsZero() && aws.ToString(inst.Object.Status) != "INACTIVE"
}

// HostOf is one instance (INACTIVE too) as it is for a task that was sent there by name, or nil when there is none: with
// room kept for the daemons that belong there, but no gate.
func HostOf(v *store.View, net *network.Network, cluster, id string) *Host {
	h := HostForDaemons(v, cluster, id)
	if h == nil {
		return nil
	}
	hosts, _ := DaemonsFirst(v, net, cluster, []*Host{h}, time.Time{})
	hosts[0].Gates = nil
	return hosts[0]
}

// HostForDaemons is one instance (INACTIVE too) with nothing kept, or nil when there is none.
func HostForDaemons(v *store.View, cluster, id string) *Host {
	if inst := v.Instance(cluster, id); inst != nil {
		return hostOf(v, inst)
	}
	return nil
}

// SameHost tells whether what changed of a record leaves its host as it is for all that is, or is to be, placed there: a task of no
// service went on, or its agent acknowledged it. A Host that is not made anew for that has the task as it was before.
func SameHost(c store.Change) bool {
	was, _ := c.Old.(*store.Task)
	is, _ := c.New.(*store.Task)
	return was != nil && is != nil && was.Service == "" && is.Service == "" && was.Instance == is.Instance && task.Wanted(was) == task.Wanted(is) && task.IsStopped(was) == task.IsStopped(is) &&
		was.ProtectedUntil.Equal(is.ProtectedUntil)
}

func hostOf(v *store.View, inst *store.Instance) *Host {
	var tasks []*store.Task
	for t := range v.LiveOn(inst.Cluster, inst.ID) {
		tasks = append(tasks, t)
	}
	return NewHost(inst, v.Allocation(inst.Cluster, inst.ID), v.Connection(inst.Cluster, inst.ID) != nil && !inst.Unlisted, tasks)
}

// NewHost is a host of these parts. alloc may be nil: nothing is taken.
func NewHost(inst *store.Instance, alloc *store.Allocation, connected bool, tasks []*store.Task) *Host {
	h := &Host{Instance: inst, Allocation: alloc, Connected: connected, Free: Registered(inst), Tasks: tasks}
	if alloc != nil {
		for _, r := range alloc.Tasks {
			h.take(r)
		}
	}
	h.Free.PortsTCP, h.Free.PortsUDP = sortedCopy(h.Free.PortsTCP), sortedCopy(h.Free.PortsUDP)
	return h
}

// Registered is what an instance registered with. Its ports are those that its agent reserved.
func Registered(inst *store.Instance) (r store.Resources) {
	for _, res := range inst.Object.RegisteredResources {
		switch aws.ToString(res.Name) {
		case "CPU":
			r.CPU = int64(res.IntegerValue)
		case "MEMORY":
			r.Memory = int64(res.IntegerValue)
		case "PORTS":
			r.PortsTCP = ports(res.StringSetValue)
		case "PORTS_UDP":
			r.PortsUDP = ports(res.StringSetValue)
		case "GPU":
			r.GPUs = slices.Clone(res.StringSetValue)
		}
	}
	r.Interfaces = interfaceSlots(inst)
	return r
}

func ports(set []string) (ports []int32) {
	for _, s := range set {
		if p, err := strconv.ParseUint(s, 10, 16); err == nil {
			ports = append(ports, int32(p))
		}
	}
	return ports
}

func (h *Host) take(r store.Resources) {
	h.Free.CPU -= r.CPU
	h.Free.Memory -= r.Memory
	h.Free.Interfaces -= r.Interfaces
	h.Free.PortsTCP = append(h.Free.PortsTCP, r.PortsTCP...)
	h.Free.PortsUDP = append(h.Free.PortsUDP, r.PortsUDP...)
	h.Free.GPUs = slices.DeleteFunc(h.Free.GPUs, func(g string) bool { return slices.Contains(r.GPUs, g) })
}

// With is the host after one more task of the request was placed there. h stays as it is.
func (h *Host) With(r *Request) *Host {
	n := *h
	n.subject = nil
	n.Free.PortsTCP, n.Free.PortsUDP, n.Free.GPUs = slices.Clone(h.Free.PortsTCP), slices.Clone(h.Free.PortsUDP), slices.Clone(h.Free.GPUs)
	need := r.Need
	if len(need.GPUs) == 0 {
		need.GPUs = h.Free.GPUs[:min(r.gpus, len(h.Free.GPUs))]
	}
	n.take(need)
	n.Free.PortsTCP, n.Free.PortsUDP = sortedCopy(n.Free.PortsTCP), sortedCopy(n.Free.PortsUDP)
	t := &store.Task{Cluster: h.Instance.Cluster, Instance: h.Instance.ID, Service: r.Service, Reserved: need}
	t.Object.Group, t.Object.DesiredStatus, t.Object.LastStatus = aws.String(r.Group), aws.String(task.Running), aws.String(task.Pending)
	n.Tasks = append(slices.Clone(h.Tasks), t)
	return &n
}

// Without is the host as it will be when the task is STOPPED. h stays as it is.
func (h *Host) Without(t *store.Task) *Host {
	alloc := &store.Allocation{Tasks: map[string]store.Resources{}}
	if h.Allocation != nil {
		*alloc = *h.Allocation
		alloc.Tasks = maps.Clone(h.Allocation.Tasks)
		delete(alloc.Tasks, t.ID)
	}
	tasks := slices.DeleteFunc(slices.Clone(h.Tasks), func(o *store.Task) bool { return o.ID == t.ID })
	n := NewHost(h.Instance, alloc, h.Connected, tasks)
	n.leaving = append(slices.Clip(h.leaving), t.Interfaces...)
	return n
}

// Attribute is an attribute's value, and whether there is such an attribute.
func (h *Host) Attribute(name string) (string, bool) {
	v, ok := h.Subject().Attributes[name]
	return v, ok
}

// Subject is the host as the query language sees it.
func (h *Host) Subject() *query.Subject {
	if h.subject != nil {
		return h.subject
	}
	o := &h.Instance.Object
	s := &query.Subject{
		Attributes:     attributesOf(o.Attributes),
		AgentConnected: h.Connected,
		EC2InstanceID:  aws.ToString(o.Ec2InstanceId),
		RegisteredAt:   aws.ToTime(o.RegisteredAt),
	}
	if o.VersionInfo != nil {
		s.AgentVersion = aws.ToString(o.VersionInfo.AgentVersion)
	}
	for _, t := range h.Tasks {
		if task.Wanted(t) {
			s.RunningTasksCount++
			if g := aws.ToString(t.Object.Group); g != "" {
				s.TaskGroups = append(s.TaskGroups, g)
			}
		}
	}
	h.subject = s
	return s
}

// indexed are lists of attributes as maps. Records are immutable and hosts of one kind share their list, so there are few.
var indexed struct {
	sync.Mutex
	maps map[*types.Attribute]indexedList
}

type indexedList struct {
	size int
	of   map[string]string
}

const mostIndexed = 4096

// attributesOf is a record's list of attributes by name. It is shared: not to be changed.
func attributesOf(list []types.Attribute) map[string]string {
	if len(list) == 0 {
		return map[string]string{}
	}
	indexed.Lock()
	defer indexed.Unlock()
	if known, ok := indexed.maps[&list[0]]; ok && known.size == len(list) {
		return known.of
	}
	of := make(map[string]string, len(list))
	for _, a := range list {
		of[aws.ToString(a.Name)] = aws.ToString(a.Value)
	}
	if indexed.maps == nil || len(indexed.maps) >= mostIndexed {
		indexed.maps = map[*types.Attribute]indexedList{}
	}
	indexed.maps[&list[0]] = indexedList{len(list), of}
	return of
}
