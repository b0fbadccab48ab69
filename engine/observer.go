package engine

import (
	"context"
	"fmt"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/longshore-project/longshore/internal/remedy"
)

// observer looks at the container engine for all tasks together: one list per interval, whenever the event stream stands
// anew, and whenever a call did not get an answer. It hands each worker the part that is its own.
type observer struct {
	e       *Engine
	prodded chan struct{} // look now

	mu     sync.Mutex
	state  EngineObserved
	latest Info
	known  bool // Info was answered since the engine came up
}

const (
	leastRetry = 250 * time.Millisecond // between looks at an engine that does not answer
	mostRetry  = 5 * time.Second
)

// suspect asks for a look now.
func (o *observer) suspect() {
	select {
	case o.prodded <- struct{}{}:
	default:
	}
}

func (o *observer) info() Info {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.latest
}

func (o *observer) now() EngineObserved {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.state
}

// run looks until ctx ends.
func (o *observer) run(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	failures := 0
	for {
		prodded := false
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-o.prodded:
			prodded = true
		}
		next := o.e.cfg.RelistInterval
		err := o.look(ctx)
		if o.e.cfg.Looked != nil {
			o.e.cfg.Looked()
		}
		if err != nil {
			if ctx.Err() != nil {
				return
			}
			if !prodded || failures == 0 {
				failures++
			}
			next = min(leastRetry<<min(failures-1, 10), mostRetry)
		} else {
			failures = 0
		}
		timer.Reset(next)
	}
}

// look lists once and hands everyone their part.
func (o *observer) look(ctx context.Context) error {
	limited, cancel := context.WithTimeout(ctx, o.e.cfg.ListTimeout)
	defer cancel()
	began := time.Now()
	states, err := o.ask(limited)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	o.mu.Lock()
	was := o.state
	if err != nil {
		o.state.Available, o.state.Cause, o.known = false, cause(err, time.Since(began)), false
		o.state.Away = was.Away.begin(began, !isDeadline(err), o.latest)
	} else {
		o.state = EngineObserved{Available: true, LookedAt: began, Away: was.Away.end(time.Now()), SharedOOM: o.latest.CgroupVersion == 1 && o.e.cfg.Groups != nil}
	}
	is := o.state
	o.mu.Unlock()
	o.e.health.engine(is)
	switch {
	case err != nil && (was.Available || was.Cause == ""):
		o.e.cfg.Log.Error("the container engine does not answer; running containers are not affected, and tasks wait until it does", zap.String("step", stepEngine), zap.Error(err),
			zap.String("remedy", remedy.Of("the container engine does not answer").Do))
	case err == nil && !was.Available:
		i := o.info()
		o.e.cfg.Log.Info("the container engine answers", zap.String("engine", i.Name), zap.String("version", i.Version), zap.Int("containers", len(states)))
	}
	o.e.handOut(ctx, is, states, err == nil)
	return err
}

func (o *observer) ask(ctx context.Context) ([]State, error) {
	if err := reach(ctx, o.e.cfg.Runtime); err != nil {
		return nil, err
	}
	if o.mu.Lock(); !o.known {
		o.mu.Unlock()
		info, err := o.e.cfg.Runtime.Info(ctx)
		if err != nil {
			return nil, err
		}
		o.mu.Lock()
		o.latest, o.known = info, true
	}
	o.mu.Unlock()
	return o.e.cfg.Runtime.List(ctx)
}

func cause(err error, after time.Duration) string {
	if isDeadline(err) {
		return fmt.Sprintf("it gave no answer within %s: %v", after.Round(time.Millisecond), err)
	}
	return err.Error()
}

// hear passes events on to the workers until ctx ends, and subscribes again when the stream breaks.
func (o *observer) hear(ctx context.Context) {
	wait := leastRetry
	for {
		err := o.e.cfg.Runtime.Events(ctx, func() {
			wait = leastRetry
			o.suspect() // what happened before the subscription stood is in the next list
		}, o.e.event)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			o.e.cfg.Log.Warn("the engine's event stream broke; changes are seen at the next look until it stands again", zap.Error(err), zap.Duration("next try", wait))
		}
		o.suspect()
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return
		}
		wait = min(2*wait, mostRetry)
	}
}

// health joins what can impair the engine.
type health struct {
	changed func() // may be nil

	mu     sync.Mutex
	causes map[string]string // by source
	since  time.Time
}

// set notes what a source says, and tells when something impairs the engine that did not before, or no longer does.
func (h *health) set(source, cause string) {
	if h.put(source, cause) && h.changed != nil {
		h.changed()
	}
}

func (h *health) put(source, cause string) (other bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	was, known := len(h.causes) > 0, h.causes[source] != ""
	if h.causes == nil {
		h.causes, h.since = map[string]string{}, time.Now()
	}
	if cause == "" {
		delete(h.causes, source)
	} else {
		h.causes[source] = cause
	}
	if is := len(h.causes) > 0; is != was {
		h.since = time.Now()
	}
	return known != (cause != "")
}

func (h *health) engine(s EngineObserved) {
	if s.Available {
		h.set("engine", "")
		return
	}
	h.set("engine", "the container engine does not answer"+because(s.Cause))
}

func (h *health) saved(err error) {
	if err == nil {
		h.set("state", "")
		return
	}
	h.set("state", "the agent's state can't be written: "+err.Error())
}

func (h *health) get() EngineHealth {
	h.mu.Lock()
	defer h.mu.Unlock()
	e := EngineHealth{Impaired: len(h.causes) > 0, Since: h.since}
	for _, k := range sortedKeys(h.causes) {
		e.Causes = append(e.Causes, h.causes[k])
	}
	return e
}
