package store_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.uber.org/zap"

	"github.com/longshore-project/longshore/controlplane/store"
	"github.com/longshore-project/longshore/controlplane/store/etcd"
	"github.com/longshore-project/longshore/controlplane/store/storetest"
)

// A store that nobody asks anything sees nothing of what others write beside it.
func TestAnEtcdThatOthersHaveFilledWithHistoryIsEmptiedByAStoreAtRest(t *testing.T) {
	server, err := etcd.Start(t.Context(), etcd.Config{Dir: t.TempDir(), Quota: 16 << 20, UnsafeNoFsync: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Close() }) // after the store
	s := storetest.OpenWith(t, store.Config{Client: server.Client(), Log: zap.NewNop(), Maintain: true, SpaceInterval: time.Hour})
	commit(t, s.Txn().Create(cluster("one"))) // the watch is there
	for value := strings.Repeat("x", 1<<20); !errors.Is(err, rpctypes.ErrNoSpace); {
		if _, err = server.Client().Put(t.Context(), "/others", value); err != nil && !errors.Is(err, rpctypes.ErrNoSpace) {
			t.Fatal(err)
		}
	}
	s.CheckSpace()
	for deadline := time.Now().Add(30 * time.Second); s.Space().Full && time.Now().Before(deadline); {
		s.CheckSpace()
	}
	if space := s.Space(); space.Full || space.Alarm {
		t.Errorf("there is no room: %+v", space)
	}
	commit(t, s.Txn().Create(cluster("more")))
}
