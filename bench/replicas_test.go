//go:build bench

package bench

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/longshore-project/longshore/bench/fleet"
)

// TestReplicas measures one control plane on its embedded etcd, and three on a cluster of three members, which are real
// processes; each control plane has its part of the played agents and of the callers.
func TestReplicas(t *testing.T) {
	if os.Getenv("FLEET") == "" {
		t.Setenv("FLEET", "100,1000")
	}
	bin, ram := controlBinary(t)
	member := filepath.Join(ram, "etcd")
	build := exec.Command("go", "build", "-trimpath", "-tags", "grpcnotrace", "-ldflags", "-s -w", "-o", member, "go.etcd.io/etcd/server/v3")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, n := range fleetSizes(t) {
		for _, count := range []int{1, 3} {
			t.Run(fmt.Sprint(n, "-on-", count), func(t *testing.T) {
				newReplicaRun(t, bin, member, filepath.Join(ram, fmt.Sprint("replicas-", n, "-", count)), count, n).measure()
			})
		}
	}
}

// replicaRun is the measurements of one size.
type replicaRun struct {
	t        *testing.T
	n        int
	controls []*control
	fleets   []*fleet.Fleet
	etcd     *clientv3.Client // nil: the embedded one
	pids     []int            // of control planes and members
}

func (r *replicaRun) say(format string, args ...any) { fmt.Printf("  "+format+"\n", args...) }

func (r *replicaRun) used() (sum time.Duration) {
	for _, pid := range r.pids {
		sum += cpu(r.t, pid)
	}
	return sum
}

// members starts an etcd cluster on this machine.
func (r *replicaRun) members(program, dir string, count int) (endpoints []string) {
	peers, names := make([]string, count), make([]string, count)
	for i := range count {
		endpoints = append(endpoints, "http://"+freeAddress(r.t))
		peers[i] = "http://" + freeAddress(r.t)
		names[i] = fmt.Sprintf("m%d=%s", i, peers[i])
	}
	for i := range count {
		cmd := exec.Command(program, "--name", fmt.Sprint("m", i), "--data-dir", fmt.Sprint(dir, "-m", i), "--log-level", "error", "--quota-backend-bytes", fmt.Sprint(4<<30),
			"--listen-peer-urls", peers[i], "--initial-advertise-peer-urls", peers[i], "--listen-client-urls", endpoints[i], "--advertise-client-urls", endpoints[i],
			"--initial-cluster", strings.Join(names, ","), "--auto-compaction-mode", "periodic", "--auto-compaction-retention", "5m")
		if err := cmd.Start(); err != nil {
			r.t.Fatal(err)
		}
		r.t.Cleanup(func() {
			_ = cmd.Process.Kill()
			_ = cmd.Wait() // that it was killed is known
		})
		r.pids = append(r.pids, cmd.Process.Pid)
	}
	return endpoints
}

func newReplicaRun(t *testing.T, bin, member, dir string, count, n int) *replicaRun {
	r := &replicaRun{t: t, n: n / count * count}
	flags := []string{"--seal-key-file", dir + "-seal.key"}
	if count > 1 {
		endpoints := r.members(member, dir, count)
		client, err := clientv3.New(clientv3.Config{Endpoints: endpoints, DialTimeout: time.Minute})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = client.Close() })
		ready, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		for _, err := client.Get(ready, "/"); err != nil; _, err = client.Get(ready, "/") {
			if ready.Err() != nil {
				t.Fatal(err)
			}
		}
		r.etcd = client
		flags = append(flags, "--etcd-endpoints", strings.Join(endpoints, ","))
	}
	for i := range count {
		c := startControl(t, bin, fmt.Sprint(dir, "-c", i), flags...)
		r.controls, r.pids = append(r.controls, c), append(r.pids, c.cmd.Process.Pid)
		if i == 0 {
			c.must("CreateCluster", &ecs.CreateClusterInput{ClusterName: aws.String(cluster), Tags: []types.Tag{{Key: aws.String("longshore:daemon-gate"), Value: aws.String("off")}}}, nil)
			c.must("RegisterTaskDefinition", &ecs.RegisterTaskDefinitionInput{Family: aws.String("run"), NetworkMode: types.NetworkModeHost,
				ContainerDefinitions: []types.ContainerDefinition{{Name: aws.String("main"), Image: aws.String("sleep:1"), Memory: aws.Int32(6), Cpu: 1}}}, nil)
		}
		f, err := fleet.New(fleet.Config{URL: c.url, Region: fleetRegion, AccessKeyID: c.host[0], SecretAccessKey: c.host[1], Cluster: cluster})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(f.Close)
		r.fleets = append(r.fleets, f)
	}
	return r
}

