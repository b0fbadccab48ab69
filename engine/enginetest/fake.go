// Package enginetest holds what tests of the agent need of a container engine: [Fake], an engine in memory whose
// processes, images and failures a test controls, and [Run], the conformance suite that every engine.Runtime passes, the
// Fake included.
//
// The Fake starts no goroutines, but one while an Exec lasts, and reads no clock but package time's, so it works inside a testing/synctest bubble: a
// process "runs" until somebody stops it, a test calls Exit, OOM or KillAll, or the time that its [Behaviour] gives it is
// over.
//
// Package engine's own tests must be of package engine_test to use it, because it imports engine.
package enginetest

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	"github.com/longshore-project/longshore/engine"
)

// Fake is an engine.Runtime in memory. All methods may be called concurrently.
type Fake struct {
	mu         sync.Mutex
	info       engine.Info
	images     map[string]*image              // local, by id
	published  map[string]*FakeImage          // what Pull finds, by normalised reference
	pullErrors map[string]error               // by normalised reference
	containers map[string]*container          // by id
	volumes    map[string]engine.EngineVolume // named ones
	serial     int
	nextPort   int32
	behave     func(engine.Spec) Behaviour
	execs      func(context.Context, engine.Spec, engine.Exec) (int, error)
	down       bool
	faults     map[string]*fault
	calls      map[string]int
	total      int
	started    map[string]int // processes ever started, by container name
	creates    map[string]int // containers ever made, by container name
	peak       map[string]int // most processes of one task and container at the same time
	subs       map[*subscription]struct{}
	ends       map[string]engine.State // the last end of a process, by container name
	skew       time.Duration           // of the engine's clock
	deaf       bool                    // it does not notice the end of a process
	dropEvents bool
	shuffle    bool
	repeat     int
	closed     bool
}

var _ engine.Runtime = (*Fake)(nil)

// Behaviour is what a process does once it is started. The zero value runs until it is stopped, and ends at its stop
// signal.
type Behaviour struct {
	StartError error         // the engine refuses to start it, with this error
	Exits      bool          // it ends by itself, with ExitCode, after After
	After      time.Duration // 0: as soon as it is started
	ExitCode   int
	OOM        bool          // …because it was killed for its memory (ExitCode 137)
	IgnoreStop bool          // only SIGKILL ends it
	StopAfter  time.Duration // how long it takes to end after its stop signal
	StopCode   int           // exit code after the stop signal; 0 means 128 + the signal
	Output     string        // what it writes
	Health     string        // with a health check: the status it reaches at once (default UNKNOWN)…
	HealthCode int           // …with this exit code of the check
	HealthText string        // …and this output
}

// NewFake returns an engine with no images and no containers.
func NewFake() *Fake {
	return &Fake{
		info: engine.Info{
			Name: "fake", Version: "1.0", APIVersion: "1.41", APIVersions: []string{"1.40", "1.41"}, Root: "/var/lib/fake",
			CgroupVersion: 2, CgroupDriver: "cgroupfs", LogDrivers: []string{"json-file", "none"}, VolumeDrivers: []string{"local"},
		},
		images:     map[string]*image{},
		published:  map[string]*FakeImage{},
		pullErrors: map[string]error{},
		containers: map[string]*container{},
		volumes:    map[string]engine.EngineVolume{},
		nextPort:   32768,
		behave:     func(engine.Spec) Behaviour { return Behaviour{} },
		execs:      func(context.Context, engine.Spec, engine.Exec) (int, error) { return 0, nil },
		faults:     map[string]*fault{},
		calls:      map[string]int{},
		started:    map[string]int{},
		creates:    map[string]int{},
		peak:       map[string]int{},
		ends:       map[string]engine.State{},
		subs:       map[*subscription]struct{}{},
	}
}

// SetInfo replaces what Info answers.
func (f *Fake) SetInfo(info engine.Info) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.info = info
}

// Behave decides what processes started from now on do.
func (f *Fake) Behave(decide func(engine.Spec) Behaviour) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.behave = decide
}

// BehaveExec decides what processes do that Exec runs: run is called by Exec, and returns what it does. Its context ends when the caller's does,
// and when the container's process ends. Without it they exit with 0 at once.
func (f *Fake) BehaveExec(run func(context.Context, engine.Spec, engine.Exec) (int, error)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.execs = run
}

