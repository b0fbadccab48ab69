package engine_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/longshore-project/longshore/engine"
	"github.com/longshore-project/longshore/engine/enginetest"
	"github.com/longshore-project/longshore/protocol/acs"
)

// booting is a world whose host can be rebooted.
func booting(cfg *engine.Config) {
	cfg.Runtime = enginetest.Restarter{Fake: cfg.Runtime.(*enginetest.Fake)}
	cfg.BootID, cfg.ResumeDaemons = "boot-1", true
}

// reboot is a power cut and the next life of host, engine and agent.
func (w *world) reboot(id string) {
	w.t.Helper()
	w.stop()
	w.fake.Restart(false)
	w.cfg.BootID = id
	w.start()
}

func daemon(id string, containers ...*acs.Container) *acs.Task {
	d := task(id, containers...)
	d.SchedulingStrategy = "DAEMON"
	return d
}

func TestAfterARebootDaemonsRunAgainAsTheSameTaskAndOthersHaveEnded(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		d, other := daemon("d"), task("other")
		w.accept(d)
		w.accept(other)
		w.settled()
		w.reboot("boot-2")
		w.settled()
		w.want(d.Arn, "PENDING", "RUNNING")
		if !w.running(d, "app") || w.fake.Starts(w.status(d.Arn).Containers[0].RuntimeName) != 2 || w.status(d.Arn).Containers[0].Restarts != 1 {
			t.Fatalf("the daemon was not started again\n%s", w.explain(d.Arn))
		}
		w.want(other.Arn, "PENDING", "RUNNING", "STOPPED")
		last := w.disk.last(other.Arn)
		if !strings.HasPrefix(last.Reason, "HostRebootedError: the host was rebooted") || exitOf(last, "app") != 137 || w.running(other, "app") {
			t.Errorf("%+v", last)
		}
		w.accept(d) // the control plane is back and sends it again
		w.settled()
		if w.fake.Running() != 1 || w.fake.Peak(d.Arn, "app") != 1 || w.fake.Creates(w.status(d.Arn).Containers[0].RuntimeName) != 1 {
			t.Error("the daemon was doubled")
		}
		w.reboot("boot-3")
		w.settled()
		if !w.running(d, "app") || w.status(d.Arn).Containers[0].Restarts != 2 {
			t.Error(w.explain(d.Arn))
		}
		w.accept(stopOf(d))
		w.settled()
		w.want(d.Arn, "PENDING", "RUNNING", "STOPPED")
	}, booting)
}

func TestARestartOfTheAgentIsNoReboot(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		d := daemon("d")
		w.accept(d)
		w.settled()
		w.stop()
		w.fake.Exit(w.id(d, "app"), 4)
		w.start()
		w.settled()
		w.want(d.Arn, "PENDING", "RUNNING", "STOPPED")
		if last := w.disk.last(d.Arn); last.Reason != "" || exitOf(last, "app") != 4 {
			t.Errorf("%+v", last)
		}
	}, booting)
}

func TestADaemonsContainersAreResumedInTheOrderOfTheirDependencies(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		d := daemon("d", container("db"), container("init", notEssential), container("web", func(c *acs.Container) {
			c.DependsOn = []*acs.ContainerDependency{{ContainerName: "db", Condition: "START"}, {ContainerName: "init", Condition: "SUCCESS"}}
		}))
		w.fake.Behave(func(s engine.Spec) enginetest.Behaviour {
			return enginetest.Behaviour{Exits: s.Labels[engine.LabelContainerName] == "init"}
		})
		w.accept(d)
		pass(time.Second)
		w.fake.Delay("Restart", time.Second)
		w.reboot("boot-2")
		pass(5 * time.Second)
		db, _ := w.fake.Container(d.Arn, "db")
		web, _ := w.fake.Container(d.Arn, "web")
		if !w.running(d, "db") || !w.running(d, "web") || w.running(d, "init") || web.StartedAt.Sub(db.StartedAt) < time.Second {
			t.Errorf("db started at %v, web at %v\n%s", db.StartedAt, web.StartedAt, w.explain(d.Arn))
		}
		if w.fake.Starts(w.status(d.Arn).Containers[1].RuntimeName) != 1 {
			t.Error("a container that had ended for good was started again")
		}
		if last := w.disk.last(d.Arn); last.Status != "RUNNING" {
			t.Errorf("%+v", last)
		}
	}, booting)
}

func TestWithoutResumeARebootEndsDaemonsToo(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		d := daemon("d", container("app", func(c *acs.Container) { c.RestartPolicy = &acs.RestartPolicy{Enabled: true} }))
		w.accept(d)
		w.settled()
		w.reboot("boot-2")
		w.settled()
		w.want(d.Arn, "PENDING", "RUNNING", "STOPPED")
		if w.running(d, "app") || !strings.HasPrefix(w.disk.last(d.Arn).Reason, "HostRebootedError: ") {
			t.Errorf("%+v", w.disk.last(d.Arn))
		}
	}, booting, func(c *engine.Config) { c.ResumeDaemons = false })
}

func TestADaemonThatWasToStopIsNotResumed(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		d := daemon("d")
		w.accept(d)
		w.settled()
		w.fake.Hang("Stop")
		w.accept(stopOf(d))
		w.settled()
		w.fake.Heal("")
		w.reboot("boot-2")
		w.settled()
		w.want(d.Arn, "PENDING", "RUNNING", "STOPPED")
		if w.fake.Running() != 0 {
			t.Error("it runs")
		}
	}, booting)
}

