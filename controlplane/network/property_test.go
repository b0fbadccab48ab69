package network_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"
	clientv3 "go.etcd.io/etcd/client/v3"
	"pgregory.net/rapid"

	"github.com/longshore-project/longshore/controlplane/network"
	"github.com/longshore-project/longshore/controlplane/scheduler/query"
	"github.com/longshore-project/longshore/controlplane/store"
	"github.com/longshore-project/longshore/controlplane/store/storetest"
	"github.com/longshore-project/longshore/controlplane/task"
)

const instanceID = "e2814b69ab604db2a89dcd0ea8dd1a7b"

var (
	host = &store.Instance{Cluster: "c", ID: instanceID, Object: types.ContainerInstance{
		ContainerInstanceArn: aws.String("arn:aws:ecs:us-west-2:123456789012:container-instance/c/" + instanceID)}}
	definition = &types.TaskDefinition{Family: aws.String("web"), Revision: 1, NetworkMode: types.NetworkModeAwsvpc,
		TaskDefinitionArn:    aws.String("arn:aws:ecs:us-west-2:123456789012:task-definition/web:1"),
		ContainerDefinitions: []types.ContainerDefinition{{Name: aws.String("web"), Image: aws.String("web:1")}}}
	anywhere = &query.Subject{Attributes: map[string]string{}}
)

func configuration(subnets ...string) *types.NetworkConfiguration {
	return &types.NetworkConfiguration{AwsvpcConfiguration: &types.AwsVpcConfiguration{Subnets: subnets, SecurityGroups: []string{"sg-web"}}}
}

// replica is what one control plane has: a view of the store, and the network in memory.
type replica struct {
	store *store.Store
	net   *network.Network
}

func newReplica(t testing.TB, client *clientv3.Client, prefix string, c *network.Config) *replica {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	st, err := store.Open(ctx, store.Config{Client: client, Prefix: prefix})
	if err != nil {
		t.Fatal(err)
	}
	net, _ := network.Open("", nil) // no file can't fail
	net.Set(c)
	net.Follow(st)
	return &replica{st, net}
}

// place places n tasks in one transaction, as a control plane does: it decides from what it knows, and again after a conflict.
// Fewer are placed when no address is left.
func (r *replica) place(ctx context.Context, nc *types.NetworkConfiguration, n int) (placed []*store.Task, err error) {
	err = store.Retry(ctx, func() error {
		placed = nil
		if err := r.store.Read(ctx, func(*store.View) error { return nil }); err != nil {
			return err
		}
		claim, txn := r.net.Claim(nc), r.store.Txn()
		for range n {
			if !claim.Pick(instanceID, anywhere) {
				break
			}
			t, err := task.New(task.Params{Cluster: "c", Definition: definition, Instance: host, Interfaces: claim.Give(instanceID), Now: time.Now()})
			if err != nil {
				return err
			}
			task.Create(txn, t)
			placed = append(placed, t)
		}
		if len(placed) == 0 {
			return nil
		}
		return txn.Commit(ctx)
	})
	return placed, err
}

