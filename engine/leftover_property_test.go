package engine_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"pgregory.net/rapid"

	"github.com/longshore-project/longshore/engine"
	"github.com/longshore-project/longshore/engine/enginetest"
)

// leftovers is a random history of tasks that come and go, of containers that nobody wants, and of somebody else's, and what
// must hold of what is stopped and removed.
type leftovers struct {
	policy  string
	keep    int
	jitter  time.Duration
	tasks   int
	ends    []time.Duration // after which a task ends by itself; 0: it is told to
	deeds   []deed
	engine  enginetest.Restarter
	world   *world
	short   atomic.Value
	mu      sync.Mutex
	orphans []string // ids
	others  []string // ids of what is not ours to touch
	wrong   []string
}

func drawLeftovers(t *rapid.T) *leftovers {
	l := &leftovers{policy: rapid.SampledFrom([]string{"keep", "stop", "remove"}).Draw(t, "policy"), keep: rapid.IntRange(0, 3).Draw(t, "kept"),
		jitter: time.Duration(rapid.IntRange(0, 120).Draw(t, "jitter")) * time.Second, tasks: rapid.IntRange(1, 8).Draw(t, "tasks")}
	for range l.tasks {
		l.ends = append(l.ends, time.Duration(rapid.IntRange(0, 3).Draw(t, "ends"))*time.Minute)
	}
	names := []string{"accept", "accept", "stop", "stop", "restart", "orphan", "orphan", "other", "short", "room", "told", "refuse", "down", "up", "drop", "flow"}
	for range rapid.IntRange(5, 40).Draw(t, "deeds") {
		l.deeds = append(l.deeds, deed{time.Duration(rapid.IntRange(0, 100).Draw(t, "seconds")) * time.Second, rapid.SampledFrom(names).Draw(t, "deed"),
			rapid.IntRange(0, l.tasks-1).Draw(t, "task"), rapid.IntRange(0, 4).Draw(t, "index")})
	}
	return l
}

func (l *leftovers) complain(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.wrong = append(l.wrong, fmt.Sprintf(format, args...))
}

// watched is the engine, which is held against what may be touched.
type watched struct {
	enginetest.Restarter
	l *leftovers
}

func (w watched) Stop(ctx context.Context, id string, grace time.Duration) error {
	w.l.touches("stop", id)
	return w.Restarter.Stop(ctx, id, grace)
}

func (w watched) Remove(ctx context.Context, id string) error {
	w.l.touches("remove", id)
	return w.Restarter.Remove(ctx, id)
}

// touches judges an order to stop or remove a container.
func (l *leftovers) touches(verb, id string) {
	spec, known := l.engine.Spec(id)
	if !known {
		if exists, _ := l.engine.Foreign(id); exists {
			l.complain("%s of a foreign container", verb)
		}
		return // it is gone already
	}
	st, _ := l.engine.Container(spec.Labels[engine.LabelTaskArn], spec.Labels[engine.LabelContainerName])
	l.mu.Lock()
	orphan, other := slices.Contains(l.orphans, id), slices.Contains(l.others, id)
	l.mu.Unlock()
	arn := spec.Labels[engine.LabelTaskArn]
	switch {
	case other:
		l.complain("%s of %s, which is not the agent's", verb, spec.Name)
	case orphan && l.policy == engine.OrphansKeep, orphan && verb == "remove" && l.policy != engine.OrphansRemove:
		l.complain("%s of an orphan with the policy %s", verb, l.policy)
	case orphan:
	case verb == "remove" && st.Status == engine.StatusRunning:
		l.complain("removal of %s, which runs", spec.Name)
	case verb == "remove" && !slices.Contains(l.world.disk.statuses(arn), "STOPPED"):
		l.complain("removal of %s, whose task is not STOPPED", spec.Name)
	}
}

// plant makes a container that no task has: ours, or, if not, another cluster's or one without the agent's own label.
func (l *leftovers) plant(ours bool, n int) {
	family := "late"
	labels := map[string]string{engine.LabelTaskArn: arnPrefix + fmt.Sprint("gone", n), engine.LabelContainerName: "app", engine.LabelFamily: family,
		engine.LabelTask: `{"v":1,"containers":["app"]}`, engine.LabelCluster: "default"}
	if !ours && n%2 == 0 {
		labels[engine.LabelCluster] = "other"
	} else if !ours {
		delete(labels, engine.LabelTask)
	}
	select {
	case <-l.world.engine.Ready():
	default:
		return // the first look would rebuild a task of it
	}
	id, err := l.engine.Create(context.Background(), engine.Spec{Name: fmt.Sprint("late-", n), Image: "app:1", Labels: labels})
	if err != nil {
		return // the engine is down
	}
	if n%3 > 0 {
		_ = l.engine.Start(context.Background(), id)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if ours {
		l.orphans = append(l.orphans, id)
	} else {
		l.others = append(l.others, id)
	}
}

// sweep takes the orphans away: the next life of the agent would rebuild tasks of them.
func (l *leftovers) sweep() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, id := range l.orphans {
		l.engine.Vanish(id)
	}
	l.orphans = nil
}

