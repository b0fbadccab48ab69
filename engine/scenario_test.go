package engine_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
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
	st, ok := w.fake.Container(t.Arn, name)
	return ok && st.Status == engine.StatusRunning
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
		time.Sleep(4 * time.Second)
		w.want(a.Arn, "PENDING", "PENDING", "PENDING", "PENDING", "RUNNING") // digests; init runs; init has ended; db runs; web runs
		if !w.running(a, "db") || !w.running(a, "web") {
			t.Fatal("not started")
		}
		w.accept(stopOf(a))
		time.Sleep(time.Second)
		if !w.running(a, "db") {
			t.Error("db stopped before web, which depends on it")
		}
		time.Sleep(5 * time.Second)
		if w.running(a, "web") || !w.running(a, "db") {
			t.Error("web should have stopped, and db be stopping")
		}
		time.Sleep(5 * time.Second)
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
		time.Sleep(5 * time.Second)
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
		time.Sleep(10 * time.Second)
		w.fake.SetHealth(w.id(b, "db"), "HEALTHY", 0, "")
		w.settled()
		if !w.running(b, "app") || w.running(a, "app") {
			t.Fatal("HEALTHY was not heeded")
		}
		time.Sleep(15 * time.Second)
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
				time.Sleep(20 * time.Minute)
				last := w.disk.last(a.Arn)
				if last.Status != "STOPPED" || !strings.HasPrefix(last.Reason, c.want) {
					t.Fatalf("%s %q, want STOPPED %q\n%s", last.Status, last.Reason, c.want, w.explain(a.Arn))
				}
				if w.fake.Running() != 0 {
					t.Error("a process is left")
				}
				w.disk.accept()
				w.fake.Heal("")
				time.Sleep(4 * time.Hour)
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
		time.Sleep(9 * time.Second)
		if w.running(b, "app") {
			t.Fatal("b runs while a's process is there")
		}
		time.Sleep(2 * time.Second)
		if !w.running(b, "app") {
			t.Fatal(w.explain(b.Arn))
		}
	})
}

func TestAnEngineThatIsDownImpairsTheAgentAndTasksWaitUntilItIsBack(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		a, b := task("a"), task("b")
		w.accept(a)
		w.settled()
		w.fake.Down()
		w.accept(b)
		time.Sleep(time.Minute)
		if h := w.engine.Health(); !h.Impaired || !strings.Contains(h.Causes[0], "cannot connect") {
			t.Fatalf("%+v", h)
		}
		w.want(b.Arn)
		if waits := fmt.Sprint(w.status(b.Arn).Waits); !strings.Contains(waits, "the container engine: ") {
			t.Error(waits)
		}
		w.accept(stopOf(a))
		time.Sleep(time.Minute)
		w.want(a.Arn, "PENDING", "RUNNING")
		w.fake.Up()
		time.Sleep(10 * time.Second)
		if h := w.engine.Health(); h.Impaired {
			t.Errorf("%+v", h)
		}
		w.want(b.Arn, "PENDING", "RUNNING")
		w.want(a.Arn, "PENDING", "RUNNING", "STOPPED")
	})
}

func TestAHungEngineDoesNotHoldUpTheLoopOfATask(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		a := task("a")
		w.accept(a)
		w.settled()
		for _, m := range []string{"List", "Inspect", "Stop"} {
			w.fake.Hang(m)
		}
		time.Sleep(time.Minute)
		if h := w.engine.Health(); !h.Impaired || !strings.Contains(h.Causes[0], "no answer within 10s") {
			t.Fatalf("%+v", h)
		}
		w.accept(stopOf(a))
		w.accept(task("b"))
		time.Sleep(10 * time.Minute)
		w.fake.Heal("")
		time.Sleep(time.Minute)
		w.want(a.Arn, "PENDING", "RUNNING", "STOPPED")
		w.want(arnPrefix+"b", "PENDING", "RUNNING")
	})
}

func TestContainersThatDiedWithTheEngineAreReportedWithTheirExitCodes(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		a := task("a")
		w.accept(a)
		w.settled()
		w.fake.DropEvents(true)
		w.fake.Restart(false)
		time.Sleep(15 * time.Second)
		w.want(a.Arn, "PENDING", "RUNNING", "STOPPED")
		if exitOf(w.disk.last(a.Arn), "app") != 137 {
			t.Error(w.disk.last(a.Arn))
		}
	})
}

func TestLosingEveryEventCostsTimeAndNothingElse(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.fake.DropEvents(true)
		a := task("a")
		w.accept(a)
		w.settled()
		w.want(a.Arn, "PENDING", "RUNNING")
		w.fake.Exit(w.id(a, "app"), 5)
		time.Sleep(11 * time.Second)
		w.want(a.Arn, "PENDING", "RUNNING", "STOPPED")
	})
}

