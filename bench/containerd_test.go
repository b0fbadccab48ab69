//go:build bench

package bench

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	runcoptions "github.com/containerd/containerd/api/types/runc/options"
	ctd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/contrib/seccomp"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/pkg/oci"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"
	"github.com/docker/docker/api/types/container"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/longshore-project/longshore/test/e2e"
	"github.com/longshore-project/longshore/test/images"
)

// engines is a lab of two hosts: the first one's agent uses containerd, the second one's Docker. Which of them a task is for says its
// family, by the attribute longshore.container-engine.
type engines struct {
	*world
	client   *ctd.Client
	local    ctd.Image
	accounts map[int]*account
	measured map[string]types.Task // as they were when they ran
}

// settling is for what an engine does after a start; one of ours is waited for as long.
const settling = 130 * time.Millisecond

const (
	onContainerd, onDocker = 1, 2
	bareNamespace          = "bare"
)

// containerd measures starts on containerd beside a bare client on the same server, beside Longshore on Docker, and beside Docker's bare
// start, in turn; what a container takes of memory; and CONTAINERS tasks at once.
func (w *world) containerd() {
	e := newEngines(w)
	defer func() { w.table = e.table }()
	for _, runtime := range []string{"", "crun"} {
		e.agents(runtime)
		for _, mode := range []string{"host", "bridge"} {
			if runtime == "" || mode == "host" {
				e.starts(runtime, mode)
			}
		}
		if runtime == "" {
			e.phases("host-containerd", e.measured)
			e.atOnceOnBoth()
		}
		e.lab.StopAgent(onDocker)
		e.stopContainerd()
	}
}

func newEngines(w *world) *engines {
	lab := e2e.NewLabOn(w.t, e2e.Both, "bctd", 98, 2)
	url, id, secret := lab.API()
	e := &engines{world: &world{t: w.t, lab: lab, rounds: w.rounds, table: w.table}, accounts: map[int]*account{}}
	e.ecs = ecs.New(ecs.Options{Region: "us-west-2", BaseEndpoint: aws.String(url), Credentials: credentials.NewStaticCredentialsProvider(id, secret, "")})
	e.docker = lab.Engine(onDocker)
	e.image = lab.Push("sleep:1", images.Spec{Cmd: []string{"/bin/sleep", "1000000"}, StopSignal: "SIGKILL"})
	if _, err := e.ecs.CreateCluster(w.t.Context(), &ecs.CreateClusterInput{ClusterName: aws.String(cluster)}); err != nil {
		w.t.Fatal(err)
	}
	for _, engine := range []string{"containerd", "docker"} {
		for _, mode := range []string{"host", "bridge"} {
			e.defineOn(engine, mode)
		}
	}
	// crun 1.8 works with control groups v1 only where v2 has no controller.
	_ = lab.OnHost(onContainerd, "umount", "/sys/fs/cgroup/unified").Run()
	for i, programs := range map[int][]string{onContainerd: {"containerd"}, onDocker: {"containerd", "dockerd"}} {
		e.accounts[i] = newAccount(w.t, i)
		for _, p := range programs {
			e.accounts[i].add(w.t, lab.ProcessOn(i, p))
		}
	}
	e.connect()
	return e
}

func (e *engines) defineOn(engine, mode string) {
	_, err := e.ecs.RegisterTaskDefinition(e.t.Context(), &ecs.RegisterTaskDefinitionInput{Family: aws.String(mode + "-" + engine), NetworkMode: types.NetworkMode(mode),
		PlacementConstraints: []types.TaskDefinitionPlacementConstraint{{Type: types.TaskDefinitionPlacementConstraintTypeMemberOf, Expression: aws.String("attribute:longshore.container-engine == " + engine)}},
		ContainerDefinitions: []types.ContainerDefinition{{Name: aws.String("main"), Image: aws.String(e.image), Memory: aws.Int32(16)}}})
	if err != nil {
		e.t.Fatal(err)
	}
}