// run plays the history and returns what was wrong.
func (l *leftovers) run(t *testing.T) []string {
	l.short.Store("")
	w := newWorld(t, func(c *engine.Config) {
		c.OrphanPolicy, c.KeepPerFamily, c.CleanupWait, c.CleanupJitter, c.Log = l.policy, l.keep, 5*time.Minute, l.jitter, zap.NewNop()
		c.DiskPressure = func() string { return l.short.Load().(string) }
	})
	l.world, l.engine = w, enginetest.Restarter{Fake: w.fake}
	w.cfg.Runtime = watched{l.engine, l}
	w.fake.Behave(func(s engine.Spec) enginetest.Behaviour {
		var n int
		if _, err := fmt.Sscanf(s.Labels[engine.LabelTaskArn], arnPrefix+"t%d", &n); err != nil || l.ends[n] == 0 {
			return enginetest.Behaviour{}
		}
		return enginetest.Behaviour{Exits: true, After: l.ends[n]}
	})
	foreign := w.fake.AddForeign("somebody's")
	w.start()
	w.settled() // what is there at the first look is adopted, and what comes later is an orphan
	accepted := map[int]bool{}
	for n, d := range l.deeds {
		pass(d.after + time.Millisecond)
		a := task(fmt.Sprintf("t%d", d.task))
		a.Family, a.Containers[0].CPU = fmt.Sprint("family", d.task%2), 1
		switch d.name {
		case "accept":
			if !accepted[d.task] {
				accepted[d.task] = w.engine.Accept(context.Background(), a) == nil
			}
		case "stop":
			if accepted[d.task] {
				_ = w.engine.Accept(context.Background(), stopOf(a))
			}
		case "restart":
			l.sweep()
			w.restart()
		case "orphan", "other":
			l.plant(d.name == "orphan", n)
		case "short", "room":
			l.short.Store(map[string]string{"short": "the disk is short", "room": ""}[d.name])
		case "told":
			w.disk.accept()
		case "refuse":
			w.fake.Fail([]string{"Stop", "Remove", "List", "Logs", "Inspect"}[d.index], 2, errors.New("not now"))
		case "down":
			w.fake.Down()
		case "up":
			w.fake.Up()
		case "drop", "flow":
			w.fake.DropEvents(d.name == "drop")
		}
	}
	w.fake.Up()
	w.fake.Heal("")
	l.short.Store("")
	for n := range accepted {
		_ = w.engine.Accept(context.Background(), stopOf(task(fmt.Sprintf("t%d", n))))
	}
	pass(10 * time.Minute)
	w.disk.accept()
	pass(20 * time.Minute)
	l.judge(foreign, slices.Sorted(maps.Keys(accepted)), accepted)
	w.stop()
	return l.wrong
}

// judge looks at what is left in the end.
func (l *leftovers) judge(foreign string, tasks []int, accepted map[int]bool) {
	w := l.world
	ran, families := map[string]bool{}, map[string]int{}
	for _, n := range tasks {
		arn := arnPrefix + fmt.Sprintf("t%d", n)
		if !accepted[n] {
			continue
		}
		families[fmt.Sprint("family", n%2)]++
		if _, left := w.fake.Container(arn, "app"); left {
			l.complain("the container of the stopped task t%d is left: %s", n, w.explain(arn))
		}
		if s := w.disk.statuses(arn); len(s) == 0 || s[len(s)-1] != "STOPPED" {
			l.complain("task t%d was told %v", n, s)
		}
		ran[arn] = true
	}
	if left := w.engine.Tasks(); len(left) > 0 {
		l.complain("%d tasks are not forgotten, such as %s, %s: %s", len(left), left[0].Arn, left[0].Known, w.explain(left[0].Arn))
	}
	kept, last := map[string]int{}, map[string]time.Time{}
	for _, s := range w.engine.Past() {
		kept[s.Family]++
		last[s.Family] = s.StoppedAt // the oldest that is kept: they come newest first
	}
	for family, n := range families {
		if kept[family] != min(n, l.keep) {
			l.complain("of %d tasks of %s %d are kept, want %d", n, family, kept[family], min(n, l.keep))
		}
	}
	for arn := range ran {
		changes := w.disk.changes(arn)
		first := slices.IndexFunc(changes, func(c *engine.StateChange) bool { return c.Status == "STOPPED" }) // it is said again to whoever asks again
		if s := changes[max(first, 0)]; l.keep > 0 && !slices.ContainsFunc(w.engine.Past(), func(p engine.TaskStatus) bool { return p.Arn == arn }) {
			var n int
			_, _ = fmt.Sscanf(arn, arnPrefix+"t%d", &n)
			if family := fmt.Sprint("family", n%2); s.Time.After(last[family]) {
				l.complain("t%d is not kept although it ended after one of %s that is", n, family)
			}
		}
	}
	for _, id := range l.orphans {
		_, exists := w.fake.Spec(id)
		if exists != (l.policy != engine.OrphansRemove) {
			l.complain("with the policy %s an orphan exists: %v", l.policy, exists)
		}
	}
	if exists, running := w.fake.Foreign(foreign); !exists || !running {
		l.complain("the foreign container was touched")
	}
}

// Over random histories: only containers of ours that no task wants are handled as orphans, by policy; a running or wanted
// container is never removed; every stopped one goes in the end; and of each family the last are kept on record.
func TestWhatIsLeftIsHandledByPolicyAndNothingElseIsTouched(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		l := drawLeftovers(rt)
		var wrong []string
		synctest.Test(t, func(t *testing.T) { wrong = l.run(t) })
		for _, complaint := range wrong {
			rt.Error(complaint)
		}
	})
}
