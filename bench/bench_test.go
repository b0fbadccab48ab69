//go:build bench

package bench

import (
	"context"
	"fmt"
	"os"
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
}

func setting(name string, def int) int {
	if n, err := strconv.Atoi(os.Getenv(name)); err == nil && n > 0 {
		return n
	}
	return def
}

func TestBench(t *testing.T) {
	e2e.BuildFlags = []string{"-trimpath", "-tags", "grpcnotrace", "-ldflags", "-s -w"}
	os.Setenv("CGO_ENABLED", "0")
	t.Cleanup(e2e.Cleanup)
	ram := t.TempDir()
	if err := unix.Mount("tmpfs", ram, "tmpfs", 0, "size=8g"); err != nil {
		t.Fatalf("a tmpfs for the engine's data: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(ram, unix.MNT_DETACH) })
	t.Setenv("TMPDIR", ram)

	w := &world{t: t, lab: e2e.NewLab(t, "bnch", 97, 1), rounds: setting("ROUNDS", 40)}
	url, id, secret := w.lab.API()
	w.ecs = ecs.New(ecs.Options{Region: "us-west-2", BaseEndpoint: aws.String(url), Credentials: credentials.NewStaticCredentialsProvider(id, secret, "")})
	w.docker = w.lab.Engine(1)
	w.image = w.lab.Push("sleep:1", images.Spec{Cmd: []string{"/bin/sleep", "1000000"}})
	if _, err := w.ecs.CreateCluster(t.Context(), &ecs.CreateClusterInput{ClusterName: aws.String(cluster)}); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(w.lab.Agent()); err == nil {
		fmt.Printf("binary of the agent, stripped: %.1f MiB\n", float64(info.Size())/(1<<20))
	}
	w.join()
	for _, mode := range []string{"host", "bridge"} {
		w.define(mode, types.NetworkMode(mode))
	}
	w.starts()
	w.weight()
}

// agent starts the agent with a pull behaviour; containers of stopped tasks go at once.
func (w *world) agent(behaviour string) {
	w.lab.StartAgent(1, "ECS_IMAGE_PULL_BEHAVIOR="+behaviour, "ECS_ENGINE_TASK_CLEANUP_WAIT_DURATION=1s")
	w.await("the agent is connected", func() bool {
		out, err := w.ecs.ListContainerInstances(w.t.Context(), &ecs.ListContainerInstancesInput{Cluster: aws.String(cluster), Filter: aws.String("agentConnected==true")})
		return err == nil && len(out.ContainerInstanceArns) == 1
	})
}

func (w *world) await(what string, holds func() bool) {
	w.t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(60 * time.Second)
	for !holds() {
		select {
		case <-tick.C:
		case <-deadline:
			w.t.Fatalf("not in a minute: %s", what)
		}
	}
}

func (w *world) define(family string, mode types.NetworkMode) {
	if _, err := w.ecs.RegisterTaskDefinition(w.t.Context(), &ecs.RegisterTaskDefinitionInput{Family: aws.String(family), NetworkMode: mode,
		ContainerDefinitions: []types.ContainerDefinition{{Name: aws.String("main"), Image: aws.String(w.image), Memory: aws.Int32(16)}}}); err != nil {
		w.t.Fatal(err)
	}
}

// join measures a host's way from registration to its daemon, several times with a new identity.
func (w *world) join() {
	ctx := w.t.Context()
	w.define("daemon", types.NetworkModeHost)
	if _, err := w.ecs.CreateService(ctx, &ecs.CreateServiceInput{Cluster: aws.String(cluster), ServiceName: aws.String("daemon"), TaskDefinition: aws.String("daemon"), SchedulingStrategy: types.SchedulingStrategyDaemon}); err != nil {
		w.t.Fatal(err)
	}
	var assigned, running series
	for round := range 6 {
		w.agent("prefer-cached")
		var task types.Task
		w.await("the daemon runs", func() bool {
			list, err := w.ecs.ListTasks(ctx, &ecs.ListTasksInput{Cluster: aws.String(cluster)})
			if err != nil || len(list.TaskArns) != 1 {
				return false
			}
			d, err := w.ecs.DescribeTasks(ctx, &ecs.DescribeTasksInput{Cluster: aws.String(cluster), Tasks: list.TaskArns})
			if err != nil || len(d.Tasks) != 1 || aws.ToString(d.Tasks[0].LastStatus) != "RUNNING" {
				return false
			}
			task = d.Tasks[0]
			return true
		})
		in, err := w.ecs.DescribeContainerInstances(ctx, &ecs.DescribeContainerInstancesInput{Cluster: aws.String(cluster), ContainerInstances: []string{aws.ToString(task.ContainerInstanceArn)}})
		if err != nil {
			w.t.Fatal(err)
		}
		if round > 0 { // the first one pulls the image
			registered := aws.ToTime(in.ContainerInstances[0].RegisteredAt)
			assigned.add(task.CreatedAt.Sub(registered))
			running.add(task.StartedAt.Sub(registered))
		}
		w.lab.StopAgent(1)
		if _, err := w.ecs.DeregisterContainerInstance(ctx, &ecs.DeregisterContainerInstanceInput{Cluster: aws.String(cluster), ContainerInstance: task.ContainerInstanceArn, Force: aws.Bool(true)}); err != nil {
			w.t.Fatal(err)
		}
		w.removeAll()
		if err := w.lab.OnHost(1, "sh", "-c", "rm -rf /var/lib/ecs/data/*").Run(); err != nil {
			w.t.Fatal(err)
		}
	}
	fmt.Printf("from a host's registration: daemon assigned %s, daemon RUNNING %s (image cached, host network)\n", assigned, running)
	if _, err := w.ecs.DeleteService(ctx, &ecs.DeleteServiceInput{Cluster: aws.String(cluster), Service: aws.String("daemon")}); err != nil {
		w.t.Fatal(err)
	}
}

// removeAll removes every container of the host.
func (w *world) removeAll() {
	list, err := w.docker.ContainerList(w.t.Context(), container.ListOptions{All: true})
	if err != nil {
		w.t.Fatal(err)
	}
	for _, c := range list {
		_ = w.docker.ContainerRemove(w.t.Context(), c.ID, container.RemoveOptions{Force: true, RemoveVolumes: true})
	}
}

// starts measures single starts: Longshore's and the bare engine's, in turn.
func (w *world) starts() {
	for _, behaviour := range []string{"prefer-cached", "once", "default", "always"} {
		w.agent(behaviour)
		rounds := w.rounds
		if behaviour != "prefer-cached" {
			rounds = max(w.rounds/4, 5)
		}
		for _, mode := range []string{"host", "bridge"} {
			var ours, bare series
			w.longshore(mode) // the image is local from here on
			w.bare(mode)
			for range rounds {
				ours.add(w.longshore(mode))
				bare.add(w.bare(mode))
			}
			fmt.Printf("start, %-13s %-6s: RunTask accepted → RUNNING reported %s | bare create+start %s | own share %.1f ms, ratio %.2f\n",
				behaviour, mode, ours, bare, ours.median()-bare.median(), ours.median()/bare.median())
		}
		w.lab.StopAgent(1)
	}
}

// longshore runs a task and returns how long it took from its acceptance until its RUNNING was recorded.
func (w *world) longshore(family string) time.Duration {
	ctx := w.t.Context()
	out, err := w.ecs.RunTask(ctx, &ecs.RunTaskInput{Cluster: aws.String(cluster), TaskDefinition: aws.String(family)})
	if err != nil || len(out.Tasks) != 1 {
		w.t.Fatalf("run-task: %v %+v", err, out)
	}
	arn := aws.ToString(out.Tasks[0].TaskArn)
	task := w.status(arn, "RUNNING")
	took := task.StartedAt.Sub(*task.CreatedAt)
	if _, err := w.ecs.StopTask(ctx, &ecs.StopTaskInput{Cluster: aws.String(cluster), Task: aws.String(arn)}); err != nil {
		w.t.Fatal(err)
	}
	id := aws.ToString(task.Containers[0].RuntimeId)
	_ = w.docker.ContainerKill(ctx, id, "KILL") // sleep as PID 1 ignores SIGTERM; don't wait for its stopTimeout
	w.status(arn, "STOPPED")
	w.await("the container is removed", func() bool { _, err := w.docker.ContainerInspect(ctx, id); return client.IsErrNotFound(err) })
	return took
}

// status waits until the task has a status. The first look comes late, so that looking does not disturb what is measured.
func (w *world) status(arn, status string) types.Task {
	var task types.Task
	pause := time.NewTimer(150 * time.Millisecond)
	defer pause.Stop()
	<-pause.C
	w.await(arn+" is "+status, func() bool {
		d, err := w.ecs.DescribeTasks(w.t.Context(), &ecs.DescribeTasksInput{Cluster: aws.String(cluster), Tasks: []string{arn}})
		if err != nil || len(d.Tasks) != 1 {
			return false
		}
		task = d.Tasks[0]
		if status == "RUNNING" && aws.ToString(task.LastStatus) == "STOPPED" {
			w.t.Fatalf("%s stopped: %s", arn, aws.ToString(task.StoppedReason))
		}
		return aws.ToString(task.LastStatus) == status
	})
	return task
}

// bare creates and starts the same container through the engine's API, and removes it.
func (w *world) bare(mode string) time.Duration {
	ctx := w.t.Context()
	began := time.Now()
	c, err := w.docker.ContainerCreate(ctx, &container.Config{Image: w.image, Cmd: []string{"/bin/sleep", "1000000"}},
		&container.HostConfig{NetworkMode: container.NetworkMode(mode), Resources: container.Resources{Memory: 16 << 20, CPUShares: 2}}, nil, nil, "")
	if err != nil {
		w.t.Fatal(err)
	}
	if err := w.docker.ContainerStart(ctx, c.ID, container.StartOptions{}); err != nil {
		w.t.Fatal(err)
	}
	took := time.Since(began)
	if err := w.docker.ContainerRemove(context.WithoutCancel(ctx), c.ID, container.RemoveOptions{Force: true}); err != nil {
		w.t.Fatal(err)
	}
	return took
}

// weight measures the agent's memory, and its and the engine's CPU, idle and with containers to watch.
func (w *world) weight() {
	rest := time.Duration(setting("IDLE", 60)) * time.Second
	w.agent("prefer-cached")
	w.rest("idle", rest)
	n := setting("CONTAINERS", 50)
	for range n / 10 {
		if out, err := w.ecs.RunTask(w.t.Context(), &ecs.RunTaskInput{Cluster: aws.String(cluster), TaskDefinition: aws.String("host"), Count: aws.Int32(10)}); err != nil || len(out.Tasks) != 10 {
			w.t.Fatalf("run-task: %v %+v", err, out)
		}
	}
	w.await("they run", func() bool {
		list, err := w.docker.ContainerList(w.t.Context(), container.ListOptions{})
		return err == nil && len(list) >= n/10*10
	})
	w.rest(fmt.Sprintf("with %d containers", n/10*10), rest)
	w.lab.StopAgent(1)
	w.removeAll()
}

func (w *world) rest(what string, d time.Duration) {
	pid, engine := w.lab.AgentPid(1), w.enginePid()
	cpuA, cpuE := cpu(w.t, pid), cpu(w.t, engine)
	<-time.After(d)
	percent := func(a, b time.Duration) float64 { return 100 * float64(b-a) / float64(d) }
	rss, anon := memory(w.t, pid)
	fmt.Printf("agent %s, after %v: resident %.1f MiB, anonymous %.1f MiB; CPU of one core over that time: agent %.2f %%, engine %.2f %%\n",
		what, d, rss, anon, percent(cpuA, cpu(w.t, pid)), percent(cpuE, cpu(w.t, engine)))
}

// enginePid is the host's dockerd.
func (w *world) enginePid() int {
	return w.lab.ProcessOn(1, "dockerd")
}

func cpu(t *testing.T, pid int) time.Duration {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	f := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+2:]))
	user, _ := strconv.Atoi(f[11])
	system, _ := strconv.Atoi(f[12])
	return time.Duration(user+system) * 10 * time.Millisecond
}

func memory(t *testing.T, pid int) (rss, anon float64) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		n, _ := strconv.ParseFloat(f[min(1, len(f)-1)], 64)
		switch f[0] {
		case "VmRSS:":
			rss = n / 1024
		case "RssAnon:":
			anon = n / 1024
		}
	}
	return rss, anon
}