// container is one container; mu of the Fake guards it.
type container struct {
	spec   engine.Spec
	image  *image
	state  engine.State
	does   Behaviour
	gone   chan struct{} // closed when the process ends
	timer  *time.Timer
	endsAt time.Time // when timer fires
	output string
	told   bool // that memory ran out in a group it belongs to
	lost   bool // its process has ended, and the engine did not notice
}

// Info answers what SetInfo gave.
func (f *Fake) Info(ctx context.Context) (engine.Info, error) {
	if err := f.enter(ctx, "Info", ""); err != nil {
		return engine.Info{}, err
	}
	defer f.mu.Unlock()
	return f.info, nil
}

// List returns all containers that are ours; none is Partial.
func (f *Fake) List(ctx context.Context) ([]engine.State, error) {
	if err := f.enter(ctx, "List", ""); err != nil {
		return nil, err
	}
	defer f.mu.Unlock()
	var all []engine.State
	for _, c := range f.containers {
		if ours(c) {
			all = append(all, c.show())
		}
	}
	slices.SortFunc(all, func(a, b engine.State) int { return a.CreatedAt.Compare(b.CreatedAt) })
	return all, nil
}

// Inspect returns one container.
func (f *Fake) Inspect(ctx context.Context, id string) (engine.State, error) {
	if err := f.enter(ctx, "Inspect", id); err != nil {
		return engine.State{}, err
	}
	defer f.mu.Unlock()
	c := f.find(id)
	if c == nil {
		return engine.State{}, noContainer(id)
	}
	return c.show(), nil
}

// Create makes a container.
func (f *Fake) Create(ctx context.Context, spec engine.Spec) (id string, err error) {
	if id, err = f.create(ctx, spec); err == nil {
		err = f.answer(ctx, "Create")
	}
	return id, err
}

func (f *Fake) create(ctx context.Context, spec engine.Spec) (string, error) {
	if err := f.enter(ctx, "Create", spec.Name); err != nil {
		return "", err
	}
	defer f.mu.Unlock()
	if err := f.valid(spec); err != nil {
		return "", err
	}
	for _, c := range f.containers {
		if c.spec.Name != spec.Name {
			continue
		}
		if spec.Labels[engine.LabelTaskArn] == c.state.Labels[engine.LabelTaskArn] {
			return c.state.ID, nil
		}
		return "", fmt.Errorf("the name %s is in use by container %s: %w", spec.Name, c.state.ID, errdefs.ErrAlreadyExists)
	}
	img := f.local(spec.Image)
	if img == nil {
		return "", noImage(spec.Image)
	}
	return f.make(spec, img).state.ID, nil
}

func (f *Fake) valid(spec engine.Spec) error {
	switch {
	case spec.Name == "":
		return fmt.Errorf("a container needs a name: %w", errdefs.ErrInvalidArgument)
	case spec.Labels[engine.LabelTaskArn] == "":
		return fmt.Errorf("container %s has no label %s: %w", spec.Name, engine.LabelTaskArn, errdefs.ErrInvalidArgument)
	}
	for _, m := range spec.Mounts {
		if len(m.Target) == 0 || m.Target[0] != '/' {
			return fmt.Errorf("mount target %q is not an absolute path: %w", m.Target, errdefs.ErrInvalidArgument)
		}
	}
	return nil
}

func (f *Fake) make(spec engine.Spec, img *image) *container {
	f.serial++
	labels := maps.Clone(img.Config.Labels)
	if labels == nil {
		labels = map[string]string{}
	}
	maps.Copy(labels, spec.Config.Labels)
	maps.Copy(labels, spec.Labels)
	mode := spec.HostConfig.NetworkMode
	if mode == "" {
		mode = spec.NetworkMode
	}
	if mode == "" {
		mode = "bridge"
	}
	c := &container{spec: spec, image: img, state: engine.State{
		ID: fmt.Sprintf("%064x", f.serial), Name: spec.Name, Labels: labels, Image: spec.Image, ImageID: img.ID,
		Status: engine.StatusCreated, CreatedAt: f.now(), NetworkMode: mode, Mounts: slices.Clone(spec.Mounts),
	}}
	f.containers[c.state.ID] = c
	for i, m := range spec.Mounts {
		if m.Type == "volume" && m.Source != "" {
			f.keep(engine.EngineVolume{Name: m.Source})
			c.state.Mounts[i].Path = "/volumes/" + m.Source
		}
	}
	f.creates[spec.Name]++
	f.publish(c, "create")
	return c
}

