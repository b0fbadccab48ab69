package netns_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/longshore-project/longshore/netns"
)

// origins are those that can be made on any kernel, on the lan.
var origins = map[string]netns.Origin{
	"bridge": netns.Bridged{Bridge: netns.DefaultBridge, Uplink: "eth1"}, "macvlan": netns.Macvlan{Parent: "eth1"}, "card": netns.Card{},
}

// traces is what networks leave on a machine, apart from the host's interfaces.
func traces(t *testing.T, w *lan, dir string) string {
	t.Helper()
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	files, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%d mounts, %d files open\n%s", strings.Count(string(mounts), " "+dir+"/"), len(files), unstable.ReplaceAllString(shows(t, w.at[0], "ip -o link")+shows(t, w.at[0], "nft list ruleset")+shows(t, w.at[1], "ip -o link"), ""))
}

func TestFiveHundredSetUpsAndTearDownsLeaveNothing(t *testing.T) {
	w := newLAN(t)
	dir := t.TempDir()
	before := traces(t, w, dir)
	var all sync.WaitGroup
	for worker := range 10 {
		all.Go(func() {
			for i := range 50 {
				task := taskAt(1+worker*20+i%20, origins[[]string{"bridge", "macvlan"}[worker%2]])
				task.Namespace = filepath.Join(dir, strconv.Itoa(worker))
				task.Groups = []netns.SecurityGroup{{ID: "sg-1", Egress: []netns.GroupRule{{Protocol: -1, Networks: []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")}}}}}
				if err := once(t, w.hosts[worker%2], task, i%3 == 0); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	for _, h := range w.hosts {
		if _, err := h.Sweep(t.Context(), nil); err != nil { // the bridge, and what a namespace's end has not taken yet
			t.Error(err)
		}
	}
	for deadline := time.Now().Add(patience); traces(t, w, dir) != before; { // sockets are closed on the side
		if time.Now().After(deadline) {
			t.Fatalf("before:\n%s\nafter:\n%s", before, traces(t, w, dir))
		}
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("files are left: %v, %v", left, err)
	}
}

// once sets a task up and tears it down, by its namespace's end or before that.
func once(t *testing.T, h netns.Host, task netns.Task, abrupt bool) error {
	if err := netns.MakeNamespace(task.Namespace); err != nil {
		return err
	}
	if _, err := h.EnsureTask(t.Context(), task); err != nil {
		return errors.Join(err, netns.RemoveNamespace(task.Namespace))
	}
	remove := func() error {
		_, err := h.RemoveTask(t.Context(), task)
		return err
	}
	if abrupt {
		return errors.Join(netns.RemoveNamespace(task.Namespace), remove())
	}
	return errors.Join(remove(), netns.RemoveNamespace(task.Namespace))
}

// What the helper process is told: see [help].
const (
	helpDoes, helpNamespace, helpOrigin, helpTask = "NETNS_HELP_DOES", "NETNS_HELP_NAMESPACE", "NETNS_HELP_ORIGIN", "NETNS_HELP_TASK"
)

// help is the process that is killed: it sets up or tears down one task on the host in whose namespace it runs.
func help() error {
	if does := os.Getenv(helpDoes); does == "connect" || does == "disconnect" {
		return helpOnBridge(does, os.Getenv(helpOrigin), os.Getenv(helpNamespace))
	}
	n, err := strconv.Atoi(os.Getenv(helpTask))
	if err != nil {
		return err
	}
	task, h := taskAt(n, origins[os.Getenv(helpOrigin)]), netns.Host{Tables: &netns.Tables{}}
	task.Namespace = os.Getenv(helpNamespace)
	if os.Getenv(helpDoes) == "down" {
		_, err = h.RemoveTask(context.Background(), task)
	} else {
		_, err = h.EnsureTask(context.Background(), task)
	}
	return err
}

// killer builds the helper, and gives back what has it killed after so many steps; false when it came to its end before.
func killer(t *testing.T) func(w *lan, does, origin string, n int, task netns.Task, steps int) bool {
	binary := filepath.Join(t.TempDir(), "helper")
	if out, err := exec.Command("go", "test", "-c", "-tags", "failpoint", "-o", binary, ".").CombinedOutput(); err != nil {
		t.Fatalf("build the helper: %v\n%s", err, out)
	}
	return func(w *lan, does, origin string, n int, task netns.Task, steps int) (killed bool) {
		t.Helper()
		cmd := exec.Command(binary)
		cmd.Env = append(os.Environ(), helpDoes+"="+does, helpOrigin+"="+origin, helpNamespace+"="+task.Namespace, fmt.Sprintf("%s=%d", helpTask, n), fmt.Sprintf("LONGSHORE_FAILPOINT=netns/step:%d", steps))
		var out []byte
		var err error
		in(t, w.at[0], func() error { out, err = cmd.CombinedOutput(); return nil })
		if err == nil {
			return false
		}
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
			t.Fatalf("%s of %s, to be killed at step %d: %v\n%s", does, origin, steps, err, out)
		}
		return true
	}
}

func TestSetUpsAndTearDownsAreHealedAtWhicheverStepTheyAreKilled(t *testing.T) {
	kill := killer(t)
	t.Run("the host's own bridge", func(t *testing.T) { killOnBridge(t, kill) })
	for origin := range origins {
		t.Run(origin, func(t *testing.T) {
			w := newLAN(t)
			kills := 0
			for n, more := 1, true; more; n++ {
				more = false
				for i, does := range []string{"up", "up then swept", "down"} {
					a := task(t, 3*n+i, origins[origin])
					if origin == "card" {
						w.plug(0, fmt.Sprintf("ens%d", 3*n+i), a.Interfaces[0].MAC.String())
					}
					if does == "down" {
						ensure(t, w.hosts[0], a)
					}
					if kill(w, strings.Fields(does)[0], origin, 3*n+i, a, n) {
						more = true
						kills++
					}
					w.heal(does, a)
				}
			}
			if kills < 15 {
				t.Errorf("only %d kills", kills)
			}
			if held, err := w.hosts[0].Listed(); err != nil || len(held) != 0 {
				t.Errorf("left are %v, %v", held, err)
			}
		})
	}
}

// heal does what an agent does after it was killed in the middle, and ends with a task that has left nothing.
func (w *lan) heal(does string, a netns.Task) {
	t, h := w.t, w.hosts[0]
	t.Helper()
	switch does {
	case "up":
		if _, err := h.EnsureTask(t.Context(), a); err != nil {
			t.Fatal(err)
		}
		settled(t, h, a)
	case "up then swept":
		if _, err := h.Sweep(t.Context(), []string{"another"}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := h.RemoveTask(t.Context(), a); err != nil {
		t.Fatal(err)
	}
	if removed, err := h.RemoveTask(t.Context(), a); err != nil || len(removed) != 0 {
		t.Errorf("the second time was removed %q, %v", removed, err)
	}
}

func TestANamespacesEndTakesItsInterfacesAlong(t *testing.T) {
	w := newLAN(t)
	for n := 1; n <= 20; n++ {
		a := task(t, n, origins["bridge"])
		ensure(t, w.hosts[0], a)
		if l, err := netns.Listen(t.Context(), a.Namespace, netip.MustParseAddrPort("169.254.170.2:80")); err != nil {
			t.Error(err)
		} else {
			_ = l.Close()
		}
		if err := netns.RemoveNamespace(a.Namespace); err != nil {
			t.Error(err)
		}
	}
	for deadline := time.Now().Add(patience); ; {
		held, err := w.hosts[0].Listed()
		if err != nil {
			t.Fatal(err)
		}
		if len(held) == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("something of Longshore's keeps namespaces alive: %v", held)
		}
	}
}
