package replicas

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/longshore-project/longshore/controlplane/store"
	"github.com/longshore-project/longshore/test/ecsagent"
)

// replaced ends each control plane as an upgrade does, and starts it again, while clients write: what they were told is so.
func (w *world) replaced(c *client, agents []*agent) {
	w.Helper()
	l := newLoad(w, c.key)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var clients sync.WaitGroup
	for i := range 4 {
		url := w.balance(i, w.targets()...).url()
		clients.Go(func() { l.run(ctx, i, url) })
	}
	for _, n := range w.controls {
		w.until(time.Minute, "clients write", func(context.Context) error {
			l.mu.Lock()
			defer l.mu.Unlock()
			if l.counts["done"] < 20 {
				return errNotYet
			}
			clear(l.counts)
			return nil
		})
		n.end()
		if said := n.log.String(); strings.Contains(said, "calls were cut off") {
			w.Errorf("%s cut off calls: %s", n.name, excerpt(said, "calls were cut off"))
		}
		n.begin()
		n.healthy()
	}
	cancel()
	clients.Wait()
	w.judge(l, c, agents)
}

// end has it end as its service manager does.
func (n *node) end() {
	n.w.Helper()
	_ = n.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-n.ended:
	case <-time.After(time.Minute):
		n.w.Errorf("%s does not end", n.name)
		n.kill()
	}
	if !n.cmd.ProcessState.Success() {
		n.w.Errorf("%s ended with %s", n.name, n.cmd.ProcessState)
	}
}

// emptied takes a backup, deletes every record under the agents, and restores them.
func (w *world) emptied(c *client, agents []*agent) {
	w.Helper()
	before := containers(agents)
	control, file := w.controls[0].args[0], filepath.Join(w.dir, "one.backup")
	run := func(wants bool, args ...string) string {
		w.Helper()
		cmd := exec.Command(control, args...)
		var said log
		cmd.Stdout, cmd.Stderr = &said, &said
		if err := w.start(w.controls[0].ip, cmd); err != nil {
			w.Fatal(err)
		}
		if err := cmd.Wait(); (err == nil) != wants {
			w.Fatalf("%v: %v: %s", args, err, said.String())
		}
		return said.String()
	}
	run(true, "backup", "--data-dir", w.controls[0].dir, file)
	numbers := map[*agent]int64{}
	for _, a := range agents {
		numbers[a] = lastNumber(a)
	}
	var ends sync.WaitGroup
	for _, n := range w.controls {
		ends.Go(n.end)
	}
	ends.Wait()
	etcd := w.etcd()
	external := []string{"restore", "--data-dir", w.controls[0].dir, "--etcd-endpoints", strings.Join(w.endpoints(), ","), "--seal-key-file", filepath.Join(w.dir, "seal.key"), file}
	if said := run(false, external...); !strings.Contains(said, "is not empty") {
		w.Errorf("a restore into a cluster with records says %q", said)
	}
	if _, err := etcd.Delete(w.Context(), store.DefaultPrefix+"/", clientv3.WithPrefix()); err != nil {
		w.Fatal(err)
	}
	run(true, external...)
	for _, n := range w.controls {
		n.begin()
	}
	for _, n := range w.controls {
		n.healthy()
	}
	w.calm(c, agents)
	w.until(time.Minute, "each host has a manifest with a number that has risen", func(context.Context) error {
		for a, was := range numbers {
			if now := lastNumber(a); now <= was {
				return fmt.Errorf("%d after %d", now, was)
			}
		}
		return nil
	})
	if wrong := run(true, "check", "--data-dir", w.controls[0].dir); strings.Contains(wrong, "can't be read") {
		w.Error(wrong)
	}
	if after := containers(agents); fmt.Sprint(after) != fmt.Sprint(before) {
		w.Errorf("the containers were %v and are %v", before, after)
	}
	w.inspect()
	w.judgeProcesses()
}

// lastNumber is the greatest sequence number that an agent has taken.
func lastNumber(a *agent) (last int64) {
	for _, e := range a.Journal() {
		if e.Kind == ecsagent.Received {
			last = max(last, e.Seq)
		}
	}
	return last
}
