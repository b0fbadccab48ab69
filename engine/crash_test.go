package engine_test

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// stepsOfALife is more than a task's start and stop takes.
const stepsOfALife = 40

// lives begins a life that ends after n steps, waits for its end, lets between happen, and begins one that stays.
func (w *world) lives(n int, task func(), between func()) {
	first := newLife(w.fake, w.disk, n)
	w.cfg.Runtime, w.cfg.State = first, first
	w.start()
	task()
	select {
	case <-first.dead:
	case <-time.After(time.Minute):
	}
	w.stop()
	between()
	second := newLife(w.fake, w.disk, -1)
	w.cfg.Runtime, w.cfg.State = second, second
	w.start()
}

func TestACrashAtAnyStepNeitherLosesNorDoublesAContainerOrAChange(t *testing.T) {
	for n := range stepsOfALife {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				defer func() { w.stop() }()
				a := task("a")
				accept := func() { _ = w.engine.Accept(t.Context(), a) }
				w.lives(n, func() { accept(); pass(time.Second); _ = w.engine.Accept(t.Context(), stopOf(a)) }, func() {})
				accept()
				pass(time.Minute)
				w.accept(stopOf(a))
				pass(time.Minute)
				w.want(a.Arn, "PENDING", "RUNNING", "STOPPED")
				name := w.status(a.Arn).Containers[0].RuntimeName
				if w.fake.Creates(name) != 1 || w.fake.Starts(name) != 1 || w.fake.Running() != 0 {
					t.Errorf("made %d times, started %d times, %d run", w.fake.Creates(name), w.fake.Starts(name), w.fake.Running())
				}
			})
		})
	}
}

func TestAContainerThatWasStartedAndIsLostInACrashIsNotMadeAgain(t *testing.T) {
	lost := 0
	for n := range stepsOfALife {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			defer func() { w.stop() }()
			a := task("a")
			ran := false
			w.lives(n, func() { _ = w.engine.Accept(t.Context(), a) }, func() {
				if ran = w.running(a, "app"); ran {
					w.fake.Vanish(w.id(a, "app"))
				}
			})
			pass(time.Minute)
			if !ran {
				return
			}
			lost++
			last := w.disk.last(a.Arn)
			if last.Status != "STOPPED" || !strings.HasPrefix(reasonOf(last, "app"), "ContainerVanishedError") || w.fake.Running() != 0 {
				t.Errorf("crash at step %d: %+v, %d run", n, last, w.fake.Running())
			}
		})
	}
	if lost < 3 {
		t.Errorf("only %d crashes came after the start", lost)
	}
}
