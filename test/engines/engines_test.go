//go:build engines

package engines

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/docker/docker/api/types/container"
	"go.uber.org/goleak"

	"github.com/longshore-project/longshore/test/e2e"
	"github.com/longshore-project/longshore/test/hosts"
	"github.com/longshore-project/longshore/test/images"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const cluster = "daemonset"

// current is where the current engine's programs are.
func current(t *testing.T) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "./build.sh").Output()
	if err != nil {
		t.Fatalf("building a current engine: %v", err)
	}
	return strings.TrimSpace(string(out))
}

func TestACurrentEnginePassesTheConformanceSuite(t *testing.T) {
	program := filepath.Join(t.TempDir(), "suite")
	if out, err := exec.CommandContext(t.Context(), "go", "test", "-race", "-c", "-o", program, "../../engine/docker").CombinedOutput(); err != nil {
		t.Fatalf("building the suite: %v: %s", err, out)
	}
	for i, c := range []struct{ name, flags string }{
		{"with the image store", ""},
		{"with overlay2", "--feature containerd-snapshotter=false --storage-driver overlay2"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Setenv("PATH", current(t)+":"+os.Getenv("PATH"))
			t.Setenv("HOSTS_DOCKERD", c.flags)
			dir, err := os.MkdirTemp("", "ls-eng") // short: unix sockets lie below
			if err != nil {
				t.Fatal(err)
			}
			farm := &hosts.Farm{Dir: dir, Name: "lseng" + strconv.Itoa(i), Net: "10." + strconv.Itoa(70+i) + ".7"}
			t.Cleanup(func() {
				if err := farm.Down(context.WithoutCancel(t.Context())); err != nil {
					t.Error(err)
				}
			})
			if err := farm.Up(t.Context(), 1); err != nil {
				t.Fatal(err)
			}
			suite := farm.Start(t.Context(), 1, program, "-test.timeout=9m")
			suite.Dir = "../../engine/docker"
			out, err := suite.CombinedOutput()
			if err != nil {
				t.Errorf("%v: %s", err, out)
			}
		})
	}
}

// world is a host with Debian's engine, and an agent.
type world struct {
	*e2e.Lab
	t     *testing.T
	flags string
}

func newWorld(t *testing.T, name string, subnet int, flags string, settings ...string) *world {
	t.Helper()
	t.Setenv("HOSTS_DOCKERD", flags)
	w := &world{e2e.NewLab(t, name, subnet, 1), t, flags}
	w.Do("ecs", "create-cluster", "--cluster-name", cluster)
	w.StartAgent(1, settings...)
	w.InstanceOf(1)
	image := w.Push("app:1", images.Spec{})
	w.Do("ecs", "register-task-definition", "--cli-input-json", `{"family":"app","containerDefinitions":[{"name":"app","image":"`+image+`","memory":8,
		"portMappings":[{"containerPort":80}],"stopTimeout":2,"command":["sh","-c","while :; do sleep 1000; done"]}]}`)
	return w
}

func (w *world) services(n int) {
	w.t.Helper()
	for i := range n {
		w.Do("ecs", "create-service", "--cluster", cluster, "--service-name", fmt.Sprint("app-", i), "--scheduling-strategy", "DAEMON", "--task-definition", "app")
	}
	w.Until(3*time.Minute, fmt.Sprint(n, " tasks run"), func() error { return count(len(w.running()), n, "tasks") })
}

func count(got, want int, what string) error {
	if got != want {
		return fmt.Errorf("%d %s, want %d", got, what, want)
	}
	return nil
}

// running are the tasks that run, by service.
func (w *world) running() map[string]string {
	w.t.Helper()
	tasks := map[string]string{}
	for _, t := range w.Tasks() {
		if t.LastStatus == "RUNNING" {
			tasks[t.Group] = t.TaskArn
		}
	}
	return tasks
}

// processes are pid and start of each running container by its task.
func (w *world) processes() map[string]string {
	w.t.Helper()
	out := map[string]string{}
	for _, c := range w.Running(1, "app") {
		got, err := w.Engine(1).ContainerInspect(w.t.Context(), c.ID)
		if err != nil {
			w.t.Fatal(err)
		}
		out[c.Labels["com.amazonaws.ecs.task-arn"]] = fmt.Sprint(got.State.Pid, " since ", got.State.StartedAt)
	}
	return out
}

// replace ends the host's engine as systemd does and starts the current one on its data, with the same flags.
func (w *world) replace() {
	w.t.Helper()
	programs := current(w.t)
	pid := w.ProcessOn(1, "dockerd")
	if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
		w.t.Fatal(err)
	}
	w.Until(60*time.Second, "the old engine has ended", func() error {
		if err := syscall.Kill(pid, 0); err == nil {
			return errors.New("it runs")
		}
		return nil
	})
	dir := filepath.Join(w.Farm.Dir, "h1")
	start := fmt.Sprintf("export PATH=%s:$PATH; exec dockerd -H unix://%s/docker.sock -H unix:///run/docker.sock --insecure-registry %s.0/24 --cgroup-parent /%s1 %s >>%s/dockerd.log 2>&1 </dev/null",
		programs, dir, w.Farm.Net, w.Farm.Name, w.flags, dir)
	if out, err := w.OnHost(1, "setsid", "-f", "sh", "-c", start).CombinedOutput(); err != nil {
		w.t.Fatalf("starting the current engine: %v: %s", err, out)
	}
	w.Until(60*time.Second, "the current engine answers", func() error {
		v, err := w.Engine(1).ServerVersion(w.t.Context())
		if err != nil {
			return err
		}
		if !strings.HasPrefix(v.MinAPIVersion, "1.4") {
			return fmt.Errorf("it is %s with API %s from %s", v.Version, v.APIVersion, v.MinAPIVersion)
		}
		return nil
	})
}

