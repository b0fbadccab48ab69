//go:build bench

package bench

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"
	"golang.org/x/sys/unix"

	"github.com/longshore-project/longshore/bench/fleet"
	"github.com/longshore-project/longshore/protocol/agentapi"
	_ "github.com/longshore-project/longshore/protocol/ecsapi" // makes the SDK's shapes known to the codec
)

const fleetRegion = "us-west-2"

// control is a longshore-control process: stripped, embedded etcd, data on a tmpfs.
type control struct {
	t         *testing.T
	url, data string
	cmd       *exec.Cmd
	api       *agentapi.Client // as the administrator
	host      [2]string        // the enrolment key
	profiler  string           // where its profiles are had; empty: nowhere
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}

// profile writes a profile of the control plane into the folder that PROFILE names, when it does.
func (c *control) profile(name, kind string) {
	if c.profiler == "" {
		return
	}
	out, err := os.Create(filepath.Join(os.Getenv("PROFILE"), name+"."+strings.Split(kind, "?")[0]))
	if err == nil {
		defer func() { _ = out.Close() }()
		var res *http.Response
		if res, err = http.Get("http://" + c.profiler + "/debug/pprof/" + kind); err == nil {
			defer func() { _ = res.Body.Close() }()
			_, err = io.Copy(out, res.Body)
		}
	}
	if err != nil {
		fmt.Printf("  profile %s: %v\n", name, err)
	}
}

// controlBinary builds longshore-control on a tmpfs that has room for etcd's data.
func controlBinary(t *testing.T) (bin, ram string) {
	t.Helper()
	ram = t.TempDir()
	if err := unix.Mount("tmpfs", ram, "tmpfs", 0, "size=8g"); err != nil {
		t.Fatalf("a tmpfs for etcd's data: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(ram, unix.MNT_DETACH) })
	bin = filepath.Join(ram, "longshore-control")
	tags := "grpcnotrace"
	if os.Getenv("PROFILE") != "" {
		tags += ",profile"
	}
	build := exec.Command("go", "build", "-trimpath", "-tags", tags, "-ldflags", "-s -w", "-o", bin, "github.com/longshore-project/longshore/cmd/longshore-control")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return bin, ram
}

// fleetSizes are how many agents are to be played: FLEET, "100,1000,10000" if unset.
func fleetSizes(t *testing.T) (sizes []int) {
	t.Helper()
	for size := range strings.SplitSeq(cmp.Or(os.Getenv("FLEET"), "100,1000,10000"), ",") {
		n, err := strconv.Atoi(strings.TrimSpace(size))
		if err != nil || n < 1 {
			t.Fatalf("FLEET: %q is no number of instances", size)
		}
		sizes = append(sizes, n)
	}
	return sizes
}

// TestFleet measures the control plane with played agents.
func TestFleet(t *testing.T) {
	bin, ram := controlBinary(t)
	for _, n := range fleetSizes(t) {
		size := strconv.Itoa(n)
		t.Run(size, func(t *testing.T) { newFleetRun(t, startControl(t, bin, filepath.Join(ram, size)), n).measure() })
	}
}

func startControl(t *testing.T, bin, data string, flags ...string) *control {
	t.Helper()
	at := freeAddress(t)
	c := &control{t: t, url: "http://" + at, data: data}
	// The roll-out of a first deployment is not bounded by waves; they would only measure their own pauses, and limits of calls theirs.
	c.cmd = exec.Command(bin, append([]string{"run", "--data-dir", data, "--listen", at, "--region", fleetRegion, "--account-id", "123456789012",
		"--rollout", "parallel", "--log-level", "warn", "--rate-limit", "1e6", "--enrolment-rate-limit", "1e6"}, flags...)...)
	log, err := os.Create(data + ".log")
	if err != nil {
		t.Fatal(err)
	}
	c.cmd.Stdout, c.cmd.Stderr = log, log
	if os.Getenv("PROFILE") != "" {
		c.profiler = freeAddress(t)
		c.cmd.Env = append(os.Environ(), "LONGSHORE_PROFILE="+c.profiler)
	}
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = c.cmd.Process.Signal(syscall.SIGTERM)
		kill := time.AfterFunc(30*time.Second, func() { _ = c.cmd.Process.Kill() })
		_ = c.cmd.Wait()
		kill.Stop()
		_ = log.Close()
		if b, err := os.ReadFile(log.Name()); err == nil && len(b) > 0 {
			fmt.Printf("  the control plane logged %d lines of warnings; the last: %s\n", strings.Count(string(b), "\n"), lastLine(string(b)))
		}
		_ = os.RemoveAll(data)
	})
	if !within(time.Minute, func() bool {
		res, err := http.Get(c.url + "/healthz")
		if err != nil {
			return false
		}
		_ = res.Body.Close()
		return res.StatusCode == http.StatusOK
	}) {
		t.Fatal("the control plane is not ready in a minute")
	}
	admin := c.key("admin.env")
	c.host = c.key("host.env")
	transport := &http.Transport{MaxIdleConnsPerHost: 64}
	t.Cleanup(transport.CloseIdleConnections)
	c.api, err = agentapi.New(agentapi.Config{Endpoint: c.url, Region: fleetRegion, HTTPClient: &http.Client{Transport: transport}, MaxAttempts: 1,
		Credentials: credentials.NewStaticCredentialsProvider(admin[0], admin[1], "")})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func (c *control) key(name string) (key [2]string) {
	b, err := os.ReadFile(filepath.Join(c.data, name))
	if err != nil {
		c.t.Fatal(err)
	}
	for i, f := range strings.Fields(string(b)) {
		if i < 2 {
			_, key[i], _ = strings.Cut(f, "=")
		}
	}
	return key
}

// must calls an operation and takes how long that took.
func (c *control) must(operation string, in, out any) time.Duration {
	c.t.Helper()
	began := time.Now()
	if err := c.api.Call(c.t.Context(), operation, in, out); err != nil {
		c.t.Fatal(err)
	}
	return time.Since(began)
}

func lastLine(s string) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	last := lines[len(lines)-1]
	return last[:min(len(last), 400)]
}

