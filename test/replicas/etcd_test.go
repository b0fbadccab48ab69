package replicas

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
)

// etcd is a client of the members.
func (w *world) etcd() *clientv3.Client {
	w.Helper()
	client, err := clientv3.New(clientv3.Config{Endpoints: w.endpoints(), DialTimeout: 10 * time.Second,
		DialOptions: []grpc.DialOption{grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) { return w.dial(ctx, address) })}})
	if err != nil {
		w.Fatal(err)
	}
	w.Cleanup(func() { _ = client.Close() })
	return client
}

func (w *world) endpoints() (all []string) {
	for _, m := range w.members {
		all = append(all, "http://"+m.ip+":2379")
	}
	return all
}

// aws runs the real one.
func (w *world) aws(c *client, args ...string) (string, error) {
	cmd := exec.Command("aws", append([]string{"--endpoint-url", c.url, "--region", "us-west-2", "--output", "json", "ecs"}, args...)...)
	cmd.Env = append(os.Environ(), "AWS_ACCESS_KEY_ID="+c.key.AccessKeyID, "AWS_SECRET_ACCESS_KEY="+c.key.SecretAccessKey, "AWS_CONFIG_FILE=/dev/null", "AWS_SHARED_CREDENTIALS_FILE=/dev/null")
	out, err := cmd.CombinedOutput()
	if errors.Is(err, exec.ErrNotFound) {
		w.Fatal("aws is missing: apt-get install -y --no-install-recommends awscli")
	}
	return string(out), err
}

// containers are those that run, on all hosts.
func containers(agents []*agent) (ids map[string]bool) {
	ids = map[string]bool{}
	for _, a := range agents {
		for _, c := range a.Containers("") {
			if c.Running {
				ids[c.ID] = true
			}
		}
	}
	return ids
}

func (w *world) withoutMajority(c *client, agents []*agent) {
	w.Helper()
	t := w.T
	before := containers(agents)
	var list struct{ TaskArns []string }
	if err := c.must(t.Context(), "ListTasks", object{"cluster": "main"}, &list); err != nil || len(list.TaskArns) == 0 {
		t.Fatal(err, list)
	}
	for _, m := range w.members[1:] {
		m.kill()
	}

	var all sync.WaitGroup
	tasks := list.TaskArns
	// Writes: whoever asks is told in time that nothing was done, and why, so that clients ask again.
	all.Go(func() {
		if a := c.call(t.Context(), "CreateCluster", object{"clusterName": "never"}, nil); a.done() || a.status < 500 || a.code != "ServerException" || !strings.Contains(a.message, "etcd has no majority") {
			t.Errorf("the first write is answered %s", a)
		}
		if a := c.call(t.Context(), "CreateCluster", object{"clusterName": "never"}, nil); a.status != http.StatusServiceUnavailable || !strings.Contains(a.message, "Nothing was changed") {
			t.Errorf("a write is answered %s", a)
		}
	})
	all.Go(func() {
		out, err := w.aws(c, "create-cluster", "--cluster-name", "never")
		if err == nil || !strings.Contains(out, "ServerException") || !strings.Contains(out, "reached max retries") || !strings.Contains(out, "etcd has no majority") {
			t.Errorf("the aws command says %v: %s", err, out)
		}
	})
	// Reads: as it was, marked as that.
	all.Go(func() {
		var services struct {
			Services []struct{ ServiceName, Status string }
		}
		a := c.call(t.Context(), "DescribeServices", object{"cluster": "main", "services": []string{"daemon"}}, &services)
		if since, err := time.Parse(time.RFC3339, a.stale); !a.done() || err != nil || time.Since(since) > 10*time.Minute || len(services.Services) != 1 {
			t.Errorf("a read is answered %s, stale %q: %s", a, a.stale, a.body)
		}
	})
	all.Go(func() {
		if out, err := w.aws(c, "describe-tasks", "--cluster", "main", "--tasks", tasks[0]); err != nil || !strings.Contains(out, "RUNNING") {
			t.Errorf("the aws command says %v: %s", err, out)
		}
	})
	for _, n := range w.controls {
		all.Go(func() {
			if err := n.health(t.Context()); err == nil || !strings.Contains(err.Error(), "503") {
				t.Errorf("%s is healthy without a store: %v", n.name, err)
			}
			if !n.alive() {
				t.Errorf("%s has ended", n.name)
			}
		})
	}
	all.Wait()

	for _, m := range w.members[1:] {
		m.begin()
	}
	w.until(time.Minute, "writes are taken again", func(ctx context.Context) error {
		if a := c.call(ctx, "CreateCluster", object{"clusterName": "again"}, nil); !a.done() {
			return errors.New(a.String())
		}
		return nil
	})
	w.until(time.Minute, "reads are current again", func(ctx context.Context) error {
		if a := c.call(ctx, "DescribeClusters", object{"clusters": []string{"again", "never"}}, nil); !a.done() || a.stale != "" || strings.Contains(string(a.body), `"clusterName":"never"`) {
			return fmt.Errorf("%s, stale %q: %s", a, a.stale, a.body)
		}
		return nil
	})
	w.calm(c, agents)
	if after := containers(agents); fmt.Sprint(after) != fmt.Sprint(before) {
		t.Errorf("the containers were %v and are %v", before, after)
	}
	w.inspect()
	w.judgeProcesses()
}

