package engine_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/longshore-project/longshore/engine"
	"github.com/longshore-project/longshore/engine/enginetest"
	"github.com/longshore-project/longshore/protocol/acs"
)

func dependsOn(name, condition string) func(*acs.Container) {
	return func(c *acs.Container) {
		c.DependsOn = append(c.DependsOn, &acs.ContainerDependency{ContainerName: name, Condition: condition})
	}
}

func notEssential(c *acs.Container) { c.Essential = false }

func hostPort(port int64) func(*acs.Container) {
	return func(c *acs.Container) {
		c.PortMappings = append(c.PortMappings, &acs.PortMapping{ContainerPort: 80, HostPort: port})
	}
}

// behave gives each container of the fake a behaviour by its name in the task.
func (w *world) behave(by map[string]enginetest.Behaviour) {
	w.fake.Behave(func(s engine.Spec) enginetest.Behaviour { return by[s.Labels[engine.LabelContainerName]] })
}

func (w *world) running(t *acs.Task, name string) bool {
	pids, _ := (enginetest.Kernel{Fake: w.fake}).Of(w.id(t, name)) // whatever the engine thinks
	return len(pids) > 0
}

func (w *world) id(t *acs.Task, name string) string {
	st, _ := w.fake.Container(t.Arn, name)
	return st.ID
}

func reasonOf(c *engine.StateChange, name string) string {
	for _, cc := range c.Containers {
		if cc.Name == name {
			return cc.Reason
		}
	}
	return ""
}

func exitOf(c *engine.StateChange, name string) int {
	for _, cc := range c.Containers {
		if cc.Name == name && cc.ExitCode != nil {
			return *cc.ExitCode
		}
	}
	return -1
}

func TestContainersStartInTheOrderOfTheirDependenciesAndStopInReverse(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		slow := enginetest.Behaviour{StopAfter: 5 * time.Second}
		w.behave(map[string]enginetest.Behaviour{"init": {Exits: true, After: 3 * time.Second}, "db": slow, "web": slow})
		a := task("a", container("web", dependsOn("db", "START")), container("db", dependsOn("init", "SUCCESS")), container("init", notEssential))
		w.accept(a)
		w.settled()
		if w.running(a, "db") || w.running(a, "web") {
			t.Fatal("started before its dependency")
		}
		pass(4 * time.Second)
		w.want(a.Arn, "PENDING", "PENDING", "PENDING", "PENDING", "RUNNING") // digests; init runs; init has ended; db runs; web runs
		if !w.running(a, "db") || !w.running(a, "web") {
			t.Fatal("not started")
		}
		w.accept(stopOf(a))
		pass(time.Second)
		if !w.running(a, "db") {
			t.Error("db stopped before web, which depends on it")
		}
		pass(5 * time.Second)
		if w.running(a, "web") || !w.running(a, "db") {
			t.Error("web should have stopped, and db be stopping")
		}
		pass(5 * time.Second)
		if last := w.disk.last(a.Arn); last.Status != "STOPPED" || exitOf(last, "init") != 0 || exitOf(last, "web") != 143 {
			t.Errorf("%+v", last)
		}
	})
}

func TestADependentOfAFailedDependencyNeverStarts(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.behave(map[string]enginetest.Behaviour{"init": {Exits: true, After: time.Second, ExitCode: 3}})
		a := task("a", container("init", notEssential), container("app", dependsOn("init", "SUCCESS")))
		w.accept(a)
		pass(5 * time.Second)
		last := w.disk.last(a.Arn)
		if last.Status != "STOPPED" || exitOf(last, "app") != 143 || !strings.Contains(reasonOf(last, "app"), "init") || !strings.Contains(last.Reason, "exited with code 3") {
			t.Fatalf("%+v\n%s", last, w.explain(a.Arn))
		}
		if w.fake.Starts(w.status(a.Arn).Containers[1].RuntimeName) != 0 {
			t.Error("app was started")
		}
	})
}

func TestADependencyThatIsNotHealthyWithinItsStartTimeoutFailsTheDependent(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		check := func(c *acs.Container) {
			c.StartTimeout = 20
			c.DockerConfig = &acs.DockerConfig{Config: `{"Healthcheck":{"Test":["CMD","true"]}}`}
		}
		a := task("a", container("db", check), container("app", dependsOn("db", "HEALTHY")))
		b := task("b", container("db", check), container("app", dependsOn("db", "HEALTHY")))
		w.accept(a)
		w.accept(b)
		pass(10 * time.Second)
		w.fake.SetHealth(w.id(b, "db"), "HEALTHY", 0, "")
		w.settled()
		if !w.running(b, "app") || w.running(a, "app") {
			t.Fatal("HEALTHY was not heeded")
		}
		pass(15 * time.Second)
		if last := w.disk.last(a.Arn); last.Status != "STOPPED" || !strings.Contains(last.Reason, "startTimeout of 20s") {
			t.Fatalf("%+v", last)
		}
		if last := w.disk.last(b.Arn); last.Status != "RUNNING" {
			t.Fatalf("%+v", last)
		}
	})
}

