package netns

import (
	"encoding/json"
	"testing"
)

func FuzzLease(f *testing.F) {
	f.Add([]byte(`{"id":"web","task":"t","namespace":"/proc/1/ns/net","ports":[{"protocol":"tcp","container":80,"host":0}],"addresses":["10.64.0.2/20","fd64::2/64"],"given":[{"protocol":"tcp","container":80,"host":32768,"count":2}]}`))
	f.Add([]byte(`{"id":"web","addresses":["::ffff:1.2.3.4/120"]}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		l, err := parseLease(raw)
		if err != nil {
			return
		}
		b := Bridge{leases: map[string]*Lease{l.ID: l}}
		for _, family := range families {
			_ = b.published(family)
		}
		_ = macOf(l.Addresses[0].Addr())
		again, err := json.Marshal(leaseRecord{l.ID, l.Task, l.Namespace, l.Ports, l.Addresses, l.Given})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := parseLease(again); err != nil && len(again) <= maxLease {
			t.Fatalf("what was read can't be read again: %v: %s", err, again)
		}
	})
}
