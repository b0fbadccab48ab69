package engine_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"

	"github.com/longshore-project/longshore/engine"
	"github.com/longshore-project/longshore/engine/enginetest"
	"github.com/longshore-project/longshore/protocol/acs"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// disk is a TaskState in memory that forgets nothing over crashes of the engine and fails when told to.
type disk struct {
	mu       sync.Mutex
	records  map[string][]byte
	unsent   map[uint64]*engine.StateChange
	all      []*engine.StateChange // everything that was ever said, in order
	sequence uint64
	saves    int
	err      error
	before   func(rec *engine.TaskRecord) error // nil error goes on
}

func newDisk() *disk {
	return &disk{records: map[string][]byte{}, unsent: map[uint64]*engine.StateChange{}}
}

func (d *disk) Save(rec *engine.TaskRecord, changes ...*engine.StateChange) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.err != nil {
		return d.err
	}
	if d.before != nil {
		if err := d.before(rec); err != nil {
			return err
		}
	}
	raw, err := json.Marshal(rec)
	if err != nil {
		return err
	}
	d.saves++
	d.records[rec.Task.Arn] = raw
	for _, c := range changes {
		d.sequence++
		c.Sequence = d.sequence
		d.unsent[c.Sequence] = c
		d.all = append(d.all, c)
	}
	return nil
}

func (d *disk) Load() ([]*engine.TaskRecord, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	var records []*engine.TaskRecord
	for _, raw := range d.records {
		rec := &engine.TaskRecord{}
		if err := json.Unmarshal(raw, rec); err != nil {
			return nil, err
		}
		records = append(records, rec)
	}
	return records, nil
}

func (d *disk) Delete(arn string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.err != nil {
		return d.err
	}
	delete(d.records, arn)
	return nil
}

func (d *disk) Unsent(arn string) (bool, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, c := range d.unsent {
		if c.TaskArn == arn {
			return true, nil
		}
	}
	return false, nil
}

// accept plays the control plane that takes every change.
func (d *disk) accept() {
	d.mu.Lock()
	defer d.mu.Unlock()
	clear(d.unsent)
}

func (d *disk) fail(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.err = err
}

// changes are the changes of one task.
func (d *disk) changes(arn string) []*engine.StateChange {
	d.mu.Lock()
	defer d.mu.Unlock()
	var of []*engine.StateChange
	for _, c := range d.all {
		if c.TaskArn == arn {
			of = append(of, c)
		}
	}
	return of
}

// statuses are the changes of one task in short.
func (d *disk) statuses(arn string) []string {
	var s []string
	for _, c := range d.changes(arn) {
		s = append(s, c.Status)
	}
	return s
}

func (d *disk) last(arn string) *engine.StateChange {
	if c := d.changes(arn); len(c) > 0 {
		return c[len(c)-1]
	}
	return &engine.StateChange{}
}

// images is an image cache without cleverness: what is local, else a pull.
type images struct {
	runtime engine.Runtime
	held    sync.Map
}

func (i *images) Ensure(ctx context.Context, req engine.ImageRequest) (engine.Image, func(), error) {
	img, err := i.runtime.Image(ctx, req.Ref)
	if err != nil {
		req.Note("pulled, because it is not local")
		img, err = i.runtime.Pull(ctx, req.Ref, nil, req.Progress)
	}
	if err != nil {
		return img, nil, err
	}
	key := req.TaskArn + "/" + req.Container
	i.held.Store(key, true)
	return img, func() { i.held.Delete(key) }, nil
}

// volumes answers what a test wants.
type volumes func(engine.VolumeRequest) engine.VolumeResult

func (v volumes) Check(_ context.Context, req engine.VolumeRequest) engine.VolumeResult {
	return v(req)
}

func allFine(engine.VolumeRequest) engine.VolumeResult { return engine.VolumeResult{} }

// world is an engine with all around it. The engine can be killed and started again.
type world struct {
	t      *testing.T
	fake   *enginetest.Fake
	disk   *disk
	images *images
	cfg    engine.Config
	engine *engine.Engine
	stop   func()
}

func newWorld(t *testing.T, change ...func(*engine.Config)) *world {
	f := enginetest.NewFake()
	f.AddImage(enginetest.FakeImage{Ref: "app:1"})
	w := &world{t: t, fake: f, disk: newDisk(), images: &images{runtime: f}}
	w.cfg = engine.Config{
		Runtime: f, Images: w.images, Volumes: volumes(allFine), State: w.disk, Log: zap.NewNop(), Proc: t.TempDir(),
		Host: engine.Host{Cluster: "default", InstanceArn: "arn:aws:ecs:us-west-2:1:container-instance/default/i", CPU: 2048, Memory: 4096, ReservedTCP: []int32{22}},
	}
	if testing.Verbose() {
		w.cfg.Log = zaptest.NewLogger(t)
	}
	for _, f := range change {
		f(&w.cfg)
	}
	return w
}

