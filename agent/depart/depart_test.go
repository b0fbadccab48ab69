package depart

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"go.uber.org/zap"
	"pgregory.net/rapid"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// host is one whose tasks stop as long after they are asked to as they take, in the time of a test.
type host struct {
	mu      sync.Mutex
	tasks   []*played
	stopped []string // in their order
	parked  []string
	tells   int
	failing int // so many times the control plane can't be told
	away    bool
}

type played struct {
	Task
	takes time.Duration
	end   time.Time
}

func (h *host) list() []Task {
	h.mu.Lock()
	defer h.mu.Unlock()
	var out []Task
	for _, p := range h.tasks {
		if p.Stopping && !p.Stopped && !time.Now().Before(p.end) {
			p.Stopped = true
			h.stopped = append(h.stopped, p.Arn)
		}
		out = append(out, p.Task)
	}
	return out
}

func (h *host) ask(arn string, park bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, p := range h.tasks {
		if p.Arn == arn && !p.Stopping {
			p.Stopping, p.end = true, time.Now().Add(p.takes)
			if park {
				h.parked = append(h.parked, arn)
			}
		}
	}
}

func (h *host) departure() *Departure {
	return New(Config{
		Log: zap.NewNop(), Tasks: h.list, Sent: func() bool { return true }, Connected: func() bool { return !h.away },
		Stop: func(_ context.Context, arn string) error { h.ask(arn, false); return nil }, Park: func(arn string) { h.ask(arn, true) },
		Tell: func(context.Context, Notice) error {
			h.mu.Lock()
			defer h.mu.Unlock()
			if h.tells++; h.tells <= h.failing {
				return errors.New("nobody answers")
			}
			return nil
		},
	})
}

func task(arn string, daemon bool, takes time.Duration) *played {
	return &played{Task: Task{Arn: arn, Daemon: daemon, Resumes: true, Grace: 10 * time.Second}, takes: takes}
}

func TestAtAShutdownDaemonsStopWhenEverythingElseHasAndAreParked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &host{tasks: []*played{task("daemon", true, time.Second), task("replica", false, 5*time.Second), task("alone", false, 2*time.Second)}}
		if err := h.departure().Depart(t.Context(), Notice{Kind: Shutdown, Deadline: time.Now().Add(90 * time.Second)}); err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(h.stopped, " "); got != "alone replica daemon" || len(h.parked) != 1 || h.tells != 1 {
			t.Errorf("stopped %s, parked %v, told %d times", got, h.parked, h.tells)
		}
	})
}

func TestTheOrderGivesWayToTheLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &host{tasks: []*played{task("daemon", true, 9*time.Second), task("deaf", false, time.Hour)}}
		begun := time.Now()
		err := h.departure().Depart(t.Context(), Notice{Kind: Shutdown, Deadline: begun.Add(30 * time.Second)})
		if err == nil || !strings.Contains(err.Error(), "1 tasks still have processes: deaf") || strings.Join(h.stopped, " ") != "daemon" {
			t.Errorf("%v; stopped %v", err, h.stopped)
		}
		if took := time.Since(begun); took < 30*time.Second || took > 31*time.Second {
			t.Errorf("it took %s", took)
		}
	})
}

func TestAControlPlaneThatIsAwayHoldsNothingUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &host{away: true, failing: 1000, tasks: []*played{task("replica", false, time.Second)}}
		begun := time.Now()
		if err := h.departure().Depart(t.Context(), Notice{Kind: Shutdown, Deadline: begun.Add(time.Minute)}); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(begun); took > 2*time.Second || len(h.stopped) != 1 {
			t.Errorf("it took %s, stopped %v", took, h.stopped)
		}
	})
}

func TestBeforeAnInterruptionTheControlPlaneHasItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &host{tasks: []*played{task("daemon", true, time.Second), task("replica", false, time.Second)}}
		begun := time.Now()
		go func() {
			_ = h.departure().Depart(t.Context(), Notice{Kind: Interruption, Deadline: begun.Add(2 * time.Minute)})
		}()
		<-time.After(90 * time.Second)
		synctest.Wait()
		if h.list()[1].Stopping {
			t.Error("the replica was asked to stop although the control plane has time to replace it")
		}
		<-time.After(30 * time.Second)
		synctest.Wait()
		if h.list(); strings.Join(h.stopped, " ") != "replica daemon" || len(h.parked) != 0 {
			t.Errorf("stopped %v, parked %v", h.stopped, h.parked)
		}
	})
}

