package engine_test

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/longshore-project/longshore/engine"
	"github.com/longshore-project/longshore/protocol/acs"
)

// groups is a host's control groups in memory.
type groups struct {
	mu      sync.Mutex
	have    map[string]engine.TaskLimits
	ensured int
	err     error
	created func() int // containers made when a group was ensured first
	killed  map[string]int
	early   bool // it was ensured before any container was made
}

func (g *groups) Ensure(_ context.Context, id string, l engine.TaskLimits) (string, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.ensured++; g.ensured == 1 && g.created != nil {
		g.early = g.created() == 0
	}
	if g.err != nil {
		return "", g.err
	}
	g.have[id] = l
	return "/ecs/" + id, nil
}

func (g *groups) Remove(_ context.Context, id string) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.err == nil {
		delete(g.have, id)
	}
	return g.err
}

func (g *groups) Sweep(_ context.Context, known func(string) bool) (removed []string, err error) {
	g.mu.Lock()
	ids := slices.Sorted(maps.Keys(g.have))
	g.mu.Unlock()
	for _, id := range ids {
		if !known(id) {
			removed = append(removed, id)
			_ = g.Remove(context.Background(), id)
		}
	}
	return removed, nil
}

func (g *groups) Killed(_, container string) (int, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	n, ok := g.killed[container]
	return n, ok
}

func (g *groups) kills(n map[string]int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.killed = n
}

func (g *groups) fail(err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.err = err
}

func (g *groups) ids() []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Sorted(maps.Keys(g.have))
}

func withGroups(g *groups) func(*engine.Config) {
	return func(cfg *engine.Config) { cfg.Groups = g }
}

func TestATaskHasItsGroupFromBeforeItsFirstContainerUntilItIsForgotten(t *testing.T) {
	g := &groups{have: map[string]engine.TaskLimits{}}
	inBubble(t, func(t *testing.T, w *world) {
		g.created = func() int { return w.fake.Calls("Create") }
		a := task("a", container("app"), container("side", func(c *acs.Container) { c.Memory, c.CPU = 0, 0 }))
		a.CPU, a.Memory = 0.5, 256
		w.accept(a)
		w.settled()
		if s := w.status(a.Arn); s.Known != "RUNNING" {
			t.Fatal(w.explain(a.Arn))
		}
		if want := (engine.TaskLimits{CPU: 0.5, Shares: 12, Memory: 256 << 20}); !g.early || g.have["a"] != want {
			t.Errorf("%v %+v", g.early, g.have["a"])
		}
		if g.ensured < 4 {
			t.Errorf("ensured %d times; a start that a reboot came before needs it, too", g.ensured)
		}
		for name, memory := range map[string]int64{"app": 64 << 20, "side": 0} { // the group limits what has no limit of its own
			if spec, _ := w.fake.Spec(w.id(a, name)); spec.CgroupParent != "/ecs/a" || spec.Memory != memory {
				t.Errorf("%s: %q, %d bytes", name, spec.CgroupParent, spec.Memory)
			}
		}
		if text := w.explain(a.Arn); strings.Contains(text, "not a hard limit") {
			t.Error(text)
		}
		w.accept(stopOf(a))
		w.settled()
		w.disk.accept()
		g.fail(errors.New("device or resource busy"))
		pass(4 * time.Hour)
		if records, _ := w.disk.Load(); len(records) != 1 || !strings.Contains(w.explain(a.Arn), "resource busy") {
			t.Errorf("the record went before the group: nothing finds it again\n%s", w.explain(a.Arn))
		}
		g.fail(nil)
		pass(time.Hour)
		if records, _ := w.disk.Load(); len(records) != 0 || len(g.ids()) != 0 {
			t.Errorf("%d records, groups %v", len(records), g.ids())
		}
	}, withGroups(g))
}