func TestAStartThatAPowerCutOvertookIsMadeAfterIt(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		d := daemon("d")
		w.fake.Hang("Start")
		w.accept(d)
		w.settled()
		w.stop()
		w.fake.Heal("")
		w.cfg.BootID = "boot-2"
		w.start()
		w.settled()
		w.fake.Exit(w.id(d, "app"), 6)
		w.settled()
		if last := w.disk.last(d.Arn); last.Status != "STOPPED" || last.Reason != "" || exitOf(last, "app") != 6 {
			t.Errorf("%+v", last)
		}
	}, booting)
}

func TestAProcessThatRanOnlyAfterAPowerCutIsNotSaidToHaveEndedInIt(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.behave(map[string]enginetest.Behaviour{"app": {Exits: true, ExitCode: 6}})
		d := daemon("d")
		w.fake.Hang("Start")
		w.accept(d)
		w.settled()
		w.stop()
		w.fake.Heal("")
		w.cfg.BootID = "boot-2"
		w.start()
		w.settled()
		if last := w.disk.last(d.Arn); last.Status != "STOPPED" || last.Reason != "" || reasonOf(last, "app") != "" || exitOf(last, "app") != 6 {
			t.Errorf("%+v", last)
		}
	}, booting)
}

func TestADaemonWhoseContainerDidNotOutliveAPowerCutIsMadeAgain(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		d, other := daemon("d"), task("other")
		w.accept(d)
		w.accept(other)
		w.settled()
		first := w.status(d.Arn).Containers[0]
		w.stop()
		w.fake.Vanish(w.id(d, "app"))
		w.fake.Vanish(w.id(other, "app"))
		w.fake.Restart(false)
		w.cfg.BootID = "boot-2"
		w.start()
		w.settled()
		again := w.status(d.Arn).Containers[0]
		if !w.running(d, "app") || again.RuntimeID == first.RuntimeID || again.Restarts != 1 || w.fake.Creates(again.RuntimeName) != 1 {
			t.Fatalf("%+v\n%s", again, w.explain(d.Arn))
		}
		w.want(d.Arn, "PENDING", "RUNNING", "RUNNING") // the second tells the container's new id
		if last := w.disk.last(d.Arn); last.Containers[0].RuntimeID != again.RuntimeID {
			t.Errorf("%+v", last)
		}
		w.want(other.Arn, "PENDING", "RUNNING", "STOPPED")
		w.accept(d) // the control plane is back
		w.restart()
		pass(time.Minute)
		if w.fake.Running() != 1 || w.fake.Peak(d.Arn, "app") != 1 {
			t.Errorf("%d run", w.fake.Running())
		}
		w.stop()
		w.fake.Vanish(w.id(d, "app"))
		w.start()
		w.settled() // in the same boot somebody took it away
		w.want(d.Arn, "PENDING", "RUNNING", "RUNNING", "STOPPED")
	}, booting)
}

func TestWhatIsBoundToAContainerThatDidNotOutliveAPowerCutIsMadeAgainWithIt(t *testing.T) {
	const pause = "~internal~ecs~pause~namespace"
	for name, c := range map[string]struct {
		change func(*acs.Task)
		gone   string
	}{
		"its namespaces": {func(d *acs.Task) { d.PidMode, d.IpcMode = "task", "task" }, pause},
		"its volumes": {func(d *acs.Task) {
			d.Containers[0].VolumesFrom = []*acs.VolumeFrom{{SourceContainer: "other"}}
		}, "other"},
		"its link": {func(d *acs.Task) { d.Containers[0].Links = []string{"other:db"} }, "other"},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, w *world) {
				d := daemon("d", container("app"), container("other"))
				c.change(d)
				w.accept(d)
				pass(time.Second)
				old, other := w.id(d, "app"), w.id(d, "other")
				w.stop()
				w.fake.Restart(false)
				w.fake.Vanish(w.id(d, c.gone))
				w.cfg.BootID = "boot-2"
				w.fake.Delay("Inspect", 10*time.Millisecond)
				w.start()
				pass(5 * time.Second)
				if !w.running(d, "app") || !w.running(d, c.gone) || !w.running(d, "other") || w.disk.last(d.Arn).Status != "RUNNING" {
					t.Fatal(w.explain(d.Arn))
				}
				again := w.id(d, "app")
				if again == old || w.id(d, "other") == other {
					t.Error("a container that was bound to the lost one was only started again")
				}
				for _, name := range w.fake.Names() {
					if w.fake.Creates(name) != 1 {
						t.Errorf("%s was made %d times", name, w.fake.Creates(name))
					}
				}
				holder, _ := w.fake.Container(d.Arn, c.gone)
				spec, _ := w.fake.Spec(w.id(d, "app"))
				if text := spec.HostConfig.PidMode + fmt.Sprint(spec.VolumesFrom, spec.Links); !strings.Contains(text, holder.Name) {
					t.Errorf("it is bound to %s, want %s", text, holder.Name)
				}
				all, err := w.fake.List(t.Context())
				if n := map[bool]int{true: 3, false: 2}[c.gone == pause]; err != nil || len(all) != n {
					t.Errorf("%d containers are there, want %d, %v", len(all), n, err)
				}
				w.reboot("boot-3") // nothing was lost: all are started again in place
				pass(5 * time.Second)
				if w.id(d, "app") != again || !w.running(d, "app") {
					t.Error(w.explain(d.Arn))
				}
			}, booting)
		})
	}
}