// Start starts a created container.
func (f *Fake) Start(ctx context.Context, id string) error {
	if err := f.start(ctx, "Start", id); err != nil {
		return err
	}
	return f.answer(ctx, "Start")
}

// Restarter is a Fake that is an engine.Restarter too.
type Restarter struct{ *Fake }

// Restart starts a container whose process has ended once more.
func (r Restarter) Restart(ctx context.Context, id string) error { return r.start(ctx, "Restart", id) }

func (f *Fake) start(ctx context.Context, method, id string) error {
	if err := f.enter(ctx, method, id); err != nil {
		return err
	}
	defer f.mu.Unlock()
	c := f.find(id)
	switch {
	case c == nil:
		return noContainer(id)
	case c.state.Status == engine.StatusRunning:
		return nil
	case c.state.Status != engine.StatusCreated && method == "Start":
		return fmt.Errorf("container %s has run already and ended with exit code %d: %w", c.state.Name, c.state.ExitCode, errdefs.ErrFailedPrecondition)
	}
	c.does = f.behave(c.spec)
	if err := c.does.StartError; err != nil {
		c.state.Error, c.state.ExitCode = err.Error(), 128
		return err
	}
	if err := f.joined(c); err != nil {
		c.state.Error, c.state.ExitCode = err.Error(), 128
		return err
	}
	if err := f.bind(c); err != nil {
		c.state.Error, c.state.ExitCode = err.Error(), 128
		return err
	}
	f.run(c)
	return nil
}

// joined refuses a container that wants the namespaces of one that does not run. The mutex is held.
func (f *Fake) joined(c *container) error {
	h := c.spec.HostConfig
	for _, mode := range []string{c.state.NetworkMode, h.PidMode, h.IpcMode} {
		name, joins := strings.CutPrefix(mode, "container:")
		if !joins {
			continue
		}
		if other := f.find(name); other == nil || other.state.Status != engine.StatusRunning {
			return fmt.Errorf("cannot join the namespace of %s, which does not run: %w", name, errdefs.ErrInvalidArgument)
		}
	}
	return nil
}

// run starts the process. The mutex is held.
func (f *Fake) run(c *container) {
	now := f.now()
	f.serial++
	c.state.Status, c.state.Pid, c.state.StartedAt = engine.StatusRunning, 1000+f.serial, now
	c.state.Error, c.state.ExitCode, c.state.OOMKilled, c.state.FinishedAt = "", 0, false, time.Time{}
	c.gone, c.timer = make(chan struct{}), nil
	if c.state.NetworkMode == "bridge" {
		c.state.Addresses = []string{fmt.Sprintf("172.17.%d.%d", f.serial>>8&255, f.serial&255)}
	}
	c.output += c.does.Output
	f.started[c.spec.Name]++
	key := c.state.Labels[engine.LabelTaskArn] + "/" + c.state.Labels[engine.LabelContainerName]
	f.peak[key] = max(f.peak[key], f.running(key))
	f.publish(c, "start")
	if c.hasHealthcheck() {
		c.state.Health = engine.Health{Status: "UNKNOWN", Since: now}
		if c.does.Health != "" {
			c.state.Health.Status, c.state.Health.ExitCode, c.state.Health.Output = c.does.Health, c.does.HealthCode, c.does.HealthText
			f.publish(c, "health")
		}
	}
	if !c.does.Exits {
		return
	}
	code := c.does.ExitCode
	if c.does.OOM {
		code = 137
	}
	if c.does.After == 0 {
		f.end(c, code, c.does.OOM)
		return
	}
	f.endIn(c, c.does.After, code, c.does.OOM)
}

// endIn ends a process after d, unless it ends before that anyway. The mutex is held.
func (f *Fake) endIn(c *container, d time.Duration, code int, oom bool) {
	at := time.Now().Add(d)
	if c.timer != nil {
		if !at.Before(c.endsAt) {
			return
		}
		c.timer.Stop()
	}
	c.endsAt = at
	c.timer = time.AfterFunc(d, func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.end(c, code, oom)
	})
}

