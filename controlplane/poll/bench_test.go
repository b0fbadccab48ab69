package poll

import (
	"testing"
	"time"

	"github.com/longshore-project/longshore/controlplane/store"
	"github.com/longshore-project/longshore/controlplane/task"
	"github.com/longshore-project/longshore/protocol/acs"
)

// BenchmarkAssignmentToDelivery measures from a placement that is committed to the agent having read its payload.
func BenchmarkAssignmentToDelivery(b *testing.B) {
	w := newWorld(b)
	a := w.connect(instance)
	next[*acs.TaskManifestMessage](a)
	for b.Loop() {
		b.StopTimer()
		i := w.instance(instance)
		var alloc *store.Allocation
		w.store.Peek(func(v *store.View) { alloc = v.Allocation(cluster, instance) })
		t, err := task.New(task.Params{Cluster: cluster, Definition: definition(), Instance: i, Now: time.Now()})
		if err != nil {
			b.Fatal(err)
		}
		txn := w.store.Txn()
		task.Place(txn, alloc, false, t)
		w.commit(txn)
		b.StartTimer()
		p := next[*acs.PayloadMessage](a)
		b.StopTimer()
		a.ack(p)
		w.edit(t.ID, func(_ *store.View, t *store.Task) *store.Task {
			n, _ := task.Apply(t, task.StateChange{Status: task.Stopped}, time.Now())
			return n
		})
		b.StartTimer()
	}
}
