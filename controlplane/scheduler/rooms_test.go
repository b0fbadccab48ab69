package scheduler

import (
	"fmt"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"
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
			kept, _ := rooms.HostsOf(v, "c", now)
			if diff := cmp.Diff(hostsAs(placement.HostsOf(v, nil, "c", now)), hostsAs(kept)); diff != "" {
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

func TestPlacementsThatAreUnderWayAtOnceChooseDifferentHostsWhereAnyWillDo(t *testing.T) {
	s := newStage(t, 4)
	rooms := placement.NewRooms(s.st, nil)
	req, err := placement.NewRequest(placement.Request{Need: store.Resources{Memory: 1}, Group: "g"})
	if err != nil {
		t.Fatal(err)
	}
	chosen := map[string]int{}
	var turns []*placement.Turn
	choose := func() (turn *placement.Turn) {
		t.Helper()
		turn, err := rooms.Turn(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.st.Read(t.Context(), func(v *store.View) error {
			hosts, refusals, none := turn.Choose(v, "c", time.Now(), req, 1)
			if len(hosts) != 1 || len(refusals) > 0 || none {
				t.Fatalf("%d hosts were chosen, %d refused", len(hosts), len(refusals))
			}
			chosen[hosts[0].Instance.ID]++
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		return turn
	}
	for range 4 {
		turns = append(turns, choose())
	}
	if len(chosen) != 4 {
		t.Errorf("four placements that are under way at once are on %v", chosen)
	}
	turns = append(turns, choose()) // the fifth finds no host of its own, and goes where others go
	for _, turn := range turns {
		turn.Done()
	}
}

func TestAPlacementSeesTheOneBeforeIt(t *testing.T) {
	s := newStage(t, 3)
	rooms := placement.NewRooms(s.st, nil)
	req, err := placement.NewRequest(placement.Request{Need: store.Resources{Memory: 100}, Group: "family:other"})
	if err != nil {
		t.Fatal(err)
	}
	spread := []types.PlacementStrategy{{Type: types.PlacementStrategyTypeSpread, Field: aws.String("instanceId")}}
	on := map[string]int{}
	for i := range 9 {
		turn, err := rooms.Turn(t.Context(), spread)
		if err != nil {
			t.Fatal(err)
		}
		var at string
		if err := s.st.Read(t.Context(), func(v *store.View) error {
			for range 2 { // as after a conflict: what was chosen before is given up
				hosts, _, _ := turn.Choose(v, "c", time.Now(), req, 1)
				at = hosts[0].Instance.ID
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		s.place(fmt.Sprint("t", i), at, "", 100)
		turn.Done()
		on[at]++
	}
	if on["host-1"] != 3 || on["host-2"] != 3 || on["host-3"] != 3 {
		t.Errorf("nine tasks that are spread over three hosts are on %v", on)
	}
}
