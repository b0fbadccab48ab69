package netns

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
)

// Keeper keeps the networks of many tasks as they should be. Each task has a goroutine, which looks when something of it is changed,
// when the kernel tells of something that concerns it, and every so often without that; so looks at one task follow each
// other and those at different ones don't wait for each other.
type Keeper struct {
	Host Host
	Log  *zap.Logger
	// Looked is called after each look that changed something or whose outcome differs from the last one's, and after the first
	// that follows a Want: changed is what it made right, and err is nil when all is as it should be now. It is called from the
	// task's goroutine, and must not call back.
	Looked func(id string, changed []string, err error)
	// Interval is how often tasks are looked at without any event; 0: every 30 s. One with a fault is looked at 15 times as often.
	Interval time.Duration

	mu      sync.Mutex
	running context.Context // nil: Keep does not run
	tasks   map[string]*kept
}

// kept is a task that is looked after.
type kept struct {
	mu   sync.Mutex
	task Task

	now       chan struct{} // something else is wanted
	hints     chan struct{} // the kernel has told something
	end       context.CancelFunc
	ended     chan struct{}
	namespace atomic.Int32 // its id, see events.go
}

const (
	retries = 15 // looks at a fault in an interval
	// Whether somebody else has taken an address that is in use is asked every so many looks: each is a broadcast.
	asking = 20
)

// Keep runs until ctx ends; what is on the host then stays.
func (k *Keeper) Keep(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var listening sync.WaitGroup
	for _, s := range k.sources() {
		listening.Go(func() {
			if err := s.listen(ctx, k.Host); err != nil {
				k.Log.Warn("The kernel's events about tasks' networks can't be heard; they are looked at from time to time instead", zap.Duration("interval", k.interval()), zap.Error(err))
			}
		})
	}
	k.mu.Lock()
	k.running = ctx
	for id, t := range k.tasks {
		k.start(id, t)
	}
	k.mu.Unlock()
	<-ctx.Done()

	k.mu.Lock()
	k.running = nil
	left := make([]*kept, 0, len(k.tasks))
	for _, t := range k.tasks {
		left = append(left, t)
	}
	k.mu.Unlock()
	for _, t := range left {
		<-t.ended
	}
	listening.Wait()
	return ctx.Err()
}

func (k *Keeper) interval() time.Duration {
	if k.Interval == 0 {
		return lookInterval
	}
	return k.Interval
}

// Want says what the network of t.ID should be from now on, and has it looked at once. It does not wait. It may be called before
// [Keeper.Keep].
func (k *Keeper) Want(t Task) {
	k.mu.Lock()
	defer k.mu.Unlock()
	now := k.tasks[t.ID]
	if now == nil {
		now = &kept{now: make(chan struct{}, 1), hints: make(chan struct{}, 1)}
		now.namespace.Store(noNamespace)
		if k.tasks == nil {
			k.tasks = map[string]*kept{}
		}
		k.tasks[t.ID] = now
		now.set(t)
		if k.running != nil {
			k.start(t.ID, now)
		}
		return
	}
	now.set(t)
	poke(now.now)
}

func (t *kept) set(task Task) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.task = task
}

func (t *kept) get() Task {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.task
}

// poke fills a channel of one place.
func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Forget ends the looking after a task, and returns when the last look has ended: nothing of it is made after that.
func (k *Keeper) Forget(id string) {
	k.mu.Lock()
	t := k.tasks[id]
	delete(k.tasks, id)
	k.mu.Unlock()
	if t != nil && t.end != nil {
		t.end()
		<-t.ended
	}
}

// start starts the task's goroutine.
func (k *Keeper) start(id string, t *kept) {
	ctx, end := context.WithCancel(k.running)
	t.end, t.ended = end, make(chan struct{})
	go func() {
		defer close(t.ended)
		defer end()
		k.look(ctx, id, t)
	}()
}

// look looks at one task until ctx ends.
func (k *Keeper) look(ctx context.Context, id string, t *kept) {
	var last error
	tell := true
	for n := 1; ; n++ {
		task := t.get()
		changed, err := k.Host.look(ctx, task, &t.namespace, n%asking == 0 || errors.Is(last, &Fault{Kind: AddressConflict}))
		if ctx.Err() != nil {
			return
		}
		if tell || len(changed) > 0 || !sameText(err, last) {
			k.tell(id, changed, err, last)
		}
		last = err
		var alive bool
		if tell, alive = k.pause(ctx, t, err); !alive {
			return
		}
	}
}

// pause waits for the next look at a task: wanted says that it is because something is wanted.
func (k *Keeper) pause(ctx context.Context, t *kept, err error) (wanted, alive bool) {
	wait := k.interval()
	if err != nil {
		wait /= retries
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	hints := t.hints
	for {
		select {
		case <-ctx.Done():
			return false, false
		case <-t.now:
			return true, true
		case <-timer.C:
			return false, true
		case <-hints: // more of them come at once, and are looked at together
			hints = nil
			timer.Reset(settleTime)
		}
	}
}

func (k *Keeper) tell(id string, changed []string, err, last error) {
	log := k.Log.With(zap.String("task", id))
	switch {
	case err != nil && !sameText(err, last):
		log.Warn("The task's network is not as it should be; it is looked at again and again", zap.Strings("changed", changed), zap.Error(err))
	case err == nil && (last != nil || len(changed) > 0):
		log.Info("The task's network is as it should be", zap.Strings("changed", changed))
	}
	if k.Looked != nil {
		k.Looked(id, changed, err)
	}
}

func sameText(a, b error) bool {
	return (a == nil) == (b == nil) && (a == nil || a.Error() == b.Error())
}
