package engine_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"
	"go.uber.org/zap"
	"pgregory.net/rapid"

	"github.com/longshore-project/longshore/engine"
	"github.com/longshore-project/longshore/engine/enginetest"
	"github.com/longshore-project/longshore/protocol/acs"
)

var errKilled = errors.New("this life of the agent is over")

// life is one life of the agent's process. It ends like a SIGKILL: from one instant on, before or after the effect of one
// of its calls, nothing that it does reaches the engine or the disk, and it hears nothing any more.
type life struct {
	engine.Runtime
	disk *disk

	mu   sync.Mutex
	left int // steps until the end; negative: it does not end
	over bool
	dead chan struct{}
}

func newLife(f engine.Runtime, d *disk, steps int) *life {
	return &life{Runtime: f, disk: d, left: steps, dead: make(chan struct{})}
}

// step is an instant at which the life may end.
func (l *life) step() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.left == 0 && !l.over {
		l.over = true
		close(l.dead)
	}
	l.left--
	if l.over {
		return errKilled
	}
	return nil
}

func (l *life) call(ctx context.Context, f func() error) error {
	if l.step() != nil {
		<-ctx.Done()
		return errKilled
	}
	err := f()
	if l.step() != nil {
		<-ctx.Done()
		return errKilled
	}
	return err
}

func (l *life) Create(ctx context.Context, spec engine.Spec) (id string, err error) {
	err = l.call(ctx, func() error { id, err = l.Runtime.Create(ctx, spec); return err })
	return id, err
}
func (l *life) Start(ctx context.Context, id string) error {
	return l.call(ctx, func() error { return l.Runtime.Start(ctx, id) })
}
func (l *life) Restart(ctx context.Context, id string) error {
	return l.call(ctx, func() error { return l.Runtime.(engine.Restarter).Restart(ctx, id) })
}
func (l *life) Stop(ctx context.Context, id string, grace time.Duration) error {
	return l.call(ctx, func() error { return l.Runtime.Stop(ctx, id, grace) })
}
func (l *life) Remove(ctx context.Context, id string) error {
	return l.call(ctx, func() error { return l.Runtime.Remove(ctx, id) })
}
func (l *life) Inspect(ctx context.Context, id string) (st engine.State, err error) {
	err = l.call(ctx, func() error { st, err = l.Runtime.Inspect(ctx, id); return err })
	return st, err
}
func (l *life) List(ctx context.Context) (all []engine.State, err error) {
	err = l.call(ctx, func() error { all, err = l.Runtime.List(ctx); return err })
	return all, err
}
func (l *life) Import(ctx context.Context, ref string, root io.Reader, config engine.ImageConfig) (img engine.Image, err error) {
	err = l.call(ctx, func() error { img, err = l.Runtime.(engine.Importer).Import(ctx, ref, root, config); return err })
	return img, err
}
func (l *life) Logs(context.Context, string, engine.LogOptions, io.Writer) error { return nil }

func (l *life) Save(rec *engine.TaskRecord, changes ...*engine.StateChange) error {
	if l.step() != nil {
		return errKilled
	}
	if err := l.disk.Save(rec, changes...); err != nil {
		return err
	}
	return l.step()
}
func (l *life) Delete(arn string) error {
	if l.step() != nil {
		return errKilled
	}
	if err := l.disk.Delete(arn); err != nil {
		return err
	}
	return l.step()
}
func (l *life) Load() ([]*engine.TaskRecord, error) { return l.disk.Load() }
func (l *life) Unsent(arn string) (bool, error)     { return l.disk.Unsent(arn) }

// joined is an engine that complains of containers that are started for the first time before their task's network was right.
type joined struct {
	enginetest.Restarter
	networks *enginetest.Networks
	complain func(string, ...any)
}

func (j joined) Start(ctx context.Context, id string) error {
	if spec, ok := j.Spec(id); ok {
		arn, name := spec.Labels[engine.LabelTaskArn], spec.Labels[engine.LabelContainerName]
		pause, _ := j.Container(arn, networkPause)
		own := strings.HasPrefix(spec.NetworkMode, "container:")
		if own && !strings.HasPrefix(j.networks.WasRight(arn), pause.ID+" ") {
			j.complain("%s of %s was started before its network was right", name, arn)
		}
	}
	return j.Restarter.Start(ctx, id)
}

// script is everything random about one run, drawn before it begins.
type script struct {
	tasks     []*acs.Task
	behaviour map[string]enginetest.Behaviour
	lives     []int // steps of each life; the last one does not end
	deeds     []deed
	delays    map[string]time.Duration
}

type deed struct {
	after time.Duration
	name  string
	task  int
	index int
}

