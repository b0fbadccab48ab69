package store_test

import (
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/longshore-project/longshore/controlplane/store"
	"github.com/longshore-project/longshore/controlplane/store/etcd"
	"github.com/longshore-project/longshore/controlplane/store/storetest"
)

func filled(b *testing.B, tasks int) *store.Store {
	b.Helper()
	s := storetest.New(b)
	for i := 0; i < tasks; i += 100 {
		txn := s.Txn()
		for j := range min(100, tasks) {
			txn.Create(task("default", fmt.Sprintf("%032x", i+j), fmt.Sprintf("%032x", (i+j)%500), "web"))
		}
		commit(b, txn)
	}
	return s
}

// The cost of a write must not depend on what is there already.
func BenchmarkCommitOfOneTask(b *testing.B) {
	for _, n := range []int{100, 10_000} {
		b.Run(fmt.Sprint("among ", n), func(b *testing.B) {
			s := filled(b, n)
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				commit(b, s.Txn().Create(task("default", fmt.Sprintf("b%031x", i), "i", "web")))
			}
		})
	}
}

func BenchmarkRead(b *testing.B) {
	s := filled(b, 10_000)
	b.Run("alone", func(b *testing.B) {
		for b.Loop() {
			read(b, s, func(v *store.View) *store.Task { return v.Task("default", "x") })
		}
	})
	b.Run("of many at once", func(b *testing.B) {
		b.SetParallelism(64)
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				read(b, s, func(v *store.View) *store.Task { return v.Task("default", "x") })
			}
		})
	})
	b.Run("tasks of an instance", func(b *testing.B) {
		for b.Loop() {
			read(b, s, func(v *store.View) (n int) {
				for range v.TasksOn("default", fmt.Sprintf("%032x", 7)) {
					n++
				}
				return n
			})
		}
	})
}

func BenchmarkStartOfTheEmbeddedServer(b *testing.B) {
	for b.Loop() {
		s, err := etcd.Start(b.Context(), etcd.Config{Dir: b.TempDir()})
		if err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		_ = s.Close()
		b.StartTimer()
	}
}

// A placement is a new task and what it takes of its instance; 8 of them are one transaction.
func BenchmarkPlacementsInBatchesOf8(b *testing.B) {
	const batch = 8
	s := filled(b, 1000)
	var worker atomic.Int32
	b.SetParallelism(16)
	b.RunParallel(func(pb *testing.PB) {
		me := worker.Add(1)
		allocations := make([]*store.Allocation, batch)
		for i := range allocations {
			allocations[i] = &store.Allocation{Cluster: "default", Instance: fmt.Sprintf("w%d-%d", me, i), Tasks: map[string]store.Resources{}}
		}
		for n := 0; pb.Next(); n++ {
			txn := s.Txn()
			for i, a := range allocations {
				id := fmt.Sprintf("w%02d%028d%d", me, n, i)
				a.Tasks = map[string]store.Resources{id: {CPU: 128, Memory: 64}}
				txn.Create(task("default", id, a.Instance, "web")).Update(a)
			}
			commit(b, txn)
		}
	})
	b.ReportMetric(float64(batch*b.N)/b.Elapsed().Seconds(), "placements/s")
}