// finish reports tasks STOPPED, as their agents do, any number of times.
func (r *replica) finish(ctx context.Context, tasks ...*store.Task) error {
	for range 3 { // DEPROVISIONING, STOPPED, and once more for nothing
		err := store.Retry(ctx, func() error {
			txn := r.store.Txn()
			var changed []*store.Task
			if err := r.store.Read(ctx, func(v *store.View) error {
				for _, t := range tasks {
					if n, ok := task.Apply(v.Task("c", t.ID), task.StateChange{Status: task.Stopped}, time.Now()); ok {
						changed = append(changed, n)
					}
				}
				task.Finish(txn, v, changed...)
				return nil
			}); err != nil || len(changed) == 0 {
				return err
			}
			return txn.Commit(ctx)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// check holds what is stored against the rule that an address is one task's, and what a replica knows against what is stored.
func (r *replica) check(t fataler, nc *types.NetworkConfiguration) (live int) {
	t.Helper()
	if err := r.store.Read(context.Background(), func(v *store.View) error {
		has := map[string]string{}
		for x := range v.Tasks("c") {
			if task.IsStopped(x) {
				continue
			}
			live++
			for _, i := range x.Interfaces {
				for _, a := range i.Addresses() {
					if other := has[a]; other != "" {
						t.Fatalf("%s is both task %s's and task %s's", a, other, x.ID)
					}
					has[a] = x.ID
				}
			}
		}
		n := 0
		for a := range v.Addresses() {
			n++
			if has[a.Address] != a.Task {
				t.Fatalf("%s is kept for task %s, and is %q's", a.Address, a.Task, has[a.Address])
			}
		}
		if n != len(has) {
			t.Fatalf("%d addresses are kept, and tasks have %d", n, len(has))
		}
		if m := r.net.Members("sg-web"); len(m) != n {
			t.Fatalf("the group has %d members, and %d addresses are kept", len(m), n)
		}
		return nil
	}); err != nil {
		t.Fatalf("%v", err)
	}
	return live
}

type fataler interface {
	Helper()
	Fatalf(format string, args ...any)
}

var (
	small    = `{"subnets":{"a":{"cidrBlock":"10.0.0.0/28"},"b":{"cidrBlock":"10.0.1.0/29","ipv6CidrBlock":"fd00::/125"}},"securityGroups":{"sg-web":{}}}`
	renamed  = `{"subnets":{"b":{"cidrBlock":"10.0.0.0/28"},"a":{"cidrBlock":"10.0.1.0/29","ipv6CidrBlock":"fd00::/125"}},"securityGroups":{"sg-web":{}}}`
	enlarged = `{"subnets":{"a":{"cidrBlock":"10.0.0.0/27","reserved":["10.0.0.4-10.0.0.9"]},"b":{"ipv6CidrBlock":"fd00::/124"}},"securityGroups":{"sg-web":{}}}`
)

// TestAnAddressIsNeverTwoTasks plays random histories of two control planes on one store: tasks are placed and end, the file
// changes under them on one or both, and they are started anew.
func TestAnAddressIsNeverTwoTasks(t *testing.T) {
	client := storetest.Etcd(t)
	history := 0
	rapid.Check(t, func(rt *rapid.T) {
		history++
		ctx := t.Context()
		prefix := fmt.Sprintf("/history-%d", history)
		files := []*network.Config{parse(t, small), parse(t, renamed), parse(t, enlarged)}
		planes := []*replica{newReplica(t, client, prefix, files[0]), newReplica(t, client, prefix, files[0])}
		defer func() {
			for _, p := range planes {
				_ = p.store.Close()
			}
		}()
		nc := configuration("a", "b")
		var live []*store.Task
		for range rapid.IntRange(1, 25).Draw(rt, "steps") {
			at := rapid.IntRange(0, 1).Draw(rt, "plane")
			p := planes[at]
			switch rapid.SampledFrom([]string{"place", "place", "place", "both", "finish", "finish", "file", "restart"}).Draw(rt, "what") {
			case "place":
				placed, err := p.place(ctx, nc, rapid.IntRange(1, 4).Draw(rt, "n"))
				if err != nil {
					rt.Fatal(err)
				}
				live = append(live, placed...)
			case "both":
				var wg sync.WaitGroup
				var mu sync.Mutex
				for _, p := range planes {
					wg.Go(func() {
						placed, err := p.place(ctx, nc, 2)
						mu.Lock()
						defer mu.Unlock()
						if err != nil {
							t.Error(err)
						}
						live = append(live, placed...)
					})
				}
				wg.Wait()
			case "finish":
				if n := rapid.IntRange(0, len(live)).Draw(rt, "gone"); n > 0 {
					if err := p.finish(ctx, live[:n]...); err != nil {
						rt.Fatal(err)
					}
					live = live[n:]
				}
			case "file":
				p.net.Set(rapid.SampledFrom(files).Draw(rt, "file"))
			case "restart":
				_ = p.store.Close()
				planes[at] = newReplica(t, client, prefix, rapid.SampledFrom(files).Draw(rt, "file"))
			}
			for _, p := range planes {
				if n := p.check(rt, nc); n != len(live) {
					rt.Fatalf("%d tasks live, not %d", n, len(live))
				}
			}
		}
	})
}

// TestAnExhaustedSubnetHeals fills a subnet to its last address, from two control planes at once, and then one task ends.
func TestAnExhaustedSubnetHeals(t *testing.T) {
	client, ctx := storetest.Etcd(t), t.Context()
	c := parse(t, `{"subnets":{"a":{"cidrBlock":"10.0.0.0/27"}},"securityGroups":{"sg-web":{}}}`)
	planes := []*replica{newReplica(t, client, "/x", c), newReplica(t, client, "/x", c)}
	defer func() {
		for _, p := range planes {
			_ = p.store.Close()
		}
	}()
	nc := configuration("a")
	var wg sync.WaitGroup
	var mu sync.Mutex
	var live []*store.Task
	for i := range 8 {
		wg.Go(func() {
			for range 5 {
				placed, err := planes[i%2].place(ctx, nc, 1)
				if err != nil {
					t.Error(err)
				}
				mu.Lock()
				live = append(live, placed...)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if len(live) != 29 { // of 32: not the network, the gateway and the broadcast address
		t.Fatalf("%d tasks have addresses, not 29", len(live))
	}
	for _, p := range planes {
		p.check(t, nc)
		claim := p.net.Claim(nc)
		if claim.Pick(instanceID, anywhere) {
			t.Error("one more address was had")
		}
		if got, want := claim.Exhausted(anywhere, nil), "subnet a (10.0.0.0/27) is exhausted: 29 of its 29 addresses are taken"; got != want {
			t.Errorf("%q, want %q", got, want)
		}
		if got := claim.Exhausted(anywhere, live[0].Interfaces); got != "" {
			t.Errorf("what a leaving task has is not free: %s", got)
		}
	}
	freed := live[7].Interfaces[0].IPv4
	if err := planes[0].finish(ctx, live[7]); err != nil {
		t.Fatal(err)
	}
	placed, err := planes[1].place(ctx, nc, 2)
	if err != nil || len(placed) != 1 || placed[0].Interfaces[0].IPv4 != freed {
		t.Fatal(placed, err)
	}
	planes[0].check(t, nc)
}

// TestAnAddressRestsBeforeItIsHadAgain: after a restart too.
func TestAnAddressRestsBeforeItIsHadAgain(t *testing.T) {
	client, ctx := storetest.Etcd(t), t.Context()
	c := parse(t, `{"subnets":{"a":{"cidrBlock":"10.0.0.0/24"}},"securityGroups":{"sg-web":{}}}`)
	p := newReplica(t, client, "/x", c)
	defer func() { _ = p.store.Close() }()
	seen := map[string]bool{}
	for i := range 60 {
		placed, err := p.place(ctx, configuration("a"), 1)
		if err != nil {
			t.Fatal(err)
		}
		a := placed[0].Interfaces[0].IPv4
		if seen[a] {
			t.Fatalf("task %d gets %s again", i, a)
		}
		seen[a] = true
		if i%10 == 5 { // the newest is still there, and tells a new process where the last one was
			_ = p.store.Close()
			p = newReplica(t, client, "/x", c)
		}
		if err := p.finish(ctx, placed...); err != nil {
			t.Fatal(err)
		}
	}
}

// TestATakenAddressIsRefusedByTheStore: what is in memory may be wrong.
func TestATakenAddressIsRefusedByTheStore(t *testing.T) {
	st := storetest.New(t)
	make := func() *store.Task {
		task, err := task.New(task.Params{Cluster: "c", Definition: definition, Instance: host, Now: time.Now(),
			Interfaces: []store.Interface{{Attachment: "a", Subnet: "s", IPv4: "10.0.0.9", IPv6: netip.MustParseAddr("fd00::9").String(), SecurityGroups: []string{"sg-web"}}}})
		if err != nil {
			t.Fatal(err)
		}
		return task
	}
	for i, want := range []error{nil, store.ErrConflict} {
		txn := st.Txn()
		task.Create(txn, make())
		if err := txn.Commit(t.Context()); !errors.Is(err, want) {
			t.Errorf("%d: %v", i, err)
		}
	}
}
