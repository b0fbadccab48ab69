package enginetest

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"

	"github.com/longshore-project/longshore/engine"
)

// fault is what a test has ordered for calls of one method.
type fault struct {
	err   error
	times int // how often err is still returned; negative: always
	delay time.Duration
	hang  chan struct{} // calls wait until it is closed
	about string        // if not empty, only calls about what it names wait
	mute  bool          // calls do what they are for, and then wait until their context ends
}

// enter counts a call, lets it suffer the ordered faults, and returns with the mutex held unless it returns an error.
func (f *Fake) enter(ctx context.Context, method, about string) error {
	f.mu.Lock()
	f.calls[method]++
	f.total++
	if order := f.faults[method]; order != nil {
		delay, hang := order.delay, order.hang
		if order.about != "" && !strings.Contains(order.about, about) {
			hang = nil
		}
		var err error
		if order.times != 0 {
			order.times--
			err = order.err
		}
		if delay > 0 || hang != nil {
			f.mu.Unlock()
			if werr := wait(ctx, delay, hang); werr != nil {
				return werr
			}
			f.mu.Lock()
		}
		if err != nil {
			f.mu.Unlock()
			return fmt.Errorf("%s %s: %w", method, about, err)
		}
	}
	if err := ctx.Err(); err != nil {
		f.mu.Unlock()
		return err
	}
	if f.down {
		f.mu.Unlock()
		return errDown
	}
	return nil
}

var errDown = fmt.Errorf("cannot connect to the engine, is it running?: %w", errdefs.ErrUnavailable)

func wait(ctx context.Context, delay time.Duration, hang chan struct{}) error {
	if delay > 0 {
		t := time.NewTimer(delay)
		defer t.Stop()
		select {
		case <-t.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if hang == nil {
		return nil
	}
	select {
	case <-hang:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (f *Fake) order(method string) *fault {
	if f.faults[method] == nil {
		f.faults[method] = &fault{}
	}
	return f.faults[method]
}

// Fail makes the next times calls of method (a name of engine.Runtime's: "Create", "Pull" …) return err before they do
// anything; negative times means until Heal. err carries its class: errdefs.ErrUnavailable, fmt.Errorf("…: %w", …).
func (f *Fake) Fail(method string, times int, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	o := f.order(method)
	o.err, o.times = err, times
}

// Delay makes each call of method take d longer, or until its context ends, before it does anything.
func (f *Fake) Delay(method string, d time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.order(method).delay = d
}

// Hang makes each call of method wait until Heal, or until its context ends.
func (f *Fake) Hang(method string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if o := f.order(method); o.hang == nil {
		o.hang = make(chan struct{})
	}
}

// HangFor is Hang for the calls about one container, by its id as the caller gives it.
func (f *Fake) HangFor(method, id string) {
	f.Hang(method)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.order(method).about += id
}

// Mute makes each call of Create, Start or Remove do what it is for and give no answer, until its context ends.
func (f *Fake) Mute(method string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.order(method).mute = true
}

// answer returns when a call may be answered.
func (f *Fake) answer(ctx context.Context, method string) error {
	f.mu.Lock()
	mute := f.faults[method] != nil && f.faults[method].mute
	f.mu.Unlock()
	if mute {
		<-ctx.Done()
	}
	return ctx.Err()
}

// Heal takes back what Fail, Delay, Hang, HangFor and Mute ordered for method; for all methods if it is empty.
func (f *Fake) Heal(method string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for m, o := range f.faults {
		if method != "" && m != method {
			continue
		}
		if o.hang != nil {
			close(o.hang)
		}
		delete(f.faults, m)
	}
}

// Down makes the engine unreachable: every call is Unavailable and event streams break. Containers run on (as with
// Docker's live restore) unless KillAll is called.
func (f *Fake) Down() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.down = true
	f.breakStreams()
}

// Up makes it reachable again.
func (f *Fake) Up() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.down = false
}

// Restart breaks all event streams and, without live restore, kills all processes (exit code 137, no events).
func (f *Fake) Restart(liveRestore bool) {
	f.Down()
	if !liveRestore {
		f.KillAll()
	}
	f.Up()
}

// KillAll ends every process with exit code 137.
func (f *Fake) KillAll() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range f.containers {
		f.end(c, 137, false)
	}
}

// Exit ends the process of a container, named by id or name, with code. It reports whether one was running.
func (f *Fake) Exit(id string, code int) bool { return f.finish(id, code, false) }

// OOM ends the process of a container as the kernel does when memory is exhausted.
func (f *Fake) OOM(id string) bool { return f.finish(id, 137, true) }

// TellOOM makes the engine say of a running container that memory ran out, as it does with control groups v1 when that
// happened to another container of its task: with an event now, and in the container's state once it has ended.
func (f *Fake) TellOOM(id string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if c := f.find(id); c != nil && c.state.Status == engine.StatusRunning {
		c.told = true
		f.publish(c, "oom")
	}
}

func (f *Fake) finish(id string, code int, oom bool) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	c := f.find(id)
	if c == nil || c.state.Status != engine.StatusRunning {
		return false
	}
	f.end(c, code, oom)
	return true
}