func TestATasksMemoryIsGivenToItsContainersTooWhereThatIsSet(t *testing.T) {
	g := &groups{have: map[string]engine.TaskLimits{}}
	inBubble(t, func(t *testing.T, w *world) {
		a := task("a", container("app", func(c *acs.Container) { c.Memory = 0 }))
		a.Memory = 256
		w.accept(a)
		w.settled()
		if spec, _ := w.fake.Spec(w.id(a, "app")); spec.CgroupParent != "/ecs/a" || spec.Memory != 256<<20 {
			t.Errorf("%q, %d bytes", spec.CgroupParent, spec.Memory)
		}
	}, withGroups(g), func(cfg *engine.Config) { cfg.Host.PropagateMemory = true })
}

func TestAGroupThatCannotBeHadStopsTheTaskWithFileAndValue(t *testing.T) {
	g := &groups{have: map[string]engine.TaskLimits{}, err: errors.New(`control group file /x/pids.max can't be set to "9": no such file or directory`)}
	inBubble(t, func(t *testing.T, w *world) {
		a := task("a")
		w.accept(a)
		w.settled()
		w.want(a.Arn, "STOPPED")
		if r := w.disk.last(a.Arn); !strings.HasPrefix(reasonOf(r, "app"), `ResourceInitializationError: the task's limits can't be set: control group file /x/pids.max can't be set to "9"`) {
			t.Errorf("%+v", r.Containers[0])
		}
		if n := w.fake.Calls("Create"); n != 0 {
			t.Errorf("%d containers were made", n)
		}
	}, withGroups(g))
}

func TestGroupsThatACrashLeftAreRemovedAtTheStartAndThoseOfTasksStay(t *testing.T) {
	g := &groups{have: map[string]engine.TaskLimits{}}
	inBubble(t, func(t *testing.T, w *world) {
		a := task("a")
		w.accept(a)
		w.settled()
		w.stop()
		g.have["orphan"] = engine.TaskLimits{}
		w.start()
		w.settled()
		if got := g.ids(); !slices.Equal(got, []string{"a"}) {
			t.Errorf("groups %v", got)
		}
	}, withGroups(g))
}

func TestWithoutGroupsATasksLimitsAreTheContainersAndThatIsSaid(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		a := task("a", container("app", func(c *acs.Container) { c.Memory = 0 }))
		a.CPU, a.Memory = 0.5, 256
		w.accept(a)
		w.settled()
		if spec, _ := w.fake.Spec(w.id(a, "app")); spec.CgroupParent != "" || spec.Memory != 256<<20 {
			t.Errorf("%q, %d bytes", spec.CgroupParent, spec.Memory)
		}
		if text := w.explain(a.Arn); !strings.Contains(text, "it is not a hard limit, because this host sets none") {
			t.Error(text)
		}
	})
}

// judge is a policy that a test can change.
type judge struct {
	mu      sync.Mutex
	verdict engine.PolicyVerdict
	asked   []engine.PolicyTask
	then    *engine.PolicyVerdict // after the first question
}

func (j *judge) Judge(_ context.Context, t engine.PolicyTask) engine.PolicyVerdict {
	j.mu.Lock()
	defer j.mu.Unlock()
	v := j.verdict
	j.asked = append(j.asked, t)
	if j.then != nil {
		j.verdict = *j.then
	}
	return v
}

func (j *judge) set(v engine.PolicyVerdict) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.verdict = v
}

func withPolicy(j *judge) func(*engine.Config) {
	return func(cfg *engine.Config) { cfg.Policy = j }
}

const denial = "HostPolicyError: container app asks for privileged, which the host's policy denies: /etc/ecs/policy:3: deny privileged"