func draw(t *rapid.T) *script {
	s := &script{behaviour: map[string]enginetest.Behaviour{}, delays: map[string]time.Duration{}}
	conditions := []string{"START", "COMPLETE", "SUCCESS"}
	for i := range rapid.IntRange(1, 3).Draw(t, "tasks") {
		var containers []*acs.Container
		for j := range rapid.IntRange(1, 3).Draw(t, "containers") {
			name := fmt.Sprintf("c%d", j)
			c := container(name)
			c.Essential = j == 0 || rapid.Bool().Draw(t, "essential")
			if j > 0 && rapid.Bool().Draw(t, "depends") {
				dependsOn(fmt.Sprintf("c%d", rapid.IntRange(0, j-1).Draw(t, "on")), rapid.SampledFrom(conditions).Draw(t, "condition"))(c)
			}
			if rapid.IntRange(0, 3).Draw(t, "port") == 0 {
				c.PortMappings = []*acs.PortMapping{{ContainerPort: 80, HostPort: int64(8080 + j)}}
			}
			if rapid.IntRange(0, 3).Draw(t, "restart") == 0 {
				c.RestartPolicy = &acs.RestartPolicy{Enabled: true, RestartAttemptPeriod: 10, IgnoredExitCodes: []int64{1}}
			}
			if rapid.IntRange(0, 9).Draw(t, "image") == 0 {
				c.Image = "gone:1"
			}
			containers = append(containers, c)
			s.behaviour[fmt.Sprintf("%d/%s", i, name)] = enginetest.Behaviour{
				Exits: rapid.Bool().Draw(t, "exits"), After: time.Duration(rapid.IntRange(0, 20).Draw(t, "after")) * time.Second,
				ExitCode: rapid.IntRange(0, 1).Draw(t, "code"), StopAfter: time.Duration(rapid.IntRange(0, 40).Draw(t, "stopAfter")) * time.Second,
			}
			if rapid.IntRange(0, 9).Draw(t, "refused") == 0 {
				s.behaviour[fmt.Sprintf("%d/%s", i, name)] = enginetest.Behaviour{StartError: errors.New("exec format error")}
			}
		}
		x := task(fmt.Sprintf("t%d", i), containers...)
		x.Version = fmt.Sprint(i)
		if rapid.IntRange(0, 2).Draw(t, "awsvpc") == 0 {
			inVPC(x)
			for _, c := range containers {
				c.PortMappings = nil
			}
		}
		s.tasks = append(s.tasks, x)
	}
	for range rapid.IntRange(0, 5).Draw(t, "lives") {
		s.lives = append(s.lives, rapid.IntRange(0, 40).Draw(t, "steps"))
	}
	s.lives = append(s.lives, -1)
	names := []string{"stop", "again", "exit", "vanish", "down", "up", "restart", "drop", "flow", "repeat", "break", "fail", "full", "room", "hang", "mute", "deaf", "heal", "wait", "wait"}
	for range rapid.IntRange(0, 25).Draw(t, "deeds") {
		s.deeds = append(s.deeds, deed{time.Duration(rapid.IntRange(0, 8000).Draw(t, "ms")) * time.Millisecond, rapid.SampledFrom(append(names, "network", "network")).Draw(t, "deed"),
			rapid.IntRange(0, len(s.tasks)-1).Draw(t, "task"), rapid.IntRange(0, 4).Draw(t, "index")})
	}
	for _, m := range []string{"Create", "Start", "Inspect", "List"} {
		s.delays[m] = time.Duration(rapid.IntRange(0, 300).Draw(t, "delay")) * time.Millisecond
	}
	return s
}

