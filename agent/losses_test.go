package agent

import (
	"bytes"
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/longshore-project/longshore/agent/local"
	"github.com/longshore-project/longshore/engine"
)

// lossy is an engine whose log drivers lose lines.
type lossy struct {
	engine.Runtime
	dropped atomic.Int64
}

func (l *lossy) LogLosses(context.Context) ([]engine.LogLoss, error) {
	if l.dropped.Load() == 0 {
		return nil, nil
	}
	return []engine.LogLoss{{ContainerID: "c1", TaskArn: "arn:aws:ecs:us-west-2:123456789012:task/c/0123", Container: "web", Driver: "awslogs", Dropped: l.dropped.Load(), Failed: 2, LastError: "AccessDenied", Since: time.Now()}}, nil
}

func TestOutputThatIsLostIsLoggedAsItGrowsAndShownInTheStatus(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		core, logs := observer.New(zap.WarnLevel)
		l := &lossy{}
		a := &Agent{opt: Options{LossInterval: time.Second}, runtime: l, log: zap.New(core)}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- a.watchLosses(ctx) }()
		for i, dropped := range []int64{0, 3, 3, 5} {
			l.dropped.Store(dropped)
			<-time.After(time.Second)
			synctest.Wait()
			if got, want := logs.Len(), []int{0, 1, 1, 2}[i]; got != want {
				t.Errorf("with %d dropped there are %d messages, want %d", dropped, got, want)
			}
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		now := a.logLosses()
		if len(now) != 1 || now[0].Dropped != 5 {
			t.Fatalf("%+v", now)
		}
		var out bytes.Buffer
		s := local.Status{Now: time.Now(), LostOutput: []local.LogLoss{local.LogLossOf(now[0])}, Health: local.Health{OK: true}}
		if err := s.Print(&out); err != nil || !strings.Contains(out.String(), "Lost output      container web of task 0123 (awslogs): 5 lines dropped, 2 failed, for ") || !strings.Contains(out.String(), "AccessDenied") {
			t.Errorf("%v: %s", err, &out)
		}
	})
}
