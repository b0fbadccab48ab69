package watchdog

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestTheWatchdogIsFedAsLongAsEveryLoopGoesRound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		core, logged := observer.New(zap.ErrorLevel)
		fed := 0
		engine, reports := NewPulse("engine", time.Minute), NewPulse("reports", 2*time.Minute)
		done := make(chan struct{})
		go func() {
			defer close(done)
			Run(ctx, 40*time.Second, func() { fed++ }, zap.New(core), engine, reports)
		}()
		beat := func(rounds int, pulses ...*Pulse) (meals int) {
			before := fed
			for range rounds {
				<-time.After(10 * time.Second)
				for _, p := range pulses {
					p.Beat()
				}
			}
			synctest.Wait()
			return fed - before
		}
		if got := beat(30, engine, reports); got < 29 {
			t.Errorf("in 300 s of health it was fed %d times", got)
		}
		if got := beat(30, engine); got < 11 || got > 14 {
			t.Errorf("a loop that hung after two minutes had it fed %d times in 300 s", got)
		}
		if n := logged.FilterMessageSnippet("main loop").Len(); n != 1 || logged.All()[0].ContextMap()["loop"] != "reports" {
			t.Errorf("the log tells it %d times: %v", n, logged.All())
		}
		if got := beat(12, engine, reports); got < 11 {
			t.Errorf("a loop that goes on has it fed again %d times", got)
		}
		cancel()
		<-done
	})
}

func TestWhoIsNotWatchedFeedsNobody(t *testing.T) {
	Run(t.Context(), 0, func() { t.Error("fed") }, zap.NewNop(), NewPulse("engine", 0))
}
