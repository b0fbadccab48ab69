package engine

import (
	"strings"
	"testing"
	"time"
)

func TestTheFirstThingThatGoesWrongIsTheCauseUnlessTheTaskGoesOnWithoutIt(t *testing.T) {
	now := time.Date(2026, 11, 20, 9, 0, 0, 0, time.UTC)
	essential, side := &Container{Name: "app", Essential: true}, &Container{Name: "side"}
	s := &settling{view{rec: &TaskRecord{}, now: now}}
	cause := func() string {
		if s.rec.Cause == nil {
			return ""
		}
		return s.rec.Cause.Container + " " + s.rec.Cause.Step
	}
	running := func(health string) *ContainerObserved {
		return &ContainerObserved{State: &State{Status: StatusRunning, Health: Health{Status: health}}}
	}
	for _, step := range []struct {
		do   func()
		want string
	}{
		{func() { s.blameHealth(essential, running("HEALTHY")) }, ""},
		{func() { s.blameHealth(essential, running("UNHEALTHY")) }, "app health"},
		{func() { s.blameHealth(essential, running("HEALTHY")) }, ""},
		{func() { s.blame(side, "pull", "no such image") }, "side pull"},
		{func() { s.blame(&Container{Name: "other"}, "pull", "no such image") }, "side pull"},
		{func() { s.blameHealth(essential, running("UNHEALTHY")) }, "side pull"},
		{func() { s.blame(essential, "run", "it ended") }, "app run"},
		{func() { s.blame(nil, "admit", "never") }, "app run"},
	} {
		if step.do(); cause() != step.want {
			t.Fatalf("the cause is %q, not %q", cause(), step.want)
		}
	}
}

func TestAnExitIsToBlameIfNobodyAskedForItOrItHadToBeKilled(t *testing.T) {
	now := time.Date(2026, 11, 20, 9, 0, 0, 0, time.UTC)
	for name, c := range map[string]struct {
		code    int
		reason  string
		side    bool
		ordered time.Time
		desired string
		want    string // part of the cause
	}{
		"exits by itself":                {code: 3, want: "ended by itself with exit code 3"},
		"has done its work":              {code: 0},
		"is not essential":               {code: 3, side: true},
		"is stopped and obeys":           {code: 143, ordered: now.Add(-time.Second), desired: statusStopped},
		"is killed after its timeout":    {code: killed, ordered: now.Add(-10 * time.Second), desired: statusStopped, want: "within its stopTimeout of 10s"},
		"is asked to end by SIGKILL":     {code: killed, ordered: now.Add(-time.Second), desired: statusStopped},
		"ends as the stop is on its way": {code: 3, desired: statusStopped},
		"lacks memory":                   {code: killed, reason: "OutOfMemoryError: Container killed due to memory usage", want: "OutOfMemoryError"},
	} {
		s := &settling{view{rec: &TaskRecord{Desired: c.desired}, now: now}}
		cr := &ContainerRecord{Name: "app", Final: &Final{Reason: c.reason, FinishedAt: now}}
		co := &ContainerObserved{State: &State{Status: StatusExited, ExitCode: c.code}, Ordered: !c.ordered.IsZero(), OrderedAt: c.ordered}
		s.blameExit(&Container{Name: "app", Essential: !c.side, StopTimeout: 10 * time.Second}, cr, co)
		got := ""
		if s.rec.Cause != nil {
			got = s.rec.Cause.Text
		}
		if got == "" != (c.want == "") || !strings.Contains(got, c.want) {
			t.Errorf("a container that %s: the cause is %q, not %q", name, got, c.want)
		}
	}
}
