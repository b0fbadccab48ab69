package report

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"go.uber.org/zap"

	"github.com/longshore-project/longshore/engine"
	"github.com/longshore-project/longshore/protocol/agentapi"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// pass lets time pass inside a synctest bubble.
func pass(d time.Duration) { <-time.After(d) }

// queue is a Queue in memory.
type queue struct {
	mu      sync.Mutex
	changes []*engine.StateChange
	last    uint64
	broken  error
}

func (q *queue) add(task, status string) { q.addAt(task, status, time.Now()) }

func (q *queue) addAt(task, status string, at time.Time) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.last++
	q.changes = append(q.changes, &engine.StateChange{Sequence: q.last, TaskArn: task, Status: status, Time: at})
}

func (q *queue) Changes() ([]*engine.StateChange, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return slices.Clone(q.changes), q.broken
}

func (q *queue) Accepted(sequence uint64) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.changes = slices.DeleteFunc(q.changes, func(c *engine.StateChange) bool { return c.Sequence == sequence })
	return q.broken
}

func (q *queue) len() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.changes)
}

// api records calls, takes a while for each, and answers as told.
type api struct {
	mu      sync.Mutex
	calls   []string
	flying  map[string]int
	most    int
	takes   time.Duration
	answers func(n int, task, status string) error
	inputs  []*agentapi.SubmitTaskStateChangeInput
}

func (a *api) Call(ctx context.Context, operation string, in, _ any) error {
	input, ok := in.(*agentapi.SubmitTaskStateChangeInput)
	if !ok || len(input.Attachments) > 0 {
		return a.attach(operation, in)
	}
	a.mu.Lock()
	n := len(a.calls)
	a.calls = append(a.calls, *input.Task+" "+*input.Status)
	a.inputs = append(a.inputs, input)
	if a.flying == nil {
		a.flying = map[string]int{}
	}
	a.flying[*input.Task]++
	total := 0
	for task, k := range a.flying {
		total += k
		if k > 1 {
			a.calls = append(a.calls, "TWO AT ONCE "+task)
		}
	}
	a.most = max(a.most, total)
	a.mu.Unlock()
	defer func() {
		a.mu.Lock()
		a.flying[*input.Task]--
		a.mu.Unlock()
	}()
	if operation != "SubmitTaskStateChange" {
		return errors.New("what is " + operation)
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(a.takes):
	}
	if a.answers != nil {
		return a.answers(n, *input.Task, *input.Status)
	}
	return nil
}

func (a *api) seen() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.calls)
}

// run runs a reporter in a bubble while f drives it.
func run(t *testing.T, q *queue, a *api, f func(r *Reporter)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		if a.takes == 0 {
			a.takes = time.Millisecond
		}
		r := New(Config{API: a, Queue: q, Log: zap.NewNop(), Cluster: "daemonset", IPv6BindingsExcluded: true})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- r.Run(ctx) }()
		f(r)
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
}

func expect(t *testing.T, a *api, want ...string) {
	t.Helper()
	if d := cmp.Diff(want, a.seen()); d != "" {
		t.Errorf("calls (-want +got):\n%s", d)
	}
}

func TestWhatWasSavedBeforeTheStartIsSentInOrder(t *testing.T) {
	q, a := &queue{}, &api{}
	q.add("t1", "RUNNING")
	q.add("t1", "STOPPED")
	q.add("t2", "PENDING")
	run(t, q, a, func(*Reporter) { pass(time.Second) })
	got := a.seen()
	slices.Sort(got[:2])
	if d := cmp.Diff([]string{"t1 RUNNING", "t2 PENDING", "t1 STOPPED"}, got); d != "" || q.len() != 0 {
		t.Error(d, q.len())
	}
}

func TestANewChangeGoesAtOnce(t *testing.T) {
	q, a := &queue{}, &api{}
	run(t, q, a, func(r *Reporter) {
		pass(time.Hour)
		q.add("t1", "RUNNING")
		r.Wake()
		pass(2 * time.Millisecond)
		expect(t, a, "t1 RUNNING")
	})
}

