package imagecache

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"go.uber.org/zap"

	"github.com/longshore-project/longshore/protocol/acs"
)

// flight is one pull and everyone who waits for it.
type flight[I any] struct {
	name   name
	auth   *Credentials
	asked  *acs.RegistryAuthentication // where auth came from; nil: the host's, or none
	key    string
	ctx    context.Context
	cancel context.CancelFunc
	claim  *claim // its wish for a place, with the best priority of those who wait
	done   chan struct{}
	img    I     // when done is closed
	err    error // likewise

	mu      sync.Mutex // held while waiters are told something, so that nobody is told after leaving
	waiters map[*Request]struct{}
	last    Progress
}

// join joins the flight for a reference, or begins one, and waits for its end or ctx's.
func (c *Cache[I]) join(ctx context.Context, name name, auth *Credentials, req *Request) (img I, err error) {
	f := c.board(ctx, name, auth, req)
	defer c.leave(f, req)
	select {
	case <-f.done:
		return f.img, f.err
	case <-ctx.Done():
		return img, ctx.Err()
	}
}

func (c *Cache[I]) board(ctx context.Context, name name, auth *Credentials, req *Request) *flight[I] {
	c.mu.Lock()
	defer c.mu.Unlock()
	key := name.normalised + " " + auth.fingerprint()
	f := c.flights[key]
	if f == nil {
		// The flight outlives the request that began it as long as somebody waits.
		fctx, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), c.cfg.Timeout,
			&classed{errdefs.ErrUnavailable, fmt.Sprintf("the pull did not end within %s", c.cfg.Timeout)})
		f = &flight[I]{
			name: name, auth: auth, asked: req.Auth, key: key, ctx: fctx, cancel: cancel, claim: c.places.claim(name.host(), req.Priority),
			done: make(chan struct{}), waiters: map[*Request]struct{}{req: {}},
		}
		c.flights[key] = f
		go c.fly(f)
		return f
	}
	c.places.raise(f.claim, req.Priority)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.waiters[req] = struct{}{}
	req.note("joined the pull of %s that is under way", name.given)
	if f.last.Phase != "" && req.Progress != nil {
		req.Progress(f.last)
	}
	return f
}

// leave takes a request out of a flight; with the last one the flight ends.
func (c *Cache[I]) leave(f *flight[I], req *Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.waiters, req)
	if len(f.waiters) > 0 {
		return
	}
	f.cancel()
	if c.flights[f.key] == f {
		delete(c.flights, f.key)
	}
}

// fly is the goroutine of a flight.
func (c *Cache[I]) fly(f *flight[I]) {
	img, err := c.tries(f)
	c.mu.Lock()
	if c.flights[f.key] == f { // from here on a request begins a new one
		delete(c.flights, f.key)
	}
	c.mu.Unlock()
	f.img, f.err = img, err
	close(f.done)
	f.cancel()
}

// tries pulls until it succeeds or trying again is of no use.
func (c *Cache[I]) tries(f *flight[I]) (img I, err error) {
	began := time.Now()
	log := c.cfg.Log.With(zap.String("step", "pull"), zap.String("image", f.name.given), zap.String("registry", f.name.registry))
	delay := c.cfg.FirstDelay
	c.intend(f.ctx, f.name.key(), f.name.given)
	for try := 1; ; try++ {
		if err := c.takeTurn(f); err != nil {
			return img, c.failure(f, try-1, began, err)
		}
		if try == 1 {
			if err := c.ensureRoom(f, log); err != nil {
				c.places.give(f.claim)
				return img, c.failure(f, 0, began, err)
			}
		}
		log.Info("pulling", f.forWhom(), zap.Int("try", try), zap.String("credentials", f.auth.source()), zap.Duration("waited", time.Since(began)))
		img, err = c.try(f, log)
		c.places.give(f.claim)
		if err == nil {
			id, _ := c.engine.Identity(img)
			c.pulled(f.name.key(), id)
			c.rests.served(f.name.host())
			log.Info("pulled", f.forWhom(), zap.Int("try", try), zap.Duration("duration", time.Since(began)), zap.Stringer("progress", f.progress()))
			return img, nil
		}
		if f.ctx.Err() != nil || final(err) || try >= c.cfg.Tries {
			return img, c.failure(f, try, began, err)
		}
		pause := time.Duration(float64(delay) * (0.8 + 0.4*rand.Float64()))
		delay = min(2*delay, c.cfg.LastDelay)
		if until := c.backOff(f.ctx, f, err); !until.IsZero() {
			if c.cfg.Behaviour == Default && c.isLocal(f) {
				return img, c.failure(f, try, began, err) // it is used instead
			}
			pause = max(pause, time.Until(until))
		}
		c.onFullDisk(f, err, log)
		log.Warn("the pull failed and is tried again", f.forWhom(), zap.Int("try", try), zap.Int("tries", c.cfg.Tries), zap.Duration("after", pause), zap.Error(err))
		f.tell(func(r *Request) {
			r.note("try %d of %d failed, next in %s: %v", try, c.cfg.Tries, pause.Round(time.Millisecond), err)
		})
		if !sleep(f.ctx, pause) {
			return img, c.failure(f, try, began, err)
		}
	}
}

