package netns_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/longshore-project/longshore/netns"
)

func TestRulesOfOthersThatDropWhatIsForwardedAreNamedWithTheRemedy(t *testing.T) {
	b := newBridged(t)
	web, _ := b.container("web", netns.Publish{Protocol: "tcp", Container: 80, Host: 8080})
	web.serve(t, 80)
	obstacles := func(want ...string) {
		t.Helper()
		got, err := b.network.Obstacles()
		if err != nil || len(got) != len(want) || !slices.EqualFunc(got, want, strings.HasPrefix) {
			t.Errorf("got %q, %v", got, err)
		}
	}
	obstacles()
	const dropped = "the nftables chain filter FORWARD drops what is forwarded over longshore0 (iptables); let it pass: iptables -I "
	in(t, b.host.ns, script("iptables-nft -P FORWARD DROP"))
	obstacles(dropped + "FORWARD -i longshore0 -j ACCEPT; iptables -I FORWARD -o longshore0 -j ACCEPT")
	in(t, b.host.ns, script("iptables-nft -N DOCKER-USER", "iptables-nft -I FORWARD -j DOCKER-USER"))
	obstacles(dropped + "DOCKER-USER")
	answer(t, []question{{b.machine, b.host, "tcp4", 8080, false}, {b.machine, b.host, "tcp6", 8080, true}})
	got, err := b.network.Obstacles()
	if err != nil || len(got) != 1 {
		t.Fatalf("got %q, %v", got, err)
	}
	_, remedy, _ := strings.Cut(got[0], "let it pass: ")
	in(t, b.host.ns, func() error {
		_, err := said("sh", "-c", strings.ReplaceAll(remedy, "iptables", "iptables-nft"))
		return err
	})
	obstacles()
	answer(t, []question{{b.machine, b.host, "tcp4", 8080, true}})
	in(t, b.host.ns, script("ip link add longshore-task type bridge", "nft add table inet theirs", "nft add chain inet theirs f { type filter hook forward priority 0 ; policy drop ; }"))
	obstacles("the nftables chain filter FORWARD drops what is forwarded over longshore-task (iptables)",
		"the nftables chain theirs f drops what is forwarded over longshore0; let it pass: nft insert rule inet theirs f iifname longshore0 accept",
		"the nftables chain theirs f drops what is forwarded over longshore-task")
}