// within waits until something holds, and tells whether it does.
func within(d time.Duration, holds func() bool) bool {
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(d)
	for !holds() {
		select {
		case <-tick.C:
		case <-deadline:
			return holds()
		}
	}
	return true
}

func load() string {
	b, _ := os.ReadFile("/proc/loadavg") // a figure beside the figures
	return strings.Join(strings.Fields(string(b))[:2], " ")
}

// fleetRun is the measurements of one size. Each leaves the cluster as the next one needs it.
type fleetRun struct {
	*control
	n     int
	fleet *fleet.Fleet
	ctx   context.Context
	idle  float64 // share of a core that the control plane takes with all agents connected
}

// meter measures the control plane's CPU time from now on; what it takes when idle is taken off.
func (r *fleetRun) meter() func() time.Duration {
	used, began := cpu(r.t, r.cmd.Process.Pid), time.Now()
	return func() time.Duration {
		return cpu(r.t, r.cmd.Process.Pid) - used - time.Duration(r.idle*float64(time.Since(began)))
	}
}

// each is a share of a time, in milliseconds.
func each(d time.Duration, n int) float64 {
	return float64(d) / float64(time.Millisecond) / float64(max(n, 1))
}

func newFleetRun(t *testing.T, c *control, n int) *fleetRun {
	r := &fleetRun{control: c, n: n, ctx: t.Context()}
	c.must("CreateCluster", &ecs.CreateClusterInput{ClusterName: aws.String(cluster)}, nil)
	var err error
	r.fleet, err = fleet.New(fleet.Config{URL: c.url, Region: fleetRegion, AccessKeyID: c.host[0], SecretAccessKey: c.host[1], Cluster: cluster})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.fleet.Close)
	return r
}

func (r *fleetRun) say(format string, args ...any) { fmt.Printf("  "+format+"\n", args...) }

