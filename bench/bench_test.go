//go:build bench

package bench

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/client"
	"github.com/vishvananda/netns"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/longshore-project/longshore/test/e2e"
	"github.com/longshore-project/longshore/test/images"
)

const cluster = "daemonset"

// world is a lab with one host, and clients for both ways to start a container on it.
type world struct {
	t      *testing.T
	lab    *e2e.Lab
	ecs    *ecs.Client
	docker *client.Client
	image  string
	rounds int
	table  table
	// settings are those with which the agent was started last.
	settings []string
}

func setting(name string, def int) int {
	if n, err := strconv.Atoi(os.Getenv(name)); err == nil && n > 0 {
		return n
	}
	return def
}

func TestBench(t *testing.T) {
	tags := "grpcnotrace"
	if os.Getenv("PROFILE") != "" {
		tags += ",profile"
	}
	e2e.BuildFlags = []string{"-trimpath", "-tags", tags, "-ldflags", "-s -w"}
	os.Setenv("CGO_ENABLED", "0")
	ram := t.TempDir()
	if err := unix.Mount("tmpfs", ram, "tmpfs", 0, "size=8g"); err != nil {
		t.Fatalf("a tmpfs for the engine's data: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(ram, unix.MNT_DETACH) })
	t.Setenv("TMPDIR", ram)
	t.Cleanup(func() { _ = os.Remove(accounting) })

	w := &world{t: t, lab: e2e.NewLab(t, "bnch", 97, 1), rounds: setting("ROUNDS", 40)}
	url, id, secret := w.lab.API()
	w.ecs = ecs.New(ecs.Options{Region: "us-west-2", BaseEndpoint: aws.String(url), Credentials: credentials.NewStaticCredentialsProvider(id, secret, "")})
	w.docker = w.lab.Engine(1)
	w.account()
	w.image = w.lab.Push("sleep:1", images.Spec{Cmd: []string{"/bin/sleep", "1000000"}, StopSignal: "SIGKILL"}) // which process 1 can't ignore
	if _, err := w.ecs.CreateCluster(t.Context(), &ecs.CreateClusterInput{ClusterName: aws.String(cluster)}); err != nil {
		t.Fatal(err)
	}
	w.size()
	for _, mode := range []string{"host", "bridge"} {
		w.define(mode, types.NetworkMode(mode))
	}
	defer w.table.print()
	for _, part := range []struct {
		name string
		run  func()
	}{{"join", w.join}, {"boot", w.boot}, {"update", w.update}, {"start", w.starts}, {"many", w.many}, {"rest", w.rest}, {"asked", w.asked}, {"restart", w.restart}, {"pull", w.pulls}, {"containerd", w.containerd}} {
		if chosen := os.Getenv("PARTS"); chosen == "" || slices.Contains(strings.Split(chosen, ","), part.name) {
			part.run()
		}
	}
}

// size weighs the agent's static binary.
func (w *world) size() {
	info, err := os.Stat(w.lab.Agent())
	if err != nil {
		w.t.Fatal(err)
	}
	w.table.add("agent's binary, static and stripped", fmt.Sprintf("%.1f MiB", float64(info.Size())/(1<<20)), "", "", "24 MiB")
}

// profilePort is where an agent that was built for it answers Go's profiler, on its host's loopback interface.
const profilePort = "6161"

// agent starts the agent with a pull behaviour; containers of stopped tasks go at once.
func (w *world) agent(behaviour string, settings ...string) {
	w.settings = append([]string{"ECS_IMAGE_PULL_BEHAVIOR=" + behaviour, "ECS_ENGINE_TASK_CLEANUP_WAIT_DURATION=1s",
		"ECS_STOPPED_TASKS_KEPT_PER_FAMILY=100", "LONGSHORE_PROFILE=127.0.0.1:" + profilePort}, settings...)
	w.lab.StartAgent(1, w.settings...)
	w.await("the agent is connected", func() bool {
		out, err := w.ecs.ListContainerInstances(w.t.Context(), &ecs.ListContainerInstancesInput{Cluster: aws.String(cluster), Filter: aws.String("agentConnected==true")})
		return err == nil && len(out.ContainerInstanceArns) == 1
	})
}

// profile takes a CPU profile of the agent into the folder that PROFILE names, when it does, until the function that it returns is called.
func (w *world) profile(name string, seconds int) (wait func()) {
	dir := os.Getenv("PROFILE")
	if dir == "" {
		return func() {}
	}
	var group errgroup.Group
	group.Go(func() error {
		return w.lab.OnHost(1, "curl", "-sS", "-o", filepath.Join(dir, name+".profile"), fmt.Sprintf("http://127.0.0.1:%s/debug/pprof/profile?seconds=%d", profilePort, seconds)).Run()
	})
	return func() {
		if err := group.Wait(); err != nil {
			fmt.Printf("  profile %s: %v\n", name, err)
		}
	}
}

// introspect asks the agent's introspection, which listens on the host's loopback interface; nil when it does not answer.
func (w *world) introspect(path string) []byte {
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: w.dialInside}}
	res, err := client.Get("http://127.0.0.1:51678" + path)
	if err != nil {
		return nil
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return nil
	}
	return body
}

// dialInside connects from within the host's network namespace. A socket stays in the namespace that it was made in.
func (w *world) dialInside(ctx context.Context, network, address string) (net.Conn, error) {
	type answer struct {
		conn net.Conn
		err  error
	}
	result := make(chan answer, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		ns, err := netns.GetFromName(w.lab.Farm.Name + "1")
		if err == nil {
			defer func() { _ = ns.Close() }()
			err = netns.Set(ns)
		}
		var conn net.Conn
		if err == nil {
			var d net.Dialer
			conn, err = d.DialContext(ctx, network, address)
		}
		result <- answer{conn, err}
	}()
	a := <-result
	return a.conn, a.err
}