// connect makes the bare client, which has its own namespace, and pulls the image into it.
func (e *engines) connect() {
	pid, err := os.ReadFile(filepath.Join(e.lab.Farm.Dir, "h1", "init.pid"))
	if err != nil {
		e.t.Fatal(err)
	}
	e.client, err = ctd.New("/proc/"+strings.TrimSpace(string(pid))+"/root/run/containerd/containerd.sock", ctd.WithDefaultNamespace(bareNamespace))
	if err != nil {
		e.t.Fatal(err)
	}
	e.t.Cleanup(func() { _ = e.client.Close() })
	plain := docker.NewResolver(docker.ResolverOptions{Hosts: docker.ConfigureDefaultRegistries(docker.WithPlainHTTP(docker.MatchAllHosts))})
	e.local, err = e.client.Pull(e.ctx(), e.lab.Registry.Addr+"/sleep:1", ctd.WithPullUnpack, ctd.WithResolver(plain))
	if err != nil {
		e.t.Fatal(err)
	}
}

func (e *engines) ctx() context.Context {
	return namespaces.WithNamespace(e.t.Context(), bareNamespace)
}

// agents starts both agents.
func (e *engines) agents(runtime string) {
	settings := []string{"ECS_IMAGE_PULL_BEHAVIOR=prefer-cached", "ECS_ENGINE_TASK_CLEANUP_WAIT_DURATION=1s", "ECS_STOPPED_TASKS_KEPT_PER_FAMILY=100", "LONGSHORE_PROFILE=127.0.0.1:" + profilePort}
	e.lab.StartAgent(onDocker, settings...)
	e.lab.StartAgent(onContainerd, append(append(settings, "ECS_CONTAINER_RUNTIME="+runtime), e.lab.Settings(e2e.Containerd)...)...)
	e.await("both agents are connected", func() bool {
		out, err := e.ecs.ListContainerInstances(e.t.Context(), &ecs.ListContainerInstancesInput{Cluster: aws.String(cluster), Filter: aws.String("agentConnected==true")})
		return err == nil && len(out.ContainerInstanceArns) == 2
	})
}

func (e *engines) stopContainerd() {
	pid := e.lab.ProcessOn(onContainerd, "longshore-agent-containerd")
	if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
		e.t.Fatal(err)
	}
	e.await("the agent has ended", func() bool { return syscall.Kill(pid, 0) != nil })
}

// starts measures single starts, four kinds in turn.
func (e *engines) starts(runtime, mode string) {
	var ours, bare, docker, bareDocker, stop, bareStop burst
	e.measured = map[string]types.Task{}
	for round := range e.rounds + 1 {
		if round == 1 { // the first one pulls the image
			ours, bare, docker, bareDocker, stop, bareStop = burst{}, burst{}, burst{}, burst{}, burst{}, burst{}
		}
		e.one(mode+"-containerd", onContainerd, &ours, &stop)
		e.one(mode+"-docker", onDocker, &docker, &burst{})
		if mode == "host" {
			e.bareContainerd(runtime, &bare, &bareStop)
		}
		e.bareOnDocker(mode, &bareDocker)
	}
	name := map[string]string{"": "runc"}[runtime] + runtime
	aim := map[string]string{"runchost": "0.85", "runcbridge": "0.45", "crunhost": "0.65"}[name+mode]
	what := fmt.Sprintf("start on containerd, %s, %s", name, mode)
	if mode == "host" {
		e.table.add(what+"; floor: bare client, same server, same rights", ours.took.String(), bare.took.String(), ratio(ours.took, bare.took)+", "+ms(ours.took.median()-bare.took.median()), "")
		e.table.add("  engine's CPU time of that", ms(ours.engine.median()), ms(bare.engine.median()), ratio(ours.engine, bare.engine), "")
		e.table.add("  stop, request → STOPPED; floor: kill → gone, task deleted", stop.took.String(), bareStop.took.String(), ratio(stop.took, bareStop.took), "")
	}
	e.table.add(what+"; beside Longshore on Docker", ours.took.String(), docker.took.String(), ratio(ours.took, docker.took), "")
	e.table.add(what+"; beside Docker's bare start", ours.took.String(), bareDocker.took.String(), ratio(ours.took, bareDocker.took), aim)
	e.table.add("  engine's CPU time of that", ms(ours.engine.median()), ms(bareDocker.engine.median()), ratio(ours.engine, bareDocker.engine), "")
}