func (r *fleetRun) measure() {
	fmt.Printf("%d instances (played by one process on the same cores as the control plane; load of the machine before: %s)\n", r.n, load())
	for _, family := range []string{"everywhere", "picky", "daemon", "replica", "run"} {
		r.must("RegisterTaskDefinition", &ecs.RegisterTaskDefinitionInput{Family: &family, NetworkMode: types.NetworkModeHost,
			ContainerDefinitions: []types.ContainerDefinition{{Name: aws.String("main"), Image: aws.String("sleep:1"), Memory: aws.Int32(6), Cpu: 1}}}, nil)
	}
	// A host has room for a hundred of these, as real ones have: more than that binpack would put on one.
	r.must("RegisterTaskDefinition", &ecs.RegisterTaskDefinitionInput{Family: aws.String("packed"), NetworkMode: types.NetworkModeHost,
		ContainerDefinitions: []types.ContainerDefinition{{Name: aws.String("main"), Image: aws.String("sleep:1"), Memory: aws.Int32(39_000), Cpu: 1}}}, nil)
	for _, part := range []struct {
		name string
		run  func()
	}{{"gather", r.gather}, {"everywhere", r.everywhere}, {"picky", r.picky}, {"joiners", r.joiners}, {"gate-off", r.gateOff}, {"pressure", r.pressure}, {"strategies", r.strategies}, {"replicas", r.replicas}} {
		if steps := os.Getenv("STEPS"); steps != "" && part.name != "gather" && !slices.Contains(strings.Split(steps, ","), part.name) {
			continue
		}
		var profiled sync.WaitGroup
		if part.name != "gate-off" {
			profiled.Go(func() { r.profile(part.name, "profile?seconds="+cmp.Or(os.Getenv("SECONDS_EACH"), "4")) })
		}
		began, control, agents := time.Now(), cpu(r.t, r.cmd.Process.Pid), cpu(r.t, os.Getpid())
		part.run()
		r.fleet.Rest(r.ctx) // what was not reported yet would stand before the next part's reports
		r.say("  %s: of two cores for %.1f s the control plane took %.1f s, the played agents and callers %.1f s", part.name,
			time.Since(began).Seconds(), (cpu(r.t, r.cmd.Process.Pid) - control).Seconds(), (cpu(r.t, os.Getpid()) - agents).Seconds())
		profiled.Wait()
		r.profile(part.name, "heap")
		if sockets, reports, first := r.fleet.Lost(); sockets+reports > 0 { // what comes after would measure something else
			r.say("NOT CLEAN, ends here: %d sockets ended, %d reports failed; the first: %v", sockets, reports, first)
			break
		}
	}
	rss, anon := memory(r.t, r.cmd.Process.Pid)
	r.say("at the end: control plane resident %.0f MiB, anonymous %.0f MiB; load %s", rss, anon, load())
}

// gather has all agents join, in parallel, and weighs them.
func (r *fleetRun) gather() {
	_, before := memory(r.t, r.cmd.Process.Pid)
	began, used := time.Now(), r.meter()
	var mu sync.Mutex
	var joined series
	var wg sync.WaitGroup
	next := make(chan int)
	for range 32 {
		wg.Go(func() {
			for i := range next {
				a, err := r.fleet.Join(r.ctx, i%10 == 0)
				if err != nil {
					r.t.Errorf("agent %d: %v", i, err)
					continue
				}
				mu.Lock()
				joined.add(a.Connected.Sub(a.Began))
				mu.Unlock()
			}
		})
	}
	for i := range r.n {
		next <- i
	}
	close(next)
	wg.Wait()
	took := time.Since(began)
	if r.t.Failed() {
		r.t.FailNow()
	}
	r.say("joined, 32 at a time: %.0f instances per second; one's call to register → connected %s; control plane's CPU for each %.2f ms",
		float64(r.n)/took.Seconds(), joined, each(used(), r.n))
	const rest = 6 * time.Second
	first, own := cpu(r.t, r.cmd.Process.Pid), cpu(r.t, os.Getpid())
	<-time.After(rest)
	r.idle = float64(cpu(r.t, r.cmd.Process.Pid)-first) / float64(rest)
	_, after := memory(r.t, r.cmd.Process.Pid)
	r.say("control plane's memory per instance, anonymous, embedded etcd included: %.1f KiB (%.0f → %.0f MiB; aim 60 KiB); its CPU with all connected and nothing to do: %.1f %% of a core (the played agents' %.1f %%)",
		(after-before)*1024/float64(r.n), before, after, 100*r.idle, 100*float64(cpu(r.t, os.Getpid())-own)/float64(rest))
}