// health is the instance's health as clients see it, and the agent's reason for it.
func (w *world) health() string {
	w.t.Helper()
	type answer struct {
		ContainerInstances []struct {
			HealthStatus struct {
				OverallStatus string
				Details       []struct{ Type, Status string }
			}
		}
	}
	got := e2e.AWS[answer](w.Lab, "ecs", "describe-container-instances", "--cluster", cluster, "--container-instances", e2e.ID(w.InstanceOf(1)), "--include", "CONTAINER_INSTANCE_HEALTH")
	return got.ContainerInstances[0].HealthStatus.OverallStatus
}

func TestWithLiveRestoreAReplacedEngineLeavesItsTasksAlone(t *testing.T) {
	w := newWorld(t, "live", 72, "--live-restore")
	w.services(20)
	tasks, processes := w.running(), w.processes()
	w.replace()
	w.settles(tasks)
	if got := w.processes(); fmt.Sprint(got) != fmt.Sprint(processes) {
		t.Errorf("the processes are\n%v\nand were\n%v", got, processes)
	}
	// The current engine stops and starts on.
	w.Do("ecs", "stop-task", "--cluster", cluster, "--task", tasks["service:app-0"])
	w.Until(60*time.Second, "a stopped task is replaced", func() error {
		if now := w.running()["service:app-0"]; now == "" || now == tasks["service:app-0"] {
			return fmt.Errorf("it is %q", now)
		}
		return count(len(w.Running(1, "app")), 20, "containers")
	})
}

// settles waits until the agent has looked at the engine again and fails if other tasks run then.
func (w *world) settles(tasks map[string]string) {
	w.t.Helper()
	w.Until(60*time.Second, "the agent has found the engine again", func() error {
		log, err := os.ReadFile(w.Farm.Disk(1, "/var/log/ecs/ecs-agent.log"))
		if err == nil && strings.Count(string(log), "the container engine answers") < 2 {
			err = errors.New("it does not say so")
		}
		return err
	})
	if got := w.running(); fmt.Sprint(got) != fmt.Sprint(tasks) {
		w.t.Errorf("the tasks are\n%v\nand were\n%v", got, tasks)
	}
}

func TestWithoutLiveRestoreEachTaskIsReplacedOnce(t *testing.T) {
	w := newWorld(t, "dead", 73, "")
	w.services(20)
	tasks := w.running()
	w.replace()
	w.Until(3*time.Minute, "each service runs another task", func() error {
		now := w.running()
		for service, old := range tasks {
			if now[service] == "" || now[service] == old {
				return fmt.Errorf("%s runs %q", service, now[service])
			}
		}
		return count(len(now), 20, "tasks")
	})
	stopped := w.Tasks("--desired-status", "STOPPED")
	if len(stopped) != 20 {
		t.Errorf("%d tasks have stopped, want 20", len(stopped))
	}
	for _, s := range stopped {
		if s.TaskArn != tasks[s.Group] || !strings.HasPrefix(s.StoppedReason, "ContainerEngineStoppedError: the container engine (docker 20.10.") || s.StopCode != "EssentialContainerExited" || s.Containers[0].ExitCode == nil {
			t.Errorf("%+v", s)
		}
	}
	all, err := w.Engine(1).ContainerList(t.Context(), container.ListOptions{All: true})
	if err != nil {
		t.Fatal(err)
	}
	if len(all) != 40 || len(w.Running(1, "app")) != 20 {
		t.Errorf("the engine has %d containers, of which %d run; want 40 and 20", len(all), len(w.Running(1, "app")))
	}
}

func TestAnEngineThatRefusesTheAPIVersionIsNamedAndTouchesNothing(t *testing.T) {
	w := newWorld(t, "oldv", 74, "--live-restore", "DOCKER_API_VERSION=1.24")
	w.services(1)
	tasks, processes := w.running(), w.processes()
	w.replace()
	w.Until(3*time.Minute, "the instance is impaired", func() error {
		if h := w.health(); h != "IMPAIRED" {
			return fmt.Errorf("it is %q", h)
		}
		return nil
	})
	log, err := os.ReadFile(w.Farm.Disk(1, "/var/log/ecs/ecs-agent.log"))
	if err != nil || !strings.Contains(string(log), "client version 1.24 is too old") {
		t.Errorf("the agent's log does not name the version: %v", err)
	}
	if got := w.running(); fmt.Sprint(got) != fmt.Sprint(tasks) {
		t.Errorf("the tasks are %v and were %v", got, tasks)
	}
	w.StopAgent(1)
	w.StartAgent(1)
	w.Until(3*time.Minute, "the instance is well again", func() error {
		if h := w.health(); h != "OK" {
			return fmt.Errorf("it is %q", h)
		}
		return nil
	})
	if got := w.processes(); fmt.Sprint(got) != fmt.Sprint(processes) {
		t.Errorf("the processes are %v and were %v", got, processes)
	}
}
