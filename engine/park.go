package engine

import "time"

// Park stops a task until the next boot of the host, which is about to go down: its containers are stopped in the task's own order and with
// their stop timeouts, and it is STOPPED for this process, but nothing of that is put on record or reported. What stays on record is that it
// runs, as after a power cut, so that the next boot starts it again where daemons are (boot.go), and else ends it as one that a reboot ended.
// From then on only the control plane's wish that it stop is still saved. Repeated, and for a task that stops or is not known, it does
// nothing.
func (e *Engine) Park(arn string) {
	if w := e.worker(arn); w != nil {
		w.park()
	}
}

func (w *worker) park() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.gone || w.parked != nil || w.rec.Desired == statusStopped {
		return
	}
	w.parked = w.rec
	w.rec = w.rec.clone()
	w.rec.Desired = statusStopped
	w.timeline.note("", "park", OutcomeDone, "the host goes down: stopped until its next boot", time.Now())
	w.publish()
	w.wake()
}

// heardParked takes a payload for a parked task: it counts from the next boot on.
func (w *worker) heardParked(desired string) error {
	if desiredRank[desired] <= desiredRank[w.parked.Desired] {
		return nil
	}
	next := w.parked.clone()
	next.Desired = desired
	err := w.e.cfg.State.Save(next)
	w.e.health.saved(err)
	if err == nil {
		w.parked = next
	}
	return err
}

// Daemon says that the task is of a DAEMON service, as far as the control plane says so.
func (s *TaskStatus) Daemon() bool {
	return s.Payload != nil && s.Payload.SchedulingStrategy == schedulingDaemon
}
