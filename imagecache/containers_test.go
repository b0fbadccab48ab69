package imagecache_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/longshore-project/longshore/imagecache"
)

func TestContainersOfOthersGoWhenTheyHaveNotRunForLong(t *testing.T) {
	now := time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
	ago := func(d time.Duration) time.Time { return now.Add(-d) }
	list := []imagecache.Container{
		{ID: "made long ago, ended lately", Status: "exited", Created: ago(1000 * time.Hour), Ended: ago(time.Hour)},
		{ID: "ended long ago", Status: "exited", Created: ago(1000 * time.Hour), Ended: ago(50 * time.Hour)},
		{ID: "ended longer ago", Status: "dead", Created: ago(1000 * time.Hour), Ended: ago(60 * time.Hour)},
		{ID: "never ran", Status: "created", Created: ago(55 * time.Hour)},
		{ID: "never ran yet", Status: "created", Created: ago(time.Hour)},
		{ID: "of the next cycle", Status: "exited", Created: ago(100 * time.Hour), Ended: ago(4 * time.Hour)},
		{ID: "runs", Status: "running", Created: ago(100 * time.Hour)},
		{ID: "unclear", Status: "exited", Created: ago(100 * time.Hour)},
	}
	verdicts := imagecache.DecideContainers(now, list, imagecache.Rules{ContainerAge: 3 * time.Hour, ContainersPerCycle: 3})
	why := map[string]string{}
	var goes []string
	for _, v := range verdicts {
		if why[v.ID] = v.Reason; v.Delete {
			goes = append(goes, v.ID)
		}
	}
	if want := []string{"ended longer ago", "never ran", "ended long ago"}; !slices.Equal(goes, want) || len(verdicts) != len(list) {
		t.Errorf("%q go, want %q", goes, want)
	}
	for id, reason := range map[string]string{
		"made long ago, ended lately": "its process has ended 1h0m0s ago, less than 3h0m0s", "never ran yet": "it was made 1h0m0s ago, less than 3h0m0s",
		"of the next cycle": "its turn comes in a later cycle, each removes 3", "runs": "it is running", "unclear": "the engine does not say when it ended",
		"never ran": "it was made and never ran; no task is behind it, and that was 55h0m0s ago",
	} {
		if why[id] != reason {
			t.Errorf("%s: %q, want %q", id, why[id], reason)
		}
	}
}

// others are containers of others; one that moves runs again before it is removed.
type others struct {
	list    []imagecache.Container
	removed []string
	moves   string
}

func (o *others) Foreign(context.Context, int) ([]imagecache.Container, error) {
	if o.list == nil {
		return nil, errors.New("the engine does not answer")
	}
	return o.list, nil
}

func (o *others) RemoveForeign(_ context.Context, c imagecache.Container) error {
	if c.ID == o.moves {
		return errors.New("it is running now")
	}
	o.removed = append(o.removed, c.ID)
	return nil
}

func TestContainersOfOthersAreLeftAloneUnlessThatIsAskedFor(t *testing.T) {
	list := []imagecache.Container{
		{ID: "old", Name: "old", Status: "exited", Ended: time.Now().Add(-4 * time.Hour)},
		{ID: "again", Name: "again", Status: "exited", Ended: time.Now().Add(-5 * time.Hour)},
		{ID: "young", Name: "young", Status: "exited", Ended: time.Now()},
	}
	for name, c := range map[string]struct {
		foreign, dryRun bool
		list            []imagecache.Container
		removed         string
		failures        int
	}{
		"not asked for":        {false, false, list, "", 0},
		"asked what would be":  {true, true, list, "", 0},
		"asked for":            {true, false, list, "old", 1},
		"an engine that hangs": {true, false, nil, "", 1},
	} {
		t.Run(name, func(t *testing.T) {
			o := &others{list: c.list, moves: "again"}
			cache, err := imagecache.New(&host{}, imagecache.Config{Collection: imagecache.Collection{
				Store: &host{}, Containers: o, Rules: imagecache.Rules{Foreign: c.foreign, ContainerAge: 3 * time.Hour, ContainersPerCycle: 5, PerCycle: 5},
			}})
			if err != nil {
				t.Fatal(err)
			}
			report, err := cache.Collect(t.Context(), c.dryRun)
			if err != nil || strings.Join(o.removed, " ") != c.removed || len(report.Failures) != c.failures {
				t.Errorf("removed %q, %q failed, %v", o.removed, report.Failures, err)
			}
			if want := map[bool]int{true: len(c.list)}[c.foreign]; len(report.Containers) != want {
				t.Errorf("%d containers are judged, want %d", len(report.Containers), want)
			}
			for _, v := range report.Containers {
				if goes := v.ID == "old" || v.ID == "again" && c.dryRun; v.Delete != goes {
					t.Errorf("%+v", v)
				}
			}
		})
	}
}
