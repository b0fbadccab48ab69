package agent

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/longshore-project/longshore/engine"
	"github.com/longshore-project/longshore/engine/docker"
	"github.com/longshore-project/longshore/protocol/acs"
	"github.com/longshore-project/longshore/statemgr"
	testimages "github.com/longshore-project/longshore/test/images"
)

// remains is the machine's real container engine with the engine of tasks over it, its state on a small disk, and a control
// plane that accepts everything.
type remains struct {
	t       *testing.T
	runtime engine.Runtime
	state   *State
	dir     string
	cluster string // of this test alone
	image   string
	short   atomic.Pointer[string]
	engine  *engine.Engine
	stop    func()
}

// localImages is an image cache for images that are there.
type localImages struct{ engine.Runtime }

func (l localImages) Ensure(ctx context.Context, r engine.ImageRequest) (engine.Image, func(), error) {
	img, err := l.Image(ctx, r.Ref)
	return img, func() {}, err
}

type anyVolume struct{}

func (anyVolume) Check(context.Context, engine.VolumeRequest) engine.VolumeResult {
	return engine.VolumeResult{}
}

func newRemains(t *testing.T) *remains {
	r := &remains{t: t, dir: smallDisk(t), cluster: "remains-" + strings.ToLower(rand.Text()), image: "longshore-test/" + strings.ToLower(rand.Text()) + ":1"}
	testimages.MustLoad(t, testimages.DockerClient(t), r.image, testimages.Spec{})
	db, _, err := statemgr.Open(r.dir)
	if err != nil {
		t.Fatal(err)
	}
	if r.state, err = NewState(db, zap.NewNop()); err != nil {
		t.Fatal(err)
	}
	r.state.reserve = newReserve(r.dir, zap.NewNop())
	t.Cleanup(func() {
		r.stop()
		for id := range r.containers() {
			r.docker("rm", "-f", id)
		}
		_ = db.Close()
	})
	r.stop = func() {}
	return r
}

// start begins a life of the engine of tasks.
func (r *remains) start(wait time.Duration) {
	r.t.Helper()
	r.stop()
	runtime, err := docker.New(docker.Config{})
	if err != nil {
		r.t.Fatal(err)
	}
	e, err := engine.New(engine.Config{
		Runtime: runtime, Images: localImages{runtime}, Volumes: anyVolume{}, State: r.state, Log: zap.NewNop(), Host: engine.Host{Cluster: r.cluster, CPU: 1024, Memory: 1024, VolumeCheck: "off"},
		RelistInterval: 200 * time.Millisecond, CleanupWait: wait, CleanupJitter: wait / 2, KeepPerFamily: 1, OrphanPolicy: engine.OrphansRemove, StopTimeout: time.Second,
		DiskPressure: func() string {
			if s := r.short.Load(); s != nil {
				return *s
			}
			return r.state.reserve.pressure()
		},
	})
	if err != nil {
		r.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- e.Run(ctx) }()
	r.engine, r.runtime, r.stop = e, runtime, func() {
		r.stop = func() {}
		cancel()
		if err := errors.Join(<-done, runtime.Close()); err != nil {
			r.t.Error(err)
		}
	}
	<-e.Ready()
}

// until waits for a condition; the control plane accepts every change meanwhile.
func (r *remains) until(what string, f func() error) {
	r.t.Helper()
	limit, tick := time.After(time.Minute), time.NewTicker(20*time.Millisecond)
	defer tick.Stop()
	for {
		changes, _ := r.state.Changes()
		for _, c := range changes {
			_ = r.state.Accepted(c.Sequence)
		}
		err := f()
		if err == nil {
			return
		}
		select {
		case <-limit:
			r.t.Fatalf("%s: %v", what, err)
		case <-tick.C:
		}
	}
}