func (r *replicaRun) measure() {
	fmt.Printf("%d control planes on %s, %d instances (load of the machine before: %s)\n", len(r.controls), cmp.Or(map[bool]string{true: "one embedded etcd"}[r.etcd == nil], "an external etcd of as many members"), r.n, load())
	r.gather()
	if r.t.Failed() {
		return
	}
	r.alone()
	r.pressure()
	for i, f := range r.fleets {
		if sockets, reports, first := f.Lost(); sockets+reports > 0 {
			r.say("NOT CLEAN: of control plane %d %d sockets ended, %d reports failed; the first: %v", i, sockets, reports, first)
		}
	}
	r.say("load at the end %s", load())
}

// gather has all agents join, each to its control plane.
func (r *replicaRun) gather() {
	began, before := time.Now(), r.used()
	var wg sync.WaitGroup
	for _, f := range r.fleets {
		var left atomic.Int64
		left.Store(int64(r.n / len(r.fleets)))
		for range 32 / len(r.fleets) {
			wg.Go(func() {
				for left.Add(-1) >= 0 {
					if _, err := f.Join(r.t.Context(), false); err != nil {
						r.t.Error(err)
						return
					}
				}
			})
		}
	}
	wg.Wait()
	r.say("joined: %.0f instances per second; CPU of all for each %.2f ms", float64(r.n)/time.Since(began).Seconds(), each(r.used()-before, r.n))
}

// alone measures calls one at a time, with etcd's own write and current read in turn with them: their floor.
func (r *replicaRun) alone() {
	var write, read, floorWrite, floorRead latency
	arn := "arn:aws:ecs:" + fleetRegion + ":123456789012:cluster/" + cluster
	value := strings.Repeat("x", 1000) // about a record
	for round := range 15 {            // etcd's own keys move its revision, which the next read has to ask about: so not after each call
		for i := range 20 {
			c := r.controls[i%len(r.controls)]
			start := time.Now()
			err := c.api.Call(r.t.Context(), "TagResource", &ecs.TagResourceInput{ResourceArn: &arn, Tags: []types.Tag{{Key: aws.String("k"), Value: aws.String(fmt.Sprint(round, " ", i))}}}, nil)
			write.add(time.Since(start), err)
			start = time.Now()
			err = c.api.Call(r.t.Context(), "DescribeClusters", &ecs.DescribeClustersInput{Clusters: []string{cluster}}, nil)
			read.add(time.Since(start), err)
		}
		for range 20 {
			if r.etcd == nil {
				break
			}
			start := time.Now()
			_, err := r.etcd.Put(r.t.Context(), "/floor", value)
			floorWrite.add(time.Since(start), err)
			start = time.Now()
			_, err = r.etcd.Get(r.t.Context(), "/floor")
			floorRead.add(time.Since(start), err)
		}
	}
	r.say("one call at a time: TagResource %s; DescribeClusters %s", &write, &read)
	if r.etcd != nil {
		r.say("  in turn with them, etcd's own put %s; current get %s", &floorWrite, &floorRead)
	}
}

// pressure measures RunTask as fast as it goes, and readers beside it.
func (r *replicaRun) pressure() {
	const lasting = 15 * time.Second
	ctx, stop := context.WithTimeout(r.t.Context(), lasting)
	defer stop()
	var run, read latency
	var placed atomic.Int64
	began, before := time.Now(), r.used()
	var wg sync.WaitGroup
	const callers = 9
	for i := range callers {
		c := r.controls[i%len(r.controls)]
		wg.Go(func() {
			for ctx.Err() == nil {
				var out ecs.RunTaskOutput
				start := time.Now()
				err := c.api.Call(r.t.Context(), "RunTask", &ecs.RunTaskInput{Cluster: aws.String(cluster), TaskDefinition: aws.String("run"), Count: aws.Int32(10)}, &out)
				run.add(time.Since(start), err)
				placed.Add(int64(len(out.Tasks)))
			}
		})
	}
	for _, c := range r.controls {
		wg.Go(func() {
			tick := time.NewTicker(25 * time.Millisecond)
			defer tick.Stop()
			for {
				select {
				case <-ctx.Done():
					return
				case <-tick.C:
				}
				start := time.Now()
				err := c.api.Call(r.t.Context(), "ListTasks", &ecs.ListTasksInput{Cluster: aws.String(cluster), MaxResults: aws.Int32(100)}, nil)
				read.add(time.Since(start), err)
			}
		})
	}
	wg.Wait()
	r.say("RunTask, count 10, %d callers: %.0f placements per second; %s; CPU of all for each task, with reports and readers, %.2f ms", callers,
		float64(placed.Load())/time.Since(began).Seconds(), &run, each(r.used()-before, int(placed.Load())))
	r.say("beside it: ListTasks of 100 %s", &read)
}