func (c *container) hasHealthcheck() bool {
	check := c.spec.Config.Healthcheck
	if check == nil {
		check = c.image.Config.Healthcheck
	}
	return check != nil && len(check.Test) > 0 && check.Test[0] != "NONE"
}

// end is the end of a process. The mutex is held; ending what does not run does nothing.
func (f *Fake) end(c *container, code int, oom bool) {
	if c.state.Status != engine.StatusRunning {
		return
	}
	if c.timer != nil {
		c.timer.Stop()
	}
	if f.deaf {
		c.lost = true
		return
	}
	c.lost = false
	c.state.Status, c.state.ExitCode, c.state.OOMKilled = engine.StatusExited, code, oom || c.told
	c.state.FinishedAt, c.state.Pid, c.state.Ports, c.state.Addresses = f.now(), 0, nil, nil
	f.ends[c.state.Name] = c.show()
	close(c.gone)
	if oom {
		f.publish(c, "oom")
	}
	f.publish(c, "die")
}

// Stop sends the stop signal, waits, kills.
func (f *Fake) Stop(ctx context.Context, id string, grace time.Duration) error {
	if err := f.enter(ctx, "Stop", id); err != nil {
		return err
	}
	c := f.find(id)
	if c == nil || c.state.Status != engine.StatusRunning {
		f.mu.Unlock()
		return nil
	}
	takes, code := c.does.StopAfter, c.does.StopCode
	if code == 0 {
		code = 128 + signalNumber(c.stopSignal())
	}
	if c.does.IgnoreStop || takes > grace {
		takes, code = grace, 137
	}
	if takes == 0 {
		f.end(c, code, false)
		f.mu.Unlock()
		return nil
	}
	// As with a real engine, the stop goes on when the caller leaves.
	f.endIn(c, takes, code, false)
	gone := c.gone
	f.mu.Unlock()
	select {
	case <-gone:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (c *container) stopSignal() string {
	if s := c.spec.Config.StopSignal; s != "" {
		return s
	}
	return c.image.Config.StopSignal
}

func signalNumber(name string) int {
	numbers := map[string]int{"": 15, "SIGTERM": 15, "SIGINT": 2, "SIGQUIT": 3, "SIGKILL": 9, "SIGUSR1": 10, "SIGUSR2": 12, "SIGHUP": 1}
	if n, ok := numbers[name]; ok {
		return n
	}
	return 15
}

// Remove removes a container that does not run.
func (f *Fake) Remove(ctx context.Context, id string) error {
	if err := f.remove(ctx, id); err != nil {
		return err
	}
	return f.answer(ctx, "Remove")
}

func (f *Fake) remove(ctx context.Context, id string) error {
	if err := f.enter(ctx, "Remove", id); err != nil {
		return err
	}
	defer f.mu.Unlock()
	c := f.find(id)
	if c == nil {
		return nil
	}
	if c.state.Status == engine.StatusRunning {
		return fmt.Errorf("container %s is running, stop it first: %w", c.state.Name, errdefs.ErrFailedPrecondition)
	}
	delete(f.containers, c.state.ID)
	f.publish(c, "destroy")
	return nil
}

// Close ends all event streams.
func (f *Fake) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = true
	f.breakStreams()
	return nil
}

// find returns our container by id or name, nil if there is none. The mutex is held.
func (f *Fake) find(id string) *container {
	if c := f.containers[id]; c != nil {
		if ours(c) {
			return c
		}
		return nil
	}
	for _, c := range f.containers {
		if c.spec.Name == id && ours(c) {
			return c
		}
	}
	return nil
}

func ours(c *container) bool { return c.state.Labels[engine.LabelTaskArn] != "" }

// show copies what an observer may keep.
func (c *container) show() engine.State {
	s := c.state
	s.Labels = maps.Clone(s.Labels)
	s.Ports, s.Addresses, s.Mounts = slices.Clone(s.Ports), slices.Clone(s.Addresses), slices.Clone(s.Mounts)
	return s
}

func noContainer(id string) error {
	return fmt.Errorf("no such container: %s: %w", id, errdefs.ErrNotFound)
}

func noImage(ref string) error {
	return fmt.Errorf("no such image: %s: %w", ref, errdefs.ErrNotFound)
}