func (r *fleetRun) service(name string, strategy types.SchedulingStrategy, desired *int32, constraints ...types.PlacementConstraint) error {
	return r.api.Call(r.ctx, "CreateService", &ecs.CreateServiceInput{Cluster: aws.String(cluster), ServiceName: &name, TaskDefinition: &name,
		SchedulingStrategy: strategy, DesiredCount: desired, PlacementConstraints: constraints}, nil)
}

// everywhere measures a DAEMON service to all hosts.
func (r *fleetRun) everywhere() {
	_, before := memory(r.t, r.cmd.Process.Pid)
	began, used := time.Now(), r.meter()
	if err := r.service("everywhere", types.SchedulingStrategyDaemon, nil); err != nil {
		r.t.Fatal(err)
	}
	done := within(2*time.Minute, func() bool { return r.fleet.Tally("everywhere").Acknowledged >= r.n })
	t := r.fleet.Tally("everywhere")
	if !done {
		r.say("DAEMON to all hosts: NOT DONE in 2 minutes: %d of %d acknowledged", t.Acknowledged, r.n)
		return
	}
	var acks series
	for _, at := range r.fleet.FirstAcks("everywhere") {
		acks.add(at.Sub(began))
	}
	took := t.LastAck.Sub(began)
	r.say("DAEMON to all hosts: CreateService → last ack %.2f s (an instance's: %s); placements per second %.0f (aim for 10,000 on two cores: 2 s)",
		took.Seconds(), acks, float64(r.n)/took.Seconds())
	if !within(2*time.Minute, func() bool { return r.fleet.Tally("everywhere").Running >= r.n }) {
		r.say("NOT DONE in 2 minutes more: %d of %d RUNNING", r.fleet.Tally("everywhere").Running, r.n)
		return
	}
	r.say("  … → last RUNNING recorded %.2f s; control plane's CPU for each task until then %.2f ms", r.fleet.Tally("everywhere").LastRunning.Sub(began).Seconds(), each(used(), r.n))
	_, after := memory(r.t, r.cmd.Process.Pid)
	r.say("control plane's memory per task, anonymous, before any collection is forced: %.1f KiB", (after-before)*1024/float64(r.n))
}

// picky measures what one changed attribute costs: a service that it concerns, among all instances that it doesn't.
func (r *fleetRun) picky() {
	if err := r.service("picky", types.SchedulingStrategyDaemon, nil,
		types.PlacementConstraint{Type: types.PlacementConstraintTypeMemberOf, Expression: aws.String("attribute:picky == yes")}); err != nil {
		r.t.Fatal(err)
	}
	<-time.After(3 * time.Second)
	var took series
	agents := r.fleet.Agents()
	count := min(50, len(agents))
	used := r.meter()
	for i := range count {
		a := agents[i*len(agents)/count]
		start := time.Now()
		r.must("PutAttributes", &ecs.PutAttributesInput{Cluster: aws.String(cluster), Attributes: []types.Attribute{
			{Name: aws.String("picky"), Value: aws.String("yes"), TargetId: &a.ARN, TargetType: types.TargetTypeContainerInstance}}}, nil)
		if !within(30*time.Second, func() bool { return !r.fleet.FirstAck("picky", a.ARN).IsZero() }) {
			r.say("one attribute changed: NOT ANSWERED by a daemon within 30 s")
			return
		}
		took.add(r.fleet.FirstAck("picky", a.ARN).Sub(start))
	}
	within(10*time.Second, func() bool { return r.fleet.Tally("picky").Running >= count })
	r.say("one attribute changed: PutAttributes → its daemon acknowledged %s; control plane's CPU for it, until RUNNING is recorded, %.1f ms", took, each(used(), count))
}

