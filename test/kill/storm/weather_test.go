package storm

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"go.etcd.io/bbolt"
	"go.uber.org/zap"

	"github.com/longshore-project/longshore/agent"
	"github.com/longshore-project/longshore/engine"
	"github.com/longshore-project/longshore/statemgr"
)

// season is which weather a world has.
type season struct {
	name    string
	gusts   []func(w *world) // while the agent lives
	between []func(w *world) error
}

var submissions = []func(*world){
	func(w *world) { w.plane.trouble(w.random.IntN(40), w.random.IntN(40)) },
	func(w *world) { w.plane.trouble(0, 0) },
	(*world).dropSocket,
	func(w *world) { w.plane.list() },
}

var engines = []func(*world){
	(*world).hang, (*world).hang, (*world).slow, (*world).fail, (*world).down, (*world).restart,
	(*world).events, (*world).events, (*world).exit, (*world).vanish,
}

var seasons = []season{
	{name: "calm"},
	{name: "control plane", gusts: submissions},
	{name: "engine", gusts: slices.Concat(submissions, engines)},
	{name: "late engine", gusts: slices.Concat([]func(*world){func(w *world) { w.late.Store(true) }}, engines)},
	{name: "disk", gusts: slices.Concat(submissions, []func(*world){(*world).full, (*world).full})},
	{name: "clock", gusts: []func(*world){(*world).jump, (*world).exit}, between: []func(*world) error{(*world).shift}},
	{name: "reboot", gusts: submissions, between: []func(*world) error{(*world).reboot}},
	{name: "state", gusts: submissions, between: []func(*world) error{(*world).damage, (*world).newer}},
}

// blow makes the weather of an instant, now and then.
func (w *world) blow() {
	if len(w.undo) > 0 && w.random.IntN(3) == 0 {
		w.undo[0]()
		w.undo = w.undo[1:]
	}
	if len(w.season.gusts) > 0 && w.random.IntN(4) == 0 {
		w.season.gusts[w.random.IntN(len(w.season.gusts))](w)
	}
}

// rest is what may happen between two lives.
func (w *world) rest() error {
	if len(w.season.between) == 0 || w.random.IntN(8) != 0 {
		return nil
	}
	return w.season.between[w.random.IntN(len(w.season.between))](w)
}

// clear ends all weather.
func (w *world) clear() {
	for _, undo := range w.undo {
		undo()
	}
	w.undo = nil
	w.late.Store(false)
	w.plane.trouble(0, 0)
	w.fake.Heal("")
	w.fake.Up()
	w.fake.DropEvents(false)
	w.fake.RepeatEvents(0)
	w.fake.ShuffleEvents(false)
	w.judge.excuse()
}

func (w *world) dropSocket() { w.plane.drop() }

var methods = []string{"Create", "Start", "Stop", "Inspect", "List", "Remove", "Info", "Pull", "Logs", "Events"}

func (w *world) method() string { return methods[w.random.IntN(len(methods))] }

func (w *world) hang() {
	m := w.method()
	w.judge.hits("") // what runs into a deadline fails, by name
	w.fake.Hang(m)
	w.undo = append(w.undo, func() { w.fake.Heal(m) })
}

func (w *world) slow() {
	m := w.method()
	w.fake.Delay(m, millis(w.random, 100))
	w.undo = append(w.undo, func() { w.fake.Heal(m) })
}

func (w *world) fail() {
	err := fmt.Errorf("the engine is away: %w", errdefs.ErrUnavailable)
	if w.random.IntN(2) == 0 {
		err = errors.New("the engine has a trouble of its own")
	}
	w.judge.hits("")
	w.fake.Fail(w.method(), 1+w.random.IntN(3), err)
}

func (w *world) down() {
	w.judge.hits("")
	w.fake.Down()
	w.undo = append(w.undo, w.fake.Up)
}

func (w *world) restart() {
	live := w.random.IntN(2) == 0
	w.judge.hits("")
	w.killed = w.killed || !live
	w.fake.Restart(live)
}

func (w *world) events() {
	switch w.random.IntN(4) {
	case 0:
		w.fake.DropEvents(true)
		w.undo = append(w.undo, func() { w.fake.DropEvents(false) })
	case 1:
		w.fake.RepeatEvents(w.random.IntN(3))
	case 2:
		w.fake.ShuffleEvents(w.random.IntN(2) == 0)
	default:
		w.fake.BreakEvents()
	}
}

// somebody is a container that runs.
func (w *world) somebody() (engine.State, bool) {
	open := w.judge.open()
	if len(open) == 0 {
		return engine.State{}, false
	}
	j := open[w.random.IntN(len(open))]
	st, ok := w.fake.Container(j.Arn, j.Containers[w.random.IntN(len(j.Containers))].Name)
	return st, ok && st.Status == engine.StatusRunning
}

func (w *world) exit() {
	st, ok := w.somebody()
	if !ok {
		return
	}
	w.judge.hits(st.Labels[engine.LabelTaskArn])
	if w.random.IntN(4) == 0 {
		w.fake.OOM(st.ID)
		return
	}
	w.fake.Exit(st.ID, w.random.IntN(3))
}

func (w *world) vanish() {
	st, ok := w.somebody()
	if !ok {
		return
	}
	w.judge.hits(st.Labels[engine.LabelTaskArn])
	w.judge.mu.Lock()
	w.judge.vanished[st.Name] = true
	w.judge.mu.Unlock()
	w.fake.Vanish(st.ID)
}

