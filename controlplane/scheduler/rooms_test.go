package scheduler

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/longshore-project/longshore/controlplane/scheduler/placement"
	"github.com/longshore-project/longshore/controlplane/store"
)

// hostsAs is what of hosts placement depends on.
func hostsAs(hosts []*placement.Host) (lines []string) {
	for _, h := range hosts {
		line := fmt.Sprint(h.Instance.ID, " ", *h.Instance.Object.Status, " ", h.Connected, " ", h.Free, " ", len(h.Kept), " ", len(h.Gates))
		for _, t := range h.Tasks {
			line += fmt.Sprint(" ", t.ID, " ", *t.Object.LastStatus, " ", *t.Object.DesiredStatus)
		}
		lines = append(lines, line)
	}
	return lines
}

func TestHostsThatAreKeptUpToDateAreAsIfTheyWereMadeAnew(t *testing.T) {
	s := newStage(t, 3)
	rooms := placement.NewRooms(s.st, nil)
	check := func(what string) {
		t.Helper()
		now := time.Now()
		if err := s.st.Read(t.Context(), func(v *store.View) error {
			if diff := cmp.Diff(hostsAs(placement.HostsOf(v, nil, "c", now)), hostsAs(rooms.HostsOf(v, "c", now))); diff != "" {
				t.Errorf("%s: %s", what, diff)
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	check("at first")
	s.place("a", "host-1", "", 100)
	check("a task was placed")
	s.stop("a")
	check("it is to stop")
	s.join("host-4")
	check("a host joined")
	s.setStatus("host-2", draining)
	check("one is drained")
	s.create("agent", s.define(64))
	check("a DAEMON service was created: room is kept for it")
	s.schedule()
	s.wait("it runs", func(v *store.View) bool { return steady(v, "agent") })
	check("it runs")
	s.setStatus("host-3", inactive)
	check("a host is gone")
}
