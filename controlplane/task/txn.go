package task

import (
	"maps"

	"github.com/longshore-project/longshore/controlplane/store"
)

// Place adds to txn what places the tasks on the instance of alloc: it creates them, claims the addresses of their interfaces,
// reserves their resources, and claims the daemon slot of each one's service when slot is set. The caller has checked that they fit into alloc as it is; if
// anything was placed or released there in between, Commit answers ErrConflict. alloc itself is not modified.
func Place(txn *store.Txn, alloc *store.Allocation, slot bool, tasks ...*store.Task) {
	for _, t := range tasks {
		Create(txn, t)
		if slot {
			txn.Create(&store.DaemonSlot{Cluster: t.Cluster, Service: t.Service, Instance: t.Instance, Task: t.ID})
		}
	}
	txn.Update(Reserve(alloc, tasks...))
}

// Create adds to txn a task and its claims on the addresses of its interfaces. If another task has one of these, Commit answers
// ErrConflict.
func Create(txn *store.Txn, t *store.Task) {
	txn.Create(t)
	for _, a := range store.AddressesOf(t) {
		txn.Create(a)
	}
}

// Reserve is the allocation with the tasks' resources taken.
func Reserve(alloc *store.Allocation, tasks ...*store.Task) *store.Allocation {
	n := copyAllocation(alloc)
	for _, t := range tasks {
		n.Tasks[t.ID] = t.Reserved
	}
	return n
}

// Release is the allocation without the tasks, nil when it has none of them.
func Release(alloc *store.Allocation, tasks ...*store.Task) *store.Allocation {
	n := copyAllocation(alloc)
	for _, t := range tasks {
		delete(n.Tasks, t.ID)
	}
	if len(n.Tasks) == len(alloc.Tasks) {
		return nil
	}
	return n
}

// Fence adds to txn that whoever places a task on the instance meanwhile gets a conflict. A transaction that makes an
// instance unfit for tasks (draining, deregistered) carries it, so that no placement decided before can follow it. A
// transaction that also releases tasks of the instance needs none.
func Fence(txn *store.Txn, alloc *store.Allocation) {
	txn.Update(copyAllocation(alloc))
}

// MaxFinish is how many tasks fit in one transaction of Finish, with room for a few other operations.
const MaxFinish = 24

// Finish adds to txn what records the changed tasks: it updates them and, for those that are STOPPED, releases their
// resources, daemon slots and addresses. Tasks of one instance must come in one call. It marks the transaction as a state change,
// which a nearly full store accepts too. Records that are gone, because their instance or service is, are nothing to release.
func Finish(txn *store.Txn, v *store.View, tasks ...*store.Task) {
	type place struct{ cluster, instance string }
	ended := map[place][]*store.Task{}
	slots := map[string]*store.DaemonSlot{} // as they are left, by service and instance
	for _, t := range tasks {
		txn.Update(t)
		if !IsStopped(t) {
			continue
		}
		at := place{t.Cluster, t.Instance}
		ended[at] = append(ended[at], t)
		for _, claim := range store.AddressesOf(t) {
			if a := v.Address(claim.Address); a != nil && a.Task == t.ID && a.Cluster == t.Cluster {
				txn.Delete(a)
			}
		}
		if t.Service == "" {
			continue
		}
		key := t.Cluster + "/" + t.Service + "/" + t.Instance
		slot := slots[key]
		if slot == nil {
			slot = v.DaemonSlot(t.Cluster, t.Service, t.Instance)
		}
		if slot != nil && slot.Holds(t.ID) {
			slots[key] = leave(slot, t.ID)
		}
	}
	for _, slot := range slots {
		if slot.Task == "" {
			txn.Delete(slot)
		} else {
			txn.Update(slot)
		}
	}
	for at, ts := range ended {
		if alloc := v.Allocation(at.cluster, at.instance); alloc != nil {
			if n := Release(alloc, ts...); n != nil {
				txn.Update(n)
			}
		}
	}
	txn.StateChange()
}

// leave is a slot without one of its tasks.
func leave(slot *store.DaemonSlot, id string) *store.DaemonSlot {
	n := *slot
	if n.Task == id {
		n.Task = n.Beside
	}
	n.Beside = ""
	return &n
}

func copyAllocation(alloc *store.Allocation) *store.Allocation {
	n := *alloc
	if n.Tasks = maps.Clone(alloc.Tasks); n.Tasks == nil {
		n.Tasks = map[string]store.Resources{}
	}
	return &n
}
