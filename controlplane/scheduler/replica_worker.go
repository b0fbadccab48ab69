package scheduler

import (
	"maps"
	"slices"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/ecs/types"

	"github.com/longshore-project/longshore/controlplane/scheduler/placement"
	"github.com/longshore-project/longshore/controlplane/scheduler/policy"
	"github.com/longshore-project/longshore/controlplane/store"
	"github.com/longshore-project/longshore/controlplane/task"
)

// forget drops what was made from a host that is read again.
func (w *worker) forget(id string) {
	old := w.hosts[id]
	if old == nil {
		return
	}
	if z := zone(old); w.zones[z] > 1 {
		w.zones[z]--
	} else {
		delete(w.zones, z)
	}
}

// forReplicas adds to a snapshot what a REPLICA service looks at only when it needs it. It is for use while v is.
func (w *worker) forReplicas(v *store.View, s *snapshot) {
	var tags []types.Tag
	if c := v.Cluster(w.cluster); c != nil {
		tags = c.Object.Tags
	}
	s.lostAfter = policy.LostAfter(tags, s.service.Object.Tags)
	s.find = func(id string) *placement.Host { return w.hosts[id] }
	s.zones = func() map[string]int { return w.zones }
	s.room = func() ([]*placement.Host, time.Time) {
		hosts, gate := w.s.rooms.HostsOf(v, w.cluster, s.now)
		w.looked(len(hosts))
		return hosts, gate
	}
	s.line = func(req *placement.Request, strategies []types.PlacementStrategy) (*placement.Picker, time.Time) {
		line, gate, looked := w.s.rooms.Line(v, w.cluster, s.now, req, strategies)
		w.looked(looked)
		return line, gate
	}
}

// place adds starts to a transaction, and returns the allocations that it writes, by instance. What an earlier
// transaction of the same decision wrote there is the condition now.
func (w *worker) place(txn *store.Txn, job work, starts []start) map[string]*store.Allocation {
	daemon := job.service.Object.SchedulingStrategy == types.SchedulingStrategyDaemon
	tasks, from := map[string][]*store.Task{}, map[string]*store.Allocation{}
	for _, st := range starts {
		id := st.task.Instance
		tasks[id] = append(tasks[id], st.task)
		if from[id] = job.allocations[id]; from[id] == nil {
			from[id] = st.host.Allocation
		}
		task.Create(txn, st.task)
		if daemon {
			w.claim(txn, st.task)
		}
	}
	placed := map[string]*store.Allocation{}
	for _, id := range slices.Sorted(maps.Keys(tasks)) {
		placed[id] = task.Reserve(from[id], tasks[id]...)
		txn.Update(placed[id])
	}
	return placed
}

// claim has a daemon take its service's slot on its instance, from the task beside which it is started if there is one. Where
// another has it there is a conflict.
func (w *worker) claim(txn *store.Txn, t *store.Task) {
	slot := &store.DaemonSlot{Cluster: t.Cluster, Service: t.Service, Instance: t.Instance, Task: t.ID, Beside: t.Beside}
	var held *store.DaemonSlot
	if t.Beside != "" {
		w.s.cfg.Store.Peek(func(v *store.View) { held = v.DaemonSlot(t.Cluster, t.Service, t.Instance) })
	}
	if held == nil || held.Task != t.Beside || held.Beside != "" {
		txn.Create(slot)
		return
	}
	slot.Meta = held.Meta
	txn.Update(slot)
}