// full fills the file system of the state once the host is registered: what has no identity can't do without a disk.
func (w *world) full() {
	if _, err := os.Stat(filepath.Join(w.data(), statemgr.IdentityName)); err != nil {
		return
	}
	ballast := filepath.Join(w.data(), "ballast")
	f, err := os.OpenFile(ballast, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return
	}
	defer func() { _ = f.Close() }()
	chunk := make([]byte, 64<<10)
	for err == nil {
		_, err = f.Write(chunk)
	}
	w.judge.excuse()
	w.undo = append(w.undo, func() {
		w.judge.excuse()
		_ = os.Remove(ballast)
	})
}

// jump sets the engine's clock, forward or back.
func (w *world) jump() {
	w.fake.Skew(time.Duration(w.random.IntN(7200)-3600) * time.Second)
}

// shift makes the times that the agent has on record its own clock's of long ago, or of times to come: its clock was set while
// it was away. What it has from the engine is the engine's clock's.
func (w *world) shift() error {
	by := time.Duration(w.random.IntN(7200)-3600) * time.Second
	db, _, err := statemgr.Open(w.data())
	if err != nil {
		return err
	}
	defer func() { _ = db.Close() }()
	state, err := agent.NewState(db, zap.NewNop())
	if err != nil {
		return err
	}
	records, err := state.Load()
	if err != nil {
		return err
	}
	w.counts.note("clock of the agent set")
	for _, rec := range records {
		for _, at := range []*time.Time{&rec.AcceptedAt, &rec.StoppedAt, &rec.CleanedAt, &rec.PullStartedAt, &rec.PullStoppedAt} {
			if !at.IsZero() {
				*at = at.Add(by)
			}
		}
		for _, cr := range rec.Containers {
			if cr.Intent != nil {
				cr.Intent.At = cr.Intent.At.Add(by)
			}
		}
		if err := state.Save(rec); err != nil {
			return err
		}
	}
	return nil
}

// reboot ends every process, and is another boot of the host.
func (w *world) reboot() error {
	w.killed = true
	w.fake.DropEvents(true)
	w.fake.KillAll()
	w.fake.DropEvents(false)
	w.judge.hits("")
	w.judge.mu.Lock()
	w.judge.reboots++
	boot := fmt.Sprintf("boot-%d\n", w.judge.reboots)
	w.judge.mu.Unlock()
	w.counts.note("reboot")
	return os.WriteFile(filepath.Join(w.root(), "proc/sys/kernel/random/boot_id"), []byte(boot), 0o600)
}

// damage makes the state file unreadable, or takes it away.
func (w *world) damage() error {
	path := filepath.Join(w.data(), statemgr.DatabaseName)
	info, err := os.Stat(path)
	if err != nil || info.Size() < 16<<10 {
		return nil //nolint:nilerr // there is nothing to damage yet
	}
	switch kind := w.random.IntN(3); kind {
	case 0:
		w.counts.note("state file truncated")
		err = os.Truncate(path, w.random.Int64N(info.Size()/2))
	case 1:
		w.counts.note("state file overwritten")
		err = scribble(path, w.random.Int64N(2), info.Size())
	default:
		w.counts.note("state file gone")
		err = os.Remove(path)
	}
	w.judge.mu.Lock()
	w.judge.amnesia++
	w.judge.excuses++
	w.judge.mu.Unlock()
	w.plane.forgetful()
	return err
}

// scribble overwrites every second page.
func scribble(path string, first, size int64) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	noise := make([]byte, 4096)
	_, _ = rand.Read(noise)
	for at := first * 4096; at < size && err == nil; at += 8192 {
		_, err = f.WriteAt(noise, at)
	}
	return errors.Join(err, f.Close())
}

// newer makes the state file one of a newer version, which the agent must refuse by name and leave alone, and takes that back.
func (w *world) newer() error {
	if _, err := os.Stat(filepath.Join(w.data(), statemgr.DatabaseName)); err != nil {
		return nil //nolint:nilerr // there is none yet
	}
	if err := w.setVersion(fmt.Sprint(statemgr.Version + 1)); err != nil {
		return nil //nolint:nilerr // it was damaged before and not looked at since
	}
	if err := w.start(); err != nil {
		return err
	}
	select {
	case <-w.agent.ended:
	case <-time.After(patience):
		return errors.New("the agent started on a state file of a newer version")
	}
	code := w.agent.cmd.ProcessState.ExitCode()
	w.agent = nil
	if out := w.tail("agent.err"); code != 5 || !strings.Contains(out, "has version 2, and this agent knows versions up to 1") {
		return fmt.Errorf("on a state file of a newer version it ended with code %d: %s", code, out)
	}
	w.counts.note("state file of a newer version")
	return w.setVersion(fmt.Sprint(statemgr.Version))
}

func (w *world) setVersion(v string) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%v", r)
		}
	}()
	db, err := bbolt.Open(filepath.Join(w.data(), statemgr.DatabaseName), 0o600, &bbolt.Options{Timeout: time.Second})
	if err != nil {
		return err
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		b := tx.Bucket([]byte("longshore"))
		if b == nil {
			return errors.New("it has no version yet")
		}
		return b.Put([]byte("version"), []byte(v))
	})
	return errors.Join(err, db.Close())
}
