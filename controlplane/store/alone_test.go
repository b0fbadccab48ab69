package store_test

import (
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/longshore-project/longshore/controlplane/store"
	"github.com/longshore-project/longshore/controlplane/store/storetest"
)

// Writers tell a reader what they wrote as soon as that is acknowledged, and contend for one record besides.
func TestWithoutOtherWritersAReadHoldsAllThatWasAcknowledgedAndAsksNobody(t *testing.T) {
	f, client := newFaulty(storetest.Etcd(t))
	s := storetest.OpenWith(t, store.Config{Client: client, Alone: true})
	const writers, each = 16, 25
	asked := f.gets.Load()
	commit(t, s.Txn().Create(&store.Allocation{Cluster: "default", Instance: "i"}))
	var wg sync.WaitGroup
	wrote := make(chan string, writers*each)
	for w := range writers {
		wg.Go(func() {
			for i := range each {
				id := fmt.Sprintf("%016x%016x", w, i)
				var tried int64
				err := store.Retry(t.Context(), func() error {
					a := *read(t, s, func(v *store.View) *store.Allocation { return v.Allocation("default", "i") })
					if a.Revision() == tried {
						return errors.New("who was refused reads what he had read before")
					}
					tried = a.Revision()
					a.Tasks = map[string]store.Resources{id: {}}
					return s.Txn().Update(&a).Create(task("default", id, "i", "web")).Commit(t.Context())
				})
				if err != nil {
					t.Error(err)
					return
				}
				wrote <- id
			}
		})
	}
	go func() {
		wg.Wait()
		close(wrote)
	}()
	for id := range wrote {
		if read(t, s, func(v *store.View) *store.Task { return v.Task("default", id) }) == nil {
			t.Errorf("task %s was acknowledged and is not there", id)
		}
	}
	if n := f.gets.Load() - asked; n > 0 {
		t.Errorf("etcd was asked %d times", n)
	}
}
