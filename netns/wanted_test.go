package netns

import (
	"net"
	"net/netip"
	"testing"
)

func prefixes(texts ...string) (all []netip.Prefix) {
	for _, s := range texts {
		all = append(all, netip.MustParsePrefix(s))
	}
	return all
}

func addresses(texts ...string) (all []netip.Addr) {
	for _, s := range texts {
		all = append(all, netip.MustParseAddr(s))
	}
	return all
}

func TestWhatIsWantedOfTheKernelForEachOrigin(t *testing.T) {
	nic := Interface{
		Name: "eth0", MAC: net.HardwareAddr{2, 0x42, 10, 0, 1, 5}, Addresses: prefixes("10.0.1.5/24", "fd00:1::5/64"), Gateways: addresses("10.0.1.1", "fe80::1"),
	}
	for name, c := range map[string]struct {
		change func(*Interface)
		want   string
	}{
		"a veth on a bridge": {func(i *Interface) { i.Origin = Bridged{Bridge: "longshore-task", Uplink: "enp3s0"}; i.MTU = 9000 }, `task 4f3a9c1b2d0e4f3a9c1b2d0e4f3a9c1b
address 169.254.170.2/32 dev lo
link eth0 address 02:42:0a:00:01:05 mtu 9000 veth on the bridge longshore-task with the uplink enp3s0
	host: link ls38fc545e47700 peer eth0 alias "longshore task 4f3a9c1b2d0e4f3a9c1b2d0e4f3a9c1b eth0"
	sysctl net.ipv6.conf.lo.disable_ipv6 = 0
	sysctl net.ipv6.conf.eth0.disable_ipv6 = 0
	sysctl net.ipv6.conf.eth0.accept_ra = 0
	sysctl net.ipv6.conf.eth0.accept_dad = 0
	address 10.0.1.5/24 probed
	address fd00:1::5/64 probed
route 0.0.0.0/0 via 10.0.1.1 dev eth0
route ::/0 via fe80::1 dev eth0
`},
		"macvlan, IPv4 only": {func(i *Interface) {
			i.Origin, i.Addresses, i.Gateways = Macvlan{Parent: "enp3s0"}, prefixes("10.0.1.5/24"), addresses("10.9.9.9")
		}, `task 4f3a9c1b2d0e4f3a9c1b2d0e4f3a9c1b
address 169.254.170.2/32 dev lo
link eth0 address 02:42:0a:00:01:05 macvlan on enp3s0
	sysctl net.ipv6.conf.eth0.accept_ra = 0
	address 10.0.1.5/24 probed
route 0.0.0.0/0 via 10.9.9.9 dev eth0 onlink
`},
		"a card, IPv6 only": {func(i *Interface) {
			i.Origin, i.Addresses, i.Gateways = Card{}, prefixes("fd00:1::5/64"), addresses("fd00:1::1")
		}, `task 4f3a9c1b2d0e4f3a9c1b2d0e4f3a9c1b
address 169.254.170.2/32 dev lo
link eth0 address 02:42:0a:00:01:05 card of the host
	sysctl net.ipv6.conf.lo.disable_ipv6 = 0
	sysctl net.ipv6.conf.eth0.disable_ipv6 = 0
	sysctl net.ipv6.conf.eth0.accept_ra = 0
	sysctl net.ipv6.conf.eth0.accept_dad = 0
	address fd00:1::5/64
route ::/0 via fd00:1::1 dev eth0
`},
		"a branch of a trunk": {func(i *Interface) {
			i.Origin, i.Addresses = Branch{Trunk: net.HardwareAddr{6, 0, 0, 0, 0, 1}, VLAN: 7}, prefixes("10.0.1.5/24")
			i.Gateways = addresses("10.0.1.1")
		}, `task 4f3a9c1b2d0e4f3a9c1b2d0e4f3a9c1b
address 169.254.170.2/32 dev lo
link eth0 address 02:42:0a:00:01:05 vlan 7 of the trunk 06:00:00:00:00:01
	sysctl net.ipv6.conf.eth0.accept_ra = 0
	address 10.0.1.5/24
route 0.0.0.0/0 via 10.0.1.1 dev eth0
`},
	} {
		i := nic
		c.change(&i)
		task := Task{ID: "4f3a9c1b2d0e4f3a9c1b2d0e4f3a9c1b", Interfaces: []Interface{i}, Endpoint: netip.MustParseAddr("169.254.170.2")}
		if got := task.wanted().String(); got != c.want {
			t.Errorf("%s: got\n%s", name, got)
		}
	}
}

func TestNamesOnTheHostTellWhoseTheyAre(t *testing.T) {
	for _, name := range []string{outerName("4f3a", 0), outerName("4f3a", 12)} {
		if len(name) != 15 || !isOuter(name) {
			t.Errorf("%q", name)
		}
	}
	for _, foreign := range []string{"ls", "ls0123456789abg", "lo", "ls0123456789abcd", "veth0123456789a"} {
		if isOuter(foreign) {
			t.Errorf("%q is taken for ours", foreign)
		}
	}
	if task, ours := taskOf(aliasOf("4f3a", "eth0") + wasName + "ens6"); task != "4f3a" || !ours {
		t.Errorf("%q, %v", task, ours)
	}
	if _, ours := taskOf("the uplink"); ours {
		t.Error("somebody's alias is taken for ours")
	}
	if name := nameBefore(aliasOf("4f3a", "eth0") + wasName + "ens6"); name != "ens6" {
		t.Errorf("%q", name)
	}
}

func TestWhoElseHasAnAddressIsReadFromFrames(t *testing.T) {
	own, other := net.HardwareAddr{2, 0, 0, 0, 0, 1}, net.HardwareAddr{2, 0, 0, 0, 0, 2}
	for _, a := range addresses("10.0.1.5", "fd00::5") {
		for name, frame := range map[string][]byte{"a question": questionFrame(other, a), "a claim": claimFrame(other, a)} {
			if by, is := claimed(frame, own, a); !is || by.String() != other.String() {
				t.Errorf("%s for %s: %v by %s", name, a, is, by)
			}
			if _, is := claimed(frame, other, a); is {
				t.Errorf("the own %s is taken for somebody else's", name)
			}
			if _, is := claimed(frame, own, a.Next()); is {
				t.Errorf("%s for %s counts for the next address", name, a)
			}
		}
	}
	// Who only asks for the way to an address does not have it.
	if _, is := claimed(arpFrame(other, netip.MustParseAddr("10.0.1.9"), netip.MustParseAddr("10.0.1.5")), own, netip.MustParseAddr("10.0.1.5")); is {
		t.Error("a request is taken for a claim")
	}
}

func FuzzClaimed(f *testing.F) {
	own := net.HardwareAddr{2, 0, 0, 0, 0, 1}
	all := addresses("10.0.1.5", "fd00::5")
	for _, a := range all {
		f.Add(questionFrame(net.HardwareAddr{2, 0, 0, 0, 0, 2}, a))
		f.Add(claimFrame(net.HardwareAddr{2, 0, 0, 0, 0, 2}, a))
	}
	f.Fuzz(func(t *testing.T, frame []byte) {
		for _, a := range all {
			if by, is := claimed(frame, own, a); is && (len(by) != 6 || by.String() == own.String()) {
				t.Errorf("claimed by %s", by)
			}
		}
	})
}