func TestADeniedTaskStopsWithTheRuleBeforeAnyImageIsPulled(t *testing.T) {
	j := &judge{verdict: engine.PolicyVerdict{Denial: denial, Warnings: []string{"a warning"}}}
	inBubble(t, func(t *testing.T, w *world) {
		a := task("a", container("app"), container("side", notEssential))
		a.Containers[0].Image = "far:1"
		w.accept(a)
		w.settled()
		w.want(a.Arn, "STOPPED")
		if r := w.disk.last(a.Arn); r.Reason != denial {
			t.Errorf("%q", r.Reason)
		}
		if n := w.fake.Calls("Pull") + w.fake.Calls("Create"); n != 0 {
			t.Errorf("%d pulls and containers", n)
		}
		if text := w.explain(a.Arn); !strings.Contains(text, "policy warning a warning") {
			t.Error(text)
		}
		w.restart() // it does not come back
		w.settled()
		w.want(a.Arn, "STOPPED")
	}, withPolicy(j))
}

func TestAPolicyThatChangesBetweenThePullAndTheContainerStillCounts(t *testing.T) {
	j := &judge{then: &engine.PolicyVerdict{Denial: denial}}
	inBubble(t, func(t *testing.T, w *world) {
		a := task("a")
		w.accept(a)
		w.settled()
		w.want(a.Arn, "STOPPED")
		if r := w.disk.last(a.Arn); reasonOf(r, "app") != denial || w.fake.Calls("Create") != 0 {
			t.Errorf("%+v", r.Containers[0])
		}
	}, withPolicy(j))
}

func TestWhatRunsStaysWhenThePolicyChanges(t *testing.T) {
	j := &judge{}
	inBubble(t, func(t *testing.T, w *world) {
		a := task("a")
		w.accept(a)
		w.settled()
		j.set(engine.PolicyVerdict{Denial: denial})
		w.restart()
		pass(time.Minute)
		w.want(a.Arn, "PENDING", "RUNNING")
		if w.fake.Running() != 1 {
			t.Error(w.explain(a.Arn))
		}
	}, withPolicy(j))
}

func TestAPolicySeesWhatEachContainerAsksOfTheHost(t *testing.T) {
	j := &judge{verdict: engine.PolicyVerdict{Denial: denial}}
	inBubble(t, func(t *testing.T, w *world) {
		a := task("a", container("app", func(c *acs.Container) {
			c.DockerConfig = &acs.DockerConfig{HostConfig: `{"Privileged":true,"CapAdd":["NET_ADMIN"],"NetworkMode":"host","Devices":[{"PathOnHost":"/dev/fuse","PathInContainer":"/dev/fuse","CgroupPermissions":"rwm"}]}`}
			c.MountPoints = []*acs.MountPoint{{SourceVolume: "etc", ContainerPath: "/e", ReadOnly: true}, {SourceVolume: "hidden", ContainerPath: "/h"}}
		}), container("side", func(c *acs.Container) { c.VolumesFrom = []*acs.VolumeFrom{{SourceContainer: "app"}} }))
		a.NetworkMode, a.PidMode = "host", "host"
		a.Volumes = []*acs.Volume{{Name: "etc", Host: &acs.HostVolume{SourcePath: "/etc/../etc"}},
			{Name: "hidden", Type: "docker", DockerVolumeConfiguration: &acs.DockerVolumeConfiguration{Scope: "task", Driver: "local", DriverOpts: map[string]string{"type": "none", "o": "bind", "device": "/root"}}}}
		w.accept(a)
		w.settled()
		if len(j.asked) == 0 {
			t.Fatal(w.explain(a.Arn))
		}
		app, side := j.asked[0].Containers[0], j.asked[0].Containers[1]
		want := []engine.PolicyPath{{Path: "/etc", ReadOnly: true}, {Path: "/root"}, {Path: "/dev/fuse", Device: true}}
		if !app.Privileged || !app.HostNetwork || !app.HostPID || app.HostIPC || !slices.Equal(app.CapAdd, []string{"NET_ADMIN"}) || !slices.Equal(app.Paths, want) || app.Image != "app:1" || j.asked[0].Family != "demo" {
			t.Errorf("%+v", app)
		}
		if !slices.Equal(side.Paths, want[:2]) { // by volumesFrom
			t.Errorf("%+v", side)
		}
	}, withPolicy(j))
}