// Vanish removes a container behind the agent's back, its process included, with an event only if events flow.
func (f *Fake) Vanish(id string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	c := f.find(id)
	if c == nil {
		return
	}
	f.end(c, 137, false)
	delete(f.containers, c.state.ID)
	f.publish(c, "destroy")
}

// SetHealth changes the health of a running container: HEALTHY, UNHEALTHY or UNKNOWN.
func (f *Fake) SetHealth(id, status string, exitCode int, output string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	c := f.find(id)
	if c == nil {
		return
	}
	c.state.Health = engine.Health{Status: status, Since: f.now(), ExitCode: exitCode, Output: output}
	f.publish(c, "health")
}

// Write appends to the output of a container.
func (f *Fake) Write(id, output string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if c := f.find(id); c != nil {
		c.output += output
	}
}

// AddForeign makes a running container that is not ours, and returns its id.
func (f *Fake) AddForeign(name string) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	c := f.make(engine.Spec{Name: name, Image: "foreign"}, &image{})
	f.run(c)
	return c.state.ID
}

// Foreign reports whether the foreign container id still exists and runs.
func (f *Fake) Foreign(id string) (exists, running bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	c := f.containers[id]
	return c != nil, c != nil && c.state.Status == engine.StatusRunning
}

// Container returns the newest container of a task by its name in the task definition; false if there is none.
func (f *Fake) Container(taskArn, name string) (engine.State, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var newest *container
	for _, c := range f.containers {
		if c.state.Labels[engine.LabelTaskArn] == taskArn && c.state.Labels[engine.LabelContainerName] == name &&
			(newest == nil || c.state.ID > newest.state.ID) {
			newest = c
		}
	}
	if newest == nil {
		return engine.State{}, false
	}
	return newest.show(), true
}

// Spec returns the Spec that a container was created with.
func (f *Fake) Spec(id string) (engine.Spec, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	c := f.find(id)
	if c == nil {
		return engine.Spec{}, false
	}
	return c.spec, true
}

// Volumes returns the named volumes that exist.
func (f *Fake) Volumes() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Sorted(maps.Keys(f.volumes))
}

// Calls counts the calls of a method, failed ones included; of all methods if it is empty.
func (f *Fake) Calls(method string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	if method == "" {
		return f.total
	}
	return f.calls[method]
}

// Creates counts the containers that were made under a name; more than one only if one was removed in between.
func (f *Fake) Creates(name string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.creates[name]
}

// Starts counts the processes that were started in containers of a name.
func (f *Fake) Starts(name string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.started[name]
}

// Names returns the names of all containers that were ever made.
func (f *Fake) Names() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Sorted(maps.Keys(f.creates))
}

// Ended returns a container as it was when its last process ended, also after its removal; false if none did.
func (f *Fake) Ended(name string) (engine.State, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	st, ok := f.ends[name]
	return st, ok
}

// Peak is how many processes of one container of a task ran at the same time at most, whatever the containers' names;
// more than 1 means that something was started twice.
func (f *Fake) Peak(taskArn, name string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.peak[taskArn+"/"+name]
}

// Running counts the processes of our containers.
func (f *Fake) Running() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.running("")
}

func (f *Fake) running(key string) int {
	n := 0
	for _, c := range f.containers {
		if c.state.Status == engine.StatusRunning && !c.lost && ours(c) &&
			(key == "" || key == c.state.Labels[engine.LabelTaskArn]+"/"+c.state.Labels[engine.LabelContainerName]) {
			n++
		}
	}
	return n
}

// DropEvents makes events get lost from now on, or not any more.
func (f *Fake) DropEvents(drop bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.dropEvents = drop
}

// RepeatEvents makes each event arrive n times more.
func (f *Fake) RepeatEvents(n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.repeat = n
}

// ShuffleEvents makes events that wait together arrive in any order, or not any more.
func (f *Fake) ShuffleEvents(shuffle bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.shuffle = shuffle
}

// Skew makes the engine's clock go ahead of the machine's by d, or behind it; what it has noted stays as it is.
func (f *Fake) Skew(d time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.skew = d
}

// now is the time of the engine's clock. The mutex is held.
func (f *Fake) now() time.Time { return time.Now().Add(f.skew) }

// BreakEvents ends all event streams with an error, as a lost connection does.
func (f *Fake) BreakEvents() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.breakStreams()
}

// Streams counts the event streams that stand.
func (f *Fake) Streams() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.subs)
}
