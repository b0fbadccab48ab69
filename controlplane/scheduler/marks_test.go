package scheduler

import (
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/longshore-project/longshore/controlplane/scheduler/placement"
	"github.com/longshore-project/longshore/controlplane/store"
	"github.com/longshore-project/longshore/controlplane/task"
)

func TestATaskOfNoServiceThatGoesOnHasNoHostReadAgainButADrainedOne(t *testing.T) {
	at := func(service, last, desired string) *store.Task {
		t := &store.Task{Cluster: "c", ID: "t", Instance: "i", Service: service}
		t.Object.LastStatus, t.Object.DesiredStatus = aws.String(last), aws.String(desired)
		return t
	}
	accepted, protected, elsewhere := at("", task.Pending, task.Running), at("", task.Running, task.Running), at("", task.Running, task.Running)
	accepted.AcceptedAt, protected.ProtectedUntil, elsewhere.Instance = time.Now(), time.Now(), "other"
	for name, c := range map[string]struct {
		change store.Change
		same   bool
	}{
		"it is acknowledged":              {store.Change{Old: at("", task.Pending, task.Running), New: accepted}, true},
		"it runs":                         {store.Change{Old: at("", task.Pending, task.Running), New: at("", task.Running, task.Running)}, true},
		"it is placed":                    {store.Change{New: at("", task.Pending, task.Running)}, false},
		"it is to stop":                   {store.Change{Old: at("", task.Running, task.Running), New: at("", task.Running, task.Stopped)}, false},
		"it is STOPPED":                   {store.Change{Old: at("", task.Running, task.Stopped), New: at("", task.Stopped, task.Stopped)}, false},
		"it is purged":                    {store.Change{Old: at("", task.Stopped, task.Stopped)}, false},
		"it is protected":                 {store.Change{Old: at("", task.Running, task.Running), New: protected}, false},
		"it is adopted by another host":   {store.Change{Old: at("", task.Running, task.Running), New: elsewhere}, false},
		"one of a service runs":           {store.Change{Old: at("web", task.Pending, task.Running), New: at("web", task.Running, task.Running)}, false},
		"what changed is not about it":    {store.Change{Old: &store.Allocation{Cluster: "c", Instance: "i"}, New: &store.Allocation{Cluster: "c", Instance: "i"}}, false},
		"it became one of a service":      {store.Change{Old: at("", task.Running, task.Running), New: at("web", task.Running, task.Running)}, false},
		"one of a service is one no more": {store.Change{Old: at("web", task.Running, task.Running), New: at("", task.Running, task.Running)}, false},
	} {
		if got := placement.SameHost(c.change); got != c.same {
			t.Errorf("%s: the host is the same: %t", name, got)
			continue
		}
		s := New(Config{})
		s.note([]store.Change{c.change})
		taken := s.marksOf("c").take()
		if host := taken.instances["i"] || taken.instances["other"]; host == c.same || taken.drained["i"] != c.same {
			t.Errorf("%s: marked are %v, and if they are drained %v", name, taken.instances, taken.drained)
		}
	}

	st := newStage(t, 2)
	st.place("a", "host-1", "", 100)
	st.place("b", "host-2", "", 100)
	st.setStatus("host-2", draining)
	s := New(Config{Store: st.st})
	w := newWorker(s, "c", nil, s.cfg.Log)
	w.begin()
	w.read(w.marks.take())
	first, second := w.hosts["host-1"], w.hosts["host-2"]
	w.marks.addDrained("host-1")
	w.marks.addDrained("host-2")
	w.read(w.marks.take())
	if w.hosts["host-1"] != first || w.hosts["host-2"] == second {
		t.Error("the host that is not drained was read again, or the drained one was not")
	}
}
