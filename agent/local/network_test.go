package local

import (
	"testing"

	"github.com/longshore-project/longshore/engine"
	"github.com/longshore-project/longshore/internal/remedy"
	"github.com/longshore-project/longshore/netns"
)

func TestEachStateOfATasksNetworkHasARemedy(t *testing.T) {
	for _, kind := range []netns.Kind{netns.CardMissing, netns.ParentMissing, netns.ParentDown, netns.ParentBusy, netns.NameTaken, netns.AddressConflict, netns.RulesMissing, netns.RulesFailed, netns.Unsupported} {
		e := Explain(&engine.TaskStatus{Desired: "RUNNING", Waits: []string{"the task's network: " + (&netns.Fault{Kind: kind, Detail: "permission not found"}).Error()}}, t0)
		if want := remedy.Of(string(kind) + ":"); len(e.Advice) != 1 || e.Advice[0] != want.Do || e.Meaning[0] != want.Means {
			t.Errorf("%s: %q", kind, e.Advice)
		}
	}
}