func TestAnAgentThatLeavesTouchesNothingAndAdoptsWhenItComesBack(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		a, b, c := task("a"), task("b"), task("c")
		for _, x := range []*acs.Task{a, b, c} {
			w.accept(x)
		}
		w.settled()
		w.stop()
		if w.fake.Running() != 3 {
			t.Fatal("leaving stopped containers")
		}
		w.fake.Exit(w.id(b, "app"), 9)
		w.fake.Vanish(w.id(c, "app"))
		w.start()
		w.settled()
		w.want(a.Arn, "PENDING", "RUNNING")
		w.want(b.Arn, "PENDING", "RUNNING", "STOPPED")
		w.want(c.Arn, "PENDING", "RUNNING", "STOPPED")
		if exitOf(w.disk.last(b.Arn), "app") != 9 || !strings.HasPrefix(reasonOf(w.disk.last(c.Arn), "app"), "ContainerVanishedError: ") {
			t.Error(w.disk.last(b.Arn), w.disk.last(c.Arn))
		}
		if n := w.fake.Starts(w.status(a.Arn).Containers[0].RuntimeName); n != 1 {
			t.Errorf("a was started %d times", n)
		}
		w.accept(stopOf(a))
		w.settled()
		w.want(a.Arn, "PENDING", "RUNNING", "STOPPED")
	})
}

func TestALostStateFileIsRebuiltFromLabelsAndNothingIsStopped(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		a := task("a", container("app", hostPort(8080), func(c *acs.Container) { c.Environment = map[string]string{"PASSWORD": "secret"} }), container("side", notEssential, dependsOn("app", "START")))
		w.accept(a)
		w.settled()
		spec, _ := w.fake.Spec(w.id(a, "app"))
		if strings.Contains(spec.Labels[engine.LabelTask], "secret") {
			t.Error("the label holds a secret")
		}
		w.stop()
		*w.disk = *newDisk()
		w.start()
		w.settled()
		s := w.status(a.Arn)
		if w.fake.Running() != 2 || s.Known != "RUNNING" || !s.Rebuilt || len(s.Containers) != 2 || s.Family != "demo" {
			t.Fatalf("%d run, %+v", w.fake.Running(), s)
		}
		w.want(a.Arn, "RUNNING")
		rival := task("b", container("app", hostPort(8080)))
		w.accept(rival)
		w.restart()
		w.accept(a) // the control plane sends whole payloads again
		w.settled()
		if w.running(rival, "app") {
			t.Error("the port of a rebuilt task was given away")
		}
		if s := w.status(a.Arn); s.Rebuilt || s.Payload.Containers[0].Environment["PASSWORD"] != "secret" {
			t.Errorf("%+v", s)
		}
		w.want(a.Arn, "RUNNING")
		if w.fake.Creates(s.Containers[0].RuntimeName) != 1 {
			t.Error("a container was made twice")
		}
		w.accept(stopOf(a))
		time.Sleep(15 * time.Second)
		w.want(a.Arn, "RUNNING", "STOPPED")
		if !w.running(rival, "app") {
			t.Error("the port did not become free")
		}
	})
}

func TestAnUnknownTaskThatIsToStopIsAnsweredSTOPPED(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		a, b := task("a"), task("b")
		b.DesiredStatus = "STOPPED"
		w.accept(stopOf(a))
		w.accept(b)
		w.settled()
		w.accept(stopOf(a))
		w.settled()
		w.want(a.Arn, "STOPPED")
		if r := w.disk.last(a.Arn).Reason; r != "TaskStateError: Agent could not progress task's state to stopped" {
			t.Error(r)
		}
		w.want(b.Arn, "STOPPED")
		if last := w.disk.last(b.Arn); len(last.Containers) != 1 || last.Containers[0].Status != "STOPPED" || w.fake.Calls("Create") != 0 {
			t.Errorf("%+v", last)
		}
	})
}

func TestAStoppedTaskIsCleanedUpOnlyAfterItsEndWasAccepted(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		a := task("a")
		w.accept(a)
		w.settled()
		w.accept(stopOf(a))
		time.Sleep(5 * time.Hour)
		if _, ok := w.fake.Container(a.Arn, "app"); !ok {
			t.Fatal("the container was removed before the control plane knew of its end")
		}
		w.disk.accept()
		time.Sleep(time.Minute)
		if _, ok := w.fake.Container(a.Arn, "app"); ok || len(w.engine.Tasks()) != 0 {
			t.Fatal("the container or the task is still there")
		}
		if records, _ := w.disk.Load(); len(records) != 0 {
			t.Error("the record is still there")
		}
	})
}

