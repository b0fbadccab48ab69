package telemetry

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"

	"github.com/longshore-project/longshore/agent/session"
	"github.com/longshore-project/longshore/agent/session/sessiontest"
	"github.com/longshore-project/longshore/engine"
	"github.com/longshore-project/longshore/protocol/tcs"
)

// told runs a publisher against a control plane whose handshake has the header or not, and returns its progress messages,
// each as "seconds task: waits | steps".
func told(t *testing.T, header string, f func(*fakeEngine)) []string {
	t.Helper()
	var mu sync.Mutex
	var got []string
	synctest.Test(t, func(t *testing.T) {
		begun, e := time.Now(), &fakeEngine{}
		server := sessiontest.New(t, func(ctx context.Context, c *sessiontest.Conn) {
			for frame := c.Receive(ctx); frame != ""; frame = c.Receive(ctx) {
				_, body, err := tcs.SplitFrame([]byte(frame))
				m, decodeErr := tcs.Decode(body)
				if err != nil || decodeErr != nil {
					t.Error(err, decodeErr)
				}
				if m, ok := m.(*tcs.LongshoreProgress); ok {
					line := fmt.Sprintf("%ds fin=%t", int(time.Since(begun).Seconds()), m.Fin)
					if len(m.Tasks) > 2 {
						line += fmt.Sprintf(" %d tasks", len(m.Tasks))
					} else {
						for _, task := range m.Tasks {
							line += fmt.Sprintf(" %s: %s", task.TaskArn, strings.Join(task.Waits, ", "))
							for _, s := range task.Steps {
								line += fmt.Sprintf(" | %s %s %s%s", s.Name, s.Container, s.Outcome, s.Detail)
							}
						}
					}
					mu.Lock()
					got = append(got, line)
					mu.Unlock()
				}
			}
		})
		server.Refuse(func(_ int, w http.ResponseWriter) bool {
			if header != "" {
				w.Header().Set(header, "1")
			}
			return false
		})
		p := New(Config{Engine: e, Log: zap.NewNop(), Client: server.Client, Signer: session.NewSigV4(credentials, "us-west-2"), Limits: Limits(), Endpoints: &session.Endpoints{API: discover{}}, EngineVersion: func() string { return "" }})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- p.Run(ctx) }()
		pass(time.Second)
		f(e)
		synctest.Wait()
		cancel()
		<-done
		pass(time.Minute)
	})
	return got
}

func pending(arn string, waits ...string) engine.TaskStatus {
	return engine.TaskStatus{Arn: arn, Known: "NONE", Desired: "RUNNING", Waits: waits}
}

func TestTheControlPlaneHearsWhatAPendingTaskWaitsForOnceWhenItChangesAndNowAndThen(t *testing.T) {
	now := time.Now()
	pulling := pending("t1", "pull of container web")
	pulling.Timeline = []engine.Step{
		{Name: "accept", Start: now, End: now, Outcome: engine.OutcomeDone}, {Name: "pull", Container: "web", Start: now, End: now, Outcome: engine.OutcomeFailed, Detail: "429"},
		{Name: "pull", Container: "web", Start: now, Detail: "40 of 120 MiB"},
	}
	got := told(t, tcs.ProgressHeader, func(e *fakeEngine) {
		e.set(engine.EngineHealth{}, pending("t1", "memory"), engine.TaskStatus{Arn: "t2", Known: "RUNNING", Desired: "RUNNING", Waits: []string{"x"}})
		pass(2 * time.Second)
		e.set(engine.EngineHealth{}, pending("t1", "this is coalesced"))
		pass(time.Second / 10)
		e.set(engine.EngineHealth{}, pulling)
		pass(40 * time.Second)
		e.set(engine.EngineHealth{}, engine.TaskStatus{Arn: "t1", Known: "RUNNING", Desired: "RUNNING"})
		pass(time.Minute)
	})
	want := []string{"2s fin=true t1: memory", "4s fin=true t1: pull of container web | pull web 40 of 120 MiB | pull web failed429", "34s fin=true t1: pull of container web | pull web 40 of 120 MiB | pull web failed429", "44s fin=true"}
	if !slices.Equal(got, want) {
		t.Errorf("\n got %q\nwant %q", got, want)
	}
}

func TestAnotherControlPlaneHearsNothingOfIt(t *testing.T) {
	if got := told(t, "", func(e *fakeEngine) {
		e.set(engine.EngineHealth{}, pending("t1", "memory"))
		pass(time.Minute)
	}); len(got) > 0 {
		t.Error(got)
	}
}

func TestManyTasksAreToldInPartsAndLongTextsAreCut(t *testing.T) {
	got := told(t, tcs.ProgressHeader, func(e *fakeEngine) {
		var tasks []engine.TaskStatus
		for i := range tcs.MaxProgressTasks + 5 {
			tasks = append(tasks, pending(fmt.Sprint("t", i), strings.Repeat("ä", 1000)))
		}
		e.set(engine.EngineHealth{}, tasks...)
		pass(10 * time.Second)
	})
	if want := []string{fmt.Sprintf("2s fin=false %d tasks", tcs.MaxProgressTasks), "2s fin=true 5 tasks"}; !slices.Equal(got, want) {
		t.Error(got)
	}
	long := pending("t", slices.Repeat([]string{strings.Repeat("ä", 1000)}, 50)...)
	if p := Progress([]engine.TaskStatus{long}); len(p[0].Waits) != tcs.MaxProgressLines || len(p[0].Waits[0]) > tcs.MaxProgressText {
		t.Error(len(p[0].Waits), len(p[0].Waits[0]))
	}
}
