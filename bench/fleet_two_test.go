//go:build bench

package bench

import (
	"context"
	"fmt"
	"net/url"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"
	"go.etcd.io/etcd/server/v3/embed"

	"github.com/longshore-project/longshore/bench/fleet"
)

// TestFleetOfTwo measures two control planes on one etcd, which runs in this process, with half of the played agents each.
func TestFleetOfTwo(t *testing.T) {
	bin, ram := controlBinary(t)
	for _, n := range fleetSizes(t) {
		t.Run(fmt.Sprint(n), func(t *testing.T) { ofTwo(t, bin, filepath.Join(ram, fmt.Sprint("two-", n)), n) })
	}
}

func sharedEtcd(t *testing.T, dir string) (endpoint string) {
	t.Helper()
	c := embed.NewConfig()
	c.Dir, c.LogLevel, c.LogOutputs, c.UnsafeNoFsync, c.QuotaBackendBytes = dir, "error", []string{"/dev/null"}, true, 4<<30
	u := []url.URL{{Scheme: "http", Host: freeAddress(t)}}
	c.ListenPeerUrls, c.ListenClientUrls, c.AdvertiseClientUrls = nil, u, u
	e, err := embed.StartEtcd(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Close)
	<-e.Server.ReadyNotify()
	return u[0].String()
}

func ofTwo(t *testing.T, bin, dir string, n int) {
	endpoint := sharedEtcd(t, dir+"-etcd")
	fmt.Printf("two control planes on one etcd, %d instances (load of the machine before: %s)\n", n, load())
	var controls [2]*control
	var fleets [2]*fleet.Fleet
	for i := range controls {
		c := startControl(t, bin, fmt.Sprint(dir, "-", i), "--etcd-endpoints", endpoint)
		controls[i] = c
		if i == 0 {
			c.must("CreateCluster", &ecs.CreateClusterInput{ClusterName: aws.String(cluster)}, nil)
			for _, family := range []string{"everywhere", "run"} {
				c.must("RegisterTaskDefinition", &ecs.RegisterTaskDefinitionInput{Family: &family, NetworkMode: types.NetworkModeHost,
					ContainerDefinitions: []types.ContainerDefinition{{Name: aws.String("main"), Image: aws.String("sleep:1"), Memory: aws.Int32(6), Cpu: 1}}}, nil)
			}
		}
		var err error
		fleets[i], err = fleet.New(fleet.Config{URL: c.url, Region: fleetRegion, AccessKeyID: c.host[0], SecretAccessKey: c.host[1], Cluster: cluster})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(fleets[i].Close)
	}
	used := func() (sum time.Duration) {
		for _, c := range controls {
			sum += cpu(t, c.cmd.Process.Pid)
		}
		return sum
	}
	say := func(format string, args ...any) { fmt.Printf("  "+format+"\n", args...) }

	began, before := time.Now(), used()
	var wg sync.WaitGroup
	for i := range fleets {
		var left atomic.Int64
		left.Store(int64(n / 2))
		for range 16 {
			wg.Go(func() {
				for left.Add(-1) >= 0 {
					if _, err := fleets[i].Join(t.Context(), false); err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
	}
	wg.Wait()
	if t.Failed() {
		return
	}
	joined := n / 2 * 2
	say("joined: %.0f instances per second; CPU of both for each %.2f ms", float64(joined)/time.Since(began).Seconds(), each(used()-before, joined))

	began, before = time.Now(), used()
	controls[0].must("CreateService", &ecs.CreateServiceInput{Cluster: aws.String(cluster), ServiceName: aws.String("everywhere"), TaskDefinition: aws.String("everywhere"),
		SchedulingStrategy: types.SchedulingStrategyDaemon}, nil)
	acked := func() int {
		return fleets[0].Tally("everywhere").Acknowledged + fleets[1].Tally("everywhere").Acknowledged
	}
	if !within(3*time.Minute, func() bool { return acked() >= joined }) {
		say("DAEMON to all hosts: NOT DONE in 3 minutes: %d of %d acknowledged", acked(), joined)
		return
	}
	took := time.Since(began)
	say("DAEMON to all hosts: CreateService → last ack %.2f s; placements per second %.0f; CPU of both for each until then %.2f ms",
		took.Seconds(), float64(joined)/took.Seconds(), each(used()-before, joined))

	controls[0].must("TagResource", &ecs.TagResourceInput{ResourceArn: aws.String("arn:aws:ecs:" + fleetRegion + ":123456789012:cluster/" + cluster),
		Tags: []types.Tag{{Key: aws.String("longshore:daemon-gate"), Value: aws.String("off")}}}, nil)
	ctx, stop := context.WithTimeout(t.Context(), 15*time.Second)
	defer stop()
	var calls latency
	var placed atomic.Int64
	began, before = time.Now(), used()
	for _, c := range controls {
		for range 4 {
			wg.Go(func() {
				for ctx.Err() == nil {
					var out ecs.RunTaskOutput
					start := time.Now()
					err := c.api.Call(t.Context(), "RunTask", &ecs.RunTaskInput{Cluster: aws.String(cluster), TaskDefinition: aws.String("run"), Count: aws.Int32(10)}, &out)
					calls.add(time.Since(start), err)
					placed.Add(int64(len(out.Tasks)))
				}
			})
		}
	}
	wg.Wait()
	say("RunTask, count 10, 4 callers on each, gate off: %.0f placements per second (aim 5,000); %s; CPU of both for each task, with reports, %.2f ms",
		float64(placed.Load())/time.Since(began).Seconds(), &calls, each(used()-before, int(placed.Load())))
	for i, f := range fleets {
		if sockets, reports, first := f.Lost(); sockets+reports > 0 {
			say("NOT CLEAN: of control plane %d %d sockets ended, %d reports failed; the first: %v", i, sockets, reports, first)
		}
	}
	say("load at the end %s", load())
}