// gateOff switches the gate off that has RunTask wait for daemons: it would measure the waiting.
func (r *fleetRun) gateOff() {
	r.must("TagResource", &ecs.TagResourceInput{ResourceArn: aws.String("arn:aws:ecs:" + fleetRegion + ":123456789012:cluster/" + cluster),
		Tags: []types.Tag{{Key: aws.String("longshore:daemon-gate"), Value: aws.String("off")}}}, nil)
}

// latency are the latencies of one operation.
type latency struct {
	mu   sync.Mutex
	took series
	errs int
	err  error
}

func (l *latency) add(d time.Duration, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		l.errs++
		l.err = err
		return
	}
	l.took.add(d)
}

func (l *latency) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.errs > 0 {
		return fmt.Sprintf("%s, %d FAILED: %v", l.took, l.errs, l.err)
	}
	return l.took.String()
}

// pressure measures RunTask as fast as it goes, the API beside it, and hosts that join meanwhile.
func (r *fleetRun) pressure() {
	const lasting = 15 * time.Second
	read, stop := context.WithTimeout(r.ctx, lasting)
	defer stop()
	var run, describe, list latency
	var mu sync.Mutex
	var latest []string
	var placed int
	began, used := time.Now(), r.meter()
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for read.Err() == nil {
				var out ecs.RunTaskOutput
				start := time.Now()
				err := r.api.Call(r.ctx, "RunTask", &ecs.RunTaskInput{Cluster: aws.String(cluster), TaskDefinition: aws.String("run"), Count: aws.Int32(10)}, &out)
				run.add(time.Since(start), err)
				mu.Lock()
				placed += len(out.Tasks)
				if len(out.Tasks) > 0 {
					latest = latest[:0:0]
					for _, t := range out.Tasks {
						latest = append(latest, *t.TaskArn)
					}
				}
				mu.Unlock()
			}
		})
	}
	every := func(l *latency, call func() (did bool, err error)) {
		wg.Go(func() {
			tick := time.NewTicker(25 * time.Millisecond)
			defer tick.Stop()
			for {
				select {
				case <-read.Done():
					return
				case <-tick.C:
				}
				start := time.Now()
				if did, err := call(); did {
					l.add(time.Since(start), err)
				}
			}
		})
	}
	every(&describe, func() (bool, error) {
		mu.Lock()
		tasks := latest
		mu.Unlock()
		if len(tasks) == 0 {
			return false, nil
		}
		return true, r.api.Call(r.ctx, "DescribeTasks", &ecs.DescribeTasksInput{Cluster: aws.String(cluster), Tasks: tasks}, nil)
	})
	every(&list, func() (bool, error) {
		return true, r.api.Call(r.ctx, "ListTasks", &ecs.ListTasksInput{Cluster: aws.String(cluster), MaxResults: aws.Int32(100)}, nil)
	})
	joiners := r.join(read)
	wg.Wait()
	took := time.Since(began)
	r.say("RunTask, count 10, 8 callers, gate off: %.0f placements per second (aim 10,000); %s; control plane's CPU for each task, with reports and readers, %.2f ms",
		float64(placed)/took.Seconds(), &run, each(used(), placed))
	r.say("beside it (aim p99 20 ms): DescribeTasks of 10 %s; ListTasks of 100 %s", &describe, &list)
	r.judgeJoiners(joiners)
}

