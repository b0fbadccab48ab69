package netns_test

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/longshore-project/longshore/netns"
)

// plug puts a card into a host: the end of a cable to the lan, with the MAC.
func (w *lan) plug(host int, name, mac string) {
	w.t.Helper()
	in(w.t, w.at[host], script("ip link add "+name+" address "+mac+" type veth peer name cc"))
	in(w.t, w.at[host], cable("cc", w.machine))
	in(w.t, w.machine, script("ip link set cc name q-"+name+" master br0 up"))
}

func TestACardIsWaitedForMovedInWatchedAndGivenBack(t *testing.T) {
	w := newLAN(t)
	a := task(t, 1, netns.Card{})
	mac := a.Interfaces[0].MAC.String()
	k := keep(t, w.hosts[0], never)
	k.Want(a)
	k.untilFault(a.ID, netns.CardMissing)

	w.plug(0, "ens6", "02:00:00:00:00:66") // one with another MAC is left alone, and named
	_, err := w.hosts[0].EnsureTask(t.Context(), a)
	wantFault(t, err, netns.CardMissing, mac, "ens6 02:00:00:00:00:66")

	w.plug(0, "ens7", mac)
	k.untilRight(a.ID)
	if got := shows(t, open(t, a.Namespace), "ip addr show dev eth0"); !strings.Contains(got, mac) || !strings.Contains(got, "10.7.0.1/24") || !strings.Contains(got, "fd00:7::1/64") {
		t.Errorf("the card is\n%s", got)
	}
	echo(t, w.machine, ":7")
	ns := open(t, a.Namespace)
	if got, err := asks(t, ns, "10.7.0.254:7"); got != "10.7.0.1" {
		t.Errorf("over the card came %q, %v", got, err)
	}

	in(t, ns, script("ip link set eth0 down", "ip link set eth0 name odd")) // by somebody in the task
	k.untilShown(ns, "ip addr show dev eth0", "10.7.0.1/24")

	in(t, ns, script("ip link del eth0")) // taken away in use
	k.untilFault(a.ID, netns.CardMissing)
	w.plug(0, "ens8", mac)
	k.untilRight(a.ID)
	if got, err := asks(t, ns, "[fd00:7::254]:7"); got != "fd00:7::1" {
		t.Errorf("over the card that came back came %q, %v", got, err)
	}

	k.Forget(a.ID)
	in(t, w.at[0], script("ip link add ens8 type bridge")) // its name is somebody else's by now
	for range 2 {
		if _, err := w.hosts[0].RemoveTask(t.Context(), a); err != nil {
			t.Fatal(err)
		}
	}
	links := shows(t, w.at[0], "ip link")
	if !strings.Contains(links, mac) || strings.Contains(links, "alias") {
		t.Errorf("the card is not given back, or still is a task's:\n%s", links)
	}
	if links := shows(t, ns, "ip link"); strings.Contains(links, mac) {
		t.Errorf("the card is still the task's:\n%s", links)
	}
}

func TestACardThatATasksEndHasGivenBackIsNamedAgain(t *testing.T) {
	w := newLAN(t)
	a := task(t, 1, netns.Card{})
	w.plug(0, "ens7", a.Interfaces[0].MAC.String())
	ensure(t, w.hosts[0], a)
	// The kernel moves cards, though not veths, when their namespace ends: under the names that they had there.
	in(t, open(t, a.Namespace), cable("eth0", w.at[0]))
	if err := netns.RemoveNamespace(a.Namespace); err != nil {
		t.Fatal(err)
	}
	if held, err := w.hosts[0].Listed(); err != nil || len(held) != 1 || held[0].Task != a.ID {
		t.Errorf("listed %v, %v", held, err)
	}
	if removed, err := w.hosts[0].Sweep(t.Context(), []string{a.ID}); err != nil || len(removed) != 0 {
		t.Errorf("of a task that is kept was removed %q, %v", removed, err)
	}
	if removed, err := w.hosts[0].Sweep(t.Context(), nil); err != nil || len(removed) != 1 {
		t.Errorf("removed %q, %v", removed, err)
	}
	if links := shows(t, w.at[0], "ip link show dev ens7"); strings.Contains(links, "alias") {
		t.Errorf("it still is a task's:\n%s", links)
	}
	if held, err := w.hosts[0].Listed(); err != nil || len(held) != 0 {
		t.Errorf("listed %v, %v", held, err)
	}
}