// docker runs a command of the engine's own client and returns what it says.
func (r *remains) docker(args ...string) string {
	r.t.Helper()
	out, err := exec.CommandContext(context.WithoutCancel(r.t.Context()), "docker", args...).CombinedOutput()
	if err != nil {
		r.t.Fatalf("docker %v: %v: %s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

// containers are those of this test's cluster, their tasks by their ids.
func (r *remains) containers() map[string]string {
	r.t.Helper()
	all := map[string]string{}
	for line := range strings.Lines(r.docker("ps", "-a", "--no-trunc", "--filter", "label="+engine.LabelCluster+"="+r.cluster, "--format", `{{.ID}} {{.Label "`+engine.LabelTaskArn+`"}}`)) {
		id, arn, _ := strings.Cut(strings.TrimSpace(line), " ")
		all[id] = arn
	}
	return all
}

func (r *remains) left(want int) func() error {
	return func() error {
		if got := len(r.containers()); got != want {
			return fmt.Errorf("%d containers, want %d", got, want)
		}
		return nil
	}
}

func (r *remains) task(id, script string) *acs.Task {
	return &acs.Task{Arn: "arn:aws:ecs:us-west-2:123456789012:task/" + r.cluster + "/" + id, TaskClusterArn: "arn:aws:ecs:us-west-2:123456789012:cluster/" + r.cluster, DesiredStatus: "RUNNING", Family: "f", Version: "1",
		Containers: []*acs.Container{{Name: "app", Image: r.image, Essential: true, Memory: 16, Command: []string{"sh", "-c", script}, DockerConfig: &acs.DockerConfig{HostConfig: `{"NetworkMode":"none"}`}}}}
}

func (r *remains) accept(t *acs.Task) {
	r.t.Helper()
	if err := r.engine.Accept(r.t.Context(), t); err != nil {
		r.t.Fatal(err)
	}
}

// known waits until tasks have a status.
func (r *remains) known(status string, tasks ...*acs.Task) {
	r.t.Helper()
	r.until("the tasks are "+status, func() error {
		for _, t := range tasks {
			over := status == "STOPPED" && slices.ContainsFunc(r.engine.Past(), func(s engine.TaskStatus) bool { return s.Arn == t.Arn })
			if s, _ := r.engine.Task(t.Arn); s.Known != status && !over {
				return fmt.Errorf("%s is %s: %s %v", t.Arn, s.Known, s.Reason, s.Waits)
			}
		}
		return nil
	})
}

// foreign makes containers that are none of the agent's business: one without its labels, and one of another cluster.
func (r *remains) foreign() (ids []string) {
	r.t.Helper()
	run := []string{"run", "-d", "--pull", "never", "--network", "none"}
	for _, labels := range [][]string{nil, {"--label", engine.LabelTaskArn + "=arn:x", "--label", engine.LabelTask + "={}", "--label", engine.LabelCluster + "=" + r.cluster + "-of-another"}} {
		id := r.docker(slices.Concat(run, labels, []string{r.image, "sleep", "1000"})...)
		r.t.Cleanup(func() { r.docker("rm", "-f", id) })
		ids = append(ids, id)
	}
	return ids
}

// orphan makes a running container with the labels of one of the agent's tasks that it never had.
func (r *remains) orphan(like string) {
	r.t.Helper()
	made, err := r.runtime.Inspect(r.t.Context(), like)
	if err != nil {
		r.t.Fatal(err)
	}
	made.Labels[engine.LabelTaskArn] = "arn:aws:ecs:us-west-2:123456789012:task/" + r.cluster + "/never"
	id, err := r.runtime.Create(r.t.Context(), engine.Spec{Name: r.cluster + "-orphan", Labels: made.Labels, Image: r.image, Command: []string{"sleep", "1000"}, NetworkMode: "none"})
	if err != nil {
		r.t.Fatal(err)
	}
	if err := r.runtime.Start(r.t.Context(), id); err != nil {
		r.t.Fatal(err)
	}
}

func TestStoppedTasksOrphansAndAShortDiskOnARealEngine(t *testing.T) {
	r := newRemains(t)
	foreign := r.foreign()

	r.start(5 * time.Second)
	var ended []*acs.Task
	for i := range 3 {
		a := r.task(fmt.Sprint("ended", i), fmt.Sprintf("echo the last words of %d; exit %d", i, i+3))
		r.accept(a)
		r.known("STOPPED", a) // one after the other, so that the last is known
		ended = append(ended, a)
	}
	if len(r.containers()) == 0 {
		t.Fatal("they were removed before their time")
	}
	r.orphan(slices.Sorted(maps.Keys(r.containers()))[0])
	r.until("the stopped containers and the orphan are removed", r.left(0))
	r.until("the tasks are forgotten but for the last of the family", func() error {
		if past := r.engine.Past(); len(past) != 1 || len(r.engine.Tasks()) != 0 {
			return fmt.Errorf("%d are left, %d are known", len(past), len(r.engine.Tasks()))
		}
		return nil
	})
	r.start(time.Hour) // what is left of it survives the agent
	past := r.engine.Past()[0]
	if c := past.Containers[0]; past.Arn != ended[2].Arn || c.ExitCode == nil || *c.ExitCode != 5 || c.Log == nil || c.Log.Text != "the last words of 2\n" || len(past.Timeline) == 0 {
		t.Errorf("%+v", past)
	}

	for i := range 3 {
		a := r.task(fmt.Sprint("early", i), "exit 0")
		r.accept(a)
		r.known("STOPPED", a)
	}
	if len(r.containers()) != 3 {
		t.Errorf("%d containers are left of 3 tasks whose time is not over", len(r.containers()))
	}
	why := "the disk is short"
	r.short.Store(&why)
	r.until("only the newest of the family is left", r.left(1))
	if h := r.engine.Health(); !h.Impaired || h.Causes[0] != why || !strings.HasSuffix(strings.Join(slices.Collect(maps.Values(r.containers())), " "), "/early2") {
		t.Errorf("%+v, %v", h, r.containers())
	}
	r.short.Store(nil)
	for _, id := range foreign {
		if r.docker("inspect", "-f", "{{.State.Running}}", id) != "true" {
			t.Error("a foreign container was touched")
		}
	}
}

func TestAFullStateDiskOnARealEngine(t *testing.T) {
	r := newRemains(t)
	r.start(time.Hour)
	before := r.task("before", "sleep 1000")
	r.accept(before)
	r.known("RUNNING", before)

	filler := fill(t, r.dir)
	out := r.task("out-of-the-reserve", "sleep 1000")
	r.accept(out)
	r.known("RUNNING", out)
	r.until("the disk is said to be short", func() error {
		if h := r.engine.Health(); !h.Impaired || !strings.Contains(h.Causes[0], "has no room for the agent's reserve") {
			return fmt.Errorf("%+v", h)
		}
		return nil
	})
	var refused error
	for i := 0; refused == nil && i < 100; i++ { // somebody goes on writing, until nothing is in reserve
		fill(t, r.dir)
		refused = r.engine.Accept(t.Context(), r.task(fmt.Sprint("one-more-", i), "exit 0"))
	}
	if refused == nil || !strings.Contains(refused.Error(), "no space left on device") || !strings.Contains(refused.Error(), "was not accepted") {
		t.Fatalf("with nothing in reserve: %v", refused)
	}
	if _, err := os.Stat(filepath.Join(r.dir, reserveName)); !os.IsNotExist(err) {
		t.Errorf("the reserve: %v", err)
	}
	for _, a := range []*acs.Task{before, out} {
		if s, _ := r.engine.Task(a.Arn); s.Known != "RUNNING" {
			t.Errorf("%+v", s)
		}
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	healed := r.task("healed", "sleep 1000")
	r.accept(healed)
	r.known("RUNNING", healed)
	r.until("the reserve is laid in again and all is well", func() error {
		if h := r.engine.Health(); h.Impaired {
			return fmt.Errorf("%+v", h)
		}
		return nil
	})
	if info, err := os.Stat(filepath.Join(r.dir, reserveName)); err != nil || info.Size() != reserveSize {
		t.Errorf("the reserve: %v", err)
	}
	for _, a := range []*acs.Task{before, out, healed} {
		r.accept(&acs.Task{Arn: a.Arn, DesiredStatus: "STOPPED"})
	}
	r.known("STOPPED", before, out, healed)
}
