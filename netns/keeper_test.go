package netns_test

import (
	"context"
	"errors"
	"net/netip"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	nsfd "github.com/vishvananda/netns"
	"go.uber.org/zap"

	"github.com/longshore-project/longshore/netns"
)

// kept is a keeper that runs, and what it has told.
type kept struct {
	*netns.Keeper
	t    *testing.T
	mu   sync.Mutex
	last map[string]error
	news chan struct{}
}

func keep(t *testing.T, h netns.Host, interval time.Duration) *kept {
	k := &kept{t: t, last: map[string]error{}, news: make(chan struct{}, 1)}
	k.Keeper = &netns.Keeper{Host: h, Log: zap.NewNop(), Interval: interval, Looked: func(id string, _ []string, err error) {
		k.mu.Lock()
		defer k.mu.Unlock()
		k.last[id] = err
		select {
		case k.news <- struct{}{}:
		default:
		}
	}}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- k.Keep(ctx) }()
	t.Cleanup(func() { cancel(); <-ended })
	return k
}

// until waits until what was told of a task is so.
func (k *kept) until(id string, so func(error) bool) {
	k.t.Helper()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	for {
		k.mu.Lock()
		err, told := k.last[id]
		k.mu.Unlock()
		if told && so(err) {
			return
		}
		select {
		case <-k.news:
		case <-timer.C:
			k.t.Fatalf("what was told last is %v", err)
		}
	}
}

func (k *kept) untilRight(id string) {
	k.t.Helper()
	k.until(id, func(err error) bool { return err == nil })
}

func (k *kept) untilFault(id string, kind netns.Kind) {
	k.t.Helper()
	k.until(id, func(err error) bool { return errors.Is(err, &netns.Fault{Kind: kind}) })
}

// untilShown waits until a command in a namespace shows something.
func (k *kept) untilShown(ns nsfd.NsHandle, command, text string) {
	k.t.Helper()
	for deadline := time.Now().Add(patience); ; {
		var out []byte
		in(k.t, ns, func() error {
			out, _ = exec.Command("sh", "-c", command).CombinedOutput()
			return nil
		})
		if strings.Contains(string(out), text) {
			return
		}
		if time.Now().After(deadline) {
			k.t.Fatalf("%s shows\n%s", command, out)
		}
	}
}

// an hour, in which only the kernel's events are reasons to look.
const never = time.Hour

func TestWhatSomebodyDoesToATasksNetworkIsMended(t *testing.T) {
	w := newLAN(t)
	a := task(t, 1, netns.Bridged{Bridge: netns.DefaultBridge, Uplink: "eth1"})
	a.Groups = []netns.SecurityGroup{{ID: "sg-1", Egress: []netns.GroupRule{{Protocol: -1}}}}
	k := keep(t, w.hosts[0], never)
	k.Want(a)
	k.untilRight(a.ID)
	ns := open(t, a.Namespace)
	state := func() string {
		all := ""
		for _, command := range []string{"ip -o addr", "ip -o route", "ip -o -6 route show default", "nft list ruleset"} {
			all += shows(t, ns, command)
		}
		return unstable.ReplaceAllString(all+shows(t, w.at[0], "bridge link"), "")
	}
	whole := state()
	name := regexp.MustCompile(`ls[0-9a-f]{13}`).FindString(whole)
	for _, damage := range []struct {
		at   nsfd.NsHandle
		does string
	}{
		{ns, "nft flush ruleset"}, {ns, "ip addr del 10.7.0.1/24 dev eth0"}, {ns, "ip addr del fd00:7::1/64 dev eth0"}, {ns, "ip route del default"}, {ns, "ip -6 route del default"},
		{ns, "ip link set eth0 down"}, {ns, "ip link set eth0 address 02:00:00:00:00:77"}, {ns, "ip link del eth0"}, {ns, "ip addr del 169.254.170.2/32 dev lo"}, {ns, "ip link set lo down"},
		{w.at[0], "ip link set " + name + " nomaster"}, {w.at[0], "ip link set " + name + " down"}, {w.at[0], "ip link del " + name}, {w.at[0], "ip link set " + netns.DefaultBridge + " down"},
		{w.at[0], "ip link del " + netns.DefaultBridge}, {w.at[0], "ip link set eth1 nomaster"},
	} {
		in(t, damage.at, script(damage.does))
		for deadline := time.Now().Add(patience); state() != whole; {
			if time.Now().After(deadline) {
				t.Fatalf("%s was not mended: it was\n%s\nand is\n%s", damage.does, whole, state())
			}
		}
	}
	echo(t, ns, ":7")
	for _, at := range []string{"10.7.0.1:7", "[fd00:7::1]:7"} {
		if got, err := asksFor(t, w.machine, at, 300*time.Millisecond); err == nil {
			t.Errorf("what no group allows at %s is answered with %q", at, got)
		}
	}
	a.Groups = []netns.SecurityGroup{{ID: "sg-1", Ingress: []netns.GroupRule{{Protocol: -1, Networks: []netip.Prefix{netip.MustParsePrefix("10.7.0.0/16"), netip.MustParsePrefix("::/0")}}}}}
	k.Want(a)
	for _, at := range []string{"10.7.0.1:7", "[fd00:7::1]:7"} {
		for deadline := time.Now().Add(patience); ; {
			if got, err := asksFor(t, w.machine, at, time.Second); err == nil && got != "" {
				break
			} else if time.Now().After(deadline) {
				t.Fatalf("what a group allows now at %s is answered with %q, %v", at, got, err)
			}
		}
	}
}

// unstable is what of interfaces changes when they are made again, and how long addresses have lived.
var unstable = regexp.MustCompile(`(?m)^[0-9]+: |@[a-z0-9-]+|valid_lft.*|comment "[^"]*"`)
