package enginetest_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"
	"go.uber.org/goleak"

	"github.com/longshore-project/longshore/engine"
	"github.com/longshore-project/longshore/engine/enginetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const arn = "arn:aws:ecs:us-west-2:123456789012:task/daemonset/0123456789abcdef0123456789abcdef"

func oneContainer(t *testing.T, f *enginetest.Fake) string {
	t.Helper()
	f.AddImage(enginetest.FakeImage{Ref: "app:1"})
	id, err := f.Create(t.Context(), engine.Spec{Name: "c", Image: "app:1", Labels: map[string]string{
		engine.LabelTaskArn: arn, engine.LabelContainerName: "main",
	}})
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Start(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	return id
}

func TestAProcessOfTheFakeEndsWhenTheTestSaysSo(t *testing.T) {
	f := enginetest.NewFake()
	id := oneContainer(t, f)
	if !f.Exit(id, 7) || f.Exit(id, 8) {
		t.Error("Exit must end a running process, once")
	}
	if s, _ := f.Container(arn, "main"); s.Status != engine.StatusExited || s.ExitCode != 7 {
		t.Errorf("got %s with exit code %d", s.Status, s.ExitCode)
	}
	if f.Peak(arn, "main") != 1 || f.Starts("c") != 1 || f.Creates("c") != 1 || f.Running() != 0 {
		t.Error("the counters are wrong")
	}
}

func TestAStubbornProcessOfTheFakeIsKilledAfterTheGracePeriod(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := enginetest.NewFake()
		f.Behave(func(engine.Spec) enginetest.Behaviour { return enginetest.Behaviour{IgnoreStop: true} })
		id := oneContainer(t, f)
		began := time.Now()
		if err := f.Stop(t.Context(), id, 30*time.Second); err != nil {
			t.Fatal(err)
		}
		if s, _ := f.Container(arn, "main"); s.ExitCode != 137 || time.Since(began) != 30*time.Second {
			t.Errorf("exit code %d after %s", s.ExitCode, time.Since(began))
		}
	})
}

func TestTheFakeFailsHangsAndGoesDownOnDemand(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := enginetest.NewFake()
		id := oneContainer(t, f)
		boom := errors.New("boom")
		f.Fail("Inspect", 1, boom)
		if _, err := f.Inspect(t.Context(), id); !errors.Is(err, boom) {
			t.Errorf("got %v, want the ordered error", err)
		}
		if _, err := f.Inspect(t.Context(), id); err != nil {
			t.Errorf("the second call must work: %v", err)
		}
		f.Hang("Stop")
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := f.Stop(ctx, id, time.Second); !errdefs.IsDeadlineExceeded(err) {
			t.Errorf("a hanging call must end with its deadline, got %v", err)
		}
		f.Heal("")
		f.Down()
		if _, err := f.List(t.Context()); !errdefs.IsUnavailable(err) {
			t.Errorf("got %v, want Unavailable", err)
		}
		f.Restart(false)
		if s, err := f.Inspect(t.Context(), id); err != nil || s.ExitCode != 137 {
			t.Errorf("after a restart without live restore: %v, exit code %d", err, s.ExitCode)
		}
	})
}

func TestEventsOfTheFakeCanBeLostAndRepeated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := enginetest.NewFake()
		id := oneContainer(t, f)
		var seen []string
		done := make(chan error, 1)
		go func() {
			done <- f.Events(t.Context(), nil, func(e engine.Event) { seen = append(seen, e.Action) })
		}()
		synctest.Wait()
		f.DropEvents(true)
		f.SetHealth(id, "HEALTHY", 0, "")
		f.DropEvents(false)
		f.RepeatEvents(2)
		f.Exit(id, 0)
		synctest.Wait()
		f.BreakEvents()
		if err := <-done; !errdefs.IsUnavailable(err) {
			t.Errorf("a broken stream must be Unavailable, got %v", err)
		}
		if len(seen) != 3 || seen[0] != "die" {
			t.Errorf("got the events %v, want die three times", seen)
		}
	})
}
