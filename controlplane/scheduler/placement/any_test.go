package placement

import (
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

func TestAnyHostThatFitsIsFoundWithoutLookingAtAll(t *testing.T) {
	looked := 0
	hosts := make([]*Host, 5000)
	for i := range hosts {
		hosts[i] = having(aHost(fmt.Sprintf("h%04d", i)))
	}
	req := need(t, Request{Group: "g"})
	chosen, refusals := chooseAny(len(hosts), func(i int) *Host {
		looked++
		return hosts[i]
	}, func(*Host) bool { return true }, req, 10)
	if len(chosen) != 10 || refusals != nil || looked > 2*firstLook {
		t.Fatalf("of 5000 hosts, all of which fit, %d were looked at for %d tasks; there are %d refusals", looked, len(chosen), len(refusals))
	}
}

func TestLookingForAnyHostPlacesAndRefusesAsLookingAtAllDoes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var hosts []*Host
		for part := range rapid.IntRange(0, 8).Draw(t, "parts") { // more hosts than are looked at first
			for _, h := range aCluster(t) {
				i := *h.Instance
				i.ID = fmt.Sprint(part, i.ID)
				hosts = append(hosts, NewHost(&i, h.Allocation, h.Connected, h.Tasks))
			}
		}
		req, n := aRequest(t), rapid.IntRange(1, 40).Draw(t, "n")
		all, wants := Choose(hosts, req, nil, n)
		chosen, refusals := chooseAny(len(hosts), func(i int) *Host { return hosts[i] }, func(*Host) bool { return true }, req, n)
		slices.SortFunc(refusals, func(a, b *Refusal) int { return byInstance(a.Host, b.Host) })
		if len(chosen) != len(all) {
			t.Fatalf("%d tasks were placed, and %d by looking at all hosts", len(chosen), len(all))
		}
		if len(refusals) != len(wants) {
			t.Fatalf("%d hosts say why they refuse, and %d when all are looked at", len(refusals), len(wants))
		}
		for i, r := range refusals {
			if r.Host.Instance.ID != wants[i].Host.Instance.ID || r.Reason != wants[i].Reason {
				t.Fatalf("refusal %d is %s by %s, and %s by %s when all hosts are looked at", i, r.Reason, r.Host.Instance.ID, wants[i].Reason, wants[i].Host.Instance.ID)
			}
		}
	})
}
