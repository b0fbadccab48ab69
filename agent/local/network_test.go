package local

import (
	"testing"

	"github.com/longshore-project/longshore/netns"
)

func TestEachStateOfATasksNetworkHasARemedy(t *testing.T) {
	for _, kind := range []netns.Kind{netns.CardMissing, netns.ParentMissing, netns.ParentDown, netns.ParentBusy, netns.NameTaken, netns.AddressConflict, netns.RulesMissing, netns.RulesFailed, netns.Unsupported} {
		e := &Explanation{State: "PENDING", Waits: []string{"the task's network: " + (&netns.Fault{Kind: kind, Detail: "permission not found"}).Error()}}
		if got := advice(e); len(got) != 1 || got[0] != remedy(string(kind)+":") {
			t.Errorf("%s: %q", kind, got)
		}
	}
}
