//go:build vm

package netns_test

import (
	"bytes"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	nsfd "github.com/vishvananda/netns"

	"github.com/longshore-project/longshore/netns"
)

// The second network card of the machine has this MAC; see test/vm/run.sh.
const secondCard = "02:00:0a:07:00:01"

// TestWholeMachineGivesCardsBack needs a real card: the kernel moves those to the machine's first namespace when theirs ends, while
// the veths that stand for cards elsewhere end with it.
func TestWholeMachineGivesCardsBack(t *testing.T) {
	mac, err := net.ParseMAC(secondCard)
	if err != nil {
		t.Fatal(err)
	}
	name := func() (name, alias string) {
		links, err := netlink.LinkList()
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range links {
			if bytes.Equal(l.Attrs().HardwareAddr, mac) {
				return l.Attrs().Name, l.Attrs().Alias
			}
		}
		return "", ""
	}
	before, _ := name()
	if before == "" {
		t.Fatalf("the machine has no card with the MAC %s: start it by test/vm/run.sh", secondCard)
	}
	h := netns.Host{}
	for _, abrupt := range []bool{false, true, true} {
		a := task(t, 1, netns.Card{})
		ensure(t, h, a)
		if now, _ := name(); now != "" {
			t.Fatalf("the card is still the host's, as %s", now)
		}
		ns, err := nsfd.GetFromPath(a.Namespace)
		if err != nil {
			t.Fatal(err)
		}
		if got := shows(t, ns, "ip addr show dev eth0"); !strings.Contains(got, "10.7.0.1/24") {
			t.Errorf("in the task it is\n%s", got)
		}
		_ = ns.Close() // an open file would keep the namespace
		if abrupt {
			if err := netns.RemoveNamespace(a.Namespace); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := h.RemoveTask(t.Context(), a); err != nil {
			t.Fatal(err)
		}
		for deadline := time.Now().Add(patience); ; {
			if _, err := h.Sweep(t.Context(), nil); err != nil {
				t.Fatal(err)
			}
			now, alias := name()
			if now == before && alias == "" {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("the card %s is %q now, with the alias %q", before, now, alias)
			}
		}
	}
}