// strategies measures RunTask where it has to choose among all hosts.
func (r *fleetRun) strategies() {
	for name, strategy := range map[string]types.PlacementStrategy{
		"spread over instances": {Type: types.PlacementStrategyTypeSpread, Field: aws.String("instanceId")},
		"binpack by memory":     {Type: types.PlacementStrategyTypeBinpack, Field: aws.String("memory")},
	} {
		ctx, stop := context.WithTimeout(r.ctx, 5*time.Second)
		var took latency
		var placed atomic.Int64
		began, used := time.Now(), r.meter()
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				for ctx.Err() == nil {
					var out ecs.RunTaskOutput
					start := time.Now()
					err := r.api.Call(r.ctx, "RunTask", &ecs.RunTaskInput{Cluster: aws.String(cluster), TaskDefinition: aws.String("packed"), Count: aws.Int32(10),
						PlacementStrategy: []types.PlacementStrategy{strategy}}, &out)
					took.add(time.Since(start), err)
					placed.Add(int64(len(out.Tasks)))
				}
			})
		}
		wg.Wait()
		stop()
		r.say("RunTask, %s, count 10, 4 callers: %.0f placements per second; %s; control plane's CPU for each task %.2f ms",
			name, float64(placed.Load())/time.Since(began).Seconds(), &took, each(used(), int(placed.Load())))
	}
}

// join has hosts join one after the other, ten per second at most.
func (r *fleetRun) join(ctx context.Context) (agents []*fleet.Agent) {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return agents
		case <-tick.C:
		}
		a, err := r.fleet.Join(r.ctx, false)
		if err != nil {
			r.t.Error(err)
			return agents
		}
		agents = append(agents, a)
	}
}

// judgeJoiners says how soon hosts that joined were told their daemon, and whether before any other task.
func (r *fleetRun) judgeJoiners(agents []*fleet.Agent) {
	told := func() (n int) {
		for _, a := range agents {
			if !r.fleet.FirstAck("everywhere", a.ARN).IsZero() {
				n++
			}
		}
		return n
	}
	if !within(time.Minute, func() bool { return told() == len(agents) }) {
		r.say("hosts that joined meanwhile: NOT ALL have their daemon after a minute: %d of %d", told(), len(agents))
		return
	}
	var asked, connected series
	first := 0
	for _, a := range agents {
		at := r.fleet.FirstAck("everywhere", a.ARN)
		asked.add(at.Sub(a.Registered))
		connected.add(at.Sub(a.Connected))
		if other := r.fleet.FirstAck("run", a.ARN); other.IsZero() || !other.Before(at) {
			first++
		}
	}
	r.say("hosts that joined meanwhile: registered → daemon acknowledged %s; connected → daemon acknowledged %s (aim p99 50 ms); daemon first on %d of %d, with the gate off",
		asked, connected, first, len(agents))
}

// replicas measures a REPLICA service of five tasks per host, at most 20,000.
func (r *fleetRun) replicas() {
	desired := int32(min(5*r.n, 20_000))
	began, used := time.Now(), r.meter()
	if err := r.service("replica", types.SchedulingStrategyReplica, &desired); err != nil {
		r.say("REPLICA: refused: %v", err)
		return
	}
	const patience = 90 * time.Second
	done := within(patience, func() bool { return r.fleet.Tally("replica").Acknowledged >= int(desired) })
	t := r.fleet.Tally("replica")
	if !done {
		r.say("REPLICA of %d tasks: NOT DONE in %s: %d acknowledged, %.0f placements per second", desired, patience, t.Acknowledged, float64(t.Acknowledged)/patience.Seconds())
		return
	}
	took := t.LastAck.Sub(began)
	r.say("REPLICA of %d tasks: CreateService → last ack %.2f s; placements per second %.0f (aim 10,000); control plane's CPU for each task %.2f ms",
		desired, took.Seconds(), float64(desired)/took.Seconds(), each(used(), int(desired)))
	began, used = time.Now(), r.meter()
	r.must("DeleteService", &ecs.DeleteServiceInput{Cluster: aws.String(cluster), Service: aws.String("replica"), Force: aws.Bool(true)}, nil)
	if !within(patience, func() bool { return r.fleet.Tally("replica").Stopped >= int(desired) }) {
		r.say("  … deleted: NOT DONE in %s: %d of %d STOPPED recorded", patience, r.fleet.Tally("replica").Stopped, desired)
		return
	}
	r.say("  … deleted → last STOPPED recorded %.2f s; control plane's CPU for each task %.2f ms", r.fleet.Tally("replica").LastStop.Sub(began).Seconds(), each(used(), int(desired)))
}