func TestNewsOfATaskThatStartsAtOnceAreInItsRUNNING(t *testing.T) {
	q, a := &queue{}, &api{}
	run(t, q, a, func(r *Reporter) {
		pass(time.Hour)
		q.add("quick", "PENDING")
		q.add("slow", "PENDING")
		r.Wake()
		pass(200 * time.Millisecond)
		expect(t, a)
		q.add("quick", "PENDING")
		q.add("quick", "RUNNING")
		q.add("quick", "STOPPED")
		r.Wake()
		pass(50 * time.Millisecond)
		expect(t, a, "quick RUNNING", "quick STOPPED")
		pass(time.Second)
		expect(t, a, "quick RUNNING", "quick STOPPED", "slow PENDING")
		q.add("slow", "RUNNING")
		r.Wake()
		pass(50 * time.Millisecond)
		expect(t, a, "quick RUNNING", "quick STOPPED", "slow PENDING", "slow RUNNING")
		if q.len() != 0 {
			t.Errorf("%d left", q.len())
		}
	})
}

func TestNewsDoNotLingerWhenTheClockWasSetBack(t *testing.T) {
	q, a := &queue{}, &api{}
	run(t, q, a, func(r *Reporter) {
		q.addAt("t1", "PENDING", time.Now().Add(time.Hour))
		r.Wake()
		pass(50 * time.Millisecond)
		expect(t, a, "t1 PENDING")
	})
}

func TestWhatIsBeingSentIsNotSuperseded(t *testing.T) {
	q, a := &queue{}, &api{takes: time.Second}
	run(t, q, a, func(r *Reporter) {
		q.add("t1", "PENDING")
		r.Wake()
		pass(1200 * time.Millisecond)
		q.add("t1", "RUNNING")
		r.Wake()
		pass(5 * time.Second)
		expect(t, a, "t1 PENDING", "t1 RUNNING")
		if q.len() != 0 {
			t.Errorf("%d left", q.len())
		}
	})
}

func TestALostHintCostsAMinuteAndNoChange(t *testing.T) {
	q, a := &queue{}, &api{}
	run(t, q, a, func(*Reporter) {
		pass(time.Second)
		q.add("t1", "RUNNING")
		pass(time.Minute + time.Second)
		expect(t, a, "t1 RUNNING")
	})
}

func TestAChangeIsSentUntilItIsAcceptedAndTheNextWaitsForIt(t *testing.T) {
	q := &queue{}
	a := &api{answers: func(n int, _, _ string) error {
		if n < 3 {
			return &agentapi.APIError{Code: "ServerException", StatusCode: 500}
		}
		return nil
	}}
	q.add("t1", "RUNNING")
	q.add("t1", "STOPPED")
	run(t, q, a, func(*Reporter) {
		pass(2 * time.Second)
		expect(t, a, "t1 RUNNING", "t1 RUNNING", "t1 RUNNING", "t1 RUNNING", "t1 STOPPED")
		if q.len() != 0 {
			t.Errorf("%d left", q.len())
		}
	})
}

func TestAfterAnHourWithoutAControlPlaneEachChangeArrivesOnceAndInOrder(t *testing.T) {
	q := &queue{}
	var mu sync.Mutex
	var back time.Time
	accepted := map[string]int{}
	a := &api{}
	a.answers = func(_ int, task, status string) error {
		mu.Lock()
		defer mu.Unlock()
		if time.Now().Before(back) {
			return errors.New("connection refused")
		}
		accepted[task+" "+status]++
		return nil
	}
	for _, task := range []string{"t1", "t2", "t3"} {
		q.add(task, "RUNNING")
		q.add(task, "STOPPED")
	}
	run(t, q, a, func(r *Reporter) {
		mu.Lock()
		back = time.Now().Add(time.Hour)
		mu.Unlock()
		r.Wake()
		pass(time.Hour)
		r.Hurry() // there is a connection again
		pass(5 * time.Second)
		mu.Lock()
		defer mu.Unlock()
		for _, change := range []string{"t1 RUNNING", "t1 STOPPED", "t2 RUNNING", "t2 STOPPED", "t3 RUNNING", "t3 STOPPED"} {
			if accepted[change] != 1 {
				t.Errorf("%s arrived %d times", change, accepted[change])
			}
		}
		if q.len() != 0 {
			t.Errorf("%d changes are left", q.len())
		}
	})
}

