package network_test

import (
	"fmt"
	"net/netip"
	"testing"

	"pgregory.net/rapid"

	"github.com/longshore-project/longshore/controlplane/network"
)

// addresses are those of a small network, in order.
func addresses(p netip.Prefix) (all []netip.Addr) {
	for a := p.Addr(); a.IsValid() && p.Contains(a); a = a.Next() {
		all = append(all, a)
	}
	return all
}

// TestTheNextAddressIsTheFirstThatIsFree holds the choice against one that looks at every address.
func TestTheNextAddressIsTheFirstThatIsFree(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		prefix := netip.MustParsePrefix(rapid.SampledFrom([]string{"10.0.0.0/29", "10.0.0.240/28", "255.255.255.224/27", "fd00::40/124", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:fff0/124"}).Draw(t, "prefix"))
		all := addresses(prefix)
		gateway := rapid.SampledFrom(all).Draw(t, "gateway")
		lo := rapid.IntRange(0, len(all)-1).Draw(t, "lo")
		hi := rapid.IntRange(lo, len(all)-1).Draw(t, "hi")
		member := "cidrBlock"
		gatewayMember := "gateway"
		if prefix.Addr().Is6() {
			member, gatewayMember = "ipv6CidrBlock", "ipv6Gateway"
		}
		c, err := network.Parse(fmt.Appendf(nil, `{"subnets":{"s":{%q:%q,%q:%q,"reserved":["%s-%s"]}}}`, member, prefix, gatewayMember, gateway, all[lo], all[hi]))
		usable := map[netip.Addr]bool{}
		for i, a := range all {
			ends := i == 0 || prefix.Addr().Is4() && i == len(all)-1
			if !ends && a != gateway && (i < lo || i > hi) {
				usable[a] = true
			}
		}
		if err != nil {
			if len(usable) > 0 {
				t.Fatal(err)
			}
			return
		}
		b := c.Subnets["s"].Blocks()[0]
		if b.Usable() != uint64(len(usable)) {
			t.Fatalf("%d are usable, not %d", len(usable), b.Usable())
		}
		taken := map[netip.Addr]bool{}
		for _, a := range all {
			if b.Holds(a) != usable[a] {
				t.Fatalf("it holds %s: %v", a, b.Holds(a))
			}
			taken[a] = rapid.Bool().Draw(t, "taken")
		}
		from := rapid.IntRange(0, len(all)-1).Draw(t, "from")
		var want netip.Addr
		for i := range all {
			if a := all[(from+i)%len(all)]; usable[a] && !taken[a] {
				want = a
				break
			}
		}
		got, ok := b.Next(all[from], func(a netip.Addr) bool { return taken[a] })
		if ok != want.IsValid() || got != want {
			t.Fatalf("from %s it is %s, not %s", all[from], want, got)
		}
	})
}
