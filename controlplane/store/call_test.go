package store_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/longshore-project/longshore/controlplane/store"
	"github.com/longshore-project/longshore/controlplane/store/storetest"
)

func TestWhileEtcdDoesNotAnswerWhoeverMayBeStaleReadsOnAndIsTold(t *testing.T) {
	f, cut := newFaulty(storetest.Etcd(t))
	s := storetest.OpenWith(t, store.Config{Client: cut, Log: zap.NewNop(), Timeout: time.Second})
	commit(t, s.Txn().Create(cluster("seen")))
	look := func(mayBeStale bool) (there bool, since time.Time, stale bool, err error) {
		ctx, call := store.WithCall(t.Context(), mayBeStale)
		err = s.Read(ctx, func(v *store.View) error { there = v.Cluster("seen") != nil; return nil })
		since, stale = call.Stale()
		return there, since, stale, err
	}
	if there, _, stale, err := look(true); !there || stale || err != nil {
		t.Errorf("with etcd: %t, %t, %v", there, stale, err)
	}
	f.hang.Store(true)
	before := time.Now()
	for range 3 {
		if there, since, stale, err := look(true); !there || !stale || err != nil || since.After(before) || before.Sub(since) > time.Minute {
			t.Errorf("without etcd: %t, stale %t since %s, %v", there, stale, since, err)
		}
		if _, _, stale, err := look(false); stale || !errors.Is(err, store.ErrUnavailable) {
			t.Errorf("without etcd, for one who wants what is current: %t, %v", stale, err)
		}
	}
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	ctx, _ := store.WithCall(canceled, true)
	if err := s.Read(ctx, func(*store.View) error { return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("a caller who left: %v", err)
	}
	f.hang.Store(false)
	for deadline := time.Now().Add(time.Minute); ; {
		there, _, stale, err := look(true)
		if there && !stale && err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("with etcd again: %t, %t, %v", there, stale, err)
		}
	}
	if there, _, stale, err := look(false); !there || stale || err != nil {
		t.Errorf("with etcd again, for one who wants what is current: %t, %t, %v", there, stale, err)
	}
}

func TestACallKnowsWhetherAnythingMayHaveBeenWritten(t *testing.T) {
	f, cut := newFaulty(storetest.Etcd(t))
	s := storetest.OpenWith(t, store.Config{Client: cut, Log: zap.NewNop(), Timeout: time.Second})
	c := cluster("c")
	ctx, call := store.WithCall(t.Context(), false)
	if err := s.Txn().Create(c).Commit(ctx); err != nil || !call.Wrote() {
		t.Errorf("a write: %v, %t", err, call.Wrote())
	}
	if err := s.Txn().Create(cluster("c")).Commit(ctx); !errors.Is(err, store.ErrConflict) || !call.Wrote() {
		t.Errorf("a conflict after a write: %v, %t", err, call.Wrote())
	}
	ctx, call = store.WithCall(t.Context(), false)
	if err := s.Txn().Create(cluster("c")).Commit(ctx); !errors.Is(err, store.ErrConflict) || errors.Is(err, store.ErrUnknown) || call.Wrote() {
		t.Errorf("a conflict alone: %v, %t", err, call.Wrote())
	}
	f.hang.Store(true)
	if err := s.Read(ctx, func(*store.View) error { return nil }); !errors.Is(err, store.ErrUnavailable) || call.Wrote() {
		t.Errorf("a read that fails: %v, %t", err, call.Wrote())
	}
	if err := s.Txn().Update(c).Commit(ctx); !errors.Is(err, store.ErrUnavailable) || !errors.Is(err, store.ErrUnknown) || !call.Wrote() {
		t.Errorf("a write that is not answered: %v, %t", err, call.Wrote())
	}
}

// A watch over a connection that leads nowhere hears nothing, and nobody tells it so for long.
func TestAWatchThatHearsNothingIsGivenUpForAnotherOne(t *testing.T) {
	f, cut := newFaulty(storetest.Etcd(t))
	s := storetest.OpenWith(t, store.Config{Client: cut, Log: zap.NewNop(), Timeout: 5 * time.Second})
	commit(t, s.Txn().Create(cluster("heard")))
	f.deaf.Store(f.watches.Load())
	commit(t, s.Txn().Create(cluster("not heard"))) // returns when the view has it
	if f.watches.Load() == f.deaf.Load() {
		t.Error("there is no other watch")
	}
}