func TestTheEndOfAnEssentialContainerEndsTheTaskAndThatOfAnotherDoesNot(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		a := task("a", container("app"), container("side", notEssential))
		w.accept(a)
		w.settled()
		w.fake.Exit(w.id(a, "side"), 1)
		w.settled()
		last := w.disk.last(a.Arn)
		if last.Status != "RUNNING" || exitOf(last, "side") != 1 || !w.running(a, "app") {
			t.Fatalf("%+v", last)
		}
		w.fake.OOM(w.id(a, "app"))
		w.settled()
		last = w.disk.last(a.Arn)
		if last.Status != "STOPPED" || last.Reason != "" || exitOf(last, "app") != 137 || reasonOf(last, "app") != "OutOfMemoryError: Container killed due to memory usage" {
			t.Fatalf("%+v %+v", last, last.Containers)
		}
		if last.ExecutionStoppedAt.IsZero() {
			t.Error("no executionStoppedAt")
		}
	})
}

func TestATaskThatEndsAtOnceWasRUNNINGToo(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.behave(map[string]enginetest.Behaviour{"app": {Exits: true, ExitCode: 7}})
		a := task("a")
		w.accept(a)
		w.settled()
		w.want(a.Arn, "PENDING", "RUNNING", "STOPPED")
		if exitOf(w.disk.last(a.Arn), "app") != 7 {
			t.Error(w.disk.last(a.Arn))
		}
	})
}

func TestEachFailingStepStopsTheTaskWithECSsName(t *testing.T) {
	for _, c := range []struct {
		name, want string
		make       func(w *world) *acs.Task
	}{
		{"no such image", "CannotPullContainerError: ", func(w *world) *acs.Task {
			return task("a", container("app", func(c *acs.Container) { c.Image = "gone:1" }))
		}},
		{"create refused", "CannotCreateContainerError: Create", func(w *world) *acs.Task {
			w.fake.Fail("Create", -1, fmt.Errorf("no: %w", errdefs.ErrInvalidArgument))
			return task("a")
		}},
		{"start refused", "CannotStartContainerError: exec: no such file", func(w *world) *acs.Task {
			w.behave(map[string]enginetest.Behaviour{"app": {StartError: errors.New("exec: no such file")}})
			return task("a")
		}},
		{"start hangs", "DockerTimeoutError: Could not transition to started; timed out after waiting 3m0s", func(w *world) *acs.Task {
			w.fake.Hang("Start")
			return task("a")
		}},
		{"create hangs", "DockerTimeoutError: Could not transition to created; timed out after waiting 4m0s", func(w *world) *acs.Task {
			w.fake.Hang("Create")
			return task("a")
		}},
		{"does not fit", "ResourceInitializationError: the task can never run on this host: it needs 9000 cpu units and the host has 2048", func(w *world) *acs.Task {
			return task("a", container("app", func(c *acs.Container) { c.CPU = 9000 }))
		}},
		{"reserved port", "ResourceInitializationError: the task can never run on this host: it needs host port 22/tcp", func(w *world) *acs.Task {
			return task("a", container("app", hostPort(22)))
		}},
		{"cycle", "Task dependencies cannot be resolved, taskArn: " + arnPrefix + "a", func(w *world) *acs.Task {
			return task("a", container("x", dependsOn("y", "START")), container("y", dependsOn("x", "START")))
		}},
		{"volume check", "ResourceInitializationError: user 1000 can't write /data", func(w *world) *acs.Task { return withVolume(task("a"), w.t.TempDir()) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, w *world) {
				a := c.make(w)
				w.accept(a)
				pass(20 * time.Minute)
				last := w.disk.last(a.Arn)
				if last.Status != "STOPPED" || !strings.HasPrefix(last.Reason, c.want) {
					t.Fatalf("%s %q, want STOPPED %q\n%s", last.Status, last.Reason, c.want, w.explain(a.Arn))
				}
				if w.fake.Running() != 0 {
					t.Error("a process is left")
				}
				w.disk.accept()
				w.fake.Heal("")
				pass(4 * time.Hour)
				if len(w.engine.Tasks()) != 0 {
					t.Errorf("the task was not forgotten\n%s", w.explain(a.Arn))
				}
			}, func(cfg *engine.Config) {
				cfg.Volumes = volumes(func(engine.VolumeRequest) engine.VolumeResult {
					return engine.VolumeResult{Refusal: "user 1000 can't write /data"}
				})
			})
		})
	}
}