// fill writes one key again and again until the members take no more.
func (w *world) fill(etcd *clientv3.Client) {
	w.Helper()
	value := strings.Repeat("x", 1<<20)
	w.until(3*time.Minute, "the quota is reached", func(ctx context.Context) error {
		for {
			if _, err := etcd.Put(ctx, "/filler", value); errors.Is(err, rpctypes.ErrNoSpace) {
				return nil
			} else if err != nil {
				return err
			}
		}
	})
}

// refuses waits until a write is refused for want of room, with the exception that clients try again after a pause.
func (w *world) refuses(c *client, name string) {
	w.Helper()
	a := c.call(context.Background(), "CreateCluster", object{"clusterName": name}, nil)
	if a.done() || a.code != "ThrottlingException" || !strings.Contains(a.message, "nearly full") {
		w.Errorf("a write to a full store is answered %s", a)
	}
	if a := c.call(context.Background(), "DescribeClusters", object{"clusters": []string{"main"}}, nil); !a.done() || a.stale != "" {
		w.Errorf("a read of a full store is answered %s, stale %q", a, a.stale)
	}
}

func (w *world) fullAndBack(c *client, agents []*agent) {
	w.Helper()
	t := w.T
	before := containers(agents)
	etcd := w.etcd()
	taken := func(name string) {
		t.Helper()
		w.until(3*time.Minute, "there is room for "+name, func(ctx context.Context) error {
			if a := c.call(ctx, "CreateCluster", object{"clusterName": name}, nil); !a.done() {
				return errors.New(a.String())
			}
			return nil
		})
	}

	w.fill(etcd)
	w.refuses(c, "one")
	// Whoever runs the cluster makes room with etcd's own tools.
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	at, err := etcd.Get(ctx, "/filler", clientv3.WithCountOnly())
	if err == nil {
		_, err = etcd.Compact(ctx, at.Header.Revision, clientv3.WithCompactPhysical())
	}
	for _, e := range etcd.Endpoints() {
		if err == nil {
			_, err = etcd.Defragment(ctx, e)
		}
	}
	if err == nil {
		_, err = etcd.AlarmDisarm(ctx, &clientv3.AlarmMember{})
	}
	if err != nil {
		t.Fatal(err)
	}
	taken("one")

	// And a control plane that may does so itself.
	last := w.controls[2]
	last.kill()
	last.args = append(last.args, "--etcd-maintain")
	last.begin()
	last.healthy()
	w.fill(etcd)
	taken("two")
	w.calm(c, agents)
	if after := containers(agents); fmt.Sprint(after) != fmt.Sprint(before) {
		t.Errorf("the containers were %v and are %v", before, after)
	}
	w.judgeProcesses()
}
