package engine_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/longshore-project/longshore/engine"
	"github.com/longshore-project/longshore/engine/enginetest"
	"github.com/longshore-project/longshore/protocol/acs"
)

func TestAnEngineThatIsDownImpairsTheAgentAndTasksWaitUntilItIsBack(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		a, b := task("a"), task("b")
		w.accept(a)
		w.settled()
		w.fake.Down()
		w.accept(b)
		pass(time.Minute)
		if h := w.engine.Health(); !h.Impaired || !strings.Contains(h.Causes[0], "cannot connect") {
			t.Fatalf("%+v", h)
		}
		w.want(b.Arn)
		if waits := fmt.Sprint(w.status(b.Arn).Waits); !strings.Contains(waits, "the container engine: ") {
			t.Error(waits)
		}
		w.accept(stopOf(a))
		pass(time.Minute)
		w.want(a.Arn, "PENDING", "RUNNING")
		w.fake.Up()
		pass(10 * time.Second)
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
		pass(time.Minute)
		if h := w.engine.Health(); !h.Impaired || !strings.Contains(h.Causes[0], "no answer within 10s") {
			t.Fatalf("%+v", h)
		}
		w.accept(stopOf(a))
		w.accept(task("b"))
		pass(10 * time.Minute)
		w.fake.Heal("")
		pass(time.Minute)
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
		pass(15 * time.Second)
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
		pass(11 * time.Second)
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
		pass(15 * time.Second)
		w.want(a.Arn, "RUNNING", "STOPPED")
		if !w.running(rival, "app") {
			t.Error("the port did not become free")
		}
	})
}

func TestTheVolumesOfATaskWhoseRecordWasLostGoWithIt(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		a := task("a", container("app", func(c *acs.Container) {
			c.MountPoints = []*acs.MountPoint{{SourceVolume: "own", ContainerPath: "/o"}, {SourceVolume: "kept", ContainerPath: "/k"}, {SourceVolume: "plain", ContainerPath: "/p"}}
		}))
		a.Volumes = []*acs.Volume{
			{Name: "own", Type: "docker", DockerVolumeConfiguration: &acs.DockerVolumeConfiguration{Scope: "task", DriverOpts: map[string]string{"o": "username=u,password=hidden"}}},
			{Name: "kept", Type: "docker", DockerVolumeConfiguration: &acs.DockerVolumeConfiguration{Scope: "shared", Autoprovision: true}}, {Name: "plain", Host: &acs.HostVolume{}},
		}
		w.accept(a)
		w.settled()
		if spec, _ := w.fake.Spec(w.id(a, "app")); strings.Contains(spec.Labels[engine.LabelTask], "hidden") {
			t.Error("the label holds a volume's options")
		}
		w.stop()
		*w.disk = *newDisk()
		w.start()
		w.settled()
		if n := len(w.fake.Volumes()); n != 3 || !w.running(a, "app") {
			t.Fatalf("%d volumes: %v", n, w.fake.Volumes())
		}
		w.accept(stopOf(a)) // and the control plane never sends the task again
		w.settled()
		w.disk.accept()
		pass(4 * time.Hour)
		if got := w.fake.Volumes(); !slices.Equal(got, []string{"kept"}) {
			t.Errorf("volumes %v are left", got)
		}
	})
}

func TestAStopThatComesBeforeTheFirstLookFindsTheContainersOfALostRecord(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.behave(map[string]enginetest.Behaviour{"app": {StopAfter: 5 * time.Second}})
		a := task("a")
		w.accept(a)
		w.settled()
		w.stop()
		*w.disk = *newDisk()
		w.fake.Delay("List", time.Second)
		w.start()
		w.accept(stopOf(a))
		pass(3 * time.Second)
		if got := w.disk.statuses(a.Arn); slices.Contains(got, "STOPPED") {
			t.Fatalf("STOPPED was reported while the container ran: %v", got)
		}
		pass(10 * time.Second)
		if last := w.disk.last(a.Arn); last.Status != "STOPPED" || w.fake.Running() != 0 || exitOf(last, "app") != 143 {
			t.Fatalf("%+v, %d run\n%s", last, w.fake.Running(), w.explain(a.Arn))
		}
	})
}