func TestWhatAnInterfaceHangsOnIsNamedWhenItIsMissingDownOrTaken(t *testing.T) {
	for name, c := range map[string]struct {
		origin netns.Origin
		before []string // on the host
		kind   netns.Kind
		words  []string
		heal   []string
	}{
		"no parent":                        {netns.Macvlan{Parent: "eth7"}, nil, netns.ParentMissing, []string{"eth7"}, []string{"ip link set eth1 down", "ip link set eth1 name eth7", "ip link set eth7 up"}},
		"a parent that is down":            {netns.Macvlan{Parent: "eth1"}, []string{"ip link set eth1 down"}, netns.ParentDown, []string{"ip link set eth1 up"}, []string{"ip link set eth1 up"}},
		"no uplink":                        {netns.Bridged{Bridge: "longshore-task", Uplink: "eth7"}, nil, netns.ParentMissing, []string{"eth7"}, []string{"ip link set eth1 down", "ip link set eth1 name eth7", "ip link set eth7 up"}},
		"an uplink that is down":           {netns.Bridged{Bridge: "longshore-task", Uplink: "eth1"}, []string{"ip link set eth1 down"}, netns.ParentDown, []string{"eth1"}, []string{"ip link set eth1 up"}},
		"an uplink with addresses":         {netns.Bridged{Bridge: "longshore-task", Uplink: "eth1"}, []string{"ip addr add 10.7.0.77/24 dev eth1"}, netns.ParentBusy, []string{"10.7.0.77/24", "macvlan:eth1"}, []string{"ip addr del 10.7.0.77/24 dev eth1"}},
		"an uplink of another bridge":      {netns.Bridged{Bridge: "longshore-task", Uplink: "eth1"}, []string{"ip link add br9 type bridge", "ip link set eth1 master br9"}, netns.ParentBusy, []string{"eth1"}, []string{"ip link set eth1 nomaster"}},
		"an uplink with a macvlan":         {netns.Bridged{Bridge: "longshore-task", Uplink: "eth1"}, []string{"ip link add mv0 link eth1 type macvlan"}, netns.ParentBusy, []string{"eth1"}, []string{"ip link del mv0", "ip link set eth1 down", "ip link set eth1 up"}},
		"a parent that is a bridge's port": {netns.Macvlan{Parent: "eth1"}, []string{"ip link add br9 type bridge", "ip link set eth1 master br9"}, netns.ParentBusy, []string{"eth1"}, []string{"ip link set eth1 nomaster"}},
		"a bridge's name that is taken":    {netns.Bridged{Bridge: "br-lan", Uplink: "eth1"}, []string{"ip link add br-lan type veth peer name x"}, netns.NameTaken, []string{"br-lan", "veth"}, []string{"ip link del br-lan"}},
		"somebody's bridge that is down":   {netns.Bridged{Bridge: "br-lan", Uplink: "eth1"}, []string{"ip link add br-lan type bridge"}, netns.ParentDown, []string{"br-lan"}, []string{"ip link set br-lan up"}},
		"no trunk":                         {netns.Branch{Trunk: net.HardwareAddr{6, 0, 0, 0, 0, 1}, VLAN: 7}, nil, netns.ParentMissing, []string{"06:00:00:00:00:01"}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			w := newLAN(t)
			in(t, w.at[0], script(c.before...))
			a := task(t, 1, c.origin)
			_, err := w.hosts[0].EnsureTask(t.Context(), a)
			wantFault(t, err, c.kind, c.words...)
			k := keep(t, w.hosts[0], never)
			k.Want(a)
			k.untilFault(a.ID, c.kind)
			if c.heal == nil {
				return
			}
			in(t, w.at[0], script(c.heal...))
			k.untilRight(a.ID)
			settled(t, w.hosts[0], a)
			echo(t, w.machine, ":7")
			if got, err := asks(t, open(t, a.Namespace), "10.7.0.254:7"); got != "10.7.0.1" {
				t.Errorf("after it has healed, %q, %v", got, err)
			}
		})
	}
}

func TestAnInterfacesNameThatIsTakenInTheNamespaceIsNamed(t *testing.T) {
	for _, origin := range []netns.Origin{netns.Bridged{Bridge: netns.DefaultBridge}, netns.Macvlan{Parent: "eth1"}, netns.Card{}} {
		w := newLAN(t)
		a := task(t, 1, origin)
		w.plug(0, "ens7", a.Interfaces[0].MAC.String())
		in(t, open(t, a.Namespace), script("ip link add eth0 type bridge"))
		_, err := w.hosts[0].EnsureTask(t.Context(), a)
		wantFault(t, err, netns.NameTaken, "eth0")
		in(t, open(t, a.Namespace), script("ip link del eth0"))
		ensure(t, w.hosts[0], a)
	}
}

func TestTheHostsOwnNamespaceIsNoTasks(t *testing.T) {
	w := newLAN(t)
	a := task(t, 1, netns.Bridged{Bridge: netns.DefaultBridge})
	in(t, w.at[0], func() error {
		a.Namespace = "/proc/thread-self/ns/net"
		_, err := netns.Host{Tables: &netns.Tables{}}.EnsureTask(t.Context(), a)
		wantFault(t, err, netns.NamespaceGone, "host's own")
		return nil
	})
	for _, file := range []string{"/proc/4194305/ns/net", "/dev/null", "/proc/self/ns/mnt"} {
		a.Namespace = file
		_, err := w.hosts[0].EnsureTask(t.Context(), a)
		wantFault(t, err, netns.NamespaceGone)
	}
}

