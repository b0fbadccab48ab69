package poll

import (
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/longshore-project/longshore/controlplane/store"
)

func TestAttemptsComeAtGrowingDistance(t *testing.T) {
	d := newDelivery(5*time.Second, time.Minute)
	now := time.Unix(0, 0)
	var at []time.Duration
	for range 7 {
		attempts, next := d.due([]want{{"t", "RUNNING"}}, now)
		if len(attempts) != 1 || attempts[0].number != len(at)+1 {
			t.Fatalf("%+v", attempts)
		}
		if early, again := d.due([]want{{"t", "RUNNING"}}, next.Add(-1)); len(early) != 0 || !again.Equal(next) {
			t.Fatalf("%+v before %s", early, next)
		}
		at = append(at, next.Sub(now))
		now = next
	}
	if got := fmt.Sprint(at); got != "[5s 10s 20s 40s 1m0s 1m0s 1m0s]" {
		t.Error(got)
	}
}

func TestANewDesiredStatusBeginsAnewAndOldAcknowledgementsDoNotCount(t *testing.T) {
	d := newDelivery(time.Second, time.Second)
	now := time.Unix(0, 0)
	first, _ := d.due([]want{{"t", "RUNNING"}}, now)
	second, _ := d.due([]want{{"t", "STOPPED"}}, now)
	if len(second) != 1 || second[0].message == first[0].message {
		t.Fatalf("%+v %+v", first, second)
	}
	if _, ok := d.acknowledge(first[0].message); ok {
		t.Error("the acknowledgement of RUNNING counts for STOPPED")
	}
	if a, ok := d.acknowledge(second[0].message); !ok || a != (accepted{"t", "STOPPED"}) {
		t.Error(a, ok)
	}
	if _, ok := d.acknowledge(second[0].message); ok {
		t.Error("an acknowledgement counts twice")
	}
	if again, next := d.due([]want{{"t", "STOPPED"}}, now.Add(time.Hour)); len(again) != 0 || !next.IsZero() {
		t.Error(again, next)
	}
	d.due(nil, now)
	if len(d.tasks)+len(d.messages) != 0 {
		t.Error("what is not wanted is not forgotten")
	}
}

// Whatever happens, at the end an agent that acknowledges knows exactly what is wanted.
func TestWhateverIsLostAnAgentThatAnswersKnowsWhatIsWanted(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := newDelivery(time.Second, 4*time.Second)
		now := time.Unix(0, 0)
		var wants []want
		knows := map[string]string{} // what the agent was sent last
		exchange := func(lossy bool) {
			attempts, _ := d.due(wants, now)
			for _, a := range attempts {
				desired := d.tasks[a.id].desired
				if lossy && rapid.Bool().Draw(t, "payload lost") {
					continue
				}
				knows[a.id] = desired
				if lossy && rapid.Bool().Draw(t, "acknowledgement lost") {
					continue
				}
				d.acknowledge(a.message)
			}
		}
		for range rapid.IntRange(1, 20).Draw(t, "steps") {
			wants = nil
			for i := range rapid.IntRange(0, 4).Draw(t, "tasks") {
				wants = append(wants, want{fmt.Sprint(i), rapid.SampledFrom([]string{"RUNNING", "STOPPED"}).Draw(t, "desired")})
			}
			exchange(true)
			now = now.Add(time.Duration(rapid.IntRange(0, 3000).Draw(t, "ms")) * time.Millisecond)
		}
		now = now.Add(time.Minute)
		exchange(false)
		for _, w := range wants {
			if knows[w.id] != w.desired || !d.tasks[w.id].done {
				t.Fatalf("%v, but the agent knows %q", w, knows[w.id])
			}
		}
		if len(d.tasks) != len(wants) || len(d.messages) != len(wants) {
			t.Fatal("more is remembered than wanted")
		}
	})
}

func TestSequenceNumbersOnlyRise(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		i := &store.Instance{SequenceNumber: rapid.Int64Range(0, 1<<50).Draw(t, "last")}
		last := i.SequenceNumber
		for range 5 {
			now := time.UnixMilli(rapid.Int64Range(0, 1<<50).Draw(t, "clock")) // which may be set back
			n := reserve(i, now)
			if n.next <= last || n.next < now.UnixMilli() || n.end != i.SequenceNumber || n.end < n.next {
				t.Fatal(n, last)
			}
			last = n.end
		}
	})
}