func TestATaskThatCannotBeReportedHoldsUpNoOther(t *testing.T) {
	q := &queue{}
	a := &api{answers: func(_ int, task, _ string) error {
		if task == "bad" {
			return errors.New("connection reset")
		}
		return nil
	}}
	q.add("bad", "RUNNING")
	q.add("good", "RUNNING")
	run(t, q, a, func(*Reporter) {
		pass(10 * time.Minute)
		if q.len() != 1 {
			t.Errorf("%d left", q.len())
		}
		if n := len(a.seen()); n < 20 || n > 40 { // 0.1 s doubling to 30 s
			t.Errorf("%d calls in ten minutes", n)
		}
	})
}

func TestAChangeOfATaskThatTheControlPlaneDoesNotKnowIsDropped(t *testing.T) {
	q := &queue{}
	a := &api{answers: func(int, string, string) error {
		return &agentapi.APIError{Code: "InvalidParameterException", StatusCode: 400}
	}}
	q.add("t1", "STOPPED")
	run(t, q, a, func(*Reporter) {
		pass(time.Minute)
		expect(t, a, "t1 STOPPED")
		if q.len() != 0 {
			t.Errorf("%d left", q.len())
		}
	})
}

func TestAtMostTenTasksSubmitAtTheSameTimeAndNoTaskTwice(t *testing.T) {
	q, a := &queue{}, &api{takes: time.Second}
	for i := range 40 {
		q.add(fmt.Sprint("t", i), "RUNNING")
		q.add(fmt.Sprint("t", i), "STOPPED")
	}
	run(t, q, a, func(r *Reporter) {
		for range 20 {
			r.Wake()
			pass(time.Second)
		}
		if a.most != 10 || q.len() != 0 || len(a.seen()) != 80 {
			t.Errorf("at most %d at once, %d left, %d calls", a.most, q.len(), len(a.seen()))
		}
	})
}

func TestAConnectionThatIsBackMakesWhatWaitsGoNow(t *testing.T) {
	q := &queue{}
	var up atomic.Bool
	a := &api{}
	a.answers = func(int, string, string) error {
		if !up.Load() {
			return errors.New("connection refused")
		}
		return nil
	}
	q.add("t1", "RUNNING")
	run(t, q, a, func(r *Reporter) {
		pass(10 * time.Minute)
		up.Store(true)
		r.Hurry()
		pass(2 * time.Millisecond)
		if q.len() != 0 {
			t.Errorf("%d left", q.len())
		}
	})
}

func TestATaskThatCouldNotBeLoadedIsReportedOnceAfterWhatIsQueued(t *testing.T) {
	q, a := &queue{}, &api{}
	run(t, q, a, func(r *Reporter) {
		for range 3 {
			r.Refused("t1", "UnrecogniedTaskError: Error loading task - x")
		}
		pass(time.Minute)
		if n := len(a.seen()); n < 1 || n > 3 {
			t.Errorf("%d calls", n)
		}
		if in := a.inputs[0]; *in.Reason != "UnrecogniedTaskError: Error loading task - x" || *in.Status != "STOPPED" || *in.Cluster != "daemonset" {
			t.Errorf("%+v", in)
		}
	})
}

func TestAQueueThatCannotBeReadIsReadAgain(t *testing.T) {
	q, a := &queue{broken: errors.New("disk full")}, &api{}
	q.add("t1", "RUNNING")
	run(t, q, a, func(*Reporter) {
		pass(5 * time.Second)
		q.mu.Lock()
		q.broken = nil
		q.mu.Unlock()
		pass(2 * time.Second)
		if q.len() != 0 {
			t.Errorf("%d left", q.len())
		}
	})
}

func TestStoppingCutsWhatIsInFlightAndKeepsItInTheQueue(t *testing.T) {
	q, a := &queue{}, &api{takes: time.Hour}
	q.add("t1", "RUNNING")
	run(t, q, a, func(*Reporter) { pass(time.Second) })
	if q.len() != 1 {
		t.Errorf("%d left", q.len())
	}
}