// A branch is a VLAN, which the kernel of a small virtual machine may not have: then it says so. test/vm runs this on one that has.
func TestABranchOfATrunkReachesItsVLANWhereTheKernelHasThem(t *testing.T) {
	w := newLAN(t)
	w.plug(0, "ens9", "06:00:00:00:00:01")
	a := task(t, 1, netns.Branch{Trunk: net.HardwareAddr{6, 0, 0, 0, 0, 1}, VLAN: 7})
	var missing error
	in(t, w.machine, func() error {
		missing = run("ip", "link", "add", "link", "q-ens9", "name", "v7", "type", "vlan", "id", "7")
		return nil
	})
	if missing != nil {
		_, err := w.hosts[0].EnsureTask(t.Context(), a)
		wantFault(t, err, netns.Unsupported, "vlan")
		return
	}
	in(t, w.machine, script("ip link set q-ens9 nomaster", "ip addr del 10.7.0.254/24 dev br0", "ip addr add 10.7.0.254/24 dev v7", "ip link set v7 up"))
	in(t, w.at[0], script("ip link set ens9 up"))
	ensure(t, w.hosts[0], a)
	echo(t, w.machine, ":7")
	if got, err := asks(t, open(t, a.Namespace), "10.7.0.254:7"); got != "10.7.0.1" {
		t.Errorf("over the VLAN came %q, %v", got, err)
	}
	if removed, err := w.hosts[0].RemoveTask(t.Context(), a); err != nil || len(removed) != 1 {
		t.Errorf("removed %q, %v", removed, err)
	}
	other := task(t, 2, netns.Branch{Trunk: net.HardwareAddr{6, 0, 0, 0, 0, 1}, VLAN: 8})
	ensure(t, w.hosts[0], other)
	other.Interfaces[0].Origin = netns.Branch{Trunk: net.HardwareAddr{6, 0, 0, 0, 0, 1}, VLAN: 9}
	_, err := w.hosts[0].EnsureTask(t.Context(), other)
	wantFault(t, err, netns.NameTaken, "VLAN 8")
}

func TestAnAddressThatSomebodyElseTakesInUseIsKeptAndNamed(t *testing.T) {
	w := newLAN(t)
	a := task(t, 9, netns.Bridged{Bridge: netns.DefaultBridge, Uplink: "eth1"})
	k := keep(t, w.hosts[0], 20*time.Millisecond)
	k.Want(a)
	k.untilRight(a.ID)
	in(t, w.machine, script("ip addr add 10.7.0.9/24 dev br0"))
	k.untilFault(a.ID, netns.AddressConflict)
	if got := shows(t, open(t, a.Namespace), "ip addr show dev eth0"); !strings.Contains(got, " 10.7.0.9/24") {
		t.Errorf("it is not used any more:\n%s", got)
	}
	in(t, w.machine, script("ip addr del 10.7.0.9/24 dev br0"))
	k.untilRight(a.ID)
}

func TestAnInterfaceIsNotUpBeforeItsSecurityGroupsHold(t *testing.T) {
	w := newLAN(t)
	a := task(t, 1, netns.Bridged{Bridge: netns.DefaultBridge, Uplink: "eth1"})
	a.Groups = []netns.SecurityGroup{{ID: "sg-1"}}
	ns := open(t, a.Namespace)
	// A table that has an owner can't be written by others, until he goes.
	owner := exec.Command("nft", "-i")
	says, err := owner.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	in(t, ns, owner.Start)
	fmt.Fprintln(says, "add table inet longshore { flags owner; }")
	for deadline := time.Now().Add(patience); !strings.Contains(shows(t, ns, "nft list ruleset"), "owner"); {
		if time.Now().After(deadline) {
			t.Fatal("nft does not make a table")
		}
	}
	_, err = w.hosts[0].EnsureTask(t.Context(), a)
	wantFault(t, err, netns.RulesFailed)
	if links := shows(t, ns, "ip -o link show up"); strings.Contains(links, "eth0") {
		t.Errorf("without rules, there is\n%s", links)
	}
	_ = says.Close()
	if err := owner.Wait(); err != nil {
		t.Fatal(err)
	}
	ensure(t, w.hosts[0], a)
}

func TestANamespaceThatACrashLeftHalfMadeIsMade(t *testing.T) {
	file := filepath.Join(t.TempDir(), "deep", "ns")
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, nil, 0o444); err != nil { // made, and not yet mounted on
		t.Fatal(err)
	}
	var was os.FileInfo
	for range 2 {
		if err := netns.MakeNamespace(file); err != nil {
			t.Fatal(err)
		}
		is, err := os.Stat(file)
		if err != nil || was != nil && !os.SameFile(was, is) {
			t.Fatalf("made again, it is another one: %v", err)
		}
		was = is
	}
	for range 2 {
		if err := netns.RemoveNamespace(file); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Stat(file); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the file is left: %v", err)
	}
}