func TestAPullInProgressIsGivenUpWhenTheTaskIsStopped(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.fake.Publish(enginetest.FakeImage{Ref: "slow:1", PullTime: time.Hour})
		a := task("a", container("app", func(c *acs.Container) { c.Image = "slow:1" }))
		w.accept(a)
		time.Sleep(time.Minute)
		w.accept(stopOf(a))
		w.settled()
		w.want(a.Arn, "STOPPED")
	})
}

func TestTheTimesOfAPullAreReportedAndThoseOfALocalImageAreNot(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.fake.Publish(enginetest.FakeImage{Ref: "slow:1", PullTime: time.Minute})
		a, b := task("a", container("app", func(c *acs.Container) { c.Image = "slow:1" })), task("b")
		began := time.Now()
		w.accept(a)
		w.accept(b)
		time.Sleep(2 * time.Minute)
		if last := w.disk.last(a.Arn); last.Status != "RUNNING" || !last.PullStartedAt.Equal(began) || last.PullStoppedAt.Sub(began) != time.Minute || last.Containers[0].ImageDigest == "" {
			t.Errorf("%+v", last)
		}
		if last := w.disk.last(b.Arn); !last.PullStartedAt.IsZero() {
			t.Errorf("%+v", last)
		}
	})
}

func TestBindingsAreReportedInBridgeAndHostMode(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		a, b := task("a", container("app", hostPort(0))), task("b", container("app", hostPort(0)))
		b.NetworkMode = "host"
		w.accept(a)
		w.accept(b)
		w.settled()
		if nb := w.disk.last(a.Arn).Containers[0].NetworkBindings; len(nb) == 0 || nb[0].HostPort != 50000 || nb[0].ContainerPort != 80 {
			t.Errorf("%+v", nb)
		}
		if nb := w.disk.last(b.Arn).Containers[0].NetworkBindings; !slices.Equal(nb, []engine.NetworkBinding{{BindIP: "0.0.0.0", ContainerPort: 80, HostPort: 80, Protocol: "tcp"}}) {
			t.Errorf("%+v", nb)
		}
	}, func(cfg *engine.Config) { cfg.Host.DynamicPorts = [2]int32{50000, 50009} })
}

func TestARestartPolicyRestartsInPlaceAndTellsNobody(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.behave(map[string]enginetest.Behaviour{"app": {Exits: true, After: 2 * time.Minute, ExitCode: 1}})
		a := task("a", container("app", func(c *acs.Container) {
			c.RestartPolicy = &acs.RestartPolicy{Enabled: true, RestartAttemptPeriod: 60}
		}))
		w.accept(a)
		time.Sleep(7 * time.Minute)
		w.want(a.Arn, "PENDING", "RUNNING")
		if s := w.status(a.Arn); s.Containers[0].Restarts != 3 || w.fake.Creates(s.Containers[0].RuntimeName) != 1 {
			t.Errorf("%+v", s.Containers[0])
		}
		w.stop()
		time.Sleep(5 * time.Minute) // it ends while no agent is there, and is restarted by the next
		w.start()
		w.settled()
		if s := w.status(a.Arn); s.Containers[0].Restarts != 4 || !w.running(a, "app") {
			t.Errorf("%+v", s.Containers[0])
		}
		w.behave(map[string]enginetest.Behaviour{"app": {Exits: true, After: time.Second, ExitCode: 6}})
		time.Sleep(5 * time.Minute)
		w.want(a.Arn, "PENDING", "RUNNING", "STOPPED")
		if exitOf(w.disk.last(a.Arn), "app") != 6 {
			t.Error(w.disk.last(a.Arn))
		}
	}, func(cfg *engine.Config) { cfg.Runtime = enginetest.Restarter{Fake: cfg.Runtime.(*enginetest.Fake)} })
}

func TestAVolumeOfATaskIsRemovedWithItsContainers(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		a := withVolume(task("a"), t.TempDir())
		w.accept(a)
		w.settled()
		w.accept(stopOf(a))
		w.settled()
		w.disk.accept()
		time.Sleep(4 * time.Hour)
		if w.fake.Calls("RemoveVolume") == 0 || len(w.engine.Tasks()) != 0 {
			t.Error(w.explain(a.Arn))
		}
	})
}

func TestAContainerThatSomethingElseStartsAgainAfterItsEndIsStopped(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		a := task("a")
		w.accept(a)
		w.settled()
		w.accept(stopOf(a))
		w.settled()
		if err := (enginetest.Restarter{Fake: w.fake}).Restart(t.Context(), w.id(a, "app")); err != nil || w.fake.Running() != 1 {
			t.Fatal(err)
		}
		time.Sleep(15 * time.Second)
		if w.fake.Running() != 0 {
			t.Error(w.explain(a.Arn))
		}
		w.want(a.Arn, "PENDING", "RUNNING", "STOPPED")
		w.disk.accept()
		time.Sleep(4 * time.Hour)
		if len(w.engine.Tasks()) != 0 {
			t.Error(w.explain(a.Arn))
		}
	})
}