func TestAChangeIsSaidInTheServicesWordsAndWithinItsBounds(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	code := 137
	r := New(Config{Cluster: "daemonset", IPv6BindingsExcluded: true})
	in := r.input(&engine.StateChange{
		TaskArn: "arn", Status: "CREATED", Reason: strings.Repeat("é", 600), PullStartedAt: now,
		Containers: []engine.ContainerChange{
			{Name: "web", Status: "STOPPED", RuntimeID: strings.Repeat("a", 300), ExitCode: &code, Reason: "OutOfMemoryError: Container killed due to memory usage", NetworkBindings: []engine.NetworkBinding{
				{BindIP: "0.0.0.0", ContainerPort: 80, HostPort: 32768, Protocol: "tcp"}, {BindIP: "::", ContainerPort: 80, HostPort: 32768, Protocol: "tcp"},
			}},
			{Name: "side", Status: "NONE"},
		},
	})
	if *in.Status != "PENDING" || len(*in.Reason) != 1024 || !in.PullStartedAt.Equal(now) || in.PullStoppedAt != nil {
		t.Errorf("%+v", in)
	}
	web, side := in.Containers[0], in.Containers[1]
	if len(*web.RuntimeId) != 255 || *web.ExitCode != 137 || len(web.NetworkBindings) != 1 || *web.NetworkBindings[0].HostPort != 32768 || web.ImageDigest != nil {
		t.Errorf("%+v", web)
	}
	if *side.Status != "PENDING" || side.Reason != nil || side.ExitCode != nil || side.RuntimeId != nil {
		t.Errorf("%+v", side)
	}
}

// attach records a call that is about attachments: who it is about, and whatever else it says.
func (a *api) attach(operation string, in any) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	said, err := json.Marshal(in)
	a.calls = append(a.calls, operation+" "+string(said))
	return err
}

func TestAnAttachmentIsReportedAloneBeforeWhatFollowsAndNotAfterItsTime(t *testing.T) {
	attached := func(n uint64, task string, expires time.Time) *engine.StateChange {
		return &engine.StateChange{Sequence: n, TaskArn: task, Expires: expires, Attachments: []engine.AttachmentChange{{Arn: "arn:att", Status: "ATTACHED"}}}
	}
	a := &api{}
	synctest.Test(t, func(t *testing.T) {
		now := time.Now()
		q := &queue{changes: []*engine.StateChange{attached(1, "a", now.Add(time.Minute)), {Sequence: 2, TaskArn: "a", Status: "RUNNING", Time: now}, attached(3, "", now.Add(time.Minute)), attached(4, "late", now.Add(-time.Second))}}
		r := New(Config{API: a, Queue: q, Log: zap.NewNop(), Cluster: "daemonset"})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- r.Run(ctx) }()
		<-time.After(time.Second)
		if n := q.len(); n != 0 {
			t.Errorf("%d changes are left", n)
		}
		cancel()
		<-done
	})
	var got []string
	for _, c := range a.seen() {
		got = append(got, strings.NewReplacer(`"Containers":null,`, "", `"ExecutionStoppedAt":null,`, "", `"ManagedAgents":null,`, "", `"PullStartedAt":null,`, "", `"PullStoppedAt":null,`, "", `"Reason":null,`, "", `"Status":null,`, "").Replace(c))
	}
	slices.Sort(got)
	want := []string{
		`SubmitAttachmentStateChanges {"Attachments":[{"AttachmentArn":"arn:att","Status":"ATTACHED"}],"Cluster":"daemonset"}`,
		`SubmitTaskStateChange {"Attachments":[{"AttachmentArn":"arn:att","Status":"ATTACHED"}],"Cluster":"daemonset","Task":"a"}`,
		"a RUNNING",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if seen := a.seen(); slices.Index(seen, "a RUNNING") < slices.IndexFunc(seen, func(c string) bool { return strings.HasSuffix(c, `"Task":"a"}`) }) {
		t.Errorf("RUNNING went first: %q", seen)
	}
}
