package store_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"
	"go.uber.org/goleak"

	"github.com/longshore-project/longshore/controlplane/store"
	"github.com/longshore-project/longshore/controlplane/store/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func cluster(name string) *store.Cluster {
	return &store.Cluster{Object: types.Cluster{ClusterName: aws.String(name), Status: aws.String("ACTIVE")}}
}

func commit(t *testing.T, txn *store.Txn) {
	t.Helper()
	if err := txn.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestAWriterReadsWhatItWrote(t *testing.T) {
	start := time.Now()
	s := storetest.New(t)
	t.Log("ready after", time.Since(start))
	c := cluster("default")
	commit(t, s.Txn().Create(c))
	if c.Revision() == 0 {
		t.Error("the written record has no revision")
	}
	s.Peek(func(v *store.View) {
		if got := v.Cluster("default"); got == nil || got.Revision() != c.Revision() {
			t.Errorf("the view has %v after the commit", got)
		}
	})
	if err := s.Txn().Create(cluster("default")).Commit(t.Context()); !errors.Is(err, store.ErrConflict) {
		t.Errorf("a second Create: %v", err)
	}
	_ = s.Read(context.Background(), func(v *store.View) error { return nil })
}