func TestWhatCannotBeDoneIsRefusedByName(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		for want, change := range map[string]func(*acs.Task){
			"awsvpc":                          func(x *acs.Task) { x.NetworkMode = "awsvpc" },
			`unrecognized volume type: "ebs"`: func(x *acs.Task) { x.Volumes = []*acs.Volume{{Name: "v", Type: "ebs"}} },
			`volume type "efs"`:               func(x *acs.Task) { x.Volumes = []*acs.Volume{{Name: "v", Type: "efs"}} },
			`"environment"`:                   func(x *acs.Task) { x.Containers[0].Overrides = `{"environment":{}}` },
			"overrides is not":                func(x *acs.Task) { x.Containers[0].Overrides = `nonsense` },
			"dockerConfig.hostConfig.PidsLimit": func(x *acs.Task) {
				x.Containers[0].DockerConfig = &acs.DockerConfig{HostConfig: `{"PidsLimit":5,"OomKillDisable":false}`}
			},
			"dockerConfig.config":      func(x *acs.Task) { x.Containers[0].DockerConfig = &acs.DockerConfig{Config: `[]`} },
			`desiredStatus "SLEEPING"`: func(x *acs.Task) { x.DesiredStatus = "SLEEPING" },
			"secrets":                  func(x *acs.Task) { x.Containers[0].Secrets = []*acs.Secret{{}} },
			"no containers":            func(x *acs.Task) { x.Containers = nil },
			"has no name":              func(x *acs.Task) { x.Containers[0] = nil },
			`no volume "v"`: func(x *acs.Task) {
				x.Containers[0].MountPoints = []*acs.MountPoint{{SourceVolume: "v", ContainerPath: "/"}}
			},
			"containerPort 0 is not": func(x *acs.Task) { x.Containers[0].PortMappings = []*acs.PortMapping{{}} },
			"must be containerPort":  func(x *acs.Task) { x.NetworkMode = "host"; hostPort(81)(x.Containers[0]) },
			"restartPolicy":          func(x *acs.Task) { x.Containers[0].RestartPolicy = &acs.RestartPolicy{Enabled: true} },
		} {
			a := task("a")
			change(a)
			err := w.engine.Accept(context.Background(), a)
			var unrecognized *engine.UnrecognizedTaskError
			if !errors.As(err, &unrecognized) || !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v", want, err)
			}
		}
		if len(w.engine.Tasks()) != 0 {
			t.Error("something of it was kept")
		}
	})
}

func TestThePayloadOfTheRealServiceRuns(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.fake.AddImage(enginetest.FakeImage{Ref: "example/web:1"})
		a := &acs.Task{Arn: arnPrefix + "a", TaskClusterArn: "arn:aws:ecs:us-east-1:123456789012:cluster/default", DesiredStatus: "RUNNING", Family: "demo", Version: "1",
			NetworkMode: "bridge", LaunchType: "EXTERNAL", ServiceName: "svc", Group: "service:svc", RoleCredentials: &acs.IAMRoleCredentials{CredentialsID: "c-1", SecretAccessKey: "hidden"},
			Containers: []*acs.Container{{Name: "web", Image: "example/web:1", CPU: 10, Memory: 64, Essential: true, Command: []string{"sleep", "600"}, Environment: map[string]string{"A": "b"},
				Overrides: "{}", PortMappings: []*acs.PortMapping{{ContainerPort: 8080, Protocol: "tcp"}}, DockerConfig: &acs.DockerConfig{
					Config: `{"Labels":{"a":"b"}}`, HostConfig: `{"NetworkMode":"bridge","CapAdd":[],"LogConfig":{"Type":"json-file","Config":{}}}`, Version: "1.24"}}}}
		w.accept(a)
		w.settled()
		w.want(a.Arn, "PENDING", "RUNNING")
		spec, _ := w.fake.Spec(w.id(a, "web"))
		if spec.Labels["a"] != "b" || !slices.Equal(spec.Env, []string{"A=b", "AWS_REGION=us-east-1", "AWS_DEFAULT_REGION=us-east-1"}) || spec.Memory != 64<<20 || spec.CPUShares != 10 {
			t.Errorf("%+v", spec)
		}
		for _, raw := range w.disk.records {
			if strings.Contains(string(raw), "hidden") {
				t.Error("credentials were written to the disk")
			}
		}
	}, func(cfg *engine.Config) { cfg.Host.Region = "us-east-1" })
}