func (w *world) await(what string, holds func() bool) {
	w.t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(2 * time.Minute)
	for !holds() {
		select {
		case <-tick.C:
		case <-deadline:
			w.t.Fatalf("not in two minutes: %s", what)
		}
	}
}

// still lets time pass in which the measurement itself does nothing.
func still(d time.Duration) { <-time.After(d) }

func (w *world) define(family string, mode types.NetworkMode) {
	if _, err := w.ecs.RegisterTaskDefinition(w.t.Context(), &ecs.RegisterTaskDefinitionInput{Family: &family, NetworkMode: mode,
		ContainerDefinitions: []types.ContainerDefinition{{Name: aws.String("main"), Image: aws.String(w.image), Memory: aws.Int32(16)}}}); err != nil {
		w.t.Fatal(err)
	}
}

// run runs count tasks, at most ten with each call, and returns their ARNs. The calls are made side by side.
func (w *world) run(family string, count int) []string {
	calls := (count + 9) / 10
	arns := make([][]string, calls)
	group, ctx := errgroup.WithContext(w.t.Context())
	for i := range calls {
		n := min(count-10*i, 10)
		group.Go(func() error {
			out, err := w.ecs.RunTask(ctx, &ecs.RunTaskInput{Cluster: aws.String(cluster), TaskDefinition: &family, Count: aws.Int32(int32(n))})
			if err != nil {
				return err
			}
			if len(out.Tasks) != n {
				return fmt.Errorf("of %d tasks %d were placed: %+v", n, len(out.Tasks), out.Failures)
			}
			for _, t := range out.Tasks {
				arns[i] = append(arns[i], aws.ToString(t.TaskArn))
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		w.t.Fatalf("run-task: %v", err)
	}
	return slices.Concat(arns...)
}

// stop asks for the stop of tasks, some at a time.
func (w *world) stop(arns []string) {
	group, ctx := errgroup.WithContext(w.t.Context())
	group.SetLimit(8)
	for _, arn := range arns {
		group.Go(func() error {
			_, err := w.ecs.StopTask(ctx, &ecs.StopTaskInput{Cluster: aws.String(cluster), Task: &arn})
			return err
		})
	}
	if err := group.Wait(); err != nil {
		w.t.Fatalf("stop-task: %v", err)
	}
}

// describe returns tasks, in no order.
func (w *world) describe(arns []string) []types.Task {
	var all []types.Task
	for some := range slices.Chunk(arns, 100) {
		d, err := w.ecs.DescribeTasks(w.t.Context(), &ecs.DescribeTasksInput{Cluster: aws.String(cluster), Tasks: some})
		if err != nil {
			w.t.Fatal(err)
		}
		all = append(all, d.Tasks...)
	}
	return all
}

// reach waits until the tasks have a status. It looks seldom, and the first time late, so that looking does not disturb what is measured.
func (w *world) reach(arns []string, status string) []types.Task {
	every := time.Duration(20+2*len(arns)) * time.Millisecond
	deadline := time.Now().Add(3 * time.Minute)
	for still(130 * time.Millisecond); ; still(every) {
		tasks := w.describe(arns)
		left := len(arns)
		for _, t := range tasks {
			if is := aws.ToString(t.LastStatus); is == status {
				left--
			} else if is == "STOPPED" {
				w.t.Fatalf("%s stopped: %s", aws.ToString(t.TaskArn), aws.ToString(t.StoppedReason))
			}
		}
		if left == 0 {
			return tasks
		}
		if time.Now().After(deadline) {
			w.t.Fatalf("%d of %d tasks are not %s in three minutes", left, len(arns), status)
		}
	}
}

// empty waits until the agent has removed its containers.
func (w *world) empty() {
	for left := 1; left > 0; {
		list, err := w.docker.ContainerList(w.t.Context(), container.ListOptions{All: true})
		if err != nil {
			w.t.Fatal(err)
		}
		if left = len(list); left > 0 {
			still(time.Duration(min(10*left, 500)) * time.Millisecond)
		}
	}
}

// removeAll removes every container of the host.
func (w *world) removeAll() {
	list, err := w.docker.ContainerList(w.t.Context(), container.ListOptions{All: true})
	if err != nil {
		w.t.Fatal(err)
	}
	var group errgroup.Group
	group.SetLimit(4)
	for _, c := range list {
		group.Go(func() error {
			return w.docker.ContainerRemove(context.WithoutCancel(w.t.Context()), c.ID, container.RemoveOptions{Force: true, RemoveVolumes: true})
		})
	}
	if err := group.Wait(); err != nil {
		w.t.Fatal(err)
	}
}

// bare creates and starts a task's container through the engine's API.
func (w *world) bare(ctx context.Context, mode string) (id string, err error) {
	c, err := w.docker.ContainerCreate(ctx, &container.Config{Image: w.image, Cmd: []string{"/bin/sleep", "1000000"}},
		&container.HostConfig{NetworkMode: container.NetworkMode(mode), Resources: container.Resources{Memory: 16 << 20, CPUShares: 2}}, nil, nil, "")
	if err != nil {
		return "", err
	}
	return c.ID, w.docker.ContainerStart(ctx, c.ID, container.StartOptions{})
}

// onHost runs a command on the host, which must succeed.
func (w *world) onHost(argv ...string) {
	if out, err := w.lab.OnHost(1, argv...).CombinedOutput(); err != nil {
		w.t.Fatalf("%s: %v: %s", strings.Join(argv, " "), err, out)
	}
}