// start begins a life of the agent.
func (w *world) start() {
	w.t.Helper()
	e, err := engine.New(w.cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	if n, ok := w.cfg.Networks.(*enginetest.Networks); ok {
		n.Serve(e)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- e.Run(ctx) }()
	w.engine = e
	w.stop = func() {
		cancel()
		if err := <-done; err != nil {
			w.t.Error(err)
		}
		w.stop = func() {}
	}
}

func (w *world) restart() {
	w.t.Helper()
	w.stop()
	w.start()
}

func (w *world) accept(task *acs.Task) {
	w.t.Helper()
	if err := w.engine.Accept(context.Background(), task); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) status(arn string) engine.TaskStatus {
	s, _ := w.engine.Task(arn)
	return s
}

// pass lets time pass in a synctest bubble.
func pass(d time.Duration) { <-time.After(d) }

// settled lets everything happen that needs no time, and then a little more.
func (w *world) settled() {
	synctest.Wait()
	pass(20 * time.Millisecond)
	synctest.Wait()
}

func (w *world) want(arn string, statuses ...string) {
	w.t.Helper()
	if got := w.disk.statuses(arn); !slices.Equal(got, statuses) {
		w.t.Fatalf("the control plane was told %v, want %v\n%s", got, statuses, w.explain(arn))
	}
}

func (w *world) explain(arn string) string {
	s := fmt.Sprintf("waits: %q\n", w.status(arn).Waits)
	for _, step := range w.status(arn).Timeline {
		s += fmt.Sprintf("%s %s %s %s %s\n", step.Start.Format("05.000"), step.Container, step.Name, step.Outcome, step.Detail)
	}
	return s
}

// inBubble runs a test with an engine in fake time.
func inBubble(t *testing.T, f func(t *testing.T, w *world), change ...func(*engine.Config)) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, change...)
		w.start()
		defer func() { w.stop() }()
		w.settled()
		f(t, w)
	})
}

const arnPrefix = "arn:aws:ecs:us-west-2:123456789012:task/default/"

func task(id string, containers ...*acs.Container) *acs.Task {
	if len(containers) == 0 {
		containers = []*acs.Container{container("app")}
	}
	return &acs.Task{Arn: arnPrefix + id, TaskClusterArn: "arn:aws:ecs:us-west-2:123456789012:cluster/default", DesiredStatus: "RUNNING", Family: "demo", Version: "1",
		Containers: containers}
}

func container(name string, change ...func(*acs.Container)) *acs.Container {
	c := &acs.Container{Name: name, Image: "app:1", Essential: true, CPU: 10, Memory: 64}
	for _, f := range change {
		f(c)
	}
	return c
}

func stopOf(t *acs.Task) *acs.Task { return &acs.Task{Arn: t.Arn, DesiredStatus: "STOPPED"} }

func TestATaskRunsFromPayloadToRUNNINGAndBack(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		a := task("a")
		before := time.Now()
		w.accept(a)
		w.settled()
		w.want(a.Arn, "PENDING", "RUNNING")
		if s := w.status(a.Arn); s.Known != "RUNNING" || s.Containers[0].Known != "RUNNING" || s.Containers[0].StartedAt.Sub(before) != 0 {
			t.Fatalf("%+v", s)
		}
		if w.fake.Running() != 1 {
			t.Fatal("no container runs")
		}
		w.accept(a) // a payload that comes again changes nothing
		w.accept(stopOf(a))
		w.settled()
		w.want(a.Arn, "PENDING", "RUNNING", "STOPPED")
		if w.fake.Running() != 0 {
			t.Fatal("the container still runs")
		}
		last := w.disk.last(a.Arn)
		if last.Reason != "" || last.Containers[0].ExitCode == nil || *last.Containers[0].ExitCode != 143 {
			t.Fatalf("%+v %+v", last, last.Containers[0])
		}
	})
}

func TestAStateThatCannotBeSavedStartsNothing(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		a := task("a")
		w.disk.fail(errors.New("no space left on device"))
		if err := w.engine.Accept(context.Background(), a); err == nil {
			t.Fatal("the task was accepted")
		}
		if len(w.engine.Tasks()) != 0 {
			t.Fatal("the task was kept")
		}
		w.disk.fail(nil)
		w.fake.Delay("Create", time.Second)
		w.accept(a)
		w.settled()
		w.disk.fail(errors.New("no space left on device"))
		pass(3 * time.Second)
		if w.fake.Running() != 0 || !w.engine.Health().Impaired {
			t.Fatalf("started without a durable intent; health %+v", w.engine.Health())
		}
		w.disk.fail(nil)
		pass(time.Minute)
		w.want(a.Arn, "PENDING", "RUNNING")
		if w.engine.Health().Impaired {
			t.Fatalf("%+v", w.engine.Health())
		}
	})
}