// one runs a task, and stops it.
func (e *engines) one(family string, host int, start, stop *burst) {
	done := e.accounts[host].spent(start)
	arns := e.run(family, 1)
	task := e.reach(arns, "RUNNING")[0]
	done()
	start.took.add(task.StartedAt.Sub(*task.CreatedAt))
	e.measured[aws.ToString(task.TaskArn)] = task
	began := time.Now()
	e.stop(arns)
	ended := e.reach(arns, "STOPPED")[0]
	stop.took.add(ended.StoppedAt.Sub(began))
	e.gone()
}

// gone waits until neither host has containers of the agents.
func (e *engines) gone() {
	e.empty()
	ctx := namespaces.WithNamespace(e.t.Context(), "longshore")
	e.await("the containers are removed", func() bool {
		list, err := e.client.ContainerService().List(ctx)
		return err == nil && len(list) == 0
	})
}

// bareOnDocker starts a container on Docker without us, and removes it.
func (e *engines) bareOnDocker(mode string, start *burst) {
	done := e.accounts[onDocker].spent(start)
	began := time.Now()
	id, err := e.bare(e.t.Context(), mode)
	if err != nil {
		e.t.Fatal(err)
	}
	start.took.add(time.Since(began))
	still(settling)
	done()
	if err := e.docker.ContainerRemove(e.t.Context(), id, container.RemoveOptions{Force: true}); err != nil {
		e.t.Fatal(err)
	}
}

// bareContainerd makes and starts a container with the rights and limits that a task's has, and ends it.
func (e *engines) bareContainerd(runtime string, start, stop *burst) {
	ctx := e.ctx()
	id := fmt.Sprint("bare-", time.Now().UnixNano())
	done := e.accounts[onContainerd].spent(start)
	began := time.Now()
	made, err := e.client.NewContainer(ctx, id, e.bareOptions(id, runtime)...)
	if err != nil {
		e.t.Fatal(err)
	}
	task, err := made.NewTask(ctx, cio.NullIO)
	if err == nil {
		err = task.Start(ctx)
	}
	if err != nil {
		e.t.Fatal(err)
	}
	start.took.add(time.Since(began))
	still(settling)
	done()
	over, err := task.Wait(ctx)
	if err != nil {
		e.t.Fatal(err)
	}
	began = time.Now()
	if err := task.Kill(ctx, 9); err != nil {
		e.t.Fatal(err)
	}
	<-over
	if _, err := task.Delete(ctx); err != nil {
		e.t.Fatal(err)
	}
	stop.took.add(time.Since(began))
	if err := made.Delete(ctx, ctd.WithSnapshotCleanup); err != nil {
		e.t.Fatal(err)
	}
}

func (e *engines) bareOptions(id, runtime string) []ctd.NewContainerOpts {
	options := []ctd.NewContainerOpts{ctd.WithNewSnapshot(id, e.local), ctd.WithNewSpec(oci.WithProcessArgs("/bin/sleep", "1000000"), oci.WithHostNamespace(specs.NetworkNamespace),
		oci.WithMemoryLimit(16<<20), oci.WithCPUShares(2), seccomp.WithDefaultProfile(), func(_ context.Context, _ oci.Client, _ *containers.Container, s *oci.Spec) error {
			s.Version = "1.0.2"
			return nil
		})}
	if runtime != "" {
		options = append(options, ctd.WithRuntime("io.containerd.runc.v2", &runcoptions.Options{BinaryName: "/usr/bin/" + runtime}))
	}
	return options
}

