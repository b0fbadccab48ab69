package engine_test

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/longshore-project/longshore/engine"
	"github.com/longshore-project/longshore/engine/enginetest"
	"github.com/longshore-project/longshore/protocol/acs"
)

func TestTasksThatWentWithTheEngineNameIt(t *testing.T) {
	restarts := func(c *acs.Container) { c.RestartPolicy = &acs.RestartPolicy{Enabled: true, RestartAttemptPeriod: 1} }
	const named = "ContainerEngineStoppedError: the container engine (docker 20.10.24) stopped or was restarted between "
	for name, c := range map[string]struct {
		info engine.Info
		hung bool
		want string
	}{
		"an engine that ends its containers": {want: named},
		"an engine with live-restore":        {info: engine.Info{LiveRestore: true}},
		"an engine that only hung":           {hung: true},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, w *world) {
				a, before := task("a", container("app"), container("side", notEssential)), task("before")
				w.accept(a)
				w.accept(before)
				w.accept(task("again", container("app", restarts)))
				w.settled()
				w.fake.Exit(w.id(before, "app"), 3)
				w.settled()
				pass(5 * time.Second)
				if c.hung {
					w.fake.Hang("List")
				} else {
					w.fake.Down()
				}
				pass(20 * time.Second)
				w.fake.KillAll()
				pass(2 * time.Second)
				if c.hung {
					w.fake.Heal("")
				} else {
					w.fake.Up()
				}
				pass(30 * time.Second)
				last := w.disk.last(a.Arn)
				for what, got := range map[string]string{"the task": last.Reason, "app": reasonOf(last, "app"), "side": reasonOf(last, "side")} {
					if (c.want == "") != (got == "") || !strings.HasPrefix(got, c.want) {
						t.Errorf("%s: %q", what, got)
					}
				}
				if last.Status != "STOPPED" || exitOf(last, "app") != 137 {
					t.Errorf("%+v", last)
				}
				if last := w.disk.last(before.Arn); last.Reason != "" || reasonOf(last, "app") != "" {
					t.Errorf("it had ended before: %+v", last)
				}
				if s := w.status(arnPrefix + "again"); s.Known != "RUNNING" {
					t.Errorf("the restart policy did not start it again: %+v", s)
				}
			}, booting, func(cfg *engine.Config) {
				info := c.info
				info.Name, info.Version = "docker", "20.10.24"
				w, ok := cfg.Runtime.(interface{ SetInfo(engine.Info) })
				if !ok {
					t.Fatal("the fake's info can't be set")
				}
				w.SetInfo(info)
			})
		})
	}
}

// ending is an engine that can be on its way out.
type ending struct {
	enginetest.Restarter
	gone *atomic.Bool
}

func (e ending) Reach(context.Context) error {
	if e.gone.Load() {
		return fmt.Errorf("connection refused: %w", errdefs.ErrUnavailable)
	}
	return nil
}

func TestAnEngineThatIsEndingIsNotBelievedAboutItsContainersUntilItIsBack(t *testing.T) {
	var gone atomic.Bool
	inBubble(t, func(t *testing.T, w *world) {
		a, b := task("a"), task("b")
		w.accept(a)
		w.accept(b)
		w.settled()
		gone.Store(true) // it answers on the connections that it has
		w.fake.Exit(w.id(a, "app"), 0)
		pass(5 * time.Second)
		w.want(a.Arn, "PENDING", "RUNNING")
		if !w.engine.Health().Impaired {
			t.Error("the engine is well")
		}
		w.fake.Exit(w.id(b, "app"), 137)
		pass(time.Second)
		w.fake.Down()
		pass(3 * time.Second)
		w.fake.Up()
		gone.Store(false)
		pass(10 * time.Second)
		for _, x := range []*acs.Task{a, b} {
			w.want(x.Arn, "PENDING", "RUNNING", "STOPPED")
			if r := w.disk.last(x.Arn).Reason; !strings.HasPrefix(r, "ContainerEngineStoppedError: ") {
				t.Errorf("%q", r)
			}
		}
	}, func(cfg *engine.Config) {
		cfg.Runtime = ending{enginetest.Restarter{Fake: cfg.Runtime.(*enginetest.Fake)}, &gone}
	})
}

func TestOnlyWhoLostAProcessIsReportedOutOfMemory(t *testing.T) {
	const lacked = "OutOfMemoryError: Container killed due to memory usage"
	g := &groups{have: map[string]engine.TaskLimits{}, killed: map[string]int{}}
	inBubble(t, func(t *testing.T, w *world) {
		a := task("a", container("app"), container("side", notEssential), container("shell", notEssential))
		w.accept(a)
		w.settled()
		g.kills(map[string]int{w.id(a, "app"): 0, w.id(a, "side"): 0, w.id(a, "shell"): 1})
		// The kernel tells all three; the shell lost a child of its own and goes on for a while, app is killed.
		for _, name := range []string{"side", "shell"} {
			w.fake.TellOOM(w.id(a, name))
		}
		w.settled()
		w.fake.OOM(w.id(a, "app"))
		pass(time.Minute)
		last := w.disk.last(a.Arn)
		if last.Status != "STOPPED" || reasonOf(last, "app") != lacked || reasonOf(last, "shell") != lacked || reasonOf(last, "side") != "" {
			t.Errorf("app %q, shell %q, side %q", reasonOf(last, "app"), reasonOf(last, "shell"), reasonOf(last, "side"))
		}
	}, withGroups(g), func(cfg *engine.Config) {
		cfg.Runtime.(interface{ SetInfo(engine.Info) }).SetInfo(engine.Info{Name: "docker", CgroupVersion: 1})
	})
}