// takeTurn waits until the registry may be asked and there is a place.
func (c *Cache[I]) takeTurn(f *flight[I]) error {
	for {
		if !c.awaitRest(f) {
			return context.Cause(f.ctx)
		}
		if err := c.places.take(f.ctx, f.claim); err != nil {
			return err
		}
		if until, _ := c.rests.until(f.name.host()); until.IsZero() {
			return nil
		}
		c.places.give(f.claim)
	}
}

// isLocal reports whether the engine has an image of the flight's name.
func (c *Cache[I]) isLocal(f *flight[I]) bool {
	_, err := c.engine.Image(f.ctx, f.name.given)
	return err == nil
}

// final reports whether trying again can't help.
func final(err error) bool {
	return errdefs.IsUnauthorized(err) || errdefs.IsPermissionDenied(err) || errdefs.IsNotFound(err) || errdefs.IsInvalidArgument(err) ||
		errdefs.IsNotImplemented(err)
}

// try pulls once, and gives up when nothing moves.
func (c *Cache[I]) try(f *flight[I], log *zap.Logger) (img I, err error) {
	moved, err := c.move(f.ctx, f.name.key())
	if err != nil {
		return img, err
	}
	defer moved()
	ctx, cancel := context.WithCancelCause(f.ctx)
	defer cancel(nil)
	w := newWatch(c.cfg.Inactivity, c.lastMove, func(silent time.Duration) {
		cancel(&classed{errdefs.ErrUnavailable, fmt.Sprintf("no progress for %s (%s)", silent.Round(time.Millisecond), f.progress())})
	})
	defer w.end()
	manifest := time.AfterFunc(c.cfg.Manifest, func() {
		cancel(&classed{errdefs.ErrUnavailable, fmt.Sprintf("the registry has not given the manifest within %s (ECS_MANIFEST_PULL_TIMEOUT)", c.cfg.Manifest)})
	})
	defer manifest.Stop()
	img, err = c.engine.Pull(ctx, f.name.given, f.auth, func(p Progress) {
		c.moves()
		if p.Phase != Resolving {
			manifest.Stop()
		}
		f.report(p)
		if w.move() {
			log.Info("the pull moves", f.forWhom(), zap.Stringer("progress", p))
		}
	})
	if err == nil {
		return img, nil
	}
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.Canceled) {
		return img, cause
	}
	return img, f.auth.redact(err)
}

func (c *Cache[I]) moves() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.moved = time.Now()
}

func (c *Cache[I]) lastMove() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.moved
}

// report remembers a flight's progress and tells everyone who waits.
func (f *flight[I]) report(p Progress) {
	f.tell(func(r *Request) {
		if r.Progress != nil {
			r.Progress(p)
		}
	})
	f.mu.Lock()
	defer f.mu.Unlock()
	f.last = p
}

func (f *flight[I]) tell(say func(*Request)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for r := range f.waiters {
		say(r)
	}
}

// forWhom names the tasks that wait now, as a line in the log does.
func (f *flight[I]) forWhom() zap.Field {
	f.mu.Lock()
	defer f.mu.Unlock()
	var tasks []string
	for r := range f.waiters {
		tasks = append(tasks, r.TaskArn)
	}
	slices.Sort(tasks)
	if tasks = slices.Compact(tasks); len(tasks) == 1 {
		return zap.String("task", tasks[0])
	}
	return zap.Strings("tasks", tasks)
}

func (f *flight[I]) progress() Progress {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.last.Phase == "" {
		return Progress{Phase: "nothing was received"}
	}
	return f.last
}

// watch watches one try for inactivity. An engine downloads few layers at a time, those of all its pulls together, so a
// pull whose turn has not come is as silent as one whose registry is dead. Therefore one that is silent while others move
// has more patience.
type watch struct {
	limit  time.Duration
	others func() time.Time // when any pull last moved

	mu     sync.Mutex
	timer  *time.Timer
	moved  time.Time
	logged time.Time
	over   bool
}

// crowded is how many times the limit a pull may be silent while others move.
const crowded = 5

// newWatch calls expired, once, if the pull is silent for too long.
func newWatch(limit time.Duration, others func() time.Time, expired func(silent time.Duration)) *watch {
	w := &watch{limit: limit, others: others, moved: time.Now(), logged: time.Now()}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.timer = time.AfterFunc(limit, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.over {
			return
		}
		if again := w.patience(); again > 0 {
			w.timer.Reset(again)
			return
		}
		w.over = true
		expired(time.Since(w.moved))
	})
	return w
}

func (w *watch) end() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.over = true
	w.timer.Stop()
}

// move notes progress; it reports whether it is time for a line in the log.
func (w *watch) move() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.moved = time.Now()
	if w.moved.Sub(w.logged) < 10*time.Second {
		return false
	}
	w.logged = w.moved
	return true
}

// patience is how long to wait further; 0 means no longer. The mutex is held.
func (w *watch) patience() time.Duration {
	silent, quiet := time.Since(w.moved), time.Since(w.others())
	switch {
	case silent < w.limit:
		return w.limit - silent
	case quiet < w.limit && silent < crowded*w.limit:
		return min(w.limit-quiet, crowded*w.limit-silent)
	}
	return 0
}

func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
