package store_test

import (
	"slices"
	"testing"
	"time"

	"github.com/longshore-project/longshore/controlplane/store"
	"github.com/longshore-project/longshore/controlplane/store/storetest"
)

func TestKeysThatEndedStayListedForAMonth(t *testing.T) {
	s, now := storetest.New(t), time.Now()
	day := 24 * time.Hour
	commit(t, s.Txn().
		Create(&store.Key{AccessKeyID: "COUNTS", Role: store.RoleAdmin, Expires: now.Add(day)}).
		Create(&store.Key{AccessKeyID: "ENDED", Role: store.RoleAdmin, Expires: now.Add(-29 * day)}).
		Create(&store.Key{AccessKeyID: "LONG", Role: store.RoleAdmin, Expires: now.Add(-31 * day)}).
		Create(&store.Key{AccessKeyID: "REVOKED", Role: store.RoleAdmin, Revoked: now.Add(-31 * day)}))
	if n, err := s.PurgeOnce(t.Context(), store.PurgeConfig{Now: func() time.Time { return now }}); err != nil || n != 2 {
		t.Errorf("%d were purged, %v", n, err)
	}
	left := read(t, s, func(v *store.View) (ids []string) {
		for k := range v.Keys() {
			ids = append(ids, k.AccessKeyID)
		}
		return ids
	})
	if !slices.Equal(left, []string{"COUNTS", "ENDED"}) {
		t.Errorf("what is left is %v", left)
	}
}
