package engine_test

import (
	"testing"

	"github.com/longshore-project/longshore/engine"
)

func TestAParkedDaemonStopsWithoutAWordAndTheNextBootStartsItAgain(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		d := daemon("d")
		w.accept(d)
		w.settled()
		w.engine.Park(d.Arn)
		w.engine.Park(d.Arn)
		w.settled()
		if s := w.status(d.Arn); w.running(d, "app") || s.Known != "STOPPED" || s.Desired != "STOPPED" {
			t.Fatalf("the daemon runs on\n%s", w.explain(d.Arn))
		}
		w.want(d.Arn, "PENDING", "RUNNING") // for the control plane it is as it was
		w.reboot("boot-2")
		w.settled()
		if !w.running(d, "app") || w.status(d.Arn).Known != "RUNNING" {
			t.Fatalf("the daemon was not started again\n%s", w.explain(d.Arn))
		}
		w.want(d.Arn, "PENDING", "RUNNING")
	}, booting)
}

func TestAParkedDaemonThatTheControlPlaneNoLongerWantsIsNotStartedAgain(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		d := daemon("d")
		w.accept(d)
		w.settled()
		w.engine.Park(d.Arn)
		w.settled()
		w.accept(stopOf(d))
		w.settled()
		w.want(d.Arn, "PENDING", "RUNNING")
		w.reboot("boot-2")
		w.settled()
		w.want(d.Arn, "PENDING", "RUNNING", "STOPPED")
		if w.running(d, "app") {
			t.Error(w.explain(d.Arn))
		}
	}, booting)
}

func TestATaskThatStopsIsNotParked(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		d := daemon("d")
		w.accept(d)
		w.settled()
		w.accept(stopOf(d))
		w.engine.Park(d.Arn)
		w.engine.Park("arn:nobody")
		w.settled()
		w.want(d.Arn, "PENDING", "RUNNING", "STOPPED")
		if s := w.status(d.Arn); !s.Daemon() || (&engine.TaskStatus{}).Daemon() {
			t.Error("who is a daemon?")
		}
	}, booting)
}
