package store_test

import (
	"testing"

	"github.com/longshore-project/longshore/controlplane/store"
)

func FuzzDecodeReadsARecordOrSaysWhyNot(f *testing.F) {
	f.Add("cluster/default", []byte(`{"v":1,"record":{"object":{"clusterName":"default"}}}`))
	f.Add("task/default/t", []byte(`{"v":1,"record":{"cluster":"default","id":"t","reserved":{"cpu":1}}}`))
	f.Add("service-gone/default/web/1", []byte(`{"v":1,"record":{"cluster":"default","object":{"serviceName":"web","status":"INACTIVE"}}}`))
	f.Add("cluster/default", []byte(`{"v":2,"record":{}}`))
	f.Add("cluster/default", []byte(`{"record":{},"v":1}`))
	f.Add("leader/x/1", []byte(``))
	f.Fuzz(func(t *testing.T, key string, value []byte) {
		r, err := store.Decode(key, value, 7)
		if (r == nil) == (err == nil) {
			t.Fatalf("record %v and error %v", r, err)
		}
		if r != nil && r.Revision() != 7 {
			t.Fatalf("revision %d", r.Revision())
		}
	})
}