func TestARebalanceStopsNothingAndIsToldUntilItIsHeard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &host{failing: 3, tasks: []*played{task("replica", false, time.Second)}}
		if err := h.departure().Depart(t.Context(), Notice{Kind: Rebalance}); err != nil {
			t.Fatal(err)
		}
		if h.tells != 4 || h.list()[0].Stopping {
			t.Errorf("told %d times, %+v", h.tells, h.list())
		}
	})
}

func TestToldTwiceItIsOneDepartureWithItsFirstLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &host{tasks: []*played{task("deaf", false, time.Hour)}}
		d, begun := h.departure(), time.Now()
		var both sync.WaitGroup
		both.Go(func() { _ = d.Depart(t.Context(), Notice{Kind: Shutdown, Deadline: begun.Add(30 * time.Second)}) })
		<-time.After(20 * time.Second)
		both.Go(func() { _ = d.Depart(t.Context(), Notice{Kind: Shutdown, Deadline: begun.Add(50 * time.Second)}) })
		both.Wait()
		if took := time.Since(begun); took > 31*time.Second {
			t.Errorf("it took %s", took)
		}
	})
}

func TestWhateverThereIsTheOrderHoldsAndEverythingIsAskedInTime(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		now := time.Unix(1_800_000_000, 0)
		n := Notice{Kind: rapid.SampledFrom([]Kind{Shutdown, Interruption}).Draw(r, "kind"), Deadline: now.Add(time.Duration(rapid.IntRange(0, 300).Draw(r, "limit")) * time.Second)}
		var tasks []Task
		takes := map[string]time.Duration{}
		for i := range rapid.IntRange(0, 6).Draw(r, "tasks") {
			t := Task{Arn: fmt.Sprint(i), Daemon: rapid.Bool().Draw(r, "daemon"), Resumes: rapid.Bool().Draw(r, "resumes"), Grace: time.Duration(rapid.IntRange(0, 120).Draw(r, "grace")) * time.Second}
			tasks, takes[t.Arn] = append(tasks, t), time.Duration(rapid.IntRange(0, 200).Draw(r, "takes"))*time.Second
		}
		ends, asked := map[string]time.Time{}, map[string]time.Time{}
		var daemons time.Duration
		for _, t := range tasks {
			if t.Daemon {
				daemons = max(daemons, t.Grace)
			}
		}
		for end := n.Deadline.Add(time.Second); now.Before(end); now = now.Add(time.Second) {
			for i := range tasks {
				if e, ok := ends[tasks[i].Arn]; ok && !now.Before(e) {
					tasks[i].Stopped = true
				}
			}
			s := Decide(tasks, n, rapid.Bool().Draw(r, "connected"), now)
			if s.Done != !slices.ContainsFunc(tasks, func(t Task) bool { return !t.Stopped }) {
				r.Fatalf("done is %v of %+v", s.Done, tasks)
			}
			for _, o := range s.Orders {
				i := slices.IndexFunc(tasks, func(t Task) bool { return t.Arn == o.Arn })
				t := &tasks[i]
				if t.Stopping {
					r.Fatalf("%s is asked twice", t.Arn)
				}
				if o.Park != (n.Kind == Shutdown && t.Daemon && t.Resumes) {
					r.Fatalf("%+v of %+v at a %s", o, t, n.Kind)
				}
				others := slices.ContainsFunc(tasks, func(o Task) bool { return !o.Daemon && !o.Stopped })
				if t.Daemon && others && n.Deadline.Sub(now) > daemons+slack {
					r.Fatalf("a daemon is stopped before the others, with %s left of %s", n.Deadline.Sub(now), daemons)
				}
				asked[t.Arn], ends[t.Arn] = now, now.Add(takes[t.Arn])
			}
			for _, o := range s.Orders {
				i := slices.IndexFunc(tasks, func(t Task) bool { return t.Arn == o.Arn })
				tasks[i].Stopping = true
			}
		}
		for _, t := range tasks {
			if asked[t.Arn].IsZero() {
				r.Fatalf("%+v was never asked to stop", t)
			}
		}
	})
}