// run plays a script and returns what was wrong.
func (s *script) run(t *testing.T) (wrong []string) {
	w := newWorld(t)
	w.cfg.Log, w.cfg.Processes = zap.NewNop(), enginetest.Kernel{Fake: w.fake}
	complain := func(format string, args ...any) { wrong = append(wrong, fmt.Sprintf(format, args...)) }
	w.fake.Behave(func(spec engine.Spec) enginetest.Behaviour {
		return s.behaviour[spec.Labels[engine.LabelVersion]+"/"+spec.Labels[engine.LabelContainerName]]
	})
	for m, d := range s.delays {
		w.fake.Delay(m, d)
	}
	w.disk.before = func(rec *engine.TaskRecord) error {
		for _, c := range rec.Task.Containers {
			if rec.Known == "STOPPED" && w.running(rec.Task, c.Name) {
				complain("%s was reported STOPPED while %s ran", rec.Task.Arn, c.Name)
			}
		}
		return nil
	}
	networks := enginetest.NewNetworks()
	w.cfg.Networks = networks
	lives := s.lives
	var current *life
	begin := func() {
		current = newLife(joined{enginetest.Restarter{Fake: w.fake}, networks, complain}, w.disk, lives[0])
		lives = lives[1:]
		w.images.runtime = w.fake
		w.cfg.Runtime, w.cfg.State = current, current
		w.start()
	}
	begin()
	// tick lets time pass; a life that is over gives way to the next, to which the control plane sends everything again.
	wanted := map[string]string{}
	tick := func(d time.Duration) {
		for end := time.Now().Add(d); time.Now().Before(end); {
			for _, x := range s.tasks {
				if wanted[x.Arn] != "" {
					copied := *x
					copied.DesiredStatus = wanted[x.Arn]
					_ = w.engine.Accept(context.Background(), &copied)
				}
			}
			select {
			case <-time.After(time.Until(end)):
			case <-current.dead:
				w.stop()
				begin()
			}
		}
	}
	for _, x := range s.tasks {
		wanted[x.Arn] = "RUNNING"
	}
	tick(time.Millisecond)
	for _, d := range s.deeds {
		tick(d.after + time.Millisecond)
		x := s.tasks[d.task]
		name := fmt.Sprintf("c%d", d.index)
		switch d.name {
		case "stop":
			wanted[x.Arn] = "STOPPED"
		case "exit":
			w.fake.Exit(w.id(x, name), d.index)
		case "network":
			if networks.Be(nil); d.index%2 == 0 {
				networks.Be(errors.New("ParentDown: eth1 is down"))
			}
		case "vanish":
			if w.running(x, name) {
				w.fake.Vanish(w.id(x, name))
			}
		case "down":
			w.fake.Down()
		case "up":
			w.fake.Up()
		case "restart":
			w.fake.Restart(d.index%2 == 0)
		case "drop", "flow":
			w.fake.DropEvents(d.name == "drop")
		case "repeat":
			w.fake.RepeatEvents(d.index)
		case "break":
			w.fake.BreakEvents()
		case "fail":
			w.fake.Fail([]string{"Create", "Start", "Stop", "Inspect", "List"}[d.index], 2, fmt.Errorf("the engine is away: %w", errdefs.ErrUnavailable))
		case "hang":
			w.fake.Hang([]string{"Create", "Start", "Stop", "Inspect", "Remove"}[d.index])
		case "mute":
			w.fake.Mute([]string{"Create", "Start", "Remove", "Create", "Start"}[d.index])
		case "deaf":
			w.fake.Deaf(d.index > 0)
		case "heal":
			w.fake.Heal([]string{"Create", "Start", "Stop", "Inspect", "Remove"}[d.index])
		case "full":
			w.disk.fail(errors.New("no space left on device"))
		case "room":
			w.disk.fail(nil)
		}
	}
	w.fake.Up()
	w.fake.Heal("")
	w.fake.Deaf(false)
	w.disk.fail(nil)
	for _, x := range s.tasks {
		wanted[x.Arn] = "STOPPED"
	}
	networks.Be(nil)
	tick(30 * time.Minute)
	for len(lives) > 0 { // lives that did not end by themselves do now
		w.stop()
		begin()
		tick(10 * time.Minute)
	}
	w.stop()
	s.judge(w, complain)
	return wrong
}

func (s *script) judge(w *world, complain func(string, ...any)) {
	rank := map[string]int{"PENDING": 0, "RUNNING": 1, "STOPPED": 2}
	for _, x := range s.tasks {
		changes := w.disk.changes(x.Arn)
		if len(changes) == 0 || changes[len(changes)-1].Status != "STOPPED" {
			complain("%s did not come to its end: %v\n%s", x.Arn, w.disk.statuses(x.Arn), w.explain(x.Arn))
			continue
		}
		known := map[string]int{}
		for i, c := range changes {
			if i > 0 {
				before := *changes[i-1]
				if rank[c.Status] < rank[before.Status] || before.Status == "STOPPED" {
					complain("%s went from %s to %s", x.Arn, before.Status, c.Status)
				}
				before.Sequence, before.Time = c.Sequence, c.Time
				if reflect.DeepEqual(&before, c) {
					complain("%s was told twice: %+v", x.Arn, c)
				}
			}
			for _, cc := range c.Containers {
				if rank[cc.Status] < known[cc.Name] {
					complain("container %s of %s went back to %s", cc.Name, x.Arn, cc.Status)
				}
				known[cc.Name] = rank[cc.Status]
				if c.Status == "STOPPED" && cc.Status != "STOPPED" {
					complain("%s is STOPPED and its container %s is %s", x.Arn, cc.Name, cc.Status)
				}
			}
		}
		for _, c := range w.status(x.Arn).Containers {
			if n := w.fake.Creates(c.RuntimeName); n > 1 {
				complain("container %s of %s was made %d times", c.Name, x.Arn, n)
			}
			if n := w.fake.Starts(c.RuntimeName); n > 1+c.Restarts {
				complain("container %s of %s was started %d times, with %d restarts", c.Name, x.Arn, n, c.Restarts)
			}
			if n := w.fake.Peak(x.Arn, c.Name); n > 1 {
				complain("container %s of %s had %d processes at once", c.Name, x.Arn, n)
			}
		}
	}
	if n := w.fake.Running(); n > 0 {
		complain("%d processes are left", n)
	}
}

// Over random tasks, failures, losses and crashes: states move forward only, a container is made and started once, STOPPED
// is said only when every process is gone, every task comes to its end, and nothing is said twice.
func TestTasksKeepTheirPromisesWhateverHappens(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		s := draw(rt)
		var wrong []string
		synctest.Test(t, func(t *testing.T) { wrong = s.run(t) })
		for _, complaint := range wrong {
			rt.Error(complaint)
		}
	})
}