// atOnceOnBoth starts CONTAINERS tasks at once on each engine, and weighs them.
func (e *engines) atOnceOnBoth() {
	n := setting("CONTAINERS", 100)
	for _, mode := range []string{"host", "bridge"} {
		var took, stopped, cpu [3]burst
		for round := range setting("MANY", 3) {
			for _, host := range []int{onContainerd, onDocker} {
				family := mode + "-" + map[int]string{onContainerd: "containerd", onDocker: "docker"}[host]
				before := e.weigh(host)
				done := e.accounts[host].spent(&cpu[host])
				began := time.Now()
				arns := e.run(family, n)
				took[host].took.add(latest(e.reach(arns, "RUNNING"), func(t types.Task) *time.Time { return t.StartedAt }).Sub(began))
				done()
				if round == 0 && mode == "host" {
					e.perContainer(host, n, before)
				}
				began = time.Now()
				e.stop(arns)
				stopped[host].took.add(latest(e.reach(arns, "STOPPED"), func(t types.Task) *time.Time { return t.StoppedAt }).Sub(began))
				e.gone()
			}
		}
		e.table.add(fmt.Sprintf("%d tasks at once on containerd, %s; beside Longshore on Docker", n, mode), took[1].took.String(), took[2].took.String(), ratio(took[1].took, took[2].took), "")
		e.table.add("  engine's CPU time of that", ms(cpu[1].engine.median()), ms(cpu[2].engine.median()), ratio(cpu[1].engine, cpu[2].engine), "")
		e.table.add(fmt.Sprintf("  stop of %d tasks", n), stopped[1].took.String(), stopped[2].took.String(), ratio(stopped[1].took, stopped[2].took), "")
	}
}

// weight is memory in MiB, shared pages by shares (PSS), by program.
type weight map[string]float64

func (e *engines) weigh(host int) weight {
	init, err := os.ReadFile(filepath.Join(e.lab.Farm.Dir, "h"+strconv.Itoa(host), "init.pid"))
	if err != nil {
		e.t.Fatal(err)
	}
	namespace, _ := os.Readlink("/proc/" + strings.TrimSpace(string(init)) + "/ns/pid")
	w := weight{}
	procs, _ := filepath.Glob("/proc/[0-9]*")
	for _, p := range procs {
		if ns, err := os.Readlink(p + "/ns/pid"); err != nil || ns != namespace {
			continue
		}
		program, err := os.Readlink(p + "/exe")
		if err != nil {
			continue
		}
		b, _ := os.ReadFile(p + "/smaps_rollup")
		for line := range strings.Lines(string(b)) {
			if f := strings.Fields(line); f[0] == "Pss:" {
				kb, _ := strconv.ParseFloat(f[1], 64)
				w[filepath.Base(program)] += kb / 1024
			}
		}
	}
	return w
}

// perContainer says what each of n containers has made the host's programs grow by.
func (e *engines) perContainer(host, n int, before weight) {
	still(3 * time.Second)
	after, all, parts := e.weigh(host), 0.0, []string{}
	for _, program := range []string{"containerd-shim-runc-v2", "longshore-log", "containerd", "dockerd", "longshore-agent", "longshore-agent-containerd"} {
		if grown := (after[program] - before[program]) / float64(n); grown > 0.005 || grown < -0.005 {
			all += grown
			parts = append(parts, fmt.Sprintf("%s %.2f", program, grown))
		}
	}
	name := map[int]string{onContainerd: "containerd", onDocker: "Docker"}[host]
	e.table.add(fmt.Sprintf("memory per container of %d on %s, PSS", n, name), fmt.Sprintf("%.2f MiB (%s)", all, strings.Join(parts, ", ")), "", "", "")
}

// account is a control group for an engine's processes on a host, and all that they start.
type account struct{ dir string }

func newAccount(t *testing.T, host int) *account {
	a := &account{fmt.Sprintf("%s-host%d", accounting, host)}
	if err := os.Mkdir(a.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Remove(a.dir) })
	return a
}

func (a *account) add(t *testing.T, pid int) {
	if err := os.WriteFile(a.dir+"/cgroup.procs", []byte(strconv.Itoa(pid)), 0o600); err != nil {
		t.Fatal(err)
	}
}

func (a *account) used() time.Duration {
	b, _ := os.ReadFile(a.dir + "/cpuacct.usage")
	n, _ := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
	return time.Duration(n)
}

func (a *account) spent(b *burst) (done func()) {
	before := a.used()
	return func() { b.engine.add(a.used() - before) }
}