func withVolume(t *acs.Task, source string) *acs.Task {
	t.Volumes = []*acs.Volume{{Name: "data", Host: &acs.HostVolume{SourcePath: source}}, {Name: "scratch", Host: &acs.HostVolume{}}}
	t.Containers[0].MountPoints = []*acs.MountPoint{{SourceVolume: "data", ContainerPath: "/data"}, {SourceVolume: "scratch", ContainerPath: "/scratch"}}
	return t
}

func TestTheVolumeCheckWarnsOrRefusesAsItIsSetAndMissingPathsAreMade(t *testing.T) {
	for _, mode := range []string{"warn", "off"} {
		t.Run(mode, func(t *testing.T) {
			called := 0
			inBubble(t, func(t *testing.T, w *world) {
				source := t.TempDir() + "/deep/er"
				a := withVolume(task("a"), source)
				w.accept(a)
				w.settled()
				if !w.running(a, "app") {
					t.Fatal(w.explain(a.Arn))
				}
				timeline := w.explain(a.Arn)
				if !strings.Contains(timeline, source+" did not exist") || (mode == "warn") != strings.Contains(timeline, "user 1000 can't write") || called != map[string]int{"warn": 1}[mode] {
					t.Error(called, timeline)
				}
				spec, _ := w.fake.Spec(w.id(a, "app"))
				if len(spec.Mounts) != 2 || spec.Mounts[0] != (engine.Mount{Type: "bind", Source: source, Target: "/data"}) || spec.Mounts[1].Type != "volume" || !strings.HasPrefix(spec.Mounts[1].Source, "ecs-demo-1-scratch-") {
					t.Errorf("%+v", spec.Mounts)
				}
			}, func(cfg *engine.Config) {
				cfg.Host.VolumeCheck = mode
				cfg.Volumes = volumes(func(req engine.VolumeRequest) engine.VolumeResult {
					called++
					return engine.VolumeResult{Refusal: "user 1000 can't write /data"}
				})
			})
		})
	}
}

func TestATaskWaitsOnlyForWhatItLacks(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		big := func(cpu int64) func(*acs.Container) { return func(c *acs.Container) { c.CPU = cpu } }
		first, huge := task("first", container("app", big(1500), hostPort(8080))), task("huge", container("app", big(2000)))
		small, port := task("small", container("app", big(100))), task("port", container("app", big(1), hostPort(8080)))
		for _, x := range []*acs.Task{first, huge, small, port} {
			w.accept(x)
			w.settled()
		}
		if !w.running(first, "app") || w.running(huge, "app") || !w.running(small, "app") || w.running(port, "app") {
			t.Fatal("first and small should run, huge and port should wait")
		}
		if waits := fmt.Sprint(w.status(huge.Arn).Waits); !strings.Contains(waits, "cpu: 2000 units needed, 548 of 2048 free") {
			t.Error(waits)
		}
		if waits := fmt.Sprint(w.status(port.Arn).Waits); !strings.Contains(waits, "host port 8080/tcp is held by "+first.Arn) {
			t.Error(waits)
		}
		w.behave(map[string]enginetest.Behaviour{})
		w.accept(stopOf(first))
		w.settled()
		if !w.running(port, "app") || w.running(huge, "app") {
			t.Error("port should run now, huge still wait")
		}
		w.accept(stopOf(huge)) // a task that waits can be stopped
		w.settled()
		if last := w.disk.last(huge.Arn); last.Status != "STOPPED" {
			t.Errorf("%+v", last)
		}
	})
}

func TestAPortIsFreeOnlyWhenTheProcessIsGone(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.behave(map[string]enginetest.Behaviour{"app": {StopAfter: 10 * time.Second}})
		a, b := task("a", container("app", hostPort(8080))), task("b", container("app", hostPort(8080)))
		w.accept(a)
		w.settled()
		w.accept(stopOf(a))
		w.accept(b)
		pass(9 * time.Second)
		if w.running(b, "app") {
			t.Fatal("b runs while a's process is there")
		}
		pass(2 * time.Second)
		if !w.running(b, "app") {
			t.Fatal(w.explain(b.Arn))
		}
	})
}
